//! What systemd and we tell each other: listening sockets from descriptor 3 up, and how the service does.
//!
//! `sd_listen_fds(3)` and `sd_notify(3)`, spoken by ourselves. Without systemd's variables nothing happens here.

use crate::sys::fd;
use nix::sys::socket::{self, sockopt};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The first descriptor that is passed.
const FIRST: i32 = 3;
/// More than anybody passes.
const MOST: i32 = 256;

/// A socket that systemd has opened for us.
#[derive(Debug)]
pub struct Activated {
    /// The socket.
    pub socket: OwnedFd,
    /// Its `FileDescriptorName=`, else the name of the socket unit.
    pub name: String,
}

/// The sockets that are meant for this very process.
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
    /// Whether connections can be accepted from it.
    pub fn listens(&self) -> bool {
        socket::getsockopt(&self.socket, sockopt::AcceptConn).unwrap_or(false)
    }
}

/// Tells systemd, when it wants to know: `READY=1`, `STOPPING=1` and the like.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    // A service manager that does not listen is no reason to serve nobody.
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}

/// The message that `systemctl status` shows as how we do.
pub fn status(text: &str) -> String {
    format!("STATUS={}", crate::status::one_line(text))
}

/// The message that a reload by execution begins; `READY=1` ends it.
pub fn reloading() -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let micros = now.map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1000);
    format!("RELOADING=1\nMONOTONIC_USEC={micros}")
}
