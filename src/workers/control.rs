//! What a front and a preloader say to each other, as messages and as frames.

use super::import;
use super::kept::Kept;
use super::process::ProcessNo;
use super::wire;
use crate::config::Config;
use crate::pairs::Pairs;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
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
    /// This worker was forked, and has this pid.
    Forked(Option<ProcessNo>, i32),
    /// There is no room for these workers yet, for this reason.
    Waiting(Vec<ProcessNo>, String),
    /// For this worker that was to be forked, here is one that was kept.
    Given(Option<ProcessNo>, Kept),
    /// Another front needs a worker. `true`: urgently, since there is no room for a new one.
    Release(bool),
    /// A worker has ended: one of ours, or a kept one.
    Exited(Exit),
    /// It sent something that is not of the private wire.
    Invalid(String),
}

/// The end of a process.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) pid: Pid,
    pub(super) status: WaitStatus,
    /// How, if that is unusual.
    pub(super) how: Option<String>,
    /// It was a worker that no front had.
    pub(super) kept: bool,
}

impl Exit {
    /// Of a child of ours.
    pub(super) fn new(pid: Pid, status: WaitStatus) -> Exit {
        let unusual = status != WaitStatus::Exited(pid, 0);
        Exit {
            pid,
            status,
            how: unusual.then(|| import::describe(status)),
            kept: false,
        }
    }

    /// Of a worker, as its preloader tells it. None: the status is none.
    pub(super) fn received(exited: wire::Exited) -> Option<Exit> {
        let pid = Pid::from_raw(exited.pid);
        Some(Exit {
            pid,
            status: WaitStatus::from_raw(pid, exited.status).ok()?,
            how: Some(exited.how).filter(|how| !how.is_empty()),
            kept: exited.kept,
        })
    }
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

    /// GONE: the lifeline of this worker is cut.
    pub(super) fn gone(pid: i32) -> ToPreloader {
        ToPreloader::new(wire::GONE, &pid.to_be_bytes(), Vec::new())
    }

    /// MAKE_ROOM: the system has refused a process.
    pub(super) fn make_room() -> ToPreloader {
        ToPreloader::new(wire::MAKE_ROOM, &[], Vec::new())
    }

    fn new(kind: u8, payload: &[u8], descriptors: Vec<OwnedFd>) -> ToPreloader {
        let mut frame = Vec::new();
        wire::put_frame(&mut frame, kind, payload);
        ToPreloader { frame, descriptors }
    }
}
