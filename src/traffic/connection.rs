//! `Connection`: a connection from a web server, without its socket: its codec, requests, outbox and deadlines.

use super::pace::Pace;
use super::settings::Settings;
use crate::config::Protocol;
use crate::outbox::Outbox;
use crate::proto::{Codec, Eof, Event, Part, ProtocolError, RequestId};
use crate::request::RequestNo;
use std::time::{Duration, Instant};

/// The number of a connection within this front; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnNo(pub u64);

/// With this many bytes waiting to be sent, a connection is full: it is not read, and further responses are set aside.
const HIGH_MARK: usize = 256 << 10;

/// With this many, it is full if its peer did not take all when they were last sent.
const LOW_MARK: usize = 128 << 10;

/// Pieces of responses that were set aside to send in a row, so that a fast reader does not delay the others.
const PIECES: u32 = 16;

/// How long to read from a connection after its last response before closing it. The time restarts with each piece of a
/// request whose response was sent early.
const DRAIN: Duration = Duration::from_secs(5);

/// How soon a request follows a new connection: web servers connect only to send one at once.
const EXPECTED: Duration = Duration::from_millis(500);

/// The socket events that a connection waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
}

/// The life of a connection.
///
/// ```text
/// Open ─last response ends, no keep-alive─▶ Closing ─all is sent─▶ Draining ─▶ closed
/// ```
/// No draining is needed after the peer has shut down its sending side (`eof`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In use.
    Open { eof: bool },
    /// To be closed as soon as everything is sent.
    Closing { eof: bool },
    /// Everything is sent and our side is shut down. We discard input until the peer closes: closing at once would reset
    /// the connection, and the peer might lose the response.
    Draining,
}

/// A request on a connection.
struct Requested {
    id: RequestId,
    number: RequestNo,
    /// How its body arrives; `None` once it is complete.
    body: Option<Pace>,
}

/// The deadlines of a connection and the requests on it.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// When to stop draining and close.
    pub(super) drained: Option<Instant>,
    /// By when the peer must continue its request, or read what we send.
    pub(super) stalled: Option<Instant>,
    /// By when the oldest incomplete body must continue, while other requests are in progress.
    pub(super) body: Option<Instant>,
}

/// A connection.
pub(super) struct Connection {
    /// `None` for CGI.
    protocol: Option<Protocol>,
    codec: Box<dyn Codec>,
    outbox: Outbox,
    /// Input that was left when the connection became full. Decoding resumes with it even if it is empty.
    kept: Option<Vec<u8>>,
    /// The requests whose responses have not ended.
    requests: Vec<Requested>,
    state: State,
    /// When the connection was accepted, until a request begins on it.
    new_since: Option<Instant>,
    /// How what is no body arrives, while nothing is served. While draining, bytes after a complete request do not count.
    pace: Pace,
    /// When we last stopped reading because the connection was full.
    read_since: Instant,
    /// Since when the peer has not taken any of the bytes that wait to be sent.
    stuck: Option<Instant>,
    /// How the peer takes what is to be sent, since it has not taken all of it, on disk included.
    taking: Option<Pace>,
    /// Pieces of responses that were set aside, sent since the last `flushed`.
    pieces: u32,
    /// A request was rejected because there were too many, and that has been logged.
    turned_away: bool,
    /// `Stalled` was put out.
    stalled: bool,
    /// The codec does not have the current settings.
    outdated: bool,
}

impl Connection {
    /// `protocol` is `None` for CGI, where `codec` already has the request.
    pub(super) fn new(protocol: Option<Protocol>, codec: Box<dyn Codec>, now: Instant) -> Self {
        Connection {
            protocol,
            codec,
            outbox: Outbox::default(),
            kept: None,
            requests: Vec::new(),
            state: State::Open { eof: false },
            new_since: Some(now),
            pace: Pace::new(now),
            read_since: now,
            stuck: None,
            taking: None,
            pieces: 0,
            turned_away: false,
            stalled: false,
            outdated: false,
        }
    }

    /// The settings have changed.
    pub(super) fn outdate(&mut self) {
        self.outdated = self.protocol.is_some();
    }

    /// Replaces an outdated codec. That is possible between two requests, when a codec has no state.
    pub(super) fn renew_codec(&mut self, settings: &Settings) {
        if self.outdated
            && matches!(self.state, State::Open { .. })
            && self.requests.is_empty()
            && self.codec.is_idle()
            && let Some(protocol) = self.protocol
        {
            self.codec = settings.codec(protocol);
            self.outdated = false;
        }
    }

    /// Bytes were received. Returns whether to decode them.
    pub(super) fn on_read(&mut self, bytes: usize, now: Instant) -> bool {
        let draining = self.state == State::Draining;
        let idle = self.codec.is_idle();
        if !draining && (idle || self.requests.iter().any(|r| r.body.is_none())) {
            self.pace = Pace::new(now);
        }
        if !draining || !idle {
            self.pace.add(bytes, now);
        }
        !draining
    }

    /// The next event in `input`. A full connection keeps the input for later and returns `None`.
    pub(super) fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if self.is_full() {
            self.kept.get_or_insert_default().extend_from_slice(input);
            return Ok(None);
        }
        self.codec.decode(input, self.outbox.tail())
    }

    /// The input that was kept while the connection was full.
    pub(super) fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.take()
    }

    /// The peer has shut down its sending side. Returns false if the connection must be closed.
    pub(super) fn on_eof(&mut self) -> bool {
        if self.state == State::Draining {
            return false;
        }
        match self.codec.eof() {
            Eof::HalfClosed => match &mut self.state {
                State::Open { eof } | State::Closing { eof } => *eof = true,
                State::Draining => (),
            },
            Eof::Clean if self.waiting() > 0 => self.state = State::Closing { eof: true },
            Eof::Clean | Eof::Abort(_) => return false,
        }
        true
    }

    /// The peer has taken this many bytes of the outbox.
    pub(super) fn on_sent(&mut self, taken: usize, now: Instant) {
        if self.fills(self.waiting() + taken) {
            self.read_since = now;
        }
        if let Some(pace) = &mut self.taking {
            pace.add(taken, now);
        }
        if self.waiting() == 0 {
            self.stuck = None;
        } else if taken > 0 || self.stuck.is_none() {
            self.stuck = Some(now);
            self.taking.get_or_insert(Pace::new(now));
        }
    }

    /// Appends a part of a response.
    pub(super) fn encode(&mut self, id: RequestId, part: Part<'_>) {
        self.codec.encode(id, part, self.outbox.tail());
    }

    /// Appends text for the web server's error log, but drops it if the connection is full: we must not buffer without
    /// limit what an app writes. Returns whether it was appended: not every protocol can carry it.
    pub(super) fn encode_errors(&mut self, id: RequestId, text: &[u8]) -> bool {
        let before = self.waiting();
        if !self.is_full() {
            self.encode(id, Part::Errors(text));
        }
        self.waiting() > before
    }

    /// A request has begun.
    pub(super) fn begin(&mut self, id: RequestId, number: RequestNo, now: Instant) {
        self.new_since = None;
        self.requests.push(Requested {
            id,
            number,
            body: Some(Pace::new(now)),
        });
    }

    /// A piece of a request's body arrived.
    pub(super) fn on_body(&mut self, number: RequestNo, bytes: usize, now: Instant) {
        let mut requests = self.requests.iter_mut();
        let request = requests.find(|request| request.number == number);
        if let Some(pace) = request.and_then(|request| request.body.as_mut()) {
            pace.add(bytes, now);
        }
    }

    /// A request's body is complete.
    pub(super) fn on_body_end(&mut self, number: RequestNo) {
        let mut requests = self.requests.iter_mut();
        if let Some(request) = requests.find(|request| request.number == number) {
            request.body = None;
        }
    }

    /// A request that was still coming in has failed. What remains of it may take as long as another one.
    pub(super) fn begin_discarding(&mut self, now: Instant) {
        if self.requests.is_empty() {
            self.pace = Pace::new(now);
        }
    }

    /// Ends the response to a request.
    pub(super) fn finish(&mut self, id: RequestId, number: RequestNo) {
        self.encode(id, Part::End);
        self.requests.retain(|request| request.number != number);
        if let State::Open { eof } = self.state
            && self.requests.is_empty()
            && !self.codec.keep_alive()
        {
            self.state = State::Closing { eof };
        }
    }

    /// The number of the request with this id.
    pub(super) fn find(&self, id: RequestId) -> Option<RequestNo> {
        let mut requests = self.requests.iter();
        let found = requests.find(|request| request.id == id);
        found.map(|request| request.number)
    }

    /// The requests whose responses have not ended.
    pub(super) fn requests(&self) -> impl Iterator<Item = RequestNo> {
        self.requests.iter().map(|request| request.number)
    }

    /// Whether at most one request is in progress here.
    pub(super) fn has_one_request(&self) -> bool {
        self.requests.len() <= 1
    }

    /// Notes that a request was rejected because there are too many. Returns whether it is the first one here.
    pub(super) fn turn_away(&mut self) -> bool {
        !std::mem::replace(&mut self.turned_away, true)
    }

    /// The memory, in bytes, that its incomplete requests take, apart from those that have begun.
    pub(super) fn held(&self) -> usize {
        self.codec.held() + self.kept.as_ref().map_or(0, Vec::capacity)
    }

    /// The bytes to send.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The bytes to send, when the connection is closed.
    pub(super) fn into_outbox(self) -> Outbox {
        self.outbox
    }

    /// Whether the connection is not read, and responses are set aside, until the peer takes what waits.
    pub(super) fn is_full(&self) -> bool {
        self.fills(self.waiting())
    }

    fn fills(&self, waiting: usize) -> bool {
        waiting >= HIGH_MARK || waiting >= LOW_MARK && self.stuck.is_some()
    }

    /// Whether the peer takes none of its responses, and there has been no room to set them aside; if that has changed.
    /// `stuck`: there is no room now.
    pub(super) fn stalls(&mut self, stuck: bool) -> Option<bool> {
        let stalls = self.is_full() && !self.has_one_request() && (stuck || self.stalled);
        (std::mem::replace(&mut self.stalled, stalls) != stalls).then_some(stalls)
    }

    /// A piece of a response that was set aside is in the outbox, and it is the turn of the connection's other responses.
    /// Returns whether to send at once: after some pieces, not before the socket has reported that it has room.
    pub(super) fn on_piece(&mut self, number: RequestNo, now: Instant) -> bool {
        let mut requests = self.requests.iter();
        if let Some(at) = requests.position(|request| request.number == number) {
            self.requests[at..].rotate_left(1);
        }
        self.pieces += 1;
        // The output of CGI may be a file, which never reports that it has room.
        if self.pieces < PIECES || self.protocol.is_none() {
            return true;
        }
        self.stuck.get_or_insert(now);
        false
    }

    /// The outbox is empty, or the socket does not accept more for now.
    pub(super) fn flushed(&mut self) {
        self.pieces = 0;
        if self.waiting() == 0 {
            self.taking = None;
        }
    }

    /// The socket events to watch for.
    pub(super) fn interest(&self) -> Interest {
        Interest {
            read: !self.has_eof() && !self.is_full(),
            write: self.waiting() > 0,
        }
    }

    /// Nothing is in progress: the connection may be handed over, or closed without loss.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Open { eof: false }
            && self.requests.is_empty()
            && self.waiting() == 0
            && self.codec.is_idle()
    }

    /// All requests are complete and the connection closes after them: the only event that could come before the
    /// responses is that the peer is gone.
    pub(super) fn only_waits(&self) -> bool {
        matches!(self.state, State::Open { .. })
            && self.waiting() == 0
            && !self.requests.is_empty()
            && self.bodies().next().is_none()
            && !self.codec.keep_alive()
    }

    /// Until when to expect the first request, if none has begun.
    pub(super) fn expected_until(&self) -> Option<Instant> {
        self.new_since.map(|at| at + EXPECTED)
    }

    /// Whether no request has begun on it.
    pub(super) fn is_new(&self) -> bool {
        self.new_since.is_some()
    }

    /// The previous process image has had requests on it.
    pub(super) fn set_used(&mut self) {
        self.new_since = None;
    }

    /// Whether the peer has shut down its sending side.
    pub(super) fn has_eof(&self) -> bool {
        matches!(
            self.state,
            State::Open { eof: true } | State::Closing { eof: true }
        )
    }

    /// Whether we have shut down our sending side.
    pub(super) fn is_draining(&self) -> bool {
        self.state == State::Draining
    }

    /// Whether the last byte of the last response has been sent.
    pub(super) fn has_sent_all(&self) -> bool {
        matches!(self.state, State::Closing { .. }) && self.waiting() == 0
    }

    /// Starts draining. Returns false if the connection can be closed at once.
    pub(super) fn drain(&mut self, now: Instant) -> bool {
        if self.has_eof() || self.protocol.is_none() && self.codec.is_idle() {
            return false;
        }
        self.state = State::Draining;
        self.pace = Pace::new(now);
        true
    }

    /// The current deadlines.
    pub(super) fn deadlines(&self, settings: &Settings) -> Deadlines {
        let quiet = self.pace.last().max(self.read_since);
        let slow = self.pace.late_at(settings, self.read_since);
        let drained = || slow.into_iter().fold(quiet + DRAIN, Instant::min);
        let mut deadlines = Deadlines {
            drained: self.is_draining().then(drained),
            stalled: self.stuck.map(|at| {
                let slow = self.taking.and_then(|pace| pace.too_slow_at(settings));
                let silent = at + settings.write_timeout();
                slow.into_iter().fold(silent, Instant::min)
            }),
            body: None,
        };
        if self.is_full() {
            return deadlines;
        }
        let receives_only = self.bodies().count() == self.requests.len();
        let heard = self.bodies().map(|(_, pace)| pace.last()).max();
        let silent = match heard {
            Some(heard) if receives_only => Some(heard.max(quiet) + settings.read_timeout()),
            None if self.requests.is_empty() && (self.is_new() || !self.codec.is_idle()) => {
                Some(self.pace.deadline(settings, self.read_since))
            }
            _ => None,
        };
        deadlines.stalled = deadlines.stalled.into_iter().chain(silent).min();
        let bodies = self.bodies();
        let bodies = bodies.map(|(_, pace)| pace.deadline(settings, self.read_since));
        deadlines.body = bodies.min();
        deadlines
    }

    /// The requests whose bodies have stalled. `true`: they still come in, but too slowly.
    pub(super) fn stalled_bodies(
        &self,
        settings: &Settings,
        now: Instant,
    ) -> Vec<(RequestNo, bool)> {
        let bodies = self.bodies();
        let late = bodies.filter(|(_, pace)| pace.deadline(settings, self.read_since) <= now);
        let late = late.map(|(number, pace)| {
            let silent = pace.last().max(self.read_since) + settings.read_timeout();
            (number, now < silent)
        });
        late.collect()
    }

    /// The requests with incomplete bodies.
    fn bodies(&self) -> impl Iterator<Item = (RequestNo, Pace)> {
        let requests = self.requests.iter();
        requests.filter_map(|request| Some((request.number, request.body?)))
    }

    pub(super) fn waiting(&self) -> usize {
        self.outbox.waiting()
    }
}

impl Deadlines {
    /// The earliest deadline.
    pub(super) fn first(&self) -> Option<Instant> {
        let all = [self.drained, self.stalled, self.body];
        all.into_iter().flatten().min()
    }
}
