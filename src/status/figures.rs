//! What every format shows: the figures, the table of processes, and how numbers are written.

use super::collect::{Front, Preloader, Site};
use super::site_workers::{KeptWorker, SiteWorkers};
use super::{Count, RunningRequest, Snapshot, Worker};
use crate::log::Utc;
use crate::sys::limits::Limit;
use crate::sys::procfs::Usage;
use std::time::{Duration, UNIX_EPOCH};

/// A number that is shown. To add one, add a row to `COUNTS`, `FRONT`, `SITE` or `USAGE`; every format shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure<F> {
    /// Its name in JSON and in status files.
    pub(super) key: &'static str,
    /// Its name in Prometheus, after `runfcgi_`.
    pub(super) metric: &'static str,
    /// Its label for people; empty when only programs see it.
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    /// A phrase that explains it.
    pub(super) help: &'static str,
    /// Where its value comes from.
    pub(super) of: F,
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Number,
    /// A number that is 0 when all is well.
    Failures,
    Bytes,
    /// Shown as seconds.
    Millis,
}

type OfFront = fn(&Site, &Snapshot) -> u64;
type OfWorkers = fn(&SiteWorkers) -> u64;
pub(super) type OfUsage = fn(&Usage) -> u64;

/// The figures of each front, besides its counts.
#[rustfmt::skip]
pub(super) const FRONT: [Figure<OfFront>; 7] = [
    Figure { key: "age_seconds", metric: "age_seconds", title: "", unit: Unit::Millis,
             help: "time since the front started", of: |site, front| site.since(front.started) },
    Figure { key: "written_seconds_ago", metric: "written_seconds_ago", title: "", unit: Unit::Millis,
             help: "time since the front last reported", of: |site, front| site.since(front.written) },
    Figure { key: "connections", metric: "connections", title: "", unit: Unit::Number,
             help: "open connections from the web server", of: |_, front| front.connections },
    Figure { key: "queued", metric: "queued_requests", title: "", unit: Unit::Number,
             help: "requests that wait for a worker", of: |_, front| front.queued },
    Figure { key: "queued_seconds", metric: "queued_seconds", title: "", unit: Unit::Millis,
             help: "time that the oldest of them has waited",
             of: |site, front| if front.queued == 0 { 0 } else { site.since(front.queued_since) } },
    Figure { key: "spooled_bytes", metric: "spooled_bytes", title: "", unit: Unit::Bytes,
             help: "large bodies and slowly read responses on disk (limit: spool)", of: |_, front| front.spooled },
    Figure { key: "max_workers", metric: "max_workers", title: "", unit: Unit::Number,
             help: "largest number of workers", of: |_, front| front.max_workers },
];

/// The figures of the site's workers.
#[rustfmt::skip]
pub(super) const SITE: [Figure<OfWorkers>; 3] = [
    Figure { key: "serving", metric: "site_workers_serving", title: "workers serving", unit: Unit::Number,
             help: "workers that fronts have", of: |workers| workers.serving },
    Figure { key: "kept", metric: "site_workers_kept", title: "workers kept", unit: Unit::Number,
             help: "idle workers that are kept for the next front", of: |workers| workers.kept.len() as u64 },
    Figure { key: "waiting", metric: "site_fronts_waiting", title: "fronts in line", unit: Unit::Number,
             help: "fronts that wait in line for a worker", of: |workers| workers.waiting },
];

/// The figures of each process.
#[rustfmt::skip]
pub(super) const USAGE: [Figure<OfUsage>; 3] = [
    Figure { key: "cpu_seconds", metric: "process_cpu_seconds_total", title: "CPU s", unit: Unit::Millis,
             help: "processor time", of: |usage| usage.cpu_ms },
    Figure { key: "memory_bytes", metric: "process_memory_bytes", title: "MB", unit: Unit::Bytes,
             help: "share of memory (PSS where it can be read, else RSS)", of: |usage| usage.bytes },
    Figure { key: "threads", metric: "process_threads", title: "Thr", unit: Unit::Number,
             help: "threads", of: |usage| usage.threads },
];

impl<F> Figure<F> {
    /// What it is called where there is room for more than its title: its help begins with that.
    pub(super) fn full_name(&self) -> &'static str {
        self.help.split(" (").next().unwrap_or(self.help)
    }
}

impl Unit {
    /// For people.
    pub(super) fn show(self, number: u64) -> String {
        match self {
            Unit::Number | Unit::Failures => grouped(number),
            Unit::Bytes => format!("{:.1}", number as f64 / f64::from(1 << 20)),
            Unit::Millis => format!("{}.{:02}", number / 1000, number % 1000 / 10),
        }
    }

    /// What stands behind the number that `show` gives.
    pub(super) fn measure(self) -> &'static str {
        match self {
            Unit::Number | Unit::Failures => "",
            Unit::Bytes => " MB",
            Unit::Millis => " s",
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

/// A row of the table of processes.
#[derive(Debug, Default)]
pub(super) struct Process<'a> {
    /// front, worker or preloader.
    pub(super) kind: &'static str,
    /// Who started a front.
    pub(super) role: &'a str,
    /// 0 when unknown.
    pub(super) pid: u32,
    /// A word or two.
    pub(super) state: &'static str,
    /// Milliseconds in this state, where that matters.
    pub(super) duration: Option<u64>,
    /// It runs older code.
    pub(super) outdated: bool,
    served: Option<u64>,
    age: Option<u64>,
    pub(super) usage: Option<&'a Usage>,
    /// The requests that it is serving.
    pub(super) requests: &'a [RunningRequest],
    /// Its last failure; empty if there was none.
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
            duration: front.silent,
            served: Some(snapshot.counters.get(Count::Requests)),
            age: Some(site.since(snapshot.started)),
            usage: front.usage.as_ref(),
            ..Process::default()
        }
    }

    pub(super) fn worker(site: &Site, worker: &'a Worker, usage: Option<&'a Usage>) -> Process<'a> {
        let durations = worker.requests.iter().map(|r| site.since(r.since));
        Process {
            kind: "worker",
            pid: worker.pid,
            state: worker.state.name(),
            duration: durations.max(),
            outdated: worker.outdated,
            served: Some(worker.served),
            age: Some(site.since(worker.started)),
            usage,
            requests: &worker.requests,
            failure: &worker.failure,
            ..Process::default()
        }
    }

    /// A worker that the preloader keeps.
    pub(super) fn kept(site: &Site, worker: &KeptWorker, usage: Option<&'a Usage>) -> Process<'a> {
        Process {
            kind: "worker",
            pid: worker.pid,
            state: "kept",
            duration: Some(site.since(worker.since)),
            served: Some(worker.served),
            age: usage.map(|usage| usage.age_ms),
            usage,
            ..Process::default()
        }
    }

    /// The pid as text.
    pub(super) fn pid(&self) -> String {
        match self.pid {
            0 => String::from("?"),
            pid => pid.to_string(),
        }
    }

    /// The numbers of the row, below `headings`.
    pub(super) fn cells(&self) -> impl Iterator<Item = String> {
        let own = [self.served.map(grouped), self.age.map(ago)];
        let usage = USAGE
            .iter()
            .map(|figure| Some(figure.unit.show((figure.of)(self.usage?))));
        own.into_iter().chain(usage).map(Option::unwrap_or_default)
    }

    /// `alone` when no front is left.
    pub(super) fn preloader(preloader: &'a Preloader, alone: bool) -> Process<'a> {
        Process {
            kind: "preloader",
            pid: preloader.pid,
            state: match (preloader.current, alone) {
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

/// The titles above `Process::cells`, each with an explanation.
pub(super) fn headings() -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = [
        ("Requests", "requests served"),
        ("Age", "time since it started"),
    ];
    own.into_iter()
        .chain(USAGE.iter().map(|figure| (figure.title, figure.help)))
}

/// A limit as text, and whether it is nearly reached.
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
pub(crate) fn plural(number: u64, thing: &str) -> String {
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
pub(crate) fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A point in time, in milliseconds since 1970, as ISO 8601 text.
pub(crate) fn time(ms: u64) -> String {
    Utc::from(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::counts::COUNTS;
    use super::*;

    #[test]
    fn numbers_are_written_for_people_and_programs() {
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
        let workers = SITE.iter().map(|f| (f.key, f.metric));
        let all = front.chain(usage).chain(counts).chain(workers);
        let (keys, metrics): (Vec<_>, Vec<_>) = all.unzip();
        for names in [keys, metrics] {
            let unique: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{names:?}");
        }
    }

    #[test]
    fn every_figure_is_shown_in_every_form() {
        use crate::status::{html, json, prometheus, text};
        let site = crate::status::collect::tests::example();
        let front = FRONT.iter().map(|f| (f.key, f.metric, f.title, ""));
        let usage = USAGE
            .iter()
            .map(|f| (f.key, f.metric, f.title, f.full_name()));
        let counts = COUNTS.iter().map(|f| (f.key, f.metric, f.title, f.title));
        let workers = SITE.iter().map(|f| (f.key, f.metric, f.title, f.title));
        for (key, metric, title, name) in front.chain(usage).chain(counts).chain(workers) {
            assert!(
                json::render(&site).contains(&format!("\"{key}\":")),
                "{key}"
            );
            let sample = format!("\nrunfcgi_{metric}{{site=\"my site\"");
            assert!(prometheus::render(&site).contains(&sample), "{metric}");
            assert!(text::render(&site, true).contains(title), "{title}");
            let tile = format!("<span class=\"s\">{name}</span></div>");
            assert!(
                name.is_empty() || html::render(&site).contains(&tile),
                "{name}"
            );
        }
    }
}
