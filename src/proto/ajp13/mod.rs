//! AJP 1.3 as a codec: one request after another on connections that the web server keeps open.
//!
//! Follows the protocol reference of the Tomcat connectors ("AJPv13") and, where that leaves things open (above all the
//! request's body), what mod_proxy_ajp, mod_jk and lighttpd do. Knows no I/O.

mod forward;
mod packet;
mod tables;

use crate::pairs::Pairs;
use crate::proto::{Codec, Eof, Event, Part, ProtocolError, RequestId};
use crate::response::ResponseHead;
use forward::{Forward, Length};

/// The limits and the secret of a connection.
#[derive(Clone)]
pub struct Ajp13Options {
    /// The secret that each request must carry, if any.
    pub secret: Option<Vec<u8>>,
    /// The largest packet that the web server accepts, 8192 to 65536 bytes.
    pub max_packet: usize,
    /// The largest request packet that we accept, in bytes; a larger one is answered with 431.
    pub max_params: usize,
}

impl Default for Ajp13Options {
    fn default() -> Ajp13Options {
        Ajp13Options {
            secret: None,
            max_packet: 8192,
            max_params: 1 << 16,
        }
    }
}

/// One AJP connection.
pub struct Ajp13 {
    options: Ajp13Options,
    phase: Phase,
    reading: Reading,
    response: Response,
    framing: Framing,
    /// `BodyEnd` is the next event.
    end_due: bool,
    /// At least one response is complete.
    served: bool,
}

/// ```text
///        request without a body
/// Idle ──────────────────────────────▶ Ready ──response sent──▶ Idle
///  │                                     ▲
///  └── request with a body ──▶ Body ──complete
///                               └──response sent──▶ Stray ──the pending packet──▶ Idle
/// request refused, or framing lost ──▶ Closing
/// ```
/// In `Body` and `Stray` exactly one data packet is pending: the web server sends it without being asked again.
#[derive(Clone, Copy)]
enum Phase {
    Idle,
    /// Bytes of the body still to come, if known.
    Body(Option<u64>),
    Ready,
    Stray,
    /// All further input is discarded.
    Closing,
}

/// The position of the input within a packet.
enum Reading {
    Header {
        bytes: [u8; packet::HEADER],
        have: usize,
    },
    /// At the type byte of a packet that is not a data packet.
    Type(usize),
    /// In a FORWARD_REQUEST.
    Forward {
        length: usize,
        bytes: Vec<u8>,
    },
    /// At the start of a data packet, where an inner length may be.
    Inner {
        length: usize,
        first: Option<u8>,
    },
    /// In the data of a data packet.
    Data(usize),
    Skip(usize),
}

/// Whether data packets start with an inner length: lighttpd omits it.
#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Unknown,
    Inner,
    Bare,
}

#[derive(PartialEq)]
enum Response {
    /// No request is in progress.
    None,
    Pending,
    /// The head has been sent.
    Started,
    /// The head was too large, so we sent an error page instead and discard the rest.
    Replaced,
}

const ID: RequestId = RequestId(1);

const AT_HEADER: Reading = Reading::Header {
    bytes: [0; packet::HEADER],
    have: 0,
};

/// Every byte, to borrow from for a body event whose own buffer is gone.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

impl Ajp13 {
    /// A new connection.
    pub fn new(mut options: Ajp13Options) -> Ajp13 {
        options.max_packet = options.max_packet.clamp(8192, 65536);
        Ajp13 {
            options,
            phase: Phase::Idle,
            reading: AT_HEADER,
            response: Response::None,
            framing: Framing::Unknown,
            end_due: false,
            served: false,
        }
    }

    /// Acts on a complete packet header.
    fn header(&mut self, bytes: [u8; packet::HEADER]) -> Result<(), ProtocolError> {
        if bytes[..2] != packet::FROM_SERVER && !matches!(self.phase, Phase::Closing) {
            return Err(ProtocolError(format!(
                "ajp13: a packet starts with 0x{:02x}{:02x}, not 0x1234; does the web server \
                 speak ajp13 here?",
                bytes[0], bytes[1]
            )));
        }
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        self.reading = match self.phase {
            Phase::Closing => Reading::Skip(length),
            // lighttpd sends an empty packet after each request without a body.
            Phase::Idle | Phase::Ready if length == 0 => AT_HEADER,
            Phase::Idle | Phase::Ready => Reading::Type(length),
            Phase::Body(_) | Phase::Stray if length == 0 => {
                self.body_ends();
                AT_HEADER
            }
            Phase::Body(_) | Phase::Stray => match self.framing {
                Framing::Bare => Reading::Data(length),
                _ => Reading::Inner {
                    length,
                    first: None,
                },
            },
        };
        Ok(())
    }

    /// Acts on the type of a packet that is not a data packet.
    fn kind(
        &mut self,
        kind: u8,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, ProtocolError> {
        self.reading = Reading::Skip(length);
        match (kind, self.phase) {
            (tables::FORWARD_REQUEST, Phase::Idle) if length > self.options.max_params => {
                let max = self.options.max_params;
                let reason = format!("ajp13: a request of {length} bytes; max_params is {max}");
                Ok(Some(self.reject(431, reason)))
            }
            (tables::FORWARD_REQUEST, Phase::Idle) => {
                let bytes = Vec::new();
                self.reading = Reading::Forward { length, bytes };
                Ok(None)
            }
            (tables::FORWARD_REQUEST, _) => Err(ProtocolError(String::from(
                "ajp13: a new request before the last response is complete",
            ))),
            (tables::CPING, _) => {
                packet::cpong(out);
                Ok(None)
            }
            (tables::SHUTDOWN | tables::PING, _) => Ok(None),
            // The end of a body that was already complete.
            (0, _) if length == 2 => Ok(None),
            (kind, _) => Err(ProtocolError(format!(
                "ajp13: a packet of unknown type {kind}"
            ))),
        }
    }

    fn forward(
        &mut self,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, ProtocolError> {
        self.reading = AT_HEADER;
        let request = match forward::parse(payload, self.options.secret.as_deref())? {
            Forward::Refused { status, reason } => return Ok(self.reject(status, reason)),
            Forward::Request(request) => request,
        };
        if request.names_attributes {
            self.framing = Framing::Inner;
        }
        self.response = Response::Pending;
        match request.body {
            Length::Known(0) => {
                self.phase = Phase::Ready;
                self.end_due = true;
            }
            Length::Known(length) => self.phase = Phase::Body(Some(length)),
            Length::Chunked => {
                self.phase = Phase::Body(None);
                self.ask(out);
            }
        }
        let environ = request.environ;
        Ok(Event::Begin { id: ID, environ })
    }

    fn reject(&mut self, status: u16, reason: String) -> Event<'static> {
        self.phase = Phase::Closing;
        self.response = Response::Pending;
        Event::Reject {
            id: ID,
            status,
            reason,
        }
    }

    /// Finds out whether a data packet starts with an inner length.
    fn inner<'a>(
        &mut self,
        length: usize,
        first: Option<u8>,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let (high, low) = match (first, *input) {
            (None, [only]) if length > 1 => {
                let first = Some(*only);
                *input = &[];
                self.reading = Reading::Inner { length, first };
                return Ok(None);
            }
            (None, [high, low, ..]) if length > 1 => (*high, *low),
            (Some(high), [low, ..]) => (high, *low),
            _ => (0, 0),
        };
        let inner = usize::from(u16::from_be_bytes([high, low]));
        // If just two bytes are missing and the framing is unknown, two NULs are data: no server would end the body early
        // there.
        let all_due = matches!(self.phase, Phase::Body(Some(2)));
        let two_nuls = inner == 0 && all_due && self.framing == Framing::Unknown;
        if length > 1 && inner == length - 2 && !two_nuls {
            *input = &input[if first.is_some() { 1 } else { 2 }..];
            self.framing = Framing::Inner;
            self.reading = match inner {
                0 => {
                    self.body_ends();
                    AT_HEADER
                }
                inner => Reading::Data(inner),
            };
            return Ok(None);
        }
        if self.framing == Framing::Inner {
            return Err(ProtocolError(format!(
                "ajp13: a data packet of {length} bytes with an inner length of {inner}"
            )));
        }
        self.framing = Framing::Bare;
        self.reading = Reading::Data(length);
        match first {
            None => Ok(None),
            Some(byte) => {
                let at = usize::from(byte);
                Ok(self.data(&BYTES[at..=at], length, out))
            }
        }
    }

    /// Handles bytes of a data packet, of which `left` bytes remain including these.
    fn data<'a>(&mut self, bytes: &'a [u8], left: usize, out: &mut Vec<u8>) -> Option<Event<'a>> {
        let packet_ends = bytes.len() == left;
        self.reading = match packet_ends {
            true => AT_HEADER,
            false => Reading::Data(left - bytes.len()),
        };
        let Phase::Body(due) = self.phase else {
            // The pending packet is complete.
            if packet_ends && matches!(self.phase, Phase::Stray) {
                self.phase = Phase::Idle;
            }
            return None;
        };
        let size = due.map_or(bytes.len(), |due| {
            bytes.len().min(usize::try_from(due).unwrap_or(usize::MAX))
        });
        let due = due.map(|due| due - size as u64);
        self.phase = Phase::Body(due);
        if due == Some(0) {
            self.reading = match left - bytes.len() {
                0 => AT_HEADER,
                rest => Reading::Skip(rest),
            };
            self.body_ends();
        } else if packet_ends {
            self.ask(out);
        }
        let bytes = &bytes[..size];
        Some(Event::Body { id: ID, bytes })
    }

    fn body_ends(&mut self) {
        match self.phase {
            Phase::Body(_) => {
                self.phase = Phase::Ready;
                self.end_due = true;
            }
            Phase::Stray => self.phase = Phase::Idle,
            Phase::Idle | Phase::Ready | Phase::Closing => {}
        }
    }

    /// Asks for the next data packet, but never for more than is due: lighttpd would not reply to that.
    fn ask(&self, out: &mut Vec<u8>) {
        let Phase::Body(due) = self.phase else {
            return;
        };
        let most = (self.options.max_packet - packet::DATA_FRAME) as u16;
        let size = due.map_or(most, |due| u16::try_from(due).unwrap_or(most).min(most));
        packet::get_body_chunk(size, out);
    }

    fn head(&mut self, head: &ResponseHead, out: &mut Vec<u8>) {
        let max = self.options.max_packet;
        if packet::send_headers(head, max, out) {
            self.response = Response::Started;
            return;
        }
        let page = format!(
            "The status line and header fields of this response do not fit one AJP packet of {max} \
             bytes.\nUse fewer or smaller cookies, or larger packets here and in the web server.\n"
        );
        let mut fields = Pairs::new();
        fields.push(b"Content-Type", b"text/plain; charset=utf-8");
        fields.push(b"Content-Length", page.len().to_string().as_bytes());
        let head = ResponseHead {
            status: 500,
            reason: b"Internal Server Error".to_vec(),
            fields,
        };
        packet::send_headers(&head, max, out);
        packet::send_body(page.as_bytes(), max, out);
        self.response = Response::Replaced;
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.phase = match self.phase {
            Phase::Ready => Phase::Idle,
            Phase::Body(_) if self.framing == Framing::Inner => Phase::Stray,
            // We cannot tell how many packets are still on their way, and data must never be taken for a request.
            Phase::Body(_) => Phase::Closing,
            other => other,
        };
        self.end_due = false;
        self.response = Response::None;
        self.served = true;
        packet::end_response(!matches!(self.phase, Phase::Closing), out);
    }
}

impl Codec for Ajp13 {
    fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        loop {
            if std::mem::take(&mut self.end_due) {
                return Ok(Some(Event::BodyEnd { id: ID }));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let event = match &mut self.reading {
                Reading::Header { bytes, have } => {
                    bytes[*have] = input[0];
                    *have += 1;
                    *input = &input[1..];
                    if *have == packet::HEADER {
                        let bytes = *bytes;
                        self.header(bytes)?;
                    }
                    None
                }
                Reading::Type(length) => {
                    let length = *length;
                    self.kind(input[0], length, out)?
                }
                Reading::Forward { length, bytes } => {
                    let (piece, rest) = input.split_at(input.len().min(*length - bytes.len()));
                    *input = rest;
                    bytes.extend_from_slice(piece);
                    if bytes.len() < *length {
                        return Ok(None);
                    }
                    let payload = std::mem::take(bytes);
                    Some(self.forward(&payload, out)?)
                }
                Reading::Inner { length, first } => {
                    let (length, first) = (*length, *first);
                    self.inner(length, first, input, out)?
                }
                Reading::Data(left) => {
                    let left = *left;
                    let (bytes, rest) = input.split_at(left.min(input.len()));
                    *input = rest;
                    self.data(bytes, left, out)
                }
                Reading::Skip(left) => {
                    let size = (*left).min(input.len());
                    *input = &input[size..];
                    *left -= size;
                    if *left == 0 {
                        self.reading = AT_HEADER;
                    }
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn encode(&mut self, id: RequestId, part: Part<'_>, out: &mut Vec<u8>) {
        if id != ID || self.response == Response::None {
            return;
        }
        match part {
            Part::Head(head) if self.response == Response::Pending => self.head(head, out),
            Part::Body(bytes) if self.response == Response::Started => {
                packet::send_body(bytes, self.options.max_packet, out);
            }
            Part::Head(_) | Part::Body(_) | Part::Errors(_) => {}
            Part::End => self.end(out),
        }
    }

    fn eof(&mut self) -> Eof {
        self.phase = Phase::Closing;
        self.reading = AT_HEADER;
        self.end_due = false;
        match std::mem::replace(&mut self.response, Response::None) {
            Response::None => Eof::Clean,
            _ => Eof::Abort(vec![ID]),
        }
    }

    fn keep_alive(&self) -> bool {
        self.served && !matches!(self.phase, Phase::Closing)
    }

    fn held(&self) -> usize {
        match &self.reading {
            Reading::Forward { bytes, .. } => bytes.capacity(),
            _ => 0,
        }
    }

    fn is_idle(&self) -> bool {
        let between = matches!(self.reading, Reading::Header { have: 0, .. });
        match self.phase {
            Phase::Idle => between,
            Phase::Closing => self.response == Response::None,
            Phase::Body(_) | Phase::Ready | Phase::Stray => false,
        }
    }
}

#[cfg(test)]
mod tests;
