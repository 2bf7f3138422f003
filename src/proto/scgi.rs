//! SCGI as a codec: a netstring of variables, then a body of CONTENT_LENGTH bytes. The response is CGI text that ends with
//! the connection.
//!
//! Follows the SCGI specification of 2008, and is lenient about what web servers do: CONTENT_LENGTH and SCGI may come
//! anywhere, names may repeat, GATEWAY_INTERFACE may be missing. Knows no I/O.

use crate::bytes::decimal;
use crate::pairs::Pairs;
use crate::proto::head::cgi_head;
use crate::proto::{Codec, Eof, Event, Part, ProtocolError, RequestId};

/// One SCGI connection, and so one request.
pub struct Scgi {
    max_params: usize,
    state: State,
    response: Response,
}

/// ```text
/// Length ──':'──▶ Headers ──','──▶ Body ──complete──▶ End ──BodyEnd──▶ Done
///    └── over the limit, or unusable headers ───────────────────────────▶ Done
/// ```
enum State {
    Length {
        digits: usize,
        value: usize,
    },
    Headers {
        length: usize,
        bytes: Vec<u8>,
    },
    Body(u64),
    /// `BodyEnd` is the next event.
    End,
    /// All further input is discarded.
    Done,
}

#[derive(PartialEq)]
enum Response {
    /// No request has begun.
    None,
    Pending,
    Ended,
}

const ID: RequestId = RequestId(1);

/// Enough digits for any allowed length, and few enough for `usize`.
const LENGTH_DIGITS: usize = 9;

impl Scgi {
    /// A new connection. A request with more than `max_params` bytes of variables is answered with 431.
    pub fn new(max_params: usize) -> Scgi {
        Scgi {
            max_params,
            state: State::Length {
                digits: 0,
                value: 0,
            },
            response: Response::None,
        }
    }

    fn reject(&mut self, status: u16, reason: String) -> Event<'static> {
        self.state = State::Done;
        self.response = Response::Pending;
        Event::Reject {
            id: ID,
            status,
            reason,
        }
    }

    fn headers(&mut self, bytes: Vec<u8>) -> Result<Event<'static>, ProtocolError> {
        let Some(environ) = Pairs::from_bytes(bytes) else {
            return Err(error(
                "scgi: the headers are not pairs of NUL-terminated strings",
            ));
        };
        match environ.get(b"SCGI") {
            Some(b"1") => {}
            Some(other) => {
                let version = String::from_utf8_lossy(other);
                return Err(ProtocolError(format!(
                    "scgi: the header SCGI is {version:?} instead of 1"
                )));
            }
            None => return Err(error("scgi: the header SCGI is missing")),
        }
        let length = match content_length(&environ)? {
            Ok(length) => length,
            Err((status, reason)) => return Ok(self.reject(status, reason)),
        };
        self.response = Response::Pending;
        self.state = match length {
            0 => State::End,
            length => State::Body(length),
        };
        Ok(Event::Begin { id: ID, environ })
    }
}

impl Codec for Scgi {
    fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
        _out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        loop {
            match &mut self.state {
                State::End => {
                    self.state = State::Done;
                    if self.response == Response::Pending {
                        return Ok(Some(Event::BodyEnd { id: ID }));
                    }
                }
                _ if input.is_empty() => return Ok(None),
                State::Length { digits, value } => {
                    let byte = input[0];
                    *input = &input[1..];
                    match byte {
                        b':' if *digits > 0 => {
                            let length = *value;
                            if length > self.max_params {
                                let max = self.max_params;
                                let reason =
                                    format!("scgi: {length} bytes of headers; max_params is {max}");
                                return Ok(Some(self.reject(431, reason)));
                            }
                            let bytes = Vec::new();
                            self.state = State::Headers { length, bytes };
                        }
                        b'0'..=b'9' if *digits == LENGTH_DIGITS => {
                            return Err(ProtocolError(format!(
                                "scgi: a netstring length of more than {LENGTH_DIGITS} digits"
                            )));
                        }
                        b'0'..=b'9' if *digits > 0 && *value == 0 => {
                            return Err(error("scgi: a netstring length with a leading zero"));
                        }
                        b'0'..=b'9' => {
                            *value = *value * 10 + usize::from(byte - b'0');
                            *digits += 1;
                        }
                        _ => {
                            return Err(ProtocolError(format!(
                                "scgi: byte 0x{byte:02x} in place of a netstring length; \
                                 does the web server speak scgi here?"
                            )));
                        }
                    }
                }
                State::Headers { length, bytes } => {
                    let wanted = (*length - bytes.len()).min(input.len());
                    bytes.extend_from_slice(&input[..wanted]);
                    *input = &input[wanted..];
                    if bytes.len() < *length || input.is_empty() {
                        continue;
                    }
                    if input[0] != b',' {
                        return Err(ProtocolError(format!(
                            "scgi: byte 0x{:02x} in place of the comma after the headers",
                            input[0]
                        )));
                    }
                    *input = &input[1..];
                    let bytes = std::mem::take(bytes);
                    return self.headers(bytes).map(Some);
                }
                State::Body(left) => {
                    let size = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(input.len());
                    let (bytes, rest) = input.split_at(size);
                    *input = rest;
                    *left -= size as u64;
                    if *left == 0 {
                        self.state = State::End;
                    }
                    if self.response == Response::Pending {
                        return Ok(Some(Event::Body { id: ID, bytes }));
                    }
                }
                State::Done => *input = &[],
            }
        }
    }

    fn encode(&mut self, id: RequestId, part: Part<'_>, out: &mut Vec<u8>) {
        if id != ID || self.response != Response::Pending {
            return;
        }
        match part {
            Part::Head(head) => cgi_head(head, out),
            Part::Body(bytes) => out.extend_from_slice(bytes),
            Part::Errors(_) => {}
            Part::End => self.response = Response::Ended,
        }
    }

    fn eof(&mut self) -> Eof {
        match (&self.response, &self.state) {
            (Response::None | Response::Ended, _) => Eof::Clean,
            (Response::Pending, State::End | State::Done) => Eof::HalfClosed,
            (Response::Pending, _) => {
                self.response = Response::Ended;
                self.state = State::Done;
                Eof::Abort(vec![ID])
            }
        }
    }

    fn keep_alive(&self) -> bool {
        false
    }

    fn held(&self) -> usize {
        match &self.state {
            State::Headers { bytes, .. } => bytes.capacity(),
            _ => 0,
        }
    }

    fn is_idle(&self) -> bool {
        match self.response {
            Response::None => matches!(self.state, State::Length { digits: 0, .. }),
            Response::Pending => false,
            Response::Ended => matches!(self.state, State::End | State::Done),
        }
    }
}

/// The length of the body, or status and reason for refusing the request.
fn content_length(environ: &Pairs) -> Result<Result<u64, (u16, String)>, ProtocolError> {
    let mut lengths = environ.iter().filter(|(n, _)| *n == b"CONTENT_LENGTH");
    let Some((_, length)) = lengths.next() else {
        return Err(error("scgi: the header CONTENT_LENGTH is missing"));
    };
    if lengths.any(|(_, other)| other != length) {
        return Err(error("scgi: two different CONTENT_LENGTH headers"));
    }
    let text = String::from_utf8_lossy(length);
    let refusal = match &text[..] {
        "" => return Ok(Ok(0)),
        // lighttpd's value for a body of unknown length, whose end we could not find.
        "-1" => (
            411,
            String::from("scgi: CONTENT_LENGTH is -1, but SCGI needs the length of the body"),
        ),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => match decimal(length) {
            Some(length) => return Ok(Ok(length)),
            None => (413, format!("scgi: CONTENT_LENGTH {text} is too large")),
        },
        _ => (
            400,
            format!("scgi: CONTENT_LENGTH {text:?} is not a number"),
        ),
    };
    Ok(Err(refusal))
}

fn error(text: &str) -> ProtocolError {
    ProtocolError(String::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX_PARAMS: usize = 60;

    /// Decodes the input in pieces of these sizes. Returns events, the joined body, and the error.
    fn play(bytes: &[u8], sizes: &[usize]) -> (Vec<String>, Vec<u8>, Option<ProtocolError>) {
        let mut codec = Scgi::new(MAX_PARAMS);
        let (mut events, mut body, mut out) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = bytes;
        for size in sizes.iter().cycle() {
            let (mut piece, behind) = rest.split_at(rest.len().min(*size));
            rest = behind;
            if piece.is_empty() {
                break;
            }
            loop {
                match codec.decode(&mut piece, &mut out) {
                    Ok(None) => break,
                    Ok(Some(Event::Body { bytes, .. })) => {
                        assert!(!bytes.is_empty());
                        body.extend_from_slice(bytes);
                    }
                    Ok(Some(event)) => events.push(format!("{event:?}")),
                    Err(error) => return (events, body, Some(error)),
                }
                if let State::Headers { bytes, .. } = &codec.state {
                    assert!(bytes.capacity() <= 2 * MAX_PARAMS);
                }
            }
            assert!(piece.is_empty() && out.is_empty());
        }
        (events, body, None)
    }

    fn netstring(content: &[u8]) -> Vec<u8> {
        [content.len().to_string().as_bytes(), b":", content, b","].concat()
    }

    /// Nearly valid requests, and some random bytes.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let pool = vec![
            netstring(b"CONTENT_LENGTH\x000\0SCGI\x001\0"),
            netstring(b"CONTENT_LENGTH\x005\0SCGI\x001\0A\0\0"),
            netstring(b"SCGI\x001\0CONTENT_LENGTH\x0012\0"),
            netstring(b"CONTENT_LENGTH\0-1\0SCGI\x001\0"),
            netstring(&[b'x'; 100]),
            b"999999999:".to_vec(),
        ];
        let noise = || proptest::collection::vec(any::<u8>(), 0..20);
        let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
        (proptest::sample::select(pool), noise(), flips).prop_map(|(request, noise, flips)| {
            let mut bytes = [request, noise].concat();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            bytes in stream(),
            sizes in proptest::collection::vec(1..20usize, 1..8),
        ) {
            let whole = play(&bytes, &[bytes.len()]);
            prop_assert_eq!(&whole, &play(&bytes, &[1]));
            prop_assert_eq!(&whole, &play(&bytes, &sizes));
        }
    }

    #[test]
    fn the_largest_possible_length_is_rejected_without_reading_more() {
        let (events, body, error) = play(b"999999999:x", &[1]);
        assert!(events.len() == 1 && events[0].contains("431"), "{events:?}");
        assert!(body.is_empty() && error.is_none());
    }
}
