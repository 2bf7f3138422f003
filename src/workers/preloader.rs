//! `Link`: a front's connection to the preloader of one code version, and the election of the one front that starts it.
//!
//! ```text
//! Electing ─connected, or started by us─▶ Waiting ─READY─▶ Ready ─end of stream─▶ Electing (when a fork is needed)
//!    ▲                                      │ ├─timeout─▶ Stuck ─▶ Failed
//!    │                                      │ └─FAILED─▶ Failed
//!    ├──end of stream, or it hangs──────────┤              ▲
//!    └──killed by somebody else── Ended, if we started it ─┴─by itself             any ─close─▶ Closed
//! ```
//! The lock on the lock file belongs to an open file description that only the preloader keeps and, until the app is
//! imported, the front that started it: if the lock is free, there is no preloader. The holder listens *before* it starts
//! Python, so other fronts wait in the backlog during the import. Only the holder of the lock removes the socket.
//! Takes `now` as an argument; never blocks.

use super::channel::Channel;
use super::context::LaunchContext;
use super::control::{Exit, Message, ToPreloader};
use super::election::{self, Elected};
use super::import::{self, Import, Note};
use super::kept::Kept;
use super::process::ProcessNo;
use super::roster::{ANSWERS_WITHIN, STACK_WITHIN, STATUS_WITHIN};
use super::wire::{self, Frame};
use crate::codes::worker;
use crate::config::Config;
use crate::poller::{Poller, Token};
use crate::rundir::{Entry, RuntimeDir, holder};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// First pause of a front that finds the lock taken and nobody listening yet; doubles up to `MAX_PAUSE`.
const PAUSE: Duration = Duration::from_millis(3);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// Pause after the system has refused a process for the preloader.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// This many unexplained deaths during the import, one after the other, are a failure.
const DEATHS: u32 = 8;
/// The longest pause between two of them.
const DEATH_PAUSE: Duration = Duration::from_millis(500);

/// A front's connection to the preloader of one code version.
#[derive(Debug)]
pub(super) struct Link {
    /// Names the code version, and the files of its preloader.
    version: String,
    state: State,
    /// The control socket, while there is one.
    channel: Option<Channel>,
    /// The process that we started, until it is known how the import went.
    import: Option<Import>,
    /// Never start a preloader, because the code of this version may be gone; fail with this reason instead.
    connect_only: Option<String>,
    /// Preloaders in a row that ended during the import.
    deaths: u32,
    /// The process that this front started for the import has ended without a word.
    pub(super) ended_here: bool,
    /// Workers requested by FORK and not yet answered; answers come in the same order.
    requested: VecDeque<ProcessNo>,
}

/// See the diagram above.
#[derive(Debug)]
enum State {
    /// Looks for the preloader, or for the right to start it.
    Electing {
        /// When to look again.
        next: Instant,
        /// The pause after that.
        pause: Duration,
    },
    /// The app is being imported.
    Waiting {
        /// When to check whether it hangs.
        check: Instant,
        /// When to give up.
        until: Instant,
    },
    /// The import took too long, and was told to write its stack.
    Stuck {
        /// When to kill it.
        until: Instant,
    },
    /// The process that we started has ended, or its connection has.
    Ended {
        /// When to go on without its exit status.
        until: Instant,
    },
    /// It forks on demand.
    Ready,
    /// The app cannot be imported.
    Failed {
        /// The last lines of the traceback, or why there is none.
        reason: String,
    },
    /// The front is leaving.
    Closed,
}

impl Link {
    /// Connects to the preloader of this version, or starts it, from `now` on.
    pub(super) fn new(version: String, now: Instant) -> Link {
        Link {
            version,
            state: State::electing(now, PAUSE),
            channel: None,
            import: None,
            connect_only: None,
            deaths: 0,
            ended_here: false,
            requested: VecDeque::new(),
        }
    }

    /// The same, but never starts one: fails with this reason if there is none.
    pub(super) fn connect_only(version: String, reason: String, now: Instant) -> Link {
        Link {
            connect_only: Some(reason),
            ..Link::new(version, now)
        }
    }

    /// Takes over the control socket of a preloader that has imported the app.
    pub(super) fn adopt(version: String, control: OwnedFd, now: Instant) -> io::Result<Link> {
        Ok(Link {
            state: State::Ready,
            channel: Some(Channel::new(control)?),
            ..Link::new(version, now)
        })
    }

    /// The app is not imported, and nobody has begun to.
    pub(super) fn is_electing(&self) -> bool {
        matches!(self.state, State::Electing { .. })
    }

    /// It forks on demand.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// The app is being imported.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Why the app cannot be imported.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.state {
            State::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// When `step` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Electing { next, .. } => Some(next),
            State::Waiting { check, until } => Some(check.min(until)),
            State::Stuck { until } | State::Ended { until } => Some(until),
            State::Failed { .. } | State::Ready | State::Closed => None,
        }
    }

    /// Does what is due. Returns a line for the log.
    pub(super) fn step(
        &mut self,
        dir: &RuntimeDir,
        context: &LaunchContext,
        config: &Config,
        now: Instant,
    ) -> io::Result<Option<Note>> {
        match self.state {
            State::Electing { next, pause } if next <= now => {
                self.elect(pause, dir, context, config, now)?;
                Ok(None)
            }
            State::Waiting { check, until } if check.min(until) <= now => {
                Ok(self.check(until, dir, now))
            }
            State::Stuck { until } if until <= now => {
                self.give_up(dir, config);
                Ok(None)
            }
            State::Ended { until } => Ok(self.conclude(until, now)),
            _ => Ok(None),
        }
    }

    fn elect(
        &mut self,
        pause: Duration,
        dir: &RuntimeDir,
        context: &LaunchContext,
        config: &Config,
        now: Instant,
    ) -> io::Result<()> {
        let may_start = self.connect_only.is_none();
        let elected = election::elect(&self.version, may_start, dir, context, config)?;
        let (control, import) = match elected {
            Elected::Connected(control) => (control, None),
            Elected::Started(control, import) => (control, Some(import)),
            Elected::Failed(reason) => {
                self.fail(reason);
                return Ok(());
            }
            Elected::Nobody => {
                match self.connect_only.clone() {
                    Some(reason) => self.fail(reason),
                    None => self.state = State::electing(now + pause, (pause * 2).min(MAX_PAUSE)),
                }
                return Ok(());
            }
        };
        self.channel = Some(Channel::new(control)?);
        self.import = import;
        self.send(&ToPreloader::hello(&context.hello(context.linger(config))));
        let limit = Duration::from_secs(config.limits.start_timeout);
        self.state = State::Waiting {
            check: now + limit.min(ANSWERS_WITHIN),
            until: now + limit,
        };
        Ok(())
    }

    /// Checks whether the preloader hangs, or the import takes too long.
    fn check(&mut self, until: Instant, dir: &RuntimeDir, now: Instant) -> Option<Note> {
        if self.holder(dir).1 {
            self.replace_stuck(dir, now);
            let text = "the preloader does not answer: killing it and starting another".into();
            return Some((worker::MUTE_PRELOADER, text));
        }
        if now < until {
            let check = until;
            self.state = State::Waiting { check, until };
            return None;
        }
        let wait = self.import.as_ref().map_or(Duration::ZERO, |import| {
            import.ask_for_stack();
            STACK_WITHIN
        });
        self.state = State::Stuck { until: now + wait };
        None
    }

    /// Kills an import that took too long, and says where it was.
    fn give_up(&mut self, dir: &RuntimeDir, config: &Config) {
        let import = self.import.as_ref();
        let reason = import.map_or_else(
            || import::too_long(config, &[]),
            |import| import.too_long(config),
        );
        self.kill_stuck(dir);
        self.fail(reason);
    }

    /// The process that we started has ended before it said how the import went.
    fn conclude(&mut self, until: Instant, now: Instant) -> Option<Note> {
        let is_known = |import: &mut Import| import.status().is_some() || until <= now;
        let import = self.import.take_if(is_known)?;
        let status = import.status();
        let how = status.map_or_else(|| String::from("has ended"), import::describe);
        let by_itself = match status {
            Some(WaitStatus::Exited(_, 0)) => !import.is_succeeded(),
            Some(status) => !import::is_from_outside(status),
            None => false,
        };
        let mut reason = import.reason(&how);
        if !by_itself {
            if self.deaths + 1 < DEATHS {
                self.die(now);
                return Some((worker::IMPORT_KILLED, reason + "; starting another one"));
            }
            reason += &format!(", like {} before it", DEATHS - 1);
        }
        import.publish(&reason);
        self.fail(reason);
        self.ended_here = true;
        None
    }

    /// A child of ours has ended. Whether it is the one that imports the app.
    pub(super) fn child_ended(&mut self, status: WaitStatus, now: Instant) -> bool {
        if !self.import.as_mut().is_some_and(|i| i.child_ended(status)) {
            return false;
        }
        match &self.state {
            // One that exited with 0 may have a successor: then the connection goes on.
            State::Waiting { .. } if matches!(status, WaitStatus::Exited(_, 0)) => (),
            State::Waiting { .. } | State::Ended { .. } => {
                self.state = State::Ended { until: now };
            }
            _ => self.publish(),
        }
        true
    }

    /// Sends this to the preloader, if there is one.
    pub(super) fn send(&mut self, message: &ToPreloader) {
        if let Some(channel) = &mut self.channel {
            let descriptors: Vec<_> = message.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            let _ = channel.send(&message.frame, &descriptors);
        }
    }

    /// Has epoll watch the control socket.
    pub(super) fn watch(&mut self, poller: &Poller, token: Token) {
        if let Some(channel) = &mut self.channel {
            let _ = channel.watch(poller, token, EpollFlags::EPOLLIN);
        }
    }

    /// Reads the control socket once.
    pub(super) fn read(&mut self, scratch: &mut [u8], now: Instant) -> Vec<Message> {
        let mut messages = Vec::new();
        let Some(channel) = &mut self.channel else {
            return messages;
        };
        let count = match channel.receive(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return messages,
            Ok(0) | Err(_) => {
                self.lost(now);
                return messages;
            }
            Ok(count) => count,
        };
        let mut input = &scratch[..count];
        while let Some(channel) = &mut self.channel {
            match channel.decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => messages.extend(self.on_frame(frame)),
                Err(error) => {
                    self.lost(now);
                    messages.push(Message::Invalid(error.to_string()));
                }
            }
        }
        messages
    }

    fn on_frame(&mut self, frame: Frame<'_>) -> Option<Message> {
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        Some(match frame {
            Frame::Ready(facts) => {
                self.state = State::Ready;
                self.deaths = 0;
                let here = self.import.take().is_some();
                Message::Imported { facts, here }
            }
            Frame::Failed(reason) => {
                let (reason, here) = (text(&reason), self.import.is_some());
                self.fail(reason.clone());
                Message::Failed { reason, here }
            }
            Frame::Refused(reason) => Message::Refused(self.requested.pop_front(), text(&reason)),
            Frame::Forked { pid } => Message::Forked(self.requested.pop_front(), pid),
            Frame::Waiting(why) => {
                Message::Waiting(self.requested.iter().copied().collect(), text(&why))
            }
            Frame::Given(facts) => {
                let (process, received) = (self.requested.pop_front(), &mut self.channel);
                let next = || received.as_mut()?.received.pop_front();
                match Kept::received(&facts, next) {
                    Some(kept) => Message::Given(process, kept),
                    None => Message::Invalid(String::from("a worker that is not whole")),
                }
            }
            Frame::Release { urgent } => Message::Release(urgent),
            Frame::Exited(exited) => Message::Exited(Exit::received(exited)?),
            _ => return None,
        })
    }

    /// The control socket has ended: look again after a moment.
    fn lost(&mut self, now: Instant) {
        self.channel = None;
        self.requested.clear();
        match (&self.state, &self.import) {
            (State::Failed { .. } | State::Ended { .. } | State::Closed, _) => (),
            (_, Some(import)) => {
                let within = import.status().map_or(STATUS_WITHIN, |_| Duration::ZERO);
                self.state = State::Ended {
                    until: now + within,
                };
            }
            (State::Waiting { .. }, None) => self.die(now),
            (_, None) => self.state = State::electing(now + PAUSE, PAUSE),
        }
    }

    /// It has ended before it said how the import went. An app that ends its process does so again and again.
    fn die(&mut self, now: Instant) {
        if self.deaths + 1 >= DEATHS {
            return self.fail(format!(
                "the process that imports the app ended {DEATHS} times without a word"
            ));
        }
        self.channel = None;
        let pause = (PAUSE * (1 << (2 * self.deaths))).min(DEATH_PAUSE);
        self.deaths += 1;
        self.state = State::electing(now + pause, PAUSE);
    }

    /// The system has refused a process for the preloader: try again after a moment.
    pub(super) fn refused(&mut self, now: Instant) {
        self.state = State::electing(now + REFUSED_PAUSE, REFUSED_PAUSE);
    }

    /// The import has failed.
    pub(super) fn fail(&mut self, reason: String) {
        self.channel = None;
        self.requested.clear();
        self.state = State::Failed { reason };
        self.deaths = 0;
        self.publish();
    }

    /// After a failure, and once our process has ended: tells the other fronts, and gives the lock back.
    fn publish(&mut self) {
        if let State::Failed { reason } = &self.state
            && let Some(import) = self.import.take_if(|import| import.status().is_some())
        {
            import.publish(reason);
        }
    }

    /// Requests a worker with these descriptors for a new one: lifeline, standard output and error, slots. `payload`: as
    /// of FORK.
    pub(super) fn fork(
        &mut self,
        worker: ProcessNo,
        payload: &str,
        descriptors: &[RawFd],
    ) -> io::Result<()> {
        let mut frame = Vec::new();
        wire::put_frame(&mut frame, wire::FORK, payload.as_bytes());
        match (&self.state, &mut self.channel) {
            (State::Ready, Some(channel)) => channel.send(&frame, descriptors)?,
            _ => return Err(io::ErrorKind::NotConnected.into()),
        }
        self.requested.push_back(worker);
        Ok(())
    }

    /// Kills a preloader that does not answer, and looks for another one.
    pub(super) fn replace_stuck(&mut self, dir: &RuntimeDir, now: Instant) {
        self.kill_stuck(dir);
        self.lost(now);
    }

    /// Kills a preloader that does not finish its import, or does not fork: our child, or the holder of the lock.
    fn kill_stuck(&mut self, dir: &RuntimeDir) {
        if let Some(import) = self.import.as_mut().filter(|i| i.status().is_none()) {
            import.kill();
            return;
        }
        let path = dir.file(Entry::Lock(&self.version));
        let Ok(lock) = File::open(&path) else { return };
        let (pid, _) = self.holder(dir);
        if lock.try_lock().is_err()
            && let Some(pid) = pid.filter(|pid| *pid > 1)
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// The pid in the lock file, and whether that process has imported the app.
    fn holder(&self, dir: &RuntimeDir) -> (Option<i32>, bool) {
        let path = dir.file(Entry::Lock(&self.version));
        holder(&fs::read_to_string(path).unwrap_or_default())
    }

    /// The control socket of a preloader that forks on demand, for the next image.
    pub(super) fn into_control(self) -> Option<OwnedFd> {
        let ready = self.is_ready();
        self.channel.filter(|_| ready).map(OwnedFd::from)
    }

    /// Closes the control socket, and gives the lock back.
    pub(super) fn close(&mut self) {
        (self.channel, self.import) = (None, None);
        self.state = State::Closed;
    }
}

impl State {
    fn electing(next: Instant, pause: Duration) -> State {
        State::Electing { next, pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::workers::election::listen;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command};

    /// A process that listens and never says a word, with this in its lock file; and a front that waits for it.
    fn silent(name: &str, words: &str) -> (RuntimeDir, Child, File, OwnedFd, Link, Instant) {
        let path = std::env::temp_dir().join(format!("runfcgi-{name}-{}", std::process::id()));
        let dir = RuntimeDir::open(Some(&path), &path, b"").unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let lock = File::create(dir.file(Entry::Lock("v"))).unwrap();
        lock.lock().unwrap();
        fs::write(dir.file(Entry::Lock("v")), format!("{}{words}", child.id())).unwrap();
        let listener = listen(&dir, "v").unwrap();
        let now = Instant::now();
        let mut link = Link::new(String::from("v"), now);
        step(&mut link, now, &dir);
        assert!(matches!(link.state, State::Waiting { .. }));
        (dir, child, lock, listener, link, now)
    }

    fn send(socket: &UnixStream, kind: u8, payload: &[u8]) {
        let mut frame = Vec::new();
        wire::put_frame(&mut frame, kind, payload);
        (&*socket).write_all(&frame).unwrap();
    }

    fn step(link: &mut Link, now: Instant, dir: &RuntimeDir) -> Option<Note> {
        let (context, config) = (LaunchContext::default(), Config::default());
        link.step(dir, &context, &config, now).unwrap()
    }

    fn finish(dir: &RuntimeDir, mut child: Child) {
        let _ = child.kill();
        child.wait().unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
    }

    #[test]
    fn one_that_has_imported_the_app_and_is_silent_is_replaced_soon() {
        let (dir, mut child, _lock, _listener, mut link, now) = silent("silent", " ready");
        step(&mut link, now + ANSWERS_WITHIN / 2, &dir);
        assert!(matches!(link.state, State::Waiting { .. }));
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(link.deadline(), Some(now + ANSWERS_WITHIN));
        assert!(step(&mut link, now + ANSWERS_WITHIN, &dir).is_some());
        assert!(matches!(link.state, State::Electing { .. }));
        assert!(!child.wait().unwrap().success(), "it was ended");
        finish(&dir, child);
    }

    #[test]
    fn answers_belong_to_requests_in_order() {
        let now = Instant::now();
        let link =
            |channel: UnixStream| Link::adopt(String::from("v"), channel.into(), now).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = link(ours);
        for number in 1..=3 {
            link.fork(ProcessNo(number), "1", &[]).unwrap();
        }
        let refused = |link: &mut Link| {
            let mut messages = link.read(&mut [0; 100], now);
            match messages.pop() {
                Some(Message::Refused(worker, reason)) => (worker, reason),
                other => panic!("{other:?}"),
            }
        };
        send(&theirs, wire::FORKED, &7u32.to_be_bytes());
        send(&theirs, wire::WAITING, b"why");
        let messages = link.read(&mut [0; 100], now);
        let [Message::Forked(forked, 7), Message::Waiting(waiting, why)] = &messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!((*forked, why.as_str()), (Some(ProcessNo(1)), "why"));
        assert_eq!(waiting, &[ProcessNo(2), ProcessNo(3)]);
        send(&theirs, wire::REFUSED, b"no room");
        let reason = String::from("no room");
        assert_eq!(refused(&mut link), (Some(ProcessNo(2)), reason.clone()));
        drop(theirs);
        assert!(link.read(&mut [0; 100], now).is_empty());
        assert!(link.is_electing());

        let (ours, theirs) = UnixStream::pair().unwrap();
        (link.state, link.channel) = (State::Ready, Some(Channel::new(ours.into()).unwrap()));
        link.fork(ProcessNo(4), "1", &[]).unwrap();
        send(&theirs, wire::REFUSED, b"no room");
        let forgotten = "the third one is forgotten";
        assert_eq!(
            refused(&mut link),
            (Some(ProcessNo(4)), reason),
            "{forgotten}"
        );
    }

    #[test]
    fn a_failure_frees_the_lock_whether_the_message_or_the_exit_comes_first() {
        for exit_first in [false, true] {
            let scratch = Scratch::new("link-lock");
            scratch.mode("", 0o700);
            let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
            let path = scratch.write("v.lock", "", 0o600);
            let open = || File::options().write(true).open(&path).unwrap();
            let lock = open();
            lock.lock().unwrap();
            let pid = Pid::from_raw(4711);
            let now = Instant::now();
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut link = Link::new(String::from("v"), now);
            link.state = State::Waiting {
                check: now,
                until: now,
            };
            link.channel = Some(Channel::new(ours.into()).unwrap());
            link.import = Some(Import::new(pid, lock, dir, path.clone(), Vec::new()));
            send(&theirs, wire::FAILED, b"no interpreter");
            let status = WaitStatus::Exited(pid, 1);
            if exit_first {
                assert!(link.child_ended(status, now));
            }
            let messages = link.read(&mut [0; 100], now);
            assert!(matches!(
                &messages[..],
                [Message::Failed { here: true, .. }]
            ));
            assert_eq!(link.failure(), Some("no interpreter"));
            if !exit_first {
                assert!(open().try_lock().is_err());
                assert!(link.child_ended(status, now));
            }
            // A process that another test starts just now has the lock, too, until it executes its program.
            let freed = (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                open().try_lock().is_ok()
            });
            assert!(freed, "exit first: {exit_first}");
        }
    }

    #[test]
    fn one_that_imports_the_app_has_its_time() {
        let (dir, mut child, _lock, _listener, mut link, now) = silent("slow", "");
        step(&mut link, now + ANSWERS_WITHIN, &dir);
        assert!(matches!(link.state, State::Waiting { .. }));
        assert_eq!(child.try_wait().unwrap(), None);
        let limit = Duration::from_secs(Config::default().limits.start_timeout);
        assert_eq!(link.deadline(), Some(now + limit));
        step(&mut link, now + limit, &dir);
        step(&mut link, now + limit, &dir);
        assert!(matches!(link.state, State::Failed { .. }));
        assert!(!child.wait().unwrap().success(), "it was ended");
        finish(&dir, child);
    }
}
