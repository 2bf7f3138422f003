//! The protocols of web servers, each a codec: bytes in, events out; parts of a response in, bytes out.
//!
//! A codec is a pure function of bytes. It knows no socket, clock, file, log, configuration or worker; all its
//! limits are plain numbers given at construction. `server` is the only user.

pub mod ajp13;
pub mod cgi;
pub mod fastcgi;
pub mod head;
pub mod scgi;

use crate::pairs::Pairs;
use crate::response::ResponseHead;

/// The id of a request on its connection: FastCGI's request id; 1 in the protocols that know no ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u16);

/// What a codec found in the bytes that came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request and all of its CGI meta-variables. `Body` and `BodyEnd` events follow.
    Begin {
        /// The request.
        id: RequestId,
        /// Its variables, as sent: nothing is added, dropped or mended here except names and values with a NUL.
        environ: Pairs,
    },
    /// A request that cannot be served but can be answered: the server sends a page with this status.
    /// Takes the place of `Begin`; `Body` and `BodyEnd` events do not follow.
    Reject {
        /// The request.
        id: RequestId,
        /// The HTTP status to answer with, such as 431.
        status: u16,
        /// Why, for the log: lower case, with the offending value.
        reason: String,
    },
    /// A piece of the request's body. It borrows the caller's buffer.
    Body {
        /// The request.
        id: RequestId,
        /// Never empty.
        bytes: &'a [u8],
    },
    /// The body is complete: the request can be answered.
    BodyEnd {
        /// The request.
        id: RequestId,
    },
    /// The web server has lost interest. The answer, if one still comes, is cut short by the codec;
    /// `Part::End` is still owed.
    Abort {
        /// The request.
        id: RequestId,
    },
}

/// A piece of a response, handed to a codec in this order: `Head`, any `Body`, `End`; `Errors` at any time before `End`.
#[derive(Debug)]
pub enum Part<'a> {
    /// Status and header fields.
    Head(&'a ResponseHead),
    /// A piece of the body. An empty one is ignored.
    Body(&'a [u8]),
    /// Text for the web server's error log, where the protocol can carry it; ignored elsewhere.
    /// Whole lines; the codec splits what is too long for a record.
    Errors(&'a [u8]),
    /// The response is complete.
    End,
}

/// What the end of the incoming bytes means for a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Eof {
    /// No request was going on: close.
    Clean,
    /// The peer has gone and with it all its requests: these ids are aborted; close.
    Abort(Vec<RequestId>),
    /// The peer has only finished sending; its one request, already complete, is still to be answered.
    HalfClosed,
}

/// A connection that cannot go on: the bytes are not of the protocol. Ends that connection alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError(pub String);

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProtocolError {}

/// One connection's protocol.
pub trait Codec {
    /// Eats from the front of `input` up to and including the next event. `Ok(None)`: all of `input` is eaten and
    /// no event is complete. What the protocol demands as an answer by itself (GET_VALUES_RESULT, UNKNOWN_TYPE,
    /// END_REQUEST for an unknown role, CPONG, GET_BODY_CHUNK) is appended to `out`.
    fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError>;

    /// Appends a part of the response to request `id` to `out`. A request that is answered before its body has
    /// come in stays known until the body's end: the rest of it is eaten without events. Parts for an unknown id
    /// are ignored.
    fn encode(&mut self, id: RequestId, part: Part<'_>, out: &mut Vec<u8>);

    /// The peer has shut down its sending side.
    fn eof(&mut self) -> Eof;

    /// Whether the connection is to be kept when nothing is going on: asked after a `Part::End`.
    /// `false` as long as no request has ended.
    fn keep_alive(&self) -> bool;

    /// No request is going on and no partial one has come in: a connection in this state may be handed over or
    /// closed without loss.
    fn is_idle(&self) -> bool;
}
