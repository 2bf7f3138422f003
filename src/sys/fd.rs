//! Descriptors.

pub use super::ffi::{accept, adopt, receive};

use super::procfs;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::AsFd;

/// Closes every descriptor from 3 up that was open when this program began and was not adopted: what a web server has
/// leaked into it (mod_fcgid: its command pipes).
pub fn close_the_rest() {
    let listed = procfs::descriptors().unwrap_or_else(|| (3..1024).collect());
    listed.into_iter().for_each(|raw| drop(adopt(raw)));
}

/// Makes reads and writes return `EAGAIN` instead of waiting.
pub fn set_nonblocking(fd: &impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
