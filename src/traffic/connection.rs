//! `Connection`: a web server's connection without its socket: its codec, its requests, what waits to be sent, and how
//! long all that may last.

use super::settings::Settings;
use crate::config::Protocol;
use crate::outbox::Outbox;
use crate::proto::{Codec, Eof, Event, Part, ProtocolError, RequestId};
use crate::request::RequestNo;
use std::time::{Duration, Instant};

/// Numbers a connection; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnNo(pub u64);

/// With this many bytes waiting to be sent, the connection is not read, and the workers that answer on it have to wait.
const HIGH_MARK: usize = 256 << 10;

/// How long a connection is read after its last answer before it is closed. Each piece of a request that was answered
/// early begins the time anew.
const DRAIN: Duration = Duration::from_secs(5);

/// A web server connects when it has a request, and sends it at once.
const EXPECTED: Duration = Duration::from_millis(500);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Its peer may send.
    pub read: bool,
    /// Its peer may take more.
    pub write: bool,
}

/// What becomes of a connection.
///
/// ```text
/// Open ─the last request is answered, and the connection is not to be kept─▶ Closing ─all is sent─▶ Draining ─▶ gone
/// ```
/// A peer that has ended its sending side (`eof`) needs no draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It goes on.
    Open { eof: bool },
    /// To be closed when all is sent.
    Closing { eof: bool },
    /// All is sent and our side is shut. What the peer still sends is read and dropped until it closes: closing at once
    /// would reset the connection and lose the answer.
    Draining,
}

/// A request on a connection.
struct Requested {
    id: RequestId,
    number: RequestNo,
    /// When the last piece of its body came; None: the body is complete.
    body: Option<Instant>,
}

/// When a connection, or a request on it, has taken too long.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// It has drained for long enough.
    pub(super) drained: Option<Instant>,
    /// Its peer neither sends what it has begun nor takes what waits.
    pub(super) stalled: Option<Instant>,
    /// The first of the bodies that come in has stalled, while other things go on.
    pub(super) body: Option<Instant>,
}

/// See above.
pub(super) struct Connection {
    /// None: CGI.
    protocol: Option<Protocol>,
    codec: Box<dyn Codec>,
    outbox: Outbox,
    /// Input that was left when the connection became full. Decoding goes on with it, even when it is empty.
    kept: Option<Vec<u8>>,
    /// Its requests that are not over.
    requests: Vec<Requested>,
    state: State,
    /// When it came, until it is first heard of.
    silent_since: Option<Instant>,
    /// When the last byte came that counts. While draining, what follows a complete request does not.
    last_in: Instant,
    /// It was full until then, and so not read.
    read_since: Instant,
    /// Bytes wait, and the peer has taken none of them since then.
    stuck: Option<Instant>,
    /// The workers that answer here were told to wait.
    held: bool,
    /// A request was turned away because there were too many, and the log has a line on it.
    turned_away: bool,
    /// Its codec is from before the settings changed.
    outdated: bool,
}

impl Connection {
    /// `protocol` is None for CGI, where `codec` has the request already.
    pub(super) fn new(protocol: Option<Protocol>, codec: Box<dyn Codec>, now: Instant) -> Self {
        Connection {
            protocol,
            codec,
            outbox: Outbox::default(),
            kept: None,
            requests: Vec::new(),
            state: State::Open { eof: false },
            silent_since: Some(now),
            last_in: now,
            read_since: now,
            stuck: None,
            held: false,
            turned_away: false,
            outdated: false,
        }
    }

    /// Its next request is taken with new settings.
    pub(super) fn outdate(&mut self) {
        self.outdated = self.protocol.is_some();
    }

    /// A codec between two requests holds nothing: another one can go on.
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

    /// Bytes have come. Returns whether they are to be decoded.
    pub(super) fn on_read(&mut self, now: Instant) -> bool {
        self.silent_since = None;
        let draining = self.state == State::Draining;
        if !draining || !self.codec.is_idle() {
            self.last_in = now;
        }
        !draining
    }

    /// The next event in `input`. A connection that is full keeps the input for later and gives none.
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

    /// What was kept while it was full.
    pub(super) fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.take()
    }

    /// The peer sends nothing more. Returns false when the connection is over.
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

    /// The peer has taken so many bytes of the outbox.
    pub(super) fn on_sent(&mut self, taken: usize, now: Instant) {
        if self.waiting() + taken >= HIGH_MARK {
            self.read_since = now;
        }
        if self.waiting() == 0 {
            self.stuck = None;
        } else if taken > 0 || self.stuck.is_none() {
            self.stuck = Some(now);
        }
    }

    /// Appends a part of a response.
    pub(super) fn encode(&mut self, id: RequestId, part: Part<'_>) {
        self.codec.encode(id, part, self.outbox.tail());
    }

    /// Appends text for the web server's error log, unless the connection is full: a web server that takes nothing must
    /// not make us keep all that an app writes.
    pub(super) fn encode_errors(&mut self, id: RequestId, text: &[u8]) {
        if !self.is_full() {
            self.encode(id, Part::Errors(text));
        }
    }

    /// A request has begun.
    pub(super) fn begin(&mut self, id: RequestId, number: RequestNo, now: Instant) {
        self.requests.push(Requested {
            id,
            number,
            body: Some(now),
        });
    }

    /// A piece of a request's body came now; None: the body is complete.
    pub(super) fn on_body(&mut self, number: RequestNo, now: Option<Instant>) {
        let mut requests = self.requests.iter_mut();
        if let Some(request) = requests.find(|request| request.number == number) {
            request.body = now;
        }
    }

    /// A request is over, as far as the web server is concerned.
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

    /// The request with this id.
    pub(super) fn find(&self, id: RequestId) -> Option<RequestNo> {
        let mut requests = self.requests.iter();
        let found = requests.find(|request| request.id == id);
        found.map(|request| request.number)
    }

    /// Its requests that are not over.
    pub(super) fn requests(&self) -> impl Iterator<Item = RequestNo> {
        self.requests.iter().map(|request| request.number)
    }

    /// No other request is going on here.
    pub(super) fn has_one_request(&self) -> bool {
        self.requests.len() <= 1
    }

    /// A request is turned away. Returns whether it is the first one here.
    pub(super) fn turn_away(&mut self) -> bool {
        !std::mem::replace(&mut self.turned_away, true)
    }

    /// What is to be sent.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Gives up what is to be sent.
    pub(super) fn into_outbox(self) -> Outbox {
        self.outbox
    }

    /// Too much waits to be sent.
    pub(super) fn is_full(&self) -> bool {
        self.waiting() >= HIGH_MARK
    }

    /// Whether the workers that answer here are to hear that they have to wait, or no longer.
    pub(super) fn concerns_workers(&mut self) -> bool {
        let full = self.is_full();
        std::mem::replace(&mut self.held, full) || full
    }

    /// What to watch its socket for.
    pub(super) fn interest(&self) -> Interest {
        Interest {
            read: !self.has_eof() && !self.is_full(),
            write: self.waiting() > 0,
        }
    }

    /// Nothing is going on: it may be handed over, or closed without loss.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Open { eof: false }
            && self.requests.is_empty()
            && self.waiting() == 0
            && self.codec.is_idle()
    }

    /// All its requests are complete and it closes after them: until they are answered, all that could be read is that
    /// the peer has gone.
    pub(super) fn only_waits(&self) -> bool {
        matches!(self.state, State::Open { .. })
            && self.waiting() == 0
            && !self.requests.is_empty()
            && self.bodies().next().is_none()
            && !self.codec.keep_alive()
    }

    /// It came a moment ago and has not sent anything yet: until when its request can be expected.
    pub(super) fn expected_until(&self) -> Option<Instant> {
        self.silent_since.map(|at| at + EXPECTED)
    }

    /// The peer sends nothing more.
    pub(super) fn has_eof(&self) -> bool {
        matches!(
            self.state,
            State::Open { eof: true } | State::Closing { eof: true }
        )
    }

    /// Our side is shut.
    pub(super) fn is_draining(&self) -> bool {
        self.state == State::Draining
    }

    /// The last byte of the last answer has gone.
    pub(super) fn has_sent_all(&self) -> bool {
        matches!(self.state, State::Closing { .. }) && self.waiting() == 0
    }

    /// Begins to drain. Returns false when there is nothing to wait for: it can be closed.
    pub(super) fn drain(&mut self, now: Instant) -> bool {
        if self.has_eof() || self.protocol.is_none() && self.codec.is_idle() {
            return false;
        }
        self.state = State::Draining;
        self.last_in = now;
        true
    }

    /// When it has taken too long.
    pub(super) fn deadlines(&self, settings: &Settings) -> Deadlines {
        let read = settings.read_timeout();
        let quiet = self.last_in.max(self.read_since);
        let mut deadlines = Deadlines {
            drained: self.is_draining().then(|| quiet + DRAIN),
            stalled: self.stuck.map(|at| at + settings.write_timeout()),
            body: None,
        };
        if self.is_full() {
            return deadlines;
        }
        let bodies = || self.bodies().map(|(_, heard)| heard.max(self.read_since));
        let receives_only = bodies().count() == self.requests.len();
        let silent = match bodies().max() {
            Some(heard) if receives_only => Some(heard.max(quiet)),
            None if self.requests.is_empty() && !self.codec.is_idle() => Some(quiet),
            _ => None,
        };
        let silent = silent.map(|at| at + read);
        deadlines.stalled = deadlines.stalled.into_iter().chain(silent).min();
        deadlines.body = bodies().min().map(|at| at + read);
        deadlines
    }

    /// The requests whose bodies have stalled.
    pub(super) fn stalled_bodies(&self, settings: &Settings, now: Instant) -> Vec<RequestNo> {
        let late = |heard: Instant| heard.max(self.read_since) + settings.read_timeout() <= now;
        let bodies = self.bodies().filter(|(_, heard)| late(*heard));
        bodies.map(|(number, _)| number).collect()
    }

    /// The requests whose bodies are coming in, and when the last piece of each came.
    fn bodies(&self) -> impl Iterator<Item = (RequestNo, Instant)> {
        let requests = self.requests.iter();
        requests.filter_map(|request| Some((request.number, request.body?)))
    }

    fn waiting(&self) -> usize {
        self.outbox.waiting()
    }
}

impl Deadlines {
    /// The first of them.
    pub(super) fn first(&self) -> Option<Instant> {
        let all = [self.drained, self.stalled, self.body];
        all.into_iter().flatten().min()
    }
}
