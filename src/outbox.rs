//! `Outbox`: bytes that wait to be sent on a non-blocking descriptor.

use nix::errno::Errno;
use std::io;
use std::os::fd::AsFd;

/// Memory that is taken for the first bytes: enough for a small response.
const FIRST: usize = 1 << 10;
/// Bytes of memory that an empty outbox keeps for reuse.
const KEPT: usize = 64 << 10;
/// Bytes already sent after which their memory is freed even though more bytes wait.
const COMPACT: usize = 256 << 10;

/// A send buffer.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// The buffer to append to.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(FIRST);
        }
        &mut self.bytes
    }

    /// The number of bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Sends as much as `to` accepts, and returns how many bytes that was.
    pub fn flush(&mut self, to: impl AsFd) -> io::Result<usize> {
        self.flush_by(|bytes| nix::unistd::write(to.as_fd(), bytes))
    }

    /// The same with `write` in place of write(2).
    pub fn flush_by(
        &mut self,
        mut write: impl FnMut(&[u8]) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let before = self.sent;
        while self.sent < self.bytes.len() {
            match write(&self.bytes[self.sent..]) {
                Ok(taken) => self.sent += taken,
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => {
                    let taken = self.sent - before;
                    if self.sent >= COMPACT {
                        self.bytes.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(taken);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let taken = self.sent - before;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.sent = 0;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_wait_until_the_peer_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        let long = 3 << 20;
        outbox.tail().resize(long, b'a');
        let mut taken = outbox.flush(&ours).unwrap();
        assert!(taken > 0 && outbox.waiting() == long - taken);
        assert_eq!(outbox.flush(&ours).unwrap(), 0);
        let mut read = 0;
        let mut buffer = vec![0; 64 << 10];
        while read < long {
            read += theirs.read(&mut buffer).unwrap();
            taken += outbox.flush(&ours).unwrap();
        }
        assert_eq!((read, taken, outbox.waiting()), (long, long, 0));
    }
}
