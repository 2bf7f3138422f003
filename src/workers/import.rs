//! `Import`: a process that was started to import the app, until it is known how that went.
//!
//! The front that started it is its parent, and so learns its exit status; the others only see their connection end. So
//! that front keeps the lock meanwhile, and leaves the reason for a failure in the lock file for the next holder.

use crate::codes::Code;
use crate::config::Config;
use crate::rundir::{FAILED, RuntimeDir, holder, is_at};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line for the log, and its code.
pub(super) type Note = (Code, String);

const IMPORTER: &str = "the process that imports the app";
/// Bytes of a process's output that are kept, from its end.
pub const TAIL: usize = 8 << 10;
/// What is read of it to find a stack of up to 100 lines for each thread.
const STACKS: usize = 64 << 10;

/// A child process that imports the app.
#[derive(Debug)]
pub struct Import {
    pid: Pid,
    /// Its exit status, once it has ended.
    status: Option<WaitStatus>,
    /// We have killed it.
    killed: bool,
    lock: File,
    dir: RuntimeDir,
    lock_path: PathBuf,
    /// What it writes to.
    outputs: Vec<File>,
}

impl Import {
    /// `pid` shares this lock, and writes to these files.
    pub fn new(
        pid: Pid,
        lock: File,
        dir: RuntimeDir,
        lock_path: PathBuf,
        outputs: Vec<File>,
    ) -> Import {
        Import {
            pid,
            status: None,
            killed: false,
            lock,
            dir,
            lock_path,
            outputs,
        }
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its exit status, once it has ended.
    pub fn status(&self) -> Option<WaitStatus> {
        self.status
    }

    /// A child has ended: whether it is this process.
    pub fn child_ended(&mut self, status: WaitStatus) -> bool {
        let ours = status.pid() == Some(self.pid);
        if ours {
            self.status = Some(status);
        }
        ours
    }

    /// The end of its output, up to so many bytes.
    fn output(&self, most: usize) -> Vec<u8> {
        let tails = self.outputs.iter().map(|file| tail_of(file, most));
        tails.flat_map(Result::unwrap_or_default).collect()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.killed = kill(self.pid, Signal::SIGKILL).is_ok();
    }

    /// Makes Python write its stack to its output.
    pub fn ask_for_stack(&self) {
        if self.status.is_none() {
            let _ = kill(self.pid, Signal::SIGUSR2);
        }
    }

    /// Why it was ended, and where it was.
    pub fn too_long(&self, config: &Config) -> String {
        too_long(config, &self.output(STACKS))
    }

    /// Why the import failed: the last output of the process, and how it ended.
    pub fn reason(&self, how: &str) -> String {
        let output = self.output(TAIL);
        match self.dir.has_room() {
            Err(error) if output.is_empty() => {
                reason(&output, &format!("{how}; what it wrote is lost: {error}"))
            }
            _ => reason(&output, how),
        }
    }

    /// Whether another process has taken over: it has written its own pid into the lock file.
    pub fn is_succeeded(&self) -> bool {
        let mut text = [0; 16];
        let length = self.lock.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        let (pid, _) = holder(&text);
        pid.is_some_and(|pid| pid != self.pid.as_raw())
    }

    /// Leaves the reason for the other fronts, and gives the lock back.
    pub fn publish(&self, reason: &str) {
        if is_at(&self.lock, &self.lock_path) && self.lock.set_len(0).is_ok() {
            // A front that finds no reason imports the app itself.
            let _ = self.lock.write_all_at(FAILED.as_bytes(), 0);
            let _ = self
                .lock
                .write_all_at(reason.as_bytes(), FAILED.len() as u64);
        }
    }
}

impl Drop for Import {
    /// Whoever leaves sweeps the lock file, so a process that was killed must have let go of it.
    fn drop(&mut self) {
        if self.killed && self.status.is_none() {
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Why the last holder of this lock could not import the app, if that was less than `age` ago.
pub fn published(lock: &File, age: Duration) -> Option<String> {
    let written = lock.metadata().ok()?.modified().ok()?;
    // An error means that the clock was set back.
    if written.elapsed().map_or(true, |since| since >= age) {
        return None;
    }
    let mut text = Vec::new();
    let mut lock = lock;
    io::Seek::rewind(&mut lock).ok()?;
    lock.take(2 * TAIL as u64).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(text.strip_prefix(FAILED)?.to_owned())
}

/// Why the import failed: the last output of the process, and how it ended.
pub fn reason(output: &[u8], how: &str) -> String {
    let output = String::from_utf8_lossy(output);
    match output.trim() {
        "" => format!("{IMPORTER} {how}"),
        line if line.lines().count() == 1 => format!("{IMPORTER} {how}: {line}"),
        lines => format!("{IMPORTER} {how}\n{lines}"),
    }
}

/// Why an import was ended: it took too long. `output` ends with the stack that it wrote, if it did.
pub fn too_long(config: &Config, output: &[u8]) -> String {
    let seconds = config.limits.start_timeout;
    let mut reason = format!("it took longer than {seconds} s ([limits] start_timeout)");
    let output = String::from_utf8_lossy(output);
    if let Some((line, stack)) = innermost(&output, config.app.path.as_deref()) {
        reason.push_str(&format!("; it was at {line}\n{stack}"));
    }
    reason
}

/// The innermost line of the app in the output of Python's faulthandler, else the innermost of all; and the whole stack.
fn innermost(text: &str, app: Option<&Path>) -> Option<(String, String)> {
    let begin = text
        .rfind("Current thread 0x")
        .or_else(|| text.rfind("Thread 0x"))?;
    let stack = text[begin..].trim_end();
    let lines: Vec<&str> = stack
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix("  File "))
        .collect();
    let of_app = |line: &&&str| {
        let path = line.trim_start_matches('"');
        app.is_some_and(|app| path.starts_with(&*app.to_string_lossy()))
    };
    let line = lines.iter().find(of_app).or_else(|| lines.first())?;
    Some(((*line).to_owned(), stack.to_owned()))
}

/// Appends `more` to the output of a process, and keeps the last `TAIL` bytes.
pub fn keep_tail(output: &mut Vec<u8>, more: &[u8]) {
    output.extend_from_slice(more);
    output.drain(..output.len().saturating_sub(TAIL));
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

/// Whether somebody else killed it, so that it may go well the next time.
pub fn is_from_outside(status: WaitStatus) -> bool {
    use Signal::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
    matches!(
        status,
        WaitStatus::Signaled(_, SIGKILL | SIGTERM | SIGINT | SIGHUP, _)
    )
}

fn tail_of(file: &File, most: usize) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.size();
    let kept = size.min(most as u64);
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
    use std::time::SystemTime;

    #[test]
    fn the_reason_begins_with_how_it_ended() {
        let of = |said: &[u8]| reason(said, "exited with status 3");
        let how = "the process that imports the app exited with status 3";
        assert_eq!(of(b" \n"), how);
        assert_eq!(of(b"no licence\n"), format!("{how}: no licence"));
        assert_eq!(of(b"one\ntwo\n"), format!("{how}\none\ntwo"));
        let mut said = vec![b'a'; TAIL];
        keep_tail(&mut said, b"end");
        assert!(said.len() == TAIL && said.ends_with(b"aend"));
    }

    #[test]
    fn the_innermost_line_of_the_app_is_found() {
        let stack = "Current thread 0x00007f (most recent call first):\n  File \"/usr/lib/socket.py\", line 7 in recv\n  \
                     File \"/home/u/app/views.py\", line 3 in <module>\n";
        let of = |app: &str| innermost(&format!("words\n{stack}"), Some(Path::new(app))).unwrap();
        let (line, all) = of("/home/u/app");
        assert_eq!(line, "\"/home/u/app/views.py\", line 3 in <module>");
        assert_eq!(all, stack.trim_end());
        assert_eq!(of("/elsewhere").0, "\"/usr/lib/socket.py\", line 7 in recv");
        assert_eq!(innermost("words", None), None);
    }

    #[test]
    fn a_failure_is_published_for_a_while() {
        let dir = Scratch::new("import-told");
        dir.mode("", 0o700);
        let runtime = RuntimeDir::open(Some(&dir), &dir, b"").unwrap();
        let path = dir.write("v.lock", "4711", 0o600);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let minute = Duration::from_secs(60);
        assert_eq!(published(&open().unwrap(), minute), None);
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
        assert!(
            reason.ends_with("was ended by SIGSEGV: last words"),
            "{reason}"
        );
        new(4711).publish(&reason);
        assert_eq!(published(&open().unwrap(), minute), Some(reason));
        assert_eq!(published(&open().unwrap(), Duration::ZERO), None);
        let hour = 60 * minute;
        open()
            .unwrap()
            .set_modified(SystemTime::now() + hour)
            .unwrap();
        assert_eq!(
            published(&open().unwrap(), minute),
            None,
            "the clock was set back"
        );
    }
}
