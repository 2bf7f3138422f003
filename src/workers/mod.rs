//! `Workers`: the Python side of a front: the pool, the preloaders, and the private wire to them.
//!
//! Requests go in; parts of responses come out. Knows nothing of web servers' protocols, nor of how a change on disk goes
//! live.

pub mod action;
mod agenda;
pub mod channel;
pub mod context;
mod control;
mod crew;
mod election;
mod generation;
pub mod generations;
pub mod import;
pub mod kept;
mod launch;
mod lost;
mod output;
pub mod pool;
mod preloader;
pub mod process;
pub mod queue;
mod quota;
pub mod roster;
pub mod scaling;
mod sockets;
pub mod spawn;
pub mod wire;

pub use action::Action;
pub use context::LaunchContext;
pub use generation::First;
pub use output::Output;
pub use scaling::threads;

use self::{generation::Step, generations::Generations, pool::Pool};
use crate::codes::{place, worker};
use crate::{config::Config, failure::Failure, log::Level, pairs::Pairs, poller::Poller};
use crate::{request::Request, request::RequestNo, request::Stream, rundir::RuntimeDir};
use control::{Exit, Message, ToPreloader};
use crew::{Crew, Event};
use nix::{sys::epoll::EpollFlags, sys::wait::WaitStatus, unistd::Pid};
use process::{ProcessNo, SlotNo};
use quota::{Quota, is_gone, is_refusal};
use scaling::{KEEPS_IDLE, Sizes};
use std::{collections::VecDeque, io, os::fd::OwnedFd, rc::Rc, time::Instant};

/// The Python side of a front.
#[derive(Debug)]
pub struct Workers {
    context: LaunchContext,
    poller: Rc<Poller>,
    quota: Quota,
    crew: Crew,
    generations: Generations,
    outputs: VecDeque<Output>,
}

impl Workers {
    /// Begins without workers. The first generation is of this version.
    pub fn new(
        context: LaunchContext,
        poller: Rc<Poller>,
        config: Rc<Config>,
        (version, first): (String, First),
        seed: u64,
        now: Instant,
    ) -> io::Result<Workers> {
        let shared = context.dir.is_some();
        let mut generations = Generations::new(version, config.clone(), shared, first, now)?;
        generations.watch(&poller);
        Ok(Workers {
            quota: Quota::new(context.alone),
            crew: Crew::new(poller.clone(), config, seed),
            context,
            poller,
            generations,
            outputs: VecDeque::new(),
        })
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.crew.poll().or_else(|| self.outputs.pop_front())?;
        Some(self.quota.explain(output, self.generations.current()))
    }

    /// Where the processes of the site meet.
    pub fn dir(&self) -> Option<&RuntimeDir> {
        self.context.dir.as_ref()
    }

    /// Keeps the app's standard output apart from its standard error, from the next launch on.
    pub fn keep_output_apart(&mut self, outlog: bool) {
        self.context.outlog = outlog;
    }

    /// The version of the code that serves, and the candidate.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// The processes and the requests.
    pub fn pool(&self) -> &Pool {
        &self.crew.pool
    }

    /// How many processes there may be.
    pub fn sizes(&self) -> Sizes {
        self.quota.sizes(self.generations.current().config())
    }

    /// The environment of a request that waits or is with a worker.
    pub fn environ(&self, request: RequestNo) -> Option<&Pairs> {
        self.crew.request(request).map(|request| &*request.environ)
    }

    /// A request waits for a worker.
    pub fn submit(&mut self, request: Request, now: Instant) {
        self.crew.submit(request, now);
        self.run(now);
    }

    /// Nobody waits for the response any more.
    pub fn abort(&mut self, request: RequestNo, now: Instant) {
        self.crew.pool.abort(request);
        self.run(now);
    }

    /// `held`: stop reading from the worker, because the peer is not draining its response; else go on.
    pub fn hold(&mut self, request: RequestNo, held: bool, now: Instant) {
        self.crew.hold(request, held, now);
    }

    /// A source takes none of its responses, or some again: until then its requests are not served.
    pub fn stall(&mut self, source: u64, stalled: bool, now: Instant) {
        self.crew.pool.stall(source, stalled, now);
        self.run(now);
    }

    /// Fails all waiting requests.
    pub fn fail_queued(&mut self, failure: &Failure, now: Instant) {
        self.crew.pool.fail_queued(failure);
        self.run(now);
    }

    /// Why no request can be served now.
    pub fn unavailable_reason(&self) -> Option<String> {
        let reason = self.generations.current().unavailable_reason()?;
        let served = self.crew.pool.roster().serves(self.crew.pool.current());
        (!served).then_some(reason)
    }

    /// The current version cannot be imported, and the one that last worked may take its place.
    pub fn may_fall_back(&self) -> bool {
        let current = self.generations.current();
        current.failure().is_some() && !current.is_fallback() && self.crew.pool.roster().is_empty()
    }

    /// The version that last worked serves from now on, if it has a preloader.
    pub fn fall_back(&mut self, version: String, config: Rc<Config>, now: Instant) {
        self.generations.fall_back(version, config, now);
        self.went_live(now);
    }

    /// The current version cannot be imported, for this reason.
    pub fn fail(&mut self, reason: String) {
        self.generations.fail(reason);
    }

    /// Imports this version as the candidate, while the current one serves.
    pub fn import(&mut self, version: String, config: Rc<Config>, now: Instant) {
        let shared = self.context.dir.is_some();
        self.generations.add(version, config, shared, now);
    }

    /// Drops the candidate.
    pub fn abandon(&mut self, now: Instant) {
        if let Some(number) = self.generations.abandon(&self.context) {
            self.crew.pool.end_trial(number, now);
            self.run(now);
        }
    }

    /// The candidate serves from now on, if it is of this version. Old workers go on until a new one has started.
    pub fn promote(&mut self, version: &str, now: Instant) -> bool {
        let promoted = self.generations.promote(version, &self.context);
        if promoted {
            self.went_live(now);
            let works = self.generations.current().is_proven();
            self.outputs.extend(works.then_some(Output::Works));
        }
        promoted
    }

    /// Starts a worker to try the candidate's import. Without room for one more, it turns out when the candidate is live.
    pub fn start_trial(&mut self, now: Instant) {
        if let Some(candidate) = self.generations.begin_trial() {
            let slots = threads(candidate.config()) as usize;
            self.crew.pool.start(candidate.number(), slots, now);
            self.run(now);
        }
    }

    /// From now on starts workers only for requests that wait already.
    pub fn drain(&mut self) {
        self.crew.pool.drain();
    }

    /// Gives up idle workers, and starts none until a request needs one. `kept`: other fronts may have them.
    pub fn give_up_idle(&mut self, kept: bool, now: Instant) {
        self.crew.pool.give_up_idle(now, kept, now);
        self.run(now);
    }

    /// A front that gets one request at a time gives up a worker that has been idle for a while, if others could have it.
    pub fn give_idle(&mut self, now: Instant) {
        let (pool, current) = (&mut self.crew.pool, self.generations.current());
        let gives =
            self.context.alone && current.shares() && pool.scaling().has_more(pool.counts());
        if let Some(since) = now.checked_sub(KEEPS_IDLE).filter(|_| gives) {
            pool.give_up_idle(since, true, now);
        }
        self.run(now);
    }

    /// Ends all workers, and closes the links to preloaders. Returns the control socket and the version of a candidate that
    /// was imported, for the next image.
    pub fn end(&mut self, now: Instant) -> Option<(OwnedFd, String)> {
        if !self.generations.has_candidate() {
            self.crew.pool.give_up_idle(now, true, now);
            self.run(now);
        }
        let control = self.generations.end(&self.context);
        self.crew.end();
        control
    }

    /// When `on_time` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let links = self.generations.deadline(|| self.crew.pool.wanted() > 0);
        links.into_iter().chain(self.crew.deadline()).min()
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Instant) {
        self.crew.on_time(now);
        loop {
            self.step_generations(now);
            let (pool, current) = (&mut self.crew.pool, self.generations.current());
            pool.set_startable(current.can_start(), current.can_keep());
            if !pool.is_due(now) {
                return;
            }
            if let Some(text) = self.quota.bound(pool, current, now) {
                self.note(Level::Warning(place::MORE_THAN_ALLOWED), text);
            }
            self.crew.pool.on_time(now);
            self.run(now);
        }
    }

    /// A worker's socket is ready.
    pub fn on_slot(&mut self, slot: SlotNo, flags: EpollFlags, now: Instant) {
        self.crew.on_slot(slot, flags, now);
        self.run(now);
    }

    /// An output of a worker is ready.
    pub fn on_pipe(&mut self, process: ProcessNo, stream: Stream) {
        self.crew.on_pipe(process, stream);
    }

    /// The control socket of a preloader is ready.
    pub fn on_control(&mut self, generation: u64, now: Instant) {
        for message in self.generations.read(generation, now) {
            self.on_message(generation, message, now);
        }
        self.drop_failed_candidate(now);
    }

    /// A child of ours has ended.
    pub fn on_exit(&mut self, pid: Pid, status: WaitStatus, now: Instant) {
        self.generations.child_ended(status, now);
        self.exited(Exit::new(pid, status), now);
    }

    fn on_message(&mut self, number: u64, message: Message, now: Instant) {
        match message {
            Message::Imported { facts, here } => {
                let Some(generation) = self.generations.get(number) else {
                    return;
                };
                let report = generation.ready(&facts, here, now);
                if generation.is_proven() {
                    self.imported(number);
                }
                for (level, text) in report.lines {
                    self.note(level, text);
                }
                self.outputs.extend(report.status.map(Output::Status));
            }
            // Why a candidate has failed is told when it is dropped.
            Message::Failed { .. } if self.generations.is_candidate(number) => (),
            Message::Failed { reason, here } => self.put(Output::ImportFailed(reason, here)),
            Message::Refused(process, reason) => {
                if self.generations.is_candidate(number) {
                    self.skip_trial(number);
                }
                self.note_limit(format!("the system refused a worker: {reason}"), now);
                self.crew.pool.no_room(process, now);
            }
            Message::Forked(process, pid) => self.crew.pool.forked(process, pid, now),
            Message::Waiting(processes, why) => {
                self.quota.bounded(why);
                self.crew.pool.wait_in_line(&processes, now);
            }
            Message::Given(process, kept) => {
                self.started(number); // it has imported the app, for another front
                if let Some(kept) = self.crew.adopt(process, kept, now) {
                    self.generations.keep(number, kept);
                }
            }
            Message::Release(urgent) => {
                if !self.crew.pool.give_back(Some(number), urgent, now) {
                    self.generations.send(number, &ToPreloader::busy());
                }
            }
            Message::Exited(exit) => self.exited(exit, now),
            Message::Invalid(what) => {
                let text = format!("the preloader sent {what}");
                self.note(Level::Error(worker::BROKEN_WIRE), text);
            }
        }
        self.run(now);
    }

    /// A process has ended. An unusual end is unexpected if it was kept, or is ours and we did not end it.
    fn exited(&mut self, exit: Exit, now: Instant) {
        let pid = exit.pid;
        self.crew.exited(pid, exit.status, now);
        self.run(now);
        if let Some(how) = exit.how {
            let pid = pid.as_raw();
            let unexpected = exit.kept || self.crew.pool.roster().ends_unexpectedly(pid);
            let told = self.crew.ended(pid, &how, now);
            self.put(Output::Exited(pid, how, unexpected, told));
            self.run(now);
        }
    }

    /// A worker could not import the app.
    fn boot_failed(&mut self, number: u64, reason: String, now: Instant) {
        if !self.generations.is_candidate(number) {
            self.put(Output::ImportFailed(reason.clone(), true));
        }
        self.generations.with(number, |g| g.fail(reason));
        self.drop_failed_candidate(now);
    }

    /// A generation has a worker that can serve.
    fn started(&mut self, number: u64) {
        self.quota.started();
        if self.generations.get(number).is_some_and(|g| g.is_plain()) {
            self.imported(number);
        }
    }

    /// There is no room for the trial of the candidate. It goes live all the same.
    fn skip_trial(&mut self, number: u64) {
        self.generations.with(number, |g| g.skip_trial());
        self.put(Output::Imported(Ok(())));
    }

    /// The app of a generation was imported.
    fn imported(&mut self, number: u64) {
        if self.generations.is_candidate(number) {
            self.put(Output::Imported(Ok(())));
        }
        self.generations.with(number, |g| g.works());
        let current = self.generations.current();
        if number == current.number() && !current.is_fallback() {
            self.put(Output::Works);
        }
    }

    fn went_live(&mut self, now: Instant) {
        let current = self.generations.current();
        self.crew.configure(current.config());
        self.crew.pool.promote(current.number(), now);
        self.run(now);
    }

    /// If the candidate has failed, the current version goes on.
    fn drop_failed_candidate(&mut self, now: Instant) {
        if let Some((number, reason)) = self.generations.take_failed() {
            self.crew.pool.end_trial(number, now);
            self.put(Output::Imported(Err(reason)));
            self.run(now);
        }
    }

    fn step_generations(&mut self, now: Instant) {
        let (wanted, context) = (|| self.crew.pool.wanted() > 0, &self.context);
        for step in self.generations.step(wanted, context, &self.poller, now) {
            match step {
                Step::Note(code, text) => self.note(Level::Error(code), text),
                Step::Failed(number, ..) if self.generations.is_candidate(number) => (),
                Step::Failed(_, reason, here) => self.put(Output::ImportFailed(reason, here)),
                Step::NoRoom(text) => {
                    // Requests go on waiting, up to their timeout, for a front with an idle worker to end it.
                    self.note_limit(text, now);
                    self.crew.pool.give_back(None, true, now);
                    let serving = self.generations.current().number();
                    self.generations.send(serving, &ToPreloader::make_room());
                    self.run(now);
                }
            }
        }
        self.drop_failed_candidate(now);
    }

    /// Lets the crew act, and handles its events.
    fn run(&mut self, now: Instant) {
        loop {
            self.crew.act(now);
            match self.crew.event() {
                None => return,
                Some(Event::Start(process, of, slots)) => self.start(process, of, &slots, now),
                Some(Event::Started(number)) => self.started(number),
                Some(Event::BootFailed(number, reason)) => self.boot_failed(number, reason, now),
                Some(Event::NoneLeft(number)) => {
                    self.generations.with(number, |g| g.repeat_trial());
                }
                Some(Event::Unstarted(number, seconds)) => self.unstarted(number, seconds, now),
                Some(Event::Keep(number, kept)) => self.generations.keep(number, kept),
                Some(Event::Gone(number, pid)) => {
                    self.generations.send(number, &ToPreloader::gone(pid));
                }
            }
        }
    }

    fn start(&mut self, process: ProcessNo, number: u64, slots: &[SlotNo], now: Instant) {
        let others = self.crew.pool.counts().processes.saturating_sub(1);
        let generation = self.generations.get(number);
        let launched = generation
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
            .and_then(|g| launch::launch(&self.context, g, process, slots.len(), others))
            .and_then(|l| self.crew.launched(process, slots, l, now));
        let Err(error) = launched else { return };
        self.crew.pool.not_started(process);
        let text = format!("a worker cannot be started: {error}");
        match (self.generations.is_candidate(number), is_refusal(&error)) {
            (true, true) => self.skip_trial(number),
            (true, false) if is_gone(&error) => self.generations.with(number, |g| g.repeat_trial()),
            (true, false) => {
                self.generations.with(number, |g| g.fail(text));
                self.drop_failed_candidate(now);
            }
            (false, true) => {
                self.note_limit(text, now);
                self.crew.pool.no_room(None, now);
            }
            (false, false) => {
                if !is_gone(&error) {
                    self.note(Level::Warning(worker::NOT_STARTED), text);
                }
                self.crew.pool.start_failed(now);
            }
        }
    }

    /// A worker has not started in time: the preloader hangs, or the import does.
    fn unstarted(&mut self, number: u64, seconds: u64, now: Instant) {
        let text = format!("a worker has not started within {seconds} s");
        self.note(Level::Error(worker::SLOW_START), text.clone());
        self.generations
            .with(number, |g| g.unstarted(text, &self.context, now));
        self.drop_failed_candidate(now);
    }

    /// Notes that the account is at its limits, but not several times a second.
    fn note_limit(&mut self, text: String, now: Instant) {
        if let Some(text) = self.quota.refused(&text, now) {
            self.note(Level::Warning(worker::NO_ROOM), text);
        }
    }

    fn note(&mut self, level: Level, text: String) {
        self.put(Output::Note(level, text));
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::process::Origin;
    use std::time::Duration;

    #[test]
    fn a_front_that_cannot_share_workers_keeps_its_idle_one() {
        let (poller, now) = (Rc::new(Poller::new().unwrap()), Instant::now());
        let context = LaunchContext {
            alone: true,
            ..LaunchContext::default()
        };
        let first = (String::from("v"), First::Import);
        let mut workers =
            Workers::new(context, poller, Rc::new(Config::default()), first, 1, now).unwrap();
        let pool = &mut workers.crew.pool;
        pool.start(1, 1, now);
        assert!(matches!(pool.poll(), Some(Action::Start(..))));
        let child = Pid::from_raw(i32::MAX);
        pool.launched(ProcessNo(1), Origin::Front(child), 0, now);
        pool.started(SlotNo(1), child.as_raw(), now);
        assert!(pool.roster().pick(1).is_some());
        workers.give_idle(now + KEEPS_IDLE + Duration::from_secs(1));
        assert!(workers.pool().roster().pick(1).is_some());
    }
}
