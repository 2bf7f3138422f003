//! `Reload`: how a change on disk goes live, and how this process ends.
//!
//! ```text
//! Steady ─executable changed─▶ Testing ─it runs─▶ (Load) ─settings are right─▶ Importing ─it is imported─▶ Imported
//!   │                            └─it does not─▶ Steady     └─wrong─▶ Steady      └─it cannot be─▶ Steady    │
//!   ├─touched, settings changed──────────────────▶ (Load)                                                    │
//!   │◀──our turn, and this process can take it on: new workers───────────────────────────────────────────────┤
//!   └─TERM, `how = "exit"`─▶ Draining(Exit)           Draining(Exec) ◀──our turn, and only a new image can───┘
//! ```
//! A candidate is imported while the live release goes on serving, and replaces it as a whole: what was imported is what
//! goes live. Knows no socket, no process, no Python and no clock: events come in, outputs go out.

mod refusal;
mod release;
mod rollout;
mod watch;

pub use refusal::Refusal;
pub use release::{Origin, Release};
pub use rollout::{Progress, Rollout};
pub use watch::{Change, Stamp, Watch};

use crate::config::How;
use crate::image::Image;
use crate::log::Level;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the test run of a new executable may take.
const TEST_WITHIN: Duration = Duration::from_secs(10);
/// How long open requests may take after TERM: mod_fcgid kills a process 8 s after it.
const STOP_WITHIN: Duration = Duration::from_millis(6500);
/// How long open requests may take before a new image is executed; below mod_fcgid's FcgidIOTimeout.
const EXEC_WITHIN: Duration = Duration::from_secs(20);
/// How soon a site that does not work is tried again when a request comes.
const RETRY: Duration = Duration::from_secs(5);

/// What others are to do.
#[derive(Debug)]
pub enum Output {
    /// Copy the executable and run it as a test; then `on_staged` and `on_tested`.
    Test,
    /// Read the settings; then `on_loaded`.
    Load,
    /// Import this release while the live one serves; then `on_imported`.
    Import(Release),
    /// Drop the candidate.
    Abandon,
    /// Kill the test run: it takes too long, or is out of date.
    EndTest,
    /// The candidate goes live in this process.
    Promote(Release),
    /// Accept no new requests, finish the open ones; then `on_drained`.
    Drain,
    /// A line for the log.
    Note(Level, String),
    /// What is on disk cannot be used.
    Refused(Refusal),
    /// Drained: this process ends.
    End(End),
}

/// How this process ends.
#[derive(Debug)]
pub enum End {
    /// It exits.
    Exit,
    /// It executes this image, or a fresh copy of the executable, which begins with this release.
    Exec(Option<Image>, Option<Release>),
}

/// A release on trial, and its executable, if that has changed.
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
        /// Something else has changed, too: read the settings even if the test fails.
        more: bool,
    },
    Importing(Candidate),
    Imported(Candidate),
    Draining {
        until: Instant,
        then: End,
    },
}

/// Where the release came from that is live when a process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It is the one on disk.
    Fresh,
    /// It is the one that last worked; the one on disk is another, and to be tried.
    Behind,
    /// There is none: the one on disk cannot be used.
    Broken,
}

/// The release that a process starts with, and what is wrong with the one on disk. `good` is the one that last worked;
/// `prefer_disk`: use it only if the one on disk cannot be used.
pub fn begin(
    disk: Result<Release, String>,
    good: Option<Release>,
    prefer_disk: bool,
) -> (Release, Beginning, Option<String>) {
    match (disk, good) {
        (Ok(disk), Some(good)) if good.version != disk.version && !prefer_disk => {
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
    /// The live release serves, or may do so soon.
    works: bool,
    /// A touch came while a candidate was on trial: try another one afterwards.
    again: bool,
    /// The executable on disk was refused: the next change tests it again.
    refused_image: bool,
    /// What was wrong with the settings when they were last read.
    refused: Option<String>,
    /// Why the code that was last tried does not work.
    refused_code: Option<String>,
    /// An executable that has passed its test, until the settings are read.
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
            refused_code: None,
            image: None,
            retry_at: None,
            outputs: VecDeque::new(),
        };
        if beginning == Beginning::Behind {
            match reload.refused.clone() {
                None => reload.put(Output::Load),
                Some(why) => {
                    reload.put(Output::Refused(Refusal::settings(true, &why)));
                }
            }
        }
        reload
    }

    /// Something on disk has changed.
    pub fn on_change(&mut self, change: Change, now: Instant) {
        match self.state {
            State::Draining { .. } => (),
            State::Testing { ref mut more, .. } if change != Change::Executable => *more = true,
            State::Importing(_) | State::Imported(_) if change == Change::Touched => {
                // Else a site that is touched all the time would never finish an import.
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

    /// The new executable was copied and its test run has begun; or why not.
    pub fn on_staged(&mut self, staged: Result<Image, String>) {
        if let State::Testing { image, .. } = &mut self.state {
            match staged {
                Ok(staged) => *image = Some(staged),
                Err(why) => {
                    self.refuse_image(&format!("cannot be used, keeping the old one: {why}"))
                }
            }
        }
    }

    /// The test run has ended, with this trouble or none.
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
                self.refuse_image(&format!("{trouble} in its test, keeping the old one"))
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
                let why = "restart: something has changed; exiting ([restart] how = \"exit\")";
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
                    self.put(Output::Refused(Refusal::settings(self.works, &why)));
                }
                self.refused = Some(why);
            }
        }
    }

    /// The candidate was imported, or why it cannot be.
    pub fn on_imported(&mut self, outcome: Result<(), &str>, now: Instant) {
        let candidate = match std::mem::replace(&mut self.state, State::Steady) {
            State::Importing(candidate) => candidate,
            other => return self.state = other,
        };
        match outcome {
            Ok(()) => {
                self.refused_code = None;
                self.state = State::Imported(candidate);
            }
            Err(why) => {
                self.refused_code = Some(why.to_owned());
                self.refused_image |= candidate.image.is_some();
                self.retry_at = Some(now + RETRY);
                let version = candidate.release.version;
                self.put(Output::Refused(match self.works {
                    true => Refusal::new_code(version, why),
                    false => Refusal::code(version, why),
                }));
                self.follow_up(now);
            }
        }
    }

    /// Whether the live release works.
    pub fn set_works(&mut self, works: bool, now: Instant) {
        if self.works && !works {
            self.retry_at = Some(now + RETRY);
        }
        self.works = works;
    }

    /// Another release serves, because the live one does not work.
    pub fn set_live(&mut self, live: Release) {
        self.live = live;
    }

    /// It is this front's turn.
    pub fn on_turn(&mut self, now: Instant) {
        let candidate = match std::mem::replace(&mut self.state, State::Steady) {
            State::Imported(candidate) => candidate,
            other => return self.state = other,
        };
        if candidate.image.is_some() || candidate.release.needs_new_process(&self.live) {
            let release = candidate.release.clone();
            if !self.works {
                // Waiting requests could not be served otherwise before the new image runs.
                self.go_live(candidate.release);
            }
            let text = "restart: finishing open requests, then executing the new image";
            self.note(Level::Info, text);
            self.state = State::Draining {
                until: now + EXEC_WITHIN,
                then: End::Exec(candidate.image, Some(release)),
            };
            self.put(Output::Drain);
            return;
        }
        self.go_live(candidate.release);
        self.note(Level::Info, "restart: new code goes live");
        self.follow_up(now);
    }

    /// A request has come. If the site does not work, it may have been mended; and so may what keeps it from having the
    /// workers that it `lacks`.
    pub fn on_request(&mut self, lacks: bool, now: Instant) {
        let due = self.retry_at.is_none_or(|at| at <= now);
        let lacks = lacks && self.live.config.restart.how != How::Exit;
        if (lacks || !self.works) && due && matches!(self.state, State::Steady) {
            self.retry_at = Some(now + RETRY);
            self.on_change(Change::Touched, now);
        }
    }

    /// The files were checked, and nothing has changed. `settled`: no upload is going on.
    pub fn on_unchanged(&mut self, settled: bool) {
        // The cause of a refusal may lie in no watched file: an owner, a missing directory.
        if self.refused.is_some() && settled && matches!(self.state, State::Steady) {
            self.put(Output::Load);
        }
    }

    /// Drain, then exit.
    pub fn stop(&mut self, now: Instant) {
        if matches!(
            self.state,
            State::Draining {
                then: End::Exit,
                ..
            }
        ) {
            return;
        }
        self.abandon();
        self.state = State::Draining {
            until: now + STOP_WITHIN,
            then: End::Exit,
        };
        self.put(Output::Drain);
    }

    /// No request is open any more, or the time for them is over.
    pub fn on_drained(&mut self) {
        if let State::Draining { then, .. } = &mut self.state {
            let end = match then {
                End::Exit => End::Exit,
                End::Exec(image, release) => End::Exec(image.take(), release.take()),
            };
            self.put(Output::End(end));
        }
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Instant) {
        if let State::Testing { until, .. } = &mut self.state
            && *until <= now
        {
            *until = now + TEST_WITHIN;
            self.put(Output::EndTest);
        }
    }

    /// When `on_time` has something to do, or draining has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Testing { until, .. } | State::Draining { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The release that serves.
    pub fn live(&self) -> &Release {
        &self.live
    }

    /// What is wrong with the settings on disk.
    pub fn refused_settings(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Why the code that was last tried does not serve.
    pub fn refused_code(&self) -> Option<&str> {
        self.refused_code.as_deref()
    }

    /// Nothing is going on.
    pub fn is_steady(&self) -> bool {
        matches!(self.state, State::Steady)
    }

    /// A candidate is being imported.
    pub fn is_importing(&self) -> bool {
        matches!(self.state, State::Importing(_))
    }

    /// The candidate was imported and waits for this front's turn.
    pub fn waits_for_turn(&self) -> bool {
        matches!(self.state, State::Imported(_))
    }

    /// When draining must end; None: not draining.
    pub fn drains_until(&self) -> Option<Instant> {
        match &self.state {
            State::Draining { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Draining, to exit or to execute a new image.
    pub fn is_draining(&self) -> bool {
        self.drains_until().is_some()
    }

    /// Draining to execute a new image, which serves whoever connects from now on.
    pub fn drains_for_exec(&self) -> bool {
        matches!(
            self.state,
            State::Draining {
                then: End::Exec(..),
                ..
            }
        )
    }

    /// Ends the trial that is under way. Returns its executable, if that has passed its test.
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
        self.put(Output::Refused(Refusal::executable(why)));
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
