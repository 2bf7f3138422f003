//! `Roster`: every worker process that is not gone, by its number and by its slots.

use super::process::{Process, ProcessNo, Slot, SlotNo, Why};
use super::scaling::Counts;
use crate::request::RequestNo;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A preloader that is silent for so long is stuck.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A child whose sockets have ended has itself ended within this time.
pub(super) const STATUS_WITHIN: Duration = Duration::from_secs(1);
/// A worker that ran too long, or has lost its sockets, may still write its last words.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(300);

/// A slot whose socket has ended.
pub(super) struct Lost {
    /// What it did.
    pub did: Slot,
    /// The id of its process, if that has started.
    pub pid: i32,
    /// Why a request on it has failed.
    pub why: &'static str,
    /// It was the last of a process that had not started.
    pub unstarted: bool,
    /// It was the last of this process, which served.
    pub process: Option<i32>,
}

/// See above.
#[derive(Debug, Default)]
pub struct Roster {
    processes: BTreeMap<ProcessNo, Process>,
    /// Whose each open slot is.
    owners: BTreeMap<SlotNo, ProcessNo>,
    /// Free slots; the one used last is on top, so that its caches are warm and the others can be ended.
    free: Vec<SlotNo>,
    last_process: u64,
    last_slot: u64,
}

impl Roster {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ProcessNo, &Process)> {
        self.processes.iter().map(|(number, p)| (*number, p))
    }

    /// One of them.
    pub fn get(&self, number: ProcessNo) -> Option<&Process> {
        self.processes.get(&number)
    }

    /// Whether one of them has said that it runs.
    pub fn runs(&self, number: ProcessNo) -> bool {
        self.get(number).is_some_and(|p| p.pid().is_some())
    }

    /// Whose slot it is.
    pub fn owner(&self, slot: SlotNo) -> Option<ProcessNo> {
        self.owners.get(&slot).copied()
    }

    /// The id of the process whose slot it is.
    pub fn pid(&self, slot: SlotNo) -> Option<i32> {
        self.get(self.owner(slot)?)?.pid()
    }

    /// The request that a slot has.
    pub fn request_on(&self, slot: SlotNo) -> Option<RequestNo> {
        self.get(self.owner(slot)?)?.request_on(slot)
    }

    /// Whether there is one such as `which` picks.
    pub fn any(&self, which: impl Fn(&Process) -> bool) -> bool {
        self.processes.values().any(which)
    }

    /// Whether one of them gets requests, while this generation is live.
    pub fn serves(&self, current: u64) -> bool {
        self.any(|p| !p.is_retiring() && p.generation() <= current)
    }

    /// Whether one of them has a request.
    pub fn is_busy(&self) -> bool {
        self.any(|p| p.requests().next().is_some())
    }

    /// Whether the process with this id is one of them, and was not to be ended.
    pub fn is_to_go_on(&self, pid: i32) -> bool {
        self.any(|p| p.pid() == Some(pid) && !p.ends_for(Why::TooSlow))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Those that `which` picks.
    pub fn numbers(&self, which: impl Fn(&Process) -> bool) -> Vec<ProcessNo> {
        let found = self.iter().filter(|(_, p)| which(p));
        found.map(|(number, _)| number).collect()
    }

    /// Processes with all slots idle since before `since`, the longest idle first.
    pub fn idle_since(&self, since: Instant) -> Vec<ProcessNo> {
        let serving = self.iter().filter(|(_, p)| !p.is_retiring());
        let idle = serving.filter_map(|(number, p)| Some((p.idle_since()?, number)));
        let mut found: Vec<_> = idle.filter(|(at, _)| *at <= since).collect();
        found.sort();
        found.into_iter().map(|(_, number)| number).collect()
    }

    /// The numbers of the moment.
    pub fn counts(&self, generation: u64, queued: usize) -> Counts {
        let mut counts = Counts {
            queued,
            ..Counts::default()
        };
        let serves = |p: &&Process| !p.is_retiring() && p.generation() == generation;
        for process in self.processes.values().filter(serves) {
            counts.processes += 1;
            match process.pid() {
                None => counts.starting += usize::from(process.starting_slot().is_some()),
                Some(_) => counts.idle += usize::from(process.idle_since().is_some()),
            }
        }
        counts
    }

    /// Processes and threads of those that have started, and of all.
    pub fn tasks(&self) -> (usize, usize) {
        let started = self.processes.values().filter(|p| p.pid().is_some());
        let all = self.processes.values().map(Process::tasks);
        (started.map(Process::tasks).sum(), all.sum())
    }

    /// The slot for the next request: a free one, else one that is just starting. Those of a generation that is not live
    /// yet (`current`) get none.
    pub fn pick(&self, current: u64) -> Option<SlotNo> {
        let gets_requests = |p: &&Process| !p.is_retiring() && p.generation() <= current;
        let mut starting = self.processes.values().filter(gets_requests);
        let free = self.free.last().copied();
        free.or_else(|| starting.find_map(Process::starting_slot))
    }

    /// Those that serve with code from before this generation.
    pub fn outdated(&self, current: u64) -> Vec<ProcessNo> {
        self.numbers(|p| p.generation() < current && !p.is_retiring())
    }

    /// Whether one of this generation runs.
    pub fn has_started(&self, generation: u64) -> bool {
        self.any(|p| p.generation() == generation && p.pid().is_some() && !p.is_retiring())
    }

    /// Since when one of them has nothing to do.
    pub fn longest_idle(&self) -> Option<Instant> {
        let serving = self.processes.values().filter(|p| !p.is_retiring());
        serving.filter_map(Process::idle_since).min()
    }

    /// An idle worker with old code, in whose place the first one with new code can come: there may be no other room.
    /// One, so that the others go on serving whoever takes that room; and none once a new one comes.
    pub(super) fn in_the_way(&self, current: u64, now: Instant) -> Option<ProcessNo> {
        let comes = |p: &Process| p.generation() == current && !p.is_retiring();
        let outdated = |number: &ProcessNo| self.processes[number].generation() < current;
        let mut idle = self.idle_since(now).into_iter();
        idle.find(outdated).filter(|_| !self.any(comes))
    }

    /// One that is too old, and has nothing to do.
    pub(super) fn old_and_idle(&self, now: Instant) -> Option<ProcessNo> {
        let old = |number: &ProcessNo| self.processes[number].is_old(now);
        self.idle_since(now).into_iter().find(old)
    }

    /// The slots of one of them.
    pub(super) fn slots(&self, number: ProcessNo) -> Vec<SlotNo> {
        let process = self.get(number);
        process.map_or_else(Vec::new, |process| process.slots().collect())
    }

    /// The slot waits for the next request.
    pub(super) fn set_free(&mut self, slot: SlotNo) {
        self.free.push(slot);
    }

    /// The slot gets this request.
    pub(super) fn give(&mut self, slot: SlotNo, request: RequestNo) {
        self.free.retain(|free| *free != slot);
        if let Some(process) = self.tell_owner(slot) {
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

    /// A request on this slot has run for too long: its process is to be ended. Its number and its
    /// process id; None: it is being ended already.
    pub(super) fn too_slow(&self, slot: SlotNo) -> Option<(ProcessNo, i32)> {
        let number = self.owner(slot)?;
        let process = self.get(number)?;
        let known = process.ends_for(Why::TooSlow);
        process.pid().filter(|_| !known).map(|pid| (number, pid))
    }

    /// The first that has not started in time, and that time: whoever was to start it is stuck. `imports`: how long an
    /// import may take.
    pub(super) fn unstarted(
        &mut self,
        imports: Duration,
        now: Instant,
    ) -> Option<(ProcessNo, Duration)> {
        let late = |p: &Process| {
            p.is_starting() && now.saturating_duration_since(p.born()) >= start_within(p, imports)
        };
        let number = self.numbers(late).first().copied()?;
        let process = self.tell(number)?;
        process.end(now, Why::Unstarted);
        Some((number, start_within(process, imports)))
    }

    /// A process that is asked for: its number, which is the next one, and its slots.
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
        self.owners.extend(slots.iter().map(|slot| (*slot, number)));
        self.processes.insert(number, process(number, &slots));
        (number, slots)
    }

    /// One of them, to tell it what happens.
    pub(super) fn tell(&mut self, number: ProcessNo) -> Option<&mut Process> {
        self.processes.get_mut(&number)
    }

    /// The one whose slot it is, to tell it what happens.
    pub(super) fn tell_owner(&mut self, slot: SlotNo) -> Option<&mut Process> {
        let owner = self.owner(slot)?;
        self.tell(owner)
    }

    /// The slot is closed, or lost: whose it was and what it did.
    pub(super) fn lose(&mut self, slot: SlotNo) -> Option<(ProcessNo, Slot)> {
        self.free.retain(|free| *free != slot);
        let number = self.owners.remove(&slot)?;
        Some((number, self.tell(number)?.lose(slot)?))
    }

    /// The socket of a slot has ended: with its last one the process ends, too.
    pub(super) fn lose_for_good(&mut self, slot: SlotNo, now: Instant) -> Option<Lost> {
        let (number, did) = self.lose(slot)?;
        let process = self.tell(number)?;
        let last = process.slots().next().is_none();
        let lost = Lost {
            did,
            pid: process.pid().unwrap_or(0),
            why: match process.ends_for(Why::TooSlow) {
                true => "its worker had to be ended for a request that ran too long",
                false => "the worker died in the middle of the request",
            },
            unstarted: last && process.is_starting(),
            process: process.pid().filter(|_| last && process.is_serving()),
        };
        if last {
            let wait = process.child().map_or(LAST_WORDS, |_| STATUS_WITHIN);
            process.end(now + wait, Why::Done);
        }
        Some(lost)
    }

    /// It is gone.
    pub(super) fn remove(&mut self, number: ProcessNo) {
        self.processes.remove(&number);
    }

    /// When something is due. `imports`: how long an import may take.
    pub(super) fn deadline(&self, imports: Duration) -> Option<Instant> {
        let all = self.processes.values();
        all.filter_map(|p| p.deadline(start_within(p, imports)))
            .min()
    }
}

/// A preloader forks within milliseconds; a child of ours imports the app first.
fn start_within(process: &Process, imports: Duration) -> Duration {
    match process.child() {
        Some(_) => imports,
        None => imports.min(ANSWERS_WITHIN),
    }
}
