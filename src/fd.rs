//! Raw descriptors become owned ones here, and only here: the crate's one module with `unsafe`.
//!
//! Descriptors reach us as numbers in three ways: fd 0 to 2 from whoever spawned us, numbers that our own previous
//! image names across `execve`, and numbers that the kernel writes into a message (accept, SCM_RIGHTS).
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes ownership of an open descriptor that nothing else in this process owns: fresh from the kernel, or handed over
/// by the image before this one. `None` when the number is not an open descriptor.
pub fn adopt(raw: RawFd) -> Option<OwnedFd> {
    if raw < 0 || nix::fcntl::fcntl(borrow(raw), nix::fcntl::FcntlArg::F_GETFD).is_err() {
        return None;
    }
    // SAFETY: the descriptor is open (asked above), and every caller passes a number that it has just received and
    // stored nowhere else, so this is its only owner.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Takes ownership of a descriptor that the kernel has just made for us (accept, SCM_RIGHTS).
pub fn fresh(raw: RawFd) -> OwnedFd {
    // SAFETY: the callers pass the number that a successful system call has just returned, and keep no copy of it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn borrow(raw: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for one fcntl only, which answers EBADF when the number is not open; `raw` is not -1 (asked by the
    // only caller).
    unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) }
}

/// Closes every descriptor from 3 up except `keep`: what a web server leaks into us (mod_fcgid: its command pipes).
/// Called once, before any other descriptor is opened.
pub fn close_all_but(keep: &[RawFd]) {
    let listed: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
        Err(_) => (3..1024).collect(),
    };
    for raw in listed {
        if raw > 2 && !keep.contains(&raw) {
            let _ = nix::unistd::close(raw);
        }
    }
}
