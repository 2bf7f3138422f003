//! `Reload`: what the owner does: how a change on disk goes live, and how this process comes to its end.
//!
//! ```text
//! Steady ─executable changed─▶ Testing ─it runs─▶ (Load) ─settings are right─▶ Importing ─it is imported─▶ Imported
//!   │                            └─it does not─▶ Steady     └─wrong─▶ Steady      └─it cannot be─▶ Steady    │
//!   ├─touched, settings changed──────────────────▶ (Load)                                                    │
//!   │◀──our turn, and this process can take it on: workers change over───────────────────────────────────────┤
//!   └─TERM, `how = "exit"`─▶ Draining(Exit)           Draining(Exec) ◀──our turn, and only a new image can───┘
//! ```
//! A candidate is tried as a whole while the live release goes on serving, and replaces it as a whole: what was imported
//! is what goes live. Knows no socket, no process and no Python, and asks for no time: events come in, outputs go out.

mod release;
mod rollout;
mod watch;

pub use release::{Origin, Release};
pub use rollout::{Progress, Rollout};
pub use watch::{Change, Stamp, Watch};

use crate::config::How;
use crate::image::Image;
use crate::log::Level;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a new executable may take to show that it runs.
const TEST_WITHIN: Duration = Duration::from_secs(10);
/// mod_fcgid ends a process for good 8 s after it was told to stop; whoever else asks gets the same.
const STOP_WITHIN: Duration = Duration::from_millis(6500);
/// How long what is in hand may take before a new image is executed; below mod_fcgid's FcgidIOTimeout.
const EXEC_WITHIN: Duration = Duration::from_secs(20);
/// How soon a site that does not work is tried again when somebody asks for it.
const RETRY: Duration = Duration::from_secs(5);

/// What others are to do.
#[derive(Debug)]
pub enum Output {
    /// Copy the executable and have it show that it runs: `on_staged`, then `on_tested`.
    Test,
    /// Read the settings: `on_loaded`.
    Load,
    /// Have this release imported while the live one serves: `on_imported`.
    Import(Release),
    /// The candidate is not wanted any more.
    Abandon,
    /// The executable that is being tested takes too long.
    EndTest,
    /// The candidate goes live in this process.
    Promote(Release),
    /// Take nothing new on, finish what is in hand, then say `on_drained`.
    Drain,
    /// This has to be told.
    Note(Level, String),
    /// All is finished: leave.
    Exit,
    /// All is finished: execute this image, or a fresh copy of the executable, and leave it what it needs, with the
    /// release that it is to begin with.
    Exec(Option<Image>, Option<Release>),
}

/// A release on trial, with the executable that comes with it, if that has changed.
#[derive(Debug)]
struct Candidate {
    release: Release,
    image: Option<Image>,
}

#[derive(Debug)]
enum State {
    Steady,
    Testing {
        image: Option<Image>,
        until: Instant,
        /// Something else has changed too: the settings are read even if the executable is of no use.
        more: bool,
    },
    Importing(Candidate),
    Imported(Candidate),
    Draining {
        until: Instant,
        then: Then,
    },
}

#[derive(Debug)]
enum Then {
    Exit,
    Exec(Option<Image>, Option<Release>),
}

/// How the live release of a process that starts came to be live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It is what the disk holds.
    Fresh,
    /// It is the one that works, and the disk holds another: that is to be tried.
    Behind,
    /// The disk holds nothing that can be used.
    Broken,
}

/// With what a process starts, when the disk holds `disk` and `good` is the release that works. `anew`: what works does
/// not count, unless there is nothing else.
pub fn begin(
    disk: Result<Release, String>,
    good: Option<Release>,
    anew: bool,
) -> (Release, Beginning, Option<String>) {
    match (disk, good) {
        (Ok(disk), Some(good)) if good.version != disk.version && !anew => {
            (good, Beginning::Behind, None)
        }
        (Ok(disk), _) => (disk, Beginning::Fresh, None),
        (Err(why), Some(good)) => (good, Beginning::Behind, Some(why)),
        (Err(why), None) => (Release::default(), Beginning::Broken, Some(why)),
    }
}

/// See the diagram above.
#[derive(Debug)]
pub struct Reload {
    state: State,
    live: Release,
    /// The live release serves, or may yet: it is not the empty one of a site that has no settings.
    works: bool,
    /// A touch that came while a candidate was on trial: another one follows.
    again: bool,
    /// An executable that was refused is still to go live: the next change is about it too.
    refused_image: bool,
    /// What was wrong with the settings when they were last read.
    refused: Option<String>,
    /// An executable that runs, until the settings are read.
    image: Option<Image>,
    retry_at: Option<Instant>,
    outputs: VecDeque<Output>,
}

impl Reload {
    /// Begins with a live release. `refused`: what is wrong with the settings on disk.
    pub fn new(live: Release, beginning: Beginning, refused: Option<String>) -> Reload {
        let mut reload = Reload {
            state: State::Steady,
            works: beginning != Beginning::Broken,
            live,
            again: false,
            refused_image: false,
            refused,
            image: None,
            retry_at: None,
            outputs: VecDeque::new(),
        };
        if beginning == Beginning::Behind {
            match reload.refused.clone() {
                None => reload.put(Output::Load),
                Some(why) => {
                    let text = "the configuration is wrong, the one that works is used";
                    reload.note(Level::Error, &format!("{text}\n{why}"));
                }
            }
        }
        reload
    }

    /// Something on disk is not what it was.
    pub fn on_change(&mut self, change: Change, now: Instant) {
        match self.state {
            State::Draining { .. } => (),
            State::Testing { ref mut more, .. } if change != Change::Executable => *more = true,
            State::Importing(_) | State::Imported(_) if change == Change::Touched => {
                // Neither is what is on trial forgotten, nor an import begun again without end.
                self.again = true;
            }
            _ if change == Change::Executable || self.refused_image => {
                self.abandon();
                self.refused_image = false;
                self.state = State::Testing {
                    image: None,
                    until: now + TEST_WITHIN,
                    more: change != Change::Executable,
                };
                self.put(Output::Test);
            }
            _ => {
                self.image = self.abandon();
                self.put(Output::Load);
            }
        }
    }

    /// The new executable was copied, and its test has begun; or not.
    pub fn on_staged(&mut self, staged: Result<Image, String>) {
        if let State::Testing { image, .. } = &mut self.state {
            match staged {
                Ok(staged) => *image = Some(staged),
                Err(why) => {
                    self.refuse_image(&format!("cannot be used, the old one goes on: {why}"))
                }
            }
        }
    }

    /// The new executable has ended its test, with this trouble or none.
    pub fn on_tested(&mut self, trouble: Option<&str>) {
        let State::Testing { image, .. } = &mut self.state else {
            return;
        };
        match trouble {
            None => {
                self.image = image.take();
                self.state = State::Steady;
                self.put(Output::Load);
            }
            Some(trouble) => {
                self.refuse_image(&format!("{trouble} in its test, the old one goes on"))
            }
        }
    }

    /// The settings were read: a release, or what is wrong with them.
    pub fn on_loaded(&mut self, loaded: Result<Release, String>, now: Instant) {
        let image = self.image.take();
        if !matches!(self.state, State::Steady) {
            return;
        }
        match loaded {
            Ok(_) if self.works && self.live.config.restart.how == How::Exit => {
                let why = "restart: a change was noticed; leaving ([restart] how = \"exit\")";
                self.note(Level::Info, why);
                self.stop(now);
            }
            Ok(release) => {
                self.refused = None;
                self.put(Output::Import(release.clone()));
                self.state = State::Importing(Candidate { release, image });
            }
            Err(why) => {
                self.refused_image |= image.is_some();
                if self.refused.as_ref() != Some(&why) {
                    let more = match self.works {
                        true => "restart: the configuration is wrong, the old one goes on",
                        false => "the site is not configured",
                    };
                    self.note(Level::Error, &format!("{more}\n{why}"));
                }
                self.refused = Some(why);
            }
        }
    }

    /// The candidate was imported; or it cannot be, and why.
    pub fn on_imported(&mut self, outcome: Result<(), &str>, now: Instant) {
        let candidate = match std::mem::replace(&mut self.state, State::Steady) {
            State::Importing(candidate) => candidate,
            other => return self.state = other,
        };
        match outcome {
            Ok(()) => self.state = State::Imported(candidate),
            Err(why) => {
                self.refused_image |= candidate.image.is_some();
                self.retry_at = Some(now + RETRY);
                if self.works {
                    let last = why.trim_end().lines().last().unwrap_or_default();
                    let text = format!(
                        "restart: the new code cannot be imported, the old goes on serving: {last}"
                    );
                    self.note(Level::Error, &text);
                }
                self.follow_up(now);
            }
        }
    }

    /// The live release has turned out not to work, or to work again.
    pub fn set_works(&mut self, works: bool, now: Instant) {
        if self.works && !works {
            self.retry_at = Some(now + RETRY);
        }
        self.works = works;
    }

    /// Another release serves, since the live one does not work.
    pub fn set_live(&mut self, live: Release) {
        self.live = live;
    }

    /// It is this process's turn to change over.
    pub fn on_turn(&mut self, now: Instant) {
        let candidate = match std::mem::replace(&mut self.state, State::Steady) {
            State::Imported(candidate) => candidate,
            other => return self.state = other,
        };
        if candidate.image.is_some() || candidate.release.needs_new_process(&self.live) {
            let release = candidate.release.clone();
            if !self.works {
                // Else those who wait could not be served before the new image comes.
                self.go_live(candidate.release);
            }
            let text = "restart: finishing what is in hand, then the new one takes over";
            self.note(Level::Info, text);
            self.state = State::Draining {
                until: now + EXEC_WITHIN,
                then: Then::Exec(candidate.image, Some(release)),
            };
            self.put(Output::Drain);
            return;
        }
        self.go_live(candidate.release);
        self.note(Level::Info, "restart: new code goes live");
        self.follow_up(now);
    }

    /// Somebody asks for a site that does not work.
    pub fn on_asked(&mut self, now: Instant) {
        let due = self.retry_at.is_none_or(|at| at <= now);
        if !self.works && due && matches!(self.state, State::Steady) {
            self.retry_at = Some(now + RETRY);
            self.on_change(Change::Touched, now);
        }
    }

    /// The files were looked at, and nothing has changed.
    pub fn on_looked(&mut self, settled: bool) {
        // What a refusal depended on may lie anywhere: whose a file is, whether a directory exists.
        if self.refused.is_some() && settled && matches!(self.state, State::Steady) {
            self.put(Output::Load);
        }
    }

    /// Finish, then leave.
    pub fn stop(&mut self, now: Instant) {
        if matches!(
            self.state,
            State::Draining {
                then: Then::Exit,
                ..
            }
        ) {
            return;
        }
        self.abandon();
        self.state = State::Draining {
            until: now + STOP_WITHIN,
            then: Then::Exit,
        };
        self.put(Output::Drain);
    }

    /// Nothing is in hand any more.
    pub fn on_drained(&mut self) {
        if let State::Draining { then, .. } = &mut self.state {
            let output = match then {
                Then::Exit => Output::Exit,
                Then::Exec(image, release) => Output::Exec(image.take(), release.take()),
            };
            self.put(output);
        }
    }

    /// Does what time asks for.
    pub fn on_time(&mut self, now: Instant) {
        if let State::Testing { until, .. } = &mut self.state
            && *until <= now
        {
            *until = now + TEST_WITHIN;
            self.put(Output::EndTest);
        }
    }

    /// When `on_time` has something to do, or the draining has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Testing { until, .. } | State::Draining { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What serves.
    pub fn live(&self) -> &Release {
        &self.live
    }

    /// Nothing is going on.
    pub fn is_steady(&self) -> bool {
        matches!(self.state, State::Steady)
    }

    /// A candidate is being imported.
    pub fn is_importing(&self) -> bool {
        matches!(self.state, State::Importing(_))
    }

    /// The candidate was imported and waits for the turn of this process.
    pub fn waits_for_turn(&self) -> bool {
        matches!(self.state, State::Imported(_))
    }

    /// Until when what is in hand may take; None: it is not the end.
    pub fn drains_until(&self) -> Option<Instant> {
        match &self.state {
            State::Draining { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Leaving, for good or for a new image.
    pub fn is_leaving(&self) -> bool {
        self.drains_until().is_some()
    }

    /// What comes after the draining is a new image: who connects now is that one's.
    pub fn leaves_for_exec(&self) -> bool {
        matches!(
            self.state,
            State::Draining {
                then: Then::Exec(..),
                ..
            }
        )
    }

    /// Ends the trial that is under way. The executable that was to come with it, if it was tested.
    fn abandon(&mut self) -> Option<Image> {
        match std::mem::replace(&mut self.state, State::Steady) {
            State::Importing(candidate) | State::Imported(candidate) => {
                self.put(Output::Abandon);
                candidate.image
            }
            State::Testing { .. } => {
                self.put(Output::EndTest);
                None
            }
            State::Steady => None,
            draining @ State::Draining { .. } => {
                self.state = draining;
                None
            }
        }
    }

    fn go_live(&mut self, release: Release) {
        self.live = release.clone();
        self.works = true;
        self.put(Output::Promote(release));
    }

    fn refuse_image(&mut self, why: &str) {
        if matches!(self.state, State::Testing { more: true, .. }) {
            self.put(Output::Load);
        }
        self.state = State::Steady;
        self.refused_image = true;
        self.note(Level::Error, &format!("restart: the new executable {why}"));
    }

    fn follow_up(&mut self, now: Instant) {
        if std::mem::take(&mut self.again) {
            self.on_change(Change::Touched, now);
        }
    }

    fn note(&mut self, level: Level, text: &str) {
        self.put(Output::Note(level, text.to_owned()));
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}
