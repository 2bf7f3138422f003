//! What this front tells of itself: a file in the runtime directory, written in place at most once a second, and only
//! when something has changed or a reader might think that we hang. A lock on it says that we live.

use super::connection::Stage;
use super::{Place, Role, Server, TICK};
use crate::environ::describe;
use crate::failure::Failure;
use crate::log::Level;
use crate::request::RequestNo;
use crate::rundir::{Entry, is_at};
use crate::status::collect::{millis, read};
use crate::status::command::site_name;
use crate::status::{
    Count, Counters, Doing, History, Note, Serving, Snapshot, State, Worker, one_line,
};
use crate::sys::procfs::start_time;
use crate::worker::pool::{Process, ProcessNo, SlotState};
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::request::Phase;

/// How often the file is written when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How many ends of workers may wait for their explanation.
const DEAD: usize = 16;

/// Counts, and the file.
pub(super) struct Report {
    counters: Counters,
    history: History,
    failures: HashMap<ProcessNo, String>,
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
            failures: HashMap::new(),
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
    fn open(&mut self, place: &Place, pid: u32) -> Option<()> {
        let path = place.dir.as_ref()?.file(Entry::Status(pid));
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
        // Whoever sweeps or reads has the lock for a moment: then the next turn does it.
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
            history.turn(now_ms());
            self.history.turn(now_ms());
            self.history.merge(&history);
            self.last_death = self.last_death.take().or(before.last_death);
            self.last_failure = self.last_failure.take().or(before.last_failure);
            self.started = before.started;
        }
    }
}

impl Server {
    /// Writes the file if it is time, or at once.
    pub(super) fn write_report(&mut self, now: Instant, at_once: bool) {
        if self.place.role == Role::Cgi || !at_once && self.report.next.is_some_and(|at| now < at) {
            return;
        }
        self.report.next = Some(now + TICK);
        let pid = std::process::id();
        if self.report.file.is_none() && self.report.open(&self.place, pid).is_none() {
            return;
        }
        let mut snapshot = self.snapshot(pid, now);
        let text = snapshot.encode();
        let recent = self
            .report
            .written
            .is_some_and(|at| now.saturating_duration_since(at) < HEARTBEAT);
        if recent && text == self.report.last {
            return;
        }
        snapshot.written = now_ms();
        if let Some((file, path)) = &self.report.file
            && let Err(error) = file.write_all_at(snapshot.encode().as_bytes(), 0)
            && !std::mem::replace(&mut self.report.lost, true)
        {
            let text = format!(
                "{}: {error}; `status` shows this process as it was",
                path.display()
            );
            self.note(Level::Warning, &text);
        }
        self.report.last = text;
        self.report.written = Some(now);
    }

    /// By what this front and its siblings know the site.
    pub(super) fn site_name(&self) -> &str {
        &self.report.config
    }

    /// A request has failed; for what it says, see `Server::fail`.
    pub(super) fn report_failure(&mut self, number: RequestNo, failure: &Failure, incident: &str) {
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        if failure.status() < 500 {
            return;
        }
        for count in failure.counts() {
            self.report.count(*count, 1);
        }
        let reason = failure.to_string();
        let (first, more) = reason.split_once('\n').unwrap_or((&reason, ""));
        let mut text = format!("{}: {first}", what(&request.environ));
        let last = failure.detail().map_or(last_line(more), exception);
        if !last.is_empty() {
            text = format!("{text}: {last}");
        }
        let text = format!("{} (incident {incident})", one_line(&text));
        if let Phase::Running(slot) = request.phase
            && let Some(process) = self.pool.slots.get(&slot).map(|slot| slot.process)
        {
            self.report.failures.insert(process, text.clone());
        }
        self.report.last_failure = note(&text);
    }

    /// A worker has said that it runs; one with several threads says it for each.
    pub(super) fn report_started(&mut self, process: ProcessNo) {
        if self
            .pool
            .processes
            .get(&process)
            .is_some_and(|p| p.pid.is_none())
        {
            self.report.count(Count::WorkersStarted, 1);
        }
    }

    fn snapshot(&mut self, pid: u32, now: Instant) -> Snapshot {
        let processes = &self.pool.processes;
        self.report
            .failures
            .retain(|number, _| processes.contains_key(number));
        let trouble = self.trouble();
        let at = wall(now);
        let first = self
            .queue
            .front()
            .and_then(|number| self.requests.get(number));
        let report = &self.report;
        Snapshot {
            pid,
            start_ticks: report.start_ticks,
            role: String::from(match self.place.role {
                Role::Spawned { mod_fcgid: true } => "mod_fcgid",
                Role::Spawned { .. } => "spawned",
                Role::External => "external",
                Role::Cgi => "cgi",
            }),
            version: String::from(env!("CARGO_PKG_VERSION")),
            code: self.current.link.version.clone(),
            config: report.config.clone(),
            started: report.started,
            written: 0,
            state: match &self.reload {
                _ if trouble.is_some() => State::Fault,
                reload if reload.is_steady() => State::Serving,
                reload if reload.is_leaving() && !reload.leaves_for_exec() => State::Leaving,
                _ => State::Restarting,
            },
            trouble: one_line(&trouble.as_deref().map(brief).unwrap_or_default()),
            connections: self
                .conns
                .values()
                .filter(|conn| conn.stage != Stage::Draining)
                .count() as u64,
            queued: self.queue.len() as u64,
            queued_since: first.map_or(0, |request| at(request.since)),
            max_workers: self.sizes().max as u64,
            counters: report.counters,
            last_death: report.last_death.clone(),
            last_failure: report.last_failure.clone(),
            workers: processes
                .iter()
                .map(|(number, process)| self.worker(*number, process, &at))
                .collect(),
            history: report.history.clone(),
        }
    }

    fn worker(&self, number: ProcessNo, process: &Process, at: &impl Fn(Instant) -> u64) -> Worker {
        let serving = |slot| match self.pool.slots.get(slot)?.state {
            SlotState::Busy(number) | SlotState::Starting(Some(number)) => {
                let request = self.requests.get(&number)?;
                Some(Serving {
                    since: at(request.since),
                    what: what(&request.environ),
                })
            }
            _ => None,
        };
        let requests: Vec<Serving> = process.slots.iter().filter_map(serving).collect();
        Worker {
            pid: process
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .unwrap_or(0),
            doing: match (process.pid, process.retiring, requests.is_empty()) {
                (None, ..) => Doing::Starting,
                (_, _, false) => Doing::Busy,
                (_, true, _) => Doing::Leaving,
                _ => Doing::Idle,
            },
            served: process.served,
            born: at(process.born),
            old: process.generation < self.current.number,
            failure: self
                .report
                .failures
                .get(&number)
                .cloned()
                .unwrap_or_default(),
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
fn what(environ: &crate::pairs::Pairs) -> String {
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
        let mut environ = crate::pairs::Pairs::new();
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
