//! Listening sockets for a web server that connects to us: sockets that we bind, and those from systemd.

use crate::codes::{Code, place};
use crate::config::limits::SOCKET_PATH;
use crate::config::{Address, Config, Endpoint, Protocol, Server};
use crate::daemon::{EXIT_WAIT, RETRY_PAUSE};
use crate::server::Listener;
use crate::trust::Trust;
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

/// A listening socket that we did not bind: from the previous image, or from systemd.
#[derive(Debug)]
pub struct Handed {
    /// The socket.
    pub socket: OwnedFd,
    /// Its protocol, unless the settings name its address.
    pub protocol: Protocol,
    /// systemd opened it, and keeps it open when we exit.
    pub activated: bool,
}

/// All listening sockets.
#[derive(Debug, Default)]
pub struct Opened {
    /// The sockets.
    pub listeners: Vec<Listener>,
    /// For each handed socket, its index in `listeners`. None: it was closed.
    pub moved: Vec<Option<usize>>,
    /// Warnings for the log.
    pub warnings: Vec<(Code, String)>,
}

/// The listening sockets of all endpoints: handed ones where they match, otherwise new ones. `restarted`: an
/// endpoint that cannot be bound is only a warning. Waits up to 1 s for an address that is in use.
pub fn open(config: &Config, handed: Vec<Handed>, restarted: bool) -> anyhow::Result<Opened> {
    let server = &config.server;
    let trust = Trust::of(config.owned_by);
    let mut opened = Opened {
        moved: vec![None; handed.len()],
        ..Opened::default()
    };
    let mut left: Vec<Option<Handed>> = handed.into_iter().map(Some).collect();
    let allowed = allowed_clients()?;
    let until = Instant::now() + EXIT_WAIT;
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
        match bind_soon(endpoint, server, trust, until) {
            Ok(socket) => {
                let socket = Handed {
                    socket,
                    protocol: endpoint.protocol,
                    activated: false,
                };
                opened.listeners.push(listener(socket, &allowed)?);
                opened.warnings.extend(exposure(endpoint, &allowed));
            }
            Err(error) if restarted => {
                let warning = (place::NOT_LISTENING, format!("{error:#}"));
                opened.warnings.push(warning);
            }
            Err(error) => {
                let ours = opened.listeners.iter_mut().filter(|l| l.ours);
                ours.for_each(Listener::withdraw);
                return Err(error);
            }
        }
    }
    // Close sockets that the settings no longer name, unless there would be none left.
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

/// `FCGI_WEB_SERVER_ADDRS`: the addresses from which a web server may connect over TCP. None: any address.
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

/// The warning about a TCP socket that other machines can reach.
fn exposure(endpoint: &Endpoint, allowed: &Option<Vec<IpAddr>>) -> Option<(Code, String)> {
    let Address::Tcp(address) = &endpoint.address else {
        return None;
    };
    if address.ip().is_loopback() {
        return None;
    }
    let text = match allowed {
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
    };
    Some((place::EXPOSED, text))
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

/// Binds. Retries an address in use until `until`, because the previous server may be about to exit.
fn bind_soon(
    endpoint: &Endpoint,
    server: &Server,
    trust: Trust,
    until: Instant,
) -> anyhow::Result<OwnedFd> {
    loop {
        match bind(endpoint, server, trust) {
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::EADDRINUSE) => {
                if Instant::now() >= until {
                    bail!("{error}");
                }
                std::thread::sleep(RETRY_PAUSE);
            }
            other => return other,
        }
    }
}

fn bind(endpoint: &Endpoint, server: &Server, trust: Trust) -> anyhow::Result<OwnedFd> {
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
                    // As in nginx, so that both `::` and `0.0.0.0` can be named.
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
            trust
                .directory_of(path)
                .with_context(|| format!("cannot listen at {name}"))?;
            // Two servers that start at once must not remove each other's socket. Some file systems have no locks.
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

/// The umask for binding a unix socket. None: that of the process.
fn mask(server: &Server) -> Option<u32> {
    let of_mode = server.socket_mode.map(|mode| !mode & 0o777);
    of_mode.or(server.umask)
}

/// Gives a socket that is kept the mode that a newly bound one would get.
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

/// Locks the directory, but waits at most 1 s: anyone who can read a directory can lock it.
fn lock_for_a_moment(dir: &File) {
    let until = Instant::now() + EXIT_WAIT;
    while let Err(fs::TryLockError::WouldBlock) = dir.try_lock()
        && Instant::now() < until
    {
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Removes a socket on which nobody listens. Anything else at `path` is left alone and is an error.
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
    let unknown =
        || format!("socket={name}: whether the socket there is in use cannot be found out");
    let probe = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .with_context(unknown)?;
    match socket::connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path)
            .with_context(|| format!("socket={name}: the dead socket there cannot be removed")),
        Err(Errno::ENOENT) => Ok(()),
        // A full backlog also means that someone listens.
        Ok(()) | Err(Errno::EAGAIN) => Err(Errno::EADDRINUSE)
            .with_context(|| format!("socket={name} is in use: another server listens there")),
        Err(error) => Err(error).with_context(unknown),
    }
}

fn path_of(socket: &OwnedFd) -> Option<PathBuf> {
    let name = socket::getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    Some(name.as_unix_addr()?.path()?.to_owned())
}

/// The address on which a TCP socket listens. None: it is not TCP.
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
