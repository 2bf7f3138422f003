//! Reclaiming the account's processes, when there are no more: a front that is refused one while a visitor waits asks, and
//! a front with an idle worker gives it back.
//!
//! Whoever shares a preloader is asked by it (RELEASE). The others, and everybody where workers are not forked, find a
//! file in the runtime directory when they look at their files anyway; who takes it away has taken the wish upon itself,
//! so each wish costs one worker.

use super::pool::Pool;
use crate::rundir::{Entry, RuntimeDir};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// From this age on a wish is also for those whose workers are busy: by then all idle fronts have looked.
const FOR_THE_BUSY: Duration = Duration::from_millis(1500);
/// A wish of this age is nobody's any more; who still waits makes another one.
const FORGOTTEN: Duration = Duration::from_secs(4);

/// Whether the system refused a process because there are too many already, or there is no memory for it.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

/// Asks the other fronts for a process, if somebody waits for one.
pub(super) fn wish(dir: Option<&RuntimeDir>, pool: &Pool) {
    let Some(dir) = dir.filter(|_| pool.queue().waiting() > 0) else {
        return;
    };
    // One that is there already keeps its age.
    let mut new = OpenOptions::new();
    let new = new.write(true).create_new(true).mode(0o600);
    let _ = new.open(dir.file(Entry::Want));
}

/// Takes the wish of another front away, if `can_give` says so of a front whose busy workers count, or do not. Whether
/// there was one.
pub(super) fn take_wish(dir: &RuntimeDir, can_give: impl Fn(bool) -> bool) -> bool {
    let path = dir.file(Entry::Want);
    let made = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
    let Ok(made) = made else { return false };
    let age = made.elapsed().unwrap_or_default();
    can_give(age >= FOR_THE_BUSY) && fs::remove_file(&path).is_ok() && age < FORGOTTEN
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
