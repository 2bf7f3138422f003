//! What a front counts: events since it started, and requests in each minute of the last hour. Reads no clock.

use super::figures::Figure;
use super::figures::Unit::{Failures, Millis, Number};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Minutes of history.
pub const MINUTES: usize = 60;

macro_rules! counts {
    ($($of:ident: $key:literal, $metric:literal, $title:literal, $unit:expr, $help:literal;)*) => {
        /// An event that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $(#[doc = $help] $of),* }

        /// Every count; those without a title are only shown to programs.
        pub(super) const COUNTS: [Figure<Count>; [$(Count::$of),*].len()] = [
            $(Figure { key: $key, metric: $metric, title: $title, unit: $unit, help: $help, of: Count::$of }),*
        ];
    };
}

counts! {
    Requests: "requests", "requests_total", "requests", Number, "requests for the app";
    Failed: "failed", "failed_total", "failed", Failures, "requests that runfcgi answered with an error of its own";
    ServerErrors: "server_errors", "server_errors_total", "", Failures,
        "responses with status 500 and above, including the app's own";
    TimedOut: "timed_out", "timed_out_total", "timed out", Failures, "requests that ran longer than request_timeout";
    TurnedAway: "turned_away", "turned_away_total", "turned away", Failures,
        "requests answered with 503 because the queue was full or too slow";
    Aborted: "aborted", "aborted_total", "", Number, "requests that the visitor cancelled";
    BusyMillis: "busy_ms", "busy_seconds_total", "", Millis, "time that workers spent on requests";
    Restarts: "restarts", "restarts_total", "restarts", Number, "restarts with new code, settings or executable";
    BootFailures: "boot_failures", "boot_failures_total", "failed starts", Failures,
        "failed imports of the app and failed starts of workers";
    WorkersStarted: "workers_started", "workers_started_total", "workers started", Number, "workers that started";
    WorkerDeaths: "worker_deaths", "worker_deaths_total", "workers died", Failures,
        "workers that died unexpectedly";
}

/// One number for each of `COUNTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Counters([u64; COUNTS.len()]);

impl From<BTreeMap<String, u64>> for Counters {
    fn from(named: BTreeMap<String, u64>) -> Counters {
        Counters(COUNTS.map(|figure| named.get(figure.key).copied().unwrap_or(0)))
    }
}

impl From<Counters> for BTreeMap<String, u64> {
    fn from(counters: Counters) -> BTreeMap<String, u64> {
        COUNTS
            .map(|figure| (figure.key.to_owned(), counters.get(figure.of)))
            .into()
    }
}

impl Counters {
    /// Adds to a count.
    pub fn add(&mut self, count: Count, more: u64) {
        self.0[count as usize] = self.0[count as usize].saturating_add(more);
    }

    /// The count so far.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Adds the counts of another front.
    pub fn merge(&mut self, other: &Counters) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(more);
        }
    }
}

/// Requests in each of the last sixty minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The current minute, in minutes since 1970.
    pub(super) minute: u64,
    /// `MINUTES` numbers; the last is that of the current minute.
    #[serde(deserialize_with = "row")]
    pub requests: Vec<u32>,
    /// How many of these were answered with status 500 and above.
    #[serde(deserialize_with = "row")]
    pub failed: Vec<u32>,
}

impl Default for History {
    fn default() -> History {
        History {
            minute: 0,
            requests: vec![0; MINUTES],
            failed: vec![0; MINUTES],
        }
    }
}

impl History {
    /// Counts a request at `now`, in milliseconds since 1970.
    pub fn request(&mut self, now: u64) {
        self.advance(now);
        self.requests[MINUTES - 1] += 1;
    }

    /// Counts a failed request at `now`.
    pub fn failure(&mut self, now: u64) {
        self.advance(now);
        self.failed[MINUTES - 1] += 1;
    }

    /// Makes the minute of `now` the current one, unless time has gone backwards.
    pub fn advance(&mut self, now: u64) {
        let minute = now / 60_000;
        if minute > self.minute {
            let by = usize::try_from(minute - self.minute)
                .unwrap_or(MINUTES)
                .min(MINUTES);
            for row in [&mut self.requests, &mut self.failed] {
                row.rotate_left(by % MINUTES);
                row[MINUTES - by..].fill(0);
            }
            self.minute = minute;
        }
    }

    /// Adds the numbers of another front. Both must be at the same minute.
    pub fn merge(&mut self, other: &History) {
        for at in 0..MINUTES {
            self.requests[at] = self.requests[at].saturating_add(other.requests[at]);
            self.failed[at] = self.failed[at].saturating_add(other.failed[at]);
        }
    }
}

fn row<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    let mut row = Vec::deserialize(from)?;
    row.resize(MINUTES, 0);
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_the_order_of_the_enum() {
        for (at, figure) in COUNTS.iter().enumerate() {
            assert_eq!(at, figure.of as usize);
        }
    }

    #[test]
    fn history_moves_with_the_minutes() {
        let minute = |n: u64| n * 60_000;
        let mut history = History::default();
        history.request(minute(1000));
        history.request(minute(1000) + 59_999);
        history.request(minute(1002));
        assert_eq!(history.requests[MINUTES - 3..], [2, 0, 1]);
        history.advance(minute(1001));
        assert_eq!(history.requests[MINUTES - 1], 1, "time does not go back");
        history.advance(minute(1059));
        assert_eq!(history.requests[..3], [2, 0, 1]);
        assert_eq!(history.requests.iter().sum::<u32>(), 3);
        history.advance(minute(1060));
        assert_eq!(history.requests[..2], [0, 1]);
        history.advance(minute(5000));
        assert_eq!(history.requests, [0; MINUTES]);
        let both = {
            let mut h = history.clone();
            h.request(minute(5000));
            h.merge(&h.clone());
            h
        };
        assert_eq!(both.requests[MINUTES - 1], 2);
    }
}
