//! Sharing the account's processes, when there are no more: a front that is refused one while a visitor waits asks, and
//! a front with an idle worker gives it back.
//!
//! Whoever shares a preloader is asked by it (RELEASE). The others, and everybody where workers are not forked, find a
//! file in the runtime directory when they look at their files anyway; who takes it away has taken the wish upon itself,
//! so each wish costs one worker.

use super::Server;
use super::processes::FORK_PAUSE;
use crate::log::Level;
use crate::rundir::Entry;
use crate::worker::pool::{Process, ProcessNo};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// From this age on a wish is also for those whose workers are busy: by then all idle fronts have looked.
const FOR_THE_BUSY: Duration = Duration::from_millis(1500);
/// A wish of this age is nobody's any more; who still waits makes another one.
const FORGOTTEN: Duration = Duration::from_secs(4);
/// Pause after the account turned out to be at its limits: somebody is asked to give a worker back.
const REFUSED_PAUSE: Duration = Duration::from_millis(400);
/// How long a front that is asked to give a worker back, and has none idle, remembers it.
const ASKED_FOR: Duration = Duration::from_secs(2);
/// How often the log is told that the account is at its limits.
const LIMIT_NOTED: Duration = Duration::from_secs(10);

/// Whether the system refused a process because there are too many already, or there is no memory for it.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

impl Server {
    /// Whether this front does without a worker until a request needs one. Not while it has one with old code: that
    /// would serve on and on.
    pub(super) fn is_spared(&self) -> bool {
        self.given_back && self.queue.is_empty() && self.outdated().next().is_none()
    }

    /// Workers of code that is not the newest.
    fn outdated(&self) -> impl Iterator<Item = ProcessNo> {
        let current = self.current.number;
        let old = move |p: &Process| !p.retiring && p.generation < current;
        let processes = self.pool.processes.iter();
        processes.filter(move |(_, p)| old(p)).map(|(n, _)| *n)
    }

    /// The system refused a process: who waits goes on waiting, and tries again soon.
    pub(super) fn wait_for_room(&mut self, text: &str, now: Instant) {
        self.note_limit(text, now);
        // An idle worker with old code makes room for the first one with new code: there may be no other room. One, so
        // that the others go on serving whoever takes that room, and until the new one has started.
        let current = self.current.number;
        let comes = |p: &Process| p.generation == current && !p.retiring && !p.refused;
        if !self.pool.processes.values().any(comes) {
            let idle = self.pool.idle_since(now);
            let outdated: Vec<_> = self.outdated().collect();
            if let Some(process) = idle.into_iter().find(|p| outdated.contains(p)) {
                self.pool.retire(process, now);
            }
        }
        self.given_back = self.queue.is_empty();
        self.fork_after = Some(now + REFUSED_PAUSE);
        self.due(now + REFUSED_PAUSE);
    }

    /// Asks the other fronts for a process, if a visitor waits for one.
    pub(super) fn wish(&self) {
        if let Some(dir) = &self.place.dir
            && !self.queue.is_empty()
        {
            // One that is there already keeps its age.
            let mut new = OpenOptions::new();
            let _ = new
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.file(Entry::Want));
        }
    }

    /// Gives a worker back if another front wishes for one.
    pub(super) fn look_for_wish(&mut self, now: Instant) {
        let in_use = |p: &Process| !p.retiring;
        if !self.queue.is_empty() || !self.pool.processes.values().any(in_use) {
            return;
        }
        let Some(dir) = &self.place.dir else { return };
        let path = dir.file(Entry::Want);
        let Ok(made) = fs::symlink_metadata(&path).and_then(|meta| meta.modified()) else {
            return;
        };
        let age = made.elapsed().unwrap_or_default();
        let idle = !self.pool.idle_since(now).is_empty();
        if (idle || age >= FOR_THE_BUSY) && fs::remove_file(&path).is_ok() && age < FORGOTTEN {
            self.give_back(now);
        }
    }

    /// Another front of the site needs a process more than we do.
    pub(super) fn give_back(&mut self, now: Instant) {
        self.asked_back = Some(now);
        if self.queue.is_empty()
            && let Some(process) = self.pool.idle_since(now).first().copied()
        {
            self.pool.retire(process, now);
            self.asked_back = None;
            self.given_back = true;
            self.due(now);
        }
    }

    /// A worker has finished a request. Whether it goes, because another front has asked for one meanwhile.
    pub(super) fn is_asked_back(&mut self, now: Instant) -> bool {
        let asked = self.asked_back.take_if(|_| !self.reload.is_leaving());
        let asked = asked.is_some_and(|at| now.saturating_duration_since(at) < ASKED_FOR);
        if asked {
            self.given_back = true;
            self.fork_after = Some(now + FORK_PAUSE);
            self.due(now + FORK_PAUSE);
        }
        asked
    }

    /// The preloader was refused this worker.
    pub(super) fn refused(&mut self, process: Option<ProcessNo>, reason: &str, now: Instant) {
        if let Some(process) = process.and_then(|number| self.pool.processes.get_mut(&number)) {
            process.refused = true;
        }
        self.wait_for_room(&format!("the system refused a worker: {reason}"), now);
    }

    /// A line that would come several times a second while the account is at its limits.
    pub(super) fn note_limit(&mut self, text: &str, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < LIMIT_NOTED;
        if !self.limit_noted.is_some_and(recent) {
            self.limit_noted = Some(now);
            self.note(Level::Warning, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_from_a_fault() {
        let of = |number| is_refusal(&io::Error::from_raw_os_error(number));
        assert!(of(nix::libc::EAGAIN) && of(nix::libc::ENOMEM));
        assert!(!of(nix::libc::ENOENT) && !of(nix::libc::EACCES) && !of(nix::libc::EMFILE));
    }
}
