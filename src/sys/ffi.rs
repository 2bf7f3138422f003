//! The only module with `unsafe`: raw descriptors become owned ones, and one call to the allocator.
//!
//! Descriptors come as numbers from two sources: some were open when this program began (from the process that spawned it,
//! or from the image before this one), and some are returned by system calls that are made here.
#![allow(unsafe_code)]

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, SockFlag, recvmsg};
use std::ffi::CString;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

/// Takes ownership of a descriptor that was open when this program began. None: it is not open, one of 0 to 2, or owned.
///
/// A descriptor that came through `execve` lacks FD_CLOEXEC; all that this program opens have it. Setting the flag marks the
/// descriptor as owned. (It is cleared only just before the next `execve`.)
pub fn adopt(raw: RawFd) -> Option<OwnedFd> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    // SAFETY: F_GETFD and F_SETFD touch no memory, and return EBADF if the number is not an open descriptor.
    let flags = unsafe { libc::fcntl(raw, libc::F_GETFD) };
    if raw <= 2 || flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: the descriptor is open and has no owner (see above), and from now on it has the flag.
    unsafe {
        libc::fcntl(raw, libc::F_SETFD, flags | libc::FD_CLOEXEC);
        Some(OwnedFd::from_raw_fd(raw))
    }
}

/// Accepts a connection, non-blocking.
pub fn accept(listener: &impl AsFd) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = socket::accept4(listener.as_fd().as_raw_fd(), flags)?;
    // SAFETY: the call has just opened it, and nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Receives bytes into `buffer` and descriptors into `received`. Returns the number of bytes; 0: the stream has ended.
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

/// Whether an access control list names users or groups that may use this file, beside those that its mode names.
pub fn has_acl(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let name = c"system.posix_acl_access";
    // SAFETY: both strings end with NUL, and with a size of 0 the call writes nothing.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Gives memory that was freed back to the system. After many requests at once, glibc would keep what they had, in pieces
/// between what is still in use; musl gives it back by itself.
pub fn give_back_memory() {
    // SAFETY: the call takes no pointer, and nothing that is in use moves.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
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
