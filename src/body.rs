//! `Body`: the body of a request as far as it has arrived, first in memory, then in an unnamed temporary file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest body, in bytes, that is kept in memory and sent to the worker within the request's message.
pub const IN_MEMORY: usize = 64 << 10;

/// The body of a request, as far as it has arrived.
#[derive(Debug)]
pub enum Body {
    /// At most `IN_MEMORY` bytes.
    Memory(Vec<u8>),
    /// An unlinked file and its length in bytes.
    File(File, u64),
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
            Body::File(_, length) => *length,
        }
    }

    /// Shortens the body to `length` bytes, if it is longer.
    pub fn truncate(&mut self, length: u64) -> io::Result<()> {
        match self {
            Body::Memory(kept) => kept.truncate(usize::try_from(length).unwrap_or(usize::MAX)),
            Body::File(file, kept) if length < *kept => {
                file.set_len(length)?;
                *kept = length;
            }
            Body::File(..) => (),
        }
        Ok(())
    }

    /// Appends bytes. Fails when no temporary file can be created or written.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Body::Memory(kept) if kept.len() + bytes.len() <= IN_MEMORY => {
                kept.extend_from_slice(bytes)
            }
            Body::Memory(kept) => {
                let mut file = unnamed_file()?;
                file.write_all(kept)?;
                file.write_all(bytes)?;
                *self = Body::File(file, (kept.len() + bytes.len()) as u64);
            }
            Body::File(file, length) => {
                file.write_all(bytes)?;
                *length += bytes.len() as u64;
            }
        }
        Ok(())
    }
}

fn unnamed_file() -> io::Result<File> {
    let named = std::env::var_os("TMPDIR");
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for dir in named
        .as_deref()
        .into_iter()
        .map(Path::new)
        .chain(["/var/tmp", "/tmp"].map(Path::new))
    {
        match open_in(dir) {
            Ok(file) => return Ok(file),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open_in(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if let Ok(file) = options.clone().custom_flags(nix::libc::O_TMPFILE).open(dir) {
        return Ok(file);
    }
    // Without O_TMPFILE on this file system, the file needs a name for a moment.
    let stamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let path = dir.join(format!("runfcgi-body-{}-{stamp}", std::process::id()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_large_body_moves_to_a_file() {
        let mut body = Body::default();
        let piece = [7u8; 1000];
        for _ in 0..100 {
            body.push(&piece).unwrap();
        }
        assert_eq!(body.length(), 100_000);
        let Body::File(file, _) = &body else {
            panic!("still in memory")
        };
        let mut read = vec![0; 100_000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read.iter().all(|b| *b == 7));
    }
}
