//! `Rollout`: the fronts of a site that notice new code at the same moment change over one after the other.
//!
//! Else as many fresh workers as there are fronts would run their first page at once, which is the slow one, beside as
//! many old ones. Whose turn it is shows in the lock of a file in the runtime directory: it ends with its holder, however
//! that ends, and it outlives `execve`. Nobody depends on it: it is held for a bounded time, and waited for during a
//! bounded time.

use crate::rundir::{Entry, RuntimeDir};
use std::fs::{OpenOptions, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// A front whose new worker has not answered within this time lets the next one begin all the same.
const HELD: Duration = Duration::from_millis(300);
/// The same where each worker imports the app by itself.
const HELD_IMPORTING: Duration = Duration::from_secs(2);
/// A front that has nobody to serve for so long keeps nobody waiting.
const STILL: Duration = Duration::from_millis(50);
/// So long a front waits for its turn, and up to as much again as `SPREAD`; then it goes without.
const PATIENCE: Duration = Duration::from_secs(3);
const SPREAD: u64 = 1000;
/// How soon a front that waits looks again, at the least and at the most, in milliseconds.
const LOOK: (u64, u64) = (8, 16);

/// How far a front that changes over has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// A new worker has answered, or none is needed.
    pub done: bool,
    /// A new worker runs, and there has been nobody to serve since then.
    pub still_since: Option<Instant>,
}

/// Where this front stands.
#[derive(Debug)]
pub struct Rollout {
    /// The locked file, and until when.
    held: Option<(OwnedFd, Instant)>,
    still_at: Option<Instant>,
    waiting_since: Option<Instant>,
    look_at: Option<Instant>,
    seed: u64,
}

impl Rollout {
    /// `held`: the lock that the image before this one had, if it had it. `seed` spreads the waiting.
    pub fn new(held: Option<OwnedFd>, seed: u64, now: Instant) -> Rollout {
        Rollout {
            held: held.map(|file| (file, now + HELD)),
            still_at: None,
            waiting_since: None,
            look_at: None,
            seed,
        }
    }

    /// This front has the turn.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Ends the waiting and the turn; the file is still locked as long as what is returned is kept.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.waiting_since = None;
        self.look_at = None;
        self.held.take().map(|(file, _)| file)
    }

    /// Whether this front may change over now. `imports`: its workers import the app by themselves.
    pub fn begin(&mut self, dir: Option<&RuntimeDir>, imports: bool, now: Instant) -> bool {
        let until = now + if imports { HELD_IMPORTING } else { HELD };
        self.look_at = None;
        if self.held.is_none() {
            let Some(dir) = dir else { return true };
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            let Ok(file) = options.open(dir.file(Entry::Turn)) else {
                return true;
            };
            match file.try_lock() {
                Ok(()) => self.held = Some((file.into(), until)),
                Err(TryLockError::WouldBlock) => return self.is_impatient(now),
                Err(TryLockError::Error(_)) => return true,
            }
        }
        self.waiting_since = None;
        if let Some((_, at)) = &mut self.held {
            *at = until;
        }
        true
    }

    /// Another front has the turn. Whether it has had it for so long that this one does not wait for it any more.
    fn is_impatient(&mut self, now: Instant) -> bool {
        let since = *self.waiting_since.get_or_insert(now);
        let patience = PATIENCE + Duration::from_millis(self.seed % SPREAD);
        if now.saturating_duration_since(since) >= patience {
            self.waiting_since = None;
            return true;
        }
        let (least, most) = LOOK;
        let pause = least + self.seed % (most - least + 1);
        self.look_at = Some(now + Duration::from_millis(pause));
        false
    }

    /// Lets the next front begin, when the new worker has answered once, or there is nobody to serve, or it takes long.
    pub fn on_progress(&mut self, progress: Progress, now: Instant) {
        if let Some((_, until)) = self.held {
            self.still_at = progress.still_since.map(|since| since + STILL);
            let still = self.still_at.is_some_and(|at| at <= now);
            if progress.done || still || until <= now {
                self.held = None;
            }
        }
    }

    /// When to ask again, or when the next front may begin.
    pub fn deadline(&self) -> Option<Instant> {
        let until = self.held.as_ref().map(|(_, until)| *until);
        let still = self.still_at.filter(|_| self.held.is_some());
        [until, still, self.look_at].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_turn_ends_with_what_was_taken() {
        let path = std::env::temp_dir().join(format!("runfcgi-turn-{}", std::process::id()));
        let free = || File::create(&path).unwrap().try_lock().is_ok();
        let file = File::create(&path).unwrap();
        file.try_lock().unwrap();
        let now = Instant::now();
        let mut rollout = Rollout::new(Some(file.into()), 1, now);
        assert!(rollout.deadline() == Some(now + HELD) && !free());
        let taken = rollout.take();
        assert!(
            rollout.deadline().is_none() && !free(),
            "who execs takes it along"
        );
        drop(taken);
        assert!(free());
        assert!(Rollout::new(None, 1, now).deadline().is_none());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn one_front_waits_for_the_other() {
        let base = crate::scratch::Scratch::new("rollout");
        base.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&base), &base, b"").unwrap();
        let dir = Some(&dir);
        let mut now = Instant::now();
        let mut first = Rollout::new(None, 1, now);
        let mut second = Rollout::new(None, 2, now);
        assert!(first.begin(dir, false, now) && first.begin(dir, false, now));
        assert!(!second.begin(dir, false, now));
        assert_eq!(second.deadline(), Some(now + Duration::from_millis(10)));
        first.on_progress(Progress::default(), now + HELD / 2);
        assert!(!second.begin(dir, false, now));
        let done = Progress {
            done: true,
            still_since: None,
        };
        first.on_progress(done, now + HELD / 2);
        assert!(second.begin(dir, true, now) && !first.begin(dir, false, now));
        let still = Progress {
            done: false,
            still_since: Some(now),
        };
        second.on_progress(still, now);
        assert_eq!(second.deadline(), Some(now + STILL));
        now += PATIENCE + Duration::from_millis(1);
        assert!(first.begin(dir, false, now), "nobody waits for ever");
    }
}
