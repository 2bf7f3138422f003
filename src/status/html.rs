//! A `Site` as a page for a browser: one document that needs nothing from elsewhere, light and dark, with a picture of
//! the last hour.

use super::collect::Site;
use super::figures::{Process, USAGE, Unit, ago, counted, grouped, headings, limit, time};
use super::{History, MINUTES};
use crate::pages::escape_html;
use crate::sys::limits::Limit;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The whole document.
pub(super) fn render(site: &Site) -> String {
    let (name, config) = (escape_html(&site.name()), escape_html(&site.config));
    let state = site.state();
    let summary = site.summary();
    let summary = escape_html(summary.split_once("; ").map_or("", |(_, rest)| rest));
    let item = |line: &String| format!("<li>{}</li>\n", escape_html(line));
    let wrong = match site.wrong().iter().map(item).collect::<String>().as_str() {
        "" => String::new(),
        list => format!("<section>\n<h2>What went wrong</h2>\n<ul>\n{list}</ul>\n</section>\n"),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{name}: {state}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n\
         <h1>{name}</h1>\n<span class=\"tag {class}\">{state}</span>\n<span class=\"s\">{summary}</span>\n\
         <span class=\"s p\">{config}, as of {time}</span>\n</header>\n\
         <section class=\"n\">\n{tiles}</section>\n\
         <section>\n<h2>Requests in the last hour</h2>\n{picture}</section>\n{wrong}\
         <section>\n<h2>Processes</h2>\n<div class=\"w\"><table>\n{processes}</table></div>\n</section>\n\
         <section>\n<h2>Limits of the account</h2>\n<div class=\"w\"><table>\n{limits}</table></div>\n</section>\n\
         </main>\n</body>\n</html>\n",
        class = class(state),
        time = time(site.now),
        tiles = tiles(site),
        picture = picture(&site.history()),
        processes = processes(site),
        limits = limits(site),
    )
}

/// How a state is.
fn class(state: &str) -> &'static str {
    match state {
        "serving" | "in use" => "good",
        "restarting" | "leaving" | "busy" => "busy",
        "fault" | "hanging" | "silent" | "not running" => "bad",
        _ => "s",
    }
}

fn tiles(site: &Site) -> String {
    let counts = site.counts().map(|(f, n)| (f.title, f.help, f.unit, n));
    let usage = USAGE
        .iter()
        .map(|f| (f.title, f.help, f.unit, site.total(f)));
    let tile = |(title, help, unit, number): (&str, &str, Unit, u64)| {
        let bad = unit == Unit::Failures && number > 0;
        let (class, value) = (if bad { "bad" } else { "" }, unit.show(number));
        format!(
            "<div title=\"{help}\"><b class=\"{class}\">{value}</b><span class=\"s\">{title}</span></div>\n"
        )
    };
    counts.chain(usage).map(tile).collect()
}

/// Sixty bars; what failed stands red at their feet.
fn picture(history: &History) -> String {
    const WIDTH: usize = 720;
    const HEIGHT: usize = 120;
    const FOOT: usize = 18;
    let peak = history.requests.iter().max().copied().unwrap_or(0);
    let full = HEIGHT - FOOT - 14;
    let height = |n: u32| (n as usize * full).div_ceil(peak.max(1) as usize).min(full);
    let step = WIDTH / MINUTES;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"requests in each minute of the last hour, \
         {peak} at the most\">\n<line x1=\"0\" x2=\"{WIDTH}\" y1=\"{y}.5\" y2=\"{y}.5\" stroke=\"var(--line)\"/>\n",
        peak = grouped(peak.into()),
        y = HEIGHT - FOOT,
    );
    for (at, (&all, &failed)) in history.requests.iter().zip(&history.failed).enumerate() {
        if all == 0 && failed == 0 {
            continue;
        }
        let (ago, number) = (MINUTES - 1 - at, counted(all.into(), "request"));
        let _ = write!(
            out,
            "<g><title>{ago} min ago: {number}, {failed} failed</title>"
        );
        for (number, colour) in [(all.max(failed), "--bar"), (failed, "--bad")] {
            let high = height(number);
            if high > 0 {
                let (x, y) = (at * step + 1, HEIGHT - FOOT - high);
                let _ = write!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{high}\" rx=\"1.5\" fill=\"var({colour})\"/>",
                    step - 2
                );
            }
        }
        out += "</g>\n";
    }
    let most = format!("{} a minute at the most", grouped(peak.into()));
    for (x, y, anchor, label) in [
        (0, 10, "start", most.as_str()),
        (0, HEIGHT - 4, "start", "1 h ago"),
        (WIDTH / 2, HEIGHT - 4, "middle", "30 min ago"),
        (WIDTH, HEIGHT - 4, "end", "now"),
    ] {
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{label}</text>"
        );
    }
    out + "</svg>\n"
}

fn processes(site: &Site) -> String {
    let mut out = String::from("<tr><th>Process</th><th class=\"r\">PID</th><th>State</th>");
    for (title, help) in headings() {
        let _ = write!(out, "<th class=\"r\" title=\"{help}\">{title}</th>");
    }
    out += "</tr>\n";
    out.extend(site.processes().iter().map(process));
    out
}

fn process(process: &Process) -> String {
    let Process { kind, state, .. } = process;
    let (role, pid, class) = (escape_html(process.role), process.pid(), class(state));
    let lasts = process.lasts.map(|ms| format!(" for {}", ago(ms)));
    let mut out = format!(
        "<tr><td><span class=\"{kind}\">{kind}</span> <span class=\"s\">{role}</span></td><td class=\"r\">{pid}</td>\
         <td><span class=\"{class}\">{state}{}</span>",
        lasts.unwrap_or_default()
    );
    if process.old {
        out += " <span class=\"s\">(old code)</span>";
    }
    for request in process.requests {
        out += &format!(
            "<br><span class=\"q\">{}</span>",
            escape_html(&request.what)
        );
    }
    if !process.failure.is_empty() {
        let failure = escape_html(process.failure);
        out += &format!("<br><span class=\"s\">failed: {failure}</span>");
    }
    out.extend(
        process
            .cells()
            .map(|cell| format!("</td><td class=\"r\">{cell}")),
    );
    out + "</td></tr>\n"
}

fn limits(site: &Site) -> String {
    let row = |known: &Limit| {
        let (words, near) = limit(known);
        let hot = if near { " class=\"hot\"" } else { "" };
        let meter = known.most.map_or(String::new(), |_| {
            let width = known.percent().unwrap_or(100).min(100);
            format!("<div class=\"m\"><i{hot} style=\"width:{width}%\"></i></div>")
        });
        let name = known.resource.name;
        format!("<tr><td>{name}</td><td>{words}</td><td>{meter}</td></tr>\n")
    };
    site.limits.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::collect::tests::example;

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let page = render(&example());
        for part in [
            "<title>my site: hanging</title>",
            "<span class=\"q\">GET /a b/&quot;&lt;c&gt;</span>",
            "a &quot;quoted&quot; &lt;trouble&gt;",
            "a &lt;note&gt; &amp; &quot;more&quot;",
            "failed: GET /&lt;b&gt;: OSError",
            "silent for 30s",
            "style=\"width:93%\"",
            "<title>0 min ago: 1 request, 1 failed</title>",
        ] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
        for wrong in [
            "<c>",
            "<trouble>",
            "<note>",
            "<b>:",
            "http:",
            "https:",
            "<script",
        ] {
            assert!(!page.contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn every_element_is_closed() {
        let page = render(&example());
        for name in [
            "main", "section", "table", "tr", "td", "th", "div", "span", "svg", "g", "text",
            "title", "ul", "li",
        ] {
            let opened = page.matches(&format!("<{name}>")).count()
                + page.matches(&format!("<{name} ")).count();
            assert_eq!(
                opened,
                page.matches(&format!("</{name}>")).count(),
                "{name}"
            );
        }
    }

    #[test]
    fn bars_stay_in_the_picture() {
        let mut site = example();
        for number in [1, 59, 60, 1_000_000] {
            site.fronts[0].snapshot.history.requests[30] = number;
            site.fronts[0].snapshot.history.failed[30] = number;
            let picture = picture(&site.history());
            for rect in picture.split("<rect ").skip(1) {
                let value = |name: &str| {
                    rect.split(&format!("{name}=\""))
                        .nth(1)
                        .unwrap()
                        .split('"')
                        .next()
                        .unwrap()
                        .parse::<usize>()
                        .unwrap()
                };
                assert!(
                    value("y") >= 14 && value("y") + value("height") == 102,
                    "{rect}"
                );
            }
        }
    }
}
