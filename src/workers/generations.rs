//! `Generations`: the version of the code that serves, and the candidate that may come after it.

use super::context::LaunchContext;
use super::generation::{Generation, Told};
use super::launch::{self, Launched};
use super::preloader::Link;
use super::process::ProcessNo;
use super::reclaim::is_refusal;
use crate::config::Config;
use crate::poller::Poller;
use crate::rundir::is_full;
use nix::sys::wait::WaitStatus;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// Bytes of a preloader's words that are read at a time.
const SCRATCH: usize = 64 << 10;

/// What came of a step of a tie to a preloader.
pub(super) enum Stepped {
    /// The log is to know this.
    Note(String),
    /// The app of this generation cannot be imported.
    Failed(String),
    /// The system had no room for a preloader.
    NoRoom(String),
}

/// See above.
#[derive(Debug)]
pub struct Generations {
    pub(super) context: LaunchContext,
    pub(super) current: Generation,
    pub(super) candidate: Option<Generation>,
    last: u64,
}

impl Generations {
    /// Generation 1 serves. `link`: the tie to its preloader, which may have been handed over.
    pub(super) fn new(
        context: LaunchContext,
        config: Rc<Config>,
        link: Link,
        now: Instant,
    ) -> Generations {
        let shared = context.dir.is_some();
        let version = link.version.clone();
        let mut current = Generation::new(1, version, config, shared, now);
        current.link = link;
        Generations {
            context,
            current,
            candidate: None,
            last: 1,
        }
    }

    /// The version of the code that serves; empty: there is none yet.
    pub fn version(&self) -> &str {
        &self.current.version
    }

    /// Whether there is a candidate.
    pub fn has_candidate(&self) -> bool {
        self.candidate.is_some()
    }

    /// Whether workers import the app by themselves.
    pub fn is_plain(&self) -> bool {
        self.current.plain || self.candidate.as_ref().is_some_and(|c| c.plain)
    }

    /// A worker is needed that shows whether the candidate can be imported.
    pub fn wants_trial(&self) -> bool {
        let wants = |c: &Generation| c.plain && !c.tried && c.is_electing();
        self.candidate.as_ref().is_some_and(wants)
    }

    /// One of the two.
    pub(super) fn get(&mut self, number: u64) -> Option<&mut Generation> {
        let both = [Some(&mut self.current), self.candidate.as_mut()];
        both.into_iter().flatten().find(|g| g.number == number)
    }

    /// Whether it is the candidate's number.
    pub(super) fn is_candidate(&self, number: u64) -> bool {
        self.candidate.as_ref().is_some_and(|c| c.number == number)
    }

    /// This version is to be imported.
    pub(super) fn add(&mut self, version: String, config: Rc<Config>, now: Instant) {
        let shared = self.context.dir.is_some();
        self.last += 1;
        self.candidate = Some(Generation::new(self.last, version, config, shared, now));
    }

    /// The candidate is not wanted any more: its number.
    pub(super) fn abandon(&mut self) -> Option<u64> {
        let mut candidate = self.candidate.take()?;
        candidate.dismiss(&self.context);
        Some(candidate.number)
    }

    /// The candidate cannot be imported: its number, and why.
    pub(super) fn take_failed(&mut self) -> Option<(u64, String)> {
        let failed = self.candidate.take_if(|c| c.failure().is_some())?;
        let reason = failed.failure()?.to_owned();
        if self.current.failure().is_some() {
            // There is no old code either: this is what the owner must know.
            self.current.link.fail(reason.clone());
        }
        Some((failed.number, reason))
    }

    /// The candidate serves from now on, if it is of this version.
    pub(super) fn promote(&mut self, version: &str) -> bool {
        let Some(candidate) = self.candidate.take_if(|c| c.version == version) else {
            return false;
        };
        let mut old = std::mem::replace(&mut self.current, candidate);
        old.dismiss(&self.context);
        true
    }

    /// This version serves from now on, if it has a preloader: what was to serve has failed.
    pub(super) fn fall_back(&mut self, version: String, config: Rc<Config>, now: Instant) {
        let reason = self.current.failure().map(str::to_owned);
        self.last += 1;
        self.current = Generation::new(self.last, version, config, true, now);
        self.current.plain = false;
        self.current.link.connect_only = reason;
    }

    /// When one of the ties has something to do. `wanted`: workers are to be started.
    pub(super) fn deadline(&self, wanted: bool) -> Option<Instant> {
        let current = Some(&self.current).filter(|c| wanted || !c.is_electing());
        let both = [current, self.candidate.as_ref()].into_iter().flatten();
        let forked = both.filter(|g| !g.plain);
        forked.filter_map(|g| g.link.deadline()).min()
    }

    /// Goes on with the ties to preloaders that have something to do now.
    pub(super) fn step(&mut self, wanted: bool, poller: &Poller, now: Instant) -> Vec<Stepped> {
        let mut stepped = Vec::new();
        let current = Some(&mut self.current).filter(|c| wanted || !c.is_electing());
        let both = [current, self.candidate.as_mut()].into_iter().flatten();
        for generation in both {
            if generation.plain || generation.link.deadline().is_none_or(|at| now < at) {
                continue;
            }
            let had_failed = generation.failure().is_some();
            match generation.step(&self.context, now) {
                Ok(text) => stepped.extend(text.map(Stepped::Note)),
                Err(error) => stepped.push(not_started(generation, &error, self.context.cgi, now)),
            }
            generation.watch(poller);
            let failure = generation.failure().filter(|_| !had_failed);
            stepped.extend(failure.map(|why| Stepped::Failed(why.to_owned())));
        }
        stepped
    }

    /// Reads what the preloader of a generation has to tell.
    pub(super) fn read(&mut self, number: u64, now: Instant) -> Vec<Told> {
        let scratch = &mut [0; SCRATCH];
        let both = [Some(&mut self.current), self.candidate.as_mut()];
        let found = both.into_iter().flatten().find(|g| g.number == number);
        found.map_or_else(Vec::new, |g| g.read(&self.context, scratch, now))
    }

    /// A child of ours has ended: one that imports the app?
    pub(super) fn ended(&mut self, status: WaitStatus, now: Instant) {
        let both = [Some(&mut self.current), self.candidate.as_mut()];
        for generation in both.into_iter().flatten() {
            if generation.link.ended(status, now) {
                return;
            }
        }
    }

    /// Asks for a worker, which is to be this process.
    pub(super) fn launch(
        &mut self,
        number: u64,
        process: ProcessNo,
        slots: usize,
    ) -> io::Result<Launched> {
        let both = [Some(&mut self.current), self.candidate.as_mut()];
        let found = both.into_iter().flatten().find(|g| g.number == number);
        let generation = found.ok_or(io::ErrorKind::NotConnected)?;
        let launched = launch::launch(&self.context, generation, slots)?;
        if launched.child.is_none() {
            generation.link.has_asked_for(process);
        }
        Ok(launched)
    }

    /// Whoever was to start a worker of this generation is stuck.
    pub(super) fn unstarted(&mut self, number: u64, text: String, now: Instant) {
        let dir = self.context.dir.clone();
        let Some(generation) = self.get(number) else {
            return;
        };
        match dir {
            Some(dir) if !generation.plain => {
                generation.link.end_stuck(&dir);
                generation.link.lost(now);
            }
            _ => generation.link.fail(text),
        }
    }

    /// The control socket of a candidate that was imported, for the image that comes after this one.
    pub(super) fn hand_over(&mut self) -> Option<(OwnedFd, String)> {
        let candidate = self.candidate.take()?;
        let version = candidate.version.clone();
        let control = candidate.into_control()?;
        self.current.dismiss(&self.context);
        Some((control, version))
    }
}

/// There is no process for a preloader: the account is at its limits, or something is amiss.
fn not_started(generation: &mut Generation, error: &io::Error, cgi: bool, now: Instant) -> Stepped {
    let text = format!("the preloader cannot be started: {error}");
    if cgi || is_full(error) {
        generation.plain = true;
        Stepped::Note(format!("{text}; each worker imports the app by itself"))
    } else if is_refusal(error) {
        generation.elect_again(now);
        Stepped::NoRoom(text)
    } else {
        generation.link.fail(text.clone());
        Stepped::Note(text)
    }
}
