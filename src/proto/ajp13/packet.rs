//! Packets of AJP 1.3: reading integers and strings from a payload, and writing the packets that go to the web server.
//!
//! Knows the layout of packets, nothing of requests. Every length is checked against the packet.

use super::tables;
use crate::proto::ProtocolError;
use crate::response::ResponseHead;

/// The first two bytes of every packet from a web server.
pub(super) const FROM_SERVER: [u8; 2] = [0x12, 0x34];

/// Bytes of a packet's header: magic and length.
pub(super) const HEADER: usize = 4;

/// Bytes of a SEND_BODY_CHUNK packet besides its data: header, type, length, final NUL.
const CHUNK_FRAME: usize = HEADER + 4;

/// Bytes of a data packet from the web server besides its data: header and inner length.
pub(super) const DATA_FRAME: usize = HEADER + 2;

/// Reads a payload from front to back. `what` names the value for the error.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: payload }
    }

    pub(super) fn take(&mut self, size: usize, what: &str) -> Result<&'a [u8], ProtocolError> {
        if size > self.rest.len() {
            return Err(ProtocolError(format!(
                "ajp13: {what} takes {size} bytes, the packet has only {} left",
                self.rest.len()
            )));
        }
        let (taken, rest) = self.rest.split_at(size);
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self, what: &str) -> Result<u8, ProtocolError> {
        Ok(self.take(1, what)?[0])
    }

    pub(super) fn number(&mut self, what: &str) -> Result<u16, ProtocolError> {
        let bytes = self.take(2, what)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A string; `None` is AJP's null string.
    pub(super) fn string(&mut self, what: &str) -> Result<Option<&'a [u8]>, ProtocolError> {
        match self.number(what)? {
            0xffff => Ok(None),
            length => self.text(usize::from(length), what).map(Some),
        }
    }

    /// The rest of a string whose length has been read already.
    pub(super) fn text(&mut self, length: usize, what: &str) -> Result<&'a [u8], ProtocolError> {
        let text = self.take(length, what)?;
        match self.byte(what)? {
            0 => Ok(text),
            _ => Err(ProtocolError(format!(
                "ajp13: {what} does not end with NUL"
            ))),
        }
    }
}

/// Appends SEND_HEADERS. Returns false and appends nothing when the head does not fit into one packet.
pub(super) fn send_headers(head: &ResponseHead, max_packet: usize, out: &mut Vec<u8>) -> bool {
    let start = begin(tables::SEND_HEADERS, out);
    number(head.status, out);
    let mut fits = string(&head.reason, out);
    fits &= u16::try_from(head.fields.len()).is_ok();
    number(head.fields.len() as u16, out);
    let mut fields: Vec<_> = head.fields.iter().collect();
    if let Some(first) = first_field(&fields) {
        fields[..=first].rotate_right(1);
    }
    for (name, value) in fields {
        match tables::response_code(name) {
            Some(code) => out.extend_from_slice(&[tables::CODED, code]),
            // The length of a longer name would be taken for a code.
            None => fits &= name.len() < 0xa000 && string(name, out),
        }
        fits &= string(value, out);
        if !fits || out.len() - start > max_packet {
            out.truncate(start);
            return false;
        }
    }
    fits &= out.len() - start <= max_packet;
    match fits {
        true => finish(start, out),
        false => out.truncate(start),
    }
    fits
}

/// Appends the bytes in SEND_BODY_CHUNK packets.
pub(super) fn send_body(bytes: &[u8], max_packet: usize, out: &mut Vec<u8>) {
    for chunk in bytes.chunks(max_packet - CHUNK_FRAME) {
        let start = begin(tables::SEND_BODY_CHUNK, out);
        string(chunk, out);
        finish(start, out);
    }
}

/// Appends END_RESPONSE.
pub(super) fn end_response(reuse: bool, out: &mut Vec<u8>) {
    let start = begin(tables::END_RESPONSE, out);
    out.push(u8::from(reuse));
    finish(start, out);
}

/// Appends GET_BODY_CHUNK.
pub(super) fn get_body_chunk(size: u16, out: &mut Vec<u8>) {
    let start = begin(tables::GET_BODY_CHUNK, out);
    number(size, out);
    finish(start, out);
}

/// Appends CPONG.
pub(super) fn cpong(out: &mut Vec<u8>) {
    let start = begin(tables::CPONG, out);
    finish(start, out);
}

/// The field to send first. Some versions of lighttpd take its code, or the length of its name, for the number of fields:
/// a code is larger than any number, and a long name is better than a short one.
fn first_field(fields: &[(&[u8], &[u8])]) -> Option<usize> {
    let weight = |at: &usize| match fields[*at].0 {
        name if tables::response_code(name).is_some() => usize::MAX,
        name => name.len(),
    };
    // The first of several with the same weight.
    (0..fields.len()).rev().max_by_key(weight)
}

fn begin(kind: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[b'A', b'B', 0, 0, kind]);
    start
}

fn finish(start: usize, out: &mut [u8]) {
    let length = (out.len() - start - HEADER) as u16;
    out[start + 2..start + HEADER].copy_from_slice(&length.to_be_bytes());
}

fn number(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a string. Returns false when the protocol cannot express its length.
fn string(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    number(bytes.len() as u16, out);
    out.extend_from_slice(bytes);
    out.push(0);
    bytes.len() < 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::Pairs;

    fn head(fields: &[(&str, &str)]) -> ResponseHead {
        let mut pairs = Pairs::new();
        for (name, value) in fields {
            assert!(pairs.push(name.as_bytes(), value.as_bytes()));
        }
        ResponseHead {
            status: 200,
            reason: b"OK".to_vec(),
            fields: pairs,
        }
    }

    #[test]
    fn a_coded_field_goes_first_and_else_the_longest() {
        let first = |head: &ResponseHead| first_field(&head.fields.iter().collect::<Vec<_>>());
        assert_eq!(first(&head(&[])), None);
        assert_eq!(first(&head(&[("Vary", "a"), ("X-Long", "b")])), Some(1));
        let head = head(&[("Vary", "a"), ("Content-Type", "b"), ("Location", "/")]);
        assert_eq!(first(&head), Some(1));
        let mut out = Vec::new();
        assert!(send_headers(&head, 8192, &mut out));
        assert_eq!(
            out,
            b"AB\x00\x21\x04\x00\xc8\x00\x02OK\0\x00\x03\
              \xa0\x01\x00\x01b\0\x00\x04Vary\0\x00\x01a\0\xa0\x06\x00\x01/\0"
        );
    }

    #[test]
    fn a_head_fits_to_the_byte_or_not_at_all() {
        // Header 4, type 1, status 2, reason 5, count 2, name "A" 4, value 3 and its bytes.
        let value = "v".repeat(8192 - 21);
        let mut out = b"before".to_vec();
        assert!(send_headers(&head(&[("A", &value)]), 8192, &mut out));
        assert_eq!(out.len(), 6 + 8192);
        let value = value + "v";
        let mut out = b"before".to_vec();
        assert!(!send_headers(&head(&[("A", &value)]), 8192, &mut out));
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_string_longer_than_any_packet_does_not_fit() {
        let long = "v".repeat(0x1_0005);
        let mut out = Vec::new();
        assert!(!send_headers(&head(&[("A", &long)]), 65536, &mut out));
        assert!(!send_headers(&head(&[(&long, "")]), 65536, &mut out));
        assert_eq!(out, b"");
    }

    #[test]
    fn body_chunks_are_cut_to_the_packet() {
        let mut out = Vec::new();
        send_body(&[b'x'; 8185], 8192, &mut out);
        assert_eq!(out.len(), 8192 + 9);
        assert_eq!(&out[..7], b"AB\x1f\xfc\x03\x1f\xf8");
        assert_eq!(out[8191], 0);
        assert_eq!(&out[8192..], b"AB\x00\x05\x03\x00\x01x\0");
        out.clear();
        send_body(b"", 8192, &mut out);
        assert_eq!(out, b"");
    }

    #[test]
    fn strings_are_checked_against_the_packet() {
        let string = |bytes: &'static [u8]| Cursor::new(bytes).string("s");
        assert_eq!(string(b"\x00\x02ab\0"), Ok(Some(&b"ab"[..])));
        assert_eq!(string(b"\x00\x00\0"), Ok(Some(&b""[..])));
        assert_eq!(string(b"\xff\xff"), Ok(None));
        for torn in [&b""[..], b"\0", b"\x00\x02a", b"\x00\x02ab", b"\x00\x02abc"] {
            assert!(Cursor::new(torn).string("s").is_err(), "{torn:?}");
        }
    }
}
