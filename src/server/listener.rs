//! `Listener`: a listening socket: fd 0 from the web server, or one that we bind ourselves.

use crate::config::Protocol;
use crate::poller::{Poller, Token, Watched};
use crate::sys::fd;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{self, SockaddrStorage};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long accepting pauses when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(500);

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The path to remove when it is given up, and what it was.
    path: Option<(PathBuf, Option<(u64, u64)>)>,
    /// Bound by ourselves: nobody else listens when we leave.
    pub ours: bool,
    shut: bool,
    /// Clients that may connect over TCP; None: any.
    pub allowed: Option<Vec<IpAddr>>,
    /// A TCP socket.
    pub tcp: bool,
    watched: Watched,
}

/// What came of an accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, non-blocking.
    Connection(OwnedFd),
    /// A client that may not connect; it was closed.
    Refused(String),
    /// Nobody waits.
    Nobody,
    /// The socket takes no more connections (shut down).
    Ended,
    /// Descriptors or memory have run out: pause.
    Exhausted(io::Error),
}

/// The listening sockets of a server.
#[derive(Debug)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// Accepting is paused until then.
    paused: Option<Instant>,
}

impl Listeners {
    pub(super) fn new(all: Vec<Listener>) -> Listeners {
        Listeners { all, paused: None }
    }

    /// One of them.
    pub(super) fn get(&self, number: usize) -> Option<&Listener> {
        self.all.get(number)
    }

    /// What is spoken on one of them.
    pub(super) fn protocol(&self, number: usize) -> Protocol {
        self.get(number).map_or(Protocol::Fcgi, |l| l.protocol)
    }

    /// Has epoll watch for connections, or not.
    pub(super) fn watch(&mut self, poller: &Poller, wanted: bool) -> io::Result<()> {
        let wanted = wanted && self.paused.is_none();
        for (number, listener) in self.all.iter_mut().enumerate() {
            listener.watch(poller, number, wanted && !listener.shut)?;
        }
        Ok(())
    }

    /// Descriptors or memory have run out: none is accepted for a while.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused = Some(now + EXHAUSTED_PAUSE);
    }

    /// When a pause ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused
    }

    /// Whether a pause has ended.
    pub(super) fn on_time(&mut self, now: Instant) -> bool {
        self.paused.take_if(|at| *at <= now).is_some()
    }

    /// Those who come from now on are for others. `shut`: also at sockets that are not ours.
    pub(super) fn withdraw(&mut self, shut: bool) {
        for listener in &mut self.all {
            if listener.ours {
                listener.withdraw();
            } else if shut {
                listener.shut();
            }
        }
    }

    /// Takes one connection of those that wait, with the number of its listener.
    pub(super) fn accept_any(&self) -> Option<(OwnedFd, usize)> {
        let accept = |(number, listener): (usize, &Listener)| match listener.accept() {
            Accepted::Connection(socket) => Some((socket, number)),
            _ => None,
        };
        self.all.iter().enumerate().find_map(accept)
    }

    /// Gives them up, for the image that comes after this one.
    pub(super) fn hand_over(&mut self) -> Vec<OwnedFd> {
        let all = self.all.drain(..);
        all.map(|listener| listener.fd).collect()
    }
}

impl Listener {
    /// Takes over a listening socket and makes it non-blocking.
    pub fn new(fd: OwnedFd, protocol: Protocol, path: Option<PathBuf>) -> io::Result<Listener> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let name: SockaddrStorage = socket::getsockname(fd.as_raw_fd())?;
        let tcp = name.as_sockaddr_in().is_some() || name.as_sockaddr_in6().is_some();
        Ok(Listener {
            fd,
            protocol,
            path: path.map(|path| {
                let inode = inode(&path);
                (path, inode)
            }),
            ours: false,
            shut: false,
            allowed: None,
            tcp,
            watched: Watched::default(),
        })
    }

    /// Takes one connection.
    pub fn accept(&self) -> Accepted {
        loop {
            return match fd::accept(&self.fd) {
                Ok(stream) => self.admit(stream),
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(Errno::EAGAIN) => Accepted::Nobody,
                Err(Errno::EINVAL) => Accepted::Ended,
                Err(error) => Accepted::Exhausted(error.into()),
            };
        }
    }

    fn watch(&mut self, poller: &Poller, number: usize, wanted: bool) -> io::Result<()> {
        if !wanted {
            return poller.forget(&self.fd, &mut self.watched);
        }
        let token = Token::Listener(number);
        poller.watch(&self.fd, token, EpollFlags::EPOLLIN, &mut self.watched)
    }

    /// Makes the socket take no more connections; those that wait can still be accepted.
    pub fn shut(&mut self) {
        self.shut = true;
        let _ = socket::shutdown(self.fd.as_raw_fd(), socket::Shutdown::Read);
    }

    /// Gives the address up, so that the next server can listen there at once. Another's socket in its place stays.
    pub fn withdraw(&mut self) {
        if let Some((path, inode_then)) = self.path.take()
            && inode_then == inode(&path)
        {
            let _ = std::fs::remove_file(path);
        }
        self.shut();
    }

    fn admit(&self, stream: OwnedFd) -> Accepted {
        if !self.tcp {
            return Accepted::Connection(stream);
        }
        let _ = socket::setsockopt(&stream, socket::sockopt::TcpNoDelay, &true);
        if let Some(allowed) = &self.allowed {
            let peer = peer_address(&stream);
            if !peer.is_some_and(|address| allowed.contains(&address)) {
                let shown = peer.map_or_else(|| String::from("unknown"), |a| a.to_string());
                return Accepted::Refused(shown);
            }
        }
        Accepted::Connection(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn inode(path: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn peer_address(stream: &OwnedFd) -> Option<IpAddr> {
    let name: SockaddrStorage = socket::getpeername(stream.as_raw_fd()).ok()?;
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(v6.ip().to_canonical()),
        _ => None,
    }
}
