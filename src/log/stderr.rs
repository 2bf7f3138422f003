//! `Stderr`: standard error, written without ever waiting for who reads it.
//!
//! Other processes have the same description of the file open, so O_NONBLOCK must not be set on it. A pipe or a terminal
//! is opened once more, with a description of our own; a pipe that we may not open (it was made by another user) takes
//! what is spliced from a pipe of ours; a socket has a flag for each call. A file never keeps anybody waiting.

use crate::sys::procfs::path_through;
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, open, splice};
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{pipe2, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes that wait for a reader; what comes on top of them is lost.
const MOST: usize = 256 << 10;

/// See above.
#[derive(Debug, Default)]
pub(super) struct Stderr {
    waiting: Vec<u8>,
    lost: u64,
    /// For the file that had this device and inode.
    way: Option<((libc::dev_t, libc::ino_t), Way)>,
}

/// How to write without waiting.
#[derive(Debug)]
enum Way {
    /// As it is.
    Write,
    Send,
    /// By a description of our own.
    Own(OwnedFd),
    /// From a pipe of ours, in which so many bytes wait.
    Splice(OwnedFd, OwnedFd, usize),
}

impl Stderr {
    /// Writes an event, now or later. It is lost where too much waits already.
    pub(super) fn put(&mut self, event: &str) {
        if self.waiting() + event.len() > MOST {
            self.lost += 1;
            return;
        }
        self.waiting.extend_from_slice(event.as_bytes());
        self.go_on();
    }

    /// Writes what waits, as far as it is taken.
    pub(super) fn go_on(&mut self) {
        if self.waiting() > 0 && self.write() != Err(Errno::EAGAIN) {
            // It is written, or it will never be.
            self.waiting = Vec::new();
            if self.waiting() > 0 {
                self.way = None;
            }
        }
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        let spliced = match &self.way {
            Some((_, Way::Splice(_, _, left))) => *left,
            _ => 0,
        };
        self.waiting.len() + spliced
    }

    /// How many events were lost, once there is room again to tell it.
    pub(super) fn take_lost(&mut self) -> Option<u64> {
        let told = self.lost > 0 && self.waiting() == 0;
        told.then(|| std::mem::take(&mut self.lost))
    }

    fn write(&mut self) -> nix::Result<()> {
        let stderr = std::io::stderr();
        let place = fstat(&stderr)?;
        let name = (place.st_dev, place.st_ino);
        if self.way.as_ref().is_none_or(|(known, _)| *known != name) {
            self.way = Some((name, Way::to(stderr.as_fd(), &place)));
        }
        let Some((_, way)) = &mut self.way else {
            return Ok(());
        };
        while !self.waiting.is_empty() || way.holds() {
            match way.put(stderr.as_fd(), &self.waiting) {
                Ok(taken) => drop(self.waiting.drain(..taken)),
                Err(Errno::EINTR) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Way {
    fn to(stderr: BorrowedFd<'_>, place: &FileStat) -> Way {
        match place.st_mode & libc::S_IFMT {
            libc::S_IFSOCK => Way::Send,
            kind @ (libc::S_IFIFO | libc::S_IFCHR) => {
                let path = path_through(&stderr);
                let flags =
                    OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                match (open(&path, flags, Mode::empty()), kind) {
                    (Ok(own), _) => Way::Own(own),
                    (Err(_), libc::S_IFIFO) => pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                        .map_or(Way::Write, |(out, into)| Way::Splice(out, into, 0)),
                    _ => Way::Write,
                }
            }
            _ => Way::Write,
        }
    }

    /// Whether bytes wait that were taken already.
    fn holds(&self) -> bool {
        matches!(self, Way::Splice(_, _, 1..))
    }

    /// How many of the bytes are taken. EAGAIN: none now.
    fn put(&mut self, stderr: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Way::Write => write(stderr, bytes),
            Way::Own(own) => write(own, bytes),
            Way::Send => send(
                stderr.as_raw_fd(),
                bytes,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ),
            Way::Splice(out, into, left) => {
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
                    // Taken all the same.
                    Err(Errno::EAGAIN) if taken > 0 => (),
                    Err(error) => return Err(error),
                }
                Ok(taken)
            }
        }
    }
}
