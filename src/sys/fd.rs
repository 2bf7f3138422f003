//! Raw descriptors become owned ones here, and only here: the crate's one module with `unsafe`.
//!
//! Descriptors reach us as numbers in two ways: some were open when this program began (from whoever spawned us, or
//! from the image before this one), and some the kernel returns from a call that is made here.
#![allow(unsafe_code)]

use super::procfs;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, SockFlag, recvmsg};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Takes ownership of a descriptor that was open when this program began. `None`: no such descriptor is open, it is one
/// of 0 to 2, or it has an owner.
///
/// What came through `execve` lacks the flag FD_CLOEXEC, which everything has that this program opens. Setting it marks
/// the descriptor as taken. (A descriptor gets rid of the flag only just before the next `execve`.)
pub fn adopt(raw: RawFd) -> Option<OwnedFd> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    // SAFETY: F_GETFD and F_SETFD touch no memory, and answer EBADF when the number is not an open descriptor.
    let flags = unsafe { libc::fcntl(raw, libc::F_GETFD) };
    if raw <= 2 || flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: the descriptor is open and nobody's (see above), and from now on it has the flag.
    unsafe {
        libc::fcntl(raw, libc::F_SETFD, flags | libc::FD_CLOEXEC);
        Some(OwnedFd::from_raw_fd(raw))
    }
}

/// Closes every descriptor from 3 up that was open when this program began and has not been adopted: what a web server
/// leaks into us (mod_fcgid: its command pipes).
pub fn close_the_rest() {
    let listed = procfs::descriptors().unwrap_or_else(|| (3..1024).collect());
    listed.into_iter().for_each(|raw| drop(adopt(raw)));
}

/// Accepts a connection, non-blocking.
pub fn accept(listener: &impl AsFd) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = socket::accept4(listener.as_fd().as_raw_fd(), flags)?;
    // SAFETY: the call has just made it, and nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Receives bytes into `buffer`, and descriptors into `received`. 0: the stream has ended.
pub fn receive(
    socket: &impl AsFd,
    buffer: &mut [u8],
    received: &mut impl Extend<OwnedFd>,
) -> nix::Result<usize> {
    let mut space = cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(buffer)];
    let socket = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket, &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => (),
            other => break other?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(made) = control {
            // SAFETY: as in `accept`.
            received.extend(
                made.into_iter()
                    .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }),
            );
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    #[test]
    fn a_descriptor_has_one_owner() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(adopt(file.as_raw_fd()).is_none(), "it has an owner");
        let raw = std::os::fd::IntoRawFd::into_raw_fd(nix::unistd::dup(&file).unwrap());
        let owned = adopt(raw).expect("nobody owned it");
        assert!(adopt(raw).is_none(), "now it has an owner");
        let flags = FdFlag::from_bits_retain(fcntl(&owned, FcntlArg::F_GETFD).unwrap());
        assert_eq!(flags, FdFlag::FD_CLOEXEC);
        assert!(adopt(2).is_none() && adopt(-1).is_none() && adopt(1 << 20).is_none());
    }
}
