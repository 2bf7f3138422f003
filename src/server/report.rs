//! What this front tells of itself: a file in the runtime directory, written in place at most once a second, and only
//! when something has changed or a reader might think that we hang. A lock on it says that we live.

use super::Role;
use crate::environ::describe;
use crate::failure::Failure;
use crate::pairs::Pairs;
use crate::reload::Reload;
use crate::rundir::{Entry, RuntimeDir, is_at};
use crate::status::collect::{millis, read};
use crate::status::command::site_name;
use crate::status::{
    Count, Counters, Doing, History, Note, Serving, Snapshot, State, Worker, one_line,
};
use crate::sys::procfs::start_time;
use crate::traffic::Traffic;
use crate::workers::Workers;
use crate::workers::process::{Process, ProcessNo};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is written at the most.
const EVERY: Duration = Duration::from_secs(1);
/// How often the file is written when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How many ends of workers may wait for their explanation.
const DEAD: usize = 16;

/// Counts, and the file.
pub(super) struct Report {
    counters: Counters,
    history: History,
    failures: BTreeMap<ProcessNo, String>,
    /// The last pids of those that died.
    dead: VecDeque<i32>,
    last_death: Option<Note>,
    last_failure: Option<Note>,
    started: u64,
    start_ticks: u64,
    config: String,
    file: Option<(File, PathBuf)>,
    /// The file of the image before this one, still locked.
    handed: Option<File>,
    /// What was written last, without its time.
    last: String,
    written: Option<Instant>,
    next: Option<Instant>,
    /// The log was told that the file cannot be written.
    lost: bool,
}

impl Report {
    /// Nothing has happened yet, but for what the file of the image before this one says.
    pub(super) fn new(settings: &Path, handed: Option<OwnedFd>) -> Report {
        Report {
            counters: Counters::default(),
            history: History::default(),
            failures: BTreeMap::new(),
            dead: VecDeque::new(),
            last_death: None,
            last_failure: None,
            started: now_ms(),
            start_ticks: start_ticks(std::process::id()),
            config: site_name(settings),
            file: None,
            handed: handed.map(File::from),
            last: String::new(),
            written: None,
            next: None,
            lost: false,
        }
    }

    /// The site is known by this settings file.
    pub(super) fn site_is(&mut self, settings: &Path) {
        self.config = site_name(settings);
    }

    /// Counts.
    pub(super) fn count(&mut self, count: Count, more: u64) {
        self.counters.add(count, more);
    }

    /// A request for the app has come in.
    pub(super) fn request(&mut self) {
        self.count(Count::Requests, 1);
        self.history.request(now_ms());
    }

    /// The head of an answer goes out.
    pub(super) fn answered(&mut self, status: u16) {
        if status >= 500 {
            self.count(Count::ServerErrors, 1);
            self.history.failure(now_ms());
        }
    }

    /// A worker has ended before its time, and this is how. What its socket tells, and what its parent tells, comes
    /// in any order.
    pub(super) fn death(&mut self, pid: i32, how: &str) {
        if !self.has_died(pid) {
            self.count(Count::WorkerDeaths, 1);
            self.dead.truncate(DEAD - 1);
            self.dead.push_front(pid);
        }
        self.last_death = note(&format!("worker {pid} {how}"));
    }

    /// A worker is gone, and nobody has said yet why.
    pub(super) fn lost(&mut self, pid: i32) {
        if !self.has_died(pid) {
            self.death(pid, "ended by itself");
        }
    }

    /// Whether the end of this worker is one of the last that came before their time.
    pub(super) fn has_died(&self, pid: i32) -> bool {
        self.dead.contains(&pid)
    }

    /// The app could not be imported.
    pub(super) fn boot_failure(&mut self, reason: &str) {
        self.count(Count::BootFailures, 1);
        self.last_failure = note(&format!(
            "the app cannot be imported: {}",
            last_line(reason)
        ));
    }

    /// This process ends: so does its file.
    pub(super) fn close(&mut self) {
        if let Some((_file, path)) = self.file.take() {
            let _ = fs::remove_file(path);
        }
    }

    /// For the next image: the lock must not be free for a moment.
    pub(super) fn hand_over(&mut self) -> Option<OwnedFd> {
        self.file.take().map(|(file, _)| file.into())
    }

    /// Makes the file ours.
    fn open(&mut self, dir: Option<&RuntimeDir>, pid: u32) -> Option<()> {
        let path = dir?.file(Entry::Status(pid));
        if let Some(file) = self.handed.take() {
            self.take_over(&file, pid);
            if is_at(&file, &path) {
                self.file = Some((file, path));
                return Some(());
            }
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = options.truncate(false).mode(0o600).open(&path).ok()?;
        // Whoever sweeps or reads has the lock for a moment: then the next time does it.
        file.try_lock().ok()?;
        self.file = is_at(&file, &path).then_some((file, path));
        self.file.is_some().then_some(())
    }

    /// Goes on counting where the image before this one, in the same process, has stopped.
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
}

/// What a report is made of.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub role: Role,
    pub reload: &'a Reload,
    pub traffic: &'a Traffic,
    pub workers: &'a Workers,
}

impl Report {
    /// When the file is to be written again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Writes the file, unless nothing is new. What the log is to be told.
    pub(super) fn write(&mut self, sight: Sight<'_>, now: Instant) -> Option<String> {
        self.next = Some(now + EVERY);
        let pid = std::process::id();
        if self.file.is_none() {
            self.open(sight.workers.dir(), pid)?;
        }
        let mut snapshot = self.snapshot(sight, pid, now);
        let text = snapshot.encode();
        let since = |at: Instant| now.saturating_duration_since(at);
        let recent = self.written.is_some_and(|at| since(at) < HEARTBEAT);
        if recent && text == self.last {
            return None;
        }
        snapshot.written = now_ms();
        let mut trouble = None;
        if let Some((file, path)) = &self.file
            && let Err(error) = file.write_all_at(snapshot.encode().as_bytes(), 0)
            && !std::mem::replace(&mut self.lost, true)
        {
            let path = path.display();
            trouble = Some(format!(
                "{path}: {error}; `status` shows this process as it was"
            ));
        }
        self.last = text;
        self.written = Some(now);
        trouble
    }

    /// By what this front and its siblings know the site.
    pub(super) fn site_name(&self) -> &str {
        &self.config
    }

    /// A request has failed, while this process had it.
    pub(super) fn failure(
        &mut self,
        environ: &Pairs,
        process: Option<ProcessNo>,
        failure: &Failure,
        incident: &str,
    ) {
        if failure.status() < 500 {
            return;
        }
        for count in failure.counts() {
            self.count(*count, 1);
        }
        let reason = failure.to_string();
        let (first, more) = reason.split_once('\n').unwrap_or((&reason, ""));
        let mut text = format!("{}: {first}", what(environ));
        let last = failure.detail().map_or(last_line(more), exception);
        if !last.is_empty() {
            text = format!("{text}: {last}");
        }
        let text = format!("{} (incident {incident})", one_line(&text));
        if let Some(process) = process {
            self.failures.insert(process, text.clone());
        }
        self.last_failure = note(&text);
    }

    fn snapshot(&mut self, sight: Sight<'_>, pid: u32, now: Instant) -> Snapshot {
        let Sight {
            reload, workers, ..
        } = sight;
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
            role: String::from(match sight.role {
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
                _ if trouble.is_some() => State::Fault,
                reload if reload.is_steady() => State::Serving,
                reload if reload.is_leaving() && !reload.leaves_for_exec() => State::Leaving,
                _ => State::Restarting,
            },
            trouble: one_line(&trouble.as_deref().map(brief).unwrap_or_default()),
            connections: sight.traffic.connections().in_use() as u64,
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
            Some(Serving {
                since: at(pool.queue().since(request)?),
                what: what(workers.environ(request)?),
            })
        };
        let requests: Vec<Serving> = process.requests().filter_map(serving).collect();
        let pid = process.pid().and_then(|pid| u32::try_from(pid).ok());
        Worker {
            pid: pid.unwrap_or(0),
            doing: match (process.pid(), process.is_retiring(), requests.is_empty()) {
                (None, ..) => Doing::Starting,
                (_, _, false) => Doing::Busy,
                (_, true, _) => Doing::Leaving,
                _ => Doing::Idle,
            },
            served: process.served(),
            born: at(process.born()),
            old: process.generation() < pool.current(),
            failure: self.failures.get(&number).cloned().unwrap_or_default(),
            requests,
        }
    }
}

/// Turns moments of the loop's clock into milliseconds since 1970. Whole tenths of a second, so that the clocks' drift
/// is not taken for news.
fn wall(now: Instant) -> impl Fn(Instant) -> u64 {
    let base = now_ms();
    move |moment| {
        let before = now.saturating_duration_since(moment).as_millis() as u64;
        (base.saturating_sub(before) + 50) / 100 * 100
    }
}

/// Method and path. What follows the question mark may be secret.
fn what(environ: &Pairs) -> String {
    let line = describe(environ);
    one_line(line.split('?').next().unwrap_or_default())
}

/// The first line and the last.
fn brief(text: &str) -> String {
    match text.trim_end().split_once('\n') {
        Some((first, rest)) => format!("{first}: {}", last_line(rest)),
        None => text.trim_end().to_owned(),
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default().trim()
}

/// The name of the exception that a traceback ends with. Its text may hold what a visitor has sent.
fn exception(traceback: &str) -> &str {
    let name = last_line(traceback).split(':').next().unwrap_or_default();
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
    fn nothing_of_a_visitor_is_told() {
        let mut environ = Pairs::new();
        environ.push(b"REQUEST_METHOD", b"GET");
        environ.push(b"REQUEST_URI", b"/reset?token=secret");
        assert_eq!(what(&environ), "GET /reset");
        let traceback = "Traceback (most recent call last):\n  File \"a.py\"\ndjango.db.Error: password 'secret'\n";
        assert_eq!(exception(traceback), "django.db.Error");
        assert_eq!(exception("KeyboardInterrupt\n"), "KeyboardInterrupt");
        assert_eq!(exception("  secret words\n"), "");
    }

    #[test]
    fn reasons_are_brief() {
        assert_eq!(brief("one\n"), "one");
        assert_eq!(
            brief("the app cannot be imported\nTrace\n  x\nImportError: no\n\n"),
            "the app cannot be imported: ImportError: no"
        );
    }
}
