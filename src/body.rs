//! `Body`: the body of a request as far as it has arrived, first in memory, then in a spool file.

use crate::spool::{Content, Full, Spool, SpoolFile};
use std::io;

/// The largest body, in bytes, that is kept in memory and sent to the worker within the request's message.
pub const IN_MEMORY: usize = 64 << 10;

/// The body of a request, as far as it has arrived.
#[derive(Debug)]
pub enum Body {
    /// At most `IN_MEMORY` bytes.
    Memory(Vec<u8>),
    /// More.
    File(SpoolFile),
}

impl Default for Body {
    fn default() -> Body {
        Body::Memory(Vec::new())
    }
}

impl Body {
    /// The length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::File(file) => file.length(),
        }
    }

    /// The memory, in bytes, that it takes.
    pub fn held(&self) -> usize {
        match self {
            Body::Memory(bytes) => bytes.capacity(),
            Body::File(_) => 0,
        }
    }

    /// Shortens the body to `length` bytes, if it is longer.
    pub fn truncate(&mut self, length: u64) -> io::Result<()> {
        match self {
            Body::Memory(kept) => kept.truncate(usize::try_from(length).unwrap_or(usize::MAX)),
            Body::File(file) => file.truncate(length)?,
        }
        Ok(())
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8], spool: &Spool) -> Result<(), Full> {
        match self {
            Body::Memory(kept) if kept.len() + bytes.len() <= IN_MEMORY => {
                kept.extend_from_slice(bytes);
            }
            Body::Memory(kept) => {
                let mut file = spool.open(Content::Body)?;
                file.append(kept)?;
                file.append(bytes)?;
                *self = Body::File(file);
            }
            Body::File(file) => file.append(bytes)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_large_body_moves_to_a_file() {
        let mut body = Body::default();
        let spool = Spool::new(100_000, 0);
        let piece = [7u8; 1000];
        for _ in 0..100 {
            body.push(&piece, &spool).unwrap();
        }
        assert_eq!(body.length(), 100_000);
        let Body::File(file) = &body else {
            panic!("still in memory")
        };
        let mut read = vec![0; 100_000];
        file.file().read_exact_at(&mut read, 0).unwrap();
        assert!(read.iter().all(|b| *b == 7));
        assert!(matches!(body.push(&piece, &spool), Err(Full::Never(_))));
    }
}
