//! `Outbox`: bytes that wait to be sent on a descriptor that does not block.

use nix::errno::Errno;
use std::io;
use std::os::fd::AsFd;

/// Memory that an empty one may keep.
const KEPT: usize = 64 << 10;
/// From here on what was sent is dropped although more waits.
const COMPACT: usize = 256 << 10;

/// See above.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Where to append.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How many bytes wait.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Sends as much as `to` takes. The number of bytes that it took.
    pub fn flush(&mut self, to: impl AsFd) -> io::Result<usize> {
        self.flush_by(|bytes| nix::unistd::write(to.as_fd(), bytes))
    }

    /// The same, sent by `write`: how many of the bytes it took, or why it takes none.
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
    fn what_is_not_taken_waits() {
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
