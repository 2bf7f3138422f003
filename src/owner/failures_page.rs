//! The failures page: recent failures from the journal, grouped, or the one with a given incident number.

use super::page::{Frame, cure_button, meaning};
use super::response::Response;
use crate::journal::{self, Entry};
use crate::pages::{cure_line, details, escape_html};
use crate::reason::code_named;
use crate::rundir::RuntimeDir;
use crate::status::figures::{ago, time};

/// Most groups shown.
const MAX_GROUPS: usize = 50;

/// Renders the page. `number` is the incident to show; when it is empty, all groups are shown.
pub(super) fn render(
    frame: &Frame<'_>,
    dir: Option<&RuntimeDir>,
    number: &str,
    now: u64,
) -> Response {
    let entries = dir.map(|dir| journal::read(dir.path())).unwrap_or_default();
    let mut main = format!(
        "<form class=\"find quiet\" method=\"get\" action=\"{}/failures\">\n\
         <label>Number on the visitor's page <input name=\"number\" value=\"{}\" maxlength=\"20\" autocomplete=\"off\"></label>\n\
         <button>Find</button>\n</form>\n",
        escape_html(frame.url),
        escape_html(number),
    );
    if !number.is_empty() {
        main += &match journal::find(&entries, number) {
            Some(entry) => failure(frame, entry, 1, entry.time, now, true),
            None => format!(
                "<section>\n<p>No failure with the number {} is known. It may still be in the log.</p>\n</section>\n",
                escape_html(number)
            ),
        };
    } else if entries.is_empty() {
        main += "<section>\n<p>No failures have been recorded.</p>\n</section>\n";
    } else {
        for group in journal::groups(&entries).iter().take(MAX_GROUPS) {
            main += &failure(frame, group.last, group.count, group.first, now, false);
        }
    }
    frame.render((200, "OK"), "Failures", "", &main)
}

/// A section for one failure, or for a group of `count` failures that began at `first` (milliseconds since 1970).
fn failure(
    frame: &Frame<'_>,
    entry: &Entry,
    count: u64,
    first: u64,
    now: u64,
    open: bool,
) -> String {
    let (since, at) = (ago(now.saturating_sub(entry.time)), time(entry.time));
    let when = match count {
        1 => format!("{since} ago, {at}"),
        _ => format!(
            "{count} times since {}, the last {since} ago, {at}",
            time(first)
        ),
    };
    let number = match entry.incident.as_str() {
        "" => String::new(),
        incident => format!("number {incident}"),
    };
    let facts = [&entry.request, &entry.place, &when, &number];
    let facts: String = facts
        .iter()
        .filter(|fact| !fact.is_empty())
        .map(|fact| format!("<span>{}</span>\n", escape_html(fact)))
        .collect();
    let title = match entry.summary.as_str() {
        "" => &entry.kind,
        summary => summary,
    };
    let code = code_named(&entry.summary).or_else(|| code_named(&entry.code));
    format!(
        "<section class=\"failure\">\n<h2>{}</h2>\n<p class=\"facts s\">{facts}</p>\n{}{}{}{}</section>\n",
        escape_html(title),
        cure_line(&entry.hint),
        cure_button(frame, code, &entry.hint),
        details(&entry.traceback, open),
        code.map_or_else(String::new, meaning)
    )
}
