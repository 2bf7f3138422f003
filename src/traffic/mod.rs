//! `Traffic`: the web server side: connections, incoming requests and outgoing responses.
//!
//! A state machine without sockets: it knows connections by number, takes the bytes received on them and fills their
//! outboxes. It keeps bodies and responses on disk and reads files that the app sends, but knows no socket, worker or clock.
//!
//! The owner of the sockets
//! - reports events (`on_connection`, `on_bytes`, `on_eof`, `on_gone`);
//! - carries out what `poll` returns until it returns `None`, and passes the app's responses to `responses`;
//! - then flushes the connections that `Connections::next_to_flush` returns: sends from the `outbox` and reports
//!   `on_sent`, again as long as that returns true, and watches the socket for its `interest`. Then it polls again;
//! - calls `on_time` at the `deadline`, which is valid once nothing is left to flush.
//!
//! Polling comes before flushing so that a worker gets its next request before the last response is sent.

mod connection;
mod connections;
mod exchange;
mod file;
mod incidents;
mod lines;
mod output;
mod pace;
mod repeats;
mod responses;
mod rest;
mod settings;
mod share;
mod tracebacks;

pub use connection::{ConnNo, Interest};
pub use connections::Connections;
pub use output::{Access, Incident, Output};
pub use responses::Responses;
pub use settings::Settings;
pub use share::Share;

use crate::codes::{Code, request};
use crate::config::Protocol;
use crate::failure::Failure;
use crate::pages::Page;
use crate::pairs::Pairs;
use crate::proto::{Event, RequestId, cgi};
use crate::request::RequestNo;
use crate::response::ResponseHead;
use crate::status::Count;
use connection::Connection;
use exchange::Exchange;
use std::time::Instant;

/// The head of the response to a ping.
const PONG: &[u8] =
    b"200 OK\0Content-Type\0text/plain\0Content-Length\x005\0Cache-Control\0no-store\0";

/// Incoming requests, and the state that they share with the responses.
pub struct Traffic {
    last_request: u64,
    out: Responses,
}

impl Traffic {
    /// Starts without connections. `seed` makes incident ids differ from process to process.
    pub fn new(settings: Settings, seed: u64) -> Traffic {
        Traffic {
            last_request: 0,
            out: Responses::new(settings, seed),
        }
    }

    /// The outgoing side, which takes the app's responses.
    pub fn responses(&mut self) -> &mut Responses {
        &mut self.out
    }

    /// Applies new settings, from the next request on each connection.
    pub fn apply(&mut self, settings: Settings) {
        let limits = settings.limits();
        self.out.spool.limit(limits.spool(), limits.spool_free);
        if let Some(share) = &settings.share {
            self.out.spool.limit_files(share.files);
        }
        self.out.settings = settings;
        self.out.conns.outdate();
    }

    /// Stops reading idle connections, as the next process image is to take them over, or resumes it.
    pub fn freeze_idle(&mut self, freezing: bool) {
        self.out.conns.freeze_idle(freezing);
    }

    /// The connections.
    pub fn connections(&self) -> &Connections {
        &self.out.conns
    }

    /// The connections, for flushing them.
    pub fn connections_mut(&mut self) -> &mut Connections {
        &mut self.out.conns
    }

    /// The bytes of bodies and responses that wait on disk.
    pub fn spooled(&self) -> u64 {
        self.out.spool.used()
    }

    /// Whether much memory has become free since this last said so, so that it should go back to the system.
    pub fn has_released(&mut self) -> bool {
        self.out.conns.has_released()
    }

    /// Whether another connection may be accepted: `make_room` can make room for it, if there is none.
    pub fn has_room(&self) -> bool {
        !self.is_full() || self.out.conns.oldest_new().is_some()
    }

    /// Makes room for a connection that has just been accepted.
    pub fn make_room(&mut self, now: Instant) {
        if self.is_full() {
            self.close_new(now);
        }
    }

    /// Closes the oldest connection on which no request has begun, for the sake of another one. Returns false if there is
    /// none.
    pub fn close_new(&mut self, now: Instant) -> bool {
        let Some(number) = self.out.conns.oldest_new() else {
            return false;
        };
        let open = self.out.conns.len();
        let text = format!(
            "a connection on which no request has come is closed for another one: {open} are open"
        );
        self.out.warn(request::NO_ROOM, text, now);
        self.out.close(number, now);
        true
    }

    /// The same, if its first request should have come by now. Descriptors may have run out before anybody waits for one.
    pub fn close_late(&mut self, now: Instant) -> bool {
        let oldest = self.out.conns.oldest_new();
        let oldest = oldest.and_then(|number| self.out.conns.get(number));
        let until = oldest.and_then(Connection::expected_until);
        until.is_some_and(|until| until <= now) && self.close_new(now)
    }

    /// Logs that there is no room, and none can be made.
    pub fn note_full(&mut self, now: Instant) {
        let open = self.out.conns.len();
        let text = format!("{open} connections are open and in use, so further ones wait");
        self.warn(request::NO_ROOM, text, now);
    }

    /// Logs a warning, unless it is one of a flood.
    pub fn warn(&mut self, code: Code, text: String, now: Instant) {
        self.out.warn(code, text, now);
    }

    fn is_full(&self) -> bool {
        self.out.conns.len() >= self.out.settings.limits().max_connections
    }

    /// A connection was accepted, or inherited from the previous process image.
    pub fn on_connection(&mut self, protocol: Protocol, now: Instant) -> ConnNo {
        let codec = self.out.settings.codec(protocol);
        let conn = Connection::new(Some(protocol), codec, now);
        self.out.conns.insert(conn)
    }

    /// The only request of a CGI process. Its body arrives on a connection that is closed after the response.
    pub fn on_cgi(&mut self, environ: Pairs, now: Instant) -> ConnNo {
        let codec = Box::new(cgi::Cgi::new(environ));
        let number = self.out.conns.insert(Connection::new(None, codec, now));
        self.decode(number, &[], now);
        number
    }

    /// Bytes were received on a connection for which `takes_input` is true.
    pub fn on_bytes(&mut self, number: ConnNo, bytes: &[u8], now: Instant) {
        self.out.conns.queue_flush(number);
        let conn = self.out.conns.get_mut(number);
        if conn.is_some_and(|conn| conn.on_read(bytes.len(), now)) {
            self.decode(number, bytes, now);
        }
    }

    /// The peer has shut down its sending side.
    pub fn on_eof(&mut self, number: ConnNo, now: Instant) {
        self.out.conns.queue_flush(number);
        let conn = self.out.conns.get_mut(number);
        match conn.is_some_and(Connection::on_eof) {
            // A body that extends to the end of the input is complete now.
            true => self.decode(number, &[], now),
            false => self.out.close(number, now),
        }
    }

    /// The peer is gone: after a reset, a failed write, or a hang-up after `on_eof`.
    pub fn on_gone(&mut self, number: ConnNo, now: Instant) {
        self.out.close(number, now);
    }

    /// The outbox was flushed and the peer took this many bytes. Returns true if there is more to send, so that the
    /// outbox must be flushed again.
    pub fn on_sent(&mut self, number: ConnNo, taken: usize, now: Instant) -> bool {
        let Some(conn) = self.out.conns.get_mut(number) else {
            return false;
        };
        conn.on_sent(taken, now);
        if !conn.is_full() {
            if let Some(kept) = conn.take_kept() {
                self.decode(number, &kept, now);
                return true;
            }
            if self.out.send_rest(number, now) {
                return true;
            }
        }
        self.after_flush(number, now);
        false
    }

    /// Ends the connections and requests that have passed their deadlines.
    pub fn on_time(&mut self, now: Instant) {
        while let Some(number) = self.out.conns.next_late(now) {
            self.expire(number, now);
        }
        self.out.on_time(now);
    }

    /// When to call `on_time`. Call this only when nothing is left to flush.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.out.conns.deadline(), self.out.incidents.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// The next thing for the caller to do.
    pub fn poll(&mut self) -> Option<Output> {
        if !self.out.held.is_empty() && self.out.spool.has_freed() {
            self.use_room();
        }
        self.out.outputs.pop_front()
    }

    /// Resumes workers that were paused for want of room on disk.
    fn use_room(&mut self) {
        for number in std::mem::take(&mut self.out.held) {
            let Some(exchange) = self.out.exchanges.get_mut(number) else {
                continue;
            };
            if exchange.settle(&self.out.spool) {
                self.out.hold(number, false);
            } else if exchange.is_held() {
                self.out.held.push(number);
            }
        }
    }

    /// Whether the body of any request is still incomplete.
    pub fn is_receiving(&self) -> bool {
        self.out
            .exchanges
            .values()
            .any(|exchange| exchange.is_receiving())
    }

    /// Whether no request is in progress.
    pub fn has_no_requests(&self) -> bool {
        self.out.exchanges.is_empty()
    }

    /// Whether no request is in progress and all connections are idle.
    pub fn is_idle(&self) -> bool {
        self.out.exchanges.is_empty() && self.out.conns.idle().count() == self.out.conns.len()
    }

    fn decode(&mut self, conn_no: ConnNo, mut input: &[u8], now: Instant) {
        if let Some(conn) = self.out.conns.get_mut(conn_no) {
            conn.renew_codec(&self.out.settings);
        }
        while let Some(conn) = self.out.conns.get_mut(conn_no) {
            match conn.decode(&mut input) {
                Ok(None) => return,
                Ok(Some(event)) => self.on_event(conn_no, event, now),
                Err(error) => {
                    let text = format!("a connection is closed: {error}");
                    self.out.warn(request::BAD_PROTOCOL, text, now);
                    self.out.close(conn_no, now);
                }
            }
        }
    }

    fn on_event(&mut self, conn_no: ConnNo, event: Event<'_>, now: Instant) {
        let (id, max_body) = match event {
            Event::Begin { id, environ } => {
                let number = self.begin(conn_no, id, environ, now);
                if self.has_too_many_requests() {
                    self.turn_away(conn_no, number, now);
                }
                return;
            }
            Event::Reject { id, status, reason } => {
                let number = self.begin(conn_no, id, Pairs::new(), now);
                let failure = Failure::Rejected(status, reason);
                return self.out.give_up(number, failure, now);
            }
            Event::Body { id, .. } | Event::BodyEnd { id } | Event::Abort { id } => {
                (id, self.out.settings.limits().max_body)
            }
        };
        let Some(conn) = self.out.conns.get_mut(conn_no) else {
            return;
        };
        let Some(number) = conn.find(id) else {
            return;
        };
        match event {
            Event::Begin { .. } | Event::Reject { .. } => (),
            Event::Body { bytes, .. } => {
                conn.on_body(number, bytes.len(), now);
                let exchange = self.out.exchanges.get_mut(number);
                let received =
                    exchange.map_or(Ok(()), |e| e.receive(bytes, max_body, &self.out.spool));
                if let Err(failure) = received {
                    self.out.give_up(number, failure, now);
                }
            }
            Event::BodyEnd { .. } => {
                conn.on_body_end(number);
                self.complete(number, now);
            }
            Event::Abort { .. } => {
                self.out.put(Output::Count(Count::Aborted, 1));
                self.out.finish(number, false, now);
                self.out.abandon(number);
            }
        }
    }

    fn begin(&mut self, conn_no: ConnNo, id: RequestId, environ: Pairs, now: Instant) -> RequestNo {
        self.last_request += 1;
        let number = RequestNo(self.last_request);
        let exchange = Exchange::new(conn_no, id, environ, now);
        self.out.exchanges.insert(number, Box::new(exchange));
        if let Some(conn) = self.out.conns.get_mut(conn_no) {
            conn.begin(id, number, now);
        }
        number
    }

    /// The number of connections is limited, but one may carry many requests.
    fn has_too_many_requests(&self) -> bool {
        let max = self.out.settings.limits().max_connections;
        let awaited = || self.out.exchanges.values().filter(|e| e.client().is_some());
        self.out.exchanges.len() > max && awaited().count() > max
    }

    /// Rejects a request when there are too many. Only the first on each connection is logged, as thousands may follow.
    fn turn_away(&mut self, conn_no: ConnNo, number: RequestNo, now: Instant) {
        let conn = self.out.conns.get_mut(conn_no);
        if conn.is_some_and(Connection::turn_away) {
            let max = self.out.settings.limits().max_connections;
            self.out.give_up(number, Failure::TooManyRequests(max), now);
        } else if let Some(exchange) = self.out.exchanges.get(number) {
            let (head, body) = Page::new(503).render(exchange.accept());
            self.out.put(Output::Count(Count::TurnedAway, 1));
            self.out.answer(number, &head, &body, now);
        }
    }

    /// A request's body is complete.
    fn complete(&mut self, number: RequestNo, now: Instant) {
        let Some(exchange) = self.out.exchanges.get_mut(number) else {
            return;
        };
        let few = self.out.settings.share.and_then(|share| share.too_few());
        match exchange.complete(number, &self.out.settings) {
            Ok(_) if let Some(few) = few => {
                self.out.give_up(number, Failure::FewDescriptors(few), now);
            }
            Ok(request) if self.out.settings.is_ping(&request.environ) => {
                let head =
                    ResponseHead::from_wire(PONG).unwrap_or_else(|_| Page::new(200).render(None).0);
                self.out.answer(number, &head, b"pong\n", now);
            }
            Ok(request) => self.out.put(Output::Ready(request)),
            Err(failure) => self.out.give_up(number, failure, now),
        }
    }

    /// The outbox is empty, or the socket does not accept more for now.
    fn after_flush(&mut self, conn_no: ConnNo, now: Instant) {
        let Some(conn) = self.out.conns.get_mut(conn_no) else {
            return;
        };
        if conn.has_sent_all() {
            match conn.drain(now) {
                true => self.out.outputs.push_back(Output::ShutDown(conn_no)),
                false => return self.out.close(conn_no, now),
            }
        }
        conn.flushed();
        let exchanges = conn.requests().filter_map(|n| self.out.exchanges.get(n));
        let (mut begun, mut stuck) = (0, false);
        for exchange in exchanges {
            begun += exchange.held();
            stuck |= exchange.is_stuck();
        }
        if let Some(stalls) = conn.stalls(stuck) {
            self.out.put(Output::Stalled(conn_no, stalls));
        }
        self.out.conns.flushed(conn_no, begun, &self.out.settings);
        let most = self.out.settings.limits().memory;
        while let Some(largest) = self.out.conns.largest_beyond(most) {
            let text = format!(
                "a connection is closed: incomplete requests take more than {most} bytes of memory, and it has most of them"
            );
            self.out.warn(request::TOO_MUCH_MEMORY, text, now);
            self.out.close(largest, now);
        }
    }

    /// A connection, or a request on it, has passed its deadline.
    fn expire(&mut self, conn_no: ConnNo, now: Instant) {
        self.out.conns.queue_flush(conn_no);
        let Some(conn) = self.out.conns.get(conn_no) else {
            return;
        };
        let deadlines = conn.deadlines(&self.out.settings);
        let is_late = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_late(deadlines.drained) {
            return self.out.close(conn_no, now);
        }
        if is_late(deadlines.stalled) {
            let text = match conn.is_idle() {
                true => "a connection is closed: no request has come on it",
                false => "a connection is closed: its peer has stalled",
            };
            let text = String::from(text);
            self.out.warn(request::STALLED_CONNECTION, text, now);
            return self.out.close(conn_no, now);
        }
        let limits = self.out.settings.limits();
        let (seconds, rate) = (limits.read_timeout, limits.min_rate);
        for (number, slow) in conn.stalled_bodies(&self.out.settings, now) {
            let failure = match slow {
                true => Failure::SlowBody(rate),
                false => Failure::StalledBody(seconds),
            };
            self.out.give_up(number, failure, now);
        }
        if let Some(conn) = self.out.conns.get_mut(conn_no) {
            conn.begin_discarding(now);
        }
    }
}
