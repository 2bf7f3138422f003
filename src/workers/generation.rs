//! `Generation`: a version of the site's code with its settings, and the tie to its preloader.

use super::context::LaunchContext;
use super::preloader::{Hello, Link, State};
use super::process::ProcessNo;
use super::scaling::PAUSE;
use super::wire::Frame;
use crate::config::Config;
use crate::log::Level;
use crate::pairs::Pairs;
use crate::poller::{Poller, Token};
use nix::sys::epoll::EpollFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// What helps against a connection that is open after the import.
const OPEN_LATER: &str = "To have it imported once for all: open such things with the first request, or close them at the end of the import";

/// What the preloader of a generation has told.
pub(super) enum Told {
    /// The app is imported, and this is to be told of it.
    Imported(Story),
    /// The app cannot be imported; whether the log is to be told.
    Failed(String, bool),
    /// The system refused this worker, for this reason.
    Refused(Option<ProcessNo>, String),
    /// Another front is in need of a process.
    Release,
    /// A worker of ours has ended.
    Exited(i32, String),
    /// It sent something that is none of the above.
    Nonsense(String),
}

/// What the log is told of an import.
#[derive(Default)]
pub(super) struct Story {
    pub(super) lines: Vec<(Level, String)>,
    /// Where the site stands now, in a line.
    pub(super) status: Option<String>,
}

/// See above.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    /// Names the code, the settings and the executable together.
    pub(super) version: String,
    pub(super) config: Rc<Config>,
    pub(super) link: Link,
    /// The app cannot be forked: each worker imports it by itself.
    pub(super) plain: bool,
    /// In the plain form: the worker that shows whether the app can be imported was asked for.
    pub(super) tried: bool,
}

impl Generation {
    /// A generation whose app is still to be imported.
    pub(super) fn new(
        number: u64,
        version: String,
        config: Rc<Config>,
        shared: bool,
        now: Instant,
    ) -> Generation {
        Generation {
            number,
            link: Link::new(version.clone(), now),
            plain: !config.server.preload || !shared,
            version,
            config,
            tried: false,
        }
    }

    /// A worker can be started now.
    pub(super) fn can_start(&self) -> bool {
        match self.link.state {
            State::Failed { .. } => false,
            State::Ready => true,
            _ => self.plain,
        }
    }

    /// The app is not imported, and nobody has begun to.
    pub(super) fn is_electing(&self) -> bool {
        matches!(self.link.state, State::Electing { .. })
    }

    /// Why the app cannot be imported.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.link.state {
            State::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// Why no request can be served with it.
    pub(super) fn unavailable_reason(&self) -> Option<String> {
        let reason = self.failure()?;
        Some(match self.version.is_empty() {
            true => reason.to_owned(),
            false => format!("the app cannot be imported\n{}", reason.trim_end()),
        })
    }

    /// Goes on with the tie to its preloader. What the log should know of it.
    pub(super) fn step(
        &mut self,
        context: &LaunchContext,
        now: Instant,
    ) -> io::Result<Option<String>> {
        let Some(dir) = &context.dir else {
            return Ok(None);
        };
        let hello = context.hello(&self.config);
        self.link.step(now, dir, context.start(&self.config), hello)
    }

    /// There was no process for the preloader: another try in a moment.
    pub(super) fn elect_again(&mut self, now: Instant) {
        self.link.state = State::Electing {
            next: now + PAUSE,
            pause: PAUSE,
        };
    }

    /// A worker of the plain form has imported the app; or one could not be started, and it shows when it is live.
    pub(super) fn works(&mut self) {
        self.link.state = State::Ready;
    }

    /// Tells its preloader that nobody needs it any more.
    pub(super) fn dismiss(&mut self, context: &LaunchContext) {
        self.link.greet(Hello {
            linger: 0,
            ..context.hello
        });
    }

    /// The control socket, for the image that comes after this one.
    pub(super) fn into_control(self) -> Option<OwnedFd> {
        let ready = self.link.state == State::Ready;
        self.link.channel.filter(|_| ready).map(OwnedFd::from)
    }

    /// Lets epoll watch the control socket.
    pub(super) fn watch(&mut self, poller: &Poller) {
        if let Some(channel) = &mut self.link.channel {
            let _ = channel.watch(poller, Token::Control(self.number), EpollFlags::EPOLLIN);
        }
    }

    /// Reads the control socket once.
    pub(super) fn read(
        &mut self,
        context: &LaunchContext,
        scratch: &mut [u8],
        now: Instant,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        let Some(channel) = &mut self.link.channel else {
            return told;
        };
        let count = match channel.receive(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return told,
            Ok(0) | Err(_) => {
                self.link.lost(now);
                return told;
            }
            Ok(count) => count,
        };
        let mut input = &scratch[..count];
        let mut decoder = std::mem::take(&mut channel.decoder);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => told.extend(self.on_frame(frame, context)),
                Err(error) => {
                    self.link.lost(now);
                    told.push(Told::Nonsense(error.to_string()));
                    return told;
                }
            }
        }
        if let Some(channel) = &mut self.link.channel {
            channel.decoder = decoder;
        }
        told
    }

    fn on_frame(&mut self, frame: Frame<'_>, context: &LaunchContext) -> Option<Told> {
        Some(match frame {
            Frame::Ready(facts) => {
                self.link.imported();
                let fact = |name: &[u8]| fact(&facts, name);
                let threaded = fact(b"threads").parse::<u32>().is_ok_and(|n| n > 1);
                self.plain = threaded || !fact(b"open").is_empty();
                let story = story(&facts, threaded, self.link.started_here);
                if self.plain {
                    self.dismiss(context);
                    self.link.channel = None;
                }
                Told::Imported(story)
            }
            Frame::Failed(text) => {
                let reason = String::from_utf8_lossy(&text).into_owned();
                self.link.fail(reason.clone());
                Told::Failed(reason, self.link.started_here)
            }
            Frame::Refused(text) => {
                let reason = String::from_utf8_lossy(&text).into_owned();
                Told::Refused(self.link.answered(), reason)
            }
            Frame::Forked { .. } => {
                self.link.answered();
                return None;
            }
            Frame::Release => Told::Release,
            Frame::Exited { pid, how } => Told::Exited(pid, how),
            _ => return None,
        })
    }
}

fn fact(facts: &Pairs, name: &[u8]) -> String {
    String::from_utf8_lossy(facts.get(name).unwrap_or_default()).into_owned()
}

/// What the log is told of an import. `here`: by a process that we started.
fn story(facts: &Pairs, threaded: bool, here: bool) -> Story {
    let fact = |name: &[u8]| fact(facts, name);
    let mut story = Story::default();
    let mut put = |level, text: String| story.lines.push((level, text));
    if threaded {
        let threads = fact(b"threads");
        put(
            Level::Warning,
            format!(
                "importing the app started {threads} threads: each worker imports it by itself"
            ),
        );
    }
    let open = fact(b"open");
    if !open.is_empty() && here && fact(b"said").is_empty() {
        put(
            Level::Warning,
            format!(
                "importing the app left open what workers must not share: {open}; so each worker imports it by itself. {OPEN_LATER}"
            ),
        );
    }
    if here && !threaded && open.is_empty() {
        for (level, name) in [(Level::App, b"errors"), (Level::Output, b"output")] {
            let text = fact(name);
            if !text.trim().is_empty() {
                put(level, text.trim_end().to_owned());
            }
        }
        let (seconds, python) = (fact(b"seconds"), fact(b"python"));
        let text = format!("imported the app in {seconds} s with Python {python}");
        put(Level::Info, text.clone());
        story.status = Some(text);
    }
    story
}
