//! The overview: what is wrong with the site and what helps, and then its state and limits.

use super::page::{Frame, REFRESH, cure_button, meaning};
use super::response::Response;
use super::tasks_page::form;
use super::{SiteView, findings};
use crate::codes::upkeep::NO_RUNTIME_DIR;
use crate::failure::first_line;
use crate::journal::{self, Entry};
use crate::pages::{details, escape_html, what_and_cure};
use crate::reason::Reason;
use crate::status::collect::Site;
use crate::status::figures::{ago, plural};
use crate::status::html;
use std::time::SystemTime;

/// Shown while new code is on trial.
const TRIAL: &str = "<section>\n<h2 class=\"busy\">The new code is being tried</h2>\n</section>\n";

/// Renders the page.
pub(super) fn render(frame: &Frame<'_>, site: &SiteView<'_>, now: SystemTime) -> Response {
    let dirs: Vec<_> = site.dir.iter().map(|dir| dir.path().to_owned()).collect();
    let status = Site::collect(&dirs, site.name, now);
    let entries = site.dir.map(|dir| journal::read(dir.path()));
    let entries = entries.unwrap_or_default();
    // What the sections above say is not repeated.
    let told = site.unavailable.as_deref().map(first_line);
    let last = entries
        .iter()
        .flat_map(|entry| [entry.summary.as_str(), &entry.incident]);
    let told: Vec<&str> = told
        .into_iter()
        .chain(last)
        .filter(|text| !text.is_empty())
        .collect();
    let mut problems = status.problems();
    problems.retain(|line| !told.iter().any(|text| line.contains(text)));
    let (head, trial) = match site.reloading || status.state() == "restarting" {
        true => (REFRESH, TRIAL),
        false => ("", ""),
    };
    let main = format!(
        "{}{trial}{}{}{}{}",
        html::heading(&status),
        alarms(frame, site),
        recent_failures(frame, &entries, status.now),
        findings::section(frame, site.dir, status.now),
        html::sections(&status, &problems)
    );
    let title = format!("{}: {}", status.name(), status.state());
    frame.render((200, "OK"), &title, head, &main)
}

/// Why the site, its newest code or its settings do not work.
fn alarms(frame: &Frame<'_>, site: &SiteView<'_>) -> String {
    let (unavailable, refused) = (site.unavailable.as_deref(), site.refused_settings);
    let same = refused.is_some_and(|why| unavailable.is_some_and(|known| known.contains(why)));
    let no_dir = (site.dir.is_none() && !site.cgi).then(|| NO_RUNTIME_DIR.cure());
    let mut way = way(site);
    [
        (
            match same {
                true => "The site does not work. The settings were refused",
                false => "The site does not work",
            },
            unavailable,
        ),
        (
            "The newest code was refused; the old one serves",
            site.refused_code.filter(|_| unavailable.is_none()),
        ),
        ("The settings were refused", refused.filter(|_| !same)),
        ("There is no runtime directory", no_dir),
    ]
    .into_iter()
    .filter_map(|(title, why)| {
        let why = why?;
        Some(alarm(frame, title, &std::mem::take(&mut way), why))
    })
    .collect()
}

/// An alert, with the buttons that help. `way` is HTML; where there is one, a restart is what puts the cure live.
fn alarm(frame: &Frame<'_>, title: &str, way: &str, why: &str) -> String {
    let reason = Reason::parse(why);
    let mut buttons = cure_button(frame, reason.code(), &reason.cure);
    if !way.is_empty() && !buttons.contains(">Restart<") {
        let class = if buttons.is_empty() { "" } else { "quiet" };
        buttons += &form(frame, class, "restart", "Restart", "");
        buttons += "<span class=\"s\">when it is mended</span>\n";
    }
    format!(
        "<section class=\"alarm\" role=\"alert\">\n<h2>{title}</h2>\n{way}{}<div class=\"do\">{buttons}</div>\n{}{}</section>\n",
        what_and_cure(&reason),
        details(&reason.more, false),
        reason.code().map_or_else(String::new, meaning)
    )
}

/// How far the site comes on its way to its visitors: where to look first. Empty if all is well.
fn way(site: &SiteView<'_>) -> String {
    let broken = site.unavailable.is_some();
    let (settings, app) = match (site.refused_settings, site.refused_code) {
        (Some(_), _) if broken => (("bad", "refused"), ("", "waits for them")),
        (Some(_), None) => (("bad", "refused"), ("good", "the old one runs")),
        (Some(_), Some(_)) => (("bad", "refused"), ("bad", "the new code does not start")),
        (None, _) if broken => (("good", "read"), ("bad", "does not start")),
        (None, Some(_)) => (("good", "read"), ("bad", "the new code does not start")),
        (None, None) => return String::new(),
    };
    let visitors = match broken {
        true => ("bad", "see an error page"),
        false => ("good", "are served as before"),
    };
    let step = |name, (class, state): (&str, &str)| {
        format!("<li class=\"{class}\">{name}<span class=\"s\">{state}</span></li>\n")
    };
    format!(
        "<ol class=\"way\">\n{}{}{}</ol>\n",
        step("Settings", settings),
        step("App", app),
        step("Visitors", visitors)
    )
}

/// One line about the failures of the last 24 hours; empty if there are none.
fn recent_failures(frame: &Frame<'_>, entries: &[Entry], now: u64) -> String {
    /// Milliseconds.
    const DAY: u64 = 86_400_000;
    let mut recent = entries.iter().filter(|entry| entry.time + DAY > now);
    let count: u64 = recent.clone().map(|entry| entry.count).sum();
    recent.next_back().map_or_else(String::new, |last| {
        format!(
            "<section class=\"failed\">\n<h2><a href=\"{}/failures\">{} in the last 24 hours</a></h2>\n\
             <p class=\"s\">the last {} ago: {}</p>\n</section>\n",
            escape_html(frame.url),
            plural(count, "failure"),
            ago(now.saturating_sub(last.time)),
            escape_html(&last.summary)
        )
    })
}
