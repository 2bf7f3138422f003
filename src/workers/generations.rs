//! `Generations`: the version of the code that serves, and the candidate that may replace it.

use super::context::LaunchContext;
use super::control::{Message, ToPreloader};
use super::generation::{First, Generation, Step};
use super::kept::Kept;
use crate::config::Config;
use crate::poller::Poller;
use nix::sys::wait::WaitStatus;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// Bytes read from a preloader at a time.
const SCRATCH: usize = 8 << 10;

/// The current generation, and a candidate while there is one.
#[derive(Debug)]
pub struct Generations {
    current: Generation,
    candidate: Option<Generation>,
    last: u64,
}

impl Generations {
    /// Generation 1 serves.
    pub(super) fn new(
        version: String,
        config: Rc<Config>,
        shared: bool,
        first: First,
        now: Instant,
    ) -> io::Result<Generations> {
        Ok(Generations {
            current: Generation::first(version, config, shared, first, now)?,
            candidate: None,
            last: 1,
        })
    }

    /// The version of the code that serves; empty: there is none yet.
    pub fn version(&self) -> &str {
        self.current.version()
    }

    /// Whether the code that serves, or is to serve, cannot be imported any more.
    pub fn has_failed(&self) -> bool {
        self.current.failure().is_some()
    }

    /// Whether there is a candidate.
    pub fn has_candidate(&self) -> bool {
        self.candidate.is_some()
    }

    /// Whether workers import the app by themselves.
    pub fn is_plain(&self) -> bool {
        self.current.is_plain() || self.candidate.as_ref().is_some_and(Generation::is_plain)
    }

    /// A worker is needed to find out whether the candidate can be imported.
    pub fn wants_trial(&self) -> bool {
        self.candidate.as_ref().is_some_and(Generation::wants_trial)
    }

    /// The one that serves.
    pub(super) fn current(&self) -> &Generation {
        &self.current
    }

    /// One of the two.
    pub(super) fn get(&mut self, number: u64) -> Option<&mut Generation> {
        self.both().find(|g| g.number() == number)
    }

    /// Acts on one of the two.
    pub(super) fn with(&mut self, number: u64, act: impl FnOnce(&mut Generation)) {
        if let Some(generation) = self.get(number) {
            act(generation);
        }
    }

    /// Whether it is the candidate's number.
    pub(super) fn is_candidate(&self, number: u64) -> bool {
        let candidate = self.candidate.as_ref();
        candidate.is_some_and(|c| c.number() == number)
    }

    /// What is to serve cannot be imported, for this reason.
    pub(super) fn fail(&mut self, reason: String) {
        self.current.fail(reason);
    }

    /// This version is to be imported.
    pub(super) fn add(&mut self, version: String, config: Rc<Config>, shared: bool, now: Instant) {
        self.last += 1;
        self.candidate = Some(Generation::new(self.last, version, config, shared, now));
    }

    /// The candidate gets a worker to find out whether it can be imported.
    pub(super) fn begin_trial(&mut self) -> Option<&Generation> {
        let candidate = self.candidate.as_mut()?;
        candidate.begin_trial();
        Some(candidate)
    }

    /// Drops the candidate: its number.
    pub(super) fn abandon(&mut self, context: &LaunchContext) -> Option<u64> {
        let mut candidate = self.candidate.take()?;
        candidate.dismiss(context);
        Some(candidate.number())
    }

    /// Drops a candidate that cannot be imported: its number, and the reason.
    pub(super) fn take_failed(&mut self) -> Option<(u64, String)> {
        let failed = self.candidate.take_if(|c| c.failure().is_some())?;
        let reason = failed.failure()?.to_owned();
        if self.current.failure().is_some() {
            // There is no old code either: this is what the owner must know.
            self.current.fail(reason.clone());
        }
        Some((failed.number(), reason))
    }

    /// The candidate serves from now on, if it is of this version.
    pub(super) fn promote(&mut self, version: &str, context: &LaunchContext) -> bool {
        let Some(candidate) = self.candidate.take_if(|c| c.version() == version) else {
            return false;
        };
        let mut old = std::mem::replace(&mut self.current, candidate);
        old.dismiss(context);
        true
    }

    /// What was to serve has failed: this version serves from now on, if it has a preloader.
    pub(super) fn fall_back(&mut self, version: String, config: Rc<Config>, now: Instant) {
        let reason = self.current.failure().unwrap_or_default().to_owned();
        self.last += 1;
        self.current = Generation::fallback(self.last, version, config, reason, now);
    }

    /// When `step` has something to do. `wanted`: workers are to be started.
    pub(super) fn deadline(&self, wanted: impl Fn() -> bool) -> Option<Instant> {
        let current = Some(&self.current).filter(|c| !c.is_electing() || wanted());
        let both = current.into_iter().chain(&self.candidate);
        both.filter_map(Generation::deadline).min()
    }

    /// Moves the links to preloaders on.
    pub(super) fn step(
        &mut self,
        wanted: impl Fn() -> bool,
        context: &LaunchContext,
        poller: &Poller,
        now: Instant,
    ) -> Vec<Step> {
        let current = Some(&mut self.current).filter(|c| !c.is_electing() || wanted());
        let both = current.into_iter().chain(&mut self.candidate);
        both.flat_map(|g| g.step(context, poller, now)).collect()
    }

    /// Has epoll watch the control socket of the generation that serves.
    pub(super) fn watch(&mut self, poller: &Poller) {
        self.current.watch(poller);
    }

    /// Reads what the preloader of a generation says.
    pub(super) fn read(&mut self, number: u64, now: Instant) -> Vec<Message> {
        let scratch = &mut [0; SCRATCH];
        let generation = self.get(number);
        generation.map_or_else(Vec::new, |g| g.read(scratch, now))
    }

    /// Sends this to the preloader of a generation.
    pub(super) fn send(&mut self, number: u64, frame: &ToPreloader) {
        if let Some(link) = self.get(number).and_then(Generation::link) {
            link.send(frame);
        }
    }

    /// Gives an idle worker to the preloader of its generation, for other fronts.
    pub(super) fn keep(&mut self, number: u64, kept: Kept) {
        if let Some(generation) = self.get(number) {
            let frame = ToPreloader::keep(kept, generation.config());
            self.send(number, &frame);
        }
    }

    /// A child of ours has ended, perhaps one that imports the app.
    pub(super) fn child_ended(&mut self, status: WaitStatus, now: Instant) {
        self.both().any(|g| g.child_ended(status, now));
    }

    /// The front is leaving: the control socket and the version of a candidate that was imported, for the next image.
    pub(super) fn end(&mut self, context: &LaunchContext) -> Option<(OwnedFd, String)> {
        let control = self.candidate.take().and_then(|candidate| {
            let version = candidate.version().to_owned();
            Some((candidate.into_control()?, version))
        });
        if control.is_some() {
            self.current.dismiss(context);
        }
        self.current.close();
        control
    }

    fn both(&mut self) -> impl Iterator<Item = &mut Generation> {
        [Some(&mut self.current), self.candidate.as_mut()]
            .into_iter()
            .flatten()
    }
}
