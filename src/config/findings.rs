//! What is wrong with a configuration or a place, as plain data: code, place, what, and how to put it right.
//!
//! Knows nothing of files, options or output.

use std::fmt;

/// One thing that is wrong or odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stops the site.
    pub level: Level,
    /// Stable: never given to another meaning.
    pub code: &'static str,
    /// `mysite.toml:12:5`, an option of the command line, or a path.
    pub place: String,
    /// What is the matter, in lower case.
    pub what: String,
    /// What to do about it; empty when `what` says it.
    pub fix: String,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The site does not start.
    Error,
    /// The site starts, perhaps not as meant.
    Warning,
    /// Told by `check` for the record.
    Good,
}

impl Finding {
    /// A finding that stops the site.
    pub fn error(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding::new(Level::Error, code, place, what, fix)
    }

    /// A finding that does not.
    pub fn warning(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding::new(Level::Warning, code, place, what, fix)
    }

    /// Something that is as it should be.
    pub fn good(place: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(Level::Good, "RF0000", place, what, "")
    }

    fn new(
        level: Level,
        code: &'static str,
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

    /// The same in one line, for a log.
    pub fn one_line(&self) -> String {
        let fix = match self.fix.as_str() {
            "" => String::new(),
            fix => format!("; {fix}"),
        };
        let what = format!("{}{fix}", self.what).replace('\n', " | ");
        match self.level {
            Level::Good => format!("{}: {what}", self.place),
            _ => format!("{} {}: {what}", self.code, self.place),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indented = |text: &str| text.replace('\n', "\n        ");
        match self.level {
            Level::Error => write!(f, "error   {} ", self.code)?,
            Level::Warning => write!(f, "warning {} ", self.code)?,
            Level::Good => write!(f, "ok      ")?,
        }
        write!(f, "{}: {}", self.place, indented(&self.what))?;
        if !self.fix.is_empty() {
            write!(f, "\n        {}", indented(&self.fix))?;
        }
        Ok(())
    }
}

/// The one of `known` that `given` is most likely a misspelling of, when one is near enough.
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

/// The cure for a name that is not known: the nearest of `known`, or `otherwise`.
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

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b`.
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

/// All of them, a line each.
pub fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(Finding::one_line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_finding_in_words() {
        let f = Finding::error("RF0103", "mysite.toml:3:1", "unknown key", "did you mean");
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
