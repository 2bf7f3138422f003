//! Reclaiming: when the account has no room for another process and a request waits, a front asks the others for one, and a
//! front with an idle worker gives it back. A front that gets one request at a time does so unasked, after a while.
//!
//! Fronts that share a preloader are asked through it (RELEASE). All others find a file in the runtime directory when they
//! look at their files anyway. The front that removes the file answers it, so each file costs one worker.

use super::pool::Pool;
use crate::rundir::{Entry, RuntimeDir};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// At this age busy fronts answer, too: all idle ones have looked by then.
const BUSY_ANSWER: Duration = Duration::from_millis(1500);
/// A front that gets one request at a time keeps an idle worker for so long.
const KEEPS_IDLE: Duration = Duration::from_secs(5);
/// At this age it is out of date; a front that still waits asks again.
const EXPIRED: Duration = Duration::from_secs(4);

/// Gives up a worker that has been idle for `KEEPS_IDLE`: for another front, or to end if none needs it.
pub(super) fn keep_idle(pool: &mut Pool, now: Instant) {
    if let Some(since) = now.checked_sub(KEEPS_IDLE)
        && pool.scaling().has_more(pool.counts())
    {
        pool.give_up_idle(since, true, now);
    }
}

/// Whether the system refused a process because there are too many, or for lack of memory.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

/// Asks the other fronts for a process, if a request waits for one.
pub(super) fn ask(dir: Option<&RuntimeDir>, pool: &Pool) {
    let Some(dir) = dir.filter(|_| pool.queue().waiting() > 0) else {
        return;
    };
    // An existing file keeps its age.
    let mut new = OpenOptions::new();
    let new = new.write(true).create_new(true).mode(0o600);
    let _ = new.open(dir.file(Entry::Want));
}

/// Answers another front: gives a worker back.
pub(super) fn answer(dir: Option<&RuntimeDir>, pool: &mut Pool, now: Instant) {
    if let Some(dir) = dir.filter(|_| can_give(pool, true, now))
        && take(dir, pool, now)
    {
        pool.give_back(None, true, now);
    }
}

/// Removes another front's file, if this one can give a worker back. Whether it is to do so.
fn take(dir: &RuntimeDir, pool: &Pool, now: Instant) -> bool {
    let path = dir.file(Entry::Want);
    let made = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
    let Ok(made) = made else { return false };
    let age = made.elapsed().unwrap_or_default();
    can_give(pool, age >= BUSY_ANSWER, now) && fs::remove_file(&path).is_ok() && age < EXPIRED
}

/// Whether this front could give a worker back; `soon`: one that is busy now counts.
fn can_give(pool: &Pool, soon: bool, now: Instant) -> bool {
    pool.queue().waiting() == 0
        && pool.roster().any(|p| !p.is_retiring())
        && (soon || !pool.roster().idle_since(now).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_no_fault() {
        let of = |number| is_refusal(&io::Error::from_raw_os_error(number));
        assert!(of(nix::libc::EAGAIN) && of(nix::libc::ENOMEM));
        assert!(!of(nix::libc::ENOENT) && !of(nix::libc::EACCES) && !of(nix::libc::EMFILE));
    }
}
