//! The end of a turn: connections on which something has happened are flushed, watched or closed.

use super::Server;
use super::connection::{ConnNo, Connection, Stage};
use super::request::{Answer, Phase};
use crate::failure::Failure;
use crate::poller::Token;
use crate::request::RequestNo;
use nix::sys::epoll::EpollFlags;
use std::time::{Duration, Instant};

/// After an answer, how long a connection is read before it is closed: anew after each piece of a request that was
/// answered early.
pub(super) const DRAIN: Duration = Duration::from_secs(5);

/// A request that is answered within this time, and whose connection the peer then closes, leaves no trace in epoll.
const WATCH_AFTER: Duration = Duration::from_millis(100);
/// Connections that wait, answered, for their peers to close them before it is looked whether they have.
const ANSWERED: usize = 32;

impl Server {
    /// Flushes the connections on which something has happened in this turn, and tells epoll what they wait for.
    pub(super) fn settle_touched(&mut self, now: Instant) {
        while let Some(number) = self.touched.pop() {
            self.settle(number, now);
        }
    }

    pub(super) fn settle(&mut self, number: ConnNo, now: Instant) {
        loop {
            let Some(conn) = self.conns.get_mut(&number) else {
                return;
            };
            if conn.flush(now).is_err() {
                self.drop_conn(number, now);
                return;
            }
            if conn.is_full() {
                break;
            }
            if let Some(kept) = conn.kept.take() {
                self.decode(number, &kept, now);
                // For the requests in it there has been no dispatch in this turn.
                self.due(now);
            } else if !self.pump(number, now) {
                break;
            }
        }
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        if conn.waiting() == 0 && conn.stage == Stage::Closing {
            if conn.half_closed || conn.is_cgi() && conn.codec.is_idle() {
                self.drop_conn(number, now);
                return;
            }
            // The peer may have sent more, or be about to: to close now would reset the connection and lose the answer.
            conn.shut_down(now);
            let is_new = conn.watched.is_new() && !conn.is_cgi();
            self.due(now + DRAIN);
            if is_new {
                self.answered.push(number);
                self.due(now + WATCH_AFTER);
                if self.answered.len() >= ANSWERED {
                    self.look_at_answered(now);
                }
            }
        }
        if self.answered.contains(&number) {
            return;
        }
        self.renew_codec(number);
        if self
            .conns
            .get(&number)
            .is_some_and(|conn| self.may_wait(conn))
        {
            self.unwatched.push(number);
            self.due(now + WATCH_AFTER);
        } else {
            self.watch_conn(number);
        }
    }

    /// A connection for one request, which is with a worker: nothing is to be read from it but that the peer has gone,
    /// so most of these are answered and closed without epoll ever hearing of them.
    fn may_wait(&self, conn: &Connection) -> bool {
        let in_hand = |(_, request): &(_, RequestNo)| {
            self.requests
                .get(request)
                .is_some_and(|request| request.phase != Phase::Receiving)
        };
        conn.watched.is_new()
            && conn.stage == Stage::Open
            && conn.waiting() == 0
            && !conn.requests.is_empty()
            && conn.requests.iter().all(in_hand)
            && !conn.codec.keep_alive()
    }

    /// Has epoll watch the connections that have waited.
    pub(super) fn watch_waiting(&mut self, now: Instant) {
        self.look_at_answered(now);
        for number in std::mem::take(&mut self.unwatched) {
            self.watch_conn(number);
        }
    }

    /// Drops the connections, answered and shut, that their peers have closed, and has epoll watch the others.
    pub(super) fn look_at_answered(&mut self, now: Instant) {
        for number in std::mem::take(&mut self.answered) {
            self.read(number, now);
            self.watch_conn(number);
        }
    }

    pub(super) fn watch_conn(&mut self, number: ConnNo) {
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        let wanted = if self.reload.leaves_for_exec() && conn.codec.is_idle() && conn.waiting() == 0
        {
            EpollFlags::empty()
        } else {
            conn.interest()
        };
        if !conn.is_cgi() {
            conn.watch(&self.poller, Token::Conn(number.0), wanted);
        }
        let full = conn.is_full();
        let running: Vec<RequestNo> = conn.requests.iter().map(|(_, r)| *r).collect();
        for request in running {
            if let Some(Phase::Running(slot)) = self.requests.get(&request).map(|r| r.phase) {
                self.watch_slot(slot, !full);
            }
        }
    }

    /// Encodes the next piece of a file that is being sent on this connection. Whether there was one.
    pub(super) fn pump(&mut self, conn_no: ConnNo, now: Instant) -> bool {
        let Some(conn) = self.conns.get(&conn_no) else {
            return false;
        };
        let sending = |r: &RequestNo| self.requests.get(r).is_some_and(|r| r.file.is_some());
        let Some(number) = conn.requests.iter().map(|(_, r)| *r).find(sending) else {
            return false;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let taken = self
            .requests
            .get_mut(&number)
            .and_then(|r| r.file.as_mut())
            .map(|file| {
                let bytes = file.next(&mut scratch).map(|bytes| bytes.len());
                (bytes, file.left)
            });
        match taken {
            Some((Ok(count), left)) if count > 0 => {
                self.on_data(number, &scratch[..count], now);
                if left == 0 {
                    self.file_sent(number, now);
                }
            }
            Some((Ok(_), 0)) => self.file_sent(number, now),
            Some((outcome, left)) => {
                let reason = outcome
                    .err()
                    .map_or_else(|| String::from("it has become shorter"), |e| e.to_string());
                self.fail(number, Failure::FileEnded(left, reason), now);
                self.forget_if_sending(number);
            }
            None => (),
        }
        self.scratch = scratch;
        true
    }

    pub(super) fn file_sent(&mut self, number: RequestNo, now: Instant) {
        if let Some(request) = self.requests.get_mut(&number) {
            request.file = None;
            match request.answer {
                Answer::Begun(Some(left)) if left > 0 => self.cut(number, now),
                Answer::Begun(_) if request.phase == Phase::Sending => self.end_answer(number, now),
                _ => (),
            }
        }
        self.forget_if_sending(number);
    }

    pub(super) fn forget_if_sending(&mut self, number: RequestNo) {
        if self
            .requests
            .get(&number)
            .is_some_and(|r| r.phase == Phase::Sending && r.file.is_none())
        {
            self.forget(number);
        }
    }
}
