//! systemd's socket activation (listening sockets from descriptor 3 up) and service notifications.
//!
//! Our own `sd_listen_fds(3)` and `sd_notify(3)`. Without systemd's variables nothing happens.

use crate::sys::fd;
use nix::sys::socket::{self, sockopt};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The first descriptor that systemd passes.
const FIRST: i32 = 3;
/// The most descriptors that are taken.
const MOST: i32 = 256;

/// A socket that systemd opened for us.
#[derive(Debug)]
pub struct Activated {
    /// The socket.
    pub socket: OwnedFd,
    /// Its `FileDescriptorName=`; by default the name of the socket unit.
    pub name: String,
}

/// The sockets that systemd passed to this process, at most 256.
pub fn activated() -> Vec<Activated> {
    let number = |name| std::env::var(name).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID").is_none_or(|pid| u32::try_from(pid) != Ok(std::process::id())) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(MOST);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut all = Vec::new();
    for raw in FIRST..FIRST + count {
        let name = names.next().unwrap_or_default().to_owned();
        if let Some(socket) = fd::adopt(raw) {
            all.push(Activated { socket, name });
        }
    }
    all
}

impl Activated {
    /// Whether the socket is listening.
    pub fn listens(&self) -> bool {
        socket::getsockopt(&self.socket, sockopt::AcceptConn).unwrap_or(false)
    }
}

/// Sends a notification such as `READY=1` or `STOPPING=1`, if NOTIFY_SOCKET is set. Never blocks; ignores errors.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    // The site must run even if the service manager does not listen.
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}

/// The notification whose text `systemctl status` shows.
pub fn status(text: &str) -> String {
    format!("STATUS={}", crate::status::one_line(text))
}

/// The notification that a reload has begun; `READY=1` ends the reload.
pub fn reloading() -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let micros = now.map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1000);
    format!("RELOADING=1\nMONOTONIC_USEC={micros}")
}
