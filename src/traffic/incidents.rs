//! `Incidents`: turns failures and warnings into log events. Each failure gets an incident id and one event, whose first
//! line has cause and cure. Floods of similar events are summarised.

use super::output::{Incident, Output};
use super::repeats::Repeats;
use crate::bytes::fnv_more;
use crate::environ::describe;
use crate::failure::{Failure, fingerprint};
use crate::log::Level;
use crate::request::RequestNo;
use std::time::Instant;

/// Stands in place of a traceback that the app itself has logged.
const SHOWN: &str = "its traceback stands above: the app has logged it";

/// Makes incident ids, and the log events of failures and warnings.
#[derive(Debug)]
pub(super) struct Incidents {
    /// Makes the ids differ from process to process.
    seed: u64,
    /// The reason why there was no app that was last logged with its traceback: in the web server's log, and in ours.
    reasons: [String; 2],
    failures: Repeats<Incident>,
    warnings: Repeats<(Level, String)>,
}

impl Incidents {
    pub(super) fn new(seed: u64) -> Incidents {
        Incidents {
            seed,
            reasons: Default::default(),
            failures: Repeats::default(),
            warnings: Repeats::default(),
        }
    }

    /// The incident id for a failure of this request: eight hexadecimal digits.
    pub(super) fn id(&self, request: RequestNo) -> String {
        let hash = fnv_more(self.seed, &request.0.to_le_bytes()) as u32;
        format!("{hash:08x}")
    }

    /// The log event for a failure, for the web server's log and for ours. `None` if it is suppressed as one of a flood.
    /// `shown`: the app itself has logged the traceback.
    pub(super) fn texts(
        &mut self,
        failed: &Incident,
        shown: bool,
        now: Instant,
    ) -> Option<[String; 2]> {
        let kind = failed.failure.fingerprint();
        let failed = self.failures.admit(kind, failed.clone(), now)?;
        let text = line(&failed);
        Some(self.reasons.each_mut().map(|known| {
            let body = match &failed.failure {
                // Every request fails with this reason until it is fixed, so log the traceback once.
                Failure::Unavailable(reason) if reason == known => "",
                _ if shown => SHOWN,
                failure => failure.body(),
            };
            if let Failure::Unavailable(reason) = &failed.failure {
                known.clone_from(reason);
            }
            match text.contains(body) {
                true => text.clone(),
                false => format!("{text}\n{body}"),
            }
        }))
    }

    /// Our log has this reason with its traceback; `everywhere`: the web server's has it, too.
    pub(super) fn told(&mut self, reason: &str, everywhere: bool) {
        let [sent, own] = &mut self.reasons;
        reason.clone_into(own);
        if everywhere {
            reason.clone_into(sent);
        }
    }

    /// The log event for a warning. `None` if it is suppressed as one of a flood.
    pub(super) fn warning(&mut self, level: Level, text: String, now: Instant) -> Option<Output> {
        let kind = fingerprint(&[&text]);
        let (level, text) = self.warnings.admit(kind, (level, text), now)?;
        Some(Output::Log(level, text))
    }

    /// When the next summary is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.failures.deadline(), self.warnings.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// The log event for a summary that is due.
    pub(super) fn next_summary(&mut self, now: Instant) -> Option<Output> {
        if let Some((count, seconds, failed)) = self.failures.next_summary(now) {
            let text = summary(count, seconds, &line(&failed));
            return Some(Output::Repeated(text, count, Box::new(failed)));
        }
        let (count, seconds, (level, text)) = self.warnings.next_summary(now)?;
        Some(Output::Log(level, summary(count, seconds, &text)))
    }
}

fn line(failed: &Incident) -> String {
    let (id, request) = (&failed.incident, describe(&failed.environ));
    format!("incident {id}: {request}: {}", failed.failure.headline())
}

fn summary(count: u64, seconds: u64, last: &str) -> String {
    format!("... {count} more of these in {seconds} s, the last: {last}")
}
