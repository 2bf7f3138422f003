//! `Queue`: the requests that wait for a worker or are with one, and since when.
//!
//! ```text
//! Queued ─a slot is free─▶ Running ─END─▶ gone         (Queued again, if its worker never starts)
//! ```

mod line;

use super::action::Action;
use super::process::SlotNo;
use crate::config::Config;
use crate::failure::Failure;
use crate::numbered::Numbered;
use crate::request::RequestNo;
use line::Line;
use std::time::{Duration, Instant};

/// A request fails after so many workers that ended before they had started.
const MOST_FAULTS: u32 = 3;

/// How long a reader who takes nothing may hold a worker that others wait for.
const MOST_HELD: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Queued,
    Running(SlotNo),
}

#[derive(Debug)]
struct Job {
    phase: Phase,
    /// Who has sent it.
    source: u64,
    queued: Instant,
    /// When it was queued, or given to a worker.
    since: Instant,
    slow_logged: bool,
    /// Since when its worker waits for the reader.
    held: Option<Instant>,
    faults: u32,
    /// Nobody waits for its response: it was aborted, or has failed.
    over: bool,
}

/// What takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    /// It has waited too long.
    InQueue(RequestNo, Duration),
    /// Its reader has held the worker on this slot too long.
    Held(RequestNo, SlotNo, Duration),
    /// It has run too long on this slot.
    Running(RequestNo, SlotNo, Duration),
    /// It has run long enough on this slot to be logged.
    Slow(RequestNo, SlotNo, Duration),
}

/// All requests that have no complete response yet, and the limits on them.
#[derive(Debug)]
pub struct Queue {
    jobs: Numbered<RequestNo, Job>,
    waiting: Line,
    limits: Limits,
}

/// How many requests may wait, how long one may wait and run, and after how long a run is slow.
#[derive(Debug)]
struct Limits {
    most: usize,
    queue: Duration,
    run: Option<Duration>,
    slow: Option<Duration>,
}

impl Queue {
    /// Nothing waits.
    pub(super) fn new(config: &Config) -> Queue {
        Queue {
            jobs: Numbered::default(),
            waiting: Line::default(),
            limits: Limits::new(config),
        }
    }

    /// These settings hold from now on.
    pub(super) fn configure(&mut self, config: &Config) {
        self.limits = Limits::new(config);
    }

    /// How many wait, and can be served.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The first in the queue.
    pub fn first(&self) -> Option<RequestNo> {
        self.waiting.first()
    }

    /// When the request began to wait, or to run.
    pub fn since(&self, request: RequestNo) -> Option<Instant> {
        Some(self.jobs.get(request)?.since)
    }

    /// The slot that serves the request.
    pub fn slot(&self, request: RequestNo) -> Option<SlotNo> {
        match self.jobs.get(request)?.phase {
            Phase::Running(slot) => Some(slot),
            Phase::Queued => None,
        }
    }

    /// A request of this source waits.
    pub(super) fn push(&mut self, request: RequestNo, source: u64, now: Instant) {
        let job = Job {
            phase: Phase::Queued,
            source,
            queued: now,
            since: now,
            slow_logged: false,
            held: None,
            faults: 0,
            over: false,
        };
        self.jobs.insert(request, job);
        self.waiting.push(request, source);
    }

    /// If too many wait since this one was added, one fails: of those whose source has sent most. For so many, workers are
    /// `coming`. Returns what to do.
    pub(super) fn shed(&mut self, added: RequestNo, coming: usize) -> Vec<Action> {
        let most = self.limits.most;
        let source = self.jobs.get(added).map(|job| job.source);
        let excess = source.filter(|_| self.waiting.total() > most + coming);
        match excess.and_then(|source| self.waiting.excess(source)) {
            Some(request) => self.fail(request, Failure::QueueFull(most)),
            None => Vec::new(),
        }
    }

    /// Gives the first one to this slot.
    pub(super) fn run_first(&mut self, slot: SlotNo, now: Instant) {
        if let Some(request) = self.waiting.serve()
            && let Some(job) = self.jobs.get_mut(request)
        {
            (job.phase, job.since) = (Phase::Running(slot), now);
        }
    }

    /// The request's worker has not started on it: it waits again, or fails after too many. Returns what to do.
    pub(super) fn requeue(&mut self, request: RequestNo) -> Vec<Action> {
        if let Some(job) = self.jobs.get_mut(request) {
            job.faults += 1;
        }
        self.put_back(request)
    }

    /// The request is taken back from its worker: it waits again, unless it has failed too often. Returns what to do.
    pub(super) fn put_back(&mut self, request: RequestNo) -> Vec<Action> {
        let Some(job) = self.jobs.get_mut(request) else {
            return Vec::new();
        };
        if job.over || job.faults >= MOST_FAULTS {
            return self.fail(request, Failure::NoWorker);
        }
        // The first in the queue must be the one that has waited longest.
        (job.phase, job.since) = (Phase::Queued, job.queued);
        self.waiting.put_back(request, job.source);
        Vec::new()
    }

    /// The request fails. Returns what to do.
    pub(super) fn fail(&mut self, request: RequestNo, failure: Failure) -> Vec<Action> {
        let failed = self.take(request).map(|_| Action::Fail(request, failure));
        let last = [Action::Forget(request)];
        failed.into_iter().chain(last).collect()
    }

    /// All waiting requests fail. Returns what to do.
    pub(super) fn fail_waiting(&mut self, failure: &Failure) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(request) = self.waiting.any() {
            actions.extend(self.fail(request, failure.clone()));
        }
        actions
    }

    /// A source takes none of its responses, or some again: until then its requests are not served.
    /// Whether this is new.
    pub(super) fn stall(&mut self, source: u64, stalled: bool) -> bool {
        self.waiting.park(source, stalled)
    }

    /// Since when the worker of a request waits for the reader, if it does.
    pub(super) fn hold(&mut self, request: RequestNo, since: Option<Instant>) {
        if let Some(job) = self.jobs.get_mut(request) {
            job.held = since;
        }
    }

    /// Nobody waits for the response any more. Returns what to do.
    pub(super) fn abort(&mut self, request: RequestNo) -> Action {
        if let Some(job) = self.jobs.get_mut(request)
            && let Phase::Running(slot) = job.phase
        {
            job.over = true;
            return Action::Abort(slot);
        }
        self.take(request);
        Action::Forget(request)
    }

    /// Removes the request. Returns since when it waited or ran, if somebody waits for its response.
    pub(super) fn take(&mut self, request: RequestNo) -> Option<Instant> {
        let job = self.jobs.remove(request)?;
        if job.phase == Phase::Queued {
            self.waiting.remove(request);
        }
        Some(job.since).filter(|_| !job.over)
    }

    /// When the next request is late.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let Limits {
            queue, run, slow, ..
        } = self.limits;
        let all = self.jobs.values().filter_map(|job| {
            if job.phase == Phase::Queued {
                return Some(job.since + queue);
            }
            let runs = !job.over;
            let of = [
                run.filter(|_| runs),
                slow.filter(|_| runs && !job.slow_logged),
            ];
            let end = of.into_iter().flatten().min().map(|of| job.since + of);
            end.into_iter().chain(self.held_until(job)).min()
        });
        all.min()
    }

    /// When a reader who takes nothing loses his response, because others wait for the worker.
    fn held_until(&self, job: &Job) -> Option<Instant> {
        let held = job.held.filter(|_| !job.over && self.waiting() > 0);
        held.map(|since| since + MOST_HELD)
    }

    /// Nothing that begins to wait or to run now takes too long before.
    pub(super) fn soonest(&self, now: Instant) -> Instant {
        let Limits {
            queue, run, slow, ..
        } = self.limits;
        now + [run, slow].into_iter().flatten().fold(queue, Duration::min)
    }

    /// Requests that are late now; each is returned once.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Late> {
        let Limits {
            queue, run, slow, ..
        } = self.limits;
        let mut late = Vec::new();
        let wanted = self.waiting() > 0;
        for (number, job) in self.jobs.iter_mut().filter(|(_, job)| !job.over) {
            let waited = now.saturating_duration_since(job.since);
            let held = job.held.map(|at| now.saturating_duration_since(at));
            let held = held.filter(|held| wanted && *held >= MOST_HELD);
            let after = |limit: Option<Duration>| limit.is_some_and(|limit| waited >= limit);
            match job.phase {
                Phase::Queued if waited >= queue => late.push(Late::InQueue(number, waited)),
                Phase::Queued => (),
                Phase::Running(slot) if after(run) => {
                    job.over = true;
                    late.push(Late::Running(number, slot, waited));
                }
                Phase::Running(slot) if let Some(held) = held => {
                    job.over = true;
                    late.push(Late::Held(number, slot, held));
                }
                Phase::Running(slot) if after(slow) && !job.slow_logged => {
                    job.slow_logged = true;
                    late.push(Late::Slow(number, slot, waited));
                }
                Phase::Running(_) => (),
            }
        }
        late.sort();
        late
    }
}

impl Limits {
    fn new(config: &Config) -> Limits {
        let slow = Duration::try_from_secs_f64(config.log.slow_log).unwrap_or_default();
        let run = Duration::from_secs(config.limits.request_timeout);
        let limit = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
        Limits {
            most: config.limits.queue,
            queue: Duration::from_secs(config.limits.queue_timeout),
            run: limit(run),
            slow: limit(slow),
        }
    }
}
