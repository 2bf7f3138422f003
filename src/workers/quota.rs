//! `Quota`: what the account has room for, looked at before one more worker is started.

use super::pool::Pool;
use super::scaling::{self, Sizes};
use crate::account::Account;
use crate::config::Config;
use std::time::{Duration, Instant};

/// How often the log is told that the account is at its limits.
const TOLD: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub(super) struct Quota {
    account: Account,
    /// The front is given one request at a time.
    alone: bool,
    told: Option<Instant>,
}

impl Quota {
    pub(super) fn new(alone: bool) -> Quota {
        Quota {
            account: Account::read(),
            alone,
            told: None,
        }
    }

    /// How many processes there may be.
    pub(super) fn sizes(&self, config: &Config) -> Sizes {
        Sizes::new(config, &self.account, self.alone)
    }

    /// Bounds the pool. `can_start`: a worker can be started now; before, what starts a preloader passes by. What the log
    /// is to be told.
    pub(super) fn bound(
        &mut self,
        pool: &mut Pool,
        config: &Config,
        can_start: bool,
        now: Instant,
    ) -> Option<String> {
        let sizes = Sizes::new(config, &Account::default(), self.alone);
        let more = scaling::growth(sizes, pool.counts()) > 0;
        let mut text = None;
        if more && !self.alone && can_start {
            let (started, urgent) = (pool.roster().tasks().0, pool.queue().waiting() > 0);
            self.account.look(started, urgent, now);
            text = self.account.tell_cut(config);
        }
        pool.set_bounds(self.sizes(config), self.account.tasks());
        text
    }

    /// Whether the log is to be told now that the account is at its limits: not several times a second.
    pub(super) fn tells(&mut self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < TOLD;
        let tells = !self.told.is_some_and(recent);
        if tells {
            self.told = Some(now);
        }
        tells
    }
}
