//! `Crew`: the worker processes as they are: the pool, the sockets and pipes to them, and the requests that they have.
//!
//! Does what the pool wants done. What needs the code, its import or a preloader it leaves to `Workers`, as events.

use super::action::Action;
use super::import;
use super::launch::Launched;
use super::output::Output;
use super::pool::Pool;
use super::process::{Process, ProcessNo, SlotNo};
use super::sockets::{Ended, Reply, Sockets};
use crate::config::Config;
use crate::environ::describe;
use crate::failure::Failure;
use crate::log::Level;
use crate::poller::Poller;
use crate::request::{Request, RequestNo, Stream};
use crate::sys::procfs;
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// What is not the crew's to do.
#[derive(Debug)]
pub(super) enum Event {
    /// Start a process of this generation: `launched`, or `Pool::not_started` and why.
    Start(ProcessNo, u64, Vec<SlotNo>),
    /// A process of this generation runs. `true`: it is its first word.
    Started(u64, bool),
    /// The import of a process of this generation has failed, for this reason.
    BootFailed(ProcessNo, u64, String),
    /// A process of this generation has not started within so many seconds.
    Unstarted(u64, u64),
}

/// See above.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) pool: Pool,
    sockets: Sockets,
    /// Those that wait or are with a worker.
    requests: BTreeMap<RequestNo, Request>,
    /// Bytes of memory above which a worker is replaced; 0: any.
    max_memory: u64,
    events: VecDeque<Event>,
    outputs: VecDeque<Output>,
}

impl Crew {
    pub(super) fn new(poller: Rc<Poller>, config: Rc<Config>, seed: u64) -> Crew {
        Crew {
            max_memory: config.server.max_memory,
            pool: Pool::new(config, seed),
            sockets: Sockets::new(poller),
            requests: BTreeMap::new(),
            events: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// What is not the crew's to do.
    pub(super) fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What comes out.
    pub(super) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// These settings hold from now on.
    pub(super) fn configure(&mut self, config: &Rc<Config>) {
        self.max_memory = config.server.max_memory;
        self.pool.configure(config.clone());
    }

    /// A request that waits or is with a worker.
    pub(super) fn request(&self, number: RequestNo) -> Option<&Request> {
        self.requests.get(&number)
    }

    /// A request waits for a worker.
    pub(super) fn submit(&mut self, request: Request, now: Instant) {
        let number = request.number;
        self.requests.insert(number, request);
        self.pool.submit(number, now);
    }

    /// The answer is not taken: stop reading what its worker sends; or go on.
    pub(super) fn hold(&mut self, request: RequestNo, held: bool) {
        if let Some(slot) = self.pool.queue().slot(request) {
            self.sockets.watch(slot, !held);
        }
    }

    /// A process was asked for.
    pub(super) fn launched(
        &mut self,
        process: ProcessNo,
        slots: &[SlotNo],
        launched: Launched,
    ) -> io::Result<()> {
        let child = launched.child;
        let pipes = self.sockets.add(process, slots, launched)?;
        self.pool.launched(process, child, pipes);
        Ok(())
    }

    /// A worker's socket is ready.
    pub(super) fn on_slot(&mut self, slot: SlotNo, flags: EpollFlags, now: Instant) {
        let mut replies = Vec::new();
        let mut read = Ok(());
        if flags.contains(EpollFlags::EPOLLOUT) {
            read = self.sockets.flush(slot);
        }
        if read.is_ok() && flags != EpollFlags::EPOLLOUT {
            read = self.sockets.read(slot, &mut replies);
        }
        for reply in replies {
            self.on_reply(slot, reply, now);
        }
        if let Err(Ended(nonsense)) = read {
            if let Some(what) = nonsense {
                self.note(Level::Error, format!("a worker sent {what}"));
            }
            self.sockets.close(slot);
            if let Some(process) = self.pool.roster().owner(slot) {
                self.read_pipes(process);
            }
            self.pool.lost(slot, now);
        }
    }

    /// A worker has written something, or has let go of what it writes to.
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

    /// A child of ours that was to import the app has ended: it, its generation, and what it had written, unless it has told
    /// by itself how the import went.
    pub(super) fn child_ended(
        &mut self,
        child: Pid,
        now: Instant,
    ) -> Option<(ProcessNo, u64, Vec<u8>)> {
        let find = |pool: &Pool| {
            let mut all = pool.roster().iter();
            let found = all.find(|(_, process)| process.child() == Some(child));
            found.map(|(number, _)| number)
        };
        // It may have told the reason itself.
        let process = find(&self.pool)?;
        for slot in self.pool.roster().slots(process) {
            self.on_slot(slot, EpollFlags::EPOLLIN, now);
        }
        let process = find(&self.pool)?;
        self.read_pipes(process);
        self.pool.resolve(process);
        let said = self.sockets.take_said(process);
        Some((process, self.generation(process), said))
    }

    /// Does what the pool wants done.
    pub(super) fn act(&mut self, now: Instant) {
        while let Some(action) = self.pool.poll() {
            match action {
                Action::Start(process, generation, slots) => {
                    self.tell(Event::Start(process, generation, slots));
                    // First: the requests that it gets are sent to its sockets.
                    return;
                }
                Action::Send(slot, request) => {
                    let request = self.requests.get(&request);
                    if !request.is_some_and(|request| self.sockets.send(slot, request)) {
                        self.sockets.close(slot);
                        self.pool.send_failed(slot, now);
                    }
                }
                Action::Abort(slot) => self.sockets.abort(slot),
                Action::Close(slot) => self.sockets.close(slot),
                Action::WriteStack(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGUSR2)),
                Action::Kill(process) => self.kill(process, now),
                Action::Fail(request, failure) => self.put(Output::Fail(request, failure)),
                Action::Forget(request) => {
                    self.requests.remove(&request);
                    self.put(Output::Gone(request));
                }
                Action::Slow(request, waited) => {
                    let what = self.requests.get(&request).map(|r| describe(&r.environ));
                    let (what, seconds) = (what.unwrap_or_default(), waited.as_secs_f64());
                    let text =
                        format!("slow: {what} has run for {seconds:.1} s; its stack follows");
                    self.note(Level::Warning, text);
                }
                Action::Unstarted(process, seconds) => {
                    let generation = self.generation(process);
                    self.tell(Event::Unstarted(generation, seconds));
                }
                Action::Lost(pid) => self.put(Output::Lost(pid)),
                Action::Live => self.put(Output::Live),
            }
        }
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
                return self.boot_failed(process, reason);
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
            Reply::Exception(traceback) => {
                self.put(Output::Fail(request, Failure::Exception(traceback)));
            }
            Reply::End { truncated } => {
                let too_large = self.is_too_large(process);
                if let Some((request, took)) = self.pool.ended(slot, too_large, now) {
                    self.requests.remove(&request);
                    self.put(Output::End(request, truncated, took));
                }
                // At once: who waits is served before the last visitor gets his answer.
                self.act(now);
            }
        }
    }

    fn on_started(&mut self, slot: SlotNo, process: ProcessNo, pid: i32, now: Instant) {
        // What a child wrote while it imported the app is not about the request that waits for it.
        if self
            .pool
            .roster()
            .get(process)
            .and_then(Process::child)
            .is_some()
        {
            self.read_pipes(process);
            self.sockets.take_said(process);
        }
        let first = self.pool.started(slot, pid, now);
        self.read_pipes(process);
        self.tell(Event::Started(self.generation(process), first));
    }

    fn boot_failed(&mut self, process: ProcessNo, reason: String) {
        let generation = self.generation(process);
        self.tell(Event::BootFailed(process, generation, reason));
    }

    fn generation(&self, process: ProcessNo) -> u64 {
        let process = self.pool.roster().get(process);
        process.map_or(0, Process::generation)
    }

    fn kill(&mut self, process: ProcessNo, now: Instant) {
        self.read_pipes(process);
        let said = self.sockets.take_said(process);
        self.sockets.kill(process);
        if self.pool.resolve(process) {
            let reason = import::reason(&said, "has let go of its sockets");
            self.boot_failed(process, reason);
        }
        self.pool.killed(process, now);
    }

    fn is_too_large(&self, process: ProcessNo) -> bool {
        let process = self
            .pool
            .roster()
            .get(process)
            .filter(|_| self.max_memory > 0);
        let bytes = process.and_then(Process::pid).and_then(procfs::resident);
        bytes.is_some_and(|bytes| bytes > self.max_memory)
    }

    /// Reads the last of a worker.
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

    fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    fn note(&mut self, level: Level, text: String) {
        self.put(Output::Note(level, text));
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}
