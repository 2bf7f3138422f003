//! `Server`: the front. One thread with one loop that sleeps in one place. It is also the switchboard between three state
//! machines that do not know each other: `traffic`, `workers` and `reload`.
//!
//! Each pass of the loop feeds events to the machine that they concern, passes on what the machines put out, and only then
//! sends responses: a worker that has just become free gets its next request before its last response is sent. `run`
//! returns only to exit or to execute a changed executable. Nothing that a peer, a worker or the preloader does ends it.
//!
//! The methods of `Server` are in two files: those for regular operation here, and those that replace or end the process
//! in `rollover`.

mod access;
mod cgi_output;
mod desk;
mod echo_page;
mod front;
mod listener;
mod notices;
mod report;
mod rollover;
mod signals;
mod sockets;
mod status_page;
mod told;

pub use front::{Begin, Front, Role, warn};
pub use listener::Listener;
pub use rollover::{HandOver, Outcome};

use crate::codes;
use crate::config::Config;
use crate::failure::Failure;
use crate::log::{Level, Log, LogFile};
use crate::owner::Desk;
use crate::pairs::Pairs;
use crate::poller::{Events, Poller, Token, Watched};
use crate::reload::{End, Origin, Refusal, Reload, Rollout, Watch};
use crate::request::{Request, Stream};
use crate::status::Count;
use crate::systemd;
use crate::traffic::{self, ConnNo, Share, Traffic};
use crate::workers::process::{ProcessNo, SlotNo};
use crate::workers::{self, First, Workers};
use access::AccessLog;
use listener::{Accepted, Listeners};
use nix::sys::epoll::EpollFlags;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use notices::Notices;
use report::{Report, Sources};
use sockets::Sockets;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// How often the watched files are checked.
const TICK: Duration = Duration::from_secs(1);

/// The front.
pub struct Server {
    /// The settings of the live release.
    config: Rc<Config>,
    origin: Origin,
    front: Front,
    notices: Notices,
    access: Option<AccessLog>,
    poller: Rc<Poller>,
    signals: SignalFd,
    listeners: Listeners,
    sockets: Sockets,
    traffic: Traffic,
    workers: Workers,
    reload: Reload,
    rollout: Rollout,
    watch: Watch,
    /// The child process that tests whether a new executable runs.
    testing: Option<Pid>,
    /// How to end, once draining is finished.
    end: Option<End>,
    /// When to check the watched files next.
    next_tick: Instant,
    /// While draining: until when to expect a request on a connection that was just accepted.
    expected_until: Option<Instant>,
    last_accept: Instant,
    report: Report,
    desk: Desk,
}

impl Server {
    /// A server that is ready to run. `handed`: what the previous process image handed over.
    pub fn new(
        begin: Begin,
        mut front: Front,
        listeners: Vec<Listener>,
        handed: HandOver,
        log: Log,
    ) -> io::Result<Server> {
        let Begin {
            origin,
            watch,
            live,
            beginning,
            refused,
        } = begin;
        let config = live.config.clone();
        let now = clock();
        let poller = Rc::new(Poller::new()?);
        let signals = signals::open()?;
        let mut watched = Watched::default();
        poller.watch(&signals, Token::Signal, EpollFlags::EPOLLIN, &mut watched)?;
        let shared = config.server.preload && front.launch.dir.is_some();
        let refusal = refused.as_deref();
        let first = match Share::take(1, 1, 0).too_few() {
            Some(few) => First::Fail(Failure::FewDescriptors(few).to_string()),
            None => rollover::first(&live, beginning, refusal, shared, handed.control),
        };
        let adopted = matches!(first, First::Adopt(_));
        let first = (live.version.clone(), first);
        let seed = front::seed();
        let launch = std::mem::take(&mut front.launch);
        let settings = traffic::Settings::new(config.clone(), "", false);
        let mut server = Server {
            access: None,
            listeners: Listeners::new(listeners),
            sockets: Sockets::new(poller.clone()),
            traffic: Traffic::new(settings, seed),
            workers: Workers::new(launch, poller.clone(), config.clone(), first, seed, now)?,
            reload: Reload::new(live, beginning, refused),
            rollout: Rollout::new(handed.turn, seed, now),
            report: Report::new(&origin.settings.nearest(), handed.report),
            config,
            origin,
            front,
            notices: Notices::new(log),
            poller,
            signals,
            watch,
            testing: None,
            end: None,
            next_tick: now,
            expected_until: None,
            last_accept: now,
            desk: Desk::default(),
        };
        server.apply();
        if server.is_superseded() {
            server.workers.give_up_idle(false, now);
        }
        if adopted {
            // The previous image saw this release imported.
            server.remember_good();
        }
        server.listen()?;
        for (socket, listener, is_new) in handed.connections {
            let number = server.add(socket, listener, now);
            server.traffic.connections_mut().inherit(number, is_new);
        }
        Ok(server)
    }

    /// Serves one CGI request: reads its body from `input` and writes the response to `output`.
    pub fn serve_cgi(mut self, environ: Pairs, input: OwnedFd, output: OwnedFd) -> Outcome {
        let number = self.traffic.on_cgi(environ, clock());
        self.sockets.add(number, input, Some(output), 0);
        while self.traffic.is_receiving() {
            self.sockets.read(number, &mut self.traffic, clock());
        }
        self.run()
    }

    /// Redirects standard error to `errors`, and the app's standard output to `output` if given, as a daemon needs.
    pub fn log_to(&mut self, errors: Option<LogFile>, output: Option<LogFile>) {
        self.notices.daemonize(errors, output);
        self.workers.keep_output_apart(self.notices.has_output());
    }

    /// Serves until told to stop.
    pub fn run(mut self) -> Outcome {
        let mut events = Events::default();
        let mut ready = Vec::new();
        loop {
            let now = clock();
            self.on_time(now);
            self.flush(now);
            if let Some(outcome) = self.outcome(now) {
                return outcome;
            }
            self.wait(&mut events);
            let now = clock();
            // A worker's output belongs to the request that it serves. Read it before the end of that request, but not
            // before the worker has reported that it runs. What the preloader says of it comes before its sockets end.
            ready.extend(events.iter());
            let roster = self.workers.pool().roster();
            let is_early = |t: Token| t.pipe().is_some_and(|n| !roster.runs(ProcessNo(n)));
            ready.sort_by_key(|(t, _)| (is_early(*t), t.pipe().is_none(), !t.is_control()));
            for (token, flags) in ready.drain(..) {
                self.on_event(token, flags, now);
            }
        }
    }

    /// Does what is due.
    fn on_time(&mut self, now: Instant) {
        let tick = self.next_tick <= now;
        if tick {
            self.next_tick = now + TICK;
            self.check_files(now);
            self.fall_back(now);
            let _ = self.listen(); // it may have been refused before
        }
        self.sockets.on_time(&mut self.traffic, now);
        self.traffic.on_time(now);
        self.workers.on_time(now);
        self.pass_on(now);
        self.step_reload(now);
        self.fail_queued(now);
        if self.report.deadline().is_none_or(|at| at <= now) {
            self.write_report(now);
        }
        if let Some(reason) = self.notices.on_time(tick, self.workers.dir(), now) {
            let everywhere = self.front.role == Role::Spawned { mod_fcgid: true };
            self.traffic.responses().told(reason.trim_end(), everywhere);
        }
        if self.listeners.on_time(now) {
            let _ = self.listen();
        }
    }

    /// Sleeps until an event or the next deadline. Nothing else sleeps.
    fn wait(&self, events: &mut Events) {
        let deadlines = [
            self.traffic.deadline(),
            self.workers.deadline(),
            self.reload.deadline(),
            self.rollout.deadline(),
            self.sockets.deadline(),
            self.listeners.deadline(),
            self.notices.deadline(),
            self.expected_until,
        ];
        let deadlines = deadlines.into_iter().flatten();
        let until = deadlines.fold(self.next_tick, Instant::min);
        let left = until.saturating_duration_since(clock());
        self.poller.wait(left, events);
    }

    fn on_event(&mut self, token: Token, flags: EpollFlags, now: Instant) {
        match token {
            Token::Signal => self.on_signal(now),
            Token::Listener(number) => self.on_listener(number, now),
            Token::Conn(number) => {
                let (number, traffic) = (ConnNo(number), &mut self.traffic);
                self.sockets.on_ready(number, flags, traffic, now);
            }
            Token::Slot(number) => self.workers.on_slot(SlotNo(number), flags, now),
            Token::Stdout(number) => self.workers.on_pipe(ProcessNo(number), Stream::Stdout),
            Token::Stderr(number) => self.workers.on_pipe(ProcessNo(number), Stream::Stderr),
            Token::Control(number) => self.workers.on_control(number, now),
        }
        self.pass_on(now);
    }

    /// Flushes connections and passes on what the machines put out, until neither has anything left to do.
    fn flush(&mut self, now: Instant) {
        self.pass_on(now);
        while self.sockets.flush(&mut self.traffic, now) {
            self.pass_on(now);
        }
    }

    /// Passes on what the machines put out.
    fn pass_on(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.workers.poll() {
                self.on_workers(output, now);
            } else if let Some(output) = self.traffic.poll() {
                self.on_traffic(output, now);
            } else if let Some(output) = self.reload.poll() {
                self.on_reload(output, now);
            } else {
                return;
            }
        }
    }

    fn on_traffic(&mut self, output: traffic::Output, now: Instant) {
        use traffic::Output::*;
        match output {
            Ready(request) => self.serve(request, now),
            Abandoned(request) => self.workers.abort(request, now),
            Hold(request, held) => self.workers.hold(request, held, now),
            Stalled(connection, stalled) => self.workers.stall(connection.0, stalled, now),
            ShutDown(connection) => self.sockets.shut_down(connection),
            Close(connection, outbox) => {
                self.sockets.close(connection, outbox);
                self.workers.stall(connection.0, false, now);
                let _ = self.listen();
            }
            Log(level, text) => self.note(level, &text),
            LogCopy(level, text) => self.notices.note_copy(level, &text, self.front.role),
            Repeated(text, count, last) => {
                self.note(Level::Error(last.failure.code()), &text);
                self.notices
                    .record_failures(self.workers.dir(), &last, count);
            }
            Access(access) => {
                if let Some(log) = &mut self.access {
                    log.append(&access, SystemTime::now());
                }
            }
            Answered(status) => self.report.answered(status),
            Count(count, more) => self.report.count(count, more),
            Failed(number, failed, logged) => {
                let pool = self.workers.pool();
                let slot = pool.queue().slot(number);
                let process = slot.and_then(|slot| pool.roster().owner(slot));
                self.report.failure(&failed, process);
                self.notices
                    .record_failures(self.workers.dir(), &failed, logged.into());
            }
        }
    }

    fn on_workers(&mut self, output: workers::Output, now: Instant) {
        use workers::Output::*;
        let responses = self.traffic.responses();
        match output {
            Head(request, payload) => responses.head(request, &payload, now),
            Data(request, bytes) => responses.data(request, &bytes, now),
            File(request, file, offset, length) => responses.file(request, file, offset, length),
            Text(request, stream, text) => responses.text(request, stream, &text, false),
            Caught(request, exception) => responses.caught(request, exception),
            End(request, truncated, took) => {
                responses.end(request, truncated, now);
                self.report
                    .count(Count::BusyMillis, took.as_millis() as u64);
            }
            Fail(request, failure) => responses.fail(request, failure, now),
            Gone(request) => responses.forget(request, now),
            Note(level, text) => self.note(level, &text),
            Status(text) => systemd::notify(&systemd::status(&text)),
            Started => self.report.count(Count::WorkersStarted, 1),
            Lost(pid) => self.report.lost(pid),
            Exited(pid, how, unexpected, told) => {
                if unexpected || self.report.has_died(pid) {
                    self.report.death(pid, &how);
                    if !told {
                        let text = format!("worker {pid} {how}");
                        self.notices.warn(codes::worker::DIED, &text);
                    }
                }
            }
            ImportFailed(reason, reports) => {
                let version = self.workers.generations().version().to_owned();
                self.import_failed(&reason, now);
                if reports {
                    self.refuse(Refusal::code(version, &reason), now);
                }
            }
            Works => self.remember_good(),
            Imported(Ok(())) => self.reload.on_imported(Ok(()), now),
            Imported(Err(reason)) => {
                self.import_failed(&reason, now);
                self.reload.on_imported(Err(&reason), now);
            }
            Live => systemd::notify("READY=1"),
        }
    }

    /// Serves a complete request: submits it to the workers, unless it is for the owner's desk or must fail at once.
    fn serve(&mut self, request: Request, now: Instant) {
        let number = request.number;
        if self.serve_owner(&request, now) {
            return;
        }
        self.report.request();
        self.retry(now);
        let failure = match self.unavailable_reason() {
            Some(reason) => Failure::Unavailable(reason),
            None => return self.workers.submit(request, now),
        };
        self.traffic.responses().give_up(number, failure, now);
    }

    /// Serves a page of the owner's desk. Returns false if the request is for the app.
    fn serve_owner(&mut self, request: &Request, now: Instant) -> bool {
        if !desk::is_for(self, request) {
            return false;
        }
        self.write_report(now);
        let Some(reply) = desk::reply(self, request) else {
            return false;
        };
        self.carry_out(reply.note, reply.restart, now);
        let responses = self.traffic.responses();
        responses.redact(request.number, reply.redacted);
        match reply.file {
            Some(file) => responses.answer_with_file(request.number, &reply.head, file, now),
            None => responses.answer(request.number, &reply.head, &reply.body, now),
        }
        true
    }

    fn on_listener(&mut self, number: usize, now: Instant) {
        for _ in 0..self.front.role.accepts() {
            if !self.traffic.has_room() {
                self.traffic.note_full(now);
                self.sockets.check_answered(&mut self.traffic, now);
                let _ = self.listen();
                return;
            }
            let Some(listener) = self.listeners.get(number) else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(socket) => {
                    self.last_accept = now;
                    self.traffic.make_room(now);
                    let connection = self.add(socket, number, now);
                    self.sockets.read(connection, &mut self.traffic, now);
                    self.pass_on(now);
                }
                Accepted::Refused(text) => {
                    self.traffic.warn(codes::request::REFUSED_CLIENT, text, now);
                }
                Accepted::Nobody | Accepted::Ended => return,
                Accepted::Exhausted(_) if self.traffic.close_late(now) => self.pass_on(now),
                Accepted::Exhausted(error) => {
                    let text = format!("accepting pauses: {error}");
                    self.traffic.warn(codes::request::NO_DESCRIPTORS, text, now);
                    self.listeners.pause(now);
                    let _ = self.listen();
                    return;
                }
            }
        }
    }

    /// Adds a connection that this listener accepted.
    fn add(&mut self, socket: OwnedFd, listener: usize, now: Instant) -> ConnNo {
        let protocol = self.listeners.protocol(listener);
        let number = self.traffic.on_connection(protocol, now);
        self.sockets.add(number, socket, None, listener);
        number
    }

    /// Watches the listeners while connections may be accepted.
    fn listen(&mut self) -> io::Result<()> {
        let wanted = self.traffic.has_room() && !self.reload.drains_for_exec();
        self.listeners.watch(&self.poller, wanted)
    }

    /// Why no request can be served. `None` if that may change soon: a candidate is being imported, or files are being
    /// uploaded.
    fn unavailable_reason(&self) -> Option<String> {
        let uploading = || {
            self.workers.generations().version().is_empty()
                && self.watch.may_be_uploading(SystemTime::now())
        };
        let reason = self.workers.unavailable_reason();
        reason.filter(|_| !self.workers.generations().has_candidate() && !uploading())
    }

    /// Fails the queued requests when no worker will come for them.
    fn fail_queued(&mut self, now: Instant) {
        let pool = self.workers.pool();
        if pool.queue().waiting() > 0
            && pool.roster().pick(pool.current()).is_none()
            && let Some(reason) = self.unavailable_reason()
        {
            self.workers.fail_queued(&Failure::Unavailable(reason), now);
        }
    }

    /// Updates the status file.
    fn write_report(&mut self, now: Instant) {
        let sources = Sources {
            role: self.front.role,
            reload: &self.reload,
            traffic: &self.traffic,
            workers: &self.workers,
        };
        if self.front.role != Role::Cgi
            && let Some(trouble) = self.report.write(sources, now)
        {
            self.notices
                .warn(codes::upkeep::STATUS_NOT_WRITTEN, &trouble);
        }
    }

    /// Logs an event.
    fn note(&mut self, level: Level, text: &str) {
        self.notices.note(level, text);
    }
}

/// The current time. Nothing else asks for it.
fn clock() -> Instant {
    Instant::now()
}
