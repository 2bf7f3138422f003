//! Logging: events as lines on standard error (the web server's error log) and in our own files.
//!
//! Each event is one write if possible. Text from outside cannot forge a line: control characters are escaped, and all
//! lines of an event but the first are indented. Reads no clock, and never sees a request's variables.

mod file;
mod stderr;
mod time;

pub use file::{AppendError, LogFile, PRIVATE};
pub use time::Utc;

use crate::codes::{self, Code};
use std::fmt::{self, Write as _};
use std::time::SystemTime;
use stderr::Stderr;

/// The longest text of an event, in bytes. The middle of a longer one is left out.
const MAX_EVENT: usize = 16 << 10;

/// The severity of an event, or its source if the application wrote it. Errors and warnings have a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A request failed, or something else cannot be done.
    Error(Code),
    /// Something that the owner should look into.
    Warning(Code),
    /// Normal operation.
    Info,
    /// Text from the application.
    App,
    /// Text from the application's standard output, which may have a file of its own.
    Output,
}

/// The prefix of the text: `error: RF0301 `.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Error(code) => write!(f, "error: {code} "),
            Level::Warning(code) => write!(f, "warning: {code} "),
            Level::Info => f.write_str("info: "),
            Level::App | Level::Output => f.write_str("app: "),
        }
    }
}

/// The destinations of events.
#[derive(Debug)]
pub struct Log {
    to_stderr: bool,
    stderr: Stderr,
    errors: Option<Sink>,
    output: Option<Sink>,
    file: Option<Sink>,
}

/// A log file, and which kinds of its errors have been reported.
#[derive(Debug)]
struct Sink {
    file: LogFile,
    reported_lost: bool,
    reported_stuck: bool,
}

impl Log {
    /// Logs to standard error, a file, both or neither.
    pub fn new(to_stderr: bool, file: Option<LogFile>) -> Log {
        Log {
            to_stderr,
            stderr: Stderr::default(),
            errors: None,
            output: None,
            file: file.map(Sink::new),
        }
    }

    /// Replaces the file.
    pub fn set_file(&mut self, file: Option<LogFile>) {
        let same = |file: &LogFile| {
            self.file
                .as_ref()
                .is_some_and(|sink| sink.file.is_same(file))
        };
        if !file.as_ref().is_some_and(same) {
            self.file = file.map(Sink::new);
        }
    }

    /// Redirects standard error to `errors`, and the application's standard output to `output` if given.
    pub fn daemonize(&mut self, errors: Option<LogFile>, output: Option<LogFile>) {
        self.stderr.flush();
        // Drop our own descriptor of the shell's standard error, as someone may wait for its end.
        self.stderr = Stderr::default();
        self.errors = errors.map(Sink::new);
        self.output = output.map(Sink::new);
    }

    /// Whether the application's standard output goes to a file of its own.
    pub fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// Logs an event. Never fails and never blocks: errors of a file are reported once on standard error, and events
    /// that nobody reads there are dropped and counted.
    pub fn event(&mut self, now: SystemTime, level: Level, text: &str) {
        let event = line(now, level, text);
        self.flush(now);
        let error = match (&mut self.output, &mut self.errors) {
            (Some(output), _) if level == Level::Output => output.append(now, &event),
            (_, Some(errors)) => errors.append(now, &event),
            _ => {
                if self.to_stderr {
                    self.stderr.put(&event);
                }
                None
            }
        };
        if let Some(error) = error {
            self.stderr.put(&error);
        }
        self.append(now, &event);
    }

    /// Logs an event in our own file only, because the reader of standard error gets it another way.
    pub fn event_in_file(&mut self, now: SystemTime, level: Level, text: &str) {
        self.append(now, &line(now, level, text));
    }

    fn append(&mut self, now: SystemTime, event: &str) {
        let file = self.file.as_mut();
        if let Some(error) = file.and_then(|file| file.append(now, event)) {
            self.stderr.put(&error);
        }
    }

    /// Writes events that wait for the reader of standard error. Returns true if it accepted some and more are waiting.
    pub fn flush(&mut self, now: SystemTime) -> bool {
        let before = self.stderr.waiting();
        self.stderr.flush();
        if let Some(lost) = self.stderr.take_lost() {
            let text = format!("nobody has read standard error: messages lost: {lost}");
            let level = Level::Warning(codes::upkeep::STDERR_UNREAD);
            self.stderr.put(&line(now, level, &text));
        }
        (1..before).contains(&self.stderr.waiting())
    }
}

impl Sink {
    fn new(file: LogFile) -> Sink {
        Sink {
            file,
            reported_lost: false,
            reported_stuck: false,
        }
    }

    /// Appends an event. Returns an event for standard error if that fails, the first time for each kind of error.
    fn append(&mut self, now: SystemTime, event: &str) -> Option<String> {
        use codes::upkeep::{LOG_LOST, LOG_NOT_ROTATED};
        let (code, error, consequence, reported) = match self.file.append(now, event.as_bytes()) {
            Ok(()) => return None,
            Err(AppendError::Lost(error)) => {
                let reported = &mut self.reported_lost;
                (LOG_LOST, error, "its events are lost", reported)
            }
            Err(AppendError::Stuck(error)) => (
                LOG_NOT_ROTATED,
                error,
                "it is not rotated and keeps growing; is its directory writable?",
                &mut self.reported_stuck,
            ),
        };
        if std::mem::replace(reported, true) {
            return None;
        }
        let path = self.file.path().display();
        let text = format!("log file {path}: {error}; {consequence}");
        Some(line(now, Level::Error(code), &text))
    }
}

/// An event of this process as text.
fn line(time: SystemTime, level: Level, text: &str) -> String {
    let pid = std::process::id();
    Line {
        time,
        pid,
        level,
        text,
    }
    .to_string()
}

/// One event: `2026-11-22T07:48:58Z [4711] warning: RF0407 text`, followed by the other lines of the text, indented.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When it happened.
    pub time: SystemTime,
    /// The process that logs it.
    pub pid: u32,
    /// Its severity.
    pub level: Level,
    /// One or more lines. The middle of a long text is left out.
    pub text: &'a str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time, pid, level) = (Utc::from(self.time), self.pid, self.level);
        write!(f, "{time} [{pid}] {level}")?;
        let text = self.text.trim_end();
        if text.len() <= MAX_EVENT {
            escape(f, text)?;
        } else {
            // The end of a traceback matters most.
            let head = text.floor_char_boundary(MAX_EVENT / 4);
            let tail = text.ceil_char_boundary(text.len() - MAX_EVENT / 4 * 3);
            escape(f, &text[..head])?;
            write!(f, "\n    ({} bytes left out)\n    ", tail - head)?;
            escape(f, &text[tail..])?;
        }
        f.write_char('\n')
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
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

    fn info(text: &str) -> String {
        Line {
            time: UNIX_EPOCH + Duration::from_secs(1_795_333_738),
            pid: 4711,
            level: Level::Info,
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
            let want = format!("2026-11-22T07:48:58Z [4711] info: {want}\n");
            assert_eq!(info(text), want, "{text:?}");
        }
    }

    #[test]
    fn levels_have_names_and_codes() {
        let code = codes::upkeep::LOG_LOST;
        let levels = [
            (Level::Error(code), "error: RF0601 "),
            (Level::Warning(code), "warning: RF0601 "),
            (Level::Info, "info: "),
            (Level::App, "app: "),
            (Level::Output, "app: "),
        ];
        for (level, want) in levels {
            assert_eq!(level.to_string(), want);
        }
    }

    #[test]
    fn the_middle_of_a_long_text_is_left_out() {
        let text = format!("start {} end", "\u{e9}".repeat(MAX_EVENT));
        let got = info(&text);
        assert!(got.len() < MAX_EVENT + 200);
        assert!(
            got.contains("start") && got.ends_with(" end\n") && got.contains("bytes left out)")
        );
    }
}
