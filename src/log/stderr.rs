//! `Stderr`: non-blocking writes to standard error.
//!
//! Other processes share the open file description, so we must not set O_NONBLOCK on it. We reopen a pipe or terminal to
//! get our own description. If that fails because another user created the pipe, we splice(2) to it from our own pipe.
//! For a socket, send(2) has a flag. Writes to a file do not block.

use crate::sys::procfs::path_through;
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, open, splice};
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{pipe2, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The most bytes that wait for the reader. Further events are dropped.
const MAX_WAITING: usize = 256 << 10;

/// The events that wait to be written, and how to write them.
#[derive(Debug, Default)]
pub(super) struct Stderr {
    waiting: Vec<u8>,
    /// Events dropped and not yet reported.
    lost: u64,
    /// The method for the file with this device and inode.
    method: Option<((libc::dev_t, libc::ino_t), Method)>,
}

/// How to write without blocking.
#[derive(Debug)]
enum Method {
    /// Plain write(2).
    Write,
    /// send(2) with MSG_DONTWAIT.
    Send,
    /// write(2) to our own non-blocking descriptor.
    Reopened(OwnedFd),
    /// splice(2) from our own pipe: its read end, its write end, and how many bytes it contains.
    Splice(OwnedFd, OwnedFd, usize),
}

impl Stderr {
    /// Writes an event now or later. Drops it if `MAX_WAITING` would be exceeded.
    pub(super) fn put(&mut self, event: &str) {
        if self.waiting() + event.len() > MAX_WAITING {
            self.lost += 1;
            return;
        }
        self.waiting.extend_from_slice(event.as_bytes());
        self.flush();
    }

    /// Writes as many of the waiting events as possible.
    pub(super) fn flush(&mut self) {
        if self.waiting() > 0 && self.write() != Err(Errno::EAGAIN) {
            // Everything is written, or never will be.
            self.waiting = Vec::new();
            if self.waiting() > 0 {
                self.method = None;
            }
        }
    }

    /// The number of bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        let spliced = match &self.method {
            Some((_, Method::Splice(_, _, left))) => *left,
            _ => 0,
        };
        self.waiting.len() + spliced
    }

    /// The number of events dropped since the last call, if there is room again to report it.
    pub(super) fn take_lost(&mut self) -> Option<u64> {
        let due = self.lost > 0 && self.waiting() == 0;
        due.then(|| std::mem::take(&mut self.lost))
    }

    fn write(&mut self) -> nix::Result<()> {
        let stderr = std::io::stderr();
        let stat = fstat(&stderr)?;
        let file = (stat.st_dev, stat.st_ino);
        if self.method.as_ref().is_none_or(|(known, _)| *known != file) {
            self.method = Some((file, Method::of(stderr.as_fd(), &stat)));
        }
        let Some((_, method)) = &mut self.method else {
            return Ok(());
        };
        while !self.waiting.is_empty() || method.has_bytes() {
            match method.put(stderr.as_fd(), &self.waiting) {
                Ok(taken) => drop(self.waiting.drain(..taken)),
                Err(Errno::EINTR) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Method {
    fn of(stderr: BorrowedFd<'_>, stat: &FileStat) -> Method {
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFSOCK => Method::Send,
            kind @ (libc::S_IFIFO | libc::S_IFCHR) => {
                let path = path_through(&stderr);
                let flags =
                    OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                match (open(&path, flags, Mode::empty()), kind) {
                    (Ok(own), _) => Method::Reopened(own),
                    (Err(_), libc::S_IFIFO) => pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                        .map_or(Method::Write, |(out, into)| Method::Splice(out, into, 0)),
                    _ => Method::Write,
                }
            }
            _ => Method::Write,
        }
    }

    /// Whether our pipe contains bytes.
    fn has_bytes(&self) -> bool {
        matches!(self, Method::Splice(_, _, 1..))
    }

    /// Writes some of the bytes and returns how many. Fails with EAGAIN if that would block.
    fn put(&mut self, stderr: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Method::Write => write(stderr, bytes),
            Method::Reopened(own) => write(own, bytes),
            Method::Send => send(
                stderr.as_raw_fd(),
                bytes,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ),
            Method::Splice(out, into, left) => {
                let taken = match *left {
                    0 => write(into, bytes)?,
                    _ => 0,
                };
                *left += taken;
                match splice(
                    out,
                    None,
                    stderr,
                    None,
                    *left,
                    SpliceFFlags::SPLICE_F_NONBLOCK,
                ) {
                    Ok(spliced) => *left -= spliced,
                    // Our pipe has taken them.
                    Err(Errno::EAGAIN) if taken > 0 => (),
                    Err(error) => return Err(error),
                }
                Ok(taken)
            }
        }
    }
}
