//! The running image: a private copy of the uploaded executable. So the uploaded file can be overwritten while the copy
//! runs (writing to a running executable fails with ETXTBSY), and a new one can be tested before it replaces this one.
//! With `private_copy = false` it is the uploaded file itself.

use crate::bytes::{fnv, fnv_more, hash_long};
use crate::rundir::{Entry, RuntimeDir, is_at};
use crate::sys::procfs;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, Pid, access};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

/// A file that changed this long ago gets another time when it changes again: clocks of file systems tick.
const SETTLED: Duration = Duration::from_secs(2);

/// A copy of the executable, independent of the file that was copied. If no copy is wanted or can be made, the uploaded
/// file itself.
#[derive(Debug, Default)]
pub struct Image {
    /// Its path. None: it is in `memory`.
    pub path: Option<PathBuf>,
    /// The lock that protects the copy from sweeps.
    pub lock: Option<OwnedFd>,
    /// An unnamed copy (memfd), where the runtime directory is mounted noexec or is full.
    pub memory: Option<OwnedFd>,
}

/// Checks the executable at `original`, and copies it if `private_copy`. It must be an executable ELF file that only its
/// owner can write; its group may, too, if we or root own it. Any owner is accepted: we run as that owner's program
/// already.
pub fn stage(original: &Path, dir: Option<&RuntimeDir>, private_copy: bool) -> io::Result<Image> {
    let (mut file, stamp) = open_checked(original)?;
    let in_place = Image {
        path: Some(original.to_owned()),
        ..Image::default()
    };
    if !private_copy {
        return Ok(in_place);
    }
    let dir = dir.filter(|dir| dir.allows_exec());
    let of_stamp = dir.map(|dir| dir.file(Entry::CopyOf(stamp)));
    if let Some(path) = &of_stamp
        && let Some(image) = shared(path)?
    {
        return Ok(image);
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    if let Some(dir) = dir
        && let Ok(image) = copy_to(dir, &content)
    {
        if let (Some(copy), Some(path)) = (&image.path, of_stamp)
            && is_settled(&file, stamp)
        {
            // The next process need not read it.
            let _ = fs::hard_link(copy, path);
        }
        return Ok(image);
    }
    match copy_to_memory(&content) {
        Ok(memory) => Ok(Image {
            memory: Some(memory),
            ..Image::default()
        }),
        Err(_) => Ok(in_place),
    }
}

impl Image {
    /// A path through which this process and its children can execute it.
    pub fn exec_path(&self) -> Option<PathBuf> {
        match (&self.path, &self.memory) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(memory)) => Some(procfs::path_through(memory)),
            (None, None) => None,
        }
    }

    /// Starts a self-test of it, which exits with status 0 if it runs. The caller reaps the process.
    pub fn test(&self) -> io::Result<Pid> {
        let path = self
            .exec_path()
            .ok_or_else(|| io::Error::other("there is nothing to test"))?;
        let mut command = Command::new(path);
        command
            .arg("internal-self-test")
            .env_clear()
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn()?;
        Ok(Pid::from_raw(child.id() as i32))
    }
}

/// The executable, at its start, and its stamp.
fn open_checked(original: &Path) -> io::Result<(File, u64)> {
    let file = File::open(original)?;
    let meta = file.metadata()?;
    let refuse = |why: &str| Err(io::Error::other(format!("{} {why}", original.display())));
    if !meta.is_file() {
        return refuse("is not a file");
    }
    if meta.mode() & 0o002 != 0 {
        return refuse("may be written by anyone (chmod 755 it)");
    }
    let (owner, us) = (meta.uid(), nix::unistd::geteuid().as_raw());
    if owner != us && owner != 0 && meta.mode() & 0o020 != 0 {
        return refuse("may be written by another user's group (chmod 755 it)");
    }
    if access(original, AccessFlags::X_OK).is_err() {
        return refuse("is not executable (chmod 755 it)");
    }
    let mut begin = [0; 4];
    if file.read_at(&mut begin, 0)? < 4 || begin != *b"\x7fELF" {
        return refuse("is not an executable (was it uploaded as text?)");
    }
    Ok((file, stamp(&meta)))
}

/// What changes with the content of a file.
fn stamp(meta: &Metadata) -> u64 {
    let place = [meta.dev(), meta.ino(), meta.size()];
    let times = [
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ];
    let numbers = place.into_iter().chain(times.map(i64::cast_unsigned));
    numbers.fold(fnv(b""), |hash, number| {
        fnv_more(hash, &number.to_be_bytes())
    })
}

/// Whether this was the stamp long enough for another content to have another one.
fn is_settled(file: &File, before: u64) -> bool {
    let Ok(meta) = file.metadata() else {
        return false;
    };
    let changed = UNIX_EPOCH + Duration::from_secs(meta.ctime().unsigned_abs());
    stamp(&meta) == before && changed.elapsed().is_ok_and(|age| age > SETTLED)
}

/// The copy at this path, protected from sweeps. None: there is none.
fn shared(path: &Path) -> io::Result<Option<Image>> {
    let Ok(file) = File::open(path) else {
        return Ok(None);
    };
    file.lock_shared()?;
    Ok(is_at(&file, path).then(|| Image {
        path: Some(path.to_owned()),
        lock: Some(file.into()),
        memory: None,
    }))
}

/// Copies to a file named after its hash, so that all processes of one version share one copy and its memory pages.
fn copy_to(dir: &RuntimeDir, content: &[u8]) -> io::Result<Image> {
    let hash = hash_long(content);
    let path = dir.file(Entry::Copy(hash));
    for _ in 0..8 {
        if let Some(image) = shared(&path)? {
            return Ok(image);
        }
        let temporary = dir.file(Entry::NewCopy);
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&temporary)?;
        // Locked, so that no sweep removes it.
        file.lock()?;
        let written = file.write_all(content);
        let named = written.and_then(|()| link_into_place(&temporary, &path));
        drop(file);
        let _ = fs::remove_file(&temporary);
        named?;
    }
    Err(io::Error::other(format!(
        "{} keeps disappearing",
        path.display()
    )))
}

/// Gives the file its name, unless another process was faster: a second copy would take memory twice.
fn link_into_place(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::rename(temporary, path), // a file system without links
        Ok(()) => Ok(()),
    }
}

fn copy_to_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"runfcgi", MFdFlags::empty())?;
    let mut file = File::from(memory);
    file.write_all(content)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::chown;

    #[test]
    fn only_a_safe_executable_is_copied() {
        let dir = Scratch::new("image");
        let refused = |bytes: &str, mode, owner: Option<u32>| {
            let path = dir.write("a.fcgi", bytes, mode);
            if nix::unistd::geteuid().is_root() {
                chown(&path, owner, None).unwrap();
            } else if owner.is_some() {
                return None;
            }
            Some(open_checked(&path).err().map(|error| error.to_string()))
        };
        let elf = "\x7fELF and so on";
        for (bytes, mode, owner, want) in [
            (elf, 0o755, None, ""),
            (elf, 0o775, None, ""),
            (elf, 0o757, None, "by anyone"),
            (elf, 0o644, None, "not executable"),
            ("#!/bin/sh", 0o755, None, "uploaded as text"),
            (elf, 0o755, Some(4321), ""),
            (elf, 0o775, Some(4321), "another user's group"),
        ] {
            match refused(bytes, mode, owner) {
                None => (), // only root can change the owner
                Some(None) => assert_eq!(want, "", "{mode:o} {owner:?}"),
                Some(Some(why)) => assert!(!want.is_empty() && why.contains(want), "{why}"),
            }
        }
    }

    #[test]
    fn one_copy_has_two_names_and_goes_with_its_last_user() {
        let scratch = Scratch::new("image-names");
        scratch.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
        let old = fs::canonicalize("/bin/true").unwrap();
        let images = [(); 2].map(|()| stage(&old, Some(&dir), true).unwrap());
        let paths = images.each_ref().map(|image| image.path.clone().unwrap());
        let inodes = paths
            .each_ref()
            .map(|path| fs::metadata(path).unwrap().ino());
        assert_ne!(paths[0], paths[1], "the second one was found by its stamp");
        assert_eq!(inodes[0], inodes[1]);
        assert_eq!(fs::read(&paths[1]).unwrap(), fs::read(&old).unwrap());
        let [first, second] = images;
        drop(first);
        dir.sweep();
        assert!(paths.iter().all(|path| path.exists()));
        drop(second);
        dir.sweep();
        assert!(!paths.iter().any(|path| path.exists()));
    }

    #[test]
    fn an_executable_that_may_still_change_is_read_again() {
        let scratch = Scratch::new("image-fresh");
        scratch.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
        let staged = |bytes| {
            let path = scratch.write("a.fcgi", bytes, 0o755);
            let image = stage(&path, Some(&dir), true).unwrap();
            let copy = image.path.as_deref().unwrap();
            (
                fs::read(copy).unwrap(),
                copy.with_file_name("").read_dir().unwrap().count(),
            )
        };
        assert_eq!(staged("\x7fELF one"), (b"\x7fELF one".to_vec(), 2));
        assert_eq!(staged("\x7fELF two"), (b"\x7fELF two".to_vec(), 3));
    }
}
