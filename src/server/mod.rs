//! `Server`: the front. One thread, one loop, one place that sleeps; and the switchboard between three machines that do
//! not know each other: `traffic`, `workers` and `reload`.
//!
//! In each pass of the loop what has happened is told to the machine that it concerns, what the machines put out is
//! passed on, and only then the answers are sent: a worker that has just become free is at work again before its last
//! visitor is served. Nothing that a peer, a worker or the preloader does makes `run` return; a stop, or a changed
//! executable, does.
//!
//! The methods of `Server` stand in two files: here what goes on all the time, in `rollover` what changes the process
//! itself.

mod access;
mod front;
mod listener;
mod report;
mod rollover;
mod signals;
mod sockets;
mod status_page;

pub use front::{Begin, Front, Role};
pub use listener::Listener;
pub use rollover::{HandOver, Outcome};

use crate::config::Config;
use crate::config::limits::DESCRIPTORS;
use crate::failure::Failure;
use crate::log::{Level, Log, LogFile};
use crate::pairs::Pairs;
use crate::poller::{Events, Poller, Token, Watched};
use crate::reload::{Origin, Reload, Rollout, Watch};
use crate::request::{Request, Stream};
use crate::status::Count;
use crate::sys::limits::raise_descriptors;
use crate::systemd;
use crate::traffic::{self, ConnNo, Traffic};
use crate::workers::process::{ProcessNo, SlotNo};
use crate::workers::{self, Workers};
use access::AccessLog;
use listener::{Accepted, Listeners};
use nix::sys::epoll::EpollFlags;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use report::{Report, Sight};
use sockets::Sockets;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// How often files are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Who reads the log is given so much time to make room for more.
const READ_SOON: Duration = Duration::from_millis(50);
/// Connections taken from one listener at a time.
const ACCEPTS: usize = 32;

/// The front.
pub struct Server {
    /// The settings of the live release.
    config: Rc<Config>,
    origin: Origin,
    front: Front,
    log: Log,
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
    /// The process in which a new executable shows that it runs.
    testing: Option<Pid>,
    /// All is finished, and this comes now.
    ending: Option<rollover::Ending>,
    look_at: Instant,
    /// The log has more to write.
    log_at: Option<Instant>,
    /// While this process leaves: a request may still come.
    expected_until: Option<Instant>,
    last_accept: Instant,
    report: Report,
}

impl Server {
    /// A server that is ready to run. `handed` is what the image before this one has left.
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
        raise_descriptors(DESCRIPTORS);
        let poller = Rc::new(Poller::new()?);
        let signals = signals::open()?;
        let mut watched = Watched::default();
        poller.watch(&signals, Token::Signal, EpollFlags::EPOLLIN, &mut watched)?;
        let shared = config.server.preload && front.launch.dir.is_some();
        let handed_control = (handed.control, handed.version);
        let link = rollover::link(
            &live,
            beginning,
            refused.as_deref(),
            shared,
            handed_control,
            now,
        )?;
        let adopted = link.channel.is_some();
        let seed = front::seed();
        let launch = std::mem::take(&mut front.launch);
        let settings = traffic::Settings::new(config.clone(), "", false);
        let mut server = Server {
            access: None,
            listeners: Listeners::new(listeners),
            sockets: Sockets::new(poller.clone()),
            traffic: Traffic::new(settings, seed),
            workers: Workers::new(launch, poller.clone(), config.clone(), link, seed, now),
            reload: Reload::new(live, beginning, refused),
            rollout: Rollout::new(handed.turn, seed, now),
            report: Report::new(&origin.settings.nearest(), handed.report),
            config,
            origin,
            front,
            log,
            poller,
            signals,
            watch,
            testing: None,
            ending: None,
            look_at: now,
            log_at: None,
            expected_until: None,
            last_accept: now,
        };
        server.apply();
        if server.is_of_old_class() {
            server.workers.give_up_idle(now);
        }
        if adopted {
            // The image before this one has seen it imported.
            server.remember_good();
        }
        server.listen()?;
        for (socket, listener) in handed.connections {
            server.add(socket, listener, now);
        }
        Ok(server)
    }

    /// Serves one CGI request: `environ` is the request, `input` its body, `output` takes the answer.
    pub fn serve_cgi(mut self, environ: Pairs, input: OwnedFd, output: OwnedFd) -> Outcome {
        let number = self.traffic.on_cgi(environ, clock());
        self.sockets.add(number, input, Some(output), 0);
        while self.traffic.is_receiving() {
            self.sockets.read(number, &mut self.traffic, clock());
        }
        self.run()
    }

    /// Events go to these from now on, as for a daemon.
    pub fn log_to(&mut self, errors: Option<LogFile>, output: Option<LogFile>) {
        self.log.daemonize(errors, output);
        self.workers.context().outlog = self.log.has_output();
    }

    /// Serves until told to stop.
    pub fn run(mut self) -> Outcome {
        let mut events = Events::default();
        loop {
            let now = clock();
            self.on_time(now);
            self.flush(now);
            if let Some(outcome) = self.outcome(now) {
                return outcome;
            }
            self.wait(&mut events);
            let now = clock();
            // What a worker wrote belongs to the request that it serves: it is read before that request's end, but not
            // before the worker has said that it runs.
            let mut ready: Vec<_> = events.iter().collect();
            let silent = |t: Token| t.pipe().is_some_and(|n| !self.workers.runs(ProcessNo(n)));
            ready.sort_by_key(|(token, _)| (silent(*token), token.pipe().is_none()));
            for (token, flags) in ready {
                self.on_event(token, flags, now);
            }
        }
    }

    /// Does what time asks for.
    fn on_time(&mut self, now: Instant) {
        let tick = self.look_at <= now;
        if tick {
            self.look_at = now + TICK;
            self.look(now);
            self.fall_back(now);
        }
        self.sockets.on_time(&mut self.traffic, now);
        self.traffic.on_time(now);
        self.workers.on_time(now);
        self.pass_on(now);
        self.step_reload(now);
        self.fail_waiting(now);
        if self.report.deadline().is_none_or(|at| at <= now) {
            self.write_report(now);
        }
        if self.log_at.take_if(|at| *at <= now).is_some() || tick {
            let more = self.log.go_on(SystemTime::now());
            self.log_at = more.then(|| now + READ_SOON);
        }
        if self.listeners.on_time(now) {
            let _ = self.listen();
        }
    }

    /// The one place that sleeps: until something happens, or has to be done.
    fn wait(&self, events: &mut Events) {
        let deadlines = [
            self.traffic.deadline(),
            self.workers.deadline(),
            self.reload.deadline(),
            self.rollout.deadline(),
            self.sockets.deadline(),
            self.listeners.deadline(),
            self.log_at,
            self.expected_until,
        ];
        let deadlines = deadlines.into_iter().flatten();
        let until = deadlines.fold(self.look_at, Instant::min);
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

    /// Sends what waits, and passes on what comes of it, until nothing is left to be done now.
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
            Hold(request, held) => self.workers.hold(request, held),
            ShutDown(connection) => self.sockets.shut_down(connection),
            Close(connection, outbox) => {
                self.sockets.close(connection, outbox);
                let _ = self.listen();
            }
            Log(level, text) => self.note(level, &text),
            Access(access) => {
                if let Some(log) = &mut self.access {
                    log.append(&access, SystemTime::now());
                }
            }
            Answered(status) => self.report.answered(status),
            Count(count, more) => self.report.count(count, more),
            Failed {
                number,
                environ,
                failure,
                incident,
            } => {
                let pool = self.workers.pool();
                let slot = pool.queue().slot(number);
                let process = slot.and_then(|slot| pool.roster().owner(slot));
                self.report.failure(&environ, process, &failure, &incident);
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
            Exited(pid, how, unexpected) => {
                if unexpected || self.report.has_died(pid) {
                    self.report.death(pid, &how);
                    self.note(Level::Warning, &format!("worker {pid} {how}"));
                }
            }
            ImportFailed(reason) => {
                self.report.boot_failure(&reason);
                let last = reason.trim_end().lines().last().unwrap_or_default();
                let text = format!("the app cannot be imported: {last}");
                systemd::notify(&systemd::status(&text));
                self.fall_back(now);
            }
            Works => self.remember_good(),
            Imported(outcome) => {
                let outcome = outcome.as_ref().copied();
                self.reload
                    .on_imported(outcome.map_err(String::as_str), now);
            }
            Live => systemd::notify("READY=1"),
        }
    }

    /// A request is complete: a worker is to serve it, unless it is for the owner, or there is no use in waiting.
    fn serve(&mut self, request: Request, now: Instant) {
        let number = request.number;
        if let Some((form, shown)) = status_page::asked_for(&request.environ, &self.config.status) {
            self.traffic.responses().redact(number, Rc::new(shown));
            self.write_report(now);
            let (head, body) = status_page::page(form, self.workers.dir(), self.report.site_name());
            let responses = self.traffic.responses();
            return responses.answer(number, &head, body.as_bytes(), now);
        }
        self.report.request();
        self.retry(now);
        let pool = self.workers.pool();
        let waiting = pool.queue().waiting();
        let full = waiting >= self.config.limits.queue && !pool.has_free_slot();
        let failure = match self.unavailable_reason() {
            Some(reason) => Failure::Unavailable(reason),
            None if full => Failure::QueueFull(waiting),
            None => return self.workers.submit(request, now),
        };
        self.traffic.responses().give_up(number, failure, now);
    }

    fn on_listener(&mut self, number: usize, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(number) else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(socket) => {
                    self.last_accept = now;
                    let connection = self.add(socket, number, now);
                    self.sockets.read(connection, &mut self.traffic, now);
                    self.pass_on(now);
                }
                Accepted::Refused(peer) => {
                    let text =
                        format!("refused a connection from {peer}: not in FCGI_WEB_SERVER_ADDRS");
                    self.note(Level::Warning, &text);
                }
                Accepted::Nobody | Accepted::Ended => return,
                Accepted::Exhausted(error) => {
                    self.note(Level::Warning, &format!("accepting pauses: {error}"));
                    self.listeners.pause(now);
                    let _ = self.listen();
                    return;
                }
            }
            if !self.traffic.has_room() {
                self.sockets.look_at_answered(&mut self.traffic, now);
                let _ = self.listen();
                return;
            }
        }
    }

    /// A connection that came at this listener.
    fn add(&mut self, socket: OwnedFd, listener: usize, now: Instant) -> ConnNo {
        let protocol = self.listeners.protocol(listener);
        let number = self.traffic.on_connection(protocol, now);
        self.sockets.add(number, socket, None, listener);
        number
    }

    /// Lets epoll watch the listeners, or not.
    fn listen(&mut self) -> io::Result<()> {
        let wanted = self.traffic.has_room() && !self.reload.leaves_for_exec();
        self.listeners.watch(&self.poller, wanted)
    }

    fn on_signal(&mut self, now: Instant) {
        while let Some(wish) = signals::next(&self.signals) {
            match wish {
                signals::Wish::Stop => self.reload.stop(now),
                signals::Wish::Reload => self.reload_all(now),
                signals::Wish::Reap => self.reap(now),
            }
        }
    }

    /// Collects children that have ended: preloaders, workers of the plain form, the one that tests a new executable.
    fn reap(&mut self, now: Instant) {
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                self.on_tested(pid, status);
                self.workers.on_exit(pid, status, now);
                self.pass_on(now);
            }
        }
    }

    /// Why no request can be served now; None when there is hope: something else is tried, or may just be coming in.
    fn unavailable_reason(&self) -> Option<String> {
        let uploading = || {
            self.workers.generations().version().is_empty()
                && self.watch.may_be_uploading(SystemTime::now())
        };
        let reason = self.workers.unavailable_reason();
        reason.filter(|_| !self.workers.generations().has_candidate() && !uploading())
    }

    /// Answers those who wait for what will not come.
    fn fail_waiting(&mut self, now: Instant) {
        let pool = self.workers.pool();
        if pool.queue().waiting() > 0
            && !pool.has_free_slot()
            && let Some(reason) = self.unavailable_reason()
        {
            self.workers.fail_queued(&Failure::Unavailable(reason), now);
        }
    }

    /// Has `status` know how this process stands.
    fn write_report(&mut self, now: Instant) {
        let sight = Sight {
            role: self.front.role,
            reload: &self.reload,
            traffic: &self.traffic,
            workers: &self.workers,
        };
        if self.front.role != Role::Cgi
            && let Some(trouble) = self.report.write(sight, now)
        {
            self.note(Level::Warning, &trouble);
        }
    }

    /// A line for the log.
    fn note(&mut self, level: Level, text: &str) {
        self.log.event(SystemTime::now(), level, text);
    }
}

/// The one place that asks for the time.
fn clock() -> Instant {
    Instant::now()
}
