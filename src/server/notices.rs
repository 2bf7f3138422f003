//! `Notices`: writes events to the log, and failures to the journal as well.

use super::Role;
use super::report::summary;
use super::told;
use crate::codes::{Code, upkeep::JOURNAL_NOT_WRITTEN};
use crate::failure::{Exception, Failure};
use crate::journal::{self, Entry};
use crate::log::{Level, Log, LogFile};
use crate::reason::Reason;
use crate::reload::Refusal;
use crate::rundir::RuntimeDir;
use crate::status::collect::millis;
use crate::traffic::Incident;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long to wait before writing more to standard error, when its reader drains it slowly.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);

/// How long the first request of a process that a web server has just spawned may take to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);

/// The log, and access to the journal.
#[derive(Debug)]
pub(super) struct Notices {
    log: Log,
    /// When to write the log events that wait for the reader of standard error.
    flush_at: Option<Instant>,
    /// The journal could not be written, and that has been logged.
    journal_fails: bool,
    /// Why no request can be served, its key, and when to log it, unless a request fails and logs it first.
    refusal: Option<(Instant, Refusal, u64)>,
}

impl Notices {
    /// Writes events to this log.
    pub(super) fn new(log: Log) -> Notices {
        Notices {
            log,
            flush_at: None,
            journal_fails: false,
            refusal: None,
        }
    }

    /// Replaces the log file.
    pub(super) fn set_file(&mut self, file: Option<LogFile>) {
        self.log.set_file(file);
    }

    /// Redirects standard error to `errors`, and the app's standard output to `output` if given.
    pub(super) fn daemonize(&mut self, errors: Option<LogFile>, output: Option<LogFile>) {
        self.log.daemonize(errors, output);
    }

    /// Whether the app's standard output goes to a file of its own.
    pub(super) fn has_output(&self) -> bool {
        self.log.has_output()
    }

    /// Logs an event.
    pub(super) fn note(&mut self, level: Level, text: &str) {
        self.log.event(SystemTime::now(), level, text);
    }

    /// Logs a warning.
    pub(super) fn warn(&mut self, code: Code, text: &str) {
        self.note(Level::Warning(code), text);
    }

    /// Logs an event that has also gone to the web server's error log, in the response's STDERR stream. Standard error is
    /// skipped if the web server spawned us, as it leads to the same log, or to one that the owner does not see.
    pub(super) fn note_copy(&mut self, level: Level, text: &str, role: Role) {
        match matches!(role, Role::Spawned { .. }) {
            true => self.log.event_in_file(SystemTime::now(), level, text),
            false => self.note(level, text),
        }
    }

    /// Records `count` similar failures in the journal, with the details of the last. Does nothing if `count` is 0.
    pub(super) fn record_failures(
        &mut self,
        dir: Option<&RuntimeDir>,
        last: &Incident,
        count: u64,
    ) {
        if count == 0 {
            return;
        }
        let failure = &last.failure;
        if matches!(failure, Failure::Unavailable(_)) {
            self.refusal = None;
        }
        let exception = failure.exception().cloned().unwrap_or_else(|| {
            let Reason { what, cure, more } = failure.reason();
            Exception {
                summary: what,
                hint: cure,
                traceback: more,
                ..Exception::default()
            }
        });
        let entry = Entry {
            count,
            incident: last.incident.clone(),
            code: failure.code().to_string(),
            kind: failure.kind().to_owned(),
            request: summary(&last.environ),
            summary: exception.summary,
            place: exception.place,
            hint: exception.hint,
            traceback: exception.traceback,
            ..new_entry()
        };
        self.append_to_journal(dir.map(RuntimeDir::path), &entry);
    }

    /// Logs and records why a release was refused, unless another front has. `key` is the refusal's.
    pub(super) fn record_refusal(&mut self, dir: Option<&RuntimeDir>, refusal: &Refusal, key: u64) {
        if dir.is_some_and(|dir| !told::is_first(dir, key)) {
            return;
        }
        self.note(Level::Error(refusal.code), &refusal.text);
        let Reason { what, cure, more } = Reason::parse(&refusal.text);
        let entry = Entry {
            code: refusal.code.to_string(),
            kind: String::from("refused release"),
            summary: what,
            hint: cure,
            traceback: more,
            ..new_entry()
        };
        self.append_to_journal(dir.map(RuntimeDir::path), &entry);
    }

    /// The same for a release without which no request can be served. The next request fails and tells the reason with its
    /// incident id, so wait for it a moment.
    pub(super) fn record_refusal_soon(&mut self, refusal: Refusal, key: u64, now: Instant) {
        self.refusal = Some((now + REQUEST_WITHIN, refusal, key));
    }

    /// Writes the events that wait for the reader of standard error, if it is time to. `tick`: write them in any case.
    /// Returns why no request can be served, once our log has it.
    pub(super) fn on_time(
        &mut self,
        tick: bool,
        dir: Option<&RuntimeDir>,
        now: Instant,
    ) -> Option<String> {
        let due = self.refusal.take_if(|(at, ..)| *at <= now);
        if let Some((_, refusal, key)) = &due {
            self.record_refusal(dir, refusal, *key);
        }
        if self.flush_at.take_if(|at| *at <= now).is_some() || tick {
            let more = self.log.flush(SystemTime::now());
            self.flush_at = more.then(|| now + FLUSH_INTERVAL);
        }
        due.map(|(_, refusal, _)| refusal.text)
    }

    /// When to call `on_time`.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let refusal = self.refusal.as_ref().map(|(at, ..)| *at);
        self.flush_at.into_iter().chain(refusal).min()
    }

    fn append_to_journal(&mut self, dir: Option<&Path>, entry: &Entry) {
        if let Some(dir) = dir
            && let Err(error) = journal::append(dir, entry)
            && !std::mem::replace(&mut self.journal_fails, true)
        {
            let text = format!("the journal of failures cannot be written: {error}");
            self.warn(JOURNAL_NOT_WRITTEN, &text);
        }
    }
}

/// A journal entry for one failure that has just happened.
fn new_entry() -> Entry {
    Entry {
        time: millis(SystemTime::now()),
        count: 1,
        ..Entry::default()
    }
}
