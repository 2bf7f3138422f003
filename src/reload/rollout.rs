//! `Rollout`: fronts of a site that notice new code at the same moment go live one after the other.
//!
//! Otherwise all fronts would run the first, slow page of a new worker at once, beside the old workers. The front that
//! locks a file in the runtime directory has the turn: the lock ends with its holder, however that ends, and survives
//! `execve`. It is held, and waited for, only for a bounded time.

use crate::rundir::{Entry, RuntimeDir};
use std::fs::{OpenOptions, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// How long a front has the turn if its new worker does not answer.
const HELD: Duration = Duration::from_millis(300);
/// The same where each worker imports the app by itself.
const HELD_IMPORTING: Duration = Duration::from_secs(2);
/// A front without requests for so long gives up its turn.
const IDLE: Duration = Duration::from_millis(50);
/// How long a front waits for its turn, with up to `SPREAD` ms more; then it goes ahead without.
const PATIENCE: Duration = Duration::from_secs(3);
const SPREAD: u64 = 1000;
/// The shortest and the longest pause before a waiting front tries again, in milliseconds.
const RETRY: (u64, u64) = (8, 16);

/// How far a front with the turn has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// A new worker has answered, or none is needed.
    pub done: bool,
    /// A new worker runs, and no request has come since then.
    pub idle_since: Option<Instant>,
}

/// This front's turn to go live.
#[derive(Debug)]
pub struct Rollout {
    /// The locked file, and until when it is held.
    held: Option<(OwnedFd, Instant)>,
    idle_at: Option<Instant>,
    waiting_since: Option<Instant>,
    retry_at: Option<Instant>,
    seed: u64,
}

impl Rollout {
    /// `held`: the lock, if the image before this one had the turn. `seed` spreads the pauses.
    pub fn new(held: Option<OwnedFd>, seed: u64, now: Instant) -> Rollout {
        Rollout {
            held: held.map(|file| (file, now + HELD)),
            idle_at: None,
            waiting_since: None,
            retry_at: None,
            seed,
        }
    }

    /// This front has the turn.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Gives up waiting, and the turn. The file stays locked as long as the returned descriptor is kept.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.waiting_since = None;
        self.retry_at = None;
        self.held.take().map(|(file, _)| file)
    }

    /// Whether this front may go live now. `imports`: its workers import the app by themselves.
    pub fn begin(&mut self, dir: Option<&RuntimeDir>, imports: bool, now: Instant) -> bool {
        let until = now + if imports { HELD_IMPORTING } else { HELD };
        self.retry_at = None;
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

    /// Another front has the turn. Whether this one has waited long enough to go ahead without.
    fn is_impatient(&mut self, now: Instant) -> bool {
        let since = *self.waiting_since.get_or_insert(now);
        let patience = PATIENCE + Duration::from_millis(self.seed % SPREAD);
        if now.saturating_duration_since(since) >= patience {
            self.waiting_since = None;
            return true;
        }
        let (least, most) = RETRY;
        let pause = least + self.seed % (most - least + 1);
        self.retry_at = Some(now + Duration::from_millis(pause));
        false
    }

    /// Gives up the turn if the new worker has answered, or no request comes, or it takes too long.
    pub fn on_progress(&mut self, progress: Progress, now: Instant) {
        if let Some((_, until)) = self.held {
            self.idle_at = progress.idle_since.map(|since| since + IDLE);
            let idle = self.idle_at.is_some_and(|at| at <= now);
            if progress.done || idle || until <= now {
                self.held = None;
            }
        }
    }

    /// When to try again, or when the turn may end.
    pub fn deadline(&self) -> Option<Instant> {
        let until = self.held.as_ref().map(|(_, until)| *until);
        let idle = self.idle_at.filter(|_| self.held.is_some());
        [until, idle, self.retry_at].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_turn_ends_when_its_lock_is_dropped() {
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
            "an exec takes it along"
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
            idle_since: None,
        };
        first.on_progress(done, now + HELD / 2);
        assert!(second.begin(dir, true, now) && !first.begin(dir, false, now));
        let idle = Progress {
            done: false,
            idle_since: Some(now),
        };
        second.on_progress(idle, now);
        assert_eq!(second.deadline(), Some(now + IDLE));
        now += PATIENCE + Duration::from_millis(1);
        assert!(first.begin(dir, false, now), "nobody waits forever");
    }
}
