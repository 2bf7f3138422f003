//! The task process: takes the site's task lock, runs the task's commands and records their output. `Runner` starts
//! each command in a process group of its own, so that stopping it also stops whatever it has started.
//!
//! Nothing else in `owner` blocks.

use super::job::Job;
use super::task::{self, MAX_OUTPUT, State, Task};
use super::work;
use crate::rundir::{Entry, RuntimeDir};
use crate::status::collect::millis;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long a task may run. Installing packages over a slow network and onto a slow disk takes minutes.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How often to check for the end of the command, for a request to stop and for the lock.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How many times to try for the lock, one `POLL_INTERVAL` apart.
const LOCK_TRIES: usize = 20;
/// How long a command may take to end after SIGTERM, before SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long to go on reading output after the command has ended, while processes that it left behind hold the pipe
/// open.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);
/// Marks where output was truncated.
const TRUNCATED: &[u8] = b"\n[there is more, which is not kept]\n";

/// Runs the job that comes over standard input. Returns the exit status.
pub fn run() -> u8 {
    match Job::receive() {
        Ok(Some(job)) => u8::from(run_job(&job).is_err()),
        Ok(None) => 0,
        Err(_) => 1,
    }
}

/// Runs the job and saves its outcome. None: another task of the site is running.
fn run_job(job: &Job) -> io::Result<Option<()>> {
    let dir = RuntimeDir::of(&job.dir);
    dir.recreate()?;
    let Some(_lock) = lock(&dir)? else {
        return Ok(None);
    };
    let mut state = State::started(&job.word, millis(SystemTime::now()));
    let _ = fs::remove_file(dir.file(Entry::TaskStop));
    let mut files = vec![create_private(&dir.file(Entry::TaskOutput))?];
    state.save(&dir)?;
    let copy = match Task::named(&job.word) {
        Some(Task::Check) if job.output_copy.is_none() => Some(dir.file(Entry::CheckOutput)),
        _ => job.output_copy.clone(),
    };
    files.extend(copy.and_then(|copy| create_private(&copy).ok()));
    let mut runner = Runner {
        dir: &dir,
        output: Arc::new(Mutex::new(Output { files, length: 0 })),
        deadline: Instant::now() + TIME_LIMIT,
    };
    let result = work::perform(job, &mut runner);
    state.trouble = result.err().unwrap_or_default();
    state.ended = millis(SystemTime::now());
    let verdict = match state.trouble.as_str() {
        "" => "done",
        trouble => trouble,
    };
    if let Ok(mut output) = runner.output.lock() {
        output.write(format!("\n{verdict}\n").as_bytes());
    }
    state.save(&dir)?;
    Ok(Some(()))
}

/// Takes the site's task lock. Retries, because checking for a running task and sweeping hold it for a moment too.
fn lock(dir: &RuntimeDir) -> io::Result<Option<File>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = task::lock(dir)? {
            return Ok(Some(lock));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(None)
}

/// Replaces `path` by an empty file that only its owner may read.
fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// The files that get the output.
#[derive(Debug)]
struct Output {
    files: Vec<File>,
    /// Bytes of output so far, including what was dropped.
    length: u64,
}

impl Output {
    /// Appends up to `MAX_OUTPUT`, and drops the rest.
    fn append(&mut self, bytes: &[u8]) {
        let Some(room) = MAX_OUTPUT.checked_sub(self.length) else {
            return;
        };
        self.length += bytes.len() as u64;
        let fits = bytes.len().min(room as usize);
        self.write(&bytes[..fits]);
        if fits < bytes.len() {
            self.write(TRUNCATED);
        }
    }

    /// Appends regardless of the limit.
    fn write(&mut self, bytes: &[u8]) {
        for file in &mut self.files {
            // A full disk must not stop the task.
            let _ = file.write_all(bytes);
        }
    }
}

/// Runs the commands of one task, one after the other.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    dir: &'a RuntimeDir,
    output: Arc<Mutex<Output>>,
    deadline: Instant,
}

impl Runner<'_> {
    /// Appends text to the output.
    pub(super) fn report(&mut self, text: &str) {
        append(&self.output, text.as_bytes());
    }

    /// Runs a command with `input` as its standard input, appends its output and errors to ours, and waits for it to
    /// end. The error says how it failed. `input` is at most 64 KiB: a pipe holds that much, so writing it does not
    /// block.
    pub(super) fn run(&mut self, mut command: Command, input: &str) -> Result<(), String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (read, write) = io::pipe().map_err(|error| error.to_string())?;
        let errors = write.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::piped()).stdout(write).stderr(errors);
        let spawned = command.process_group(0).spawn();
        drop(command);
        let mut child = spawned.map_err(|error| format!("{name} cannot be started: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        let (copied, all_copied) = channel();
        let output = self.output.clone();
        thread::spawn(move || {
            copy(read, &output);
            let _ = copied.send(());
        });
        let status = self.wait(&mut child);
        let _ = all_copied.recv_timeout(OUTPUT_GRACE);
        // Kill whatever the command left running.
        let _ = killpg(process_group(&child), Signal::SIGKILL);
        match status? {
            status if status.success() => Ok(()),
            status => Err(match (status.code(), status.signal()) {
                (Some(code), _) => format!("failed with status {code}"),
                (_, Some(signal)) => format!("ended by signal {signal}"),
                _ => String::from("failed"),
            }),
        }
    }

    /// Waits for the command. Stops it when the owner asks for that or the time is up; the error says which.
    fn wait(&self, child: &mut Child) -> Result<ExitStatus, String> {
        loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                return Ok(status);
            }
            let why = match fs::remove_file(self.dir.file(Entry::TaskStop)) {
                Ok(()) => "stopped",
                Err(_) if Instant::now() >= self.deadline => {
                    "stopped: it took longer than 30 minutes"
                }
                Err(_) => "",
            };
            if !why.is_empty() {
                self.terminate(child);
                return Err(why.to_owned());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn terminate(&self, child: &mut Child) {
        let deadline = Instant::now() + TERM_GRACE;
        let _ = killpg(process_group(child), Signal::SIGTERM);
        while Instant::now() < deadline && !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            thread::sleep(POLL_INTERVAL);
        }
        let _ = killpg(process_group(child), Signal::SIGKILL);
        let _ = child.wait();
    }
}

fn process_group(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// Appends what can be read from the pipe, until all its writers have closed it.
fn copy(mut from: impl Read, to: &Mutex<Output>) {
    let mut piece = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        append(to, &piece[..length]);
    }
}

fn append(output: &Mutex<Output>, bytes: &[u8]) {
    if let Ok(mut output) = output.lock() {
        output.append(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn run(name: &str, time: Duration, script: &str) -> (Result<(), String>, String) {
        let scratch = Scratch::new(name);
        let dir = RuntimeDir::of(&scratch);
        let files = vec![create_private(&scratch.join("output")).unwrap()];
        let mut runner = Runner {
            dir: &dir,
            output: Arc::new(Mutex::new(Output { files, length: 0 })),
            deadline: Instant::now() + time,
        };
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let done = runner.run(command, "input\n");
        (done, fs::read_to_string(scratch.join("output")).unwrap())
    }

    #[test]
    fn a_command_runs_to_its_end() {
        let (done, output) = run("run", TIME_LIMIT, "cat; echo error >&2; exit 3");
        assert_eq!(done, Err(String::from("failed with status 3")));
        assert_eq!(output, "input\nerror\n");
        assert_eq!(run("run-well", TIME_LIMIT, "true").0, Ok(()));
    }

    #[test]
    fn the_time_limit_stops_whatever_was_started() {
        let begin = Instant::now();
        let script = "echo $$; sleep 600 & sleep 600";
        let (done, output) = run("run-long", Duration::from_millis(300), script);
        assert_eq!(
            done,
            Err(String::from("stopped: it took longer than 30 minutes"))
        );
        assert!(begin.elapsed() < TERM_GRACE + OUTPUT_GRACE);
        let group = Pid::from_raw(output.trim().parse().unwrap());
        let gone = || killpg(group, None).is_err();
        let until = Instant::now() + TERM_GRACE;
        while !gone() && Instant::now() < until {
            thread::sleep(POLL_INTERVAL);
        }
        assert!(gone(), "something of it is left");
    }

    #[test]
    fn output_is_limited() {
        let script = "head -c 3000000 /dev/zero | tr '\\0' 'x'";
        let (done, output) = run("run-much", TIME_LIMIT, script);
        assert_eq!(done, Ok(()));
        assert!(output.len() as u64 <= MAX_OUTPUT + 100 && output.ends_with("is not kept]\n"));
    }
}
