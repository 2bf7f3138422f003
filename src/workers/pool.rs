//! `Pool`: the workers of this front: who serves what, how many there should be, and when one has to go.
//!
//! Knows numbers only: no socket, no clock. Events come in, actions go out, and whoever does them tells what came of it.
//! Where a request, a process and its slots stand: `queue`, `process`.

use super::action::Action;
use super::process::{Process, ProcessNo, Slot, SlotNo, Why};
use super::queue::{Late, Queue};
use super::roster::{LAST_WORDS, Roster};
use super::scaling::{Counts, Scaling, Sizes};
use crate::bytes::fnv_more;
use crate::config::Config;
use crate::failure::Failure;
use crate::request::RequestNo;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a worker may take for its exit functions before it is killed.
const EXIT_WITHIN: Duration = Duration::from_secs(3);
/// So long may the other requests of a process go on that is killed for one of them.
const OTHERS_FINISH: Duration = Duration::from_secs(5);

type Finished = (RequestNo, Duration);

/// See above.
#[derive(Debug)]
pub struct Pool {
    config: Rc<Config>,
    scaling: Scaling,
    /// The generation that serves; a later one is on trial and gets no requests.
    current: u64,
    roster: Roster,
    queue: Queue,
    /// The generation was promoted, and none of its workers has started yet.
    fresh: bool,
    /// Something has happened that may ask for more processes, or less.
    changed: bool,
    startable: bool,
    seed: u64,
    actions: VecDeque<Action>,
}

impl Pool {
    /// No workers yet; generation 1 serves. `seed` spreads what should not happen in several fronts at the same moment.
    pub fn new(config: Rc<Config>, seed: u64) -> Pool {
        Pool {
            config,
            scaling: Scaling::default(),
            current: 1,
            roster: Roster::default(),
            queue: Queue::default(),
            fresh: false,
            startable: false,
            changed: true,
            seed,
            actions: VecDeque::new(),
        }
    }

    /// These settings hold from now on.
    pub fn configure(&mut self, config: Rc<Config>) {
        self.config = config;
        self.changed = true;
    }

    /// So many processes, in this room for processes and threads.
    pub fn set_bounds(&mut self, sizes: Sizes, room: Option<usize>) {
        self.scaling.set_bounds(sizes, room);
    }

    /// Whether a process of the current generation can be started now.
    pub fn set_startable(&mut self, startable: bool) {
        self.changed |= startable && !self.startable;
        self.startable = startable;
    }

    /// Nothing is started from now on but for those who wait already.
    pub fn drain(&mut self) {
        self.scaling.drain();
    }

    /// This generation serves from now on; the older workers go as soon as one of its own has started.
    pub fn promote(&mut self, generation: u64, now: Instant) {
        self.current = generation;
        self.fresh = true;
        self.scaling.begin_anew();
        self.roster.go_live(generation, now);
        self.go_on(now);
    }

    /// This generation does not go live: its workers on trial end.
    pub fn end_trial(&mut self, generation: u64, now: Instant) {
        for number in self.roster.numbers(|p| p.generation() == generation) {
            self.retire(number, now);
        }
    }

    /// A request waits for a worker.
    pub fn submit(&mut self, request: RequestNo, now: Instant) {
        self.queue.push(request, now);
        self.dispatch(now);
    }

    /// Nobody waits for the answer any more.
    pub fn abort(&mut self, request: RequestNo) {
        match self.queue.abort(request) {
            Some(slot) => self.put(Action::Abort(slot)),
            None => self.put(Action::Forget(request)),
        }
    }

    /// Fails all that wait.
    pub fn fail_queued(&mut self, failure: &Failure) {
        while let Some(request) = self.queue.first() {
            self.fail(request, failure.clone());
        }
    }

    /// The worker has ended the request on this slot: which, and how long it took. `too_large`: its process takes too
    /// much memory.
    pub fn ended(&mut self, slot: SlotNo, too_large: bool, now: Instant) -> Option<Finished> {
        let number = self.roster.owner(slot)?;
        let process = self.roster.tell(number)?;
        let request = process.finish(slot, now)?;
        let leaves = process.is_retiring() || process.is_worn(now);
        let since = self.queue.since(request)?;
        self.queue.take(request);
        if leaves || too_large || self.scaling.is_asked_back(now) {
            self.retire(number, now);
        } else {
            self.roster.set_free(slot);
        }
        self.dispatch(now);
        Some((request, now.saturating_duration_since(since)))
    }

    /// The request could not be sent: the worker is gone.
    pub fn send_failed(&mut self, slot: SlotNo, now: Instant) {
        let process = self.roster.tell_owner(slot);
        if let Some(request) = process.and_then(|process| process.take(slot, now)) {
            self.requeue(request, false);
        }
        self.lost(slot, now);
    }

    /// Asks for a process of this generation.
    pub fn start(&mut self, generation: u64, slots: usize, now: Instant) {
        let (number, slots) = self.roster.add(slots, |number, slots| {
            let random = fnv_more(self.seed, &number.0.to_le_bytes());
            Process::new(generation, slots, &self.config, random, now)
        });
        self.put(Action::Start(number, generation, slots));
        self.go_on(now);
    }

    /// It was asked for. `child`: it is a child of ours; `outputs`: so many descriptors are read of it.
    pub fn launched(&mut self, process: ProcessNo, child: Option<Pid>, outputs: usize) {
        if let Some(process) = self.roster.tell(process) {
            process.launched(child, outputs);
        }
    }

    /// It could not be asked for; then `no_room`, or `start_failed`.
    pub fn not_started(&mut self, process: ProcessNo) {
        self.take_back(process);
        self.roster.remove(process);
    }

    /// Starting a process has failed: something is amiss.
    pub fn start_failed(&mut self, now: Instant) {
        self.scaling.failed(now);
        self.go_on(now);
    }

    /// The system has no room for a process: who waits goes on waiting. `process`: one that was asked for.
    pub fn no_room(&mut self, process: Option<ProcessNo>, now: Instant) {
        if let Some(process) = process {
            self.take_back(process);
            if let Some(process) = self.roster.tell(process) {
                process.end(now + LAST_WORDS, Why::Done);
            }
        }
        if let Some(process) = self.roster.in_the_way(self.current, now) {
            self.retire(process, now);
        }
        self.scaling.refused(self.queue.waiting(), now);
        self.go_on(now);
    }

    /// STARTED on this slot. Whether it is the first word of its process.
    pub fn started(&mut self, slot: SlotNo, pid: i32, now: Instant) -> bool {
        let Some(process) = self.roster.tell_owner(slot) else {
            return false;
        };
        let first = process.started(slot, pid, now);
        let gets_requests = !process.is_retiring() && process.generation() <= self.current;
        if gets_requests && matches!(process.slot(slot), Some(Slot::Idle(_))) {
            self.roster.set_free(slot);
        }
        self.scaling.succeeded();
        self.go_on(now);
        first
    }

    /// The socket of a slot has ended.
    pub fn lost(&mut self, slot: SlotNo, now: Instant) {
        let Some(lost) = self.roster.lose_for_good(slot, now) else {
            return;
        };
        if lost.unstarted {
            self.scaling.failed(now);
        }
        self.actions.extend(lost.process.map(Action::Lost));
        match lost.did {
            Slot::Starting(Some(request)) => self.requeue(request, true),
            Slot::Busy(request) => self.fail(request, Failure::WorkerLost(lost.why, lost.pid)),
            _ => (),
        }
        self.go_on(now);
    }

    /// One of the descriptors that a process writes to has ended.
    pub fn output_ended(&mut self, process: ProcessNo) {
        self.changed = true;
        let process = self.roster.tell(process).into_iter();
        process.for_each(Process::output_ended);
    }

    /// It is known how the import of a child went. Whether it was not known before.
    pub fn resolve(&mut self, process: ProcessNo) -> bool {
        self.changed = true;
        self.roster.tell(process).is_some_and(Process::resolve)
    }

    /// The process is gone.
    pub fn killed(&mut self, number: ProcessNo, now: Instant) {
        for slot in self.roster.slots(number) {
            self.put(Action::Close(slot));
            self.lost(slot, now);
        }
        self.roster.remove(number);
        self.changed = true;
    }

    /// The process gets no more requests, and leaves as soon as it has none.
    pub fn retire(&mut self, number: ProcessNo, now: Instant) {
        self.changed = true;
        let Some(process) = self.roster.tell(number) else {
            return;
        };
        let closed = process.retire();
        if process.slots().next().is_none() {
            process.end(now + EXIT_WITHIN, Why::Done);
        }
        for slot in closed {
            self.roster.lose(slot);
            self.put(Action::Close(slot));
        }
    }

    /// Retires all workers that have nothing to do, until a request needs one.
    pub fn retire_idle(&mut self, now: Instant) {
        for process in self.roster.idle_since(now) {
            self.retire(process, now);
        }
        self.scaling.spare();
    }

    /// Another front of the site needs a process more than this one does.
    pub fn give_back(&mut self, now: Instant) {
        let idle = self.roster.idle_since(now).first().copied();
        let gives = idle.filter(|_| self.queue.waiting() == 0);
        if let Some(process) = gives {
            self.retire(process, now);
        }
        self.scaling.asked_back(gives.is_some(), now);
    }

    /// Whether it could give a worker back; `soon`: one that is busy now counts.
    pub fn could_give_back(&self, soon: bool, now: Instant) -> bool {
        self.queue.waiting() == 0
            && self.roster.any(|p| !p.is_retiring())
            && (soon || !self.roster.idle_since(now).is_empty())
    }

    /// Whether this front does without a worker until a request needs one.
    pub fn is_spared(&self) -> bool {
        self.scaling.is_spared(
            self.queue.waiting(),
            !self.roster.outdated(self.current).is_empty(),
        )
    }

    /// Whether `on_time` has something to do.
    pub fn is_due(&self, now: Instant) -> bool {
        self.changed || self.deadline().is_some_and(|at| at <= now)
    }

    /// Does what time asks for, and grows or shrinks.
    pub fn on_time(&mut self, now: Instant) {
        self.changed = false;
        for late in self.queue.expire(&self.config, now) {
            self.expire(late, now);
        }
        if let Some((process, within)) = self.roster.unstarted(self.start_timeout(), now) {
            self.put(Action::Unstarted(process, within.as_secs()));
        }
        for number in self.roster.numbers(|p| p.is_due(now)) {
            self.put(Action::Kill(number));
        }
        self.retire_outdated(now);
        if self.can_start() {
            let (outdated, tasks) = (
                !self.roster.outdated(self.current).is_empty(),
                self.roster.tasks().1,
            );
            let slots = self.scaling.start(self.counts(), outdated, tasks, now);
            if let Some(slots) = slots {
                self.start(self.current, slots, now);
            }
        }
        self.shrink(now);
    }

    /// When `on_time` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let surplus = self.scaling.surplus(self.counts()) > 0;
        let idle = self.roster.longest_idle().filter(|_| surplus);
        let may_start = self.can_start() && self.wanted() > 0;
        let all = [
            self.roster.deadline(self.start_timeout()),
            self.queue.deadline(&self.config),
            idle.map(|since| since + self.idle_timeout()),
            self.scaling.deadline().filter(|_| may_start),
        ];
        all.into_iter().flatten().min()
    }

    /// How many processes are to be started, as soon as one can be.
    pub fn wanted(&self) -> usize {
        self.scaling.wanted(
            self.counts(),
            !self.roster.outdated(self.current).is_empty(),
        )
    }

    /// The numbers of the moment.
    pub fn counts(&self) -> Counts {
        self.roster.counts(self.current, self.queue.waiting())
    }

    /// The generation that serves.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The processes.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The requests.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Starts that have failed, one after the other.
    pub fn failed_starts(&self) -> u32 {
        self.scaling.failed_starts()
    }

    /// Whether a request would go to a worker at once.
    pub fn has_free_slot(&self) -> bool {
        self.roster.pick(self.current).is_some()
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// There are other processes than before, or they may be started again.
    fn go_on(&mut self, now: Instant) {
        self.changed = true;
        self.dispatch(now);
    }

    /// Gives waiting requests to free workers.
    fn dispatch(&mut self, now: Instant) {
        while let Some(request) = self.queue.first()
            && let Some(slot) = self.roster.pick(self.current)
        {
            self.queue.run_first(slot, now);
            self.roster.give(slot, request);
            self.put(Action::Send(slot, request));
        }
        self.changed |= self.queue.waiting() > 0 || self.scaling.keeps_spare();
    }

    /// The worker that the request was given to has not begun with it.
    fn requeue(&mut self, request: RequestNo, false_start: bool) {
        if !self.queue.requeue(request, false_start) {
            self.fail(request, Failure::NoWorker);
        }
    }

    fn fail(&mut self, request: RequestNo, failure: Failure) {
        if self.queue.take(request).is_some() {
            self.put(Action::Fail(request, failure));
        }
        self.put(Action::Forget(request));
    }

    /// Takes the requests of a process back that will never start.
    fn take_back(&mut self, number: ProcessNo) {
        for slot in self.roster.slots(number) {
            if let Some((_, Slot::Starting(Some(request)))) = self.roster.lose(slot) {
                self.requeue(request, false);
            }
            self.put(Action::Close(slot));
        }
    }

    fn expire(&mut self, late: Late, now: Instant) {
        match late {
            Late::InQueue(request, waited) => {
                self.fail(request, Failure::QueueTimeout(waited.as_secs()));
            }
            Late::Slow(request, slot, waited) => {
                self.put(Action::Slow(request, waited));
                let pid = self.roster.pid(slot);
                self.actions.extend(pid.map(Action::WriteStack));
            }
            Late::Running(request, slot, waited) => {
                let failure = Failure::RequestTimeout(waited.as_secs());
                self.put(Action::Fail(request, failure));
                if let Some((process, pid)) = self.roster.too_slow(slot) {
                    self.put(Action::WriteStack(pid));
                    self.end_too_slow(process, slot, now);
                }
            }
        }
    }

    /// A request on this slot has run for too long: its process is ended.
    fn end_too_slow(&mut self, number: ProcessNo, slot: SlotNo, now: Instant) {
        self.retire(number, now);
        if let Some(process) = self.roster.tell(number) {
            let grace = match process.serves_others(slot) {
                true => OTHERS_FINISH,
                false => LAST_WORDS,
            };
            process.end_for(now + grace, Why::TooSlow);
        }
    }

    fn retire_outdated(&mut self, now: Instant) {
        if !self.roster.has_started(self.current) {
            return;
        }
        if std::mem::take(&mut self.fresh) {
            self.put(Action::Live);
        }
        for number in self.roster.outdated(self.current) {
            self.retire(number, now);
        }
    }

    /// Retires a process that is too old, and those that nobody has needed for `idle_timeout`.
    fn shrink(&mut self, now: Instant) {
        if let Some(process) = self.roster.old_and_idle(now) {
            self.retire(process, now);
        }
        let surplus = self.scaling.surplus(self.counts());
        if let Some(since) = now.checked_sub(self.idle_timeout()).filter(|_| surplus > 0) {
            for process in self.roster.idle_since(since).into_iter().take(surplus) {
                self.retire(process, now);
            }
        }
    }

    /// Whether a process may be started: not while it is unknown why the last one could not import the app.
    fn can_start(&self) -> bool {
        self.startable && !self.roster.any(Process::is_mute)
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.config.server.idle_timeout)
    }

    fn start_timeout(&self) -> Duration {
        Duration::from_secs(self.config.limits.start_timeout)
    }

    fn put(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}
