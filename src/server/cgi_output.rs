//! `CgiOutput`: the descriptor to which a CGI process writes its response.
//!
//! Other processes may share it, so it must not be made non-blocking. Still, no write waits for a reader: he would hold the
//! worker.

use nix::errno::Errno;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

pub(super) struct CgiOutput {
    fd: OwnedFd,
    kind: Kind,
}

enum Kind {
    Socket,
    Pipe,
    /// A file or a terminal, which takes all at once.
    Other,
}

impl CgiOutput {
    pub(super) fn new(fd: OwnedFd) -> CgiOutput {
        let mode = fstat(&fd).map_or(0, |stat| stat.st_mode);
        let kind = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFSOCK => Kind::Socket,
            SFlag::S_IFIFO => Kind::Pipe,
            _ => Kind::Other,
        };
        CgiOutput { fd, kind }
    }

    /// Writes as many bytes as there is room for; without room fails with EAGAIN.
    pub(super) fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self.kind {
            Kind::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd.as_raw_fd(), bytes, flags)
            }
            // A pipe that is writable has room for this many bytes.
            Kind::Pipe if self.is_writable()? => {
                nix::unistd::write(&self.fd, &bytes[..bytes.len().min(PIPE_BUF)])
            }
            Kind::Pipe => Err(Errno::EAGAIN),
            Kind::Other => nix::unistd::write(&self.fd, bytes),
        }
    }

    fn is_writable(&self) -> nix::Result<bool> {
        let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
        Ok(poll(&mut polled, PollTimeout::ZERO)? > 0)
    }
}

impl AsFd for CgiOutput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, pipe};
    use std::os::unix::net::UnixStream;

    /// Writes until there is no room; returns how much that was.
    fn fill(output: &CgiOutput) -> usize {
        let mut written = 0;
        loop {
            match output.write(&[b'a'; 10_000]) {
                Ok(count) => written += count,
                Err(error) => {
                    assert_eq!(error, Errno::EAGAIN);
                    return written;
                }
            }
        }
    }

    #[test]
    fn no_write_waits() {
        let (mut reader, writer) = pipe().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ends: [(CgiOutput, &mut dyn Read); 2] = [
            (CgiOutput::new(writer.into()), &mut reader),
            (CgiOutput::new(ours.into()), &mut theirs),
        ];
        for (output, reader) in ends {
            let written = fill(&output);
            let mut read = vec![0; written];
            reader.read_exact(&mut read).unwrap();
            assert!(written > 0 && fill(&output) > 0);
        }
    }
}
