//! `RuntimeDir`: finding or making the directory, seeing to it that it is ours and has room, and clearing it up.

use super::{DIRECTORY, Entry, KEPT, READY, SWEPT, site, version_of};
use crate::config::limits::SOCKET_PATH;
use crate::pairs::Pairs;
use crate::sys::procfs;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// File systems on which sockets and locks of several machines would meet, or do not work.
const REMOTE: [i64; 7] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x5346_414f,
    0x6b41_4653,
    0x0187_7fff,
];

/// Where a runtime directory may lie that is not named.
pub const BASES: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];

/// What must find room in a runtime directory.
const PAGE: usize = 4096;

/// The runtime directory of a site.
#[derive(Clone, Debug)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// Finds or makes the directory of the site that `identity` names: `named` if given, else in the first of
    /// `BASES` and `beside` that allows it.
    pub fn open(named: Option<&Path>, beside: &Path, identity: &[u8]) -> io::Result<RuntimeDir> {
        let name = format!("{DIRECTORY}{}-{}", nix::unistd::geteuid(), site(identity));
        let candidates: Vec<PathBuf> = match named {
            Some(path) => vec![path.to_owned()],
            None => BASES
                .iter()
                .map(|base| Path::new(base).join(&name))
                .chain([beside.join(format!(".{name}"))])
                .collect(),
        };
        let mut refusals = String::new();
        for path in candidates {
            match take(&path) {
                Ok(()) => return Ok(RuntimeDir { path }),
                Err(error) => refusals.push_str(&format!("; {}: {error}", path.display())),
            }
        }
        Err(io::Error::other(format!(
            "no runtime directory{refusals}; name a local one of your own in [server] runtime_dir"
        )))
    }

    /// Makes it once more, after somebody who was the last has removed it.
    pub fn make_again(&self) -> io::Result<()> {
        own(&self.path).map(|_| ())
    }

    /// Whether something can be written there now.
    pub fn has_room(&self) -> io::Result<()> {
        write_a_page(&self.path).map_err(at(&self.path))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, entry: Entry<'_>) -> PathBuf {
        self.path.join(entry.to_string())
    }

    /// Tells the preloader of this version all names that it needs.
    pub fn tell(&self, version: &str, setup: &mut Pairs) {
        let mut put = |name: &str, value: &[u8]| setup.push(name.as_bytes(), value);
        put("version", version.as_bytes());
        for (name, entry) in [
            ("socket", Entry::Socket(version)),
            ("lock", Entry::Lock(version)),
            ("good_file", Entry::Good),
            ("open_file", Entry::Open),
        ] {
            put(name, self.file(entry).as_os_str().as_encoded_bytes());
        }
        put("swept", SWEPT.join(" ").as_bytes());
        put(
            "kept",
            KEPT.map(|entry| entry.to_string()).join(" ").as_bytes(),
        );
        put("ready", READY.as_bytes());
    }

    /// A path by which the socket of this version can be bound or connected to, however long the directory's own path
    /// is. The second value keeps it valid.
    pub fn socket(&self, version: &str) -> io::Result<(PathBuf, Option<File>)> {
        let entry = Entry::Socket(version);
        let path = self.file(entry);
        if path.as_os_str().len() <= SOCKET_PATH {
            return Ok((path, None));
        }
        let dir = File::open(&self.path)?;
        Ok((
            procfs::path_through(&dir).join(entry.to_string()),
            Some(dir),
        ))
    }

    /// Whether programs may be executed from it.
    pub fn allows_exec(&self) -> bool {
        nix::sys::statvfs::statvfs(&self.path)
            .is_ok_and(|fs| !fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC))
    }

    /// Removes what versions and executables that nothing uses any more have left.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(version) = version_of(name) {
                remove_unused(&entry.path(), &[self.file(Entry::Socket(version))]);
            } else if SWEPT.iter().any(|begin| name.starts_with(begin)) {
                remove_unused(&entry.path(), &[]);
            }
        }
    }

    /// Leaves: sweeps, and removes the directory when nothing is left in it.
    pub fn leave(&self) {
        self.sweep();
        let kept = KEPT.map(|entry| self.file(entry));
        let is_last = fs::read_dir(&self.path).is_ok_and(|entries| {
            let mut entries = entries.filter_map(Result::ok);
            entries.all(|entry| kept.contains(&entry.path()))
        });
        if is_last {
            for path in kept {
                let _ = fs::remove_file(path);
            }
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes a lockable file, and its companions, when nobody holds a lock on it.
fn remove_unused(path: &Path, companions: &[PathBuf]) {
    let Ok(file) = File::open(path) else { return };
    if file.try_lock().is_err() {
        return;
    }
    if is_at(&file, path) {
        for companion in companions {
            let _ = fs::remove_file(companion);
        }
        let _ = fs::remove_file(path);
    }
}

/// Whether an open file is still the one at `path`.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => held.ino() == there.ino() && held.dev() == there.dev(),
        _ => false,
    }
}

/// Makes a directory ours, if that is not refused and something can be written there: in a full file system a directory
/// can still be made.
fn take(path: &Path) -> io::Result<()> {
    let made = own(path)?;
    write_a_page(path).inspect_err(|_| {
        if made {
            let _ = fs::remove_dir(path);
        }
    })
}

/// Whether it has made the directory.
fn own(path: &Path) -> io::Result<bool> {
    let made = match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        made => made.is_ok(),
    };
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other("not a directory of ours"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(io::Error::other("open to others (chmod 700 it)"));
    }
    let kind = nix::sys::statfs::statfs(path)?.filesystem_type().0;
    if REMOTE.contains(&kind) {
        return Err(io::Error::other("on a network file system"));
    }
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECTORY)
        .open(path)?;
    Ok(made)
}

/// Has the file system find room for it really, and leaves nothing behind.
fn write_a_page(dir: &Path) -> io::Result<()> {
    let path = dir.join(Entry::Probe.to_string());
    let _ = fs::remove_file(&path);
    let mut file = create(&path)?;
    match fs::remove_file(&path) {
        // Another process that sweeps was faster.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => file.write_all(&[1; PAGE]),
    }
}

/// Names the place in an error, whose kind stays.
pub fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Whether nothing can be written, for whatever reason.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem
    )
}

/// Writes a file that nobody else may read, in one step for those who read it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let _ = fs::remove_file(&new);
    let written = create(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// A new file that nobody else may read.
fn create(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}
