//! `Rest`: the rest of a response whose reader has not taken what came before: bytes that were set aside, then a file.

use super::file::FilePart;
use crate::failure::Failure;
use crate::spool::{Content, Full, Spool, SpoolFile};

/// What is still to be sent after the bytes that wait in the connection's outbox.
#[derive(Debug, Default)]
pub(super) struct Rest {
    spooled: Option<SpoolFile>,
    /// Bytes after those in the spool, which had no room. The worker pauses until they are sent.
    tail: Vec<u8>,
    /// The last part.
    file: Option<FilePart>,
}

impl Rest {
    /// Sets bytes aside. Returns why the spool has no room for them, if that is news.
    pub(super) fn push(&mut self, bytes: &[u8], spool: &Spool) -> Option<Full> {
        let mut full = None;
        if self.tail.is_empty() {
            match self.append(bytes, spool) {
                Ok(()) => return None,
                Err(why) => full = Some(why),
            }
        }
        self.tail.extend_from_slice(bytes);
        full
    }

    /// Sets aside what had no room, if there is some now. Whether there is.
    pub(super) fn settle(&mut self, spool: &Spool) -> bool {
        let tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() && self.append(&tail, spool).is_err() {
            self.tail = tail;
        }
        !self.is_stuck()
    }

    fn append(&mut self, bytes: &[u8], spool: &Spool) -> Result<(), Full> {
        let spooled = match &mut self.spooled {
            Some(spooled) => spooled,
            none => none.insert(spool.open(Content::Response)?),
        };
        spooled.append(bytes)
    }

    /// The number of bytes that were set aside.
    pub(super) fn set_aside(&self) -> u64 {
        let spooled = self.spooled.as_ref().map_or(0, SpoolFile::length);
        spooled + self.tail.len() as u64
    }

    /// Whether the spool had no room for all of them.
    pub(super) fn is_stuck(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Makes a file the last part.
    pub(super) fn attach(&mut self, file: FilePart) {
        self.file = Some(file);
    }

    /// Takes the next bytes into `buffer` and returns how many.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        if let Some(spooled) = &mut self.spooled
            && spooled.length() > 0
        {
            let taken = spooled.take(buffer);
            return taken.map_err(|why| Failure::FileEnded(spooled.length(), why.to_string()));
        }
        if !self.tail.is_empty() {
            let length = self.tail.len().min(buffer.len());
            buffer[..length].copy_from_slice(&self.tail[..length]);
            self.tail.drain(..length);
            return Ok(length);
        }
        self.file.as_mut().map_or(Ok(0), |file| file.next(buffer))
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.set_aside() == 0 && self.file.as_ref().is_none_or(FilePart::is_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rest: &mut Rest) -> Vec<u8> {
        let (mut found, mut buffer) = (Vec::new(), [0; 7]);
        while !rest.is_empty() {
            let length = rest.next(&mut buffer).unwrap();
            found.extend_from_slice(&buffer[..length]);
        }
        found
    }

    #[test]
    fn bytes_keep_their_order_with_and_without_room() {
        let spool = Spool::new(20, 0);
        let mut rest = Rest::default();
        assert!(rest.push(b"12345", &spool).is_none() && !rest.is_stuck());
        assert!(matches!(
            rest.push(b"6789abc", &spool),
            Some(Full::Never(10))
        ));
        assert!(rest.is_stuck(), "so the worker pauses");
        // What was already on its way, and would fit: it comes after the others.
        assert!(rest.push(b"def", &spool).is_none());
        assert_eq!(rest.set_aside(), 15);
        assert_eq!(all(&mut rest), b"123456789abcdef");
        assert!(!rest.is_stuck() && spool.used() == 0);
        rest.push(b"12345678", &spool);
        rest.push(b"9abcd", &spool);
        assert!(!rest.settle(&spool) && rest.is_stuck());
        let mut taken = Rest::default();
        assert!(taken.settle(&spool) && taken.spooled.is_none());
        spool.limit(40, 0);
        assert!(rest.settle(&spool) && !rest.is_stuck());
        assert_eq!(all(&mut rest), b"123456789abcd");
        assert!(rest.push(b"more", &spool).is_none() && !rest.is_stuck());
        assert_eq!(all(&mut rest), b"more");
    }
}
