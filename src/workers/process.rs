//! `Process`: a worker process and its slots.
//!
//! ```text
//! Slot:     Starting ─STARTED─▶ Idle ⇄ Busy                     any ─end of stream, closed─▶ gone
//! Process:  Starting ─STARTED─▶ Serving ─worn, replaced, too many─▶ Retiring ─its slots are closed─▶ Ending
//!              └─no answer─────────┴─lost, too slow────────────────────┴────────────────────────────▶ Ending
//!           Ending ─its outputs have ended, or `kill_at`─▶ gone
//! ```
//! A slot is a socket on which one request at a time is served; a process has one (prefork) or several (threaded).

use super::scaling::less_up_to_a_tenth;
use crate::config::Config;
use crate::request::RequestNo;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Numbers a worker process; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessNo(pub u64);

/// Numbers a slot; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNo(pub u64);

/// What a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Not heard of yet; a request may already be in its socket, and can be taken back if it never starts.
    Starting(Option<RequestNo>),
    /// Waits for a request, since then.
    Idle(Instant),
    /// Serves one.
    Busy(RequestNo),
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for.
    Starting,
    /// It has said that it runs.
    Serving,
    /// It gets no more requests.
    Retiring,
    /// It is killed at this moment, or goes before by itself.
    Ending { kill_at: Instant, why: Why },
}

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has nothing to do any more, or has let go of its sockets.
    Done,
    /// One of its requests ran too long.
    TooSlow,
    /// It has not started in time.
    Unstarted,
}

/// See above.
#[derive(Debug)]
pub struct Process {
    generation: u64,
    state: State,
    pid: Option<i32>,
    child: Option<Pid>,
    open_outputs: usize,
    slots: Vec<(SlotNo, Slot)>,
    served: u64,
    served_limit: u64,
    born: Instant,
    old_at: Option<Instant>,
}

impl Process {
    /// It is being asked for. After how many requests and how long it is replaced, the settings say, and `random` how much
    /// sooner.
    pub(super) fn new(
        generation: u64,
        slots: &[SlotNo],
        config: &Config,
        random: u64,
        now: Instant,
    ) -> Process {
        let served_limit = less_up_to_a_tenth(config.server.maxrequests, random);
        let lifetime = Duration::from_secs(config.server.max_lifetime);
        Process {
            generation,
            state: State::Starting,
            pid: None,
            child: None,
            open_outputs: 0,
            slots: slots.iter().map(|s| (*s, Slot::Starting(None))).collect(),
            served: 0,
            served_limit,
            born: now,
            old_at: (!lifetime.is_zero()).then(|| now + lifetime),
        }
    }

    /// The generation whose code it runs.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The id of the process, once it has started.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Our child, as long as it has not told how its import went, and that matters.
    pub fn child(&self) -> Option<Pid> {
        self.child
    }

    /// Requests served.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// When it was asked for, or went live.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// It was asked for, and no word has come of it.
    pub fn is_starting(&self) -> bool {
        self.state == State::Starting
    }

    /// It serves, and gets requests.
    pub fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// It gets no more requests.
    pub fn is_retiring(&self) -> bool {
        matches!(self.state, State::Retiring | State::Ending { .. })
    }

    /// It is ended for this.
    pub fn ends_for(&self, reason: Why) -> bool {
        matches!(self.state, State::Ending { why, .. } if why == reason)
    }

    /// Its slots.
    pub fn slots(&self) -> impl Iterator<Item = SlotNo> {
        self.slots.iter().map(|(number, _)| *number)
    }

    /// Its requests.
    pub fn requests(&self) -> impl Iterator<Item = RequestNo> {
        self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Busy(request) => Some(*request),
            Slot::Starting(request) => *request,
            Slot::Idle(_) => None,
        })
    }

    /// The request that a slot has.
    pub fn request_on(&self, number: SlotNo) -> Option<RequestNo> {
        let mut slots = self.slots.iter();
        match slots.find(|(n, _)| *n == number)?.1 {
            Slot::Busy(request) => Some(request),
            Slot::Starting(request) => request,
            Slot::Idle(_) => None,
        }
    }

    /// The request that it may be writing about.
    pub fn writes_of(&self) -> Option<RequestNo> {
        // Before its first word it imports; later another of its threads may have been the first to say that it runs.
        self.requests().next().filter(|_| self.pid.is_some())
    }

    /// Processes and threads: what a host counts.
    pub fn tasks(&self) -> usize {
        self.slots.len().max(1)
    }

    /// Since when all of its slots are idle.
    pub fn idle_since(&self) -> Option<Instant> {
        let mut latest = self.born;
        for (_, slot) in &self.slots {
            let Slot::Idle(at) = slot else { return None };
            latest = latest.max(*at);
        }
        (!self.slots.is_empty()).then_some(latest)
    }

    /// It has served as many requests as it may, or is too old.
    pub fn is_worn(&self, now: Instant) -> bool {
        self.served_limit > 0 && self.served >= self.served_limit || self.is_old(now)
    }

    /// It is too old.
    pub fn is_old(&self, now: Instant) -> bool {
        self.old_at.is_some_and(|at| at <= now)
    }

    /// Nothing is left of it that could still tell something, or its time is over.
    pub fn is_due(&self, now: Instant) -> bool {
        let State::Ending { kill_at, .. } = self.state else {
            return false;
        };
        let gone = self.slots.is_empty() && self.open_outputs == 0 && self.child.is_none();
        gone || kill_at <= now
    }

    /// It has ended before it could tell of its import, and how is not known yet.
    pub fn is_mute(&self) -> bool {
        self.child.is_some() && self.slots.is_empty()
    }

    /// When something is due; it must have started within this time.
    pub(super) fn deadline(&self, start_within: Duration) -> Option<Instant> {
        match self.state {
            State::Starting => Some(self.born + start_within),
            State::Serving => self.old_at.filter(|_| self.idle_since().is_some()),
            State::Retiring => None,
            State::Ending { kill_at, .. } => Some(kill_at),
        }
    }

    // --- what happens to it ---

    /// It was asked for: `child`, if it is a child of ours; `outputs`: so many descriptors are read of it.
    pub(super) fn launched(&mut self, child: Option<Pid>, outputs: usize) {
        (self.child, self.open_outputs) = (child, outputs);
    }

    /// STARTED on a slot. Whether this was its first word.
    pub(super) fn started(&mut self, slot: SlotNo, pid: i32, now: Instant) -> bool {
        self.child = None;
        if self.state == State::Starting {
            self.state = State::Serving;
        }
        if let Some(slot) = self.slot(slot)
            && let Slot::Starting(request) = *slot
        {
            *slot = request.map_or(Slot::Idle(now), Slot::Busy);
        }
        self.pid.replace(pid).is_none()
    }

    /// Its generation goes live: its time begins now.
    pub(super) fn goes_live(&mut self, now: Instant) {
        self.born = now;
    }

    /// What one of its slots does.
    pub(super) fn slot(&mut self, number: SlotNo) -> Option<&mut Slot> {
        let mut slots = self.slots.iter_mut();
        slots.find(|(n, _)| *n == number).map(|(_, slot)| slot)
    }

    /// The slots that wait for a request.
    pub(super) fn free(&self) -> impl Iterator<Item = SlotNo> {
        let idle = |(_, slot): &&(SlotNo, Slot)| matches!(slot, Slot::Idle(_));
        self.slots.iter().filter(idle).map(|(number, _)| *number)
    }

    /// A slot of it that is just starting and has no request yet.
    pub(super) fn starting_slot(&self) -> Option<SlotNo> {
        let mut slots = self.slots.iter();
        let found = slots.find(|(_, slot)| *slot == Slot::Starting(None));
        found.map(|(number, _)| *number)
    }

    /// A slot gets this request.
    pub(super) fn give(&mut self, slot: SlotNo, request: RequestNo) {
        if let Some(slot) = self.slot(slot) {
            *slot = match slot {
                Slot::Starting(_) => Slot::Starting(Some(request)),
                _ => Slot::Busy(request),
            };
        }
    }

    /// The request of a slot was not sent: it is free again, as far as it is there.
    pub(super) fn take(&mut self, slot: SlotNo, now: Instant) -> Option<RequestNo> {
        let slot = self.slot(slot)?;
        let (request, free) = match *slot {
            Slot::Starting(request) => (request, Slot::Starting(None)),
            Slot::Busy(request) => (Some(request), Slot::Idle(now)),
            Slot::Idle(_) => return None,
        };
        *slot = free;
        request
    }

    /// The request on a slot is over, which one.
    pub(super) fn finish(&mut self, slot: SlotNo, now: Instant) -> Option<RequestNo> {
        let found = self.slot(slot)?;
        let Slot::Busy(request) = *found else {
            return None;
        };
        *found = Slot::Idle(now);
        self.served += 1;
        Some(request)
    }

    /// A slot is gone: what it did.
    pub(super) fn lose(&mut self, slot: SlotNo) -> Option<Slot> {
        let at = self.slots.iter().position(|(n, _)| *n == slot)?;
        Some(self.slots.remove(at).1)
    }

    /// One of the descriptors that it writes to has ended.
    pub(super) fn output_ended(&mut self) {
        self.open_outputs = self.open_outputs.saturating_sub(1);
    }

    /// It is known how its import went, or does not matter any more. Whether it was not known before.
    pub(super) fn resolve(&mut self) -> bool {
        self.child.take().is_some()
    }

    /// It gets no more requests. The slots that have nothing to do are to be closed.
    pub(super) fn retire(&mut self) -> Vec<SlotNo> {
        if !self.is_retiring() {
            self.state = State::Retiring;
        }
        self.child = None;
        let busy = |slot: &Slot| matches!(slot, Slot::Busy(_) | Slot::Starting(Some(_)));
        let (kept, closed) = std::mem::take(&mut self.slots)
            .into_iter()
            .partition(|(_, slot)| busy(slot));
        self.slots = kept;
        closed.into_iter().map(|(number, _)| number).collect()
    }

    /// It is killed at this moment, unless that was settled before.
    pub(super) fn end(&mut self, kill_at: Instant, why: Why) {
        if !matches!(self.state, State::Ending { .. }) {
            self.state = State::Ending { kill_at, why };
        }
    }

    /// It is killed at this moment, whatever was settled before.
    pub(super) fn end_for(&mut self, kill_at: Instant, why: Why) {
        self.state = State::Ending { kill_at, why };
    }

    /// Whether one of its slots but this one serves a request.
    pub(super) fn serves_others(&self, slot: SlotNo) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|(n, s)| *n != slot && matches!(s, Slot::Busy(_)))
    }
}
