//! Plain CGI as a codec: RFC 3875 sections 4 and 6.
//!
//! The request is the process environment, given at construction; stdin is its body, exactly CONTENT_LENGTH bytes
//! long, or to its end for a chunked upload, whose length Apache does not know; the response is text. Knows neither stdin nor stdout: it reads no environment and no descriptor itself.

use super::head::cgi_head;
use super::{Codec, Eof, Event, Part, ProtocolError, RequestId};
use crate::pairs::Pairs;

const ID: RequestId = RequestId(1);
/// Stands for the length of a body that ends where stdin ends.
const UNKNOWN: u64 = u64::MAX;

/// The one request of a CGI process. Call `decode` at least once, with no bytes if there are none: `Begin` comes
/// from the environment alone.
pub struct Cgi {
    input: Input,
    answer: Answer,
}

// Environ ──Begin──▶ Body ──last byte──▶ Ended
//    └──────Reject─────────────────────────▲
enum Input {
    Environ(Pairs),
    Body { left: u64 },
    Ended,
}

#[derive(PartialEq, Eq)]
enum Answer {
    Owed,
    Aborted,
    Ended,
}

impl Cgi {
    /// `environ` is the whole process environment.
    pub fn new(environ: Pairs) -> Cgi {
        Cgi {
            input: Input::Environ(environ),
            answer: Answer::Owed,
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
        let wanted = self.answer == Answer::Owed;
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
        match (part, &self.answer) {
            (Part::End, _) => self.answer = Answer::Ended,
            (Part::Head(head), Answer::Owed) => cgi_head(head, out),
            (Part::Body(bytes), Answer::Owed) => out.extend_from_slice(bytes),
            (Part::Errors(_), _) | (_, Answer::Aborted | Answer::Ended) => {}
        }
    }

    fn eof(&mut self) -> Eof {
        match (&self.answer, &self.input) {
            (Answer::Ended, _) => Eof::Clean,
            (Answer::Aborted, _) => Eof::Abort(vec![ID]),
            (Answer::Owed, Input::Body { left: UNKNOWN.. }) => {
                self.input = Input::Body { left: 0 };
                Eof::HalfClosed
            }
            (Answer::Owed, Input::Body { left: 1.. }) => {
                self.answer = Answer::Aborted;
                Eof::Abort(vec![ID])
            }
            (Answer::Owed, _) => Eof::HalfClosed,
        }
    }

    fn keep_alive(&self) -> bool {
        false
    }

    fn is_idle(&self) -> bool {
        self.answer == Answer::Ended && !matches!(self.input, Input::Body { left: 1.. })
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
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|length| *length < UNKNOWN)
        .ok_or_else(|| value.escape_ascii().to_string())
}
