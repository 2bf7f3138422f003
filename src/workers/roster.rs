//! `Roster`: all worker processes, by number and by slot.

use super::action::Action;
use super::kept::Facts;
use super::process::{LAST_WORDS, Origin, Process, ProcessNo, Slot, SlotNo, Why};
use super::scaling::Counts;
use crate::config::Config;
use crate::failure::Failure;
use crate::numbered::Numbered;
use crate::request::RequestNo;
use std::time::{Duration, Instant};

/// A preloader that does not answer for so long hangs.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How long Python may take to write its stack, on a busy machine too.
pub(super) const STACK_WITHIN: Duration = Duration::from_secs(1);

/// Why a request is lost, as far as its socket shows.
pub(super) const DIED: &str = "the worker died in the middle of the request";
/// How long the exit functions of a worker may take before it is killed.
const EXIT_WITHIN: Duration = Duration::from_secs(3);
/// How long to wait for the exit status of a child whose sockets have ended.
pub(super) const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// A slot whose socket has ended.
pub(super) struct Lost {
    /// Its state.
    pub state: Slot,
    /// Why a request on it has failed.
    pub failure: Failure,
    /// It was the last one of a process that had not started.
    pub unstarted: bool,
    /// It was the last one of the process with this pid, which served.
    pub process: Option<i32>,
}

/// All worker processes, and which of their slots are free.
#[derive(Debug, Default)]
pub struct Roster {
    processes: Numbered<ProcessNo, Process>,
    /// The process of each open slot.
    owners: Numbered<SlotNo, ProcessNo>,
    /// Free slots, the one used last on top: its caches are warm, and the others can be retired.
    free: Vec<SlotNo>,
    last_process: u64,
    last_slot: u64,
}

impl Roster {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ProcessNo, &Process)> {
        self.processes.iter()
    }

    /// One of them.
    pub fn get(&self, number: ProcessNo) -> Option<&Process> {
        self.processes.get(number)
    }

    /// Whether one of them has started.
    pub fn runs(&self, number: ProcessNo) -> bool {
        self.get(number).is_some_and(|p| p.pid().is_some())
    }

    /// The process of a slot, if it is idle, and not on trial.
    pub(super) fn idle_owner(&self, slot: SlotNo, current: u64) -> Option<ProcessNo> {
        let is_idle = |p: &Process| p.is_idle() && p.generation() <= current;
        let number = self.owner(slot);
        number.filter(|number| self.get(*number).is_some_and(is_idle))
    }

    /// The process of a slot.
    pub fn owner(&self, slot: SlotNo) -> Option<ProcessNo> {
        self.owners.get(slot).copied()
    }

    /// The pid of the process of a slot.
    pub fn pid(&self, slot: SlotNo) -> Option<i32> {
        self.get(self.owner(slot)?)?.pid()
    }

    /// The request that a slot has.
    pub fn request_on(&self, slot: SlotNo) -> Option<RequestNo> {
        self.get(self.owner(slot)?)?.request_on(slot)
    }

    /// Whether there is one that `which` accepts.
    pub fn any(&self, which: impl Fn(&Process) -> bool) -> bool {
        self.processes.values().any(which)
    }

    /// Whether one of them gets requests while this generation serves.
    pub fn serves(&self, current: u64) -> bool {
        self.any(|p| !p.is_retiring() && p.generation() <= current)
    }

    /// Whether one of them has a request.
    pub fn is_busy(&self) -> bool {
        self.any(|p| p.requests().next().is_some())
    }

    /// Whether the process with this pid is one of them, and its end was not our doing.
    pub fn ends_unexpectedly(&self, pid: i32) -> bool {
        self.any(|p| p.pid() == Some(pid) && !p.ends_for(Why::TooSlow))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Those that `which` accepts.
    pub fn numbers(&self, which: impl Fn(&Process) -> bool) -> Vec<ProcessNo> {
        let found = self.iter().filter(|(_, p)| which(p));
        found.map(|(number, _)| number).collect()
    }

    /// Processes that have been idle since `since` or longer, the longest idle first.
    pub fn idle_since(&self, since: Instant) -> Vec<ProcessNo> {
        let serving = self.iter().filter(|(_, p)| !p.is_retiring());
        let idle = serving.filter_map(|(number, p)| Some((p.idle_since()?, number)));
        let mut found: Vec<_> = idle.filter(|(at, _)| *at <= since).collect();
        found.sort();
        found.into_iter().map(|(_, number)| number).collect()
    }

    /// The one that is idle for longest, of this generation if it is given.
    pub(super) fn idle_of(&self, generation: Option<u64>, now: Instant) -> Option<ProcessNo> {
        let of = |number: &ProcessNo| Some(self.get(*number)?.generation());
        let mut idle = self.idle_since(now).into_iter();
        idle.find(|number| generation.is_none() || of(number) == generation)
    }

    /// The present numbers, while this generation is live.
    pub fn counts(&self, current: u64, queued: usize) -> Counts {
        let mut counts = Counts {
            queued,
            ..Counts::default()
        };
        for process in self.processes.values() {
            counts.tasks += process.tasks();
            if process.is_retiring() {
                continue;
            }
            counts.outdated |= process.generation() < current;
            if process.generation() == current {
                counts.processes += 1;
                counts.idle += usize::from(process.pid().is_some() && process.is_idle());
                counts.starting += usize::from(process.has_not_started());
            }
        }
        counts
    }

    /// Processes and threads of those that have started.
    pub fn tasks(&self) -> usize {
        let started = self.processes.values().filter(|p| p.pid().is_some());
        started.map(Process::tasks).sum()
    }

    /// The slot for the next request: a free one, else a starting one. A generation after `current` is on trial and gets
    /// none.
    pub fn pick(&self, current: u64) -> Option<SlotNo> {
        let gets_requests = |p: &&Process| !p.is_retiring() && p.generation() <= current;
        let mut starting = self.processes.values().filter(gets_requests);
        let free = self.free.last().copied();
        free.or_else(|| starting.find_map(Process::starting_slot))
    }

    /// How many requests its starting processes of this generation can take.
    pub(super) fn coming(&self, current: u64) -> usize {
        let gets_requests = |p: &&Process| !p.is_retiring() && p.generation() <= current;
        let all = self.processes.values().filter(gets_requests);
        all.map(Process::coming).sum()
    }

    /// Those that serve with older code.
    pub fn outdated(&self, current: u64) -> Vec<ProcessNo> {
        self.numbers(|p| p.generation() < current && !p.is_retiring())
    }

    /// Whether one of this generation has started.
    pub fn has_started(&self, generation: u64) -> bool {
        self.any(|p| p.generation() == generation && p.pid().is_some() && !p.is_retiring())
    }

    /// Since when the longest idle one is idle, if more than `kept` are.
    pub fn surplus_since(&self, current: u64, kept: usize) -> Option<Instant> {
        // Each that is idle has a free slot.
        if self.free.len() <= kept || self.counts(current, 0).idle <= kept {
            return None;
        }
        let serving = self.processes.values().filter(|p| !p.is_retiring());
        serving.filter_map(Process::idle_since).min()
    }

    /// Those that have been idle since `since` or longer, of the idle ones beyond `kept`.
    pub(super) fn surplus(&self, current: u64, kept: usize, since: Instant) -> Vec<ProcessNo> {
        let mut idle = self.idle_since(since);
        idle.truncate(self.counts(current, 0).idle.saturating_sub(kept));
        idle
    }

    /// An idle worker with old code that can make room for the first one with new code. Only one, since another front may
    /// take that room; and none if a new one is starting, or an old one is about to exit.
    pub(super) fn in_the_way(&self, current: u64, now: Instant) -> Option<ProcessNo> {
        let comes = |p: &Process| p.generation() == current && !p.is_retiring();
        let exits = |p: &Process| p.generation() < current && p.ends_for(Why::Done);
        let outdated =
            |number: &ProcessNo| self.get(*number).is_some_and(|p| p.generation() < current);
        let mut idle = self.idle_since(now).into_iter();
        idle.find(outdated)
            .filter(|_| !self.any(comes) && !self.any(exits))
    }

    /// One that is too old, and idle.
    pub(super) fn old_and_idle(&self, now: Instant) -> Option<ProcessNo> {
        let old = |number: &ProcessNo| self.get(*number).is_some_and(|p| p.is_old(now));
        self.idle_since(now).into_iter().find(old)
    }

    /// The slots of one of them.
    pub(super) fn slots(&self, number: ProcessNo) -> Vec<SlotNo> {
        let process = self.get(number);
        process.map_or_else(Vec::new, |process| process.slots().collect())
    }

    /// STARTED on this slot, which is free then unless it has a request. Whether it is the first one of its process.
    pub(super) fn started(
        &mut self,
        slot: SlotNo,
        pid: i32,
        current: u64,
        now: Instant,
    ) -> Option<bool> {
        let process = self.owner_mut(slot)?;
        let first = process.started(slot, pid, now);
        let gets_requests = !process.is_retiring() && process.generation() <= current;
        if gets_requests && matches!(process.slot(slot), Some(Slot::Idle(_))) {
            self.set_free(slot);
        }
        Some(first)
    }

    /// The slot can take a request.
    pub(super) fn set_free(&mut self, slot: SlotNo) {
        self.free.push(slot);
    }

    /// Gives the slot this request.
    pub(super) fn give(&mut self, slot: SlotNo, request: RequestNo) {
        self.free.retain(|free| *free != slot);
        if let Some(process) = self.owner_mut(slot) {
            process.give(slot, request);
        }
    }

    /// This generation goes live: its processes get requests from now on.
    pub(super) fn go_live(&mut self, generation: u64, now: Instant) {
        let tried = |p: &&mut Process| p.generation() == generation && !p.is_retiring();
        for process in self.processes.values_mut().filter(tried) {
            process.goes_live(now);
            self.free.extend(process.free());
        }
    }

    /// A request on this slot has run too long. Returns the number and the pid of its process, unless that is ending for
    /// this reason already.
    pub(super) fn too_slow(&self, slot: SlotNo) -> Option<(ProcessNo, i32)> {
        let number = self.owner(slot)?;
        let process = self.get(number)?;
        let known = process.ends_for(Why::TooSlow);
        process.pid().filter(|_| !known).map(|pid| (number, pid))
    }

    /// Has the process of this slot killed for it, after a time for its other requests.
    pub(super) fn end_too_slow(&mut self, slot: SlotNo, now: Instant) {
        if let Some(process) = self.owner_mut(slot) {
            process.end_too_slow(slot, now);
        }
    }

    /// What to do about one that has not started in time, and about those that have had time to end.
    pub(super) fn overdue(&mut self, config: &Config, now: Instant) -> Vec<Action> {
        let unstarted = self.unstarted(config, now);
        let ended = self.numbers(|p| p.is_due(now)).into_iter();
        unstarted
            .into_iter()
            .chain(ended.map(Action::Kill))
            .collect()
    }

    /// What to do about one that has not started in time. If it imports the app, it may write where it is before it is
    /// killed.
    fn unstarted(&mut self, config: &Config, now: Instant) -> Option<Action> {
        let imports = Duration::from_secs(config.limits.start_timeout);
        let late = |p: &Process| p.is_late(start_within(p, imports), now);
        let number = self.numbers(late).first().copied()?;
        let process = self.get_mut(number)?;
        let Some(importer) = process.importer() else {
            process.end(now, Why::Unstarted);
            let within = start_within(process, imports);
            return Some(Action::Unstarted(number, within.as_secs()));
        };
        process.end(now + STACK_WITHIN, Why::Unstarted);
        Some(Action::WriteStack(importer.as_raw()))
    }

    /// Adds a process: the next number, and its slots.
    pub(super) fn add(
        &mut self,
        slots: usize,
        process: impl FnOnce(ProcessNo, &[SlotNo]) -> Process,
    ) -> (ProcessNo, Vec<SlotNo>) {
        self.last_process += 1;
        let number = ProcessNo(self.last_process);
        let first = self.last_slot + 1;
        self.last_slot += slots as u64;
        let slots: Vec<_> = (first..=self.last_slot).map(SlotNo).collect();
        for slot in &slots {
            self.owners.insert(*slot, number);
        }
        self.processes.insert(number, process(number, &slots));
        (number, slots)
    }

    /// One of them, for an event.
    pub(super) fn get_mut(&mut self, number: ProcessNo) -> Option<&mut Process> {
        self.processes.get_mut(number)
    }

    /// The process of a slot, for an event.
    pub(super) fn owner_mut(&mut self, slot: SlotNo) -> Option<&mut Process> {
        let owner = self.owner(slot)?;
        self.get_mut(owner)
    }

    /// The slot is closed, or lost: returns its process and its state.
    pub(super) fn lose(&mut self, slot: SlotNo) -> Option<(ProcessNo, Slot)> {
        self.free.retain(|free| *free != slot);
        let number = self.owners.remove(slot)?;
        Some((number, self.get_mut(number)?.lose(slot)?))
    }

    /// The socket of a slot has ended. With its last one, the process ends, too.
    pub(super) fn socket_ended(&mut self, slot: SlotNo, now: Instant) -> Option<Lost> {
        let (number, state) = self.lose(slot)?;
        let process = self.get_mut(number)?;
        let last = process.slots().next().is_none();
        let why = match process.ends_for(Why::TooSlow) {
            true => "its worker was killed for another request that ran too long",
            false => DIED,
        };
        let lost = Lost {
            state,
            failure: Failure::WorkerLost(why.to_owned(), process.pid().unwrap_or(0)),
            unstarted: last && process.is_starting(),
            process: process.pid().filter(|_| last && process.is_serving()),
        };
        if last {
            let wait = process.importer().map_or(LAST_WORDS, |_| STATUS_WITHIN);
            process.end(now + wait, Why::Done);
        }
        Some(lost)
    }

    /// It gets no more requests, and ends as soon as it has none. Returns the slots to be closed.
    pub(super) fn retire(&mut self, number: ProcessNo, now: Instant) -> Vec<SlotNo> {
        let Some(process) = self.get_mut(number) else {
            return Vec::new();
        };
        let closed = process.retire();
        if process.slots().next().is_none() {
            process.end(now + EXIT_WITHIN, Why::Done);
        }
        for slot in &closed {
            self.lose(*slot);
        }
        closed
    }

    /// It was launched; see `Process::launched`.
    pub(super) fn launched(&mut self, number: ProcessNo, origin: Origin, outputs: usize) {
        if let Some(process) = self.get_mut(number) {
            process.launched(origin, outputs);
        }
    }

    /// One of its outputs has ended.
    pub(super) fn output_ended(&mut self, number: ProcessNo) {
        if let Some(process) = self.get_mut(number) {
            process.output_ended();
        }
    }

    /// It is one that another front had.
    pub(super) fn adopted(&mut self, number: ProcessNo, facts: &Facts, now: Instant) {
        if let Some(process) = self.get_mut(number) {
            process.adopted(facts, now);
        }
    }

    /// The preloader has forked it.
    pub(super) fn forked(&mut self, number: Option<ProcessNo>, pid: i32, now: Instant) {
        if let Some(process) = number.and_then(|number| self.get_mut(number)) {
            process.forked(pid, now);
        }
    }

    /// The site has no room for these yet.
    pub(super) fn wait_in_line(&mut self, processes: &[ProcessNo]) {
        for number in processes {
            if let Some(process) = self.get_mut(*number) {
                process.wait_in_line();
            }
        }
    }

    /// If it is idle and of this generation, it gets no more requests, and waits to be taken. Whether it does.
    pub(super) fn leave(&mut self, number: ProcessNo, current: u64) -> bool {
        let usable = |p: &&mut Process| p.generation() == current && p.is_idle();
        let Some(process) = self.get_mut(number).filter(usable) else {
            return false;
        };
        process.leave();
        let slots = self.slots(number);
        self.free.retain(|free| !slots.contains(free));
        true
    }

    /// Takes an idle process away, for another front.
    pub(super) fn take(&mut self, number: ProcessNo, now: Instant) -> Option<Facts> {
        let facts = self.get(number)?.facts(now);
        for slot in self.slots(number) {
            self.lose(slot);
        }
        self.remove(number);
        facts
    }

    /// Forgets a process that is gone.
    pub(super) fn remove(&mut self, number: ProcessNo) {
        self.processes.remove(number);
    }

    /// When something is due.
    pub(super) fn deadline(&self, config: &Config) -> Option<Instant> {
        let imports = Duration::from_secs(config.limits.start_timeout);
        let all = self.processes.values();
        all.filter_map(|p| p.deadline(start_within(p, imports)))
            .min()
    }
}

/// A fork takes milliseconds; an import has its time.
fn start_within(process: &Process, imports: Duration) -> Duration {
    match process.importer() {
        Some(_) => imports,
        None => imports.min(ANSWERS_WITHIN),
    }
}
