//! `Tries`: how many wrong secrets were sent, and how long the next must wait. The fronts of a site share the count in
//! a file.

use crate::rundir::{Entry, RuntimeDir};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Wrong secrets before the first pause, because people mistype.
const FREE_TRIES: u32 = 3;
/// Length of the first pause, in seconds. Each further pause is twice as long.
const FIRST_PAUSE: u64 = 5;
/// Length of the longest pause, in seconds. It is short, because somebody else's guesses make the owner wait too.
const MAX_PAUSE: u64 = 60;
/// Seconds without a wrong secret after which the count starts again.
const FORGET_AFTER: u64 = 3600;

/// The content of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    /// Wrong secrets since the last right one.
    wrong: u32,
    /// When the last of them was sent, in seconds since 1970.
    last: u64,
}

impl Tries {
    /// Seconds until the next secret is checked. None: it is checked at once.
    pub(super) fn pause(self, now: u64) -> Option<u64> {
        let over = self.wrong.checked_sub(FREE_TRIES)?;
        let length = (FIRST_PAUSE << over.min(8)).min(MAX_PAUSE);
        // If the clock was set back, do not lock anybody out.
        let since = now.checked_sub(self.last)?;
        length.checked_sub(since).filter(|left| *left > 0)
    }

    /// With one more wrong secret.
    fn add_wrong(self, now: u64) -> Tries {
        let forgotten = now.saturating_sub(self.last) > FORGET_AFTER;
        Tries {
            wrong: if forgotten {
                1
            } else {
                self.wrong.saturating_add(1)
            },
            last: now,
        }
    }

    fn parse(text: &str) -> Option<Tries> {
        let mut numbers = text.split_whitespace();
        Some(Tries {
            wrong: numbers.next()?.parse().ok()?,
            last: numbers.next()?.parse().ok()?,
        })
    }
}

/// What `check` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The secret is right.
    Right,
    /// The secret is wrong.
    Wrong,
    /// The secret was not checked; try again in this many seconds.
    Paused(u64),
}

/// Checks a secret with `is_right`, unless there is a pause, and counts the wrong ones. `local` is the count if there
/// is no runtime directory, or its file cannot be used. `now` is in seconds since 1970.
pub(super) fn check(
    dir: Option<&RuntimeDir>,
    local: &Cell<Tries>,
    now: u64,
    is_right: impl Fn() -> bool,
) -> Outcome {
    let file = match dir.map(open) {
        Some(Ok(Some(file))) => Some(file),
        // Another front is checking a secret right now.
        Some(Ok(None)) => return Outcome::Paused(1),
        Some(Err(_)) | None => None,
    };
    let before = match &file {
        Some(file) => read(file),
        None => local.get(),
    };
    if let Some(left) = before.pause(now) {
        return Outcome::Paused(left);
    }
    let (outcome, after) = match is_right() {
        true => (Outcome::Right, Tries::default()),
        false => (Outcome::Wrong, before.add_wrong(now)),
    };
    local.set(after);
    if let Some(file) = &file {
        let text = format!("{:<10} {:<20}\n", after.wrong, after.last);
        let _ = file.write_all_at(text.as_bytes(), 0);
    }
    outcome
}

/// Opens and locks the file. None: another front holds the lock.
fn open(dir: &RuntimeDir) -> std::io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(dir.file(Entry::Tries))?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// No tries, if the file is empty or damaged.
fn read(file: &File) -> Tries {
    let mut text = String::new();
    let result = file.take(64).read_to_string(&mut text);
    let tries = result.ok().and_then(|_| Tries::parse(&text));
    tries.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn tries(wrong: u32, last: u64) -> Tries {
        Tries { wrong, last }
    }

    #[test]
    fn pauses_grow_to_a_minute_and_end() {
        for (wrong, pause) in [
            (0, None),
            (2, None),
            (3, Some(5)),
            (4, Some(10)),
            (6, Some(40)),
            (7, Some(60)),
            (u32::MAX, Some(60)),
        ] {
            assert_eq!(tries(wrong, 100).pause(100), pause, "{wrong}");
        }
        assert_eq!(tries(3, 100).pause(104), Some(1));
        assert_eq!(tries(3, 100).pause(105), None);
        assert_eq!(tries(3, 100).pause(99), None, "the clock was set back");
        assert_eq!(tries(9, 100).add_wrong(4000), tries(1, 4000));
    }

    #[test]
    fn fronts_share_the_count() {
        let scratch = Scratch::new("tries");
        scratch.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
        for place in [Some(&dir), None] {
            let [one, other] = [Cell::default(), Cell::default()];
            for _ in 0..FREE_TRIES {
                let other = if place.is_some() { &other } else { &one };
                assert_eq!(check(place, other, 100, || false), Outcome::Wrong);
            }
            let right = |now| check(place, &one, now, || true);
            assert_eq!(right(101), Outcome::Paused(4));
            assert_eq!(right(105), Outcome::Right);
            assert_eq!(check(place, &one, 106, || false), Outcome::Wrong);
            assert_eq!(right(107), Outcome::Right, "the count starts again");
        }
    }
}
