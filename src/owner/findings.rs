//! What the last `check` found, as rows with severity, code and cure. Reads the lines of `check --json`.
//!
//! The app runs as the same user and may write anything to the file, so every value is escaped and the number of rows is
//! limited.

use super::page::{Frame, cure_button, meaning};
use super::task::{self, MAX_OUTPUT};
use super::tasks_page::form;
use crate::pages::{cure_line, details, escape_html};
use crate::reason::{code_named, split_traceback};
use crate::rundir::{Entry, RuntimeDir};
use crate::status::collect::millis;
use crate::status::figures::{ago, plural};
use std::fmt::Write;
use std::fs;

/// Most findings shown.
const MAX_FINDINGS: usize = 200;
/// What there is to mend, worst first, and the CSS class of that.
const LEVELS: [(&str, &str); 2] = [("error", "bad"), ("warning", "busy")];
/// A longer finding is not set in bold, in bytes.
const LONG: usize = 120;

/// The section of the overview: what the last check found, or a button for the first one. `now` is in milliseconds since
/// 1970.
pub(super) fn section(frame: &Frame<'_>, dir: Option<&RuntimeDir>, now: u64) -> String {
    let Some(dir) = dir else { return String::new() };
    let output = task::read(dir, Entry::CheckOutput, MAX_OUTPUT);
    let time = fs::metadata(dir.file(Entry::CheckOutput)).and_then(|file| file.modified());
    let when = time.map_or(String::new(), |time| {
        format!("{} ago", ago(now.saturating_sub(millis(time))))
    });
    let (class, label, state, rows) = match output.as_deref().and_then(Findings::read) {
        Some(found) => {
            let state = format!("{}<span class=\"s\">{when}</span>", found.tags());
            ("quiet", "Check again", state, found.rows(frame))
        }
        None => {
            let state = String::from("<span class=\"s\">not checked yet</span>");
            ("", "Check", state, String::new())
        }
    };
    format!(
        "<section class=\"found\">\n<div class=\"task\">\n<h2>What check finds {state}</h2>\n{}</div>\n{rows}</section>\n",
        form(frame, class, "check", label, ""),
    )
}

/// What a check has found (so far).
#[derive(Debug)]
pub(super) struct Findings {
    list: Vec<Finding>,
    /// The check's last sentence.
    verdict: Option<String>,
}

impl Findings {
    /// Reads the output of `check --json`. None if it has found nothing (yet).
    pub(super) fn read(output: &str) -> Option<Findings> {
        let list = output.lines().filter_map(Finding::decode);
        let list: Vec<Finding> = list.take(MAX_FINDINGS).collect();
        let verdict = output.lines().find_map(|line| text(line, "verdict"));
        (!list.is_empty()).then_some(Findings { list, verdict })
    }

    fn of(&self, level: &str) -> impl Iterator<Item = &Finding> {
        self.list
            .iter()
            .filter(move |finding| finding.level == level)
    }

    /// How many errors and warnings there are.
    fn tags(&self) -> String {
        let tags: String = LEVELS
            .iter()
            .map(|(level, class)| (self.of(level).count() as u64, level, class))
            .filter(|(count, ..)| *count > 0)
            .map(|(count, level, class)| {
                format!(
                    "<span class=\"tag {class}\">{}</span>\n",
                    plural(count, level)
                )
            })
            .collect();
        match tags.as_str() {
            "" => String::from("<span class=\"tag\">all is well</span>\n"),
            _ => tags,
        }
    }

    /// The check's last sentence.
    pub(super) fn verdict(&self) -> String {
        let verdict = self.verdict.as_deref().map(escape_html);
        verdict.map_or(String::new(), |verdict| {
            format!("<p class=\"verdict\">{verdict}</p>\n")
        })
    }

    /// The findings as HTML: errors first, and what is good in one place.
    pub(super) fn rows(&self, frame: &Frame<'_>) -> String {
        // While it runs, all of it is shown.
        let open = if self.verdict.is_none() { " open" } else { "" };
        let mut html = String::new();
        for (level, class) in LEVELS {
            for finding in self.of(level) {
                html += &finding.row(frame, class);
            }
        }
        let mut good = String::new();
        for Finding { place, what, .. } in self.of("ok") {
            let (place, what) = (escape_html(place), escape_html(what));
            let _ = writeln!(good, "<li><span class=\"s\">{place}:</span> {what}</li>");
        }
        if !good.is_empty() {
            let count = plural(self.of("ok").count() as u64, "check");
            let _ = write!(
                html,
                "<details class=\"fine\"{open}>\n<summary><span class=\"good\">{count} passed</span></summary>\n<ul>\n{good}</ul>\n</details>\n"
            );
        }
        html
    }
}

/// One finding.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    level: String,
    code: String,
    place: String,
    what: String,
    fix: String,
}

impl Finding {
    /// The finding on a line of `check --json`.
    fn decode(line: &str) -> Option<Finding> {
        Some(Finding {
            level: text(line, "level")?,
            code: text(line, "code")?,
            place: text(line, "place")?,
            what: text(line, "what")?,
            fix: text(line, "fix")?,
        })
    }

    fn row(&self, frame: &Frame<'_>, class: &str) -> String {
        let code = code_named(&self.code);
        let cure = match self.fix.as_str() {
            "" => code.map_or("", |code| code.cure()),
            fix => fix,
        };
        let (what, traceback) = split_traceback(&self.what);
        let what = what.trim_end();
        format!(
            "<div class=\"row\">\n<p><span class=\"tag {class}\">{}</span> <span class=\"q\">{}</span></p>\n\
             <div>\n<p class=\"{}\">{}</p>\n<p class=\"s\">{}</p>\n{}{}{}{}</div>\n</div>\n",
            escape_html(&self.level),
            escape_html(&self.code),
            // Several lines are a list of equals, and a long one is read, not glanced at.
            if what.contains('\n') || what.len() > LONG {
                "lines"
            } else {
                "what"
            },
            escape_html(what),
            escape_html(&self.place),
            cure_line(cure),
            cure_button(frame, code, cure),
            details(traceback, false),
            code.map_or_else(String::new, meaning),
        )
    }
}

/// The text of this name in a JSON object on one line, as `quote_json` writes it: no quote within it is bare.
fn text(line: &str, name: &str) -> Option<String> {
    let (_, after) = line.split_once(&format!("\"{name}\": \""))?;
    let (mut out, mut chars) = (String::new(), after.chars());
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::quote_json;

    #[test]
    fn lines_of_json_are_decoded() {
        let what = "a \"b\": \"c\"\n\\n <i>\u{7}é\\";
        let line = format!(
            "  {{\"level\": \"error\", \"code\": \"RF0273\", \"place\": \"x\", \"what\": {}, \"fix\": \"\"}},",
            quote_json(what)
        );
        let finding = Finding::decode(&line).unwrap();
        assert_eq!((finding.what.as_str(), finding.fix.as_str()), (what, ""));
        for end in (0..line.len() - 2).filter(|end| line.is_char_boundary(*end)) {
            assert_eq!(Finding::decode(&line[..end]), None, "cut at {end}");
        }
        for wrong in [
            "",
            "], \"errors\": 1}",
            "\"level\": \"\\u{110000}\"",
            "\"level\": \"\\ud800\"",
        ] {
            assert_eq!(Finding::decode(wrong), None);
        }
    }

    #[test]
    fn rows_are_escaped_and_the_worst_comes_first() {
        let frame = Frame {
            url: "/-/desk",
            subpath: "",
            token: "t",
            busy: false,
        };
        let line = |level, code, what| {
            format!(
                "{{\"level\": \"{level}\", \"code\": \"{code}\", \"place\": \"<p>\", \"what\": \"{what}\", \"fix\": \"\"}}\n"
            )
        };
        let output = [
            line("ok", "", "<fine>"),
            line("warning", "RF0274", "<soso>"),
            line("error", "RF0273", "<wrong>"),
            line("error", "<i>", "unknown"),
        ];
        let found = Findings::read(&output.concat()).unwrap();
        let html = found.rows(&frame);
        let at = |part: &str| html.find(part).unwrap_or_else(|| panic!("{part}: {html}"));
        assert!(
            at("&lt;wrong&gt;") < at("&lt;soso&gt;") && at("&lt;soso&gt;") < at("&lt;fine&gt;")
        );
        assert!(at("1 check passed") < at("&lt;fine&gt;") && at("&lt;i&gt;") > 0);
        assert!(html.contains("value=\"plan\"") && html.contains("value=\"collectstatic\""));
        for wrong in ["<fine>", "<soso>", "<wrong>", "<i>"] {
            assert!(!html.contains(wrong), "{wrong}");
        }
        let tags = found.tags();
        assert!(
            tags.contains(">2 errors<") && tags.contains(">1 warning<"),
            "{tags}"
        );
        assert!(Findings::read("it does not start\n").is_none());
        let found = Findings::read(&line("ok", "", "fine")).unwrap();
        assert!(found.tags().contains("all is well"));
    }
}
