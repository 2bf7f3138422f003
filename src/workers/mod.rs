//! `Workers`: the Python side of a front: the pool, the preloaders, and the private wire to them.
//!
//! Takes requests and puts out what becomes of them. Knows no protocol of web servers, and nothing of how a change on
//! disk goes live.

pub mod action;
pub mod channel;
pub mod context;
mod crew;
mod election;
mod generation;
pub mod generations;
pub mod import;
mod launch;
mod output;
pub mod pool;
pub mod preloader;
pub mod process;
pub mod queue;
mod quota;
mod reclaim;
pub mod roster;
pub mod scaling;
mod sockets;
pub mod spawn;
pub mod wire;

pub use action::Action;
pub use context::LaunchContext;
pub use output::Output;
pub use scaling::threads;

use crate::config::Config;
use crate::failure::Failure;
use crate::log::Level;
use crate::pairs::Pairs;
use crate::poller::Poller;
use crate::request::{Request, RequestNo, Stream};
use crate::rundir::RuntimeDir;
use crew::{Crew, Event};
use generation::Told;
use generations::{Generations, Stepped};
use nix::sys::epoll::EpollFlags;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use pool::Pool;
use preloader::Link;
use process::{ProcessNo, SlotNo};
use quota::Quota;
use reclaim::is_refusal;
use scaling::Sizes;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// So many workers that do not start, and are ended by somebody else, are no accident.
const FALSE_STARTS: u32 = 8;

/// See above.
#[derive(Debug)]
pub struct Workers {
    poller: Rc<Poller>,
    quota: Quota,
    crew: Crew,
    generations: Generations,
    outputs: VecDeque<Output>,
}

impl Workers {
    /// No worker yet. `link` is the tie to the preloader of what serves, which may have been handed over.
    pub fn new(
        context: LaunchContext,
        poller: Rc<Poller>,
        config: Rc<Config>,
        link: Link,
        seed: u64,
        now: Instant,
    ) -> Workers {
        let alone = context.alone;
        let mut generations = Generations::new(context, config.clone(), link, now);
        generations.current.watch(&poller);
        Workers {
            quota: Quota::new(alone),
            crew: Crew::new(poller.clone(), config, seed),
            poller,
            generations,
            outputs: VecDeque::new(),
        }
    }

    /// What comes out.
    pub fn poll(&mut self) -> Option<Output> {
        self.crew.poll().or_else(|| self.outputs.pop_front())
    }

    /// Where the processes of the site meet.
    pub fn dir(&self) -> Option<&RuntimeDir> {
        self.generations.context.dir.as_ref()
    }

    /// What everything is started with.
    pub fn context(&mut self) -> &mut LaunchContext {
        &mut self.generations.context
    }

    /// What serves, and what may come after it.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// The processes, and where the requests stand.
    pub fn pool(&self) -> &Pool {
        &self.crew.pool
    }

    /// How many processes there may be.
    pub fn sizes(&self) -> Sizes {
        self.quota.sizes(&self.generations.current.config)
    }

    /// Whether a worker has said that it runs.
    pub fn runs(&self, process: ProcessNo) -> bool {
        self.crew.pool.roster().runs(process)
    }

    /// The variables of a request that waits or is with a worker.
    pub fn environ(&self, request: RequestNo) -> Option<&Pairs> {
        self.crew.request(request).map(|request| &*request.environ)
    }

    /// A request waits for a worker.
    pub fn submit(&mut self, request: Request, now: Instant) {
        self.crew.submit(request, now);
        self.run(now);
    }

    /// Nobody waits for the answer any more.
    pub fn abort(&mut self, request: RequestNo, now: Instant) {
        self.crew.pool.abort(request);
        self.run(now);
    }

    /// The answer is not taken: stop reading what its worker sends; or go on.
    pub fn hold(&mut self, request: RequestNo, held: bool) {
        self.crew.hold(request, held);
    }

    /// Fails all that wait.
    pub fn fail_queued(&mut self, failure: &Failure, now: Instant) {
        self.crew.pool.fail_queued(failure);
        self.run(now);
    }

    /// Why no request is served now.
    pub fn unavailable_reason(&self) -> Option<String> {
        let reason = self.generations.current.unavailable_reason()?;
        let served = self.crew.pool.roster().serves(self.crew.pool.current());
        (!served).then_some(reason)
    }

    /// What is to serve cannot be imported, and another version may take its place.
    pub fn may_fall_back(&self) -> bool {
        let current = &self.generations.current;
        current.failure().is_some()
            && current.link.connect_only.is_none()
            && self.crew.pool.roster().is_empty()
    }

    /// This version serves from now on, if it has a preloader.
    pub fn fall_back(&mut self, version: String, config: Rc<Config>, now: Instant) {
        self.generations.fall_back(version, config, now);
        self.went_live(now);
    }

    /// What is to serve cannot be imported, for this reason.
    pub fn fail(&mut self, reason: String) {
        self.generations.current.link.fail(reason);
    }

    /// Has this version imported, as the candidate, while the other one serves.
    pub fn import(&mut self, version: String, config: Rc<Config>, now: Instant) {
        self.generations.add(version, config, now);
    }

    /// The candidate is not wanted any more.
    pub fn abandon(&mut self, now: Instant) {
        if let Some(number) = self.generations.abandon() {
            self.crew.pool.end_trial(number, now);
            self.run(now);
        }
    }

    /// The candidate serves from now on, if it is of this version. Old workers go on until a new one has started.
    pub fn promote(&mut self, version: &str, now: Instant) -> bool {
        let promoted = self.generations.promote(version);
        if promoted {
            self.went_live(now);
            self.works();
        }
        promoted
    }

    /// Asks for the worker that shows whether the candidate can be imported. Where there is no room for one more, it shows
    /// when the candidate is live.
    pub fn start_trial(&mut self, now: Instant) {
        if let Some(candidate) = &mut self.generations.candidate {
            candidate.tried = true;
            let slots = threads(&candidate.config) as usize;
            self.crew.pool.start(candidate.number, slots, now);
            self.run(now);
        }
    }

    /// Nothing is started from now on but for those who wait already.
    pub fn drain(&mut self) {
        self.crew.pool.drain();
    }

    /// No worker is kept that has nothing to do, until a request needs one.
    pub fn give_up_idle(&mut self, now: Instant) {
        self.crew.pool.retire_idle(now);
        self.run(now);
    }

    /// Gives a worker back if another front wishes for one.
    pub fn look_for_wish(&mut self, now: Instant) {
        let can_give = |soon| self.crew.pool.could_give_back(soon, now);
        if let Some(dir) = &self.generations.context.dir
            && can_give(true)
            && reclaim::take_wish(dir, can_give)
        {
            self.crew.pool.give_back(now);
            self.run(now);
        }
    }

    /// Ends all. The control socket and the version of a candidate that was imported, for the next image.
    pub fn end(&mut self) -> Option<(OwnedFd, String)> {
        let handed = self.generations.hand_over();
        self.crew.end();
        self.generations.current.link = Link::idle();
        handed
    }

    /// When `on_time` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let links = self.generations.deadline(self.crew.pool.wanted() > 0);
        links.into_iter().chain(self.crew.pool.deadline()).min()
    }

    /// Does what time asks for.
    pub fn on_time(&mut self, now: Instant) {
        loop {
            self.step_generations(now);
            let startable = self.generations.current.can_start();
            self.crew.pool.set_startable(startable);
            if !self.crew.pool.is_due(now) {
                return;
            }
            let config = self.generations.current.config.clone();
            let pool = &mut self.crew.pool;
            if let Some(text) = self.quota.bound(pool, &config, startable, now) {
                self.note(Level::Warning, text);
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

    /// A worker has written something, or has let go of what it writes to.
    pub fn on_pipe(&mut self, process: ProcessNo, stream: Stream) {
        self.crew.on_pipe(process, stream);
    }

    /// A preloader has something to tell.
    pub fn on_control(&mut self, generation: u64, now: Instant) {
        for told in self.generations.read(generation, now) {
            self.on_told(generation, told, now);
        }
        self.see_failure(now);
    }

    /// A child of ours has ended.
    pub fn on_exit(&mut self, pid: Pid, status: WaitStatus, now: Instant) {
        self.generations.ended(status, now);
        self.on_child_end(pid, status, now);
        if status != WaitStatus::Exited(pid, 0) {
            self.on_worker_exit(pid.as_raw(), import::describe(status));
        }
    }

    fn on_told(&mut self, number: u64, told: Told, now: Instant) {
        match told {
            Told::Imported(story) => {
                self.imported(number);
                for (level, text) in story.lines {
                    self.note(level, text);
                }
                if let Some(status) = story.status {
                    self.put(Output::Status(status));
                }
            }
            Told::Failed(reason, here) => {
                if here || self.generations.is_candidate(number) {
                    self.note_failure(&reason);
                }
                self.put(Output::ImportFailed(reason));
            }
            Told::Refused(process, reason) => {
                self.note_limit(format!("the system refused a worker: {reason}"), now);
                self.crew.pool.no_room(process, now);
                self.run(now);
            }
            Told::Release => {
                self.crew.pool.give_back(now);
                self.run(now);
            }
            Told::Exited(pid, how) => self.on_worker_exit(pid, how),
            Told::Nonsense(what) => {
                self.note(Level::Error, format!("the preloader sent {what}"));
            }
        }
    }

    /// A child of ours has ended: a worker that has not told yet whether it could import the app?
    fn on_child_end(&mut self, pid: Pid, status: WaitStatus, now: Instant) {
        let ended = self.crew.child_ended(pid, now);
        self.run(now);
        let Some((process, number, said)) = ended else {
            return;
        };
        let reason = import::reason(&said, &import::describe(status));
        if !import::is_from_outside(status) || self.crew.pool.failed_starts() >= FALSE_STARTS {
            return self.boot_failed(process, number, reason, now);
        }
        self.note(Level::Warning, reason);
        if let Some(generation) = self.generations.get(number) {
            generation.tried = false;
        }
    }

    /// A worker, ours or of another front, has ended in an unusual way; of those that we ended ourselves we know.
    fn on_worker_exit(&mut self, pid: i32, how: String) {
        let unexpected = self.crew.pool.roster().is_to_go_on(pid);
        self.put(Output::Exited(pid, how, unexpected));
    }

    /// A worker of the plain form could not import the app.
    fn boot_failed(&mut self, process: ProcessNo, number: u64, reason: String, now: Instant) {
        self.note_failure(&reason);
        self.put(Output::ImportFailed(reason.clone()));
        if let Some(generation) = self.generations.get(number) {
            generation.link.fail(reason);
        }
        self.crew.pool.retire(process, now);
        self.see_failure(now);
    }

    /// The app of a generation was imported.
    fn imported(&mut self, number: u64) {
        if self.generations.is_candidate(number) {
            self.put(Output::Imported(Ok(())));
        }
        if let Some(generation) = self.generations.get(number) {
            generation.works();
        }
        if number == self.generations.current.number {
            self.works();
        }
    }

    fn works(&mut self) {
        if self.generations.current.link.connect_only.is_none() {
            self.put(Output::Works);
        }
    }

    fn went_live(&mut self, now: Instant) {
        let current = &self.generations.current;
        self.crew.configure(&current.config);
        self.crew.pool.promote(current.number, now);
        self.run(now);
    }

    /// The candidate has failed: the old goes on.
    fn see_failure(&mut self, now: Instant) {
        if let Some((number, reason)) = self.generations.take_failed() {
            self.crew.pool.end_trial(number, now);
            self.put(Output::Imported(Err(reason)));
            self.run(now);
        }
    }

    fn step_generations(&mut self, now: Instant) {
        let wanted = self.crew.pool.wanted() > 0;
        for stepped in self.generations.step(wanted, &self.poller, now) {
            match stepped {
                Stepped::Note(text) => self.note(Level::Error, text),
                Stepped::Failed(reason) => self.put(Output::ImportFailed(reason)),
                Stepped::NoRoom(text) => {
                    // Those who wait go on waiting, up to their time, and who has an idle worker ends it.
                    self.note_limit(text, now);
                    self.crew.pool.give_back(now);
                    reclaim::wish(self.dir(), &self.crew.pool);
                    self.run(now);
                }
            }
        }
        self.see_failure(now);
    }

    /// Has the crew do what is to be done, and does what it leaves to others.
    fn run(&mut self, now: Instant) {
        loop {
            self.crew.act(now);
            match self.crew.event() {
                None => return,
                Some(Event::Start(process, number, slots)) => {
                    self.start(process, number, &slots, now);
                }
                Some(Event::Started(number, first)) => {
                    if first {
                        self.put(Output::Started);
                    }
                    if self.generations.get(number).is_some_and(|g| g.plain) {
                        self.imported(number);
                    }
                }
                Some(Event::BootFailed(process, number, reason)) => {
                    self.boot_failed(process, number, reason, now);
                }
                Some(Event::Unstarted(number, seconds)) => self.unstarted(number, seconds, now),
            }
        }
    }

    fn start(&mut self, process: ProcessNo, number: u64, slots: &[SlotNo], now: Instant) {
        let launched = self.generations.launch(number, process, slots.len());
        let launched = launched.and_then(|l| self.crew.launched(process, slots, l));
        let Err(error) = launched else { return };
        self.crew.pool.not_started(process);
        let text = format!("a worker cannot be started: {error}");
        match (self.generations.is_candidate(number), is_refusal(&error)) {
            (true, true) => self.imported(number),
            (true, false) => {
                if let Some(candidate) = &mut self.generations.candidate {
                    candidate.link.fail(text);
                }
                self.see_failure(now);
            }
            (false, true) => {
                reclaim::wish(self.dir(), &self.crew.pool);
                self.note_limit(text, now);
                self.crew.pool.no_room(None, now);
            }
            (false, false) => {
                if error.kind() != io::ErrorKind::NotConnected {
                    self.note(Level::Warning, text);
                }
                self.crew.pool.start_failed(now);
            }
        }
    }

    /// Whoever was to start a worker is stuck.
    fn unstarted(&mut self, number: u64, seconds: u64, now: Instant) {
        let text = format!("a worker has not started within {seconds} s");
        self.note(Level::Error, text.clone());
        self.generations.unstarted(number, text, now);
        self.see_failure(now);
    }

    fn note_failure(&mut self, reason: &str) {
        let text = format!("the app cannot be imported\n{}", reason.trim_end());
        self.note(Level::Error, text);
    }

    /// A line that would come several times a second while the account is at its limits.
    fn note_limit(&mut self, text: String, now: Instant) {
        if self.quota.tells(now) {
            self.note(Level::Warning, text);
        }
    }

    fn note(&mut self, level: Level, text: String) {
        self.put(Output::Note(level, text));
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}
