//! Findings: errors, warnings and good news about a configuration or a host, as plain data.
//!
//! Each has a code, a place, a description and a fix. No files, options or output here.

use crate::codes::Code;
use std::fmt;

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub level: Level,
    /// The kind of message; None at [`Level::Good`].
    pub code: Option<Code>,
    /// `mysite.toml:12:5`, an option of the command line, or a path.
    pub place: String,
    /// What was found, in lower case.
    pub what: String,
    /// What to do about it; empty when `what` is enough.
    pub fix: String,
}

/// The severity of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The site does not start.
    Error,
    /// The site starts, but perhaps not as intended.
    Warning,
    /// Nothing is wrong; `check` reports it for information.
    Good,
}

impl Finding {
    /// An error: the site does not start.
    pub fn error(
        code: Code,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding::new(Level::Error, Some(code), place, what, fix)
    }

    /// A warning: the site starts.
    pub fn warning(
        code: Code,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding::new(Level::Warning, Some(code), place, what, fix)
    }

    /// Something that is in order.
    pub fn good(place: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(Level::Good, None, place, what, "")
    }

    fn new(
        level: Level,
        code: Option<Code>,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            level,
            code,
            place: place.into(),
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// The finding in one line, for a log.
    pub fn one_line(&self) -> String {
        let fix = match self.fix.as_str() {
            "" => String::new(),
            fix => format!("; {fix}"),
        };
        let what = format!("{}{fix}", self.what).replace('\n', " | ");
        match self.code {
            None => format!("{}: {what}", self.place),
            Some(code) => format!("{code} {}: {what}", self.place),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indented = |text: &str| text.replace('\n', "\n        ");
        f.write_str(match self.level {
            Level::Error => "error   ",
            Level::Warning => "warning ",
            Level::Good => "ok      ",
        })?;
        if let Some(code) = self.code {
            write!(f, "{code} ")?;
        }
        write!(f, "{}: {}", self.place, indented(&self.what))?;
        if !self.fix.is_empty() {
            write!(f, "\n        {}", indented(&self.fix))?;
        }
        Ok(())
    }
}

/// The name in `known` that `given` most likely misspells, if any is close enough.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        let d = distance(given.as_bytes(), name.as_bytes());
        let allowed = if name.len().max(given.len()) < 4 {
            1
        } else {
            2.max(name.len() / 3)
        };
        if d <= allowed && best.is_none_or(|(b, _)| d < b) {
            best = Some((d, name));
        }
    }
    best.map(|(_, name)| name)
}

/// The fix for an unknown name: suggests the nearest name in `known`, or returns `otherwise`.
pub fn did_you_mean<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    match nearest(given, known) {
        Some(near) => format!("did you mean {near}?"),
        None => otherwise.to_string(),
    }
}

/// The Damerau-Levenshtein distance (optimal string alignment) between `a` and `b`, in bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// All findings, one per line.
pub fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(Finding::one_line).collect();
    lines.join("\n")
}

/// The code of each finding, and `ok` for those that are good.
#[cfg(test)]
pub(crate) fn codes(findings: &[Finding]) -> Vec<String> {
    let name = |f: &Finding| f.code.map_or(String::from("ok"), |code| code.to_string());
    findings.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::settings;

    #[test]
    fn misspellings_find_their_name() {
        let known = ["maxrequests", "maxspare", "minspare", "socket", "port"];
        for (given, want) in [
            ("maxrequest", Some("maxrequests")),
            ("MaxRequests", Some("maxrequests")),
            ("max-requests", Some("maxrequests")),
            ("sokcet", Some("socket")),
            ("prot", Some("port")),
            ("wibble", None),
            ("x", None),
        ] {
            assert_eq!(nearest(given, known), want, "{given}");
        }
    }

    #[test]
    fn a_finding_as_text() {
        let f = Finding::error(
            settings::UNKNOWN_KEY,
            "mysite.toml:3:1",
            "unknown key",
            "did you mean",
        );
        assert_eq!(
            f.to_string(),
            "error   RF0103 mysite.toml:3:1: unknown key\n        did you mean"
        );
        assert_eq!(
            f.one_line(),
            "RF0103 mysite.toml:3:1: unknown key; did you mean"
        );
    }
}
