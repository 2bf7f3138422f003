//! What comes in: from a listener's connection to a request in the queue.

use super::connection::{ConnNo, Connection, Stage};
use super::listener::Accepted;
use super::request::{Answer, Phase, Request};
use super::{ACCEPTS, Server};
use crate::environ::{has_unchecked_user, normalise};
use crate::failure::Failure;
use crate::log::Level;
use crate::pages::Page;
use crate::proto::{Codec, Eof, Event, RequestId};
use crate::request::RequestNo;
use crate::response::ResponseHead;
use crate::status::Count;
use nix::sys::epoll::EpollFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long accepting pauses when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(500);
/// Reads of one connection in a turn, so that a fast sender does not keep the others waiting.
const READS: usize = 8;

impl Server {
    pub(super) fn on_listener(&mut self, number: usize, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(number) else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(socket) => {
                    self.last_accept = now;
                    let Some(codec) = self.codec(number) else {
                        return;
                    };
                    let conn = self.admit(socket, None, codec, number, now);
                    self.read(conn, now);
                    self.dispatch(now);
                }
                Accepted::Refused(peer) => self.note(
                    Level::Warning,
                    &format!("refused a connection from {peer}: not in FCGI_WEB_SERVER_ADDRS"),
                ),
                Accepted::Nobody | Accepted::Ended => return,
                Accepted::Exhausted(error) => {
                    self.note(Level::Warning, &format!("accepting pauses: {error}"));
                    self.accept_after = Some(now + EXHAUSTED_PAUSE);
                    self.due(now + EXHAUSTED_PAUSE);
                    let _ = self.listen();
                    return;
                }
            }
            if self.conns.len() >= self.config.limits.max_connections {
                self.look_at_answered(now);
                let _ = self.listen();
                return;
            }
        }
    }

    /// A new connection.
    pub(super) fn admit(
        &mut self,
        input: OwnedFd,
        output: Option<OwnedFd>,
        codec: Box<dyn Codec>,
        endpoint: usize,
        now: Instant,
    ) -> ConnNo {
        self.last_conn += 1;
        let number = ConnNo(self.last_conn);
        let conn = Connection::new(input, output, codec, endpoint, now);
        self.conns.insert(number, conn);
        self.touched.push(number);
        number
    }

    pub(super) fn on_conn(&mut self, number: ConnNo, flags: EpollFlags, now: Instant) {
        let Some(conn) = self.conns.get(&number) else {
            return;
        };
        if conn.half_closed && flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.drop_conn(number, now);
            return;
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read(number, now);
        }
        self.touched.push(number);
    }

    /// Reads what a connection has, as far as a turn allows.
    pub(super) fn read(&mut self, number: ConnNo, now: Instant) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..READS {
            // Who takes no answers is not asked for more.
            let Some(conn) = self.conns.get_mut(&number).filter(|c| !c.is_full()) else {
                break;
            };
            match conn.read(&mut scratch, now) {
                Ok(0) => {
                    self.on_eof(number, now);
                    break;
                }
                Ok(count) => {
                    if conn.stage != Stage::Draining {
                        self.decode(number, &scratch[..count], now);
                    }
                    if count < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.drop_conn(number, now);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    pub(super) fn decode(&mut self, number: ConnNo, mut input: &[u8], now: Instant) {
        loop {
            let Some(conn) = self.conns.get_mut(&number) else {
                return;
            };
            if conn.is_full() {
                conn.kept = Some(input.to_vec());
                return;
            }
            match conn.codec.decode(&mut input, conn.out.tail()) {
                Ok(None) => return,
                Ok(Some(event)) => self.on_event(number, event, now),
                Err(error) => {
                    self.note(Level::Warning, &format!("a connection is closed: {error}"));
                    self.drop_conn(number, now);
                    return;
                }
            }
        }
    }

    pub(super) fn on_event(&mut self, conn_no: ConnNo, event: Event<'_>, now: Instant) {
        match event {
            Event::Begin { id, environ } => {
                let number = self.begin(conn_no, id, environ, now);
                if self.has_too_many_requests() {
                    self.turn_away(conn_no, number, now);
                    self.forget(number);
                }
            }
            Event::Reject { id, status, reason } => {
                let number = self.begin(conn_no, id, crate::pairs::Pairs::new(), now);
                self.fail(number, Failure::Rejected(status, reason), now);
                self.forget(number);
            }
            Event::Body { id, bytes } => {
                let Some(number) = self.find(conn_no, id) else {
                    return;
                };
                let max = self.config.limits.max_body;
                let Some(request) = self.requests.get_mut(&number) else {
                    return;
                };
                request.last_in = now;
                request.received += bytes.len() as u64;
                if request.body.length() + bytes.len() as u64 > max {
                    self.fail(number, Failure::LongBody(max), now);
                    self.forget(number);
                } else if let Err(error) = request.body.push(bytes) {
                    let why = error.to_string();
                    let failure = match error.kind() {
                        io::ErrorKind::FileTooLarge => Failure::BodyOverLimit(why),
                        _ => Failure::UnkeptBody(why),
                    };
                    self.fail(number, failure, now);
                    self.forget(number);
                }
            }
            Event::BodyEnd { id } => {
                if let Some(number) = self.find(conn_no, id) {
                    self.enqueue(number, now);
                }
            }
            Event::Abort { id } => {
                if let Some(number) = self.find(conn_no, id) {
                    self.report.count(Count::Aborted, 1);
                    self.finish(number, false, now);
                    self.abandon(number);
                }
            }
        }
    }

    /// Connections are bounded, but some carry many requests.
    fn has_too_many_requests(&self) -> bool {
        let max = self.config.limits.max_connections;
        let awaited = || self.requests.values().filter(|r| r.conn.is_some());
        self.requests.len() > max && awaited().count() > max
    }

    /// Answers a request for which there is no room. The log is told of the first on each connection: thousands may follow.
    fn turn_away(&mut self, conn_no: ConnNo, number: RequestNo, now: Instant) {
        let conn = self.conns.get_mut(&conn_no);
        if conn.is_some_and(|conn| !std::mem::replace(&mut conn.turned_away, true)) {
            let max = self.config.limits.max_connections;
            self.fail(number, Failure::TooManyRequests(max), now);
        } else if let Some(request) = self.requests.get(&number) {
            self.report.count(Count::TurnedAway, 1);
            let accept = request.environ.get(b"HTTP_ACCEPT");
            let (head, body) = Page::new(503).render(accept);
            self.answer(number, head, &body, now);
        }
    }

    pub(super) fn begin(
        &mut self,
        conn_no: ConnNo,
        id: RequestId,
        environ: crate::pairs::Pairs,
        now: Instant,
    ) -> RequestNo {
        self.last_request += 1;
        let number = RequestNo(self.last_request);
        self.requests
            .insert(number, Request::new(conn_no, id, environ, now));
        if let Some(conn) = self.conns.get_mut(&conn_no) {
            conn.requests.push((id, number));
        }
        number
    }

    pub(super) fn find(&self, conn_no: ConnNo, id: RequestId) -> Option<RequestNo> {
        let conn = self.conns.get(&conn_no)?;
        conn.requests
            .iter()
            .find(|(i, _)| *i == id)
            .map(|(_, number)| *number)
    }

    /// The request is complete: what the app will see is worked out, and it waits for a worker.
    pub(super) fn enqueue(&mut self, number: RequestNo, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        // Cherokee sends it after the end of STDIN, where it is lost.
        let unframed = request.environ.get(b"CONTENT_TRANSFER_ENCODING") == Some(b"chunked");
        if unframed && request.body.length() == 0 {
            self.fail(number, Failure::ChunkedUpload, now);
            self.forget(number);
            return;
        }
        let declared = request
            .environ
            .get(b"CONTENT_LENGTH")
            .and_then(|v| std::str::from_utf8(v).ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > request.body.length()) {
            self.fail(number, Failure::ShortBody, now);
            self.forget(number);
            return;
        }
        let length = declared.unwrap_or(request.body.length());
        if let Err(error) = request.body.truncate(length) {
            self.fail(number, Failure::UncutBody(error.to_string()), now);
            self.forget(number);
            return;
        }
        let wary = self
            .wary
            .as_ref()
            .filter(|_| has_unchecked_user(&request.environ));
        let mount = wary.unwrap_or(&self.mount);
        request.environ = normalise(&request.environ, mount, length);
        if self.answers_itself(number, now) {
            self.forget(number);
            return;
        }
        self.report.request();
        self.retry(now);
        if let Some(reason) = self.hopeless() {
            self.fail(number, Failure::Unavailable(reason), now);
            self.forget(number);
            return;
        }
        if self.queue.len() >= self.config.limits.queue && self.pool.pick().is_none() {
            self.fail(number, Failure::QueueFull(self.queue.len()), now);
            self.forget(number);
            return;
        }
        if let Some(request) = self.requests.get_mut(&number) {
            request.phase = Phase::Queued;
            request.since = now;
        }
        self.queue.push_back(number);
    }

    /// The pages that the front answers by itself.
    pub(super) fn answers_itself(&mut self, number: RequestNo, now: Instant) -> bool {
        if self.answers_status(number, now) {
            return true;
        }
        let Some(ping) = self.config.server.ping.as_deref() else {
            return false;
        };
        let Some(request) = self.requests.get(&number) else {
            return false;
        };
        let path = |name: &[u8]| request.environ.get(name).unwrap_or_default().to_vec();
        if [path(b"SCRIPT_NAME"), path(b"PATH_INFO")].concat() != ping.as_bytes() {
            return false;
        }
        let head = ResponseHead::from_wire(
            b"200 OK\0Content-Type\0text/plain\0Content-Length\x005\0Cache-Control\0no-store\0",
        );
        if let Ok(head) = head {
            self.answer(number, head, b"pong\n", now);
        }
        true
    }

    pub(super) fn on_eof(&mut self, number: ConnNo, now: Instant) {
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        if conn.stage == Stage::Draining {
            self.drop_conn(number, now);
            return;
        }
        match conn.codec.eof() {
            Eof::HalfClosed => {
                conn.half_closed = true;
                // A body that lasts to the end of the input is complete now.
                self.decode(number, &[], now);
            }
            Eof::Clean if conn.waiting() > 0 => {
                conn.half_closed = true;
                conn.stage = Stage::Closing;
            }
            Eof::Clean | Eof::Abort(_) => self.drop_conn(number, now),
        }
    }

    /// The connection is gone, and nobody waits for its requests.
    pub(super) fn drop_conn(&mut self, number: ConnNo, now: Instant) {
        let Some(conn) = self.conns.remove(&number) else {
            return;
        };
        self.report
            .count(Count::Aborted, conn.requests.len() as u64);
        for (_, request) in &conn.requests {
            self.log_access(*request, false, now);
            if let Some(found) = self.requests.get_mut(request) {
                found.conn = None;
                found.answer = Answer::Done;
                found.file = None;
                found.since = found.since.min(now);
            }
            self.abandon(*request);
        }
        if !conn.requests.is_empty() || self.accept_after.is_none() {
            let _ = self.listen();
        }
    }

    /// Nobody waits for the request's answer any more: it is forgotten, or its worker is told.
    pub(super) fn abandon(&mut self, number: RequestNo) {
        match self.requests.get(&number).map(|request| request.phase) {
            Some(Phase::Running(slot)) => self.tell_abort(slot),
            _ => self.forget(number),
        }
    }

    pub(super) fn forget(&mut self, number: RequestNo) {
        if let Some(request) = self.requests.remove(&number)
            && request.phase == Phase::Queued
        {
            self.queue.retain(|queued| *queued != number);
        }
    }
}
