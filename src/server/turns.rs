//! Turns: the fronts of a site that notice new code at the same moment change over one after the other.
//!
//! Else as many fresh workers as there are fronts would run their first page at once, which is the slow one, beside as
//! many old ones. The turn is the lock of a file in the runtime directory: it ends with its holder, however that ends,
//! and it outlives `execve`. Nobody depends on it: it is held for a bounded time, and waited for during a bounded time.

use super::Server;
use crate::rundir::Entry;
use crate::worker::pool::Process;
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

/// Where this front stands.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The locked file, and until when.
    held: Option<(OwnedFd, Instant)>,
    waiting_since: Option<Instant>,
}

impl Turns {
    /// The turn that the image before this one had, if it had it.
    pub(super) fn adopted(held: Option<OwnedFd>, now: Instant) -> Turns {
        Turns {
            held: held.map(|file| (file, now + HELD)),
            waiting_since: None,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Ends the waiting and the turn; the file is still locked as long as what is returned is kept.
    pub(super) fn take(&mut self) -> Option<OwnedFd> {
        self.waiting_since = None;
        self.held.take().map(|(file, _)| file)
    }
}

impl Server {
    /// Whether this front may change over now. If not, it is woken to ask again.
    pub(super) fn has_turn(&mut self, now: Instant) -> bool {
        let plain = self.current.plain || self.next.as_ref().is_some_and(|next| next.plain);
        let until = now + if plain { HELD_IMPORTING } else { HELD };
        if self.turns.held.is_none() {
            let Some(dir) = &self.place.dir else {
                return true;
            };
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(dir.file(Entry::Turn));
            let Ok(file) = file else { return true };
            match file.try_lock() {
                Ok(()) => self.turns.held = Some((file.into(), until)),
                Err(TryLockError::WouldBlock) => return self.is_impatient(now),
                Err(TryLockError::Error(_)) => return true,
            }
        }
        self.turns.waiting_since = None;
        if let Some((_, at)) = &mut self.turns.held {
            *at = until;
        }
        self.due(until);
        true
    }

    /// Another front has the turn. Whether it has had it for so long that this one does not wait for it any more.
    fn is_impatient(&mut self, now: Instant) -> bool {
        let since = *self.turns.waiting_since.get_or_insert(now);
        let patience = PATIENCE + Duration::from_millis(self.seed % SPREAD);
        if now.saturating_duration_since(since) >= patience {
            self.turns.waiting_since = None;
            return true;
        }
        let (least, most) = LOOK;
        self.due(now + Duration::from_millis(least + self.seed % (most - least + 1)));
        false
    }

    /// Lets the next front begin, when the new worker has answered once, or there is nobody to serve, or it takes long.
    pub(super) fn step_turn(&mut self, now: Instant) {
        let Some((_, until)) = &self.turns.held else {
            return;
        };
        let until = *until;
        // Who is about to execute a new image has old workers only; the new image goes on with the turn.
        let old = self.reload.is_leaving() || !self.reload.is_steady();
        let fresh = |p: &&Process| !old && p.generation == self.current.number && !p.retiring;
        let mut workers = self.pool.processes.values().filter(fresh);
        let answered = workers.clone().any(|p| p.served > 0);
        let still_from = self.last_accept + STILL;
        let unneeded = workers.any(|p| p.pid.is_some()) && self.requests.is_empty();
        if answered || self.is_spared() || until <= now || unneeded && still_from <= now {
            self.turns.held = None;
        } else {
            self.due(if unneeded {
                still_from.min(until)
            } else {
                until
            });
        }
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
        let mut turns = Turns::adopted(Some(file.into()), Instant::now());
        assert!(turns.is_held() && !free());
        let taken = turns.take();
        assert!(!turns.is_held() && !free(), "who execs takes it along");
        drop(taken);
        assert!(free());
        assert!(!Turns::adopted(None, Instant::now()).is_held());
        std::fs::remove_file(&path).unwrap();
    }
}
