//! The election: one front at a time may start the preloader of a code version, and only if there is none.
//!
//! Never blocks. For the meaning of the lock see `preloader`.

use super::context::LaunchContext;
use super::import::{self, Import};
use super::spawn::{self, Outputs};
use super::wire;
use crate::config::{Config, Method};
use crate::pairs::Pairs;
use crate::rundir::{Entry, RuntimeDir, at, is_at};
use crate::sys::limits::memory_groups;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// Fronts that can wait in the backlog during the import.
const BACKLOG: i32 = 128;
/// How long a published failure counts: less than the pause before the next try.
const FAILURE_COUNTS: Duration = Duration::from_secs(4);

/// The outcome of an election.
pub(super) enum Elected {
    /// Nothing yet.
    Nobody,
    /// There is a preloader.
    Connected(OwnedFd),
    /// We have started one.
    Started(OwnedFd, Import),
    /// The last one could not import the app, a moment ago.
    Failed(String),
}

/// Connects; else takes the lock, tries to connect once more, and, if it `may_start` one, listens and starts Python.
pub(super) fn elect(
    version: &str,
    may_start: bool,
    dir: &RuntimeDir,
    context: &LaunchContext,
    config: &Config,
) -> io::Result<Elected> {
    let lock_path = dir.file(Entry::Lock(version));
    if let Some(stream) = connect(dir, version)? {
        return Ok(Elected::Connected(stream));
    }
    if !may_start {
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
        // A preloader that exits has just removed the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            dir.recreate()?;
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
    if let Some(reason) = import::published(&lock, FAILURE_COUNTS) {
        return Ok(Elected::Failed(reason));
    }
    // The pid in it is the previous holder's.
    lock.set_len(0)?;
    dir.sweep();
    let listener = listen(dir, version).map_err(at(dir.path()))?;
    let threads = super::threads(config);
    let mut setup = spawn::setup(config, context.outlog, "preloader", threads);
    dir.put_names(version, &mut setup);
    let preload = if config.server.preload { b"1" } else { b"0" };
    setup.push(b"preload", preload);
    put_bounds(config, &mut setup);
    let stderr = nameless(&dir.file(Entry::Errors(version)))?;
    let mut copies = vec![stderr.try_clone()?];
    let stdout = match context.outlog {
        true => nameless(&dir.file(Entry::Output(version)))?,
        false => stderr.try_clone()?,
    };
    if context.outlog {
        copies.insert(0, stdout.try_clone()?);
    }
    let descriptors = [listener.as_raw_fd(), lock.as_raw_fd()];
    let outputs = Outputs { stdout, stderr };
    let (control, pid) =
        spawn::start(context, config, &setup, &descriptors, outputs, wire::FAILED)?;
    let import = Import::new(pid, lock, dir.clone(), lock_path, copies);
    Ok(Elected::Started(control, import))
}

/// Adds what the preloader needs to know in order to bound the workers of the site.
fn put_bounds(config: &Config, setup: &mut Pairs) {
    if let (Method::Prefork, Some(most)) = (config.server.method, config.server.maxchildren) {
        setup.push(b"maxchildren", most.to_string().as_bytes());
    }
    let groups = memory_groups().into_iter();
    let lines = groups.map(|files| files.map(|file| file.display().to_string()).join("\t"));
    setup.push(b"memory", lines.collect::<Vec<_>>().join("\n").as_bytes());
}

/// An unlinked file: it vanishes when it is closed.
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

/// `None` if nobody listens there.
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

/// Listens for the fronts of this version. The caller must hold its lock.
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
