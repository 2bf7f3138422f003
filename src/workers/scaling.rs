//! `Scaling`: how many workers there should be, and when another one may be started.

use crate::account::Account;
use crate::config::{Config, Method};
use std::time::{Duration, Instant};

/// Pause after a start has failed; doubles up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause after the system has refused a process: another front is asked to give a worker back.
const REFUSED_PAUSE: Duration = Duration::from_millis(400);
/// How long a front without an idle worker remembers that it was asked to give one back.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// A front that gets one request at a time keeps an idle worker for so long.
pub(super) const KEEPS_IDLE: Duration = Duration::from_secs(5);

/// How often to check, while requests wait, whether the account has room for another process.
const AGAIN: Duration = Duration::from_secs(1);
/// Default number of workers of a front that gets several requests at a time.
const CHILDREN: usize = 8;
/// Default number of idle processes that are kept.
const SPARE: usize = 5;

/// The bounds within which the pool stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Idle processes that are kept ready.
    pub minspare: usize,
    /// Idle processes above this number end after `idle_timeout`.
    pub maxspare: usize,
    /// The most processes.
    pub max: usize,
    /// Slots of a process.
    pub slots: usize,
}

/// The present numbers of requests and processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that wait and are not in a starting slot.
    pub queued: usize,
    /// Processes that get requests, including starting ones.
    pub processes: usize,
    /// Starting processes.
    pub starting: usize,
    /// Processes whose slots are all idle.
    pub idle: usize,
    /// Some serve with old code.
    pub outdated: bool,
    /// Processes and threads of all workers, those that leave among them.
    pub tasks: usize,
}

impl Sizes {
    /// What these settings and this account allow. `alone`: the front gets one request at a time.
    pub fn new(config: &Config, account: &Account, alone: bool) -> Sizes {
        let server = &config.server;
        let slots = threads(config) as usize;
        let max = match (alone, slots) {
            (true, _) | (_, 2..) => 1,
            _ => account.fitting(server.maxchildren.map_or(CHILDREN, |n| n as usize)),
        };
        let minspare = server.minspare.map_or(0, |n| n as usize).min(max);
        let maxspare = server.maxspare.map_or(max.min(SPARE), |n| n as usize);
        let slots = match alone {
            true => 1,
            false => account.fitting_threads(slots),
        };
        Sizes {
            minspare,
            maxspare: maxspare.max(minspare),
            max,
            slots,
        }
    }
}

/// Whether, and when, one more process may be started.
#[derive(Debug, Default)]
pub struct Scaling {
    sizes: Sizes,
    /// Processes and threads that the account has room for; None: no bound.
    room: Option<usize>,
    /// No process is started before this time.
    start_after: Option<Instant>,
    failed_starts: u32,
    /// A worker was given back, or refused: none is started until a request needs it.
    given_back: bool,
    /// When another front asked for a worker and none was idle.
    asked_back: Option<Instant>,
    /// The front is leaving: workers are started only for requests that wait already.
    draining: bool,
}

impl Scaling {
    /// Sets the bounds: of processes, and of processes and threads together.
    pub fn set_bounds(&mut self, sizes: Sizes, room: Option<usize>) {
        (self.sizes, self.room) = (sizes, room);
    }

    /// From now on, workers are started only for requests that wait already.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// New code went live: it may be started at once.
    pub fn begin_anew(&mut self) {
        self.start_after = None;
    }

    /// Idle processes are kept ready: when one gets a request, another is needed.
    pub fn keeps_spare(&self) -> bool {
        self.sizes.minspare > 0
    }

    /// None is started until a request needs it.
    pub fn spare(&mut self) {
        self.given_back = true;
    }

    /// Whether this front does without a worker until a request needs one. Not while it has one with old code: that would
    /// serve on and on.
    pub fn is_spared(&self, counts: Counts) -> bool {
        self.given_back && counts.queued == 0 && !counts.outdated
    }

    /// How many processes are missing.
    pub fn wanted(&self, counts: Counts) -> usize {
        match self.is_spared(counts) || self.draining && counts.queued == 0 {
            true => 0,
            false => growth(self.sizes, counts),
        }
    }

    /// Whether to start a process now, and with how many slots.
    pub fn start(&mut self, counts: Counts, now: Instant) -> Option<usize> {
        self.given_back = self.is_spared(counts);
        self.start_after.take_if(|at| *at <= now);
        if self.start_after.is_some() || self.wanted(counts) == 0 {
            return None;
        }
        let free = self.room.map(|most| most.saturating_sub(counts.tasks));
        // The first one is always allowed.
        let may = counts.processes == 0 || free.is_none_or(|free| free > 0);
        may.then(|| free.map_or(self.sizes.slots, |free| self.sizes.slots.min(free).max(1)))
    }

    /// When to look whether another process is to be started, while requests wait: `now`, or later.
    pub fn next_look(&self, counts: Counts, now: Instant) -> Instant {
        match self.wanted(counts) {
            0 => now + AGAIN,
            _ => self.start_after.map_or(now, |at| at.max(now)),
        }
    }

    /// How many idle processes are kept.
    pub fn kept(&self) -> usize {
        self.sizes.maxspare
    }

    /// Whether more are idle than are kept ready.
    pub fn has_more(&self, counts: Counts) -> bool {
        counts.idle > self.sizes.minspare
    }

    /// When the next one may be started.
    pub fn deadline(&self) -> Option<Instant> {
        self.start_after
    }

    /// Failed starts in a row.
    pub fn failed_starts(&self) -> u32 {
        self.failed_starts
    }

    /// A process has started.
    pub fn succeeded(&mut self) {
        self.failed_starts = 0;
    }

    /// A process could not be started, or has ended before STARTED.
    pub fn failed(&mut self, now: Instant) {
        self.failed_starts = (self.failed_starts + 1).min(16);
        let pause = (PAUSE * (1 << self.failed_starts.min(6))).min(PAUSE_MAX);
        self.start_after = Some(now + pause);
    }

    /// The system has refused a process.
    pub fn refused(&mut self, queued: usize, now: Instant) {
        self.given_back = queued == 0;
        self.start_after = Some(now + REFUSED_PAUSE);
    }

    /// Another front needs a process. If this one `gives` none, it remembers.
    pub fn asked_back(&mut self, gives: bool, now: Instant) {
        self.asked_back = (!gives).then_some(now);
        self.given_back |= gives;
    }

    /// A worker has finished a request. Whether to retire it, because another front has asked for one meanwhile.
    pub fn is_asked_back(&mut self, now: Instant) -> bool {
        let asked = self.asked_back.take_if(|_| !self.draining);
        let asked = asked.is_some_and(|at| now.saturating_duration_since(at) < ASKED_FOR);
        self.given_back |= asked;
        asked
    }

    /// It has retired a worker for another front, which needs a moment to start one.
    pub fn make_room(&mut self, now: Instant) {
        self.start_after = Some(now + PAUSE);
    }
}

/// How many requests a worker process serves at a time.
pub fn threads(config: &Config) -> u32 {
    let server = &config.server;
    match server.method {
        Method::Prefork => 1,
        Method::Threaded => server.maxchildren.unwrap_or(server.threads).clamp(1, 64),
    }
}

/// How many processes are missing: for waiting requests and for `minspare`, and at least the first one.
pub fn growth(sizes: Sizes, counts: Counts) -> usize {
    let starting_slots = counts.starting * sizes.slots;
    let for_queue = counts
        .queued
        .saturating_sub(starting_slots)
        .div_ceil(sizes.slots.max(1));
    let for_spare = sizes.minspare.saturating_sub(counts.idle + counts.starting);
    let first = usize::from(counts.processes == 0);
    for_queue
        .max(for_spare)
        .max(first)
        .min(sizes.max.saturating_sub(counts.processes))
}

/// Spreads the replacement of workers that started together.
pub(super) fn less_up_to_a_tenth(limit: u64, random: u64) -> u64 {
    limit - random % (limit / 10 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_a_tenth_at_most() {
        assert_eq!(less_up_to_a_tenth(0, 7), 0);
        assert_eq!(less_up_to_a_tenth(1, 7), 1);
        for random in 0..1000 {
            assert!((900..=1000).contains(&less_up_to_a_tenth(1000, random)));
        }
    }

    #[test]
    fn growth_follows_queue_and_spares() {
        let sizes = |minspare, max, slots| Sizes {
            minspare,
            maxspare: 5,
            max,
            slots,
        };
        let counts = |queued, processes, starting, idle| Counts {
            queued,
            processes,
            starting,
            idle,
            ..Counts::default()
        };
        let table = [
            (sizes(1, 1, 1), counts(0, 0, 0, 0), 1),
            (sizes(1, 1, 1), counts(3, 1, 0, 0), 0),
            (sizes(1, 4, 1), counts(3, 1, 0, 0), 3),
            (sizes(1, 4, 1), counts(3, 3, 2, 0), 1),
            (sizes(0, 4, 1), counts(0, 0, 0, 0), 1),
            (sizes(0, 4, 1), counts(0, 1, 0, 0), 0),
            (sizes(2, 8, 1), counts(0, 3, 0, 1), 1),
            (sizes(1, 2, 4), counts(5, 0, 0, 0), 2),
            (sizes(1, 2, 4), counts(4, 1, 1, 0), 0),
        ];
        for (sizes, counts, expected) in table {
            assert_eq!(growth(sizes, counts), expected, "{sizes:?} {counts:?}");
        }
    }
}
