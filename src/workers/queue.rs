//! `Queue`: the requests that wait for a worker, or are with one, and for how long.
//!
//! ```text
//! Queued ─a slot is free─▶ Running ─END─▶ gone         (Queued again, if its worker never starts)
//! ```

use super::process::SlotNo;
use crate::config::Config;
use crate::request::RequestNo;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Workers that end before they start on a request, after which the request fails.
const FALSE_STARTS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Queued,
    Running(SlotNo),
}

#[derive(Debug)]
struct Job {
    phase: Phase,
    queued: Instant,
    /// When it was put into the queue, or given to a worker.
    since: Instant,
    slow_told: bool,
    false_starts: u32,
    /// Nobody waits for its answer: it was aborted, or has failed.
    over: bool,
}

/// What takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    /// It has waited for so long.
    InQueue(RequestNo, Duration),
    /// It has run for so long on this slot.
    Running(RequestNo, SlotNo, Duration),
    /// The same, and the log is to be told.
    Slow(RequestNo, SlotNo, Duration),
}

/// See above.
#[derive(Debug, Default)]
pub struct Queue {
    jobs: BTreeMap<RequestNo, Job>,
    waiting: VecDeque<RequestNo>,
}

impl Queue {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The one that waits at the front.
    pub fn first(&self) -> Option<RequestNo> {
        self.waiting.front().copied()
    }

    /// When the request began to wait, or to run.
    pub fn since(&self, request: RequestNo) -> Option<Instant> {
        Some(self.jobs.get(&request)?.since)
    }

    /// The slot that serves the request.
    pub fn slot(&self, request: RequestNo) -> Option<SlotNo> {
        match self.jobs.get(&request)?.phase {
            Phase::Running(slot) => Some(slot),
            Phase::Queued => None,
        }
    }

    pub(super) fn push(&mut self, request: RequestNo, now: Instant) {
        let job = Job {
            phase: Phase::Queued,
            queued: now,
            since: now,
            slow_told: false,
            false_starts: 0,
            over: false,
        };
        self.jobs.insert(request, job);
        self.waiting.push_back(request);
    }

    /// The first one goes to this slot.
    pub(super) fn run_first(&mut self, slot: SlotNo, now: Instant) {
        if let Some(request) = self.waiting.pop_front()
            && let Some(job) = self.jobs.get_mut(&request)
        {
            (job.phase, job.since) = (Phase::Running(slot), now);
        }
    }

    /// The worker that the request was given to has not begun with it. `false`: not again.
    pub(super) fn requeue(&mut self, request: RequestNo, false_start: bool) -> bool {
        let Some(job) = self.jobs.get_mut(&request) else {
            return true;
        };
        job.false_starts += u32::from(false_start);
        if job.over || job.false_starts >= FALSE_STARTS {
            return false;
        }
        // The one that waits at the front has waited the longest.
        (job.phase, job.since) = (Phase::Queued, job.queued);
        self.waiting.push_front(request);
        true
    }

    /// Nobody waits for the answer any more. The slot whose worker is to be told.
    pub(super) fn abort(&mut self, request: RequestNo) -> Option<SlotNo> {
        let slot = self.slot(request);
        match slot {
            Some(_) => self.is_over(request),
            None => drop(self.take(request)),
        }
        slot
    }

    /// Nobody waits for the answer any more.
    pub(super) fn is_over(&mut self, request: RequestNo) {
        if let Some(job) = self.jobs.get_mut(&request) {
            job.over = true;
        }
    }

    /// The request is gone. Since when it waited or ran, if somebody waits for its answer.
    pub(super) fn take(&mut self, request: RequestNo) -> Option<Instant> {
        let job = self.jobs.remove(&request)?;
        if job.phase == Phase::Queued {
            self.waiting.retain(|waiting| *waiting != request);
        }
        Some(job.since).filter(|_| !job.over)
    }

    /// When something takes too long.
    pub(super) fn deadline(&self, config: &Config) -> Option<Instant> {
        let first = self.first().and_then(|first| self.jobs.get(&first));
        let queue = first.map(|job| job.since + Duration::from_secs(config.limits.queue_timeout));
        let run = Duration::from_secs(config.limits.request_timeout);
        let slow = slow_after(config);
        let running = self.jobs.values().filter_map(|job| {
            let runs = !job.over && job.phase != Phase::Queued;
            let of = [(run, runs), (slow, runs && !job.slow_told)];
            let of = of
                .iter()
                .filter(|(after, counts)| *counts && !after.is_zero());
            Some(job.since + of.map(|(after, _)| *after).min()?)
        });
        running.chain(queue).min()
    }

    /// What takes too long now; each is told once.
    pub(super) fn expire(&mut self, config: &Config, now: Instant) -> Vec<Late> {
        let queue = Duration::from_secs(config.limits.queue_timeout);
        let run = Duration::from_secs(config.limits.request_timeout);
        let slow = slow_after(config);
        let mut late = Vec::new();
        for (number, job) in self.jobs.iter_mut().filter(|(_, job)| !job.over) {
            let waited = now.saturating_duration_since(job.since);
            match job.phase {
                Phase::Queued if waited >= queue => late.push(Late::InQueue(*number, waited)),
                Phase::Queued => (),
                Phase::Running(slot) if !run.is_zero() && waited >= run => {
                    job.over = true;
                    late.push(Late::Running(*number, slot, waited));
                }
                Phase::Running(slot) if !slow.is_zero() && waited >= slow && !job.slow_told => {
                    job.slow_told = true;
                    late.push(Late::Slow(*number, slot, waited));
                }
                Phase::Running(_) => (),
            }
        }
        late.sort();
        late
    }
}

fn slow_after(config: &Config) -> Duration {
    Duration::try_from_secs_f64(config.log.slow_log).unwrap_or_default()
}
