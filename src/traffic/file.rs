//! `FilePart`: a part of a file that is the rest of a response.

use crate::failure::Failure;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// An open file, and the part of it that is still to be sent.
#[derive(Debug)]
pub(super) struct FilePart {
    file: File,
    offset: u64,
    left: u64,
}

impl FilePart {
    /// `length` bytes of a file from `offset` on.
    pub(super) fn new(file: File, offset: u64, length: u64) -> FilePart {
        FilePart {
            file,
            offset,
            left: length,
        }
    }

    /// Reads the next piece into `buffer` and returns its length.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let length = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = match self.file.read_at(&mut buffer[..length], self.offset) {
            Ok(0) if length > 0 => Err(String::from("the file was truncated")),
            Ok(read) => Ok(read),
            Err(error) => Err(error.to_string()),
        };
        let read = read.map_err(|why| Failure::FileEnded(self.left, why))?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }

    /// Whether everything has been read.
    pub(super) fn is_read(&self) -> bool {
        self.left == 0
    }
}
