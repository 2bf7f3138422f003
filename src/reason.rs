//! `Reason`: why something failed, in the parts that an owner reads one after the other: what happened, what helps, and
//! the traceback. Plain data.

use crate::codes::{self, Code};

/// A path that contains one of these belongs to an installed package, the standard library or runfcgi, not to the owner.
const NOT_OWN: [&str; 5] = [
    "site-packages",
    "dist-packages",
    "/lib/python",
    "/lib64/python",
    "File \"<",
];
/// How Python begins a traceback.
pub const TRACEBACK: &str = "Traceback (most recent call last):";
/// How Python begins a stack frame in a traceback.
const FRAME: &str = "File \"";
/// Most frames of the owner's own code that are shown.
const OWN_FRAMES: usize = 3;

/// Why something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// What happened, in one line.
    pub what: String,
    /// What helps; empty if that is unknown.
    pub cure: String,
    /// The lines below: other findings, or a traceback; may be empty.
    pub more: String,
}

impl Reason {
    /// Takes a text apart whose first line tells cause and cure.
    pub fn parse(text: &str) -> Reason {
        let text = text.trim_end();
        let (first, more) = text.split_once('\n').unwrap_or((text, ""));
        let (what, cure) = split_cure(first);
        Reason {
            what: what.to_owned(),
            cure: cure.to_owned(),
            more: more.to_owned(),
        }
    }

    /// The same, where this helps if nothing else is known to.
    pub fn with_cure(mut self, cure: &str) -> Reason {
        if self.cure.is_empty() {
            self.cure = cure.to_owned();
        }
        self
    }

    /// The code in its first line.
    pub fn code(&self) -> Option<Code> {
        code_named(&self.what)
    }

    /// All of it, as a text.
    pub fn text(&self) -> String {
        let Reason { what, cure, more } = self;
        let mut text = what.clone();
        for (before, part) in [(": ", cure), ("\n", more)] {
            if !part.is_empty() {
                text += &[before, part].concat();
            }
        }
        text
    }
}

/// What happened and what helps, of a message in one line: `no module named 'x' (shop/views.py:1): install it`.
fn split_cure(message: &str) -> (&str, &str) {
    match message.split_once("): ") {
        Some((what, cure)) => (&message[..=what.len()], cure),
        // A finding in one line.
        None if code_named(message).is_some() => message.split_once("; ").unwrap_or((message, "")),
        None => (message, ""),
    }
}

/// The first code in a message.
pub fn code_named(message: &str) -> Option<Code> {
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric());
    let word = words.find(|word| word.len() == 6 && word.starts_with("RF"))?;
    codes::find(codes::number(word)?).ok()
}

/// What stands before a traceback, and the traceback, which may lack its beginning; either may be empty.
pub fn split_traceback(text: &str) -> (&str, &str) {
    let frame = text.find(FRAME).map(|at| line_of(text, at));
    let begin = text.find(TRACEBACK).into_iter().chain(frame).min();
    text.split_at(begin.unwrap_or(text.len()))
}

/// Where the line begins that this byte is in.
fn line_of(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The innermost stack frames of a traceback that are in the owner's own code, without the marks below their lines. Empty if
/// there are none, or no others.
pub fn own_frames(traceback: &str) -> String {
    let (mut own, mut in_own, mut others) = (Vec::<String>::new(), false, false);
    for line in traceback.lines() {
        if line.trim_start().starts_with(FRAME) {
            in_own = !NOT_OWN.iter().any(|other| line.contains(other));
            others |= !in_own;
            if in_own {
                own.push(String::new());
            }
        } else if !line.starts_with("    ") {
            in_own = false;
        }
        if in_own
            && !is_mark(line)
            && let Some(frame) = own.last_mut()
        {
            *frame += line.strip_prefix("  ").unwrap_or(line);
            frame.push('\n');
        }
    }
    match others {
        true => own[own.len().saturating_sub(OWN_FRAMES)..].concat(),
        false => String::new(),
    }
}

/// A line of a traceback that only points at the one above.
fn is_mark(line: &str) -> bool {
    line.bytes().all(|b| b" ^~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_taken_apart() {
        let parse = |text| {
            let Reason { what, cure, more } = Reason::parse(text);
            [what, cure, more]
        };
        for (text, parts) in [
            ("", ["", "", ""]),
            ("it failed", ["it failed", "", ""]),
            (
                "no x (a.py:1): add: it\nb\n\n",
                ["no x (a.py:1)", "add: it", "b"],
            ),
            (
                "RF0273 not applied; migrate; twice",
                ["RF0273 not applied", "migrate; twice", ""],
            ),
            ("no code; no cure", ["no code; no cure", "", ""]),
        ] {
            assert_eq!(parse(text), parts, "{text}");
        }
        for text in ["", "it failed", "no x (a.py:1): add it\nb\nc"] {
            assert_eq!(Reason::parse(text).text(), text);
        }
    }

    #[test]
    fn a_traceback_ends_what_stands_before_it() {
        let (before, traceback) = split_traceback("a\nTraceback (most recent call last):\nb");
        assert_eq!((before, &traceback[..9]), ("a\n", "Traceback"));
        assert_eq!(split_traceback("a\nb"), ("a\nb", ""));
        let cut = "  File \"x.py\", line 1\nTraceback (most recent call last):";
        assert_eq!(split_traceback(&format!("a\n{cut}")), ("a\n", cut));
    }

    #[test]
    fn the_owners_frames_are_found() {
        let traceback = "Traceback (most recent call last):\n  File \"/lib/python3.11/x.py\", line 1, in x\n    y()\n  \
                         File \"/home/ann/shop/views.py\", line 7, in basket\n    price(item)\n    ~~~~^^^\nKeyError: 'item'";
        let own = "File \"/home/ann/shop/views.py\", line 7, in basket\n  price(item)\n";
        assert_eq!(own_frames(traceback), own);
        let all_own = traceback.replace("/lib/python3.11", "/home/ann");
        assert_eq!(own_frames(&all_own), "", "the traceback says it");
        assert_eq!(own_frames("ImportError: no"), "");
        let deep = traceback.replace(
            "KeyError",
            &"  File \"/home/ann/a.py\", line 2, in f\n    f()\n".repeat(9),
        );
        assert_eq!(own_frames(&deep).lines().count(), 2 * OWN_FRAMES);
    }
}
