//! Sockets that we bind ourselves or get from systemd, for a web server that connects to us.

use crate::config::limits::SOCKET_PATH;
use crate::config::{Address, Endpoint, Protocol, Server};
use crate::daemon::{LEAVING, LOOK};
use crate::server::Listener;
use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, UnixAddr,
    sockopt,
};
use nix::sys::stat::{Mode, umask};
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A listening socket from elsewhere: from the image before this one, or from systemd.
#[derive(Debug)]
pub struct Handed {
    /// The socket.
    pub socket: OwnedFd,
    /// What is spoken on it, unless the configuration names its address.
    pub protocol: Protocol,
    /// Opened by systemd, which keeps it when we leave.
    pub activated: bool,
}

/// All listening sockets.
#[derive(Debug, Default)]
pub struct Opened {
    /// The sockets.
    pub listeners: Vec<Listener>,
    /// Of each handed socket: its place among `listeners`.
    pub moved: Vec<Option<usize>>,
    /// What the owner should know.
    pub warnings: Vec<String>,
}

/// The listening sockets of all endpoints: those that were handed to us, else new ones. `again`: a server that has
/// been serving goes on with what it can get.
pub fn open(server: &Server, handed: Vec<Handed>, again: bool) -> anyhow::Result<Opened> {
    let mut opened = Opened {
        moved: vec![None; handed.len()],
        ..Opened::default()
    };
    let mut left: Vec<Option<Handed>> = handed.into_iter().map(Some).collect();
    let allowed = allowed_clients()?;
    let until = Instant::now() + LEAVING;
    for endpoint in &server.endpoints {
        let kept = left.iter().position(|socket| {
            socket
                .as_ref()
                .is_some_and(|s| is_at(&s.socket, &endpoint.address))
        });
        let kept = kept.and_then(|at| Some((at, left[at].take()?)));
        if let Some((at, socket)) = kept {
            opened.moved[at] = Some(opened.listeners.len());
            if !socket.activated {
                set_mode(endpoint, server);
            }
            let socket = Handed {
                protocol: endpoint.protocol,
                ..socket
            };
            opened.listeners.push(listener(socket, &allowed)?);
            continue;
        }
        match bind_soon(endpoint, server, until) {
            Ok(socket) => {
                let socket = Handed {
                    socket,
                    protocol: endpoint.protocol,
                    activated: false,
                };
                opened.listeners.push(listener(socket, &allowed)?);
                opened.warnings.extend(exposure(endpoint, &allowed));
            }
            Err(error) if again => opened.warnings.push(format!("{error:#}")),
            Err(error) => {
                let ours = opened.listeners.iter_mut().filter(|l| l.ours);
                ours.for_each(Listener::withdraw);
                return Err(error);
            }
        }
    }
    // What the configuration does not name any more goes, unless it could not be replaced.
    let keep_all = opened.listeners.is_empty();
    for (at, socket) in left.into_iter().enumerate() {
        let Some(socket) = socket else { continue };
        let keep = socket.activated || keep_all;
        let mut listener = listener(socket, &allowed)?;
        if keep {
            opened.moved[at] = Some(opened.listeners.len());
            opened.listeners.push(listener);
        } else {
            listener.withdraw();
        }
    }
    if opened.listeners.is_empty() {
        bail!("nowhere to listen: say socket=PATH, or host=ADDRESS and port=NUMBER");
    }
    Ok(opened)
}

/// `FCGI_WEB_SERVER_ADDRS`: the addresses from which a web server may connect over TCP.
pub fn allowed_clients() -> anyhow::Result<Option<Vec<IpAddr>>> {
    let Some(list) = std::env::var_os("FCGI_WEB_SERVER_ADDRS") else {
        return Ok(None);
    };
    let list = list.to_string_lossy();
    if list.trim().is_empty() {
        return Ok(None);
    }
    let parse = |address: &str| {
        let address = address.trim();
        address.parse::<IpAddr>().with_context(|| {
            format!("FCGI_WEB_SERVER_ADDRS: {address:?} is no IP address; write them with commas between")
        })
    };
    list.split(',')
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// A line on a socket that other machines can reach.
fn exposure(endpoint: &Endpoint, allowed: &Option<Vec<IpAddr>>) -> Option<String> {
    let Address::Tcp(address) = &endpoint.address else {
        return None;
    };
    if address.ip().is_loopback() {
        return None;
    }
    Some(match allowed {
        Some(list) => {
            let list: Vec<String> = list.iter().map(IpAddr::to_string).collect();
            format!(
                "listening at {address}, beyond this machine, for {} only (FCGI_WEB_SERVER_ADDRS)",
                list.join(", ")
            )
        }
        None => format!(
            "listening at {address}, beyond this machine: whoever reaches it can send any request; \
             name the web server's address in FCGI_WEB_SERVER_ADDRS, or use host=127.0.0.1 or socket="
        ),
    })
}

fn listener(handed: Handed, allowed: &Option<Vec<IpAddr>>) -> anyhow::Result<Listener> {
    let path = match handed.activated {
        true => None,
        false => path_of(&handed.socket),
    };
    let mut listener = Listener::new(handed.socket, handed.protocol, path)?;
    listener.ours = !handed.activated;
    listener.allowed = allowed.clone();
    Ok(listener)
}

/// Binds; an address in use is tried again for a moment, because the server before us may just be leaving.
fn bind_soon(endpoint: &Endpoint, server: &Server, until: Instant) -> anyhow::Result<OwnedFd> {
    loop {
        match bind(endpoint, server) {
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::EADDRINUSE) => {
                if Instant::now() >= until {
                    bail!("{error}");
                }
                std::thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}

fn bind(endpoint: &Endpoint, server: &Server) -> anyhow::Result<OwnedFd> {
    let backlog = i32::try_from(server.backlog).unwrap_or(i32::MAX);
    let backlog = socket::Backlog::new(backlog.min(libc::SOMAXCONN))?;
    let (family, name) = match &endpoint.address {
        Address::Unix(path) => (AddressFamily::Unix, path.display().to_string()),
        Address::Tcp(SocketAddr::V4(v4)) => (AddressFamily::Inet, v4.to_string()),
        Address::Tcp(SocketAddr::V6(v6)) => (AddressFamily::Inet6, v6.to_string()),
    };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .with_context(|| format!("cannot listen at {name}"))?;
    let listen = |bound: nix::Result<()>| {
        bound
            .and_then(|()| socket::listen(&socket, backlog))
            .with_context(|| match bound {
                Err(Errno::EADDRINUSE) => format!("{name} is in use: another server listens there"),
                Err(Errno::EADDRNOTAVAIL) => format!("{name} is no address of this machine"),
                _ => format!("cannot listen at {name}"),
            })
    };
    match &endpoint.address {
        Address::Tcp(address) => {
            socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            let bound = match address {
                SocketAddr::V4(v4) => socket::bind(socket.as_raw_fd(), &SockaddrIn::from(*v4)),
                SocketAddr::V6(v6) => {
                    // As nginx does: `::` and `0.0.0.0` can both be named.
                    socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
                    socket::bind(socket.as_raw_fd(), &SockaddrIn6::from(*v6))
                }
            };
            listen(bound)?;
        }
        Address::Unix(path) => {
            let length = path.as_os_str().len();
            if length > SOCKET_PATH {
                bail!(
                    "socket={name}: {length} bytes are too long for a socket's path, {SOCKET_PATH} may be"
                );
            }
            let address = UnixAddr::new(path)?;
            // Two that start at once must not remove each other's socket. Some file systems know no locks.
            let dir = path.parent().and_then(|dir| File::open(dir).ok());
            if let Some(dir) = &dir {
                lock_for_a_moment(dir);
            }
            remove_stale(path)?;
            let before = mask(server).map(|mask| umask(Mode::from_bits_truncate(mask)));
            let bound = socket::bind(socket.as_raw_fd(), &address);
            if let Some(before) = before {
                umask(before);
            }
            listen(bound)?;
        }
    }
    Ok(socket)
}

/// The umask with which a unix socket is bound; None: that of the process.
fn mask(server: &Server) -> Option<u32> {
    let of_mode = server.socket_mode.map(|mode| !mode & 0o777);
    of_mode.or(server.umask)
}

/// A socket that goes on gets the mode that one that is bound now would have.
fn set_mode(endpoint: &Endpoint, server: &Server) {
    if let Address::Unix(path) = &endpoint.address {
        let mask = mask(server).unwrap_or_else(|| {
            let own = umask(Mode::empty());
            umask(own);
            own.bits()
        });
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o777 & !mask));
    }
}

/// Whoever may read a directory may lock it, so nobody is waited for without end.
fn lock_for_a_moment(dir: &File) {
    let until = Instant::now() + LEAVING;
    while let Err(fs::TryLockError::WouldBlock) = dir.try_lock()
        && Instant::now() < until
    {
        std::thread::sleep(LOOK);
    }
}

/// Removes a socket that nobody listens on any more; anything else stays and is an error.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        bail!(
            "socket={name}: there is something else than a socket; remove it, or name another path"
        );
    }
    let probe = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    match socket::connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path)
            .with_context(|| format!("socket={name}: the dead socket there cannot be removed")),
        Err(Errno::ENOENT) => Ok(()),
        // A full backlog is somebody's, too.
        Ok(()) | Err(Errno::EAGAIN) => Err(Errno::EADDRINUSE)
            .with_context(|| format!("socket={name} is in use: another server listens there")),
        Err(error) => Err(error).with_context(|| {
            format!("socket={name}: whether the socket there is in use cannot be found out")
        }),
    }
}

fn path_of(socket: &OwnedFd) -> Option<PathBuf> {
    let name = socket::getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    Some(name.as_unix_addr()?.path()?.to_owned())
}

/// The address at which a TCP socket listens.
pub fn tcp_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let name = socket::getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

fn is_at(socket: &OwnedFd, address: &Address) -> bool {
    match address {
        Address::Unix(path) => path_of(socket).as_deref() == Some(path),
        Address::Tcp(tcp) => {
            tcp_address(socket).is_some_and(|a| a.ip() == tcp.ip() && a.port() == tcp.port())
        }
    }
}
