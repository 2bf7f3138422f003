//! `LogFile`: a log file that several processes append to, and that rotates itself.
//!
//! One write(2) for each event, so lines of different processes do not mix. Whoever finds the file full moves it to
//! `.1` (and that to `.2`) under a lock on the file itself; the others notice that their file is no longer the one at
//! the path, as they do when logrotate has moved it. Reads no clock: the time is an argument.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often we look whether the file at the path is still ours, and try again to open one that would not open.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is wrong with a log file.
#[derive(Debug)]
pub enum Trouble {
    /// The event is lost.
    Lost(io::Error),
    /// The file can be neither rotated nor opened anew: the event was written to the one that is open.
    Stuck(io::Error),
}

/// An append-only file of at most about `max_size` bytes, and its two predecessors.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_size: u64,
    mode: u32,
    file: Option<File>,
    looked: Option<SystemTime>,
}

impl LogFile {
    /// Opens nothing yet. `max_size` 0: never rotated.
    pub fn new(path: PathBuf, max_size: u64) -> LogFile {
        LogFile {
            path,
            max_size,
            mode: 0o600,
            file: None,
            looked: None,
        }
    }

    /// The mode of a file that is made anew, less the umask; else only its owner may read it.
    pub fn with_mode(self, mode: u32) -> LogFile {
        LogFile { mode, ..self }
    }

    /// Whether it is at the same place and rotated at the same size.
    pub fn is_like(&self, other: &LogFile) -> bool {
        (&self.path, self.max_size) == (&other.path, other.max_size)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one event in one write. While no file can be opened, events are lost: `Err` each time it is tried, `Ok`
    /// in between.
    pub fn append(&mut self, now: SystemTime, event: &[u8]) -> Result<(), Trouble> {
        let ready = self
            .look(now)
            .and_then(|()| self.make_room(event.len() as u64));
        match &mut self.file {
            Some(file) => {
                file.write(event).map_err(Trouble::Lost)?;
                ready.map_err(Trouble::Stuck)
            }
            None => ready.map_err(Trouble::Lost),
        }
    }

    fn look(&mut self, now: SystemTime) -> io::Result<()> {
        let due = self.looked.is_none_or(|looked| {
            // An error means that the clock was set back.
            now.duration_since(looked)
                .map_or(true, |past| past >= LOOK_EVERY)
        });
        if !due {
            return Ok(());
        }
        self.looked = Some(now);
        if !self.is_current() {
            self.open()?;
        }
        Ok(())
    }

    fn make_room(&mut self, more: u64) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let own = file.metadata()?;
        let fits = own.len() == 0 || own.len() + more <= self.max_size;
        if self.max_size == 0 || fits || !own.is_file() {
            return Ok(());
        }
        if file.try_lock().is_err() {
            // Another process is moving it; this event goes where the last ones went.
            return Ok(());
        }
        let moved = if self.is_current() {
            self.shift()
        } else {
            Ok(())
        };
        // Unlocked by hand: a child that was just forked holds the same open file description.
        let unlocked = file.unlock();
        moved?;
        unlocked?;
        self.open()
    }

    fn shift(&self) -> io::Result<()> {
        let older = self.predecessor(1);
        match std::fs::rename(&older, self.predecessor(2)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::rename(&self.path, older)
    }

    fn predecessor(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn is_current(&self) -> bool {
        let identity = |data: Metadata| (data.dev(), data.ino());
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = std::fs::metadata(&self.path).ok();
        ours.is_some() && ours.map(identity) == there.map(identity)
    }

    /// Until the new file is there, the old one stays.
    fn open(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(self.mode)
            .open(&self.path)?;
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn it_rotates_and_keeps_two() {
        let dir = Scratch::new("log-rotate");
        let mut log = LogFile::new(dir.join("a.log"), 11);
        for event in [
            "one\n",
            "two\n",
            "three\n",
            "four\n",
            "a very long one\n",
            "six\n",
        ] {
            log.append(at(0), event.as_bytes()).unwrap();
        }
        assert_eq!(dir.read("a.log"), "six\n");
        assert_eq!(dir.read("a.log.1"), "a very long one\n");
        assert_eq!(dir.read("a.log.2"), "three\nfour\n");
        let mode = std::fs::metadata(log.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_moved_away_is_noticed() {
        let dir = Scratch::new("log-moved");
        let mut log = LogFile::new(dir.join("a.log"), 0);
        log.append(at(0), b"one\n").unwrap();
        std::fs::rename(dir.join("a.log"), dir.join("b.log")).unwrap();
        log.append(at(1), b"two\n").unwrap();
        assert_eq!(dir.read("b.log"), "one\ntwo\n");
        log.append(at(2), b"three\n").unwrap();
        assert_eq!(dir.read("a.log"), "three\n");
        std::fs::remove_file(dir.join("a.log")).unwrap();
        log.append(at(4), b"four\n").unwrap();
        assert_eq!(dir.read("a.log"), "four\n");
    }

    #[test]
    fn a_file_that_cannot_be_rotated_loses_nothing() {
        let dir = Scratch::new("log-stuck");
        let mut log = LogFile::new(dir.join("a.log"), 8);
        dir.write("a.log.1/in the way", "", 0o644);
        dir.write("a.log.2/in the way", "", 0o644);
        log.append(at(0), b"one two\n").unwrap();
        for event in ["three\n", "four\n"] {
            let trouble = log.append(at(0), event.as_bytes());
            assert!(matches!(trouble, Err(Trouble::Stuck(_))), "{trouble:?}");
        }
        assert_eq!(dir.read("a.log"), "one two\nthree\nfour\n");
        std::fs::remove_dir_all(dir.join("a.log.2")).unwrap();
        log.append(at(0), b"five\n").unwrap();
        assert_eq!(dir.read("a.log"), "five\n");
        assert_eq!(dir.read("a.log.1"), "one two\nthree\nfour\n");
    }

    #[test]
    fn where_no_new_file_can_be_made_the_old_one_takes_what_comes() {
        let dir = Scratch::new("log-old");
        let path = dir.write("sub/a.log", "", 0o600);
        let mut log = LogFile::new(path, 0);
        log.append(at(0), b"one\n").unwrap();
        std::fs::rename(dir.join("sub"), dir.join("moved")).unwrap();
        let trouble = log.append(at(3), b"two\n");
        assert!(matches!(trouble, Err(Trouble::Stuck(_))), "{trouble:?}");
        log.append(at(4), b"three\n").unwrap();
        assert_eq!(dir.read("moved/a.log"), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_missing_directory_is_told_now_and_then() {
        let dir = Scratch::new("log-missing");
        let mut log = LogFile::new(dir.join("sub/a.log"), 0);
        assert!(log.append(at(0), b"one\n").is_err());
        assert!(log.append(at(1), b"two\n").is_ok());
        assert!(log.append(at(3), b"three\n").is_err());
        std::fs::create_dir(dir.join("sub")).unwrap();
        log.append(at(6), b"four\n").unwrap();
        assert_eq!(dir.read("sub/a.log"), "four\n");
    }

    #[test]
    fn several_writers_lose_no_line_and_tear_none() {
        let dir = Scratch::new("log-several");
        let (writers, events) = (4, 300);
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                // Each with an open file description of its own, as processes have.
                let mut log = LogFile::new(dir.join("a.log"), 12_000);
                std::thread::spawn(move || {
                    for event in 0..events {
                        let line = format!("{writer} {event:04} {}\n", "x".repeat(10));
                        log.append(at(0), line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let all = dir.read("a.log.2") + &dir.read("a.log.1") + &dir.read("a.log");
        let mut seen: Vec<&str> = all.lines().collect();
        assert!(seen.iter().all(|line| line.len() == 17), "a torn line");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), writers * events);
        assert!(dir.join("a.log.1").exists());
    }
}
