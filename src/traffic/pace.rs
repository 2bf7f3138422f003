//! `Pace`: how fast something comes in or is taken, and by when it must go on. Who sends or takes a byte now and then would
//! otherwise hold his place for ever.

use super::settings::Settings;
use std::time::{Duration, Instant};

/// Since when so many bytes came in, or were taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Pace {
    /// It begins.
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            since: now,
            last: now,
            bytes: 0,
        }
    }

    /// So many bytes more.
    pub(super) fn add(&mut self, bytes: usize, now: Instant) {
        self.last = now;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When the last bytes came in, or were taken.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// By when more must come in. `read_since`: since when we read.
    pub(super) fn deadline(&self, settings: &Settings, read_since: Instant) -> Instant {
        let silent = self.last.max(read_since) + settings.read_timeout();
        let slow = self.late_at(settings, read_since);
        slow.into_iter().fold(silent, Instant::min)
    }

    /// When it is taken too slowly, unless more is. The first `write_timeout` does not count.
    pub(super) fn too_slow_at(&self, settings: &Settings) -> Option<Instant> {
        let fair = self.fair(settings)? + settings.write_timeout();
        self.since.checked_add(fair)
    }

    /// When it is too slow, unless more comes in. The first `read_timeout` does not count.
    pub(super) fn late_at(&self, settings: &Settings, read_since: Instant) -> Option<Instant> {
        let fair = self.fair(settings)? + settings.read_timeout();
        self.since.max(read_since).checked_add(fair)
    }

    /// How long this many bytes may take. `None`: any time.
    fn fair(&self, settings: &Settings) -> Option<Duration> {
        let millis = self.bytes.saturating_mul(1000);
        let fair = millis.checked_div(settings.limits().min_rate)?;
        Some(Duration::from_millis(fair))
    }
}
