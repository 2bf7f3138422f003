//! The status file of this front, for `status` and the status page. It is written in place at most once a second, and
//! only when something has changed or a reader might think that we hang. We hold its lock for as long as we live.

use super::Role;
use crate::environ::describe;
use crate::failure::first_line;
use crate::pairs::Pairs;
use crate::reload::Reload;
use crate::rundir::{Entry, RuntimeDir, is_at};
use crate::status::collect::{millis, read};
use crate::status::command::site_name;
use crate::status::{
    Count, Counters, FrontState, History, Note, RunningRequest, Snapshot, Worker, WorkerState,
    one_line,
};
use crate::sys::procfs::start_time;
use crate::traffic::{Incident, Traffic};
use crate::workers::Workers;
use crate::workers::process::{Process, ProcessNo};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The file is written at most this often.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The file is written at least this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How many dead workers are remembered, as their socket and their parent each report the death.
const MAX_RECENT_DEATHS: usize = 16;

/// The counts of this front, and its status file.
pub(super) struct Report {
    counters: Counters,
    history: History,
    /// The last failure of each worker.
    failures: BTreeMap<ProcessNo, String>,
    /// Pids of the workers that died last, newest first.
    recent_deaths: VecDeque<i32>,
    last_death: Option<Note>,
    last_failure: Option<Note>,
    started: u64,
    start_ticks: u64,
    config: String,
    file: Option<(File, PathBuf)>,
    /// The file of the previous process image, still locked.
    inherited: Option<File>,
    /// The last text that was written, without its time.
    last: String,
    written: Option<Instant>,
    next: Option<Instant>,
    /// A failed write has been logged.
    write_failed: bool,
}

/// The sources of a report.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub role: Role,
    pub reload: &'a Reload,
    pub traffic: &'a Traffic,
    pub workers: &'a Workers,
}

impl Report {
    /// An empty report; `inherited` is the status file of the previous process image, whose counts are continued.
    pub(super) fn new(settings: &Path, inherited: Option<OwnedFd>) -> Report {
        Report {
            counters: Counters::default(),
            history: History::default(),
            failures: BTreeMap::new(),
            recent_deaths: VecDeque::new(),
            last_death: None,
            last_failure: None,
            started: now_ms(),
            start_ticks: start_ticks(std::process::id()),
            config: site_name(settings),
            file: None,
            inherited: inherited.map(File::from),
            last: String::new(),
            written: None,
            next: None,
            write_failed: false,
        }
    }

    /// The settings file, which identifies the site, has changed.
    pub(super) fn set_site(&mut self, settings: &Path) {
        self.config = site_name(settings);
    }

    /// The name by which this front and its siblings know the site.
    pub(super) fn site_name(&self) -> &str {
        &self.config
    }

    /// Adds to a count.
    pub(super) fn count(&mut self, count: Count, more: u64) {
        self.counters.add(count, more);
    }

    /// Counts a request for the app.
    pub(super) fn request(&mut self) {
        self.count(Count::Requests, 1);
        self.history.request(now_ms());
    }

    /// Counts a response.
    pub(super) fn answered(&mut self, status: u16) {
        if status >= 500 {
            self.count(Count::ServerErrors, 1);
            self.history.failure(now_ms());
        }
    }

    /// A worker has died unexpectedly, and `how` is known. `lost` may tell of the same death before or after.
    pub(super) fn death(&mut self, pid: i32, how: &str) {
        if !self.has_died(pid) {
            self.count(Count::WorkerDeaths, 1);
            self.recent_deaths.truncate(MAX_RECENT_DEATHS - 1);
            self.recent_deaths.push_front(pid);
        }
        self.last_death = note(&format!("worker {pid} {how}"));
    }

    /// The socket of a worker has closed unexpectedly.
    pub(super) fn lost(&mut self, pid: i32) {
        if !self.has_died(pid) {
            self.death(pid, "ended by itself");
        }
    }

    /// Whether this worker is known to have died unexpectedly a short while ago.
    pub(super) fn has_died(&self, pid: i32) -> bool {
        self.recent_deaths.contains(&pid)
    }

    /// The app could not be imported.
    pub(super) fn boot_failure(&mut self, reason: &str) {
        self.count(Count::BootFailures, 1);
        self.last_failure = note(&format!(
            "the app cannot be imported: {}",
            first_line(reason)
        ));
    }

    /// Removes the file, as this process exits.
    pub(super) fn close(&mut self) {
        if let Some((_file, path)) = self.file.take() {
            let _ = fs::remove_file(path);
        }
    }

    /// The open file for the next process image, so that the lock is never free.
    pub(super) fn hand_over(&mut self) -> Option<OwnedFd> {
        self.file.take().map(|(file, _)| file.into())
    }

    /// Opens and locks the file. `None` when that must be tried again later.
    fn open(&mut self, dir: Option<&RuntimeDir>, pid: u32) -> Option<()> {
        let path = dir?.file(Entry::Status(pid));
        if let Some(file) = self.inherited.take() {
            self.take_over(&file, pid);
            if is_at(&file, &path) {
                self.file = Some((file, path));
                return Some(());
            }
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = options.truncate(false).mode(0o600).open(&path).ok()?;
        // A reader or a sweep may hold the lock for a moment.
        file.try_lock().ok()?;
        self.file = is_at(&file, &path).then_some((file, path));
        self.file.is_some().then_some(())
    }

    /// Continues the counts of the previous image of this process.
    fn take_over(&mut self, file: &File, pid: u32) {
        if let Some(before) = read(file).filter(|before| before.pid == pid) {
            self.counters.merge(&before.counters);
            self.count(Count::Restarts, 1);
            let mut history = before.history;
            history.advance(now_ms());
            self.history.advance(now_ms());
            self.history.merge(&history);
            self.last_death = self.last_death.take().or(before.last_death);
            self.last_failure = self.last_failure.take().or(before.last_failure);
            self.started = before.started;
        }
    }

    /// When to call `write` next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Writes the file unless nothing has changed. Returns a message for the log when that fails.
    pub(super) fn write(&mut self, sources: Sources<'_>, now: Instant) -> Option<String> {
        self.next = Some(now + MIN_INTERVAL);
        let pid = std::process::id();
        if self.file.is_none() {
            self.open(sources.workers.dir(), pid)?;
        }
        let mut snapshot = self.snapshot(sources, pid, now);
        let text = snapshot.encode();
        let recent = self.written.is_some_and(|at| now < at + HEARTBEAT);
        if recent && text == self.last {
            return None;
        }
        snapshot.written = now_ms();
        let mut message = None;
        if let Some((file, path)) = &self.file
            && let Err(error) = overwrite(file, snapshot.encode().as_bytes())
            && !std::mem::replace(&mut self.write_failed, true)
        {
            let path = path.display();
            message = Some(format!(
                "cannot write {path}: {error}; `status` shows outdated numbers of this process"
            ));
        }
        self.last = text;
        self.written = Some(now);
        message
    }

    /// A request has failed, in this worker if one had it.
    pub(super) fn failure(&mut self, failed: &Incident, process: Option<ProcessNo>) {
        let failure = &failed.failure;
        if failure.status() < 500 {
            return;
        }
        for count in failure.counts() {
            self.count(*count, 1);
        }
        let reason = failure.to_string();
        let mut text = format!("{}: {}", summary(&failed.environ), first_line(&reason));
        let last = failure.detail().map_or("", exception);
        if !last.is_empty() {
            text = format!("{text}: {last}");
        }
        let text = format!("{} (incident {})", one_line(&text), failed.incident);
        if let Some(process) = process {
            self.failures.insert(process, text.clone());
        }
        self.last_failure = note(&text);
    }

    fn snapshot(&mut self, sources: Sources<'_>, pid: u32, now: Instant) -> Snapshot {
        let Sources {
            reload, workers, ..
        } = sources;
        let pool = workers.pool();
        let roster = pool.roster();
        self.failures
            .retain(|number, _| roster.get(*number).is_some());
        let trouble = workers.unavailable_reason();
        let at = wall(now);
        let queue = pool.queue();
        let first = queue.first().and_then(|request| queue.since(request));
        Snapshot {
            pid,
            start_ticks: self.start_ticks,
            role: String::from(match sources.role {
                Role::Spawned { mod_fcgid: true } => "mod_fcgid",
                Role::Spawned { .. } => "spawned",
                Role::External => "external",
                Role::Cgi => "cgi",
            }),
            version: String::from(env!("CARGO_PKG_VERSION")),
            code: workers.generations().version().to_owned(),
            config: self.config.clone(),
            started: self.started,
            written: 0,
            state: match reload {
                _ if trouble.is_some() => FrontState::Fault,
                reload if reload.is_steady() => FrontState::Serving,
                reload if reload.is_draining() && !reload.drains_for_exec() => FrontState::Leaving,
                _ => FrontState::Restarting,
            },
            trouble: one_line(trouble.as_deref().map(first_line).unwrap_or_default()),
            connections: sources.traffic.connections().in_use() as u64,
            spooled: sources.traffic.spooled(),
            queued: queue.waiting() as u64,
            queued_since: first.map_or(0, &at),
            max_workers: workers.sizes().max as u64,
            counters: self.counters,
            last_death: self.last_death.clone(),
            last_failure: self.last_failure.clone(),
            workers: roster
                .iter()
                .map(|(number, process)| self.worker(workers, number, process, &at))
                .collect(),
            history: self.history.clone(),
        }
    }

    fn worker(
        &self,
        workers: &Workers,
        number: ProcessNo,
        process: &Process,
        at: &impl Fn(Instant) -> u64,
    ) -> Worker {
        let pool = workers.pool();
        let serving = |request| {
            Some(RunningRequest {
                since: at(pool.queue().since(request)?),
                summary: summary(workers.environ(request)?),
            })
        };
        let requests: Vec<RunningRequest> = process.requests().filter_map(serving).collect();
        let pid = process.pid().and_then(|pid| u32::try_from(pid).ok());
        Worker {
            pid: pid.unwrap_or(0),
            state: match (process.pid(), process.is_retiring(), requests.is_empty()) {
                (None, ..) => WorkerState::Starting,
                (_, _, false) => WorkerState::Busy,
                (_, true, _) => WorkerState::Leaving,
                _ => WorkerState::Idle,
            },
            served: process.served(),
            started: at(process.born()),
            outdated: process.generation() < pool.current(),
            failure: self.failures.get(&number).cloned().unwrap_or_default(),
            requests,
        }
    }
}

/// Writes the text in place. What makes the file longer goes first: if there is no room for it, the old text stays whole.
fn overwrite(file: &File, text: &[u8]) -> io::Result<()> {
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let (inside, beyond) = text.split_at(there.min(text.len()));
    file.write_all_at(beyond, inside.len() as u64)?;
    file.write_all_at(inside, 0)
}

/// Converts times of the loop's clock to milliseconds since 1970, rounded to tenths of a second so that the drift
/// between the two clocks is not taken for a change.
fn wall(now: Instant) -> impl Fn(Instant) -> u64 {
    let base = now_ms();
    move |moment| {
        let before = now.saturating_duration_since(moment).as_millis() as u64;
        (base.saturating_sub(before) + 50) / 100 * 100
    }
}

/// Method and path. The query may hold secrets.
pub(super) fn summary(environ: &Pairs) -> String {
    let line = describe(environ);
    one_line(line.split('?').next().unwrap_or_default())
}

/// The name of the exception at the end of a traceback, without its text, which may quote what a visitor sent.
fn exception(traceback: &str) -> &str {
    let last = traceback.trim_end().lines().last().unwrap_or_default();
    let name = last.trim().split(':').next().unwrap_or_default();
    let is_name = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
    if is_name { name } else { "" }
}

fn note(text: &str) -> Option<Note> {
    Some(Note {
        at: now_ms(),
        text: one_line(text),
    })
}

fn start_ticks(pid: u32) -> u64 {
    i32::try_from(pid).map_or(0, start_time)
}

fn now_ms() -> u64 {
    millis(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_visitor_sent_is_reported() {
        let mut environ = Pairs::new();
        environ.push(b"REQUEST_METHOD", b"GET");
        environ.push(b"REQUEST_URI", b"/reset?token=secret");
        assert_eq!(summary(&environ), "GET /reset");
        let traceback = "Traceback (most recent call last):\n  File \"a.py\"\ndjango.db.Error: password 'secret'\n";
        assert_eq!(exception(traceback), "django.db.Error");
        assert_eq!(exception("KeyboardInterrupt\n"), "KeyboardInterrupt");
        assert_eq!(exception("  secret words\n"), "");
    }
}
