//! The election that makes sure there is just one preloader for a code version: who finds none starts it.
//!
//! Never blocks. What the lock stands for: see `preloader`.

use super::import::{self, Import};
use super::spawn::{self, Outputs, Start};
use super::wire;
use crate::rundir::{Entry, RuntimeDir, at, is_at};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// Fronts that wait in the backlog while the app is imported.
const BACKLOG: i32 = 128;
/// How long the reason is believed that another front has left: less than the pause before the next try.
const BELIEVED: Duration = Duration::from_secs(4);

/// What an election comes to.
pub(super) enum Elected {
    /// Nothing yet.
    Nobody,
    /// There is a preloader.
    Connected(OwnedFd),
    /// We have started one.
    Started(OwnedFd, Import),
    /// The last one could not import the app, a moment ago.
    Told(String),
}

/// Connect; else take the lock; connect once more; else listen and start Python.
pub(super) fn elect(
    version: &str,
    only_connect: bool,
    dir: &RuntimeDir,
    start: Start<'_>,
) -> io::Result<Elected> {
    let lock_path = dir.file(Entry::Lock(version));
    if let Some(stream) = connect(dir, version)? {
        return Ok(Elected::Connected(stream));
    }
    if only_connect {
        return Ok(Elected::Nobody);
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path);
    let lock = match opened {
        // A preloader that leaves has just taken its directory along.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            dir.make_again()?;
            return Ok(Elected::Nobody);
        }
        other => other.map_err(at(&lock_path))?,
    };
    if lock.try_lock().is_err() || !is_at(&lock, &lock_path) {
        return Ok(Elected::Nobody);
    }
    if let Some(stream) = connect(dir, version)? {
        return Ok(Elected::Connected(stream));
    }
    if let Some(reason) = import::told(&lock, BELIEVED) {
        return Ok(Elected::Told(reason));
    }
    // Whoever held it before is not the one that the others are to find.
    lock.set_len(0)?;
    dir.sweep();
    let listener = listen(dir, version).map_err(at(dir.path()))?;
    let threads = super::threads(start.config);
    let mut setup = spawn::setup(start, "preloader", threads, true);
    dir.tell(version, &mut setup);
    let stderr = nameless(&dir.file(Entry::Errors(version)))?;
    let mut kept = vec![stderr.try_clone()?];
    let stdout = match start.outlog {
        true => nameless(&dir.file(Entry::Output(version)))?,
        false => stderr.try_clone()?,
    };
    if start.outlog {
        kept.insert(0, stdout.try_clone()?);
    }
    let descriptors = [listener.as_raw_fd(), lock.as_raw_fd()];
    let outputs = Outputs { stdout, stderr };
    let (control, pid) = spawn::start(start, &setup, &descriptors, outputs, wire::FAILED)?;
    let import = Import::new(pid, lock, dir.clone(), lock_path, kept);
    Ok(Elected::Started(control, import))
}

/// A file that goes with the last that has it open.
fn nameless(path: &std::path::Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))?;
    fs::remove_file(path)?;
    Ok(file)
}

/// `None` when nobody listens there, or not for us.
fn connect(dir: &RuntimeDir, version: &str) -> io::Result<Option<OwnedFd>> {
    let (path, _kept) = dir.socket(version)?;
    let stream = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    if socket::connect(stream.as_raw_fd(), &UnixAddr::new(&path)?).is_err() {
        return Ok(None);
    }
    let peer = socket::getsockopt(&stream, socket::sockopt::PeerCredentials)?;
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "{} belongs to another user",
            path.display()
        )));
    }
    Ok(Some(stream))
}

/// Listens for the fronts of this version; only who holds its lock may.
pub(super) fn listen(dir: &RuntimeDir, version: &str) -> io::Result<OwnedFd> {
    let (path, _kept) = dir.socket(version)?;
    let _ = fs::remove_file(dir.file(Entry::Socket(version)));
    let listener = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
    socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}
