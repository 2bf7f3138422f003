//! How many workers there should be, and when one more may be started: settings, limits and the numbers of the moment.

use crate::account::Account;
use crate::config::{Config, Method};
use std::time::{Duration, Instant};

/// Pause after a start has failed; doubles up to `PAUSE_MAX`.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause after the account turned out to be at its limits: somebody is asked to give a worker back.
const REFUSED_PAUSE: Duration = Duration::from_millis(400);
/// How long a front that is asked to give a worker back, and has none idle, remembers it.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// Workers of one front where the server gives it many requests at a time and nothing is said.
const CHILDREN: usize = 8;
/// Idle processes that are kept when nothing is said.
const SPARE: usize = 5;

/// The bounds within which the pool stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Idle processes kept in readiness.
    pub minspare: usize,
    /// Idle processes above this end after `idle_timeout`.
    pub maxspare: usize,
    /// Processes at the most.
    pub max: usize,
    /// Slots of a process.
    pub slots: usize,
}

/// What the numbers of the moment ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that wait and are not in a starting slot.
    pub queued: usize,
    /// Processes that serve or may serve, the starting ones included.
    pub processes: usize,
    /// Starting ones.
    pub starting: usize,
    /// Processes of which every slot is idle.
    pub idle: usize,
}

impl Sizes {
    /// What these settings and this account leave. `alone`: the front is given one request at a time.
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
    /// No process is started before.
    start_after: Option<Instant>,
    failed_starts: u32,
    /// A worker was given back, or refused: none is started before a request needs it.
    given_back: bool,
    /// When another front asked for a worker and none was idle.
    asked_back: Option<Instant>,
    /// The front leaves: only who waits already is served.
    draining: bool,
}

impl Scaling {
    /// So many processes, in this room for processes and threads.
    pub fn set_bounds(&mut self, sizes: Sizes, room: Option<usize>) {
        (self.sizes, self.room) = (sizes, room);
    }

    /// Nothing is started from now on but for those who wait already.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// New code may be started at once.
    pub fn begin_anew(&mut self) {
        self.start_after = None;
    }

    /// Idle processes are kept in readiness: one that gets a request wants another.
    pub fn keeps_spare(&self) -> bool {
        self.sizes.minspare > 0
    }

    /// None is started before a request needs it.
    pub fn spare(&mut self) {
        self.given_back = true;
    }

    /// Whether this front does without a worker until a request needs one. Not while it has one with old code
    /// (`outdated`): that would serve on and on.
    pub fn is_spared(&self, queued: usize, outdated: bool) -> bool {
        self.given_back && queued == 0 && !outdated
    }

    /// How many processes are to be started, as soon as one can be.
    pub fn wanted(&self, counts: Counts, outdated: bool) -> usize {
        let queued = counts.queued;
        match self.is_spared(queued, outdated) || self.draining && queued == 0 {
            true => 0,
            false => growth(self.sizes, counts),
        }
    }

    /// With how many slots one process is to be started now. `tasks`: processes and threads of all workers that are there
    /// yet, those with old code and those that leave among them.
    pub fn start(
        &mut self,
        counts: Counts,
        outdated: bool,
        tasks: usize,
        now: Instant,
    ) -> Option<usize> {
        self.given_back = self.is_spared(counts.queued, outdated);
        self.start_after.take_if(|at| *at <= now);
        if self.start_after.is_some() || self.wanted(counts, outdated) == 0 {
            return None;
        }
        let free = self.room.map(|most| most.saturating_sub(tasks));
        // But never none at all.
        let may = counts.processes == 0 || free.is_none_or(|free| free > 0);
        may.then(|| free.map_or(self.sizes.slots, |free| self.sizes.slots.min(free).max(1)))
    }

    /// So many idle processes are more than what is kept.
    pub fn surplus(&self, counts: Counts) -> usize {
        counts.idle.saturating_sub(self.sizes.maxspare)
    }

    /// When one may be started again.
    pub fn deadline(&self) -> Option<Instant> {
        self.start_after
    }

    /// Starts that have failed, one after the other.
    pub fn failed_starts(&self) -> u32 {
        self.failed_starts
    }

    /// A process has started.
    pub fn succeeded(&mut self) {
        self.failed_starts = 0;
    }

    /// One could not be started, or has ended before its first word.
    pub fn failed(&mut self, now: Instant) {
        self.failed_starts = (self.failed_starts + 1).min(16);
        let pause = (PAUSE * (1 << self.failed_starts.min(6))).min(PAUSE_MAX);
        self.start_after = Some(now + pause);
    }

    /// The system has no room for one.
    pub fn refused(&mut self, queued: usize, now: Instant) {
        self.given_back = queued == 0;
        self.start_after = Some(now + REFUSED_PAUSE);
    }

    /// Another front needs a process: `gives` one is retired for it; else this is remembered.
    pub fn asked_back(&mut self, gives: bool, now: Instant) {
        self.asked_back = (!gives).then_some(now);
        self.given_back |= gives;
    }

    /// A worker has finished a request. Whether it goes, because another front has asked for one meanwhile.
    pub fn is_asked_back(&mut self, now: Instant) -> bool {
        let asked = self.asked_back.take_if(|_| !self.draining);
        let asked = asked.is_some_and(|at| now.saturating_duration_since(at) < ASKED_FOR);
        if asked {
            self.given_back = true;
            self.start_after = Some(now + PAUSE);
        }
        asked
    }
}

/// How many requests a worker process of this site serves at a time.
pub fn threads(config: &Config) -> u32 {
    let server = &config.server;
    match server.method {
        Method::Prefork => 1,
        Method::Threaded => server.maxchildren.unwrap_or(server.threads).clamp(1, 64),
    }
}

/// How many processes to start now: for those who wait, for the spare ones, and never none at all.
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

/// Spreads the moments at which workers that began together are replaced.
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
