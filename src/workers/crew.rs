//! `Crew`: the worker processes: the pool that decides about them, their sockets and pipes, and the requests.
//!
//! Carries out the pool's actions. What needs a generation or a preloader goes to `Workers`, as an event.

use super::action::Action;
use super::import;
use super::kept::Kept;
use super::launch::Launched;
use super::lost::Lost;
use super::output::Output;
use super::pool::Pool;
use super::process::{Process, ProcessNo, SlotNo, Why};
use super::sockets::{Ended, Reply, Sockets};
use crate::codes::worker;
use crate::config::Config;
use crate::environ::describe;
use crate::failure::Failure;
use crate::log::Level;
use crate::numbered::Numbered;
use crate::poller::Poller;
use crate::request::{Request, RequestNo, Stream};
use crate::sys::procfs;
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// This many workers in a row that somebody else kills during the import are a failure.
const FALSE_STARTS: u32 = 8;

/// What `Workers` has to handle.
#[derive(Debug)]
pub(super) enum Event {
    /// Start a process of this generation; then `launched`, or `Pool::not_started` and the reason.
    Start(ProcessNo, u64, Vec<SlotNo>),
    /// STARTED from a process of this generation.
    Started(u64),
    /// The import in a process of this generation has failed, for this reason.
    BootFailed(u64, String),
    /// No process of this generation serves, or is to.
    NoneLeft(u64),
    /// A process of this generation has not started within so many seconds.
    Unstarted(u64, u64),
    /// An idle worker of this generation is to be kept for other fronts.
    Keep(u64, Kept),
    /// The lifeline of a worker of this generation, with this pid, is cut.
    Gone(u64, i32),
}

/// The pool, with the processes, sockets and requests that it decides about.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) pool: Pool,
    sockets: Sockets,
    /// Empty; kept for its memory.
    replies: Vec<Reply>,
    /// Requests that wait or are with a worker.
    requests: Numbered<RequestNo, Request>,
    lost: Lost,
    config: Rc<Config>,
    events: VecDeque<Event>,
    outputs: VecDeque<Output>,
}

impl Crew {
    pub(super) fn new(poller: Rc<Poller>, config: Rc<Config>, seed: u64) -> Crew {
        Crew {
            config: config.clone(),
            pool: Pool::new(config, seed),
            sockets: Sockets::new(poller),
            replies: Vec::new(),
            requests: Numbered::default(),
            lost: Lost::default(),
            events: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The next event.
    pub(super) fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next output.
    pub(super) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Applies new settings.
    pub(super) fn configure(&mut self, config: &Rc<Config>) {
        self.config = config.clone();
        self.pool.configure(config.clone());
    }

    /// A request that waits or is with a worker.
    pub(super) fn request(&self, number: RequestNo) -> Option<&Request> {
        self.requests.get(number)
    }

    /// A request waits for a worker.
    pub(super) fn submit(&mut self, request: Request, now: Instant) {
        let (number, source) = (request.number, request.source);
        self.requests.insert(number, request);
        self.pool.submit(number, source, now);
    }

    /// `held`: stop reading from the worker, because the peer is not draining its response; else go on.
    pub(super) fn hold(&mut self, request: RequestNo, held: bool, now: Instant) {
        if let Some(slot) = self.pool.queue().slot(request) {
            self.sockets.watch(slot, !held);
            self.pool.hold(request, held.then_some(now));
        }
    }

    /// A process was launched.
    pub(super) fn launched(
        &mut self,
        process: ProcessNo,
        slots: &[SlotNo],
        launched: Launched,
        now: Instant,
    ) -> io::Result<()> {
        let origin = launched.origin;
        let pipes = self.sockets.add(process, slots, launched)?;
        self.pool.launched(process, origin, pipes, now);
        Ok(())
    }

    /// In place of a process that was requested comes one that was kept. Returns it if it is not needed any more.
    pub(super) fn adopt(
        &mut self,
        number: Option<ProcessNo>,
        kept: Kept,
        now: Instant,
    ) -> Option<Kept> {
        let roster = self.pool.roster();
        let fits = |number: &ProcessNo| {
            let process = roster.get(*number).filter(|p| p.is_unanswered());
            process.is_some_and(|p| p.slots().count() == kept.channels.len())
        };
        let Some(number) = number.filter(fits) else {
            return Some(kept);
        };
        let slots = roster.slots(number);
        let (facts, launched) = kept.launched();
        if self.launched(number, &slots, launched, now).is_err() {
            self.pool.killed(number, now);
            return None;
        }
        self.pool.adopted(number, &facts, now);
        None
    }

    /// A worker's socket is ready.
    pub(super) fn on_slot(&mut self, slot: SlotNo, flags: EpollFlags, now: Instant) {
        let mut replies = std::mem::take(&mut self.replies);
        let mut read = Ok(());
        if flags.contains(EpollFlags::EPOLLOUT) {
            read = self.sockets.flush(slot);
        }
        if read.is_ok() && flags != EpollFlags::EPOLLOUT {
            read = self.sockets.read(slot, &mut replies);
        }
        for reply in replies.drain(..) {
            self.on_reply(slot, reply, now);
        }
        self.replies = replies;
        if let Err(Ended(broken)) = read {
            if let Some(why) = broken {
                self.note(Level::Error(worker::BROKEN_WIRE), why);
            }
            self.sockets.close(slot);
            if let Some(process) = self.pool.roster().owner(slot) {
                self.read_pipes(process);
            }
            self.pool.lost(slot, now);
        }
    }

    /// An output of a worker is ready, or has ended.
    pub(super) fn on_pipe(&mut self, process: ProcessNo, stream: Stream) {
        let mut text = Vec::new();
        let ended = self.sockets.read_pipe(process, stream, &mut text);
        if !text.is_empty() {
            self.on_text(process, stream, text);
        }
        if ended {
            self.pool.output_ended(process);
        }
    }

    /// A process has ended, perhaps a worker that had not said how its import went.
    pub(super) fn exited(&mut self, pid: Pid, status: WaitStatus, now: Instant) {
        let find = |pool: &Pool| {
            let mut all = pool.roster().iter();
            let found = all.find(|(_, process)| process.importer() == Some(pid));
            found.map(|(number, _)| number)
        };
        let Some(process) = find(&self.pool) else {
            return;
        };
        // Its last frame may say how the import went.
        for slot in self.pool.roster().slots(process) {
            self.on_slot(slot, EpollFlags::EPOLLIN, now);
        }
        let Some(process) = find(&self.pool) else {
            return;
        };
        self.read_pipes(process);
        self.pool.resolve(process);
        let reason = self.why_not_imported(process, &import::describe(status));
        let by_itself = !import::is_from_outside(status);
        match by_itself || self.pool.scaling().failed_starts() >= FALSE_STARTS {
            true => self.boot_failed(process, reason, now),
            false => self.note(Level::Warning(worker::IMPORT_KILLED), reason),
        }
    }

    /// Carries out the pool's actions.
    pub(super) fn act(&mut self, now: Instant) {
        while let Some(action) = self.pool.poll() {
            match action {
                Action::Start(process, generation, slots) => {
                    self.raise(Event::Start(process, generation, slots));
                }
                Action::Send(slot, request) => self.send(slot, request, now),
                Action::Keep(process) => self.keep(process, now),
                Action::Abort(slot) => self.sockets.abort(slot),
                Action::Close(slot) => self.sockets.close(slot),
                Action::WriteStack(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGUSR2)),
                Action::Kill(process) => self.kill(process, now),
                Action::Fail(request, failure) => {
                    if let Some(failure) = self.lost.fail(request, failure, now) {
                        self.put(Output::Fail(request, failure));
                    }
                }
                Action::Forget(request) if self.lost.holds(request) => (),
                Action::Forget(request) => self.forget(request),
                Action::Slow(request, waited) => {
                    let what = self.requests.get(request).map(|r| describe(&r.environ));
                    let (what, seconds) = (what.unwrap_or_default(), waited.as_secs_f64());
                    let text =
                        format!("slow: {what} has run for {seconds:.1} s; its stack follows");
                    self.note(Level::Warning(worker::SLOW_REQUEST), text);
                }
                Action::Unstarted(process, seconds) => {
                    let generation = self.generation(process);
                    self.raise(Event::Unstarted(generation, seconds));
                }
                Action::Lost(pid) => self.put(Output::Lost(pid)),
                Action::Live => self.put(Output::Live),
            }
        }
    }

    fn send(&mut self, slot: SlotNo, request: RequestNo, now: Instant) {
        let request = self.requests.get(request);
        let sent = request.is_some_and(|request| self.sockets.send(slot, request));
        if !sent {
            self.sockets.close(slot);
            self.pool.send_failed(slot, now);
        }
    }

    /// Takes an idle worker away from here, once what it has written is read.
    fn keep(&mut self, process: ProcessNo, now: Instant) {
        self.read_pipes(process);
        let generation = self.generation(process);
        let slots = self.pool.roster().slots(process);
        let withdrawn = self.sockets.withdraw(process, &slots);
        let facts = self.pool.take(process, now);
        if let (Some((pipes, channels)), Some(facts)) = (withdrawn, facts) {
            let kept = Kept {
                facts,
                pipes,
                channels,
            };
            self.raise(Event::Keep(generation, kept));
        }
    }

    /// A process has ended in this unusual way. Whether a request fails for this, and tells it.
    pub(super) fn ended(&mut self, pid: i32, how: &str, now: Instant) -> bool {
        // This may be known before the end of its sockets is.
        let roster = self.pool.roster();
        let its = roster
            .iter()
            .find(|(_, process)| process.pid() == Some(pid));
        let its = its.map_or(Vec::new(), |(number, _)| roster.slots(number));
        for slot in its {
            self.on_slot(slot, EpollFlags::EPOLLIN, now);
        }
        self.act(now);
        let failed = self.lost.ended(pid, how);
        let told = !failed.is_empty();
        self.fail_lost(failed);
        told
    }

    /// When `on_time` or the pool has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.lost.deadline(), self.pool.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Does what is due, apart from the pool.
    pub(super) fn on_time(&mut self, now: Instant) {
        let due = self.lost.due(now);
        self.fail_lost(due);
    }

    fn fail_lost(&mut self, failed: Vec<(RequestNo, Failure)>) {
        for (request, failure) in failed {
            self.put(Output::Fail(request, failure));
            self.forget(request);
        }
    }

    fn forget(&mut self, request: RequestNo) {
        self.requests.remove(request);
        self.put(Output::Gone(request));
    }

    /// Ends all.
    pub(super) fn end(&mut self) {
        self.sockets.clear();
    }

    fn on_reply(&mut self, slot: SlotNo, reply: Reply, now: Instant) {
        let Some(process) = self.pool.roster().owner(slot) else {
            return;
        };
        match reply {
            Reply::Started(pid) => return self.on_started(slot, process, pid, now),
            Reply::BootFailed(reason) => {
                self.pool.resolve(process);
                return self.boot_failed(process, reason, now);
            }
            _ => (),
        }
        let Some(request) = self.pool.roster().request_on(slot) else {
            return;
        };
        match reply {
            Reply::Started(_) | Reply::BootFailed(_) => (),
            Reply::Head(payload) => self.put(Output::Head(request, payload)),
            Reply::Data(bytes) => self.put(Output::Data(request, bytes)),
            Reply::File(file, offset, length) => {
                self.put(Output::File(request, file, offset, length));
            }
            Reply::Text(stream, text) => self.put(Output::Text(request, stream, text)),
            Reply::Exception(exception) => {
                self.put(Output::Fail(request, Failure::Exception(exception)));
            }
            Reply::Caught(exception) => self.put(Output::Caught(request, exception)),
            Reply::End { truncated } => {
                let too_large = self.is_too_large(process);
                if let Some((request, took)) = self.pool.ended(slot, too_large, now) {
                    self.requests.remove(request);
                    self.put(Output::End(request, truncated, took));
                }
                // At once: the worker is busy again before the last response is sent.
                self.act(now);
            }
        }
    }

    fn on_started(&mut self, slot: SlotNo, process: ProcessNo, pid: i32, now: Instant) {
        // Output of the import does not belong to the request that waits for this worker.
        let process_of = self.pool.roster().get(process);
        if process_of.is_some_and(Process::imports) {
            self.read_pipes(process);
            self.sockets.take_boot_output(process);
        }
        if self.pool.started(slot, pid, now) {
            self.put(Output::Started);
        }
        self.read_pipes(process);
        self.raise(Event::Started(self.generation(process)));
    }

    fn boot_failed(&mut self, process: ProcessNo, reason: String, now: Instant) {
        self.pool.retire(process, now);
        self.raise(Event::BootFailed(self.generation(process), reason));
    }

    fn generation(&self, process: ProcessNo) -> u64 {
        let process = self.pool.roster().get(process);
        process.map_or(0, Process::generation)
    }

    fn kill(&mut self, process: ProcessNo, now: Instant) {
        self.read_pipes(process);
        let generation = self.generation(process);
        let reason = self.why_not_imported(process, "has closed its sockets");
        self.sockets.kill(process);
        if let Some(pid) = self.pool.roster().get(process).and_then(Process::known_pid) {
            self.raise(Event::Gone(generation, pid));
        }
        if self.pool.resolve(process) {
            self.boot_failed(process, reason, now);
        }
        self.pool.killed(process, now);
        let remains = |p: &Process| p.generation() == generation && !p.is_retiring();
        if !self.pool.roster().any(remains) {
            self.raise(Event::NoneLeft(generation));
        }
    }

    /// Why a worker could not import the app; `how` it ended.
    fn why_not_imported(&mut self, process: ProcessNo, how: &str) -> String {
        let output = self.sockets.take_boot_output(process);
        let process = self.pool.roster().get(process);
        match process.is_some_and(|process| process.ends_for(Why::Unstarted)) {
            true => import::too_long(&self.config, &output),
            false => import::reason(&output, how),
        }
    }

    fn is_too_large(&self, process: ProcessNo) -> bool {
        let process = self
            .pool
            .roster()
            .get(process)
            .filter(|_| self.config.server.max_memory > 0);
        let bytes = process.and_then(Process::pid).and_then(procfs::resident);
        bytes.is_some_and(|bytes| bytes > self.config.server.max_memory)
    }

    /// Reads what is left in the pipes of a worker.
    fn read_pipes(&mut self, process: ProcessNo) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.on_pipe(process, stream);
        }
    }

    fn on_text(&mut self, process: ProcessNo, stream: Stream, text: Vec<u8>) {
        let process = self.pool.roster().get(process);
        if let Some(request) = process.and_then(Process::writes_of) {
            return self.put(Output::Text(request, stream, text));
        }
        let pid = process.and_then(Process::pid).unwrap_or(0);
        let level = match stream {
            Stream::Stdout => Level::Output,
            Stream::Stderr => Level::App,
        };
        for line in String::from_utf8_lossy(&text).lines() {
            self.note(level, format!("worker {pid}: {line}"));
        }
    }

    fn raise(&mut self, event: Event) {
        self.events.push_back(event);
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
    use crate::body::Body;
    use crate::pairs::Pairs;
    use crate::workers::process::Origin;
    use crate::workers::scaling::Sizes;

    #[test]
    fn a_request_is_not_given_to_a_process_before_it_is_launched() {
        let (poller, now) = (Rc::new(Poller::new().unwrap()), Instant::now());
        let mut crew = Crew::new(poller, Rc::new(Config::default()), 1);
        let sizes = Sizes {
            max: 1,
            slots: 1,
            ..Sizes::default()
        };
        crew.pool.set_bounds(sizes, None);
        crew.pool.set_startable(true, false);
        let request = Request {
            number: RequestNo(1),
            source: 1,
            environ: Rc::new(Pairs::new()),
            body: Body::Memory(Vec::new()),
        };
        crew.submit(request, now);
        crew.pool.on_time(now);
        // As when a response ends, and again when its events are handled.
        crew.act(now);
        crew.act(now);
        let Some(Event::Start(process, ..)) = crew.event() else {
            panic!("no process is started");
        };
        assert_eq!(crew.pool.queue().waiting(), 1);
        let origin = Origin::Front(Pid::from_raw(11));
        crew.pool.launched(process, origin, 1, now);
        assert_eq!(crew.pool.queue().waiting(), 0);
        assert!(matches!(
            crew.pool.poll(),
            Some(Action::Send(_, RequestNo(1)))
        ));
    }
}
