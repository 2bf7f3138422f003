//! `Listener`: a listening socket: from the web server (descriptor 0), from systemd, or bound by us.

use super::Role;
use crate::config::Protocol;
use crate::poller::{Poller, Token, Watched};
use crate::sys::{fd, peer};
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
    /// The protocol spoken on it.
    pub protocol: Protocol,
    /// The path of a unix socket that we bound, with its device and inode.
    path: Option<(PathBuf, Option<(u64, u64)>)>,
    /// We bound it, so nobody else holds it when we exit.
    pub ours: bool,
    shut: bool,
    /// Addresses that may connect over TCP; None: any.
    pub allowed: Option<Vec<IpAddr>>,
    /// Users who may connect, besides root and our own; None: any.
    pub users: Option<Vec<u32>>,
    /// Whether it is a TCP socket.
    pub tcp: bool,
    watched: Watched,
}

/// The outcome of an accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, non-blocking.
    Connection(OwnedFd),
    /// Who connected may not, for this reason; the connection was closed.
    Refused(String),
    /// No connection is waiting.
    Nobody,
    /// The socket accepts no more connections: it was shut down.
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

    /// The listener with this number.
    pub(super) fn get(&self, number: usize) -> Option<&Listener> {
        self.all.get(number)
    }

    /// The protocol of the listener with this number.
    pub(super) fn protocol(&self, number: usize) -> Protocol {
        self.get(number).map_or(Protocol::Fcgi, |l| l.protocol)
    }

    /// From now on, only these users may connect. mod_fcgid's socket is closed to others by itself.
    pub(super) fn allow(&mut self, users: Option<&Vec<u32>>, role: Role) {
        let users = users.filter(|_| role != Role::Spawned { mod_fcgid: true });
        for listener in &mut self.all {
            listener.users = users.cloned();
        }
    }

    /// Watches for connections if `wanted` and accepting is not paused; otherwise stops watching.
    pub(super) fn watch(&mut self, poller: &Poller, wanted: bool) -> io::Result<()> {
        let wanted = wanted && self.paused.is_none();
        for (number, listener) in self.all.iter_mut().enumerate() {
            listener.watch(poller, number, wanted && !listener.shut)?;
        }
        Ok(())
    }

    /// Pauses accepting for `EXHAUSTED_PAUSE`, because descriptors or memory have run out.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused = Some(now + EXHAUSTED_PAUSE);
    }

    /// When a pause ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused
    }

    /// Ends the pause when its time has come. True: it has just ended.
    pub(super) fn on_time(&mut self, now: Instant) -> bool {
        self.paused.take_if(|at| *at <= now).is_some()
    }

    /// Stops taking new connections: gives up the addresses that we bound and, if `shut`, shuts down inherited sockets.
    pub(super) fn withdraw(&mut self, shut: bool) {
        for listener in &mut self.all {
            if listener.ours {
                listener.withdraw();
            } else if shut {
                listener.shut();
            }
        }
    }

    /// Accepts one waiting connection; returns it with the number of its listener.
    pub(super) fn accept_any(&self) -> Option<(OwnedFd, usize)> {
        let accept = |(number, listener): (usize, &Listener)| loop {
            match listener.accept() {
                Accepted::Connection(socket) => return Some((socket, number)),
                // Others wait behind who is refused.
                Accepted::Refused(_) => (),
                _ => return None,
            }
        };
        self.all.iter().enumerate().find_map(accept)
    }

    /// Gives up the sockets, for the next image.
    pub(super) fn hand_over(&mut self) -> Vec<OwnedFd> {
        let all = self.all.drain(..);
        all.map(|listener| listener.fd).collect()
    }
}

impl Listener {
    /// Takes over a listening socket and makes it non-blocking.
    pub fn new(fd: OwnedFd, protocol: Protocol, path: Option<PathBuf>) -> io::Result<Listener> {
        fd::set_nonblocking(&fd)?;
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
            users: None,
            tcp,
            watched: Watched::default(),
        })
    }

    /// Accepts one connection.
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

    /// Makes the socket refuse new connections; waiting ones can still be accepted on a unix socket.
    pub fn shut(&mut self) {
        self.shut = true;
        let _ = socket::shutdown(self.fd.as_raw_fd(), socket::Shutdown::Read);
    }

    /// Gives up the address, so that another server can listen there at once. Leaves the socket file of another server.
    pub fn withdraw(&mut self) {
        if let Some((path, inode_then)) = self.path.take()
            && inode_then == inode(&path)
        {
            let _ = std::fs::remove_file(path);
        }
        self.shut();
    }

    fn admit(&self, stream: OwnedFd) -> Accepted {
        if self.tcp {
            let _ = socket::setsockopt(&stream, socket::sockopt::TcpNoDelay, &true);
        }
        if let Some(users) = &self.users {
            let user = match self.tcp {
                true => peer::tcp_user(&stream),
                false => peer::unix_user(&stream),
            };
            let us = nix::unistd::geteuid().as_raw();
            let may = |user: u32| user == 0 || user == us || users.contains(&user);
            if !user.is_some_and(may) {
                let who = user.map_or(String::from("an unknown user"), |uid| format!("user {uid}"));
                let why = "not in [server] allowed_users";
                return Accepted::Refused(format!("refused a connection from {who}: {why}"));
            }
        }
        if let Some(allowed) = self.allowed.as_ref().filter(|_| self.tcp) {
            let peer = peer_address(&stream);
            if !peer.is_some_and(|address| allowed.contains(&address)) {
                let peer = peer.map_or_else(|| String::from("unknown"), |a| a.to_string());
                let why = "not in FCGI_WEB_SERVER_ADDRS";
                return Accepted::Refused(format!("refused a connection from {peer}: {why}"));
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
