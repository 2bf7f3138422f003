//! Sockets that we bind ourselves, for a web server that connects to us.

use crate::config::{Address, Endpoint, Server};
use crate::server::Listener;
use anyhow::{Context, bail};
use nix::sys::socket::{self, SockaddrStorage};
use nix::sys::stat::{Mode, umask};
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The listening sockets of all endpoints: those that the image before this one has left, else new ones.
pub fn open(server: &Server, mut left: Vec<OwnedFd>) -> anyhow::Result<Vec<Listener>> {
    if server.endpoints.is_empty() {
        bail!("nowhere to listen: say socket=PATH, or host=ADDRESS and port=NUMBER");
    }
    let mut listeners = Vec::new();
    for endpoint in &server.endpoints {
        let kept = left
            .iter()
            .position(|socket| is_at(socket, &endpoint.address));
        let socket = match kept {
            Some(at) => left.swap_remove(at),
            None => bind(endpoint, server)?,
        };
        let path = match &endpoint.address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp(_) => None,
        };
        let mut listener = Listener::new(socket, endpoint.protocol, path)?;
        listener.allowed = allowed_clients();
        listeners.push(listener);
    }
    Ok(listeners)
}

/// `FCGI_WEB_SERVER_ADDRS`: the addresses from which a web server may connect over TCP.
pub fn allowed_clients() -> Option<Vec<IpAddr>> {
    let list = std::env::var("FCGI_WEB_SERVER_ADDRS").ok()?;
    Some(
        list.split(',')
            .filter_map(|address| address.trim().parse().ok())
            .collect(),
    )
}

fn bind(endpoint: &Endpoint, server: &Server) -> anyhow::Result<OwnedFd> {
    let socket: OwnedFd = match &endpoint.address {
        Address::Tcp(address) => TcpListener::bind(address)
            .with_context(|| format!("listening on {address}"))?
            .into(),
        Address::Unix(path) => {
            remove_stale(path)?;
            let before = server
                .umask
                .map(|mask| umask(Mode::from_bits_truncate(mask)));
            let bound = UnixListener::bind(path);
            if let Some(before) = before {
                umask(before);
            }
            let bound = bound.with_context(|| format!("listening on {}", path.display()))?;
            if let Some(mode) = server.socket_mode {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
                    .with_context(|| format!("setting the mode of {}", path.display()))?;
            }
            bound.into()
        }
    };
    // std listens with a backlog of its own; a second listen(2) sets ours.
    let backlog = i32::try_from(server.backlog)
        .unwrap_or(i32::MAX)
        .min(libc::SOMAXCONN);
    socket::listen(&socket, socket::Backlog::new(backlog)?)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on any more; anything else stays and is an error.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        bail!(
            "{} exists and is not a socket: remove it, or name another path",
            path.display()
        );
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)
                .with_context(|| format!("removing the dead socket {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("{} is there already", path.display())),
        Ok(_) => bail!("{} is in use: another server listens there", path.display()),
    }
}

fn is_at(socket: &OwnedFd, address: &Address) -> bool {
    let Ok(name) = socket::getsockname::<SockaddrStorage>(socket.as_raw_fd()) else {
        return false;
    };
    match address {
        Address::Unix(path) => name.as_unix_addr().and_then(|a| a.path()) == Some(path),
        Address::Tcp(std::net::SocketAddr::V4(v4)) => name
            .as_sockaddr_in()
            .is_some_and(|a| std::net::SocketAddrV4::from(*a) == *v4),
        Address::Tcp(std::net::SocketAddr::V6(v6)) => name
            .as_sockaddr_in6()
            .is_some_and(|a| a.ip() == *v6.ip() && a.port() == v6.port()),
    }
}
