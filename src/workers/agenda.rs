//! `Agenda`: when something is to be looked at again: at once after a change, else at a moment that is never too late.

use std::time::Instant;

/// What has changed, and what is due.
#[derive(Debug)]
pub(super) struct Agenda {
    /// Something has happened since the last look.
    changed: bool,
    /// Nothing is due before this moment, unless something changes; None: nothing at all.
    due: Option<Instant>,
}

impl Agenda {
    /// Nobody has looked yet.
    pub(super) fn new() -> Agenda {
        Agenda {
            changed: true,
            due: None,
        }
    }

    /// Something has happened.
    pub(super) fn change(&mut self) {
        self.changed = true;
    }

    /// Something may be due at this moment.
    pub(super) fn expect(&mut self, at: Option<Instant>) {
        self.due = self.due.into_iter().chain(at).min();
    }

    /// A look begins.
    pub(super) fn begin(&mut self) {
        self.changed = false;
    }

    /// It is over, and this is due next.
    pub(super) fn end(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    /// When to look, or a little before. `exact` is found by looking at everything.
    pub(super) fn deadline(&self, exact: impl Fn() -> Option<Instant>) -> Option<Instant> {
        debug_assert!(
            self.changed || exact().is_none_or(|at| self.due.is_some_and(|due| due <= at))
        );
        self.changed.then(exact).unwrap_or(self.due)
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self, now: Instant, exact: impl Fn() -> Option<Instant>) -> bool {
        self.changed || self.deadline(exact).is_some_and(|at| at <= now)
    }
}
