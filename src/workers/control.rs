//! What a front and a preloader say to each other, as messages and as frames.

use super::kept::Kept;
use super::process::ProcessNo;
use super::wire;
use crate::config::Config;
use crate::pairs::Pairs;
use std::os::fd::OwnedFd;

/// What a preloader says.
#[derive(Debug)]
pub(super) enum Message {
    /// The app is imported; `here`: by a process that this front started.
    Imported { facts: Pairs, here: bool },
    /// The app cannot be imported.
    Failed { reason: String, here: bool },
    /// The system refused to fork this worker, for this reason.
    Refused(Option<ProcessNo>, String),
    /// This worker was forked.
    Forked(Option<ProcessNo>),
    /// There is no room for these workers yet, for this reason.
    Waiting(Vec<ProcessNo>, String),
    /// For this worker that was to be forked, here is one that was kept.
    Given(Option<ProcessNo>, Kept),
    /// Another front needs a worker. `true`: urgently, since there is no room for a new one.
    Release(bool),
    /// A worker has ended in an unusual way: its pid, and how. It was ours, or `true`: nobody's.
    Exited(i32, String, bool),
    /// It sent something that is not of the private wire.
    Invalid(String),
}

/// A frame for a preloader, and the descriptors that go with it.
#[derive(Debug)]
pub(super) struct ToPreloader {
    pub(super) frame: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl ToPreloader {
    /// HELLO: about this front, or what has changed.
    pub(super) fn hello(hello: &Pairs) -> ToPreloader {
        ToPreloader::new(wire::HELLO, hello.as_bytes(), Vec::new())
    }

    /// KEEP: an idle worker for another front.
    pub(super) fn keep(kept: Kept, config: &Config) -> ToPreloader {
        let pairs = kept.pairs(config);
        ToPreloader::new(wire::KEEP, pairs.as_bytes(), kept.descriptors())
    }

    /// BUSY: no worker is idle.
    pub(super) fn busy() -> ToPreloader {
        ToPreloader::new(wire::BUSY, &[], Vec::new())
    }

    fn new(kind: u8, payload: &[u8], descriptors: Vec<OwnedFd>) -> ToPreloader {
        let mut frame = Vec::new();
        wire::put_frame(&mut frame, kind, payload);
        ToPreloader { frame, descriptors }
    }
}
