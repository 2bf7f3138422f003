//! `Repeats`: limits how often events of one kind are logged. The first few in a period are logged one by one; the rest
//! are counted, and summarised when the period ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Events of a kind that are logged one by one in a period.
const BURST: u32 = 5;
/// The length of a period, which begins with the first event of a kind.
const PERIOD: Duration = Duration::from_secs(10);
/// Kinds that are counted separately at a time, to bound memory. All further ones share one count.
const MAX_KINDS: usize = 64;

/// The kinds of events seen recently, by fingerprint. Of the suppressed events of each kind only the last `T` is kept.
#[derive(Debug)]
pub(super) struct Repeats<T> {
    kinds: BTreeMap<u64, Period<T>>,
}

#[derive(Debug)]
struct Period<T> {
    began: Instant,
    /// Events logged one by one.
    logged: u32,
    /// Events counted instead.
    suppressed: u64,
    /// The last suppressed event.
    last: Option<T>,
}

impl<T> Default for Repeats<T> {
    fn default() -> Repeats<T> {
        Repeats {
            kinds: BTreeMap::new(),
        }
    }
}

impl<T> Repeats<T> {
    /// Takes an event. Returns it if it is to be logged now, and `None` if it is suppressed.
    pub(super) fn admit(&mut self, kind: u64, event: T, now: Instant) -> Option<T> {
        self.kinds
            .retain(|_, period| period.suppressed > 0 || now < period.end());
        let known = self.kinds.contains_key(&kind) || self.kinds.len() < MAX_KINDS;
        let period = self
            .kinds
            .entry(if known { kind } else { 0 })
            .or_insert(Period {
                began: now,
                logged: 0,
                suppressed: 0,
                last: None,
            });
        if period.logged < BURST {
            period.logged += 1;
            return Some(event);
        }
        period.suppressed += 1;
        period.last = Some(event);
        None
    }

    /// When the next summary is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.kinds.values().filter(|period| period.suppressed > 0);
        waiting.map(Period::end).min()
    }

    /// A summary that is due: how many events of a kind were suppressed, in how many seconds, and the last of them.
    pub(super) fn next_summary(&mut self, now: Instant) -> Option<(u64, u64, T)> {
        let is_due = |period: &Period<T>| period.suppressed > 0 && period.end() <= now;
        let (kind, _) = self.kinds.iter().find(|(_, period)| is_due(period))?;
        let kind = *kind;
        let period = self.kinds.remove(&kind)?;
        let seconds = now.saturating_duration_since(period.began).as_secs();
        Some((period.suppressed, seconds, period.last?))
    }
}

impl<T> Period<T> {
    fn end(&self) -> Instant {
        self.began + PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_summarised() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut repeats = Repeats::default();
        let logged = (0..100).filter_map(|n| repeats.admit(7, n, at(n / 20)));
        assert_eq!(logged.collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(repeats.deadline(), Some(at(10)));
        assert_eq!(repeats.next_summary(at(9)), None);
        assert_eq!(repeats.next_summary(at(10)), Some((95, 10, 99)));
        assert_eq!(
            (repeats.deadline(), repeats.next_summary(at(60))),
            (None, None)
        );
        assert_eq!(repeats.admit(7, 100, at(60)), Some(100));
    }

    #[test]
    fn occasional_events_are_all_logged() {
        let begin = Instant::now();
        let mut repeats = Repeats::default();
        for n in 0..100 {
            let at = begin + Duration::from_secs(n * 3);
            assert_eq!(repeats.admit(7, n, at), Some(n));
        }
        assert_eq!(repeats.deadline(), None);
    }

    #[test]
    fn a_flood_of_many_kinds_is_bounded_too() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        let logged = (1..=10_000).filter_map(|n| repeats.admit(n, n, now));
        assert_eq!(logged.count(), MAX_KINDS + BURST as usize);
        assert_eq!(repeats.kinds.len(), MAX_KINDS + 1);
        let rest = 10_000 - MAX_KINDS as u64 - u64::from(BURST);
        assert_eq!(repeats.next_summary(now + PERIOD), Some((rest, 10, 10_000)));
    }
}
