//! `Pace`: how fast something comes in, and by when it must go on. One that sends a byte now and then would otherwise hold
//! its place for ever.

use super::settings::Settings;
use std::time::{Duration, Instant};

/// Since when so many bytes came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Pace {
    /// Something begins to come in.
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            since: now,
            last: now,
            bytes: 0,
        }
    }

    /// More came in.
    pub(super) fn add(&mut self, bytes: usize, now: Instant) {
        self.last = now;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When the last bytes came in.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// By when more must come in. `read_since`: since when we read.
    pub(super) fn deadline(&self, settings: &Settings, read_since: Instant) -> Instant {
        let silent = self.last.max(read_since) + settings.read_timeout();
        let slow = self.slow_at(settings, read_since);
        slow.map_or(silent, |slow| slow.min(silent))
    }

    /// When it is too slow, unless more comes in. The first `read_timeout` does not count.
    pub(super) fn slow_at(&self, settings: &Settings, read_since: Instant) -> Option<Instant> {
        let millis = self.bytes.saturating_mul(1000);
        let fair = millis.checked_div(settings.limits().min_rate)?;
        let fair = Duration::from_millis(fair) + settings.read_timeout();
        self.since.max(read_since).checked_add(fair)
    }
}
