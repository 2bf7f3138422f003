//! `Lost`: requests whose worker has closed its socket in the middle of them. Each fails as soon as it is known how the
//! worker ended, which its parent reports a moment later.

use super::roster::DIED;
use crate::failure::Failure;
use crate::request::RequestNo;
use std::time::{Duration, Instant};

/// How long the parent of a worker may take to report how it ended.
const REPORTED_WITHIN: Duration = Duration::from_secs(2);

/// Requests that wait to fail, each with its failure so far, and until when to wait for a better one.
#[derive(Debug, Default)]
pub(super) struct Lost(Vec<(RequestNo, Failure, Instant)>);

impl Lost {
    /// The request has failed. Returns the failure if there is nothing more to learn of it.
    pub(super) fn fail(
        &mut self,
        request: RequestNo,
        failure: Failure,
        now: Instant,
    ) -> Option<Failure> {
        if !matches!(&failure, Failure::WorkerLost(why, _) if why == DIED) {
            return Some(failure);
        }
        self.0.push((request, failure, now + REPORTED_WITHIN));
        None
    }

    /// Whether the request waits to fail.
    pub(super) fn holds(&self, request: RequestNo) -> bool {
        self.0.iter().any(|(of, ..)| *of == request)
    }

    /// A process has ended in this way. Returns the requests that fail for this.
    pub(super) fn ended(&mut self, pid: i32, how: &str) -> Vec<(RequestNo, Failure)> {
        let is_its =
            |failure: &Failure| matches!(failure, Failure::WorkerLost(_, of) if *of == pid);
        let its = self.0.extract_if(.., |(_, failure, _)| is_its(failure));
        let failure = || Failure::WorkerLost(format!("its worker {how}"), pid);
        its.map(|(request, ..)| (request, failure())).collect()
    }

    /// When the next one has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|(.., until)| *until).min()
    }

    /// The requests that have waited long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(RequestNo, Failure)> {
        let due = self.0.extract_if(.., |(.., until)| *until <= now);
        due.map(|(request, failure, _)| (request, failure))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_fails_when_the_end_of_its_worker_is_known() {
        let now = Instant::now();
        let lost = |pid| Failure::WorkerLost(String::from(DIED), pid);
        let (first, second) = (RequestNo(1), RequestNo(2));
        let mut requests = Lost::default();
        assert_eq!(
            requests.fail(first, Failure::NoWorker, now),
            Some(Failure::NoWorker)
        );
        assert_eq!(requests.fail(first, lost(7), now), None);
        assert_eq!(requests.fail(second, lost(8), now), None);
        assert!(requests.holds(first) && !requests.holds(RequestNo(3)));
        let told = Failure::WorkerLost(String::from("its worker was killed"), 7);
        assert_eq!(requests.ended(7, "was killed"), [(first, told.clone())]);
        assert_eq!(requests.due(now), []);
        let late = now + REPORTED_WITHIN * 2;
        assert!(requests.deadline().is_some_and(|at| at < late));
        assert_eq!(requests.due(late), [(second, lost(8))]);
        assert_eq!(requests.deadline(), None);
    }
}
