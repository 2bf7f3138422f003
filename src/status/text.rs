//! A `Site` as text for people: eighty columns.

use super::collect::{Front, Site};
use super::{Count, Doing, MINUTES, Note};
use crate::log::Utc;
use crate::sys::procfs::Usage;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// Columns of a terminal.
const WIDTH: usize = 80;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['.', ':', '-', '=', '+', '*', '%', '#'];

/// The whole page. `unicode`: the terminal shows more than ASCII.
pub(super) fn render(site: &Site, unicode: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}: {}", site.name(), summary(site));
    let _ = writeln!(out, "{}, as of {}", site.config, time(site.now));
    for note in &site.notes {
        put_wrapped(&mut out, note);
    }
    if !site.fronts.is_empty() {
        put_numbers(&mut out, site, unicode);
    }
    if !site.fronts.is_empty() || !site.preloaders.is_empty() {
        put_processes(&mut out, site);
    }
    if !site.fronts.is_empty() {
        put_limits(&mut out, site);
    }
    out
}

/// The site in a line.
pub(super) fn summary(site: &Site) -> String {
    if site.fronts.is_empty() {
        return String::from(if site.preloaders.is_empty() {
            "not running"
        } else {
            "not running; the app is still loaded, for the next visitor"
        });
    }
    let workers: usize = site
        .fronts
        .iter()
        .map(|front| front.snapshot.workers.len())
        .sum();
    format!(
        "{}; {}, {} ({} busy), {} waiting",
        site.state(),
        counted(site.fronts.len() as u64, "front"),
        counted(workers as u64, "worker"),
        site.workers(Doing::Busy),
        counted(site.queued(), "request"),
    )
}

fn put_numbers(out: &mut String, site: &Site, unicode: bool) {
    let counters = site.counters();
    let count = |count| grouped(counters.get(count));
    let history = site.history();
    let _ = writeln!(
        out,
        "\nrequests  {}; {} failed, {} timed out, {} turned away",
        count(Count::Requests),
        count(Count::Failed),
        count(Count::TimedOut),
        count(Count::TurnedAway)
    );
    let _ = writeln!(
        out,
        "workers   {} started, {} died, {} failed to start; {}",
        count(Count::WorkersStarted),
        count(Count::WorkerDeaths),
        count(Count::BootFailures),
        counted(counters.get(Count::Restarts), "restart"),
    );
    let peak = history.requests.iter().max().copied().unwrap_or(0);
    let bars = if unicode { BARS } else { ASCII_BARS };
    let line: String = history
        .requests
        .iter()
        .map(|n| bar(*n, peak, bars))
        .collect();
    let now = history.requests[MINUTES - 1];
    let _ = writeln!(
        out,
        "last hour {line} {now} now\n          most in a minute: {}",
        grouped(peak.into())
    );
    for (name, note) in newest_notes(site) {
        let text = format!(
            "{name}, {} ago: {}",
            ago(site.now.saturating_sub(note.at)),
            note.text
        );
        put_wrapped(out, &text);
    }
}

/// The last failure and the last death of a worker.
pub(super) fn newest_notes(site: &Site) -> Vec<(&'static str, Note)> {
    let newest = |of: fn(&Front) -> &Option<Note>| {
        site.fronts
            .iter()
            .filter_map(|f| of(f).clone())
            .max_by_key(|n| n.at)
    };
    let failure = newest(|front| &front.snapshot.last_failure).map(|note| ("last failure", note));
    let death =
        newest(|front| &front.snapshot.last_death).map(|note| ("last worker that died", note));
    failure.into_iter().chain(death).collect()
}

fn bar(number: u32, peak: u32, bars: [char; 8]) -> char {
    match (number, peak) {
        (0, _) => ' ',
        (_, peak) => {
            bars[((number as usize * bars.len()).div_ceil(peak as usize)).clamp(1, bars.len()) - 1]
        }
    }
}

fn put_processes(out: &mut String, site: &Site) {
    let pss = site.usages().all(|usage| usage.is_pss);
    let memory = if pss { "PSS MB" } else { "MB" };
    let _ = writeln!(
        out,
        "\n{:>8}  {:<13}{:<17}{:>9}{:>9}{:>8}{:>8}{:>4} S",
        "PID", "PROCESS", "STATE", "SERVED", "AGE", "CPU s", memory, "THR"
    );
    for front in &site.fronts {
        let snapshot = &front.snapshot;
        let age = ago(site.now.saturating_sub(snapshot.started));
        let state = match front.silent {
            Some(ms) => format!("silent {}", ago(ms)),
            None => snapshot.state.name().to_owned(),
        };
        let served = snapshot.counters.get(Count::Requests).to_string();
        put_row(
            out,
            &snapshot.pid.to_string(),
            "front",
            &state,
            &served,
            &age,
            front.usage.as_ref(),
        );
        if !snapshot.trouble.is_empty() {
            put_wrapped(out, &format!("          {}", snapshot.trouble));
        }
        for (worker, usage) in snapshot.workers.iter().zip(&front.workers) {
            let longest = worker
                .requests
                .iter()
                .map(|r| site.now.saturating_sub(r.since))
                .max();
            let mut state = worker.doing.name().to_owned();
            if let Some(ms) = longest {
                let _ = write!(state, " {}", ago(ms));
            }
            if worker.old {
                state.push_str(" (old)");
            }
            let age = ago(site.now.saturating_sub(worker.born));
            let pid = if worker.pid == 0 {
                String::from("?")
            } else {
                worker.pid.to_string()
            };
            put_row(
                out,
                &pid,
                "  worker",
                &state,
                &worker.served.to_string(),
                &age,
                usage.as_ref(),
            );
            for request in &worker.requests {
                let line = format!("            {}", request.what);
                let _ = writeln!(out, "{}", cut(&line));
            }
            if !worker.failure.is_empty() {
                put_wrapped(out, &format!("            failed: {}", worker.failure));
            }
        }
    }
    for preloader in &site.preloaders {
        let state = match (preloader.current, site.fronts.is_empty()) {
            (true, _) => "in use",
            (false, true) => "lingers",
            (false, false) => "other code",
        };
        let pid = if preloader.pid == 0 {
            String::from("?")
        } else {
            preloader.pid.to_string()
        };
        let age = preloader
            .usage
            .map_or(String::new(), |usage| ago(usage.age_ms));
        put_row(
            out,
            &pid,
            "preloader",
            state,
            "",
            &age,
            preloader.usage.as_ref(),
        );
    }
    let total: u64 = site.usages().map(|usage| usage.bytes).sum();
    let cpu: u64 = site.usages().map(|usage| usage.cpu_ms).sum();
    let _ = writeln!(
        out,
        "{:>8}  {:<48}{:>8}{:>8}",
        "",
        "together",
        seconds(cpu),
        megabytes(total)
    );
}

fn put_row(
    out: &mut String,
    pid: &str,
    what: &str,
    state: &str,
    served: &str,
    age: &str,
    usage: Option<&Usage>,
) {
    let (cpu, memory, threads, letter) = usage.map_or_else(Default::default, |u| {
        (
            seconds(u.cpu_ms),
            megabytes(u.bytes),
            u.threads.to_string(),
            u.letter.to_string(),
        )
    });
    let line = format!(
        "{pid:>8}  {what:<13}{state:<17}{served:>9}{age:>9}{cpu:>8}{memory:>8}{threads:>4} {letter}"
    );
    let _ = writeln!(out, "{}", line.trim_end());
}

fn put_limits(out: &mut String, site: &Site) {
    let _ = writeln!(out, "\nlimits of the account");
    for limit in &site.limits {
        let show = |n: u64| {
            if limit.in_bytes() {
                format!("{} MB", megabytes(n))
            } else {
                grouped(n)
            }
        };
        let used = show(limit.used);
        let line = match (limit.most, limit.percent()) {
            (Some(most), percent) => {
                let warn = if percent.is_some_and(|p| p >= 80) {
                    "  !"
                } else {
                    ""
                };
                format!(
                    "{used} of {} ({} %){warn}",
                    show(most),
                    percent.unwrap_or(100)
                )
            }
            (None, _) => format!("{used}, no limit"),
        };
        let _ = writeln!(out, "  {:<28}{line}", limit.resource.name);
    }
}

/// Breaks between words; the indentation stays.
fn put_wrapped(out: &mut String, text: &str) {
    let indent = text.len() - text.trim_start().len();
    let indent = " ".repeat(indent);
    let mut line = indent.clone();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && !line.trim().is_empty() {
            let _ = writeln!(out, "{}", line.trim_end());
            line = format!("{indent}  ");
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

fn cut(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let kept: String = line.chars().take(WIDTH - 3).collect();
    kept + "..."
}

/// `1 worker`, `2 workers`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {thing}{s}", grouped(number))
}

/// 12,345.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
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

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:02}", ms / 1000, ms % 1000 / 10)
}

pub(super) fn time(ms: u64) -> Utc {
    Utc::from(UNIX_EPOCH + Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::collect::tests::example;

    #[test]
    fn lines_fit_and_all_is_said() {
        let text = render(&example(), true);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        for part in [
            "my site: hanging; 1 front, 2 workers (1 busy), 1 request waiting",
            "silent 30s",
            "busy 11s",
            "GET /a b/\"<c>",
            "failed: GET /<b>: OSError",
            "14 of 15 (93 %)  !",
            "100.0 MB, no limit",
            "in use",
            "other code",
            "last worker that died, 1h0m ago: killed",
            "a <note> & \"more\"",
            "1970-01-01T01:00:01Z",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(render(&example(), false).is_ascii());
    }

    #[test]
    fn a_site_that_does_not_run() {
        let mut site = example();
        site.fronts.clear();
        let text = render(&site, true);
        assert!(
            text.starts_with("my site: not running; the app is still loaded"),
            "{text}"
        );
        assert!(
            text.contains("lingers") && !text.contains("limits"),
            "{text}"
        );
        site.preloaders.clear();
        assert!(!render(&site, true).contains("PID"));
    }

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
        assert_eq!(
            (bar(0, 9, BARS), bar(1, 900, BARS), bar(9, 9, BARS)),
            (' ', '▁', '█')
        );
        assert_eq!(seconds(1239), "1.23");
    }
}
