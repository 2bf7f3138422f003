//! `Kept`: an idle worker on its way between two fronts: through the preloader, which keeps it in the meantime.

use super::channel::Channel;
use super::launch::{Launched, Pipes};
use super::process::Origin;
use crate::config::Config;
use crate::pairs::Pairs;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::Duration;

/// Idle workers that are kept for the whole site if `maxspare` does not say how many.
const SPARE: u32 = 1;

/// What the next front has to know of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its pid.
    pub pid: i32,
    /// Requests served.
    pub served: u64,
    /// Requests after which it is worn; 0: never.
    pub served_limit: u64,
    /// After this time it is too old.
    pub old_in: Option<Duration>,
}

/// An idle worker, and the front's ends of its pipes and sockets.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) facts: Facts,
    pub(super) pipes: Pipes,
    pub(super) channels: Vec<Channel>,
}

/// What a front can use: workers with so many slots, whose standard output is kept apart or not.
pub(super) fn shape(slots: usize, outlog: bool) -> String {
    match outlog {
        true => format!("{slots} outlog"),
        false => slots.to_string(),
    }
}

impl Kept {
    /// The payload of `KEEP`: the facts, and how long the preloader is to keep the worker.
    pub(super) fn pairs(&self, config: &Config) -> Pairs {
        let mut pairs = Pairs::new();
        let mut put = |name: &str, value: String| pairs.push(name.as_bytes(), value.as_bytes());
        let facts = &self.facts;
        put("pid", facts.pid.to_string());
        put("shape", shape(self.channels.len(), self.pipes.open() > 1));
        put("served", facts.served.to_string());
        put("served_limit", facts.served_limit.to_string());
        let old_in = facts.old_in.map(|left| left.as_millis().to_string());
        put("old_in", old_in.unwrap_or_default());
        put("idle_timeout", config.server.idle_timeout.to_string());
        put("spare", config.server.maxspare.unwrap_or(SPARE).to_string());
        pairs
    }

    /// The descriptors of `KEEP`.
    pub(super) fn descriptors(self) -> Vec<OwnedFd> {
        let slots = self.channels.into_iter().map(OwnedFd::from);
        self.pipes.into_descriptors().chain(slots).collect()
    }

    /// The facts, and the rest as of a worker that was launched.
    pub(super) fn launched(self) -> (Facts, Launched) {
        let launched = Launched {
            pipes: self.pipes,
            channels: self.channels,
            origin: Origin::Preloader,
        };
        (self.facts, launched)
    }

    /// The worker of `GIVEN`. None: something is missing.
    pub(super) fn received(
        pairs: &Pairs,
        mut next: impl FnMut() -> Option<OwnedFd>,
    ) -> Option<Kept> {
        let text = |name: &str| std::str::from_utf8(pairs.get(name.as_bytes())?).ok();
        let mut words = text("shape")?.split(' ');
        let (slots, outlog) = (words.next()?.parse().ok()?, words.next().is_some());
        let pipes = Pipes::received(outlog, &mut next)?;
        let channels = (0..slots).map(|_: u32| Channel::new(next()?).ok());
        Some(Kept {
            channels: channels.collect::<Option<_>>()?,
            pipes,
            facts: Facts {
                pid: number(text("pid"))?,
                served: number(text("served"))?,
                served_limit: number(text("served_limit"))?,
                old_in: number(text("old_in")).map(Duration::from_millis),
            },
        })
    }
}

fn number<T: FromStr>(text: Option<&str>) -> Option<T> {
    text?.parse().ok()
}
