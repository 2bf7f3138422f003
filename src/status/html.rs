//! A `Site` as a page for a browser: one document that needs nothing from elsewhere, light and dark, with a picture of
//! the last hour.

use super::collect::{Front, Site};
use super::text::{ago, counted, grouped, megabytes, newest_notes, seconds, summary, time};
use super::{Count, Doing, MINUTES, State};
use crate::pages::escape_html;
use crate::sys::procfs::Usage;
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2328;--soft:#667;--paper:#f5f5f2;--card:#fff;--line:#deded8;--bar:#3b7dd8;\
--bad:#c4342b;--good:#2c8a4b;--busy:#b7791f}\
@media(prefers-color-scheme:dark){:root{--ink:#e3e3e0;--soft:#9a9aa4;--paper:#17181a;--card:#212326;--line:#383b40;\
--bar:#5b9bf0;--bad:#f0716a;--good:#5cc27e;--busy:#e0ac55}}\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}\
main{max-width:62rem;margin:0 auto;padding:2rem 1rem 3rem}\
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem .8rem;margin-bottom:1.2rem}\
h1{font-size:1.6rem;margin:0}h2{font-size:1rem;margin:0 0 .7rem}\
.s{color:var(--soft);font-size:.87rem}.p{flex-basis:100%;overflow-wrap:anywhere}\
.tag{border-radius:1rem;padding:.1rem .7rem;font-size:.85rem;color:#fff;background:var(--good)}\
.tag.bad{background:var(--bad)}.tag.busy{background:var(--busy)}\
@media(prefers-color-scheme:dark){.tag{color:#111}}\
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem 1.2rem;margin:0 0 1rem}\
.n{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));gap:.8rem}\
.n b{display:block;font-size:1.35rem;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}\
.n b.bad{color:var(--bad)}\
svg{display:block;width:100%;height:auto}svg text{font-size:11px;fill:var(--soft)}\
.w{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th{font-weight:500;color:var(--soft);font-size:.8rem;text-align:left;white-space:nowrap}\
th,td{padding:.3rem .7rem .3rem 0;vertical-align:top}tr+tr td{border-top:1px solid var(--line)}\
.r{text-align:right}td:first-child{white-space:nowrap}.i{padding-left:1.1rem}\
.q{font-family:ui-monospace,Consolas,monospace;font-size:.83rem;overflow-wrap:anywhere}\
.bad{color:var(--bad)}.busy{color:var(--busy)}.good{color:var(--good)}.tag.bad,.tag.busy{color:#fff}\
@media(prefers-color-scheme:dark){.tag.bad,.tag.busy{color:#111}}\
.m{height:.45rem;border-radius:.3rem;background:var(--line);overflow:hidden;min-width:6rem;margin-top:.5rem}\
.m i{display:block;height:100%;background:var(--bar)}.m i.hot{background:var(--bad)}\
ul{margin:0;padding-left:1.1rem}li+li{margin-top:.3rem}";

/// The whole document.
pub(super) fn render(site: &Site) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{name}: {state}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n\
         <h1>{name}</h1>\n<span class=\"tag {class}\">{state}</span>\n<span class=\"s\">{summary}</span>\n\
         <span class=\"s p\">{config}, as of {time}</span>\n</header>\n",
        name = escape_html(&site.name()),
        state = site.state(),
        class = match site.state() {
            "serving" => "",
            "restarting" | "leaving" => "busy",
            _ => "bad",
        },
        summary = summary(site)
            .split_once("; ")
            .map_or(String::new(), |(_, rest)| escape_html(rest)),
        config = escape_html(&site.config),
        time = time(site.now),
    );
    numbers(&mut out, site);
    let _ = write!(
        out,
        "<section>\n<h2>Requests in the last hour</h2>\n{}</section>\n",
        picture(site)
    );
    troubles(&mut out, site);
    processes(&mut out, site);
    limits(&mut out, site);
    out += "</main>\n</body>\n</html>\n";
    out
}

fn numbers(out: &mut String, site: &Site) {
    let counters = site.counters();
    let memory: u64 = site.usages().map(|usage| usage.bytes).sum();
    let cpu: u64 = site.usages().map(|usage| usage.cpu_ms).sum();
    *out += "<section class=\"n\">\n";
    let mut tile = |name: &str, value: &str, bad: bool| {
        let class = if bad { " class=\"bad\"" } else { "" };
        let _ = writeln!(
            out,
            "<div><b{class}>{value}</b><span class=\"s\">{name}</span></div>"
        );
    };
    tile("requests", &grouped(counters.get(Count::Requests)), false);
    for (name, count) in [
        ("failed", Count::Failed),
        ("timed out", Count::TimedOut),
        ("turned away", Count::TurnedAway),
        ("workers died", Count::WorkerDeaths),
        ("failed starts", Count::BootFailures),
    ] {
        tile(name, &grouped(counters.get(count)), counters.get(count) > 0);
    }
    tile("restarts", &grouped(counters.get(Count::Restarts)), false);
    tile("memory", &format!("{} MB", megabytes(memory)), false);
    tile("CPU time", &format!("{} s", seconds(cpu)), false);
    *out += "</section>\n";
}

/// Sixty bars; what failed stands red at their feet.
fn picture(site: &Site) -> String {
    const WIDTH: usize = 720;
    const HEIGHT: usize = 120;
    const FOOT: usize = 18;
    let history = site.history();
    let peak = history.requests.iter().max().copied().unwrap_or(0);
    let full = HEIGHT - FOOT - 14;
    let height = |n: u32| {
        if n == 0 {
            0
        } else {
            (n as usize * full).div_ceil(peak.max(1) as usize)
        }
    };
    let step = WIDTH / MINUTES;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"requests in each minute of the last hour, \
         {} at the most\">\n<line x1=\"0\" x2=\"{WIDTH}\" y1=\"{y}.5\" y2=\"{y}.5\" stroke=\"var(--line)\"/>\n",
        grouped(peak.into()),
        y = HEIGHT - FOOT,
    );
    for (at, (&all, &failed)) in history.requests.iter().zip(&history.failed).enumerate() {
        if all == 0 && failed == 0 {
            continue;
        }
        let ago = MINUTES - 1 - at;
        let _ = write!(
            out,
            "<g><title>{} min ago: {}, {failed} failed</title>",
            ago,
            counted(all.into(), "request")
        );
        for (number, colour) in [(all.max(failed), "--bar"), (failed, "--bad")] {
            let high = height(number).min(full);
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
    if peak > 0 {
        let most = grouped(peak.into());
        let at = history
            .requests
            .iter()
            .rposition(|n| *n == peak)
            .unwrap_or(0);
        let (x, anchor) = match at * step + step / 2 {
            x if x < 40 => (0, "start"),
            x if x > WIDTH - 40 => (WIDTH, "end"),
            x => (x, "middle"),
        };
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"10\" text-anchor=\"{anchor}\">{most} a minute</text>"
        );
    }
    for (x, anchor, label) in [
        (0, "start", "1 h ago"),
        (WIDTH / 2, "middle", "30 min ago"),
        (WIDTH, "end", "now"),
    ] {
        let y = HEIGHT - 4;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{label}</text>"
        );
    }
    out + "</svg>\n"
}

fn troubles(out: &mut String, site: &Site) {
    let mut lines: Vec<String> = site.notes.clone();
    for front in &site.fronts {
        if !front.snapshot.trouble.is_empty() {
            lines.push(format!(
                "front {}: {}",
                front.snapshot.pid, front.snapshot.trouble
            ));
        }
    }
    for (name, note) in newest_notes(site) {
        lines.push(format!(
            "{name}, {} ago: {}",
            ago(site.now.saturating_sub(note.at)),
            note.text
        ));
    }
    if !lines.is_empty() {
        *out += "<section>\n<h2>What went wrong</h2>\n<ul>\n";
        for line in lines {
            let _ = writeln!(out, "<li>{}</li>", escape_html(&line));
        }
        *out += "</ul>\n</section>\n";
    }
}

fn processes(out: &mut String, site: &Site) {
    *out += "<section>\n<h2>Processes</h2>\n<div class=\"w\"><table>\n<tr><th>Process</th><th class=\"r\">pid</th>\
             <th>State</th><th class=\"r\">Requests</th><th class=\"r\">Age</th><th class=\"r\">CPU s</th>\
             <th class=\"r\">MB</th><th class=\"r\">Threads</th></tr>\n";
    for front in &site.fronts {
        put_front(out, site, front);
    }
    for preloader in &site.preloaders {
        let state = if preloader.current {
            "in use"
        } else {
            "other code"
        };
        let age = preloader
            .usage
            .map_or(String::new(), |usage| ago(usage.age_ms));
        row(
            out,
            "preloader",
            preloader.pid,
            state,
            "",
            &age,
            preloader.usage.as_ref(),
        );
    }
    *out += "</table></div>\n</section>\n";
}

fn put_front(out: &mut String, site: &Site, front: &Front) {
    let snapshot = &front.snapshot;
    let class = match snapshot.state {
        State::Serving => "good",
        State::Fault => "bad",
        State::Restarting | State::Leaving => "busy",
    };
    let state = match front.silent {
        Some(ms) => format!("<span class=\"bad\">silent for {}</span>", ago(ms)),
        None => format!("<span class=\"{class}\">{}</span>", snapshot.state.name()),
    };
    let age = ago(site.now.saturating_sub(snapshot.started));
    let served = grouped(snapshot.counters.get(Count::Requests));
    let name = format!(
        "front <span class=\"s\">{}</span>",
        escape_html(&snapshot.role)
    );
    row(
        out,
        &name,
        snapshot.pid,
        &state,
        &served,
        &age,
        front.usage.as_ref(),
    );
    for (worker, usage) in snapshot.workers.iter().zip(&front.workers) {
        let class = if worker.doing == Doing::Busy {
            "busy"
        } else {
            "s"
        };
        let mut state = format!("<span class=\"{class}\">{}</span>", worker.doing.name());
        if worker.old {
            state += " <span class=\"s\">(old code)</span>";
        }
        for request in &worker.requests {
            let (what, time) = (
                escape_html(&request.what),
                ago(site.now.saturating_sub(request.since)),
            );
            let _ = write!(state, " {time}<br><span class=\"q\">{what}</span>");
        }
        if !worker.failure.is_empty() {
            let _ = write!(
                state,
                "<br><span class=\"s\">failed: {}</span>",
                escape_html(&worker.failure)
            );
        }
        let age = ago(site.now.saturating_sub(worker.born));
        let name = "<span class=\"i\">worker</span>";
        row(
            out,
            name,
            worker.pid,
            &state,
            &grouped(worker.served),
            &age,
            usage.as_ref(),
        );
    }
}

/// `name` and `state` are HTML.
fn row(
    out: &mut String,
    name: &str,
    pid: u32,
    state: &str,
    served: &str,
    age: &str,
    usage: Option<&Usage>,
) {
    let pid = if pid == 0 {
        String::from("?")
    } else {
        pid.to_string()
    };
    let (cpu, memory, threads) = usage.map_or_else(Default::default, |u| {
        (seconds(u.cpu_ms), megabytes(u.bytes), u.threads.to_string())
    });
    let _ = write!(
        out,
        "<tr><td>{name}</td><td class=\"r\">{pid}</td><td>{state}</td>"
    );
    for cell in [served, age, &cpu, &memory, &threads] {
        let _ = write!(out, "<td class=\"r\">{cell}</td>");
    }
    *out += "</tr>\n";
}

fn limits(out: &mut String, site: &Site) {
    *out += "<section>\n<h2>Limits of the account</h2>\n<div class=\"w\"><table>\n";
    for limit in &site.limits {
        let show = |n: u64| {
            if limit.in_bytes() {
                format!("{} MB", megabytes(n))
            } else {
                grouped(n)
            }
        };
        let (most, meter) = match (limit.most, limit.percent()) {
            (Some(most), percent) => {
                let percent = percent.unwrap_or(100);
                let class = if percent >= 80 { " class=\"hot\"" } else { "" };
                let bar = format!(
                    "<div class=\"m\"><i{class} style=\"width:{}%\"></i></div>",
                    percent.min(100)
                );
                (format!("of {} ({percent} %)", show(most)), bar)
            }
            (None, _) => (String::from("no limit"), String::new()),
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"r\">{}</td><td>{most}</td><td>{meter}</td></tr>",
            limit.resource.name,
            show(limit.used)
        );
    }
    *out += "</table></div>\n</section>\n";
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
            let picture = picture(&site);
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
