//! A `Site` in the Prometheus text format, version 0.0.4.

use super::collect::Site;
use super::counts::COUNTS;
use super::figures::{FRONT, SITE, USAGE};
use super::{FrontState, Snapshot, WorkerState};
use std::fmt::Write;

/// All metrics. Counts are per front; `sum by (site)` adds them up.
pub(super) fn render(site: &Site) -> String {
    let mut out = Metrics {
        out: String::new(),
        site: escape(&site.name()),
    };
    let fronts = || {
        site.fronts
            .iter()
            .map(|f| (format!("front=\"{}\"", f.snapshot.pid), f))
    };
    let alive = flag(!site.fronts.is_empty());
    out.metric("up", "whether a front is alive", [(String::new(), alive)]);
    for figure in COUNTS {
        let value = |snapshot: &Snapshot| figure.unit.exact(snapshot.counters.get(figure.of));
        let samples = fronts().map(|(label, front)| (label, value(&front.snapshot)));
        out.metric(figure.metric, figure.help, samples);
    }
    for figure in &FRONT {
        let value = |snapshot| figure.unit.exact((figure.of)(site, snapshot));
        let samples = fronts().map(|(label, front)| (label, value(&front.snapshot)));
        out.metric(figure.metric, figure.help, samples);
    }
    let fault = fronts().map(|(label, f)| (label, flag(f.snapshot.state == FrontState::Fault)));
    out.metric("fault", "whether the front can serve nothing", fault);
    let silent = fronts().map(|(label, f)| (label, flag(f.silent.is_some())));
    out.metric("silent", "whether the front hangs or is stopped", silent);
    let workers = fronts().flat_map(|(label, front)| {
        WorkerState::ALL.map(|state| {
            let number = front
                .snapshot
                .workers
                .iter()
                .filter(|w| w.state == state)
                .count();
            (
                format!("{label},state=\"{}\"", state.name()),
                number.to_string(),
            )
        })
    });
    out.metric("workers", "workers by state", workers);
    let of_site = site.site_workers();
    for figure in &SITE {
        let value = figure.unit.exact((figure.of)(&of_site));
        out.metric(figure.metric, figure.help, [(String::new(), value)]);
    }
    let most = of_site.most.map(|most| (String::new(), most.to_string()));
    let help = "the most workers that the site may have now";
    out.metric("site_workers_limit", help, most);
    let processes = site.processes();
    for figure in &USAGE {
        let samples = processes.iter().filter_map(|process| {
            let label = format!("kind=\"{}\",pid=\"{}\"", process.kind, process.pid);
            Some((label, figure.unit.exact((figure.of)(process.usage?))))
        });
        out.metric(figure.metric, figure.help, samples);
    }
    let limits = || {
        site.limits
            .iter()
            .map(|l| (format!("resource=\"{}\"", l.resource.key), l))
    };
    let used = limits().map(|(label, limit)| (label, limit.used.to_string()));
    out.metric(
        "account_used",
        "what the account uses of each limited resource",
        used,
    );
    let most = limits().filter_map(|(label, limit)| Some((label, limit.most?.to_string())));
    out.metric("account_limit", "limits of the account", most);
    out.out
}

fn flag(value: bool) -> String {
    u8::from(value).to_string()
}

struct Metrics {
    out: String,
    site: String,
}

impl Metrics {
    /// Appends a metric with its samples: pairs of labels and value.
    fn metric(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, String)>,
    ) {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        let _ = write!(
            self.out,
            "# HELP runfcgi_{name} {help}\n# TYPE runfcgi_{name} {kind}\n"
        );
        for (labels, value) in samples {
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = writeln!(
                self.out,
                "runfcgi_{name}{{site=\"{}\"{comma}{labels}}} {value}",
                self.site
            );
        }
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
    fn samples_follow_their_type_line() {
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
