//! Plain CGI as a codec (RFC 3875 sections 4 and 6).
//!
//! The request is the process environment, given at construction. The input is the body: CONTENT_LENGTH bytes, or all
//! bytes until the end for a chunked upload, whose length Apache does not know.

use super::head::cgi_head;
use super::{Codec, Eof, Event, Part, ProtocolError, RequestId};
use crate::bytes::decimal;
use crate::pairs::Pairs;

const ID: RequestId = RequestId(1);
/// The length of a body that ends where the input ends.
const UNKNOWN: u64 = u64::MAX;

/// The one request of a CGI process. The first `decode` returns it, even without any input.
pub struct Cgi {
    input: Input,
    response: Response,
}

// Environ ──Begin──▶ Body ──last byte──▶ Ended
//    └──────Reject─────────────────────────▲
enum Input {
    Environ(Pairs),
    Body { left: u64 },
    Ended,
}

#[derive(PartialEq, Eq)]
enum Response {
    Pending,
    Aborted,
    Ended,
}

impl Cgi {
    /// `environ` is the process environment.
    pub fn new(environ: Pairs) -> Cgi {
        Cgi {
            input: Input::Environ(environ),
            response: Response::Pending,
        }
    }

    fn begin<'a>(&mut self, environ: Pairs) -> Event<'a> {
        match content_length(&environ) {
            Ok(left) => {
                self.input = Input::Body { left };
                Event::Begin { id: ID, environ }
            }
            Err(value) => {
                self.input = Input::Ended;
                Event::Reject {
                    id: ID,
                    status: 400,
                    reason: format!("CONTENT_LENGTH is {value:?}, not a number"),
                }
            }
        }
    }
}

impl Codec for Cgi {
    fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
        _out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if let Input::Environ(environ) = &mut self.input {
            let environ = std::mem::take(environ);
            return Ok(Some(self.begin(environ)));
        }
        let Input::Body { left } = &mut self.input else {
            *input = &[];
            return Ok(None);
        };
        let length = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(input.len());
        let (bytes, rest) = input.split_at(length);
        if *left < UNKNOWN {
            *left -= length as u64;
        }
        *input = rest;
        let wanted = self.response == Response::Pending;
        if wanted && length > 0 {
            return Ok(Some(Event::Body { id: ID, bytes }));
        }
        if *left > 0 {
            return Ok(None);
        }
        self.input = Input::Ended;
        if wanted {
            return Ok(Some(Event::BodyEnd { id: ID }));
        }
        *input = &[];
        Ok(None)
    }

    fn encode(&mut self, id: RequestId, part: Part<'_>, out: &mut Vec<u8>) {
        if id != ID {
            return;
        }
        match (part, &self.response) {
            (Part::End, _) => self.response = Response::Ended,
            (Part::Head(head), Response::Pending) => cgi_head(head, out),
            (Part::Body(bytes), Response::Pending) => out.extend_from_slice(bytes),
            (Part::Errors(_), _) | (_, Response::Aborted | Response::Ended) => {}
        }
    }

    fn eof(&mut self) -> Eof {
        match (&self.response, &self.input) {
            (Response::Ended, _) => Eof::Clean,
            (Response::Aborted, _) => Eof::Abort(vec![ID]),
            (Response::Pending, Input::Body { left: UNKNOWN.. }) => {
                self.input = Input::Body { left: 0 };
                Eof::HalfClosed
            }
            (Response::Pending, Input::Body { left: 1.. }) => {
                self.response = Response::Aborted;
                Eof::Abort(vec![ID])
            }
            (Response::Pending, _) => Eof::HalfClosed,
        }
    }

    fn keep_alive(&self) -> bool {
        false
    }

    fn held(&self) -> usize {
        0
    }

    fn is_idle(&self) -> bool {
        self.response == Response::Ended && !matches!(self.input, Input::Body { left: 1.. })
    }
}

/// CONTENT_LENGTH, or its value when it is not a number.
fn content_length(environ: &Pairs) -> Result<u64, String> {
    let value = environ.get(b"CONTENT_LENGTH").unwrap_or_default();
    if value.is_empty() {
        let chunked = environ
            .get(b"HTTP_TRANSFER_ENCODING")
            .is_some_and(|coding| coding.to_ascii_lowercase().ends_with(b"chunked"));
        return Ok(if chunked { UNKNOWN } else { 0 });
    }
    decimal(value)
        .filter(|length| *length < UNKNOWN)
        .ok_or_else(|| value.escape_ascii().to_string())
}
