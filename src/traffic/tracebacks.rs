//! `Tracebacks`: which exceptions the app itself has shown in its log during a request, so that we do not show them again.
//!
//! Django, Flask, Bottle, Falcon and `logging.exception` write Python's own traceback. It begins with a fixed line, behind
//! words of the logger or not, and its first line that is not indented is the exception with its message.

use crate::bytes::fnv;
use crate::reason::TRACEBACK;
use std::collections::VecDeque;

/// What the lines of an exception group begin with.
const GROUP: &[u8] = b"  | ";
/// The most exceptions that are remembered: the last ones.
const MAX_KNOWN: usize = 32;
/// How much of a line is compared, in bytes. `Lines` breaks long lines, but none as short as this.
const COMPARED: usize = 1000;

/// The exceptions whose tracebacks were written, as hashes of their lines.
#[derive(Debug, Default)]
pub(super) struct Tracebacks {
    /// A traceback has begun, and its exception is still to come.
    begun: bool,
    known: VecDeque<u64>,
}

impl Tracebacks {
    /// Takes the next line that was written.
    pub(super) fn push(&mut self, line: &[u8]) {
        let line = line.strip_prefix(GROUP).unwrap_or(line);
        let begins = |part| part == TRACEBACK.as_bytes();
        if line.windows(TRACEBACK.len()).any(begins) {
            self.begun = true;
        } else if self.begun && !line.starts_with(b" ") {
            self.begun = false;
            self.known.truncate(MAX_KNOWN - 1);
            let line = line.trim_ascii_end();
            self.known
                .push_front(fnv(&line[..line.len().min(COMPARED)]));
        }
    }

    /// Whether the exception at the end of this traceback is among them.
    pub(super) fn has(&self, traceback: &str) -> bool {
        let mut shown = Tracebacks::default();
        for line in traceback.lines() {
            shown.push(line.as_bytes());
        }
        let last = shown.known.front();
        last.is_some_and(|exception| self.known.contains(exception))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &str) -> Tracebacks {
        let mut tracebacks = Tracebacks::default();
        lines
            .lines()
            .for_each(|line| tracebacks.push(line.as_bytes()));
        tracebacks
    }

    fn traceback(exception: &str) -> String {
        format!("{TRACEBACK}\n  File \"a.py\", line 1, in app\n    fail()\n{exception}\n")
    }

    const GROUPED: &str = "  + Exception Group Traceback (most recent call last):\n  |   File \"a.py\", line 1, in app\n  | \
                           ExceptionGroup: both (1 sub-exception)\n  +-+---------------- 1 ----------------\n    | ValueError: x\n    \
                           +------------------------------------\n";

    #[test]
    fn an_exception_is_known_by_the_end_of_its_traceback() {
        let fails = traceback("ValueError: x");
        let key_error = traceback("KeyError: 'y'");
        let handled = "\nDuring handling of the above exception, another exception occurred:\n\n";
        let chained = [&key_error, handled, &fails].concat();
        let nested = traceback("RuntimeError: lost\n  File \"b.py\"");
        let long = traceback(&"x".repeat(5000));
        let in_line = format!("[ERROR] GET /a => {fails}\n");
        let table: [(&str, &str, bool); 13] = [
            ("", &fails, false),
            (&fails, &fails, true),
            (&in_line, &fails, true),
            (&chained, &fails, true),
            (&fails, &chained, true),
            (&chained, &key_error, true),
            (&key_error, &fails, false),
            ("it fails\nValueError: x\n", &fails, false),
            (&nested, &nested, true),
            (&long[..4500], &long, true),
            (GROUPED, GROUPED, true),
            (&fails, GROUPED, false),
            ("a line\n", "no traceback", false),
        ];
        for (app, ours, known) in table {
            assert_eq!(written(app).has(ours), known, "{app:?}, {ours:?}");
        }
    }

    #[test]
    fn only_the_last_ones_are_remembered() {
        let many: String = (0..1000).map(|n| traceback(&n.to_string())).collect();
        let tracebacks = written(&many);
        assert!(tracebacks.has(&traceback("999")) && !tracebacks.has(&traceback("0")));
        assert_eq!(tracebacks.known.len(), MAX_KNOWN);
    }
}
