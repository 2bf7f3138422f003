//! `LogFile`: a log file that several processes append to and rotate.
//!
//! Each event is one write(2), so that lines of different processes do not mix. The process that finds the file full
//! renames it to `.1` (and that to `.2`) under a lock on the file. The others notice that the path leads to another file,
//! as they do after logrotate. Reads no clock: the time is an argument.

use crate::config::Config;
use crate::trust::Trust;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often to check that the path still leads to our file, and to retry opening it.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The mode of a new log: events may name visitors, and paths on the machine.
pub const PRIVATE: u32 = 0o600;

/// An error while appending an event.
#[derive(Debug)]
pub enum AppendError {
    /// The event is lost.
    Lost(io::Error),
    /// The file can be neither rotated nor reopened. The event went to the file that is open.
    Stuck(io::Error),
}

/// An append-only file of at most about `max_size` bytes, and its two predecessors.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_size: u64,
    trust: Trust,
    /// The mode of a new file: that of the one that was rotated.
    mode: u32,
    file: Option<File>,
    checked: Option<SystemTime>,
}

impl LogFile {
    /// The file is opened at the first event, if `trust` allows it; a new one only our user can read. With a `max_size` of
    /// 0 it is never rotated.
    pub fn new(path: PathBuf, max_size: u64, trust: Trust) -> LogFile {
        LogFile {
            path,
            max_size,
            trust,
            mode: PRIVATE,
            file: None,
            checked: None,
        }
    }

    /// The same, with the size and the trust of these settings. None: there is no path.
    pub fn of(config: &Config, path: &Option<PathBuf>) -> Option<LogFile> {
        let trust = Trust::of(config.owned_by);
        Some(LogFile::new(path.clone()?, config.log.max_size, trust))
    }

    /// Whether both have the same path and size limit.
    pub fn is_same(&self, other: &LogFile) -> bool {
        (&self.path, self.max_size) == (&other.path, other.max_size)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an event with one write. While the file cannot be opened, events are lost; only those that try to open it
    /// return the error.
    pub fn append(&mut self, now: SystemTime, event: &[u8]) -> Result<(), AppendError> {
        let ready = self
            .check(now)
            .and_then(|()| self.make_room(event.len() as u64));
        match &mut self.file {
            Some(file) => {
                file.write(event).map_err(AppendError::Lost)?;
                ready.map_err(AppendError::Stuck)
            }
            None => ready.map_err(AppendError::Lost),
        }
    }

    /// Opens the file, or reopens it if it has been moved.
    fn check(&mut self, now: SystemTime) -> io::Result<()> {
        let due = self.checked.is_none_or(|checked| {
            // An error means that the clock was set back.
            now.duration_since(checked)
                .map_or(true, |past| past >= CHECK_INTERVAL)
        });
        if !due {
            return Ok(());
        }
        self.checked = Some(now);
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
            // Another process is rotating it; this event still goes to the old file.
            return Ok(());
        }
        let mode = own.mode() & 0o666;
        let moved = if self.is_current() {
            self.shift()
        } else {
            Ok(())
        };
        // Unlock explicitly, as a newly forked child shares the open file description.
        let unlocked = file.unlock();
        moved?;
        unlocked?;
        self.mode = mode;
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

    /// Opens the file at the path; the old one stays open if that fails.
    fn open(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(self.mode);
        self.file = Some(self.trust.open(&mut options, &self.path)?);
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
        let mut log = LogFile::new(dir.join("a.log"), 11, Trust::of(None));
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
    fn a_new_file_gets_the_mode_of_the_rotated_one() {
        let dir = Scratch::new("log-mode");
        let path = dir.write("a.log", "one\n", 0o640);
        let mut log = LogFile::new(path.clone(), 8, Trust::of(None));
        for event in ["two\n", "three\n"] {
            log.append(at(0), event.as_bytes()).unwrap();
        }
        assert_eq!(dir.read("a.log"), "three\n");
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_file_moved_away_is_noticed() {
        let dir = Scratch::new("log-moved");
        let mut log = LogFile::new(dir.join("a.log"), 0, Trust::of(None));
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
        let mut log = LogFile::new(dir.join("a.log"), 8, Trust::of(None));
        dir.write("a.log.1/in the way", "", 0o644);
        dir.write("a.log.2/in the way", "", 0o644);
        log.append(at(0), b"one two\n").unwrap();
        for event in ["three\n", "four\n"] {
            let result = log.append(at(0), event.as_bytes());
            assert!(matches!(result, Err(AppendError::Stuck(_))), "{result:?}");
        }
        assert_eq!(dir.read("a.log"), "one two\nthree\nfour\n");
        std::fs::remove_dir_all(dir.join("a.log.2")).unwrap();
        log.append(at(0), b"five\n").unwrap();
        assert_eq!(dir.read("a.log"), "five\n");
        assert_eq!(dir.read("a.log.1"), "one two\nthree\nfour\n");
    }

    #[test]
    fn the_old_file_is_used_while_no_new_one_can_be_created() {
        let dir = Scratch::new("log-old");
        let path = dir.write("sub/a.log", "", 0o600);
        let mut log = LogFile::new(path, 0, Trust::of(None));
        log.append(at(0), b"one\n").unwrap();
        std::fs::rename(dir.join("sub"), dir.join("moved")).unwrap();
        let result = log.append(at(3), b"two\n");
        assert!(matches!(result, Err(AppendError::Stuck(_))), "{result:?}");
        log.append(at(4), b"three\n").unwrap();
        assert_eq!(dir.read("moved/a.log"), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_missing_directory_is_reported_at_each_attempt_to_open() {
        let dir = Scratch::new("log-missing");
        let mut log = LogFile::new(dir.join("sub/a.log"), 0, Trust::of(None));
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
                // Each has its own open file description, like separate processes.
                let mut log = LogFile::new(dir.join("a.log"), 12_000, Trust::of(None));
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
