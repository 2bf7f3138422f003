//! `Traffic`: what web servers do: connections, requests that come in, responses that go out.
//!
//! A machine without I/O: it knows connections by number, takes the bytes that came on them and fills their outboxes. It
//! writes bodies to files and reads files of the app, but knows no socket, no worker and no clock.
//!
//! Whoever holds the sockets
//! - tells what happens (`on_connection`, `on_bytes`, `on_eof`, `on_gone`);
//! - does what `poll` says until it says nothing, and passes what the app answers to `responses`;
//! - then flushes what `Connections::next_to_flush` names: sends from its `outbox` and says `on_sent`, again while that
//!   is true, and has the socket watched for its `interest`. What follows from this is polled again;
//! - calls `on_time` at the `deadline`, which is right once nothing is left to flush.
//!
//! So a worker that has just become free is at work again before its last visitor is served.

mod connection;
mod connections;
mod exchange;
mod file;
mod lines;
mod output;
mod responses;
mod settings;

pub use connection::{ConnNo, Interest};
pub use connections::Connections;
pub use output::{Access, Output};
pub use responses::Responses;
pub use settings::Settings;

use crate::config::Protocol;
use crate::failure::Failure;
use crate::log::Level;
use crate::pages::Page;
use crate::pairs::Pairs;
use crate::proto::{Event, RequestId, cgi};
use crate::request::RequestNo;
use crate::response::ResponseHead;
use crate::status::Count;
use connection::Connection;
use exchange::Exchange;
use std::time::Instant;

/// The head of the answer to a ping.
const PONG: &[u8] =
    b"200 OK\0Content-Type\0text/plain\0Content-Length\x005\0Cache-Control\0no-store\0";

/// See above.
pub struct Traffic {
    last_request: u64,
    /// What goes out, and the state that both directions share.
    out: Responses,
}

impl Traffic {
    /// No connection yet. `seed` makes incident ids differ from process to process.
    pub fn new(settings: Settings, seed: u64) -> Traffic {
        Traffic {
            last_request: 0,
            out: Responses::new(settings, seed),
        }
    }

    /// Takes what the app answers.
    pub fn responses(&mut self) -> &mut Responses {
        &mut self.out
    }

    /// New settings go live. Connections take their next request with them.
    pub fn apply(&mut self, settings: Settings) {
        self.out.settings = settings;
        self.out.conns.outdate();
    }

    /// From now on idle connections are not read, as the next process image takes them over; or they are read again.
    pub fn freeze_idle(&mut self, freezing: bool) {
        self.out.conns.freeze_idle(freezing);
    }

    /// The connections.
    pub fn connections(&self) -> &Connections {
        &self.out.conns
    }

    /// The connections, to flush them.
    pub fn connections_mut(&mut self) -> &mut Connections {
        &mut self.out.conns
    }

    /// Whether one more connection may come.
    pub fn has_room(&self) -> bool {
        self.out.conns.len() < self.out.settings.limits().max_connections
    }

    /// A connection was accepted, or taken over while idle.
    pub fn on_connection(&mut self, protocol: Protocol, now: Instant) -> ConnNo {
        let codec = self.out.settings.codec(protocol);
        let conn = Connection::new(Some(protocol), codec, now);
        self.out.conns.insert(conn)
    }

    /// The one request of a CGI process: its body comes on a connection that is closed after the answer.
    pub fn on_cgi(&mut self, environ: Pairs, now: Instant) -> ConnNo {
        let codec = Box::new(cgi::Cgi::new(environ));
        let number = self.out.conns.insert(Connection::new(None, codec, now));
        self.decode(number, &[], now);
        number
    }

    /// Bytes have come on a connection that `takes_input`.
    pub fn on_bytes(&mut self, number: ConnNo, bytes: &[u8], now: Instant) {
        self.out.conns.touch(number);
        let conn = self.out.conns.get_mut(number);
        if conn.is_some_and(|conn| conn.on_read(now)) {
            self.decode(number, bytes, now);
        }
    }

    /// The peer sends nothing more.
    pub fn on_eof(&mut self, number: ConnNo, now: Instant) {
        self.out.conns.touch(number);
        let conn = self.out.conns.get_mut(number);
        match conn.is_some_and(Connection::on_eof) {
            // A body that lasts to the end of the input is complete now.
            true => self.decode(number, &[], now),
            false => self.out.close(number, now),
        }
    }

    /// The peer has gone: a reset, a failed write, or the end of a connection on which it sends nothing more anyway.
    pub fn on_gone(&mut self, number: ConnNo, now: Instant) {
        self.out.close(number, now);
    }

    /// The outbox was flushed: the peer has taken so many bytes. Returns true when that made room for more, and the outbox
    /// is to be flushed again.
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
            if self.out.send_file(number, now) {
                return true;
            }
        }
        self.after_flush(number, now);
        false
    }

    /// Ends what has passed its deadline.
    pub fn on_time(&mut self, now: Instant) {
        while let Some(number) = self.out.conns.next_late(now) {
            self.expire(number, now);
        }
    }

    /// When `on_time` has something to do. To be asked when nothing is left to flush.
    pub fn deadline(&self) -> Option<Instant> {
        self.out.conns.deadline()
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.outputs.pop_front()
    }

    /// A request's body is coming in.
    pub fn is_receiving(&self) -> bool {
        self.out.exchanges.values().any(Exchange::is_receiving)
    }

    /// No request is in hand.
    pub fn has_no_requests(&self) -> bool {
        self.out.exchanges.is_empty()
    }

    /// Nothing is in hand: no request, and no connection on which anything goes on.
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
                    self.out.put(Output::Log(Level::Warning, text));
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
                conn.on_body(number, Some(now));
                let exchange = self.out.exchanges.get_mut(&number);
                let received = exchange.map_or(Ok(()), |e| e.receive(bytes, max_body));
                if let Err(failure) = received {
                    self.out.give_up(number, failure, now);
                }
            }
            Event::BodyEnd { .. } => {
                conn.on_body(number, None);
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
        self.out.exchanges.insert(number, exchange);
        if let Some(conn) = self.out.conns.get_mut(conn_no) {
            conn.begin(id, number, now);
        }
        number
    }

    /// Connections are bounded, but some carry many requests.
    fn has_too_many_requests(&self) -> bool {
        let max = self.out.settings.limits().max_connections;
        let awaited = || self.out.exchanges.values().filter(|e| e.client().is_some());
        self.out.exchanges.len() > max && awaited().count() > max
    }

    /// Answers a request for which there is no room. Only the first on each connection is logged: thousands may follow.
    fn turn_away(&mut self, conn_no: ConnNo, number: RequestNo, now: Instant) {
        let conn = self.out.conns.get_mut(conn_no);
        if conn.is_some_and(Connection::turn_away) {
            let max = self.out.settings.limits().max_connections;
            self.out.give_up(number, Failure::TooManyRequests(max), now);
        } else if let Some(exchange) = self.out.exchanges.get(&number) {
            let (head, body) = Page::new(503).render(exchange.accept());
            self.out.put(Output::Count(Count::TurnedAway, 1));
            self.out.answer(number, &head, &body, now);
        }
    }

    /// A request's body is complete.
    fn complete(&mut self, number: RequestNo, now: Instant) {
        let Some(exchange) = self.out.exchanges.get_mut(&number) else {
            return;
        };
        match exchange.complete(number, &self.out.settings) {
            Ok(request) if self.out.settings.is_ping(&request.environ) => {
                let head =
                    ResponseHead::from_wire(PONG).unwrap_or_else(|_| Page::new(200).render(None).0);
                self.out.answer(number, &head, b"pong\n", now);
            }
            Ok(request) => self.out.put(Output::Ready(request)),
            Err(failure) => self.out.give_up(number, failure, now),
        }
    }

    /// All is sent, or the peer takes no more for now.
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
        let full = conn.is_full();
        if conn.concerns_workers() {
            let requests: Vec<RequestNo> = conn.requests().collect();
            for number in requests {
                self.out.hold(number, full);
            }
        }
        self.out.conns.flushed(conn_no, &self.out.settings);
    }

    /// A connection, or a request on it, has passed its deadline.
    fn expire(&mut self, conn_no: ConnNo, now: Instant) {
        self.out.conns.touch(conn_no);
        let Some(conn) = self.out.conns.get(conn_no) else {
            return;
        };
        let deadlines = conn.deadlines(&self.out.settings);
        let is_late = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_late(deadlines.drained) {
            return self.out.close(conn_no, now);
        }
        if is_late(deadlines.stalled) {
            let text = String::from("a connection is closed: its peer has stalled");
            self.out.put(Output::Log(Level::Warning, text));
            return self.out.close(conn_no, now);
        }
        let seconds = self.out.settings.limits().read_timeout;
        for number in conn.stalled_bodies(&self.out.settings, now) {
            self.out.give_up(number, Failure::StalledBody(seconds), now);
        }
    }
}
