//! `Process`: a worker process and its slots.
//!
//! ```text
//! Slot:     Starting ─STARTED─▶ Idle ⇄ Busy                     any ─end of stream, closed─▶ gone
//! Process:  Requested ─WAITING─▶ InLine
//!              └─FORKED, or it is our child─┴▶ Starting ─STARTED─▶ Serving
//!              └─GIVEN──────────────────────┴────────────────────────▲
//!           Serving ─worn, replaced, too many, kept for others─▶ Retiring ─its slots are closed─▶ Ending
//!           any ─no answer, lost, too slow─▶ Ending ─its outputs have ended, or `kill_at`─▶ gone
//! ```
//! A slot is a socket that serves one request at a time; a process has one (prefork) or several (threaded).

use super::kept::Facts;
use super::scaling::less_up_to_a_tenth;
use crate::config::Config;
use crate::request::RequestNo;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How long a worker that is to be killed may still write to the log.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long the other requests of a process may take when it is to be killed for one of them.
const OTHERS_FINISH: Duration = Duration::from_secs(5);

/// A worker process; numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessNo(pub u64);

/// A slot; numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNo(pub u64);

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// No STARTED yet; a request may already be in its socket, and can be taken back if it never starts.
    Starting(Option<RequestNo>),
    /// Waits for a request, since then.
    Idle(Instant),
    /// Serves one.
    Busy(RequestNo),
}

/// See the diagram above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requested from the preloader, which has not answered.
    Requested,
    /// The same, and the site has no room for it yet.
    InLine,
    /// Forked by the preloader, or launched as a child of ours.
    Starting,
    /// STARTED has come.
    Serving,
    /// It gets no more requests.
    Retiring,
    /// It is killed at this time, unless it exits before.
    Ending { kill_at: Instant, why: Why },
}

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has no slots any more: we closed them, or it did.
    Done,
    /// One of its requests ran too long.
    TooSlow,
    /// It has not started in time.
    Unstarted,
}

/// Who starts a worker process, and who imports the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A preloader, which has imported the app.
    Preloader,
    /// A preloader without the app, so the worker imports it.
    Keeper,
    /// This front; the worker is this child, and imports the app.
    Front(Pid),
}

/// A worker process, its state and its slots.
#[derive(Debug)]
pub struct Process {
    generation: u64,
    state: State,
    pid: Option<i32>,
    origin: Origin,
    /// Its pid while it imports the app and the outcome matters.
    importer: Option<Pid>,
    open_outputs: usize,
    slots: Vec<(SlotNo, Slot)>,
    served: u64,
    served_limit: u64,
    born: Instant,
    old_at: Option<Instant>,
}

impl Process {
    /// A process that is about to be launched. `config` limits its requests and its lifetime, less up to a tenth by `random`.
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
            state: State::Requested,
            pid: None,
            origin: Origin::Preloader,
            importer: None,
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

    /// The pid, once it has started.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Its pid while it imports the app and the outcome matters.
    pub fn importer(&self) -> Option<Pid> {
        self.importer
    }

    /// It imports the app by itself, and has not started.
    pub(super) fn imports(&self) -> bool {
        self.origin != Origin::Preloader && self.pid.is_none()
    }

    /// The pid, as far as it is known.
    pub(super) fn known_pid(&self) -> Option<i32> {
        self.pid.or_else(|| self.importer.map(Pid::as_raw))
    }

    /// Requests served.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// When it was launched, or went live.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// STARTED has not come yet.
    pub fn is_starting(&self) -> bool {
        self.is_unanswered() || self.state == State::Starting
    }

    /// It was requested from the preloader, whose answer has not come.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Requested | State::InLine)
    }

    /// It should have started by now.
    pub(super) fn is_late(&self, start_within: Duration, now: Instant) -> bool {
        let awaited = self.is_starting() && self.state != State::InLine;
        awaited && now.saturating_duration_since(self.born) >= start_within
    }

    /// It has started and gets requests.
    pub fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// It gets no more requests.
    pub fn is_retiring(&self) -> bool {
        matches!(self.state, State::Retiring | State::Ending { .. })
    }

    /// It is ending for this reason.
    pub fn ends_for(&self, reason: Why) -> bool {
        matches!(self.state, State::Ending { why, .. } if why == reason)
    }

    /// Its slots.
    pub fn slots(&self) -> impl Iterator<Item = SlotNo> {
        self.slots.iter().map(|(number, _)| *number)
    }

    /// What another front has to know of it. None: it has not started.
    pub(super) fn facts(&self, now: Instant) -> Option<Facts> {
        Some(Facts {
            pid: self.pid?,
            served: self.served,
            served_limit: self.served_limit,
            old_in: self.old_at.map(|at| at.saturating_duration_since(now)),
        })
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

    /// The request that its output may belong to.
    pub fn writes_of(&self) -> Option<RequestNo> {
        // Without a pid it still imports. Not the slot's state: another thread may have sent the first STARTED.
        self.requests().next().filter(|_| self.pid.is_some())
    }

    /// Its processes and threads, as a host counts them.
    pub fn tasks(&self) -> usize {
        self.slots.len().max(1)
    }

    /// Whether all of its slots are idle.
    pub fn is_idle(&self) -> bool {
        let idle = |(_, slot): &(SlotNo, Slot)| matches!(slot, Slot::Idle(_));
        !self.slots.is_empty() && self.slots.iter().all(idle)
    }

    /// It has not said that it runs, and will serve.
    pub fn has_not_started(&self) -> bool {
        let free = |(_, slot): &(SlotNo, Slot)| *slot == Slot::Starting(None);
        self.pid.is_none() && self.slots.iter().any(free)
    }

    /// How many requests it can take soon, which nobody has given it yet.
    pub(super) fn coming(&self) -> usize {
        let free = |(_, slot): &&(SlotNo, Slot)| *slot == Slot::Starting(None);
        let slots = self.slots.iter().filter(|_| self.state != State::InLine);
        slots.filter(free).count()
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

    /// When it is too old, if ever.
    pub fn old_at(&self) -> Option<Instant> {
        self.old_at
    }

    /// It is too old.
    pub fn is_old(&self, now: Instant) -> bool {
        self.old_at.is_some_and(|at| at <= now)
    }

    /// Kill it now: nothing more can come from it, or its time is over.
    pub fn is_due(&self, now: Instant) -> bool {
        let State::Ending { kill_at, .. } = self.state else {
            return false;
        };
        let gone = self.slots.is_empty() && self.open_outputs == 0 && self.importer.is_none();
        gone || kill_at <= now
    }

    /// Its import has failed, and it is not known yet how: it closed its sockets, or took too long.
    pub fn is_mute(&self) -> bool {
        self.importer.is_some() && (self.slots.is_empty() || self.ends_for(Why::Unstarted))
    }

    /// When something is due. It must start within `start_within`.
    pub(super) fn deadline(&self, start_within: Duration) -> Option<Instant> {
        match self.state {
            State::Requested | State::Starting => Some(self.born + start_within),
            State::InLine => None,
            State::Serving => self.old_at.filter(|_| self.idle_since().is_some()),
            State::Retiring => None,
            State::Ending { kill_at, .. } => Some(kill_at),
        }
    }

    // --- events ---

    /// It was launched. `outputs`: how many of its outputs are read.
    pub(super) fn launched(&mut self, origin: Origin, outputs: usize) {
        (self.origin, self.open_outputs) = (origin, outputs);
        if let Origin::Front(child) = origin {
            (self.state, self.importer) = (State::Starting, Some(child));
        }
    }

    /// STARTED on a slot. Whether it was the first one.
    pub(super) fn started(&mut self, slot: SlotNo, pid: i32, now: Instant) -> bool {
        self.importer = None;
        if self.is_starting() {
            self.state = State::Serving;
        }
        if let Some(slot) = self.slot(slot)
            && let Slot::Starting(request) = *slot
        {
            *slot = request.map_or(Slot::Idle(now), Slot::Busy);
        }
        self.pid.replace(pid).is_none()
    }

    /// Its generation goes live: its lifetime begins now.
    pub(super) fn goes_live(&mut self, now: Instant) {
        self.born = now;
    }

    /// The site has no room for it yet.
    pub(super) fn wait_in_line(&mut self) {
        if self.state == State::Requested {
            self.state = State::InLine;
        }
    }

    /// The preloader has forked it.
    pub(super) fn forked(&mut self, pid: i32, now: Instant) {
        if self.is_unanswered() {
            (self.state, self.born) = (State::Starting, now);
            let imports = self.origin == Origin::Keeper;
            self.importer = imports.then_some(Pid::from_raw(pid));
        }
    }

    /// It is one that another front had.
    pub(super) fn adopted(&mut self, facts: &Facts, now: Instant) {
        (self.served, self.served_limit) = (facts.served, facts.served_limit);
        self.old_at = facts.old_in.map(|left| now + left);
    }

    /// It gets no more requests here: another front is to have it.
    pub(super) fn leave(&mut self) {
        self.state = State::Retiring;
    }

    /// One of its slots.
    pub(super) fn slot(&mut self, number: SlotNo) -> Option<&mut Slot> {
        let mut slots = self.slots.iter_mut();
        slots.find(|(n, _)| *n == number).map(|(_, slot)| slot)
    }

    /// Its idle slots.
    pub(super) fn free(&self) -> impl Iterator<Item = SlotNo> {
        let idle = |(_, slot): &&(SlotNo, Slot)| matches!(slot, Slot::Idle(_));
        self.slots.iter().filter(idle).map(|(number, _)| *number)
    }

    /// A slot that is starting and has no request yet. Not before the process exists: in its place may come another one.
    pub(super) fn starting_slot(&self) -> Option<SlotNo> {
        let mut slots = self.slots.iter().filter(|_| self.state == State::Starting);
        let found = slots.find(|(_, slot)| *slot == Slot::Starting(None));
        found.map(|(number, _)| *number)
    }

    /// Gives a slot this request.
    pub(super) fn give(&mut self, slot: SlotNo, request: RequestNo) {
        if let Some(slot) = self.slot(slot) {
            *slot = match slot {
                Slot::Starting(_) => Slot::Starting(Some(request)),
                _ => Slot::Busy(request),
            };
        }
    }

    /// The request of a slot could not be sent: takes it back.
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

    /// The request on a slot is over; returns it.
    pub(super) fn finish(&mut self, slot: SlotNo, now: Instant) -> Option<RequestNo> {
        let found = self.slot(slot)?;
        let Slot::Busy(request) = *found else {
            return None;
        };
        *found = Slot::Idle(now);
        self.served += 1;
        Some(request)
    }

    /// A slot is gone; returns its state.
    pub(super) fn lose(&mut self, slot: SlotNo) -> Option<Slot> {
        let at = self.slots.iter().position(|(n, _)| *n == slot)?;
        Some(self.slots.remove(at).1)
    }

    /// One of its outputs has ended.
    pub(super) fn output_ended(&mut self) {
        self.open_outputs = self.open_outputs.saturating_sub(1);
    }

    /// The outcome of its import is known, or does not matter any more. Whether this is news.
    pub(super) fn resolve(&mut self) -> bool {
        self.importer.take().is_some()
    }

    /// It gets no more requests. Returns the idle slots, which are to be closed.
    pub(super) fn retire(&mut self) -> Vec<SlotNo> {
        if !self.is_retiring() {
            self.state = State::Retiring;
        }
        self.importer = None;
        let busy = |slot: &Slot| matches!(slot, Slot::Busy(_) | Slot::Starting(Some(_)));
        let (kept, closed) = std::mem::take(&mut self.slots)
            .into_iter()
            .partition(|(_, slot)| busy(slot));
        self.slots = kept;
        closed.into_iter().map(|(number, _)| number).collect()
    }

    /// Has it killed at this time, unless it is ending already.
    pub(super) fn end(&mut self, kill_at: Instant, why: Why) {
        if !matches!(self.state, State::Ending { .. }) {
            self.state = State::Ending { kill_at, why };
        }
    }

    /// The request on this slot ran too long: has the process killed, after a time for its other requests.
    pub(super) fn end_too_slow(&mut self, slot: SlotNo, now: Instant) {
        let mut slots = self.slots.iter();
        let grace = match slots.any(|(n, s)| *n != slot && matches!(s, Slot::Busy(_))) {
            true => OTHERS_FINISH,
            false => LAST_WORDS,
        };
        let (kill_at, why) = (now + grace, Why::TooSlow);
        self.state = State::Ending { kill_at, why };
    }
}
