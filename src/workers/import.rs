//! `Import`: a process that was started to import the app, from its start until it is known how that went.
//!
//! The front that has started it is its parent, and so learns its exit status; the others see no more than that their
//! connection ends. So the front that started it keeps the lock meanwhile, and leaves the reason in the lock file for
//! those who take the lock next.

use crate::rundir::{FAILED, RuntimeDir, holder, is_at};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

const IMPORTER: &str = "the process that imports the app";
/// What is told of the output of a process, from its end.
pub const TAIL: usize = 8 << 10;

/// See above.
#[derive(Debug)]
pub struct Import {
    /// The process.
    pub pid: Pid,
    /// How it has ended.
    pub ended: Option<WaitStatus>,
    lock: File,
    dir: RuntimeDir,
    lock_path: PathBuf,
    /// What it writes to.
    outputs: Vec<File>,
}

impl Import {
    /// `pid` has got this lock, and writes to these files.
    pub fn new(
        pid: Pid,
        lock: File,
        dir: RuntimeDir,
        lock_path: PathBuf,
        outputs: Vec<File>,
    ) -> Import {
        Import {
            pid,
            ended: None,
            lock,
            dir,
            lock_path,
            outputs,
        }
    }

    /// Why there is no app: what it wrote last, and how it ended.
    pub fn reason(&self, how: &str) -> String {
        let mut said = Vec::new();
        for output in &self.outputs {
            said.extend(tail_of(output).unwrap_or_default());
        }
        match self.dir.has_room() {
            Err(error) if said.is_empty() => {
                reason(&said, &format!("{how}; what it wrote is lost: {error}"))
            }
            _ => reason(&said, how),
        }
    }

    /// Whether another process goes on in its place: it has written its own pid into the lock file.
    pub fn is_succeeded(&self) -> bool {
        let mut text = [0; 16];
        let length = self.lock.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        let (pid, _) = holder(&text);
        pid.is_some_and(|pid| pid != self.pid.as_raw())
    }

    /// Leaves the reason to the other fronts, and gives the lock back.
    pub fn tell_others(self, reason: &str) {
        if is_at(&self.lock, &self.lock_path) && self.lock.set_len(0).is_ok() {
            // Whoever does not find it tries for itself.
            let _ = self.lock.write_all_at(FAILED.as_bytes(), 0);
            let _ = self
                .lock
                .write_all_at(reason.as_bytes(), FAILED.len() as u64);
        }
    }
}

/// Why the last holder of this lock could not import the app, when that is no older than `age`.
pub fn told(lock: &File, age: Duration) -> Option<String> {
    let written = lock.metadata().ok()?.modified().ok()?;
    if written.elapsed().is_ok_and(|since| since >= age) {
        return None;
    }
    let mut text = Vec::new();
    let mut lock = lock;
    io::Seek::rewind(&mut lock).ok()?;
    lock.take(2 * TAIL as u64).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(text.strip_prefix(FAILED)?.to_owned())
}

/// Why there is no app: what the process wrote last, and how it ended.
pub fn reason(said: &[u8], how: &str) -> String {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    match said.lines().count() {
        0 => format!("{IMPORTER} {how}"),
        1 => format!("{IMPORTER} {how}: {said}"),
        _ => format!("{said}\n{IMPORTER} {how}"),
    }
}

/// Goes on with what a process has written, as far back as is told.
pub fn keep_tail(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    said.drain(..said.len().saturating_sub(TAIL));
}

/// How a process has ended, in words.
pub fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exited with status {code}"),
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => {
            String::from("was killed (SIGKILL): for want of memory, or by hand")
        }
        WaitStatus::Signaled(_, signal, _) => format!("was ended by {signal}"),
        _ => String::from("has ended"),
    }
}

/// Whether somebody else has ended it, so that it may go well the next time.
pub fn is_from_outside(status: WaitStatus) -> bool {
    use Signal::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
    matches!(
        status,
        WaitStatus::Signaled(_, SIGKILL | SIGTERM | SIGINT | SIGHUP, _)
    )
}

fn tail_of(file: &File) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.size();
    let kept = size.min(TAIL as u64);
    let mut text = vec![0; kept as usize];
    let length = file.read_at(&mut text, size - kept)?;
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs::OpenOptions;

    #[test]
    fn the_reason_ends_with_how_it_ended() {
        let of = |said: &[u8]| reason(said, "exited with status 3");
        let how = "the process that imports the app exited with status 3";
        assert_eq!(of(b" \n"), how);
        assert_eq!(of(b"no licence\n"), format!("{how}: no licence"));
        assert_eq!(of(b"one\ntwo\n"), format!("one\ntwo\n{how}"));
        let mut said = vec![b'a'; TAIL];
        keep_tail(&mut said, b"end");
        assert!(said.len() == TAIL && said.ends_with(b"aend"));
    }

    #[test]
    fn what_one_front_has_learnt_is_told_for_a_while() {
        let dir = Scratch::new("import-told");
        dir.mode("", 0o700);
        let runtime = RuntimeDir::open(Some(&dir), &dir, b"").unwrap();
        let path = dir.write("v.lock", "4711", 0o600);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let minute = Duration::from_secs(60);
        assert_eq!(told(&open().unwrap(), minute), None);
        let log = File::open(dir.write("log", "last words", 0o600)).unwrap();
        let new = |pid| {
            let outputs = vec![log.try_clone().unwrap()];
            let lock = open().unwrap();
            Import::new(
                Pid::from_raw(pid),
                lock,
                runtime.clone(),
                path.clone(),
                outputs,
            )
        };
        assert!(new(4712).is_succeeded() && !new(4711).is_succeeded());
        let reason = new(4711).reason("was ended by SIGSEGV");
        assert!(reason.ends_with("was ended by SIGSEGV: last words"));
        new(4711).tell_others(&reason);
        assert_eq!(told(&open().unwrap(), minute), Some(reason));
        assert_eq!(told(&open().unwrap(), Duration::ZERO), None);
    }
}
