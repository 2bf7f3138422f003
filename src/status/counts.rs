//! What a front counts: events since it began, and requests in each minute of the last hour. Reads no clock.

/// Minutes of history.
pub const MINUTES: usize = 60;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // COUNTS says it
pub enum Count {
    Requests,
    Failed,
    ServerErrors,
    TimedOut,
    TurnedAway,
    Aborted,
    BusyMillis,
    Restarts,
    BootFailures,
    WorkersStarted,
    WorkerDeaths,
}

/// Every count, its name in files and for programs, and what it means.
pub const COUNTS: [(Count, &str, &str); 11] = [
    (Count::Requests, "requests", "requests for the app"),
    (
        Count::Failed,
        "failed",
        "requests that runfcgi answered with an error of its own",
    ),
    (
        Count::ServerErrors,
        "server_errors",
        "answers with status 500 and above, the app's included",
    ),
    (
        Count::TimedOut,
        "timed_out",
        "requests that ran longer than request_timeout",
    ),
    (
        Count::TurnedAway,
        "turned_away",
        "requests answered 503, as the queue was full or too slow",
    ),
    (
        Count::Aborted,
        "aborted",
        "requests that the visitor did not wait for",
    ),
    (
        Count::BusyMillis,
        "busy_ms",
        "milliseconds that workers spent on requests",
    ),
    (
        Count::Restarts,
        "restarts",
        "changes to new code, settings or executable",
    ),
    (
        Count::BootFailures,
        "boot_failures",
        "imports of the app, and starts of workers, that failed",
    ),
    (
        Count::WorkersStarted,
        "workers_started",
        "workers that started",
    ),
    (
        Count::WorkerDeaths,
        "worker_deaths",
        "workers that ended before their time",
    ),
];

/// A number for each of `COUNTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; COUNTS.len()]);

impl Counters {
    /// Counts.
    pub fn add(&mut self, count: Count, more: u64) {
        self.0[count as usize] = self.0[count as usize].saturating_add(more);
    }

    /// How many so far.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Counters) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(more);
        }
    }
}

/// Requests in each of the last sixty minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The last one, counted from 1970.
    pub(super) minute: u64,
    /// The last one is the minute that goes on.
    pub requests: [u32; MINUTES],
    /// Of these, answered with status 500 and above.
    pub failed: [u32; MINUTES],
}

impl Default for History {
    fn default() -> History {
        History {
            minute: 0,
            requests: [0; MINUTES],
            failed: [0; MINUTES],
        }
    }
}

impl History {
    /// A request came at `now`.
    pub fn request(&mut self, now: u64) {
        self.turn(now);
        self.requests[MINUTES - 1] += 1;
    }

    /// A request failed at `now`.
    pub fn failure(&mut self, now: u64) {
        self.turn(now);
        self.failed[MINUTES - 1] += 1;
    }

    /// Lets the last minute be the one of `now`.
    pub fn turn(&mut self, now: u64) {
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

    /// Adds another's minutes; both are as of now.
    pub fn merge(&mut self, other: &History) {
        for at in 0..MINUTES {
            self.requests[at] = self.requests[at].saturating_add(other.requests[at]);
            self.failed[at] = self.failed[at].saturating_add(other.failed[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_stands_in_its_place() {
        for (at, (count, ..)) in COUNTS.iter().enumerate() {
            assert_eq!(at, *count as usize);
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
        history.turn(minute(1001));
        assert_eq!(history.requests[MINUTES - 1], 1, "time does not go back");
        history.turn(minute(1059));
        assert_eq!(history.requests[..3], [2, 0, 1]);
        assert_eq!(history.requests.iter().sum::<u32>(), 3);
        history.turn(minute(1060));
        assert_eq!(history.requests[..2], [0, 1]);
        history.turn(minute(5000));
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
