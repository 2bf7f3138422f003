//! The runtime directory: where the processes of one site find each other, and where the running copy of the
//! executable lies. One per site, user and machine; ours alone; on a local file system.

use crate::config::limits::SOCKET_PATH;
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
        let name = format!("runfcgi-{}-{:016x}", nix::unistd::geteuid(), fnv(identity));
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
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A path by which a socket in the directory can be bound or connected to, however long the directory's own path
    /// is. The second value keeps it valid.
    pub fn socket(&self, name: &str) -> io::Result<(PathBuf, Option<File>)> {
        let path = self.file(name);
        if path.as_os_str().len() <= SOCKET_PATH {
            return Ok((path, None));
        }
        let dir = File::open(&self.path)?;
        Ok((procfs::path_through(&dir).join(name), Some(dir)))
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
            if let Some(version) = name.strip_suffix(".lock") {
                remove_unused(&entry.path(), &[self.file(&format!("{version}.sock"))]);
            } else if name.starts_with("exe-") || name.starts_with("front-") {
                remove_unused(&entry.path(), &[]);
            }
        }
    }

    /// Leaves: sweeps, and removes the directory when nothing is left in it.
    pub fn leave(&self) {
        self.sweep();
        let pointer_only = fs::read_dir(&self.path).is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .all(|e| KEPT.iter().any(|k| e.file_name() == *k))
        });
        if pointer_only {
            for name in KEPT {
                let _ = fs::remove_file(self.file(name));
            }
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Files without a lock of their own: they go with the last process.
const KEPT: [&str; 6] = ["good", "open", "python", "reload", "turn", "want"];

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
pub fn write_a_page(dir: &Path) -> io::Result<()> {
    // A name that would be swept.
    let path = dir.join(format!("exe-probe-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(&[1; PAGE])
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

/// A new file that nobody else may read.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, content)
}

/// FNV-1a, 64 bits: names files by what they depend on; not a defence against anyone.
pub fn fnv(bytes: &[u8]) -> u64 {
    fnv_more(0xcbf2_9ce4_8422_2325, bytes)
}

/// Goes on with `hash`.
pub fn fnv_more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}
