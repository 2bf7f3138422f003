//! A `Site` as text, eighty columns wide.

use super::MINUTES;
use super::collect::Site;
use super::figures::{Process, SITE, USAGE, ago, grouped, headings, limit, time};

/// The width of a terminal.
const WIDTH: usize = 80;
/// Column widths of `Process::cells`; further cells are as wide as the last.
const WIDTHS: [usize; 5] = [10, 9, 8, 8, 4];
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['.', ':', '-', '=', '+', '*', '%', '#'];

/// The whole report, in ASCII unless `unicode` is set.
pub(super) fn render(site: &Site, unicode: bool) -> String {
    let mut lines = vec![
        format!("{}: {}", site.name(), site.summary()),
        format!("{}, as of {}", site.config, time(site.now)),
    ];
    lines.extend(site.problems().iter().map(|line| wrapped(line)));
    let running = !site.fronts.is_empty();
    if running || !site.preloaders.is_empty() {
        lines.push(format!("\n{}", wrapped(&workers(site))));
    }
    if running {
        let counts = site
            .counts()
            .map(|(f, n)| format!("{} {}", f.title, f.unit.show(n)));
        let counts: Vec<String> = counts.collect();
        let history = site.history().requests;
        let peak = history.iter().max().copied().unwrap_or(0);
        let bars = if unicode { BARS } else { ASCII_BARS };
        let picture: String = history.iter().map(|n| bar(*n, peak, bars)).collect();
        let (now, peak) = (history[MINUTES - 1], grouped(peak.into()));
        lines.push(wrapped(&counts.join("; ")));
        lines.push(format!("last hour {picture} {now} now"));
        lines.push(format!("          peak: {peak} a minute"));
    }
    if running || !site.preloaders.is_empty() {
        let titles = headings().map(|(title, _)| title.to_owned());
        lines.push(String::new());
        lines.push(row(["PID", "Process", "State", "S"], titles));
        lines.extend(site.processes().iter().flat_map(process));
        let pss = site.usages().all(|usage| usage.is_pss);
        let label = ["", "total", if pss { "(PSS)" } else { "" }, ""];
        let totals = USAGE.iter().map(|f| f.unit.show(site.total(f)));
        lines.push(row(
            label,
            [String::new(), String::new()].into_iter().chain(totals),
        ));
    }
    if running {
        lines.push(String::from("\nlimits of the account"));
        for (name, (words, near)) in site.limits.iter().map(|l| (l.resource.name, limit(l))) {
            let warning = if near { "  !" } else { "" };
            lines.push(format!("  {name:<28}{words}{warning}"));
        }
    }
    lines.join("\n") + "\n"
}

/// The workers of the site, and what bounds them.
fn workers(site: &Site) -> String {
    let workers = site.site_workers();
    let figures = SITE
        .iter()
        .map(|f| format!("{} {}", f.title, f.unit.show((f.of)(&workers))));
    figures
        .chain(workers.bound())
        .collect::<Vec<_>>()
        .join("; ")
}

fn bar(number: u32, peak: u32, bars: [char; 8]) -> char {
    if number == 0 {
        return ' ';
    }
    let high = (number as usize * bars.len()).div_ceil(peak.max(1) as usize);
    bars[high.clamp(1, bars.len()) - 1]
}

/// The table row of a process, and the lines below it.
fn process(process: &Process) -> Vec<String> {
    let indent = if process.kind == "worker" { "  " } else { "" };
    let duration = process.duration.map(|ms| format!(" {}", ago(ms)));
    let duration = duration.unwrap_or_default();
    let old = if process.outdated { " (old)" } else { "" };
    let state = format!("{}{duration}{old}", process.state);
    let letter = process.usage.map(|usage| usage.letter.to_string());
    let (pid, name) = (process.pid(), format!("{indent}{}", process.kind));
    let words = [&pid, &name, &state, letter.as_deref().unwrap_or_default()];
    let mut lines = vec![row(words, process.cells())];
    for request in process.requests {
        lines.push(cut(&format!("            {}", request.summary)));
    }
    if !process.failure.is_empty() {
        lines.push(wrapped(&format!("            failed: {}", process.failure)));
    }
    lines
}

/// A row of the table.
fn row([pid, name, state, letter]: [&str; 4], cells: impl Iterator<Item = String>) -> String {
    let mut line = format!("{pid:>8}  {name:<13}{state:<16}");
    let widths = WIDTHS.into_iter().chain(std::iter::repeat(WIDTHS[4]));
    for (cell, width) in cells.zip(widths) {
        line += &format!("{cell:>width$}");
    }
    format!("{line} {letter}").trim_end().to_owned()
}

/// Breaks a line between words and keeps its indentation.
fn wrapped(text: &str) -> String {
    let indent = " ".repeat(text.len() - text.trim_start().len());
    let (mut out, mut line) = (String::new(), indent.clone());
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() > WIDTH && !line.trim().is_empty() {
            out += line.trim_end();
            out.push('\n');
            line = format!("{indent}  ");
        }
        line += word;
        line.push(' ');
    }
    out + line.trim_end()
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        None => line.to_owned(),
        Some(_) => line.chars().take(WIDTH - 3).collect::<String>() + "...",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::collect::tests::example;

    #[test]
    fn everything_is_shown_in_eighty_columns() {
        let text = render(&example(), true);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        for part in [
            "my site: hanging; 1 front, 3 workers (1 busy, 1 kept), 1 request waiting",
            "\nworkers serving 2; workers kept 1; fronts in line 1; at most 3 workers: a\n",
            "  kept 10s",
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
            text.starts_with("my site: not running; the app is still loaded, with 1 worker, for"),
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
    fn bars_for_numbers() {
        assert_eq!(
            (bar(0, 9, BARS), bar(1, 900, BARS), bar(9, 9, BARS)),
            (' ', '▁', '█')
        );
    }
}
