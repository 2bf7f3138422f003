//! The web server at the other end of a connection: what it sends, what it takes, and how that is shown.

use crate::notation::parse_bytes;
use nix::errno::Errno;
use runfcgi::config::Protocol;
use runfcgi::outbox::Outbox;
use runfcgi::pairs::Pairs;
use runfcgi::traffic::{ConnNo, Interest};

pub(crate) struct Peer {
    pub(crate) protocol: Option<Protocol>,
    /// Bytes that it takes; None: all.
    pub(crate) takes: Option<usize>,
    /// What it has taken and not shown.
    pub(crate) taken: Vec<u8>,
    pub(crate) interest: Interest,
}

impl Peer {
    /// Takes what it takes.
    pub(crate) fn take(&mut self, outbox: &mut Outbox) -> usize {
        let taken = outbox.flush_by(|bytes| {
            let takes = self.takes.unwrap_or(usize::MAX).min(bytes.len());
            if takes == 0 {
                return Err(Errno::EAGAIN);
            }
            self.takes = self.takes.map(|left| left - takes);
            self.taken.extend_from_slice(&bytes[..takes]);
            Ok(takes)
        });
        taken.expect("a peer that is there")
    }

    /// What it has taken.
    pub(crate) fn show(&mut self, number: ConnNo) -> Vec<String> {
        let conn = number.0;
        if self.protocol != Some(Protocol::Fcgi) {
            let text = std::mem::take(&mut self.taken);
            return match text.is_empty() {
                true => Vec::new(),
                false => vec![format!("{conn} gets {}", shown_answer(&text))],
            };
        }
        let mut found: Vec<(u16, u8, Vec<u8>)> = Vec::new();
        while let [_, kind, id1, id0, length1, length0, padding, _, rest @ ..] = &self.taken[..] {
            let length = usize::from(u16::from_be_bytes([*length1, *length0]));
            let whole = length + usize::from(*padding);
            if rest.len() < whole {
                break;
            }
            let (kind, id) = (*kind, u16::from_be_bytes([*id1, *id0]));
            match found.last_mut() {
                Some((i, k, content)) if (*i, *k) == (id, kind) && kind != 3 => {
                    content.extend_from_slice(&rest[..length]);
                }
                // The end of STDOUT is told by that of the request.
                _ if kind == 6 && length == 0 => (),
                _ => found.push((id, kind, rest[..length].to_vec())),
            }
            self.taken.drain(..8 + whole);
        }
        let shown = found.into_iter().map(|(id, kind, content)| match kind {
            3 if content[4] == 2 => format!("{conn}.{id} ends: overloaded"),
            3 => format!("{conn}.{id} ends"),
            6 => format!("{conn}.{id} gets {}", shown_answer(&content)),
            7 => format!("{conn}.{id} stderr {}", shown_bytes(&content)),
            kind => format!("{conn}.{id} type {kind} {}", shown_bytes(&content)),
        });
        shown.collect()
    }
}

/// `POST /a NAME=value 5 BYTES`.
pub(crate) fn request(words: &str) -> (Pairs, Vec<u8>) {
    let mut environ = Pairs::new();
    let (method, mut rest) = words.split_once(' ').expect("method and path");
    let mut names = vec!["REQUEST_URI"];
    environ.push(b"REQUEST_METHOD", method.as_bytes());
    while !rest.is_empty() && !rest.starts_with(['"', '[']) {
        let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = more;
        let (name, value) = match (word.split_once('='), names.pop()) {
            (_, Some(name)) => (name, word),
            (Some((name, value)), None) => (name, value),
            (None, None) => ("CONTENT_LENGTH", word),
        };
        environ.push(name.as_bytes(), value.as_bytes());
    }
    (environ, parse_bytes(rest).expect("bytes"))
}

pub(crate) fn scgi(environ: &Pairs, body: &[u8]) -> Vec<u8> {
    let mut whole = Pairs::new();
    if environ.get(b"CONTENT_LENGTH").is_none() {
        whole.push(b"CONTENT_LENGTH", b"0");
    }
    whole.push(b"SCGI", b"1");
    for index in 0..environ.len() {
        whole.push_from(environ, index);
    }
    let headers = whole.as_bytes();
    let length = format!("{}:", headers.len());
    [length.as_bytes(), headers, b",", body].concat()
}

pub(crate) fn fastcgi(id: u16, kept: bool, environ: &Pairs, body: &[u8]) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in environ.iter() {
        params.extend([name.len() as u8, value.len() as u8]);
        params.extend([name, value].concat());
    }
    let mut out = record(id, 1, &[0, 1, u8::from(kept), 0, 0, 0, 0, 0]);
    out.extend(record(id, 4, &params));
    out.extend(record(id, 4, b""));
    let has_body = environ.get(b"CONTENT_LENGTH").is_some();
    if !has_body || !body.is_empty() {
        out.extend(record(id, 5, body));
    }
    out
}

pub(crate) fn record(id: u16, kind: u8, content: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = match content {
        [] => vec![content],
        content => content.chunks(0xffff).collect(),
    };
    let mut out = Vec::new();
    for piece in pieces {
        out.extend([1, kind]);
        out.extend(id.to_be_bytes());
        out.extend((piece.len() as u16).to_be_bytes());
        out.extend([0, 0]);
        out.extend(piece);
    }
    out
}

/// A response, or a piece of one.
pub(crate) fn shown_answer(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let Some(at) = text.find("<!DOCTYPE html>") else {
        return shown_bytes(bytes);
    };
    let between = |from: &str, to: &str| text.split(from).nth(1)?.split(to).next();
    let status = text[..at].lines().next().unwrap_or_default();
    let status = status.trim_start_matches("Status: ");
    let incident = between("<b>incident ", "</b>");
    let incident = incident.map_or(String::new(), |id| format!(" with incident {id}"));
    let what = between("<p class=\"what\">", "</p>").map(str::to_owned);
    let more = between("<pre>", "</pre>").map(|text| format!("\n{text}"));
    let detail = what.map(|what| shown_bytes((what + &more.unwrap_or_default()).as_bytes()));
    let detail = detail.map_or(String::new(), |text| format!(", showing {text}"));
    format!("a page {status}{incident}{detail}")
}

pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    match bytes.len() {
        0..200 => format!("\"{}\"", bytes.escape_ascii()),
        length => format!("{length} bytes"),
    }
}
