//! A `Site` in Prometheus' text form 0.0.4.

use super::collect::Site;
use super::{COUNTS, Count, Doing, State};
use crate::sys::procfs::Usage;
use std::fmt::{Display, Write};

/// All metrics. Counts are each front's own: `sum by (site)` adds them.
pub(super) fn render(site: &Site) -> String {
    let mut out = Metrics {
        out: String::new(),
        site: site.name(),
    };
    out.head("up", "gauge", "whether a front is alive");
    out.sample("up", &[], u8::from(!site.fronts.is_empty()));
    for (count, name, help) in COUNTS {
        let (name, help) = match count {
            Count::BusyMillis => ("busy_seconds", "seconds that workers spent on requests"),
            _ => (name, help),
        };
        let name = format!("{name}_total");
        out.head(&name, "counter", help);
        for front in &site.fronts {
            let value = front.snapshot.counters.get(count);
            let front = front.snapshot.pid.to_string();
            match count {
                Count::BusyMillis => out.sample(&name, &[("front", &front)], seconds(value)),
                _ => out.sample(&name, &[("front", &front)], value),
            }
        }
    }
    gauges(&mut out, site);
    processes(&mut out, site);
    out.head(
        "account_used",
        "gauge",
        "what the account uses of what is limited",
    );
    for limit in &site.limits {
        out.sample(
            "account_used",
            &[("resource", limit.resource.key)],
            limit.used,
        );
    }
    out.head("account_limit", "gauge", "limits of the account");
    for limit in &site.limits {
        if let Some(most) = limit.most {
            out.sample("account_limit", &[("resource", limit.resource.key)], most);
        }
    }
    out.out
}

fn gauges(out: &mut Metrics, site: &Site) {
    let fronts = |out: &mut Metrics,
                  name: &str,
                  help: &str,
                  value: &dyn Fn(&super::collect::Front) -> u64| {
        out.head(name, "gauge", help);
        for front in &site.fronts {
            out.sample(
                name,
                &[("front", &front.snapshot.pid.to_string())],
                value(front),
            );
        }
    };
    fronts(
        out,
        "connections",
        "open connections from the web server",
        &|f| f.snapshot.connections,
    );
    fronts(
        out,
        "queued_requests",
        "requests that wait for a worker",
        &|f| f.snapshot.queued,
    );
    fronts(out, "max_workers", "workers at the most", &|f| {
        f.snapshot.max_workers
    });
    fronts(out, "fault", "whether the front can serve nothing", &|f| {
        u64::from(f.snapshot.state == State::Fault)
    });
    fronts(
        out,
        "silent",
        "whether the front hangs or is stopped",
        &|f| u64::from(f.silent.is_some()),
    );
    out.head("workers", "gauge", "workers by what they do");
    for front in &site.fronts {
        let pid = front.snapshot.pid.to_string();
        for doing in [Doing::Starting, Doing::Idle, Doing::Busy, Doing::Leaving] {
            let number = front
                .snapshot
                .workers
                .iter()
                .filter(|w| w.doing == doing)
                .count();
            out.sample(
                "workers",
                &[("front", &pid), ("state", doing.name())],
                number,
            );
        }
    }
}

fn processes(out: &mut Metrics, site: &Site) {
    let mut all: Vec<(&str, u32, Usage)> = Vec::new();
    for front in &site.fronts {
        all.extend(
            front
                .usage
                .map(|usage| ("front", front.snapshot.pid, usage)),
        );
        for (worker, usage) in front.snapshot.workers.iter().zip(&front.workers) {
            all.extend(usage.map(|usage| ("worker", worker.pid, usage)));
        }
    }
    for preloader in &site.preloaders {
        all.extend(
            preloader
                .usage
                .map(|usage| ("preloader", preloader.pid, usage)),
        );
    }
    out.head(
        "process_memory_bytes",
        "gauge",
        "share of memory (PSS where it can be read, else RSS)",
    );
    for (kind, pid, usage) in &all {
        out.sample(
            "process_memory_bytes",
            &[("kind", kind), ("pid", &pid.to_string())],
            usage.bytes,
        );
    }
    out.head("process_cpu_seconds_total", "counter", "processor time");
    for (kind, pid, usage) in &all {
        out.sample(
            "process_cpu_seconds_total",
            &[("kind", kind), ("pid", &pid.to_string())],
            seconds(usage.cpu_ms),
        );
    }
    out.head("process_threads", "gauge", "threads");
    for (kind, pid, usage) in &all {
        out.sample(
            "process_threads",
            &[("kind", kind), ("pid", &pid.to_string())],
            usage.threads,
        );
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

struct Metrics {
    out: String,
    site: String,
}

impl Metrics {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(
            self.out,
            "# HELP runfcgi_{name} {help}\n# TYPE runfcgi_{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.out, "runfcgi_{name}{{site=\"{}\"", escape(&self.site));
        for (label, text) in labels {
            let _ = write!(self.out, ",{label}=\"{}\"", escape(text));
        }
        let _ = writeln!(self.out, "}} {value}");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::collect::tests::example;

    #[test]
    fn samples_follow_their_heads() {
        let mut site = example();
        site.config = String::from("/a/odd \"name\\.toml");
        let text = render(&site);
        let mut name = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => name = rest.split(' ').next().unwrap(),
                None if line.starts_with('#') => {
                    assert!(line.starts_with("# HELP runfcgi_"), "{line}")
                }
                None => {
                    let rest = line
                        .strip_prefix(name)
                        .unwrap_or_else(|| panic!("{line} is not below {name}"));
                    assert!(rest.starts_with("{site=\"odd \\\"name\\\\\""), "{line}");
                    assert!(
                        rest.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                        "{line}"
                    );
                }
            }
        }
        assert!(
            text.contains(
                "runfcgi_busy_seconds_total{site=\"odd \\\"name\\\\\",front=\"100\"} 0.007\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(",kind=\"worker\",pid=\"101\"} 36700160\n"),
            "{text}"
        );
    }
}
