//! `Spool`: bytes that wait on disk: large bodies of requests, and responses that their readers do not take yet.
//!
//! They lie in unnamed files, whose space is free again as soon as nobody needs them. All files together stay within a
//! budget, and leave a part of the file system to others.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::fstatvfs;
use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

/// After this many bytes of a file, look again how much space is free.
const LOOK_EVERY: u64 = 1 << 20;
/// After this many bytes have been taken from a file, free their space.
const FREE_EVERY: u64 = 1 << 20;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A request's body.
    Body,
    /// A response. Responses leave half of the budget to bodies: a response can wait with its worker, a body cannot.
    Response,
}

/// Why bytes cannot be kept.
#[derive(Debug)]
pub enum Full {
    /// They exceed the whole budget, of this many bytes.
    Never(u64),
    /// This many bytes of the budget are in use.
    Now(u64),
    /// This many files are open already.
    Files(usize),
    /// Of this many free bytes of the file system, so many must stay free.
    Disk(u64, u64),
    /// The system refuses.
    System(io::Error),
}

/// The budget of all files, and where they are opened.
#[derive(Clone, Debug)]
pub struct Spool(Rc<Budget>);

#[derive(Debug)]
struct Budget {
    limit: Cell<u64>,
    free: Cell<u64>,
    used: Cell<u64>,
    files: Cell<usize>,
    /// How many files there may be.
    most: Cell<usize>,
    /// Bytes or files have gone since `has_freed`.
    freed: Cell<bool>,
}

/// An unnamed file: bytes are appended at its end and taken from its beginning.
#[derive(Debug)]
pub struct SpoolFile {
    file: File,
    content: Content,
    spool: Spool,
    /// The offset of the first byte that was not taken.
    taken: u64,
    /// The offset behind the last byte.
    end: u64,
    /// Up to this offset, space was freed.
    freed: u64,
    /// At this offset, look how much space is free.
    look_at: u64,
    /// The file system cannot free a part of a file.
    whole: bool,
}

impl Spool {
    /// All files may hold `limit` bytes, and leave `free` bytes of their file system free.
    pub fn new(limit: u64, free: u64) -> Spool {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, 0));
        Spool(Rc::new(Budget {
            limit: Cell::new(limit),
            free: Cell::new(free),
            used: Cell::new(0),
            files: Cell::new(0),
            most: Cell::new(usize::try_from(descriptors / 2).unwrap_or(usize::MAX)),
            freed: Cell::new(false),
        }))
    }

    /// Changes the limits.
    pub fn limit(&self, limit: u64, free: u64) {
        self.0.limit.set(limit);
        self.0.free.set(free);
    }

    /// Changes how many files there may be: the other descriptors are for connections and workers.
    pub fn limit_files(&self, most: usize) {
        self.0.most.set(most);
    }

    /// The largest number of bytes of a body.
    pub fn largest(&self) -> u64 {
        self.0.limit.get()
    }

    /// The number of bytes that all files hold.
    pub fn used(&self) -> u64 {
        self.0.used.get()
    }

    /// Whether there is more room than before. Says so once.
    pub fn has_freed(&self) -> bool {
        self.0.freed.take()
    }

    /// An empty file.
    pub fn open(&self, content: Content) -> Result<SpoolFile, Full> {
        self.admit(content, 0, 1)?;
        let files = self.0.files.get();
        let share = match content {
            Content::Body => 1,
            Content::Response => 2,
        };
        if files >= self.0.most.get() / share {
            return Err(Full::Files(files));
        }
        let named = std::env::var_os("TMPDIR");
        let named = named.as_deref().map(Path::new);
        let mut last = Full::System(io::ErrorKind::NotFound.into());
        for dir in named.into_iter().chain(["/var/tmp", "/tmp"].map(Path::new)) {
            let opened = open_in(dir).map_err(Full::System);
            match opened.and_then(|file| self.look(&file, 0).map(|()| file)) {
                Ok(file) => {
                    self.0.files.set(files + 1);
                    return Ok(SpoolFile {
                        file,
                        content,
                        spool: self.clone(),
                        taken: 0,
                        end: 0,
                        freed: 0,
                        look_at: LOOK_EVERY,
                        whole: false,
                    });
                }
                Err(full) => last = full,
            }
        }
        Err(last)
    }

    /// Whether the budget has room for `more` bytes in a file that holds `held`.
    fn admit(&self, content: Content, held: u64, more: u64) -> Result<(), Full> {
        let limit = match content {
            Content::Body => self.0.limit.get(),
            Content::Response => self.0.limit.get() / 2,
        };
        if held.saturating_add(more) > limit {
            return Err(Full::Never(limit));
        }
        match self.used().saturating_add(more) > limit {
            true => Err(Full::Now(self.used())),
            false => Ok(()),
        }
    }

    /// Whether `more` bytes leave enough of the file system free.
    fn look(&self, file: &File, more: u64) -> Result<(), Full> {
        // A file system that does not tell is as large as need be.
        let Ok(found) = fstatvfs(file) else {
            return Ok(());
        };
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        let free = bytes(found.blocks_available());
        let keep = self.0.free.get().min(bytes(found.blocks()) / 10);
        match found.blocks() > 0 && free < keep.saturating_add(more) {
            true => Err(Full::Disk(free, keep)),
            false => Ok(()),
        }
    }

    fn charge(&self, bytes: u64) {
        self.0.used.set(self.used() + bytes);
    }

    fn give_back(&self, bytes: u64) {
        self.0.freed.set(true);
        self.0.used.set(self.used().saturating_sub(bytes));
    }
}

impl SpoolFile {
    /// The number of bytes that were not taken.
    pub fn length(&self) -> u64 {
        self.end - self.taken
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Appends all of these bytes, or none.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let more = bytes.len() as u64;
        self.spool
            .admit(self.content, self.end - self.freed, more)?;
        if self.end + more > self.look_at {
            self.spool.look(&self.file, more)?;
            self.look_at = self.end + more + LOOK_EVERY;
        }
        let written = self.file.write_all_at(bytes, self.end);
        written.map_err(Full::System)?;
        self.end += more;
        self.spool.charge(more);
        Ok(())
    }

    /// Takes bytes from the beginning into `buffer`. Returns how many: 0 if there are none.
    pub fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.length()).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..most], self.taken)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.taken += read as u64;
        self.free_taken();
        Ok(read)
    }

    /// Shortens the file to `length` bytes, if it is longer.
    pub fn truncate(&mut self, length: u64) -> io::Result<()> {
        let end = self.taken + length;
        if end < self.end {
            self.file.set_len(end)?;
            self.spool.give_back(self.end - end);
            self.end = end;
        }
        Ok(())
    }

    /// Frees the space of what was taken.
    fn free_taken(&mut self) {
        if self.taken == self.end {
            if self.file.set_len(0).is_ok() {
                self.spool.give_back(self.end - self.freed);
                (self.taken, self.end, self.freed) = (0, 0, 0);
                self.look_at = LOOK_EVERY;
            }
        } else if self.taken - self.freed >= FREE_EVERY && !self.whole {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (offset, length) = (self.freed as i64, (self.taken - self.freed) as i64);
            self.whole = fallocate(&self.file, flags, offset, length).is_err();
            if !self.whole {
                self.spool.give_back(self.taken - self.freed);
                self.freed = self.taken;
            }
        }
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.spool.give_back(self.end - self.freed);
        let files = &self.spool.0.files;
        files.set(files.get() - 1);
    }
}

/// The reason for the log, with the setting that limits.
impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Full::Never(limit) => {
                write!(f, "it is longer than [limits] spool allows ({limit} bytes)")
            }
            Full::Now(used) => write!(f, "{used} bytes are there already ([limits] spool)"),
            Full::Files(files) => write!(
                f,
                "{files} files are open already, enough of the descriptors (RLIMIT_NOFILE)"
            ),
            Full::Disk(free, keep) => write!(
                f,
                "{free} bytes are free on the disk, and {keep} stay free ([limits] spool_free)"
            ),
            Full::System(error) => error.fmt(f),
        }
    }
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
    let path = dir.join(format!("runfcgi-spool-{}-{stamp}", std::process::id()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn filled(spool: &Spool, content: Content, pieces: u8) -> SpoolFile {
        let mut file = spool.open(content).unwrap();
        for piece in 0..pieces {
            file.append(&vec![piece; MIB]).unwrap();
        }
        file
    }

    #[test]
    fn bytes_come_out_in_order_and_their_space_is_free_at_once() {
        let spool = Spool::new(16 << 20, 0);
        let mut file = filled(&spool, Content::Response, 5);
        assert_eq!((file.length(), spool.used()), (5 << 20, 5 << 20));
        let mut buffer = vec![0; 64 << 10];
        for taken in 0..5 * 16 {
            assert_eq!(file.take(&mut buffer).unwrap(), buffer.len());
            assert!(buffer.iter().all(|byte| *byte == (taken / 16) as u8));
            assert!(spool.used() <= file.length() + FREE_EVERY);
        }
        assert_eq!((file.take(&mut buffer).unwrap(), spool.used()), (0, 0));
        file.append(b"more").unwrap();
        assert_eq!(file.take(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"more");
    }

    #[test]
    fn all_files_share_a_budget() {
        let spool = Spool::new(8 << 20, 0);
        let response = filled(&spool, Content::Response, 3);
        let mut other = filled(&spool, Content::Response, 1);
        assert!(matches!(other.append(b"x"), Err(Full::Now(_))));
        assert!(matches!(spool.open(Content::Response), Err(Full::Now(_))));
        // Half of it is for bodies.
        let mut body = filled(&spool, Content::Body, 4);
        assert!(matches!(body.append(b"x"), Err(Full::Now(_))));
        drop(response);
        body.append(b"x").unwrap();
        assert!(matches!(
            body.append(&vec![0; 4 * MIB]),
            Err(Full::Never(_))
        ));
        body.truncate(1).unwrap();
        assert_eq!(spool.used(), 1 + MIB as u64);
        drop((body, other));
        assert_eq!(spool.used(), 0);
        spool.limit(0, 0);
        assert!(matches!(spool.open(Content::Body), Err(Full::Never(0))));
    }

    #[test]
    fn files_leave_descriptors_to_others() {
        let spool = Spool::new(1 << 20, 0);
        spool.limit_files(4);
        let mut open: Vec<_> = (0..2).map(|_| spool.open(Content::Response)).collect();
        assert!(matches!(spool.open(Content::Response), Err(Full::Files(2))));
        open.extend((0..2).map(|_| spool.open(Content::Body)));
        assert!(open.iter().all(Result::is_ok));
        assert!(matches!(spool.open(Content::Body), Err(Full::Files(4))));
        open.clear();
        assert!(spool.open(Content::Response).is_ok());
    }

    #[test]
    fn a_part_of_the_disk_stays_free() {
        let spool = Spool::new(u64::MAX, u64::MAX);
        // It is a tenth of the disk at most.
        let file = spool.open(Content::Body);
        let found = fstatvfs(File::open("/var/tmp").unwrap()).unwrap();
        let has_room = found.blocks_available() > found.blocks() / 10;
        assert!(file.is_ok() || !has_room);
        if let Ok(file) = file {
            let all = found.blocks_available() * found.fragment_size();
            assert!(matches!(spool.look(&file.file, all), Err(Full::Disk(..))));
        }
    }
}
