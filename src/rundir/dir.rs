//! `RuntimeDir`: finds or creates the directory, checks that it is private and has room, and cleans it up.

use super::{AGED, DIRECTORY, Entry, KEPT, READY, SWEPT, site, version_of};
use crate::config::limits::SOCKET_PATH;
use crate::pairs::Pairs;
use crate::sys::limits::is_shortage;
use crate::sys::procfs;
use crate::sys::users::User;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `statfs` types of network file systems, where sockets and locks do not work or are shared between machines.
const REMOTE: [i64; 7] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x5346_414f,
    0x6b41_4653,
    0x0187_7fff,
];

/// The places for runtime directories, tried in this order.
pub const BASES: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];

/// The bytes that must fit into a runtime directory.
const PAGE: usize = 4096;

/// The runtime directory of a site.
#[derive(Clone, Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    /// The places before it whose names other users have taken.
    taken: String,
}

impl RuntimeDir {
    /// Finds or creates the directory of the site with this identity: `named` if given, otherwise a directory in the first
    /// of `BASES` and our home that works. `beside` is the directory of the executable. The error lists why each was
    /// refused.
    pub fn open(named: Option<&Path>, beside: &Path, identity: &[u8]) -> io::Result<RuntimeDir> {
        let us = nix::unistd::geteuid().as_raw();
        let name = format!("{DIRECTORY}{us}-{}", site(identity));
        let home = match named {
            Some(_) => None,
            None => in_home(beside),
        };
        let candidates: Vec<PathBuf> = match named {
            Some(path) => vec![path.to_owned()],
            None => {
                let bases = BASES.iter().map(Path::new);
                let bases = bases.chain(home.as_deref());
                bases.map(|base| base.join(&name)).collect()
            }
        };
        let (mut refusals, mut taken) = (String::new(), String::new());
        for path in candidates {
            if let Some(home) = home.as_deref().filter(|home| path.starts_with(home)) {
                let _ = fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(home);
            }
            match make_writable(&path) {
                Ok(()) => return Ok(RuntimeDir { path, taken }),
                Err(error) => {
                    let refusal = format!("; {}: {error}", path.display());
                    refusals.push_str(&refusal);
                    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.uid() != us) {
                        taken.push_str(&refusal);
                    }
                }
            }
        }
        Err(io::Error::other(format!(
            "no runtime directory{refusals}; name a local one of your own in [server] runtime_dir"
        )))
    }

    /// The directory that another process has opened.
    pub fn of(path: &Path) -> RuntimeDir {
        RuntimeDir {
            path: path.to_owned(),
            taken: String::new(),
        }
    }

    /// Says which places before it other users have taken. None: none.
    pub fn squatted(&self) -> Option<String> {
        let taken = self.taken.strip_prefix("; ")?;
        let path = self.path.display();
        Some(format!(
            "another user has taken the name of the runtime directory: {taken}; {path} is used"
        ))
    }

    /// Creates it again, after the last process of the site has removed it.
    pub fn recreate(&self) -> io::Result<()> {
        make_private(&self.path).map(|_| ())
    }

    /// Checks that a page can be written there now.
    pub fn has_room(&self) -> io::Result<()> {
        write_a_page(&self.path).map_err(at(&self.path))
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, entry: Entry<'_>) -> PathBuf {
        self.path.join(entry.to_string())
    }

    /// Adds the file names that the preloader of this version needs to `setup`.
    pub fn put_names(&self, version: &str, setup: &mut Pairs) {
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
        put(
            "aged",
            AGED.map(|(entry, _)| entry.to_string())
                .join(" ")
                .as_bytes(),
        );
        put("ready", READY.as_bytes());
    }

    /// A path for binding or connecting the socket of this version, short enough even if the directory's path is not. It
    /// is valid until the second value is dropped.
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

    /// Whether its file system is mounted without `noexec`.
    pub fn allows_exec(&self) -> bool {
        nix::sys::statvfs::statvfs(&self.path)
            .is_ok_and(|fs| !fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC))
    }

    /// Removes the files of versions, executables, fronts and tasks that are no longer in use, and expired files.
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
        for (entry, seconds) in AGED {
            let path = self.file(entry);
            if is_older(&path, seconds) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Sweeps. The last process of the site also removes everything except the files that the owner may still want to
    /// read, and the directory if it is then empty.
    pub fn leave(&self) {
        self.sweep();
        let kept = KEPT.map(|entry| self.file(entry));
        let aged = AGED.map(|(entry, _)| self.file(entry));
        let is_last = fs::read_dir(&self.path).is_ok_and(|entries| {
            let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
            paths.all(|path| kept.contains(&path) || aged.contains(&path))
        });
        if is_last {
            for path in kept {
                let _ = fs::remove_file(path);
            }
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// The place in our home for runtime directories, after `BASES`. None: there is no home of ours, or visitors may get at what
/// is there. `beside` is the directory of the executable, which visitors do get at.
pub fn in_home(beside: &Path) -> Option<PathBuf> {
    let us = nix::unistd::geteuid().as_raw();
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = match home {
        Some(home) => home.into(),
        None => User::with_id(us)?.home.into(),
    };
    let is_ours = |dir: &Path| fs::metadata(dir).is_ok_and(|meta| meta.uid() == us);
    let home: PathBuf = fs::canonicalize::<PathBuf>(home)
        .ok()
        .filter(|home| is_ours(home))?;
    let roots = [Some(beside.into()), std::env::var_os("DOCUMENT_ROOT")];
    let mut roots = roots
        .into_iter()
        .flatten()
        .filter_map(|root| fs::canonicalize(root).ok());
    let is_served = roots.any(|root| home.starts_with(root)) || home.join(".htaccess").exists();
    (!is_served).then(|| home.join(".cache/runfcgi"))
}

fn is_older(path: &Path, seconds: u64) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() > seconds))
}

/// Removes a file and its companions, unless a process holds a lock on it.
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

/// Whether `path` still names the open file.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => held.ino() == there.ino() && held.dev() == there.dev(),
        _ => false,
    }
}

/// Creates the directory if needed, and checks that it is private and writable: `mkdir` works on a full file system, too.
fn make_writable(path: &Path) -> io::Result<()> {
    let made = make_private(path)?;
    write_a_page(path).inspect_err(|_| {
        if made {
            let _ = fs::remove_dir(path);
        }
    })
}

/// Creates the directory if needed, and checks that it is ours alone and local. True: it was created.
fn make_private(path: &Path) -> io::Result<bool> {
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

/// Writes a page to a temporary file, so that the file system must find room for it.
fn write_a_page(dir: &Path) -> io::Result<()> {
    let path = dir.join(Entry::Probe.to_string());
    let _ = fs::remove_file(&path);
    let mut file = create(&path)?;
    match fs::remove_file(&path) {
        // A sweep by another process may have removed it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => file.write_all(&[1; PAGE]),
    }
}

/// Adds the path to an error, and keeps its kind. A shortage is not about the path.
pub fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| match is_shortage(&error) {
        true => error,
        false => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
    }
}

/// Whether the error means that the file system is full or read-only.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem
    )
}

/// Replaces a file atomically. Only our user can read the new one (mode 600).
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

/// Opens a plain file; a new one only our user can read (mode 600). Never blocks, whatever is at the path.
pub fn open_plain(options: &mut fs::OpenOptions, path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let file = options.mode(0o600).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a plain file")),
    }
}

/// Creates a file that only our user can read (mode 600).
fn create(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}
