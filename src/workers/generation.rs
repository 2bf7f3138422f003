//! `Generation`: a version of the site's code with its settings, and how its app gets into the workers.
//!
//! ```text
//! Preloaded ─READY, but the import left threads or connections─▶ Plain(Works)
//!     └─READY, and `preload` is off; or nothing can be written for a preloader─▶ Plain(Untried)
//! Plain:  Untried ─a worker is on trial─▶ Trying ─it has started─▶ Works
//!            ▲                              │ ├─there is no room for it─▶ Untested ─one has started─▶ Works
//!            │                              │ └─its import failed─▶ Failed
//!            └──it is gone, nobody knows why┘
//! ```
//! Without a candidate there is no trial: the workers of a plain generation then go from `Untried` by their first start.
//! Where fronts can meet, plain workers are forked, too: by a preloader that has not imported the app, so that it can keep
//! them for other fronts.

use super::context::LaunchContext;
use super::control::{Message, ToPreloader};
use super::preloader::Link;
use super::quota::is_refusal;
use crate::codes::Code;
use crate::codes::place;
use crate::codes::worker::NO_PRELOADER;
use crate::config::Config;
use crate::log::Level;
use crate::pairs::Pairs;
use crate::poller::{Poller, Token};
use crate::rundir::is_full;
use nix::sys::wait::WaitStatus;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// What helps against a connection that is open after the import.
const OPEN_LATER: &str = "To have it imported once for all: open such things with the first request, or close them at the end of the import";

/// How the generation begins that serves when a front starts.
#[derive(Debug)]
pub enum First {
    /// Its app is to be imported.
    Import,
    /// The image before this one hands over the control socket of its preloader.
    Adopt(OwnedFd),
    /// Its code may be gone: only connect to its preloader; without one it fails for this reason.
    ConnectOnly(String),
    /// It cannot be imported, for this reason.
    Fail(String),
}

/// What came of a step.
pub(super) enum Step {
    /// An error for the log.
    Note(Code, String),
    /// The app of the generation with this number cannot be imported. `true`: this front writes it to the log.
    Failed(u64, String, bool),
    /// The system refused a process for the preloader.
    NoRoom(String),
}

/// What the log is told of an import.
#[derive(Default)]
pub(super) struct Report {
    pub(super) lines: Vec<(Level, String)>,
    /// The state of the site, in a line.
    pub(super) status: Option<String>,
}

/// One version of the code with its settings, and the state of its import.
#[derive(Debug)]
pub(super) struct Generation {
    number: u64,
    /// Names the code, the settings and the executable together.
    version: String,
    config: Rc<Config>,
    /// It is the release that last worked, used because a newer one does not.
    is_fallback: bool,
    form: Form,
    /// To the preloader that forks the workers; None: this front starts them.
    link: Option<Box<Link>>,
}

/// See the diagram above.
#[derive(Debug)]
enum Form {
    /// The preloader imports the app.
    Preloaded,
    /// Each worker imports the app by itself.
    Plain(Plain),
}

#[derive(Debug)]
enum Plain {
    Untried,
    Trying,
    Untested,
    Works,
    Failed(String),
}

impl Generation {
    /// A generation whose app is still to be imported. `shared`: there is a place where preloaders and fronts meet.
    pub(super) fn new(
        number: u64,
        version: String,
        config: Rc<Config>,
        shared: bool,
        now: Instant,
    ) -> Generation {
        let link = shared.then(|| Box::new(Link::new(version.clone(), now)));
        let form = match link {
            Some(_) => Form::Preloaded,
            None => Form::Plain(Plain::Untried),
        };
        Generation {
            number,
            version,
            config,
            is_fallback: false,
            form,
            link,
        }
    }

    /// The release that last worked: served by its preloader, or not at all, for this reason.
    pub(super) fn fallback(
        number: u64,
        version: String,
        config: Rc<Config>,
        reason: String,
        now: Instant,
    ) -> Generation {
        let link = Link::connect_only(version.clone(), reason, now);
        Generation {
            is_fallback: true,
            form: Form::Preloaded,
            link: Some(Box::new(link)),
            ..Generation::new(number, version, config, false, now)
        }
    }

    /// The generation that serves when a front starts.
    pub(super) fn first(
        version: String,
        config: Rc<Config>,
        shared: bool,
        first: First,
        now: Instant,
    ) -> io::Result<Generation> {
        if let First::ConnectOnly(reason) = first {
            return Ok(Generation::fallback(1, version, config, reason, now));
        }
        let mut generation = Generation::new(1, version, config, shared, now);
        match first {
            First::Adopt(control) if shared => {
                let link = Link::adopt(generation.version.clone(), control, now)?;
                generation.link = Some(Box::new(link));
            }
            First::Fail(reason) => generation.fail(reason),
            _ => (),
        }
        Ok(generation)
    }

    /// Its number; counted up, never used again.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Names the code, the settings and the executable together.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Its settings.
    pub(super) fn config(&self) -> &Rc<Config> {
        &self.config
    }

    /// It is the release that last worked, used because a newer one does not.
    pub(super) fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// Each worker imports the app by itself.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.form, Form::Plain(_))
    }

    /// A worker can be started now.
    pub(super) fn can_start(&self) -> bool {
        let failed = matches!(self.form, Form::Plain(Plain::Failed(_)));
        !failed && self.link.as_ref().is_none_or(|link| link.is_ready())
    }

    /// Its workers may come from other fronts, and go to them.
    pub(super) fn shares(&self) -> bool {
        self.link.is_some()
    }

    /// Its preloader can keep an idle worker for other fronts.
    pub(super) fn can_keep(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_ready())
    }

    /// Its preloader is importing the app.
    pub(super) fn is_importing(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_waiting())
    }

    /// It looks for its preloader, or for the right to start it.
    pub(super) fn is_electing(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_electing())
    }

    /// A worker is needed to find out whether the app can be imported, and can be started.
    pub(super) fn wants_trial(&self) -> bool {
        matches!(self.form, Form::Plain(Plain::Untried)) && self.can_start()
    }

    /// Once its preloader is ready: it is known that the app can be imported.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.form, Form::Preloaded | Form::Plain(Plain::Works))
    }

    /// Why the app cannot be imported.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.form {
            Form::Plain(Plain::Failed(reason)) => Some(reason),
            _ => self.link.as_ref()?.failure(),
        }
    }

    /// Why no request can be served with it.
    pub(super) fn unavailable_reason(&self) -> Option<String> {
        let reason = self.failure()?;
        Some(match self.version.is_empty() {
            true => reason.to_owned(),
            false => format!("the app cannot be imported: {}", reason.trim_end()),
        })
    }

    /// When `step` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.link.as_ref()?.deadline()
    }

    /// Moves the link to the preloader on.
    pub(super) fn step(
        &mut self,
        context: &LaunchContext,
        poller: &Poller,
        now: Instant,
    ) -> Vec<Step> {
        let (Some(link), Some(dir)) = (&mut self.link, &context.dir) else {
            return Vec::new();
        };
        if link.deadline().is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut steps: Vec<Step> = Vec::new();
        match link.step(dir, context, &self.config, now) {
            Ok(note) => steps.extend(note.map(|(code, text)| Step::Note(code, text))),
            Err(error) => steps.push(self.not_started(&error, context.cgi, now)),
        }
        self.watch(poller);
        let here = self.link.as_ref().is_some_and(|link| link.ended_here);
        let failure = self.failure().map(str::to_owned);
        steps.extend(failure.map(|why| Step::Failed(self.number, why, here)));
        steps
    }

    /// The preloader cannot be started: the account is at its limits, or something is wrong.
    fn not_started(&mut self, error: &io::Error, cgi: bool, now: Instant) -> Step {
        let text = format!("the preloader cannot be started: {error}");
        match &mut self.link {
            Some(_) if cgi || is_full(error) => {
                self.link = None;
                if !self.is_plain() {
                    self.form = Form::Plain(Plain::Untried);
                }
                let text = format!("{text}; each worker imports the app by itself");
                Step::Note(NO_PRELOADER, text)
            }
            Some(link) if is_refusal(error) => {
                link.refused(now);
                Step::NoRoom(text)
            }
            _ => {
                self.fail(text.clone());
                Step::Note(NO_PRELOADER, text)
            }
        }
    }

    /// Has epoll watch the control socket.
    pub(super) fn watch(&mut self, poller: &Poller) {
        if let Some(link) = &mut self.link {
            link.watch(poller, Token::Control(self.number));
        }
    }

    /// Reads the control socket once.
    pub(super) fn read(&mut self, scratch: &mut [u8], now: Instant) -> Vec<Message> {
        self.link()
            .map_or_else(Vec::new, |link| link.read(scratch, now))
    }

    /// A child of ours has ended. Whether it is the one that imports the app.
    pub(super) fn child_ended(&mut self, status: WaitStatus, now: Instant) -> bool {
        self.link()
            .is_some_and(|link| link.child_ended(status, now))
    }

    /// READY: if what the import left open must not be shared, workers are not forked from that process: it leaves, and
    /// the next one does not import the app. `here`: this front started the preloader, and its log is told.
    pub(super) fn ready(&mut self, facts: &Pairs, here: bool, now: Instant) -> Report {
        let fact = |name: &[u8]| fact(facts, name);
        let threaded = fact(b"threads").parse::<u32>().is_ok_and(|n| n > 1);
        let open = threaded || !fact(b"open").is_empty();
        if !fact(b"plain").is_empty() {
            if !self.is_plain() {
                self.form = Form::Plain(if open { Plain::Works } else { Plain::Untried });
            }
            return Report::default();
        }
        if open {
            // One that could not leave a note for the next one would be followed by others like it.
            let first = !self.is_plain();
            let next = first.then(|| Box::new(Link::new(self.version.clone(), now)));
            (self.form, self.link) = (Form::Plain(Plain::Works), next);
        }
        report(facts, threaded, here)
    }

    /// A worker is started to find out whether the app can be imported.
    pub(super) fn begin_trial(&mut self) {
        if self.wants_trial() {
            self.form = Form::Plain(Plain::Trying);
        }
    }

    /// That worker is gone, and nothing is known of its import: another one is needed.
    pub(super) fn repeat_trial(&mut self) {
        if let Form::Plain(Plain::Trying) = self.form {
            self.form = Form::Plain(Plain::Untried);
        }
    }

    /// There is no room for that worker: whether the app can be imported turns out when it is live.
    pub(super) fn skip_trial(&mut self) {
        if let Form::Plain(Plain::Trying) = self.form {
            self.form = Form::Plain(Plain::Untested);
        }
    }

    /// A plain worker has imported the app.
    pub(super) fn works(&mut self) {
        if self.is_plain() {
            self.form = Form::Plain(Plain::Works);
        }
    }

    /// The app cannot be imported.
    pub(super) fn fail(&mut self, reason: String) {
        match (&mut self.form, &mut self.link) {
            (Form::Preloaded, Some(link)) => link.fail(reason),
            _ => (self.form, self.link) = (Form::Plain(Plain::Failed(reason)), None),
        }
    }

    /// A worker has not started in time: the preloader hangs, or the import does.
    pub(super) fn unstarted(&mut self, text: String, context: &LaunchContext, now: Instant) {
        match (&mut self.link, &context.dir) {
            (Some(link), Some(dir)) => link.replace_stuck(dir, now),
            _ => self.fail(text),
        }
    }

    /// The link to the preloader that forks the workers; None: this front starts them.
    pub(super) fn link(&mut self) -> Option<&mut Link> {
        self.link.as_deref_mut()
    }

    /// Tells its preloader that this front does not need it any more.
    pub(super) fn dismiss(&mut self, context: &LaunchContext) {
        if let Some(link) = self.link() {
            link.send(&ToPreloader::hello(&context.hello(0)));
        }
    }

    /// The control socket of the preloader that has imported the app, for the next image.
    pub(super) fn into_control(self) -> Option<OwnedFd> {
        let link = self.link.filter(|_| matches!(self.form, Form::Preloaded));
        link?.into_control()
    }

    /// The front is leaving: closes the link.
    pub(super) fn close(&mut self) {
        if let Some(link) = self.link() {
            link.close();
        }
    }
}

fn fact(facts: &Pairs, name: &[u8]) -> String {
    String::from_utf8_lossy(facts.get(name).unwrap_or_default()).into_owned()
}

/// What the log is told of an import. `here`: this front started the process.
fn report(facts: &Pairs, threaded: bool, here: bool) -> Report {
    let fact = |name: &[u8]| fact(facts, name);
    let mut report = Report::default();
    let mut put = |level, text: String| report.lines.push((level, text));
    if threaded && here {
        let threads = fact(b"threads");
        let text = format!(
            "importing the app started {threads} threads: each worker imports it by itself"
        );
        put(Level::Warning(place::THREADS_AFTER_IMPORT), text);
    }
    let open = fact(b"open");
    if !open.is_empty() && here {
        let text = format!(
            "importing the app left open what workers must not share: {open}; so each worker imports it by itself. {OPEN_LATER}"
        );
        put(Level::Warning(place::OPEN_AFTER_IMPORT), text);
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
        report.status = Some(text);
    }
    report
}
