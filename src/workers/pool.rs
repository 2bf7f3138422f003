//! `Pool`: decides which worker serves which request, how many workers there should be, and when one has to end.
//!
//! Knows only numbers: no socket, no clock. Events come in, actions go out, and their outcomes come in as events. The states
//! of requests, processes and slots are in `queue` and `process`.

use super::process::{Origin, Process, ProcessNo, Slot, SlotNo};
use super::queue::{Late, Queue};
use super::scaling::{Counts, Scaling, Sizes};
use super::{action::Action, agenda::Agenda, kept::Facts, roster::Roster};
use crate::{bytes::fnv_more, config::Config, failure::Failure, request::RequestNo};
use std::time::{Duration, Instant};
use std::{collections::VecDeque, rc::Rc};

type Finished = (RequestNo, Duration);

/// The scheduler of requests and worker processes.
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
    agenda: Agenda,
    startable: bool,
    /// An idle worker of the current generation can be kept for other fronts.
    keeps: bool,
    seed: u64,
    actions: VecDeque<Action>,
}

impl Pool {
    /// No workers yet; generation 1 serves. `seed` differs from front to front, to spread the replacement of workers.
    pub fn new(config: Rc<Config>, seed: u64) -> Pool {
        Pool {
            queue: Queue::new(&config),
            config,
            scaling: Scaling::default(),
            current: 1,
            roster: Roster::default(),
            fresh: false,
            startable: false,
            keeps: false,
            agenda: Agenda::new(),
            seed,
            actions: VecDeque::new(),
        }
    }

    /// Applies new settings.
    pub fn configure(&mut self, config: Rc<Config>) {
        self.queue.configure(&config);
        self.config = config;
        self.agenda.change();
    }

    /// Sets the bounds: of processes, and of processes and threads together.
    pub fn set_bounds(&mut self, sizes: Sizes, room: Option<usize>) {
        self.scaling.set_bounds(sizes, room);
    }

    /// Whether a process of the current generation can be started now, and be kept for other fronts.
    pub fn set_startable(&mut self, startable: bool, keeps: bool) {
        if startable && !self.startable {
            self.agenda.change();
        }
        (self.startable, self.keeps) = (startable, keeps);
    }

    /// From now on, workers are started only for requests that wait already.
    pub fn drain(&mut self) {
        self.scaling.drain();
    }

    /// This generation serves from now on; older workers retire when one of its own has started.
    pub fn promote(&mut self, generation: u64, now: Instant) {
        self.current = generation;
        self.fresh = true;
        self.scaling.begin_anew();
        self.roster.go_live(generation, now);
        self.go_on(now);
    }

    /// This generation does not go live: its workers on trial retire.
    pub fn end_trial(&mut self, generation: u64, now: Instant) {
        self.retire_all(self.roster.numbers(|p| p.generation() == generation), now);
    }

    /// A request waits for a worker.
    pub fn submit(&mut self, request: RequestNo, source: u64, now: Instant) {
        self.queue.push(request, source, now);
        self.dispatch(now);
        let coming = self.roster.coming(self.current);
        self.actions.extend(self.queue.shed(request, coming));
        if self.scaling.keeps_spare() {
            self.look_for_need(now);
        }
    }

    /// A source takes none of its responses, or some again: until then its requests are not served.
    pub fn stall(&mut self, source: u64, stalled: bool, now: Instant) {
        if self.queue.stall(source, stalled) {
            self.go_on(now);
        }
    }

    /// Since when the worker of a request waits for the reader, if it does.
    pub fn hold(&mut self, request: RequestNo, since: Option<Instant>) {
        self.queue.hold(request, since);
        self.agenda.change();
    }

    /// Nobody waits for the response any more.
    pub fn abort(&mut self, request: RequestNo) {
        let action = self.queue.abort(request);
        self.put(action);
    }

    /// Fails all waiting requests.
    pub fn fail_queued(&mut self, failure: &Failure) {
        self.actions.extend(self.queue.fail_waiting(failure));
    }

    /// The worker has ended the request on this slot: which, and how long it took. `too_large`: its process must end.
    pub fn ended(&mut self, slot: SlotNo, too_large: bool, now: Instant) -> Option<Finished> {
        let number = self.roster.owner(slot)?;
        let process = self.roster.get_mut(number)?;
        let request = process.finish(slot, now)?;
        let leaves = process.is_retiring() || process.is_worn(now);
        let old_at = process.old_at();
        let since = self.queue.since(request)?;
        self.queue.take(request);
        if leaves || too_large {
            self.retire(number, now);
        } else if !self.give_if_asked(number, now) {
            self.roster.set_free(slot);
            self.agenda.expect(old_at);
            self.agenda.expect(self.surplus_until());
        }
        self.dispatch(now);
        Some((request, now.saturating_duration_since(since)))
    }

    /// The request could not be sent: the worker is gone.
    pub fn send_failed(&mut self, slot: SlotNo, now: Instant) {
        let process = self.roster.owner_mut(slot);
        if let Some(request) = process.and_then(|process| process.take(slot, now)) {
            self.actions.extend(self.queue.put_back(request));
        }
        self.lost(slot, now);
    }

    /// Starts a process of this generation.
    pub fn start(&mut self, generation: u64, slots: usize, now: Instant) {
        let (number, slots) = self.roster.add(slots, |number, slots| {
            let random = fnv_more(self.seed, &number.0.to_le_bytes());
            Process::new(generation, slots, &self.config, random, now)
        });
        self.put(Action::Start(number, generation, slots));
        self.go_on(now);
    }

    /// It was launched. `outputs`: how many of its outputs are read.
    pub fn launched(&mut self, process: ProcessNo, origin: Origin, outputs: usize, now: Instant) {
        self.roster.launched(process, origin, outputs);
        self.go_on(now);
    }

    /// It could not be launched; `no_room` or `start_failed` follows.
    pub fn not_started(&mut self, process: ProcessNo) {
        for slot in self.roster.slots(process) {
            self.roster.lose(slot);
            self.put(Action::Close(slot));
        }
        self.roster.remove(process);
    }

    /// Launching a process has failed: something is wrong.
    pub fn start_failed(&mut self, now: Instant) {
        self.scaling.failed(now);
        self.go_on(now);
    }

    /// The system has refused a process: requests go on waiting. `process`: the one that was to be forked.
    pub fn no_room(&mut self, process: Option<ProcessNo>, now: Instant) {
        self.retire_all(process, now);
        self.retire_all(self.roster.in_the_way(self.current, now), now);
        self.scaling.refused(self.queue.waiting(), now);
        self.go_on(now);
    }

    /// STARTED on this slot. Whether it is the first one of its process.
    pub fn started(&mut self, slot: SlotNo, pid: i32, now: Instant) -> bool {
        let Some(first) = self.roster.started(slot, pid, self.current, now) else {
            return false;
        };
        self.scaling.succeeded();
        self.go_on(now);
        if let Some(idle) = self.roster.idle_owner(slot, self.current) {
            self.give_if_asked(idle, now);
        }
        first
    }

    /// The preloader has forked it.
    pub fn forked(&mut self, number: Option<ProcessNo>, pid: i32, now: Instant) {
        self.roster.forked(number, pid, now);
        self.go_on(now);
    }

    /// The site has no room for these processes yet.
    pub fn wait_in_line(&mut self, processes: &[ProcessNo], now: Instant) {
        self.roster.wait_in_line(processes);
        self.go_on(now);
    }

    /// In place of the process that was to be started came one that another front had.
    pub fn adopted(&mut self, number: ProcessNo, facts: &Facts, now: Instant) {
        self.roster.adopted(number, facts, now);
        for slot in self.roster.slots(number) {
            self.started(slot, facts.pid, now);
        }
    }

    /// The socket of a slot has ended.
    pub fn lost(&mut self, slot: SlotNo, now: Instant) {
        let Some(lost) = self.roster.socket_ended(slot, now) else {
            return;
        };
        if lost.unstarted {
            self.scaling.failed(now);
        }
        self.actions.extend(lost.process.map(Action::Lost));
        self.actions.extend(match lost.state {
            Slot::Starting(Some(request)) => self.queue.requeue(request),
            Slot::Busy(request) => self.queue.fail(request, lost.failure),
            _ => Vec::new(),
        });
        self.go_on(now);
    }

    /// An output of a process has ended.
    pub fn output_ended(&mut self, process: ProcessNo) {
        self.agenda.change();
        self.roster.output_ended(process);
    }

    /// The outcome of its import is known. Whether this is news.
    pub fn resolve(&mut self, process: ProcessNo) -> bool {
        self.agenda.change();
        self.roster.get_mut(process).is_some_and(Process::resolve)
    }

    /// The process is gone.
    pub fn killed(&mut self, number: ProcessNo, now: Instant) {
        for slot in self.roster.slots(number) {
            self.put(Action::Close(slot));
            self.lost(slot, now);
        }
        self.roster.remove(number);
        self.agenda.change();
    }

    /// The process gets no more requests, and ends as soon as it has none.
    pub fn retire(&mut self, number: ProcessNo, now: Instant) {
        self.agenda.change();
        let closed = self.roster.retire(number, now).into_iter();
        self.actions.extend(closed.map(Action::Close));
    }

    fn retire_all(&mut self, processes: impl IntoIterator<Item = ProcessNo>, now: Instant) {
        for process in processes {
            self.retire(process, now);
        }
    }

    /// Another front needs a worker of this generation, or, without one, room for a process: parts with an idle one, if no
    /// request waits. `urgent`: else with the next one that becomes idle. Whether another front gets it.
    pub fn give_back(&mut self, of: Option<u64>, urgent: bool, now: Instant) -> bool {
        let may = self.queue.waiting() == 0 && (urgent || self.scaling.has_more(self.counts()));
        let on_trial = of > Some(self.current);
        let gives = self.roster.idle_of(of, now).filter(|_| may && !on_trial);
        let kept = gives.is_some_and(|number| self.part_with(number, of.is_some(), now));
        if urgent || gives.is_some() {
            self.scaling.asked_back(gives.is_some(), now);
        }
        kept
    }

    /// Parts with workers idle since then, and starts none until a request needs one. `kept`: others may have them.
    pub fn give_up_idle(&mut self, since: Instant, kept: bool, now: Instant) {
        for idle in self.roster.idle_since(since) {
            self.part_with(idle, kept, now);
            self.scaling.spare();
        }
    }

    /// Parts with a worker that another front has asked for. Whether one has.
    fn give_if_asked(&mut self, number: ProcessNo, now: Instant) -> bool {
        let asked = self.scaling.is_asked_back(now);
        if asked && !self.part_with(number, true, now) {
            self.scaling.make_room(now);
        }
        asked
    }

    /// Retires a worker, or has it kept for other fronts if that `may` be and it is idle. Whether it is kept.
    fn part_with(&mut self, number: ProcessNo, may: bool, now: Instant) -> bool {
        let keeps = may && self.keeps && self.roster.leave(number, self.current);
        self.agenda.change();
        match keeps {
            true => self.put(Action::Keep(number)),
            false => self.retire(number, now),
        }
        keeps
    }

    /// Takes away a process that is to be kept.
    pub fn take(&mut self, number: ProcessNo, now: Instant) -> Option<Facts> {
        self.roster.take(number, now)
    }

    /// Whether `on_time` has something to do.
    pub fn is_due(&self, now: Instant) -> bool {
        self.agenda.is_due(now, || self.next_due())
    }

    /// Does what is due, and starts or retires workers.
    pub fn on_time(&mut self, now: Instant) {
        self.agenda.begin();
        for late in self.queue.expire(now) {
            self.expire(late, now);
        }
        let overdue = self.roster.overdue(&self.config, now);
        self.actions.extend(overdue);
        self.retire_outdated(now);
        if self.can_start()
            && let Some(slots) = self.scaling.start(self.counts(), now)
        {
            self.start(self.current, slots, now);
        }
        self.shrink(now);
        self.agenda.end(self.next_due());
    }

    /// When `on_time` has something to do, or a little before.
    pub fn deadline(&self) -> Option<Instant> {
        self.agenda.deadline(|| self.next_due())
    }

    /// How many processes are missing.
    pub fn wanted(&self) -> usize {
        self.scaling.wanted(self.counts())
    }

    /// The present numbers.
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

    /// How many processes there should be.
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// The next action.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Processes have changed, or may be started again.
    fn go_on(&mut self, now: Instant) {
        self.agenda.change();
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
        self.agenda.expect(Some(self.queue.soonest(now)));
        if self.queue.waiting() > 0 {
            self.look_for_need(now);
        }
    }

    /// Requests wait, or idle processes have got some: is another process to be started?
    fn look_for_need(&mut self, now: Instant) {
        match self.scaling.next_look(self.counts(), now) {
            at if at > now => self.agenda.expect(Some(at)),
            _ => self.agenda.change(),
        }
    }

    /// When something is due, all being looked at.
    fn next_due(&self) -> Option<Instant> {
        let may_start = self.can_start() && self.wanted() > 0;
        let all = [
            self.roster.deadline(&self.config),
            self.queue.deadline(),
            self.surplus_until(),
            self.scaling.deadline().filter(|_| may_start),
        ];
        all.into_iter().flatten().min()
    }

    /// When the first of the idle processes ends that are more than what is kept.
    fn surplus_until(&self) -> Option<Instant> {
        let since = self.roster.surplus_since(self.current, self.scaling.kept());
        Some(since? + Duration::from_secs(self.config.server.idle_timeout))
    }

    fn expire(&mut self, late: Late, now: Instant) {
        match late {
            Late::InQueue(request, waited) => {
                let failure = Failure::QueueTimeout(waited.as_secs());
                self.actions.extend(self.queue.fail(request, failure));
            }
            Late::Held(request, slot, waited) => {
                self.put(Action::Fail(request, Failure::NotRead(waited.as_secs())));
                self.put(Action::Abort(slot));
            }
            Late::Slow(request, slot, waited) => {
                self.put(Action::Slow(request, waited));
                self.actions
                    .extend(self.roster.pid(slot).map(Action::WriteStack));
            }
            Late::Running(request, slot, waited) => {
                let failure = Failure::RequestTimeout(waited.as_secs());
                self.put(Action::Fail(request, failure));
                if let Some((process, pid)) = self.roster.too_slow(slot) {
                    self.put(Action::WriteStack(pid));
                    self.retire(process, now);
                    self.roster.end_too_slow(slot, now);
                }
            }
        }
    }

    fn retire_outdated(&mut self, now: Instant) {
        if self.roster.has_started(self.current) || self.scaling.is_spared(self.counts()) {
            if std::mem::take(&mut self.fresh) {
                self.put(Action::Live);
            }
            self.retire_all(self.roster.outdated(self.current), now);
        }
    }

    /// Retires a process that is too old, and surplus ones that have been idle for `idle_timeout`.
    fn shrink(&mut self, now: Instant) {
        self.retire_all(self.roster.old_and_idle(now), now);
        if let Some(since) = now.checked_sub(Duration::from_secs(self.config.server.idle_timeout)) {
            let kept = self.scaling.kept();
            self.retire_all(self.roster.surplus(self.current, kept, since), now);
        }
    }

    /// Whether a process may be started: not before the exit status of one that died in its import is known.
    fn can_start(&self) -> bool {
        self.startable && !self.roster.any(Process::is_mute)
    }

    fn put(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}
