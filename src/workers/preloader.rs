//! `Link`: a front's tie to the preloader of one code version, and the election that makes sure there is just one.
//!
//! ```text
//! Electing ─connected, or started by us─▶ Waiting ─READY─▶ Ready ─end of stream─▶ Electing (when a fork is needed)
//!    ▲                                      │ └─FAILED, or too late─▶ Failed
//!    ├──end of stream, or it stands still───┤                            ▲
//!    └──it was ended by somebody else── Ended, if we started it ─by itself─┘
//! ```
//! The lock file's lock belongs to an open file description that only the preloader keeps, and until the app is imported
//! the front that started it: lock free means no preloader. Whoever gets the lock listens *before* it starts Python, so
//! the other fronts wait in the backlog while the app is imported. Nobody but the holder of the lock removes the socket.
//! Takes `now` as an argument; never blocks.

use super::channel::Channel;
use super::election::{self, Elected};
use super::import::{self, Import};
use super::process::ProcessNo;
use super::roster::{ANSWERS_WITHIN, STATUS_WITHIN};
use super::spawn::Start;
use super::wire;
use crate::pairs::Pairs;
use crate::rundir::{Entry, RuntimeDir, holder};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// First pause of a front that finds the lock taken and nobody listening yet; doubles up to `MAX_PAUSE`.
const PAUSE: Duration = Duration::from_millis(3);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// So many imports that end with their process, and nobody knows why, are no accident.
const DEATHS: u32 = 8;
/// The longest pause between two of them.
const DEATH_PAUSE: Duration = Duration::from_millis(500);

/// A front's tie to one preloader.
#[derive(Debug)]
pub struct Link {
    /// Names the code version, and the files of its preloader.
    pub version: String,
    /// Where it stands.
    pub state: State,
    /// The control socket, once there is one.
    pub channel: Option<Channel>,
    /// Whether we started this preloader.
    pub started_here: bool,
    /// The process that we started, until it has told how the import went.
    pub import: Option<Import>,
    /// Never start one, since its code is not there any more; with the reason why it would be needed.
    pub connect_only: Option<String>,
    /// Preloaders that ended, one after the other, before they told how the import went.
    pub deaths: u32,
    /// Workers that it was asked for and has not answered for yet: it answers in turn.
    pub asked: VecDeque<ProcessNo>,
}

/// See the diagram above.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Looking for the preloader, or for the right to start it, not before `next`.
    Electing {
        /// When to look again.
        next: Instant,
        /// The pause after that.
        pause: Duration,
    },
    /// The app is being imported.
    Waiting {
        /// When to see whether it stands still.
        look: Instant,
        /// When to give up.
        until: Instant,
    },
    /// The process that we started has ended, or its connection has.
    Ended {
        /// When to do without its exit status.
        until: Instant,
    },
    /// It forks on demand.
    Ready,
    /// The app cannot be imported.
    Failed {
        /// The last lines of the reason.
        reason: String,
    },
}

/// What a preloader must know of the front that asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hello {
    /// The process that spawned the front; 0: none whose end would matter.
    pub spawner: i32,
    /// Its start time in clock ticks since boot.
    pub spawner_start: u64,
    /// Seconds to outlive the last front.
    pub linger: u64,
}

impl Link {
    /// A tie that is still to be made.
    pub fn new(version: String, now: Instant) -> Link {
        Link {
            version,
            state: State::Electing {
                next: now,
                pause: PAUSE,
            },
            ..Link::idle()
        }
    }

    /// A tie that does nothing.
    pub fn idle() -> Link {
        Link {
            version: String::new(),
            state: State::Ready,
            channel: None,
            started_here: false,
            import: None,
            connect_only: None,
            deaths: 0,
            asked: VecDeque::new(),
        }
    }

    /// A tie that the image before this one made.
    pub fn adopted(version: String, control: OwnedFd) -> io::Result<Link> {
        Ok(Link {
            version,
            channel: Some(Channel::new(control)?),
            ..Link::idle()
        })
    }

    /// When `step` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Electing { next, .. } => Some(next),
            State::Waiting { look, until } => Some(look.min(until)),
            State::Ended { until } => Some(until),
            State::Failed { .. } | State::Ready => None,
        }
    }

    /// Goes on with what is due. What the log should know of it.
    pub fn step(
        &mut self,
        now: Instant,
        dir: &RuntimeDir,
        start: Start<'_>,
        hello: Hello,
    ) -> io::Result<Option<String>> {
        match self.state.clone() {
            State::Electing { next, pause } if next <= now => {
                let (control, import) = match election::elect(
                    &self.version,
                    self.connect_only.is_some(),
                    dir,
                    start,
                )? {
                    Elected::Connected(control) => (control, None),
                    Elected::Started(control, import) => (control, Some(import)),
                    Elected::Told(reason) => {
                        self.fail(reason);
                        return Ok(None);
                    }
                    Elected::Nobody => {
                        if let Some(reason) = self.connect_only.clone() {
                            self.fail(reason);
                            return Ok(None);
                        }
                        let later = (pause * 2).min(MAX_PAUSE);
                        self.state = State::Electing {
                            next: now + pause,
                            pause: later,
                        };
                        return Ok(None);
                    }
                };
                self.channel = Some(Channel::new(control)?);
                self.greet(hello);
                self.started_here = import.is_some();
                self.import = import;
                let limit = Duration::from_secs(start.config.limits.start_timeout);
                self.state = State::Waiting {
                    look: now + limit.min(ANSWERS_WITHIN),
                    until: now + limit,
                };
                Ok(None)
            }
            State::Waiting { look, until } if look.min(until) <= now => {
                let seconds = start.config.limits.start_timeout;
                if self.holder(dir).1 {
                    self.end_stuck(dir);
                    self.lost(now);
                    let text = "the preloader does not answer: it is ended, and another one takes its place";
                    return Ok(Some(text.to_owned()));
                }
                if now < until {
                    self.state = State::Waiting { look: until, until };
                    return Ok(None);
                }
                self.end_stuck(dir);
                self.fail(format!(
                    "the app was not imported within {seconds} s ([limits] start_timeout)"
                ));
                Ok(None)
            }
            State::Ended { until } => {
                let import = self.import.take();
                let status = import.as_ref().and_then(|import| import.ended);
                if status.is_none() && now < until {
                    self.import = import;
                    return Ok(None);
                }
                Ok(self.conclude(import, status, now))
            }
            _ => Ok(None),
        }
    }

    /// The process that we started has ended before it told how the import went.
    fn conclude(
        &mut self,
        import: Option<Import>,
        status: Option<WaitStatus>,
        now: Instant,
    ) -> Option<String> {
        let import = import?;
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
                return Some(reason + "; another one takes its place");
            }
            reason.push_str(&format!(", like {} before it", DEATHS - 1));
        }
        import.tell_others(&reason);
        self.fail(reason.clone());
        Some(format!("the app cannot be imported\n{reason}"))
    }

    /// A child of ours has ended: the one that imports the app? Whether there is something to be done.
    pub fn ended(&mut self, status: WaitStatus, now: Instant) -> bool {
        let Some(import) = self
            .import
            .as_mut()
            .filter(|import| status.pid() == Some(import.pid))
        else {
            return false;
        };
        import.ended = Some(status);
        match &self.state {
            // One that left with 0 may have a successor: then the connection goes on.
            State::Waiting { .. } if !matches!(status, WaitStatus::Exited(_, 0)) => {
                self.state = State::Ended { until: now };
            }
            State::Ended { .. } => self.state = State::Ended { until: now },
            State::Failed { reason } => {
                let reason = reason.clone();
                if let Some(import) = self.import.take() {
                    import.tell_others(&reason);
                }
            }
            _ => (),
        }
        true
    }

    /// READY.
    pub fn imported(&mut self) {
        self.state = State::Ready;
        self.deaths = 0;
        self.import = None;
    }

    /// Tells the preloader of this front, or what has changed.
    pub fn greet(&mut self, hello: Hello) {
        if let Some(channel) = &mut self.channel {
            let mut frame = Vec::new();
            wire::put_frame(&mut frame, wire::HELLO, hello.pairs().as_bytes());
            let _ = channel.send(&frame, &[]);
        }
    }

    /// The control socket has ended: look anew, after a moment.
    pub fn lost(&mut self, now: Instant) {
        self.channel = None;
        self.asked.clear();
        match &self.import {
            _ if matches!(self.state, State::Failed { .. } | State::Ended { .. }) => (),
            Some(import) => {
                let within = import.ended.map_or(STATUS_WITHIN, |_| Duration::ZERO);
                self.state = State::Ended {
                    until: now + within,
                };
            }
            None if matches!(self.state, State::Waiting { .. }) => self.die(now),
            None => {
                self.state = State::Electing {
                    next: now + PAUSE,
                    pause: PAUSE,
                };
            }
        }
    }

    /// It has ended before it told how the import went. An app that ends its process does so again and again.
    fn die(&mut self, now: Instant) {
        if self.deaths + 1 >= DEATHS {
            let text =
                format!("the process that imports the app ended {DEATHS} times without a word");
            return self.fail(text);
        }
        self.channel = None;
        let pause = (PAUSE * (1 << (2 * self.deaths))).min(DEATH_PAUSE);
        self.deaths += 1;
        self.state = State::Electing {
            next: now + pause,
            pause: PAUSE,
        };
    }

    /// The import has failed.
    pub fn fail(&mut self, reason: String) {
        self.channel = None;
        self.asked.clear();
        self.state = State::Failed { reason };
        self.deaths = 0;
    }

    /// Asks for a worker with these descriptors: lifeline, standard error, slots.
    pub fn fork(&mut self, descriptors: &[RawFd]) -> io::Result<()> {
        let mut frame = Vec::new();
        wire::put_frame(&mut frame, wire::FORK, &[]);
        match &mut self.channel {
            Some(channel) if self.state == State::Ready => channel.send(&frame, descriptors),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// `process` is the worker that was just asked for.
    pub fn has_asked_for(&mut self, process: ProcessNo) {
        self.asked.push_back(process);
    }

    /// It has forked a worker, or the system refused one: which.
    pub fn answered(&mut self) -> Option<ProcessNo> {
        self.asked.pop_front()
    }

    /// Ends a preloader that does not come to an end with its import, or does not fork. Its pid is in the file whose lock it holds.
    pub fn end_stuck(&self, dir: &RuntimeDir) {
        if let Some(import) = self.import.as_ref().filter(|import| import.ended.is_none()) {
            let _ = kill(import.pid, Signal::SIGKILL);
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
}

impl Hello {
    fn pairs(self) -> Pairs {
        let mut pairs = Pairs::new();
        let mut put = |name: &str, value: String| pairs.push(name.as_bytes(), value.as_bytes());
        put("pid", std::process::id().to_string());
        put("spawner", self.spawner.to_string());
        put("spawner_start", self.spawner_start.to_string());
        put("linger", self.linger.to_string());
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::workers::election::listen;
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

    fn step(link: &mut Link, now: Instant, dir: &RuntimeDir) -> Option<String> {
        let start = Start {
            config: &Config::default(),
            exe: std::path::Path::new("/nonexistent"),
            cache: None,
            cgi: false,
            outlog: false,
        };
        let hello = Hello {
            spawner: 0,
            spawner_start: 0,
            linger: 0,
        };
        link.step(now, dir, start, hello).unwrap()
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
    fn answers_belong_to_those_asked_for_in_turn() {
        let now = Instant::now();
        let mut link = Link::new(String::from("v"), now);
        for number in 1..=3 {
            link.has_asked_for(ProcessNo(number));
        }
        // FORKED, then REFUSED: it is the second one that was refused.
        assert_eq!(link.answered(), Some(ProcessNo(1)));
        assert_eq!(link.answered(), Some(ProcessNo(2)));
        link.lost(now);
        link.has_asked_for(ProcessNo(4));
        assert_eq!(
            link.answered(),
            Some(ProcessNo(4)),
            "the third is forgotten"
        );
        assert_eq!(link.answered(), None);
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
        assert!(matches!(link.state, State::Failed { .. }));
        assert!(!child.wait().unwrap().success(), "it was ended");
        finish(&dir, child);
    }
}
