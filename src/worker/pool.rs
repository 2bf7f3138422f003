//! `Pool`: the workers of this front, who is free, and how many there should be.
//!
//! ```text
//! Slot:     Starting ─STARTED─▶ Idle ⇄ Busy(request)          any ─end of stream─▶ gone
//! Process:  Serving ─recycled, replaced, too many─▶ Retiring ─slots idle, closed─▶ Leaving ─lifeline cut─▶ gone
//! ```
//! A slot is a socket on which one request at a time is served; a process has one (prefork) or several (threaded). A
//! process lives as long as the front keeps its lifeline. All decisions are functions of state and `now`; what they
//! need done, the server does.

use super::channel::Channel;
use crate::request::RequestNo;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Numbers a worker process; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessNo(pub u64);

/// Numbers a slot; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNo(pub u64);

/// How long a worker may take for its exit functions before its lifeline is cut.
pub const LEAVE: Duration = Duration::from_secs(3);

/// A process whose sockets have ended has itself ended within this time.
pub const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// What a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Not yet heard of; a request may already be in its socket, and can be taken back if it never starts.
    Starting(Option<RequestNo>),
    /// Waits for a request.
    Idle(Instant),
    /// Serves one.
    Busy(RequestNo),
}

/// A socket to a worker.
#[derive(Debug)]
pub struct Slot {
    /// Whose it is.
    pub process: ProcessNo,
    /// Frames go and come here.
    pub channel: Channel,
    /// What it does.
    pub state: SlotState,
}

/// One of the two descriptors that a process writes text to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A worker process.
#[derive(Debug)]
pub struct Process {
    /// Known once it has started.
    pub pid: Option<i32>,
    /// Our child, as long as it has not told whether the import went well and that matters.
    pub launched: Option<Pid>,
    /// What such a one has written, from its end.
    pub said: Vec<u8>,
    /// The code version it runs.
    pub generation: u64,
    /// That version is not live yet: it gets no requests.
    pub on_trial: bool,
    /// Its end is the process's end. None: cut.
    pub lifeline: Option<OwnedFd>,
    /// Its standard output, where that is kept apart.
    pub stdout: Option<OwnedFd>,
    /// Its standard error, and its standard output where that is not kept apart.
    pub stderr: Option<OwnedFd>,
    /// Its slots.
    pub slots: Vec<SlotNo>,
    /// Requests served.
    pub served: u64,
    /// Requests after which it is replaced; 0: never.
    pub served_limit: u64,
    /// When it was asked for.
    pub born: Instant,
    /// When it is replaced for its age.
    pub old_at: Option<Instant>,
    /// Gets no more requests.
    pub retiring: bool,
    /// When its lifeline is cut.
    pub cut_at: Option<Instant>,
    /// The system refused to fork it.
    pub refused: bool,
    /// Why it is ended before its time, for the log.
    pub ended_for: Option<&'static str>,
}

/// The bounds within which the pool stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The workers of this front.
#[derive(Debug, Default)]
pub struct Pool {
    /// Every process that is not gone.
    pub processes: BTreeMap<ProcessNo, Process>,
    /// Every open slot.
    pub slots: BTreeMap<SlotNo, Slot>,
    /// Free slots; the one used last is on top, so that its caches are warm and the others can be ended.
    idle: Vec<SlotNo>,
    last_process: u64,
    last_slot: u64,
}

impl Process {
    /// Where we read what it writes.
    pub fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Pool {
    /// The id of a process that has started.
    pub fn pid(&self, number: ProcessNo) -> Option<i32> {
        self.processes.get(&number)?.pid
    }

    /// A process that was asked for, with our ends of its slots' sockets.
    pub fn add(&mut self, mut process: Process, channels: Vec<Channel>) -> ProcessNo {
        self.last_process += 1;
        let number = ProcessNo(self.last_process);
        for channel in channels {
            self.last_slot += 1;
            let slot = SlotNo(self.last_slot);
            process.slots.push(slot);
            let state = SlotState::Starting(None);
            self.slots.insert(
                slot,
                Slot {
                    process: number,
                    channel,
                    state,
                },
            );
        }
        self.processes.insert(number, process);
        number
    }

    /// The slot for the next request: a free one, else one that is just starting.
    pub fn pick(&self) -> Option<SlotNo> {
        let starting = || {
            let free = |(_, slot): &(&SlotNo, &Slot)| {
                let process = &self.processes[&slot.process];
                slot.state == SlotState::Starting(None) && !process.retiring && !process.on_trial
            };
            self.slots.iter().find(free).map(|(number, _)| *number)
        };
        self.idle.last().copied().or_else(starting)
    }

    /// `slot` serves `request`.
    pub fn occupy(&mut self, slot: SlotNo, request: RequestNo) {
        self.idle.retain(|s| *s != slot);
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.state = match slot.state {
                SlotState::Starting(_) => SlotState::Starting(Some(request)),
                _ => SlotState::Busy(request),
            };
        }
    }

    /// The worker behind `slot` runs.
    pub fn started(&mut self, slot: SlotNo, pid: i32, now: Instant) {
        let Some(found) = self.slots.get_mut(&slot) else {
            return;
        };
        let Some(process) = self.processes.get_mut(&found.process) else {
            return;
        };
        process.pid = Some(pid);
        process.launched = None;
        process.said = Vec::new();
        if let SlotState::Starting(request) = found.state {
            found.state = request.map_or(SlotState::Idle(now), SlotState::Busy);
            if request.is_none() && !process.retiring && !process.on_trial {
                self.idle.push(slot);
            }
        }
    }

    /// The request on `slot` is over. Whether the process has reached its number of requests or its age.
    pub fn release(&mut self, slot: SlotNo, now: Instant) -> bool {
        let Some(found) = self.slots.get_mut(&slot) else {
            return false;
        };
        found.state = SlotState::Idle(now);
        let Some(process) = self.processes.get_mut(&found.process) else {
            return false;
        };
        process.served += 1;
        if !process.retiring {
            self.idle.push(slot);
        }
        let worn = process.served_limit > 0 && process.served >= process.served_limit;
        worn || process.old_at.is_some_and(|at| at <= now)
    }

    /// The process gets no more requests, and leaves as soon as it has none.
    pub fn retire(&mut self, number: ProcessNo, now: Instant) {
        let Some(process) = self.processes.get_mut(&number) else {
            return;
        };
        process.retiring = true;
        process.launched = None;
        self.idle.retain(|slot| !process.slots.contains(slot));
        self.close_idle(number, now);
    }

    /// What a generation's workers on trial have shown is enough: they get requests from now on.
    pub fn admit(&mut self, generation: u64, now: Instant) {
        for process in self.processes.values_mut() {
            if process.generation == generation && std::mem::take(&mut process.on_trial) {
                process.born = now;
                let idle = |slot: &&SlotNo| {
                    let state = self.slots.get(slot).map(|slot| slot.state);
                    matches!(state, Some(SlotState::Idle(_)))
                };
                self.idle.extend(process.slots.iter().filter(idle));
            }
        }
    }

    /// A generation does not go live: its workers on trial end.
    pub fn end_trial(&mut self, generation: u64, now: Instant) {
        let tried = |(_, p): &(&ProcessNo, &Process)| p.on_trial && p.generation == generation;
        let tried: Vec<_> = self
            .processes
            .iter()
            .filter(tried)
            .map(|(n, _)| *n)
            .collect();
        for number in tried {
            self.retire(number, now);
        }
    }

    /// Closes the slots of a retiring process that have nothing to do; the process ends by itself when all are closed,
    /// or with its lifeline a moment later.
    pub fn close_idle(&mut self, number: ProcessNo, now: Instant) {
        let Some(process) = self.processes.get_mut(&number) else {
            return;
        };
        if !process.retiring {
            return;
        }
        let slots = &mut self.slots;
        process.slots.retain(|slot| {
            let free = matches!(
                slots.get(slot).map(|s| s.state),
                None | Some(SlotState::Idle(_) | SlotState::Starting(None))
            );
            if free {
                slots.remove(slot);
            }
            !free
        });
        if process.slots.is_empty() && process.cut_at.is_none() {
            process.cut_at = Some(now + LEAVE);
        }
    }

    /// The socket of a slot has ended. What it was doing.
    pub fn lose(&mut self, number: SlotNo) -> Option<Slot> {
        self.idle.retain(|slot| *slot != number);
        let slot = self.slots.remove(&number)?;
        if let Some(process) = self.processes.get_mut(&slot.process) {
            process.slots.retain(|s| *s != number);
        }
        Some(slot)
    }

    /// The numbers of the moment; `generation` is the one that counts as current.
    pub fn counts(&self, queued: usize, generation: u64) -> Counts {
        let mut counts = Counts {
            queued,
            processes: 0,
            starting: 0,
            idle: 0,
        };
        for process in self
            .processes
            .values()
            .filter(|p| !p.retiring && p.generation == generation)
        {
            let state = |slot: &SlotNo| self.slots.get(slot).map(|s| s.state);
            counts.processes += 1;
            if process.pid.is_none() {
                counts.starting += usize::from(
                    process
                        .slots
                        .iter()
                        .any(|s| state(s) == Some(SlotState::Starting(None))),
                );
            } else {
                counts.idle += usize::from(
                    process
                        .slots
                        .iter()
                        .all(|s| matches!(state(s), Some(SlotState::Idle(_)))),
                );
            }
        }
        counts
    }

    /// Processes with all slots idle since before `since`, the longest idle first.
    pub fn idle_since(&self, since: Instant) -> Vec<ProcessNo> {
        let mut found: Vec<(Instant, ProcessNo)> = Vec::new();
        for (number, process) in self
            .processes
            .iter()
            .filter(|(_, p)| !p.retiring && !p.slots.is_empty())
        {
            let mut latest = Some(process.born);
            for slot in &process.slots {
                latest = match (latest, self.slots.get(slot).map(|s| s.state)) {
                    (Some(t), Some(SlotState::Idle(at))) => Some(t.max(at)),
                    _ => None,
                };
            }
            if let Some(at) = latest.filter(|at| *at <= since) {
                found.push((at, *number));
            }
        }
        found.sort();
        found.into_iter().map(|(_, number)| number).collect()
    }

    /// Whether a process of the plain form has ended before it could tell of its import, and how is not known yet.
    pub fn has_mute(&self) -> bool {
        let mut all = self.processes.values();
        all.any(|p| p.launched.is_some() && p.slots.is_empty())
    }

    /// Processes and threads of those that have started, and of all that were asked for: what a host counts.
    pub fn tasks(&self) -> (usize, usize) {
        let tasks = |p: &Process| p.slots.len().max(1);
        let started = self.processes.values().filter(|p| p.pid.is_some());
        (
            started.map(tasks).sum(),
            self.processes.values().map(tasks).sum(),
        )
    }

    /// Nothing is being served.
    pub fn is_quiet(&self) -> bool {
        self.slots.values().all(|slot| {
            !matches!(
                slot.state,
                SlotState::Busy(_) | SlotState::Starting(Some(_))
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn process(pool: &mut Pool, now: Instant, slots: usize) -> ProcessNo {
        let channels = (0..slots)
            .map(|_| {
                Channel::new(std::os::unix::net::UnixStream::pair().unwrap().0.into()).unwrap()
            })
            .collect();
        let process = Process {
            pid: None,
            launched: None,
            said: Vec::new(),
            generation: 1,
            on_trial: false,
            lifeline: None,
            stdout: None,
            stderr: None,
            slots: Vec::new(),
            served: 0,
            served_limit: 2,
            born: now,
            old_at: None,
            retiring: false,
            cut_at: None,
            refused: false,
            ended_for: None,
        };
        pool.add(process, channels)
    }

    #[test]
    fn a_slot_goes_through_its_life() {
        let now = Instant::now();
        let mut pool = Pool::default();
        let first = process(&mut pool, now, 1);
        let slot = pool.pick().unwrap();
        pool.occupy(slot, RequestNo(1));
        assert_eq!(
            pool.slots[&slot].state,
            SlotState::Starting(Some(RequestNo(1)))
        );
        assert_eq!(pool.pick(), None);
        pool.started(slot, 42, now);
        assert_eq!(pool.slots[&slot].state, SlotState::Busy(RequestNo(1)));
        assert!(!pool.is_quiet());
        assert!(!pool.release(slot, now));
        assert_eq!(pool.pick(), Some(slot));
        pool.occupy(slot, RequestNo(2));
        assert!(pool.release(slot, now), "two requests are its limit");
        pool.retire(first, now);
        assert_eq!(pool.pick(), None);
        assert_eq!(pool.processes[&first].cut_at, Some(now + LEAVE));
        assert!(pool.slots.is_empty());
    }

    #[test]
    fn the_slot_used_last_is_used_next() {
        let now = Instant::now();
        let mut pool = Pool::default();
        process(&mut pool, now, 1);
        process(&mut pool, now, 1);
        pool.started(SlotNo(1), 1, now);
        pool.started(SlotNo(2), 2, now);
        pool.occupy(SlotNo(1), RequestNo(1));
        pool.release(SlotNo(1), now + Duration::from_secs(9));
        assert_eq!(pool.pick(), Some(SlotNo(1)));
        assert_eq!(
            pool.idle_since(now + Duration::from_secs(5)),
            [ProcessNo(2)]
        );
        assert_eq!(pool.counts(0, 1).idle, 2);
        assert_eq!(pool.counts(0, 2).processes, 0);
    }

    #[test]
    fn a_retiring_process_finishes_what_it_has() {
        let now = Instant::now();
        let mut pool = Pool::default();
        let number = process(&mut pool, now, 2);
        pool.started(SlotNo(1), 1, now);
        pool.started(SlotNo(2), 1, now);
        pool.occupy(SlotNo(2), RequestNo(1));
        pool.retire(number, now);
        assert_eq!(pool.slots.keys().copied().collect::<Vec<_>>(), [SlotNo(2)]);
        assert_eq!(pool.processes[&number].cut_at, None);
        pool.release(SlotNo(2), now);
        pool.close_idle(number, now);
        assert_eq!(pool.processes[&number].cut_at, Some(now + LEAVE));
    }
}
