//! The protocols of web servers, each as a codec: bytes in, events out; parts of a response in, bytes out.
//!
//! A codec is a pure function of bytes. It knows no socket, clock, file, log, configuration or worker; all its limits are
//! plain numbers given at construction. `traffic` is the only user.

pub mod ajp13;
pub mod cgi;
pub mod fastcgi;
pub mod head;
pub mod scgi;

use crate::pairs::Pairs;
use crate::response::ResponseHead;

/// The id of a request on its connection: FastCGI's request id, or 1 in protocols without ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u16);

/// What a codec found in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request with all its CGI meta-variables. `Body` and `BodyEnd` events follow.
    Begin {
        /// The request.
        id: RequestId,
        /// The variables as sent, except those that contain a NUL.
        environ: Pairs,
    },
    /// A request that must be answered with an error page. It replaces `Begin`; no `Body` or `BodyEnd` follows.
    Reject {
        /// The request.
        id: RequestId,
        /// The HTTP status of the page, such as 431.
        status: u16,
        /// The reason for the log: lower case, with the offending value.
        reason: String,
    },
    /// A piece of the request's body, borrowed from the input.
    Body {
        /// The request.
        id: RequestId,
        /// Never empty.
        bytes: &'a [u8],
    },
    /// The body is complete.
    BodyEnd {
        /// The request.
        id: RequestId,
    },
    /// The web server has cancelled the request. The codec ignores further parts of its response, but still needs
    /// `Part::End`.
    Abort {
        /// The request.
        id: RequestId,
    },
}

/// A part of a response. The order is `Head`, any number of `Body`, `End`; `Errors` may come at any time before `End`.
#[derive(Debug)]
pub enum Part<'a> {
    /// Status and header fields.
    Head(&'a ResponseHead),
    /// A piece of the body. An empty one is ignored.
    Body(&'a [u8]),
    /// Whole lines for the web server's error log. Ignored by protocols that cannot carry them.
    Errors(&'a [u8]),
    /// The response is complete.
    End,
}

/// What the end of the input means for a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Eof {
    /// No request is in progress: close the connection.
    Clean,
    /// The peer is gone: these requests are aborted; close the connection.
    Abort(Vec<RequestId>),
    /// The peer has only finished sending: its request is complete and still needs a response.
    HalfClosed,
}

/// The input violates the protocol, so that the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError(pub String);

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProtocolError {}

/// The protocol state of one connection.
pub trait Codec {
    /// Consumes `input` up to and including the next event. `Ok(None)` means that all of it is consumed and no event is
    /// complete. Replies that the protocol itself demands (GET_VALUES_RESULT, UNKNOWN_TYPE, END_REQUEST for an unknown
    /// role, CPONG, GET_BODY_CHUNK) are appended to `out`.
    fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError>;

    /// Appends a part of the response to request `id` to `out`. If the response ends before the request's body does, the
    /// rest of the body is consumed without events. Parts for an unknown id are ignored.
    fn encode(&mut self, id: RequestId, part: Part<'_>, out: &mut Vec<u8>);

    /// The peer has shut down its sending side.
    fn eof(&mut self) -> Eof;

    /// Whether the web server wants the connection kept open once it is idle. False until a request has ended.
    fn keep_alive(&self) -> bool;

    /// The memory, in bytes, that incomplete requests take here.
    fn held(&self) -> usize;

    /// No request is in progress, not even a partial one: the connection may be handed over or closed without loss.
    fn is_idle(&self) -> bool;
}
