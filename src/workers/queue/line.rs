//! `Line`: the order in which requests wait for a worker. Each source has an equal share: who sends many at a time does not
//! wait before others, but behind his own.
//!
//! This is fair queueing: a request's turn is one after the one of its source before it, or after the one that was served
//! last. With one request from each source, they are served as they come. A source that does not take its responses is
//! parked: its requests are served when it takes some again.

use crate::numbered::Numbered;
use crate::request::RequestNo;
use std::collections::VecDeque;

/// A request that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: RequestNo,
    source: u64,
    turn: u64,
}

/// The requests of a source that wait.
#[derive(Clone, Copy, Debug)]
struct Share {
    waiting: usize,
    /// The turn of the last one.
    last: u64,
}

/// Requests that wait, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Line {
    order: VecDeque<Waiting>,
    /// Those of parked sources.
    parked: Numbered<u64, VecDeque<Waiting>>,
    shares: Numbered<u64, Share>,
    /// The turn that was served last.
    turn: u64,
}

impl Line {
    /// How many can be served.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// How many wait, those of parked sources included.
    pub(super) fn total(&self) -> usize {
        let parked: usize = self.parked.values().map(VecDeque::len).sum();
        self.order.len() + parked
    }

    /// One that waits, if there is one.
    pub(super) fn any(&self) -> Option<RequestNo> {
        self.everywhere().next().map(|waiting| waiting.request)
    }

    /// The next one to be served.
    pub(super) fn first(&self) -> Option<RequestNo> {
        self.order.front().map(|waiting| waiting.request)
    }

    /// A request of this source waits.
    pub(super) fn push(&mut self, request: RequestNo, source: u64) {
        let share = self.shares.get(source).copied();
        let turn = share.map_or(self.turn, |share| share.last) + 1;
        let behind = self.order.iter().rposition(|other| other.turn <= turn);
        let at = behind.map_or(0, |behind| behind + 1);
        self.insert(at, request, source, turn);
    }

    /// A request that was served waits again. It is the next one.
    pub(super) fn put_back(&mut self, request: RequestNo, source: u64) {
        self.insert(0, request, source, self.turn);
    }

    fn insert(&mut self, at: usize, request: RequestNo, source: u64, turn: u64) {
        let waiting = Waiting {
            request,
            source,
            turn,
        };
        match self.parked.get_mut(source) {
            Some(parked) => parked.push_back(waiting),
            None => self.order.insert(at, waiting),
        }
        let share = match self.shares.get(source) {
            Some(share) => Share {
                waiting: share.waiting + 1,
                last: share.last.max(turn),
            },
            None => Share {
                waiting: 1,
                last: turn,
            },
        };
        self.shares.insert(source, share);
    }

    /// Takes the next one out, to serve it.
    pub(super) fn serve(&mut self) -> Option<RequestNo> {
        let waiting = self.order.pop_front()?;
        self.turn = self.turn.max(waiting.turn);
        self.left(waiting.source);
        Some(waiting.request)
    }

    /// Takes one out that waits no more.
    pub(super) fn remove(&mut self, request: RequestNo) {
        let found = self.everywhere().find(|waiting| waiting.request == request);
        if let Some(source) = found.map(|waiting| waiting.source) {
            self.order.retain(|waiting| waiting.request != request);
            if let Some(parked) = self.parked.get_mut(source) {
                parked.retain(|waiting| waiting.request != request);
            }
            self.left(source);
        }
    }

    /// Parks a source, or serves its requests again. They have kept their order, and saved no turns. Whether this is new.
    pub(super) fn park(&mut self, source: u64, parks: bool) -> bool {
        let is_new = parks != self.parked.get(source).is_some();
        if is_new && parks {
            let all = std::mem::take(&mut self.order).into_iter();
            let (theirs, others) = all.partition(|waiting| waiting.source == source);
            self.order = others;
            self.parked.insert(source, theirs);
        } else if is_new && let Some(theirs) = self.parked.remove(source) {
            self.shares.remove(source);
            for waiting in theirs {
                self.push(waiting.request, source);
            }
        }
        is_new
    }

    fn everywhere(&self) -> impl Iterator<Item = &Waiting> {
        self.order.iter().chain(self.parked.values().flatten())
    }

    fn left(&mut self, source: u64) {
        if let Some(share) = self.shares.get_mut(source) {
            share.waiting -= 1;
            if share.waiting == 0 {
                self.shares.remove(source);
            }
        }
    }

    /// Whom to send away for the one who came last: the last one of the source of which most wait. That may be he himself.
    pub(super) fn excess(&self, source: u64) -> Option<RequestNo> {
        let waiting = |source| self.shares.get(source).map_or(0, |share| share.waiting);
        let most = self.shares.iter().max_by_key(|(_, share)| share.waiting);
        let most = most.map(|(source, _)| source);
        let of = most.filter(|most| waiting(*most) > waiting(source));
        let of = of.unwrap_or(source);
        let theirs = self.everywhere().filter(|waiting| waiting.source == of);
        theirs.last().map(|waiting| waiting.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sources: &[u64]) -> Line {
        let mut line = Line::default();
        for (number, source) in sources.iter().enumerate() {
            line.push(RequestNo(number as u64), *source);
        }
        line
    }

    fn served(line: &mut Line) -> Vec<u64> {
        let all = std::iter::from_fn(|| line.serve());
        let all = all.map(|request| request.0).collect();
        assert!(line.shares.is_empty());
        all
    }

    #[test]
    fn who_does_not_take_responses_is_served_when_he_does() {
        let mut line = line(&[1, 1, 1, 2, 2]);
        assert_eq!(line.serve(), Some(RequestNo(0)));
        line.park(1, true);
        line.push(RequestNo(5), 1);
        line.put_back(RequestNo(0), 1);
        assert_eq!((line.len(), line.total()), (2, 6));
        assert_eq!(line.excess(2), Some(RequestNo(0)));
        line.remove(RequestNo(2));
        assert_eq!(
            (line.serve(), line.serve()),
            (Some(RequestNo(3)), Some(RequestNo(4)))
        );
        assert_eq!(line.serve(), None);
        // He has saved no turns.
        line.push(RequestNo(6), 2);
        line.push(RequestNo(7), 2);
        line.park(1, false);
        assert_eq!(served(&mut line), [6, 1, 7, 5, 0]);
        assert!(line.park(3, true) && !line.park(3, true));
        assert!(line.park(3, false) && !line.park(3, false));
        assert!(line.parked.is_empty());
    }

    #[test]
    fn one_from_each_source_is_served_as_they_come() {
        assert_eq!(served(&mut line(&[7, 3, 5, 9])), [0, 1, 2, 3]);
        assert_eq!(served(&mut line(&[7, 7, 7])), [0, 1, 2]);
    }

    #[test]
    fn who_sends_many_waits_behind_his_own() {
        let mut line = line(&[1, 1, 1, 2, 2, 3]);
        assert_eq!(line.serve(), Some(RequestNo(0)));
        line.push(RequestNo(6), 4);
        line.push(RequestNo(7), 1);
        line.push(RequestNo(8), 3);
        assert_eq!(served(&mut line), [3, 5, 1, 4, 6, 8, 2, 7]);
        // Who has waited for long has no debts.
        line.push(RequestNo(9), 1);
        line.push(RequestNo(10), 2);
        line.put_back(RequestNo(11), 1);
        assert_eq!(served(&mut line), [11, 9, 10]);
    }

    #[test]
    fn the_excess_is_of_who_has_sent_most() {
        let mut line = line(&[1, 1, 1, 2, 2, 3]);
        assert_eq!(line.excess(3), Some(RequestNo(2)));
        assert_eq!(line.excess(1), Some(RequestNo(2)));
        line.remove(RequestNo(2));
        // Who has sent as many as anybody is the one himself.
        assert_eq!(line.excess(2), Some(RequestNo(4)));
        line.remove(RequestNo(4));
        line.remove(RequestNo(1));
        assert_eq!(line.excess(3), Some(RequestNo(5)));
        assert_eq!(served(&mut line), [0, 3, 5]);
    }
}
