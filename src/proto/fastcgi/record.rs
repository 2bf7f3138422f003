//! FastCGI records (FastCGI 1.0 sections 3.3, 4.2, 5.1, 5.3, 5.5): reading headers, and writing the records that an
//! application sends. Knows no request state.

use std::ops::Range;

pub(super) const VERSION_1: u8 = 1;
pub(super) const HEADER_LEN: usize = 8;

pub(super) const BEGIN_REQUEST: u8 = 1;
pub(super) const ABORT_REQUEST: u8 = 2;
pub(super) const END_REQUEST: u8 = 3;
pub(super) const PARAMS: u8 = 4;
pub(super) const STDIN: u8 = 5;
pub(super) const STDOUT: u8 = 6;
pub(super) const STDERR: u8 = 7;
pub(super) const GET_VALUES: u8 = 9;
pub(super) const GET_VALUES_RESULT: u8 = 10;
pub(super) const UNKNOWN_TYPE: u8 = 11;

/// Bytes of content in a BEGIN_REQUEST, END_REQUEST or UNKNOWN_TYPE record.
pub(super) const BODY_LEN: usize = 8;

pub(super) const KEEP_CONN: u8 = 1;

/// The longest content that we write: a multiple of eight, so that full records need no padding.
const MAX_CONTENT: usize = 65528;

/// The longest content of a STDERR record: mod_fcgid cuts at 8000 bytes, HAProxy 2.6 dies above 16384.
const MAX_ERRORS: usize = 4096;

/// The longest line, with its newline, in a STDERR record: mod_fastcgi cuts at 1023 bytes.
const MAX_ERROR_LINE: usize = 1000;

/// The protocolStatus of an END_REQUEST record.
#[derive(Clone, Copy)]
pub(super) enum ProtocolStatus {
    RequestComplete = 0,
    Overloaded = 2,
    UnknownRole = 3,
}

/// A record that is being read; the lengths are what is still to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) record_type: u8,
    pub(super) id: u16,
    pub(super) content: usize,
    pub(super) padding: usize,
}

impl Record {
    /// Reads a header. The caller has checked the version.
    pub(super) fn from_header(header: [u8; HEADER_LEN]) -> Record {
        let [_, record_type, id1, id0, length1, length0, padding, _] = header;
        Record {
            record_type,
            id: u16::from_be_bytes([id1, id0]),
            content: usize::from(u16::from_be_bytes([length1, length0])),
            padding: usize::from(padding),
        }
    }
}

/// Appends `bytes` of a stream in as few records as possible: none if there are no bytes.
pub(super) fn append_stream(out: &mut Vec<u8>, record_type: u8, id: u16, bytes: &[u8]) {
    for content in bytes.chunks(MAX_CONTENT) {
        out.reserve(HEADER_LEN + content.len() + 7);
        append_record(out, record_type, id, |out| out.extend_from_slice(content));
    }
}

/// Appends the stream that `write` produces. It is moved only if it does not fit into one record.
pub(super) fn append_written(
    out: &mut Vec<u8>,
    record_type: u8,
    id: u16,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    write(out);
    if out.len() - start - HEADER_LEN <= MAX_CONTENT {
        finish_record(out, start, record_type, id);
    } else {
        let bytes = out.split_off(start + HEADER_LEN);
        out.truncate(start);
        append_stream(out, record_type, id, &bytes);
    }
}

/// Appends the empty record that ends a stream.
pub(super) fn append_stream_end(out: &mut Vec<u8>, record_type: u8, id: u16) {
    append_record(out, record_type, id, |_| ());
}

/// Appends text for the web server's error log: whole lines in small STDERR records, with long lines broken.
pub(super) fn append_errors(out: &mut Vec<u8>, id: u16, text: &[u8]) {
    let mut lines = ErrorLines { text }.peekable();
    while lines.peek().is_some() {
        append_record(out, STDERR, id, |out| {
            let mut room = MAX_ERRORS;
            while let Some(line) = lines.next_if(|line| line.len() < room) {
                out.extend_from_slice(line);
                out.push(b'\n');
                room -= line.len() + 1;
            }
        });
    }
}

/// Appends an END_REQUEST record. appStatus is always 0, as OpenLiteSpeed turns any other into a 500.
pub(super) fn append_end_request(out: &mut Vec<u8>, id: u16, status: ProtocolStatus) {
    append_record(out, END_REQUEST, id, |out| {
        out.extend_from_slice(&[0, 0, 0, 0, status as u8, 0, 0, 0]);
    });
}

/// Appends an UNKNOWN_TYPE record, the reply to a management record of an unknown type.
pub(super) fn append_unknown_type(out: &mut Vec<u8>, record_type: u8) {
    append_record(out, UNKNOWN_TYPE, 0, |out| {
        out.extend_from_slice(&[record_type, 0, 0, 0, 0, 0, 0, 0]);
    });
}

/// Appends a record with the content that `write` produces, which must not exceed MAX_CONTENT bytes.
pub(super) fn append_record(
    out: &mut Vec<u8>,
    record_type: u8,
    id: u16,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    write(out);
    finish_record(out, start, record_type, id);
}

fn finish_record(out: &mut Vec<u8>, start: usize, record_type: u8, id: u16) {
    let content = out.len() - start - HEADER_LEN;
    let padding = content.wrapping_neg() % 8;
    out.extend_from_slice(&[0; 7][..padding]);
    let [id1, id0] = id.to_be_bytes();
    let [.., length1, length0] = content.to_be_bytes();
    let header: Range<usize> = start..start + HEADER_LEN;
    out[header].copy_from_slice(&[
        VERSION_1,
        record_type,
        id1,
        id0,
        length1,
        length0,
        padding as u8,
        0,
    ]);
}

/// The lines of a text without their newlines, broken after at most MAX_ERROR_LINE - 1 bytes.
struct ErrorLines<'a> {
    text: &'a [u8],
}

impl<'a> Iterator for ErrorLines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.text.is_empty() {
            return None;
        }
        let reach = &self.text[..self.text.len().min(MAX_ERROR_LINE)];
        let (length, skip) = match reach.iter().position(|&b| b == b'\n') {
            Some(newline) => (newline, newline + 1),
            None if reach.len() < MAX_ERROR_LINE => (reach.len(), reach.len()),
            None => {
                let length = character_start(reach, MAX_ERROR_LINE - 1);
                (length, length)
            }
        };
        let line = &self.text[..length];
        self.text = &self.text[skip..];
        Some(line)
    }
}

/// The last index up to `at` that is not inside a UTF-8 character.
fn character_start(text: &[u8], at: usize) -> usize {
    (at - 3..=at)
        .rev()
        .find(|&i| text[i] & 0xC0 != 0x80)
        .unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<&[u8]> {
        ErrorLines { text }.collect()
    }

    #[test]
    fn only_long_lines_are_broken() {
        assert_eq!(lines(b"a\n\nb\n"), [&b"a"[..], b"", b"b"]);
        assert_eq!(lines(b"no newline"), [b"no newline"]);
        let fits = [&[b'x'; 999][..], b"\n"].concat();
        assert_eq!(lines(&fits), [&fits[..999]]);
        let long = [b'x'; 2001];
        assert_eq!(
            lines(&long).iter().map(|l| l.len()).collect::<Vec<_>>(),
            [999, 999, 3]
        );
    }

    #[test]
    fn lines_are_broken_between_characters() {
        let text = "\u{20ac}".repeat(400);
        for line in lines(text.as_bytes()) {
            assert!(std::str::from_utf8(line).is_ok());
        }
        assert_eq!(lines(&[0x80; 1200]).len(), 2);
    }

    #[test]
    fn error_records_are_small_and_contain_whole_lines() {
        let text = [&[b'y'; 800][..], b"\n"].concat().repeat(11);
        let mut out = Vec::new();
        append_errors(&mut out, 7, &text);
        let mut rest = &out[..];
        let mut joined = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk() {
            let record = Record::from_header(*header);
            assert!((1..=MAX_ERRORS).contains(&record.content));
            let content = &after[..record.content];
            assert_eq!(content.last(), Some(&b'\n'));
            joined.extend_from_slice(content);
            rest = &after[record.content + record.padding..];
        }
        assert_eq!(joined, text);
    }
}
