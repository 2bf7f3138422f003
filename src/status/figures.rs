//! What is shown, once for all forms: the figures, the table of processes, what went wrong, and words for numbers.

use super::collect::{Front, Preloader, Site};
use super::{Count, Serving, Snapshot, Worker};
use crate::log::Utc;
use crate::sys::limits::Limit;
use crate::sys::procfs::Usage;
use std::time::{Duration, UNIX_EPOCH};

/// A number that is shown. A new one needs a row among `COUNTS`, `FRONT` or `USAGE`, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure<F> {
    /// Its name in JSON, and in a front's file.
    pub(super) key: &'static str,
    /// Its name for Prometheus, after `runfcgi_`.
    pub(super) metric: &'static str,
    /// Its name for people; empty: it is not for them.
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    /// What it means.
    pub(super) help: &'static str,
    /// How it is taken.
    pub(super) of: F,
}

/// What a figure is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Number,
    /// A number that should be 0.
    Failures,
    Bytes,
    /// Shown as seconds.
    Millis,
}

type OfFront = fn(&Site, &Snapshot) -> u64;
pub(super) type OfUsage = fn(&Usage) -> u64;

/// Of each front, beside its counts.
#[rustfmt::skip]
pub(super) const FRONT: [Figure<OfFront>; 6] = [
    Figure { key: "age_seconds", metric: "age_seconds", title: "", unit: Unit::Millis,
             help: "time since the front began to serve", of: |site, front| site.since(front.started) },
    Figure { key: "written_seconds_ago", metric: "written_seconds_ago", title: "", unit: Unit::Millis,
             help: "time since the front told of itself", of: |site, front| site.since(front.written) },
    Figure { key: "connections", metric: "connections", title: "", unit: Unit::Number,
             help: "open connections from the web server", of: |_, front| front.connections },
    Figure { key: "queued", metric: "queued_requests", title: "", unit: Unit::Number,
             help: "requests that wait for a worker", of: |_, front| front.queued },
    Figure { key: "queued_seconds", metric: "queued_seconds", title: "", unit: Unit::Millis,
             help: "time that the first of them has waited",
             of: |site, front| if front.queued == 0 { 0 } else { site.since(front.queued_since) } },
    Figure { key: "max_workers", metric: "max_workers", title: "", unit: Unit::Number,
             help: "workers at the most", of: |_, front| front.max_workers },
];

/// Of each process.
#[rustfmt::skip]
pub(super) const USAGE: [Figure<OfUsage>; 3] = [
    Figure { key: "cpu_seconds", metric: "process_cpu_seconds_total", title: "CPU s", unit: Unit::Millis,
             help: "processor time", of: |usage| usage.cpu_ms },
    Figure { key: "memory_bytes", metric: "process_memory_bytes", title: "MB", unit: Unit::Bytes,
             help: "share of memory (PSS where it can be read, else RSS)", of: |usage| usage.bytes },
    Figure { key: "threads", metric: "process_threads", title: "Thr", unit: Unit::Number,
             help: "threads", of: |usage| usage.threads },
];

impl Unit {
    /// For people.
    pub(super) fn show(self, number: u64) -> String {
        match self {
            Unit::Number | Unit::Failures => grouped(number),
            Unit::Bytes => format!("{:.1}", number as f64 / f64::from(1 << 20)),
            Unit::Millis => format!("{}.{:02}", number / 1000, number % 1000 / 10),
        }
    }

    /// For programs.
    pub(super) fn exact(self, number: u64) -> String {
        match self {
            Unit::Millis => format!("{}.{:03}", number / 1000, number % 1000),
            _ => number.to_string(),
        }
    }
}

/// A line of the table of processes.
#[derive(Debug, Default)]
pub(super) struct Process<'a> {
    /// front, worker or preloader.
    pub(super) kind: &'static str,
    /// By whom a front was started.
    pub(super) role: &'a str,
    /// 0: not known.
    pub(super) pid: u32,
    /// What it does, in a word.
    pub(super) state: &'static str,
    /// For how many milliseconds it has done that, if that matters.
    pub(super) lasts: Option<u64>,
    /// It runs older code.
    pub(super) old: bool,
    served: Option<u64>,
    age: Option<u64>,
    pub(super) usage: Option<&'a Usage>,
    /// What is being served.
    pub(super) requests: &'a [Serving],
    /// What has failed last.
    pub(super) failure: &'a str,
}

impl<'a> Process<'a> {
    pub(super) fn front(site: &Site, front: &'a Front) -> Process<'a> {
        let snapshot = &front.snapshot;
        Process {
            kind: "front",
            role: &snapshot.role,
            pid: snapshot.pid,
            state: front.silent.map_or(snapshot.state.name(), |_| "silent"),
            lasts: front.silent,
            served: Some(snapshot.counters.get(Count::Requests)),
            age: Some(site.since(snapshot.started)),
            usage: front.usage.as_ref(),
            ..Process::default()
        }
    }

    pub(super) fn worker(site: &Site, worker: &'a Worker, usage: Option<&'a Usage>) -> Process<'a> {
        let lasting = worker.requests.iter().map(|r| site.since(r.since));
        Process {
            kind: "worker",
            pid: worker.pid,
            state: worker.doing.name(),
            lasts: lasting.max(),
            old: worker.old,
            served: Some(worker.served),
            age: Some(site.since(worker.born)),
            usage,
            requests: &worker.requests,
            failure: &worker.failure,
            ..Process::default()
        }
    }

    /// Its pid for people.
    pub(super) fn pid(&self) -> String {
        match self.pid {
            0 => String::from("?"),
            pid => pid.to_string(),
        }
    }

    /// The numbers of its line.
    pub(super) fn cells(&self) -> impl Iterator<Item = String> {
        let own = [self.served.map(grouped), self.age.map(ago)];
        let usage = USAGE
            .iter()
            .map(|figure| Some(figure.unit.show((figure.of)(self.usage?))));
        own.into_iter().chain(usage).map(Option::unwrap_or_default)
    }

    /// `idle`: there is no front.
    pub(super) fn preloader(preloader: &'a Preloader, idle: bool) -> Process<'a> {
        Process {
            kind: "preloader",
            pid: preloader.pid,
            state: match (preloader.current, idle) {
                (true, _) => "in use",
                (false, true) => "lingers",
                (false, false) => "other code",
            },
            age: preloader.usage.map(|usage| usage.age_ms),
            usage: preloader.usage.as_ref(),
            ..Process::default()
        }
    }
}

/// What stands above `Process::cells`, and what it means.
pub(super) fn headings() -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = [
        ("Requests", "requests served"),
        ("Age", "time since it began"),
    ];
    own.into_iter()
        .chain(USAGE.iter().map(|figure| (figure.title, figure.help)))
}

/// A limit in words, and whether it is near.
pub(super) fn limit(limit: &Limit) -> (String, bool) {
    let show = |n: u64| match limit.in_bytes() {
        true => format!("{} MB", Unit::Bytes.show(n)),
        false => grouped(n),
    };
    let used = show(limit.used);
    match (limit.most, limit.percent()) {
        (None, _) => (format!("{used}, no limit"), false),
        (Some(most), percent) => {
            let percent = percent.unwrap_or(100);
            (
                format!("{used} of {} ({percent} %)", show(most)),
                percent >= 80,
            )
        }
    }
}

/// `1 worker`, `2 workers`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {thing}{s}", grouped(number))
}

/// 12,345.
pub(super) fn grouped(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1000), number % 1000),
    }
}

/// A time in its two largest units: `4s`, `3m12s`, `5h10m`, `2d4h`.
pub(super) fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A moment, for people and programs.
pub(super) fn time(ms: u64) -> String {
    Utc::from(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::counts::COUNTS;
    use super::*;

    #[test]
    fn words_for_numbers() {
        let ages = [
            (0, "0s"),
            (59_999, "59s"),
            (61_000, "1m1s"),
            (7_260_000, "2h1m"),
            (90_000_000, "1d1h"),
        ];
        for (ms, text) in ages {
            assert_eq!(ago(ms), text);
        }
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(Unit::Millis.show(1239), "1.23");
        assert_eq!(Unit::Millis.exact(1239), "1.239");
        assert_eq!(Unit::Bytes.show(3 << 19), "1.5");
    }

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        let front = FRONT.iter().map(|f| (f.key, f.metric));
        let usage = USAGE.iter().map(|f| (f.key, f.metric));
        let counts = COUNTS.iter().map(|f| (f.key, f.metric));
        let (keys, metrics): (Vec<_>, Vec<_>) = front.chain(usage).chain(counts).unzip();
        for names in [keys, metrics] {
            let unique: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{names:?}");
        }
    }

    #[test]
    fn every_figure_is_shown_in_every_form() {
        use crate::status::{html, json, prometheus, text};
        let site = crate::status::collect::tests::example();
        let front = FRONT.iter().map(|f| (f.key, f.metric, f.title));
        let usage = USAGE.iter().map(|f| (f.key, f.metric, f.title));
        let counts = COUNTS.iter().map(|f| (f.key, f.metric, f.title));
        for (key, metric, title) in front.chain(usage).chain(counts) {
            assert!(
                json::render(&site).contains(&format!("\"{key}\":")),
                "{key}"
            );
            let sample = format!("\nrunfcgi_{metric}{{site=\"my site\",");
            assert!(prometheus::render(&site).contains(&sample), "{metric}");
            assert!(text::render(&site, true).contains(title), "{title}");
            let tile = format!("<span class=\"s\">{title}</span></div>");
            assert!(
                title.is_empty() || html::render(&site).contains(&tile),
                "{title}"
            );
        }
    }
}
