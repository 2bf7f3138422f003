//! `Refusal`: what on disk cannot be used, and why, in words for the owner.

use crate::bytes::{fnv, fnv_more};
use crate::codes::{Code, place, restart};
use crate::failure::{fingerprint, first_line};

/// What cannot be used.
#[derive(Debug)]
pub struct Refusal {
    /// The kind of message.
    pub code: Code,
    /// The version of the release; empty if it has none, because its settings or its executable cannot be used.
    version: String,
    /// What becomes of it, and why, in a line; details may follow.
    pub text: String,
}

impl Refusal {
    /// Settings. `works`: those before them serve.
    pub(super) fn settings(works: bool, why: &str) -> Refusal {
        let (code, text) = match works {
            true => (
                restart::SETTINGS_REFUSED,
                "restart: the configuration is wrong, keeping the old one",
            ),
            false => (restart::NOT_CONFIGURED, "the site is not configured"),
        };
        Refusal::new(code, String::new(), text, why)
    }

    /// An executable.
    pub(super) fn executable(why: &str) -> Refusal {
        let text = format!("restart: the new executable {why}");
        Refusal {
            code: restart::EXECUTABLE_REFUSED,
            version: String::new(),
            text,
        }
    }

    /// The code of this version, in place of which the one before it serves.
    pub(super) fn new_code(version: String, why: &str) -> Refusal {
        let text = "restart: the new code cannot be imported, the old code goes on serving";
        Refusal::new(restart::NOT_IMPORTED, version, text, why)
    }

    /// The code of this version.
    pub fn code(version: String, why: &str) -> Refusal {
        let text = "the app cannot be imported";
        Refusal::new(place::IMPORT_FAILS, version, text, why)
    }

    fn new(code: Code, version: String, text: &str, why: &str) -> Refusal {
        Refusal {
            code,
            version,
            text: format!("{text}: {why}"),
        }
    }

    /// A number that is the same in all fronts of the site that find this. `files` is one for the state of the files.
    pub fn key(&self, site: &[u8], files: u64) -> u64 {
        let files = match self.version.is_empty() {
            true => files,
            false => fnv(self.version.as_bytes()),
        };
        let what = fingerprint(&[&self.code.to_string(), first_line(&self.text)]);
        [files, what]
            .iter()
            .fold(fnv(site), |hash, more| fnv_more(hash, &more.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_agree_on_what_they_have_found() {
        let code = |version: &str, why: &str| Refusal::new_code(String::from(version), why);
        let of = |refusal: Refusal, files| refusal.key(b"site", files);
        let known = of(code("a1", "it exited (pid 17)\nTraceback"), 1);
        assert_eq!(of(code("a1", "it exited (pid 18)\nother lines"), 2), known);
        assert_ne!(of(code("a2", "it exited (pid 17)"), 1), known);
        assert_ne!(of(code("a1", "KeyError: 'x'"), 1), known);
        assert_ne!(code("a1", "it exited (pid 17)").key(b"other", 1), known);
        let settings = |works| Refusal::settings(works, "line 3");
        assert_eq!(of(settings(true), 1), of(settings(true), 1));
        assert_ne!(of(settings(true), 1), of(settings(true), 2));
        assert_ne!(of(settings(true), 1), of(settings(false), 1));
    }
}
