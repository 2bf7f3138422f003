//! A `Site` as an HTML page: one self-contained document, for light and dark mode, with a chart of the last hour.

use super::collect::Site;
use super::figures::{Process, SITE, USAGE, Unit, ago, grouped, headings, limit, plural, time};
use super::{History, MINUTES};
use crate::pages::escape_html;
use crate::sys::limits::Limit;
use std::fmt::Write;

const STYLE: &str = concat!(include_str!("../colours.css"), include_str!("page.css"));

/// The whole document.
pub(super) fn render(site: &Site) -> String {
    let title = format!("{}: {}", site.name(), site.state());
    let main = format!("{}{}", heading(site), sections(site, &site.problems()));
    document(&title, "", &main)
}

/// A document that needs nothing from elsewhere; `head` and `main` are HTML.
pub(crate) fn document(title: &str, head: &str, main: &str) -> String {
    let title = escape_html(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n{head}</head>\n<body>\n<main>\n{main}</main>\n</body>\n</html>\n"
    )
}

/// The site's name, and how it does in a word and a line.
pub(crate) fn heading(site: &Site) -> String {
    let name = escape_html(&site.name());
    let state = site.state();
    let summary = site.summary();
    let summary = escape_html(summary.split_once("; ").map_or("", |(_, rest)| rest));
    format!(
        "<header>\n<h1>{name}</h1>\n<span class=\"tag {class}\">{state}</span>\n<span class=\"s\">{summary}</span>\n</header>\n",
        class = class(state),
    )
}

/// All that there is to tell, with these problems.
pub(crate) fn sections(site: &Site, problems: &[String]) -> String {
    let item = |line: &String| format!("<li>{}</li>\n", escape_html(line));
    let wrong = match problems.iter().map(item).collect::<String>().as_str() {
        "" => String::new(),
        list => format!("<section>\n<h2>Problems</h2>\n<ul>\n{list}</ul>\n</section>\n"),
    };
    format!(
        "{wrong}<section class=\"n\">\n{tiles}</section>\n\
         <section>\n<h2>Requests in the last hour</h2>\n{picture}</section>\n\
         <section>\n<h2>Processes</h2>\n{bound}<div class=\"w\"><table class=\"wide\">\n{processes}</table></div>\n</section>\n\
         <section>\n<h2>Limits of the account</h2>\n<div class=\"w\"><table class=\"limits\">\n{limits}</table></div>\n</section>\n\
         <footer class=\"s\">{config}, as of {time}</footer>\n",
        config = escape_html(&site.config),
        time = time(site.now),
        tiles = tiles(site),
        picture = picture(&site.history()),
        bound = bound(site),
        processes = processes(site),
        limits = limits(site),
    )
}

/// The CSS class of a state.
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
        .map(|f| (f.full_name(), f.help, f.unit, site.total(f)));
    let tile = |(title, help, unit, number): (&str, &str, Unit, u64)| {
        let class = match (unit, number) {
            (_, 0) => "s",
            (Unit::Failures, _) => "bad",
            _ => "",
        };
        let (value, measure) = (unit.show(number), unit.measure());
        format!(
            "<div title=\"{help}\"><b class=\"{class}\">{value}{measure}</b><span class=\"s\">{title}</span></div>\n"
        )
    };
    let of_site = site.site_workers();
    let workers = SITE
        .iter()
        .map(|f| (f.title, f.help, f.unit, (f.of)(&of_site)));
    counts.chain(usage).chain(workers).map(tile).collect()
}

/// A bar for each minute of the last hour; the red part at its foot is what failed.
fn picture(history: &History) -> String {
    const WIDTH: usize = 720;
    const HEIGHT: usize = 100;
    let peak = history.requests.iter().max().copied().unwrap_or(0);
    let height = |n: u32| {
        (n as usize * HEIGHT)
            .div_ceil(peak.max(1) as usize)
            .min(HEIGHT)
    };
    let step = WIDTH / MINUTES;
    let most = grouped(peak.into());
    let legend = match history.failed.iter().any(|&failed| failed > 0) {
        true => "<span class=\"bad\">&#9632; failed</span>",
        false => "",
    };
    let mut out = format!(
        "<p class=\"axis s\"><span>peak: {most} a minute</span>{legend}</p>\n\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"requests in each minute of the last hour, at most {most}\">\n"
    );
    for (at, (&all, &failed)) in history.requests.iter().zip(&history.failed).enumerate() {
        if all == 0 && failed == 0 {
            continue;
        }
        let (ago, number) = (MINUTES - 1 - at, plural(all.into(), "request"));
        let _ = write!(
            out,
            "<g><title>{ago} min ago: {number}, {failed} failed</title>"
        );
        for (number, colour) in [(all.max(failed), "--bar"), (failed, "--bad")] {
            let high = height(number);
            if high > 0 {
                let (x, y) = (at * step + 1, HEIGHT - high);
                let _ = write!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{high}\" rx=\"1.5\" fill=\"var({colour})\"/>",
                    step - 2
                );
            }
        }
        out += "</g>\n";
    }
    // Not in the picture: letters there would shrink with it.
    out + "</svg>\n<p class=\"axis s\"><span>1 h ago</span><span>30 min ago</span><span>now</span></p>\n"
}

/// What bounds the workers.
fn bound(site: &Site) -> String {
    site.site_workers()
        .bound()
        .map_or_else(String::new, |bound| {
            format!("<p class=\"s\">{}</p>\n", escape_html(&bound))
        })
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
    let duration = process.duration.map(|ms| format!(" for {}", ago(ms)));
    let mut out = format!(
        "<tr><td><span class=\"{kind}\">{kind}</span> <span class=\"s\">{role}</span></td><td class=\"r\" data-title=\"PID\">{pid}</td>\
         <td><span class=\"{class}\">{state}{}</span>",
        duration.unwrap_or_default()
    );
    if process.outdated {
        out += " <span class=\"s\">(old code)</span>";
    }
    for request in process.requests {
        out += &format!(
            "<br><span class=\"q\">{}</span>",
            escape_html(&request.summary)
        );
    }
    if !process.failure.is_empty() {
        let failure = escape_html(process.failure);
        out += &format!("<br><span class=\"s\">failed: {failure}</span>");
    }
    // Where the screen has no room for a table, each cell has its title before it.
    out.extend(process.cells().zip(headings()).map(|(cell, (title, _))| {
        let empty = if cell.is_empty() { " e" } else { "" };
        format!("</td><td class=\"r{empty}\" data-title=\"{title}\">{cell}")
    }));
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
            "<p class=\"s\">at most 3 workers: a &lt;reason&gt;</p>",
            "<span class=\"s\">kept for 10s</span>",
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
    fn bars_stay_inside_the_chart() {
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
                assert!(value("y") + value("height") == 100, "{rect}");
            }
        }
    }
}
