//! `Code`: a stable identifier for a kind of message (`RF0123`), and its explanation.
//!
//! Each hundred has a file, and each code has a row there. To add a kind of message, add a row and a test that triggers
//! it. `explain` and the reference in `deploy/codes.md` are generated from the rows. A number is never reused for
//! another meaning.

pub mod desk;
pub mod init;
pub mod place;
pub mod request;
pub mod restart;
pub mod settings;
pub mod upkeep;
pub mod url;
pub mod worker;

use std::cmp::Ordering;
use std::fmt::{self, Write};

/// Maximum width of an explanation, in columns.
const WIDTH: usize = 80;

/// Identifies a kind of message in logs, on pages and in the output of `check`.
#[derive(Clone, Copy)]
pub struct Code(&'static Row);

/// The explanation of a code: lower case, without a final full stop.
struct Row {
    number: u16,
    title: &'static str,
    cause: &'static str,
    consequence: &'static str,
    cure: &'static str,
}

/// Defines the rows of one file: `NAME = number, "title" { cause: "...", consequence: "...", cure: "..." }`.
macro_rules! codes {
    ($(
        $NAME:ident = $number:literal, $title:literal {
            cause: $cause:literal,
            consequence: $consequence:literal,
            cure: $cure:literal $(,)?
        }
    )*) => {
        $(
            #[doc = concat!($title, ".")]
            pub const $NAME: crate::codes::Code = crate::codes::Code(&crate::codes::Row {
                number: $number,
                title: $title,
                cause: $cause,
                consequence: $consequence,
                cure: $cure,
            });
        )*
        pub(super) const ALL: &[crate::codes::Code] = &[$($NAME),*];
    };
}
use codes;

/// The title of each hundred, and its codes in ascending order.
const GROUPS: &[(&str, &[Code])] = &[
    ("RF01: settings and the command line", settings::ALL),
    (
        "RF02: Python, the app, files, sockets and the account",
        place::ALL,
    ),
    ("RF03: connections, requests and responses", request::ALL),
    ("RF04: workers and the preloader", worker::ALL),
    ("RF05: what goes live", restart::ALL),
    ("RF06: logs, status and the runtime directory", upkeep::ALL),
    ("RF07: the owner's desk", desk::ALL),
    ("RF08: init", init::ALL),
    ("RF09: the site at its URL", url::ALL),
];

impl Code {
    /// All codes, in ascending order.
    pub fn all() -> impl Iterator<Item = Code> {
        GROUPS.iter().flat_map(|(_, codes)| codes.iter().copied())
    }

    /// A short summary.
    pub fn title(self) -> &'static str {
        self.0.title
    }

    /// What the owner can do.
    pub fn cure(self) -> &'static str {
        self.0.cure
    }

    /// The summary, cause, consequence and cure, wrapped for a terminal.
    pub fn explanation(self) -> String {
        let mut out = format!("{self}: {}\n", self.title());
        for (name, text) in self.parts() {
            let _ = writeln!(out, "\n{name}:{}", wrap(text, 2));
        }
        out
    }

    /// The cause, consequence and cure, each with its name.
    pub fn parts(self) -> [(&'static str, &'static str); 3] {
        let Row {
            cause,
            consequence,
            cure,
            ..
        } = *self.0;
        [
            ("cause", cause),
            ("consequence", consequence),
            ("cure", cure),
        ]
    }
}

/// Parses `RF0103`, `rf103` or `103`.
pub fn number(word: &str) -> Option<u16> {
    let prefix = word.get(..2).filter(|p| p.eq_ignore_ascii_case("RF"));
    let digits = prefix.map_or(word, |p| &word[p.len()..]);
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

/// The code with this number. The error lists the closest codes below and above, with their titles.
pub fn find(number: u16) -> Result<Code, String> {
    let mut before = None;
    let mut after = None;
    for code in Code::all() {
        match code.0.number.cmp(&number) {
            Ordering::Less => before = Some(code),
            Ordering::Equal => return Ok(code),
            Ordering::Greater => after = after.or(Some(code)),
        }
    }
    let near = [before, after].into_iter().flatten();
    let near: Vec<String> = near.map(|c| format!("{c} ({})", c.title())).collect();
    Err(near.join(", "))
}

/// The text of `explain` without a code: one line per code, grouped by hundred.
pub fn list() -> String {
    let mut out = String::new();
    for (title, codes) in GROUPS {
        let _ = writeln!(out, "{title}\n");
        for code in *codes {
            let _ = writeln!(out, "  {code}  {}", code.title());
        }
        out.push('\n');
    }
    out.push_str("`explain RF0103` explains one of them.\n");
    out
}

/// The contents of `deploy/codes.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Message codes\n\n\
         Every error and warning in the log, from `check` and on the command line has a code. `./mysite.fcgi explain RF0103`\n\
         prints what is written here: the meaning of the message, its cause, its consequence, and the cure. A code never\n\
         changes its meaning.\n",
    );
    for (title, codes) in GROUPS {
        let _ = write!(out, "\n## {title}\n");
        for code in *codes {
            let _ = write!(out, "\n### {code}: {}\n\n", code.title());
            for (name, text) in code.parts() {
                let _ = writeln!(out, "- **{name}**: {text}.");
            }
        }
    }
    out
}

/// Wraps the text at `WIDTH` columns and indents each line by `indent`.
fn wrap(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = WIDTH;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column + 1 + width > WIDTH {
            let _ = write!(out, "\n{:indent$}", "");
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RF{:04}", self.0.number)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Code) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for Code {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_belong_to_their_hundred() {
        let numbers: Vec<u16> = Code::all().map(|code| code.0.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        for (title, codes) in GROUPS {
            for code in *codes {
                assert!(code.to_string().starts_with(&title[..4]), "{code}: {title}");
            }
        }
    }

    #[test]
    fn each_code_is_explained() {
        for code in Code::all() {
            for text in code
                .parts()
                .map(|(_, text)| text)
                .into_iter()
                .chain([code.title()])
            {
                assert!(text.len() > 10, "{code}: {text:?}");
                assert!(!text.ends_with('.'), "{code}: {text:?}");
                assert!(!text.contains("  "), "{code}: {text:?}");
            }
        }
    }

    #[test]
    fn the_document_matches_the_rows() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/codes.md");
        let Ok(document) = std::fs::read_to_string(document) else {
            return;
        };
        assert!(
            document == markdown(),
            "deploy/codes.md is out of date: replace it with the output of `runfcgi explain --markdown`"
        );
    }
}
