//! Logging: events as lines, to standard error (the web server's error log) and to files of our own.
//!
//! One event is one write, where it is taken at once. Nothing that comes from outside can forge a line: control characters are escaped, and the
//! further lines of an event are indented. Reads no clock; never sees an environment.

mod file;
mod stderr;
mod time;

pub use file::{LogFile, Trouble};
pub use time::Utc;

use std::fmt::Write as _;
use std::time::SystemTime;
use stderr::Stderr;

/// Bytes of an event's text that are kept.
const LONGEST: usize = 16 << 10;

/// How much an event matters, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Someone did not get what they came for.
    Error,
    /// Something that the owner should look at.
    Warning,
    /// What goes on.
    Info,
    /// What the application wrote.
    App,
    /// What the application wrote to standard output, where that is kept apart.
    Output,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::App | Level::Output => "app",
        }
    }
}

/// Where events go.
#[derive(Debug)]
pub struct Log {
    to_stderr: bool,
    stderr: Stderr,
    errors: Option<Sink>,
    output: Option<Sink>,
    file: Option<Sink>,
}

/// A file for events, and which of its troubles were told.
#[derive(Debug)]
struct Sink {
    file: LogFile,
    lost: bool,
    stuck: bool,
}

impl Log {
    /// Standard error, a file, both or neither.
    pub fn new(to_stderr: bool, file: Option<LogFile>) -> Log {
        Log {
            to_stderr,
            stderr: Stderr::default(),
            errors: None,
            output: None,
            file: file.map(Sink::new),
        }
    }

    /// Events go to this file of our own from now on, and not to the one before.
    pub fn set_file(&mut self, file: Option<LogFile>) {
        let same = |file: &LogFile| {
            self.file
                .as_ref()
                .is_some_and(|sink| sink.file.is_like(file))
        };
        if !file.as_ref().is_some_and(same) {
            self.file = file.map(Sink::new);
        }
    }

    /// From here on `errors` stands for standard error, and `output` takes what the application writes to standard
    /// output; without it that goes where the other events go.
    pub fn daemonize(&mut self, errors: Option<LogFile>, output: Option<LogFile>) {
        self.stderr.go_on();
        // It may hold the shell's standard error open, for whose end somebody waits.
        self.stderr = Stderr::default();
        self.errors = errors.map(Sink::new);
        self.output = output.map(Sink::new);
    }

    /// Whether what the application writes to standard output goes to a file of its own.
    pub fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// Logs an event. Never fails, and never waits: trouble with a file is itself told on standard error, once, and what
    /// nobody reads there is counted.
    pub fn event(&mut self, now: SystemTime, level: Level, text: &str) {
        let event = Line {
            time: now,
            pid: std::process::id(),
            level,
            text,
        }
        .to_string();
        self.go_on(now);
        let trouble = match (&mut self.output, &mut self.errors) {
            (Some(output), _) if level == Level::Output => output.append(now, &event),
            (_, Some(errors)) => errors.append(now, &event),
            _ => {
                if self.to_stderr {
                    self.stderr.put(&event);
                }
                None
            }
        };
        let more = self.file.as_mut().and_then(|file| file.append(now, &event));
        for trouble in [trouble, more].into_iter().flatten() {
            self.stderr.put(&trouble);
        }
    }

    /// Writes what waits for who reads standard error. `true`: some of it was taken, and more waits.
    pub fn go_on(&mut self, now: SystemTime) -> bool {
        let before = self.stderr.waiting();
        self.stderr.go_on();
        if let Some(lost) = self.stderr.take_lost() {
            let line = Line {
                time: now,
                pid: std::process::id(),
                level: Level::Warning,
                text: &format!("nobody has read standard error: messages lost: {lost}"),
            };
            self.stderr.put(&line.to_string());
        }
        (1..before).contains(&self.stderr.waiting())
    }
}

impl Sink {
    fn new(file: LogFile) -> Sink {
        Sink {
            file,
            lost: false,
            stuck: false,
        }
    }

    /// What standard error is to be told of trouble.
    fn append(&mut self, now: SystemTime, event: &str) -> Option<String> {
        let (error, what, told) = match self.file.append(now, event.as_bytes()) {
            Ok(()) => return None,
            Err(Trouble::Lost(error)) => (error, "its events are lost", &mut self.lost),
            Err(Trouble::Stuck(error)) => (
                error,
                "it is not rotated and grows on; may its directory be written?",
                &mut self.stuck,
            ),
        };
        if std::mem::replace(told, true) {
            return None;
        }
        let text = format!("log file {}: {error}; {what}", self.file.path().display());
        let line = Line {
            time: now,
            pid: std::process::id(),
            level: Level::Error,
            text: &text,
        };
        Some(line.to_string())
    }
}

/// One event: `2026-11-22T07:48:58Z [4711] warning: text`, then its further lines, indented.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When.
    pub time: SystemTime,
    /// Which process.
    pub pid: u32,
    /// How much it matters.
    pub level: Level,
    /// What; may have several lines. Of a long text the middle is left out.
    pub text: &'a str,
}

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (time, pid, level) = (Utc::from(self.time), self.pid, self.level.name());
        write!(f, "{time} [{pid}] {level}: ")?;
        let text = self.text.trim_end();
        if text.len() <= LONGEST {
            escape(f, text)?;
        } else {
            // A traceback says most at its end.
            let head = text.floor_char_boundary(LONGEST / 4);
            let tail = text.ceil_char_boundary(text.len() - LONGEST / 4 * 3);
            escape(f, &text[..head])?;
            write!(f, "\n    ({} bytes left out)\n    ", tail - head)?;
            escape(f, &text[tail..])?;
        }
        f.write_char('\n')
    }
}

fn escape(f: &mut std::fmt::Formatter<'_>, text: &str) -> std::fmt::Result {
    let text = text.replace("\r\n", "\n");
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if !c.is_control() || c == '\t' {
            continue;
        }
        f.write_str(&text[start..at])?;
        match c {
            '\n' => f.write_str("\n    ")?,
            _ => write!(f, "\\x{:02x}", u32::from(c))?,
        }
        start = at + c.len_utf8();
    }
    f.write_str(&text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn line(text: &str) -> String {
        Line {
            time: UNIX_EPOCH + Duration::from_secs(1_795_333_738),
            pid: 4711,
            level: Level::Warning,
            text,
        }
        .to_string()
    }

    #[test]
    fn one_event_cannot_look_like_two() {
        for (text, want) in [
            ("plain", "plain"),
            ("", ""),
            ("caf\u{e9} \t.", "caf\u{e9} \t."),
            ("trailing\n\n", "trailing"),
            (
                "a\n2026-11-22T07:48:58Z [1] error: b",
                "a\n    2026-11-22T07:48:58Z [1] error: b",
            ),
            ("a\r\nb\rc", "a\n    b\\x0dc"),
            ("\x1b[31m\0\x7f\u{85}.", "\\x1b[31m\\x00\\x7f\\x85."),
            (
                "Traceback:\n  File x\nError",
                "Traceback:\n      File x\n    Error",
            ),
        ] {
            let want = format!("2026-11-22T07:48:58Z [4711] warning: {want}\n");
            assert_eq!(line(text), want, "{text:?}");
        }
    }

    #[test]
    fn levels_have_names() {
        let levels = [
            Level::Error,
            Level::Warning,
            Level::Info,
            Level::App,
            Level::Output,
        ];
        let names: Vec<_> = levels.iter().map(|level| level.name()).collect();
        assert_eq!(names, ["error", "warning", "info", "app", "app"]);
    }

    #[test]
    fn of_a_long_text_both_ends_stay() {
        let text = format!("start {} end", "\u{e9}".repeat(LONGEST));
        let got = line(&text);
        assert!(got.len() < LONGEST + 200);
        assert!(
            got.contains("start") && got.ends_with(" end\n") && got.contains("bytes left out)")
        );
    }
}
