//! `Quota`: what the account has room for, checked before another worker is started.

use super::generation::Generation;
use super::output::Output;
use super::pool::Pool;
use super::scaling::{self, Sizes};
use crate::account::Account;
use crate::config::Config;
use crate::failure::Failure;
use crate::sys::limits::is_shortage;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// How often the log says that the account is at its limits.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Whether the system refused a process, or what it needs, because there are too many, or for lack of memory: that passes.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory) || is_shortage(error)
}

/// Whether the preloader is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), NotConnected | BrokenPipe | ConnectionReset)
}

/// The account, and when the log last said that it is at its limits.
#[derive(Debug)]
pub(super) struct Quota {
    account: Account,
    /// The front gets one request at a time.
    alone: bool,
    noted: Option<Instant>,
    /// Why the system refused the last process, if it refused it.
    refusal: Option<String>,
}

impl Quota {
    pub(super) fn new(alone: bool) -> Quota {
        Quota {
            // A front that gets one request at a time has one worker, whatever the account has room for.
            account: match alone {
                true => Account::default(),
                false => Account::read(),
            },
            alone,
            noted: None,
            refusal: None,
        }
    }

    /// How many processes there may be.
    pub(super) fn sizes(&self, config: &Config) -> Sizes {
        Sizes::new(config, &self.account, self.alone)
    }

    /// Sets the bounds of the pool. Looks at the account only if a worker can be started now: a preloader that is just
    /// starting would be counted. Returns a line for the log.
    pub(super) fn bound(
        &mut self,
        pool: &mut Pool,
        current: &Generation,
        now: Instant,
    ) -> Option<String> {
        let config = current.config();
        let sizes = Sizes::new(config, &Account::default(), self.alone);
        let more = scaling::growth(sizes, pool.counts()) > 0;
        let mut text = None;
        if more && !self.alone && current.can_start() {
            let (started, urgent) = (pool.roster().tasks(), pool.queue().waiting() > 0);
            self.account.refresh(started, urgent, now);
            text = self.account.cut_once(config);
        }
        pool.set_bounds(self.sizes(config), self.account.tasks());
        text
    }

    /// The system refused a process. Returns what to log, unless that was logged a moment ago.
    pub(super) fn refused(&mut self, what: &str, now: Instant) -> Option<String> {
        let why = match self.account.reached() {
            Some(limit) => format!("{what}; {limit}"),
            None => what.to_owned(),
        };
        self.refusal = Some(why.clone());
        self.is_note_due(now).then_some(why)
    }

    /// The site has no room for a further worker.
    pub(super) fn bounded(&mut self, why: String) {
        self.refusal = Some(why);
    }

    /// A process has started.
    pub(super) fn started(&mut self) {
        self.refusal = None;
    }

    /// If no worker was free in time, adds the reason, if it is known.
    pub(super) fn explain(&self, output: Output, current: &Generation) -> Output {
        let Output::Fail(request, Failure::QueueTimeout(seconds)) = output else {
            return output;
        };
        let failure = match &self.refusal {
            _ if current.is_importing() => {
                Failure::NoMoreWorkers(seconds, String::from("the app is still being imported"))
            }
            Some(why) => Failure::NoMoreWorkers(seconds, why.clone()),
            None => Failure::QueueTimeout(seconds),
        };
        Output::Fail(request, failure)
    }

    fn is_note_due(&mut self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < NOTE_EVERY;
        let due = !self.noted.is_some_and(recent);
        if due {
            self.noted = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_no_fault() {
        let of = |number| is_refusal(&io::Error::from_raw_os_error(number));
        assert!(of(nix::libc::EAGAIN) && of(nix::libc::ENOMEM) && of(nix::libc::EMFILE));
        assert!(!of(nix::libc::ENOENT) && !of(nix::libc::EACCES));
    }
}
