//! The codecs of all protocols: how the bytes are cut changes nothing, what is buffered stays within the limits, and what is
//! sent is whole.

use super::{cut, naive, pairs};
use runfcgi::pairs::Pairs;
use runfcgi::proto::ajp13::{Ajp13, Ajp13Options};
use runfcgi::proto::cgi::Cgi;
use runfcgi::proto::fastcgi::FastCgi;
use runfcgi::proto::scgi::Scgi;
use runfcgi::proto::{Codec, Eof, Event, Part, RequestId};
use runfcgi::response::ResponseHead;
use std::collections::HashSet;

const MAX_PARAMS: usize = 2000;
/// A vector that grows takes up to twice what it holds.
const HELD: usize = 2 * MAX_PARAMS + 64;

pub(super) fn fastcgi(bytes: &[u8]) {
    // The params of several requests may be incomplete at once: four times those of one.
    for sent in any_cut(bytes, 4 * HELD, || {
        Box::new(FastCgi::new(MAX_PARAMS, 3, 100))
    }) {
        naive::records(&sent);
    }
    naive::compare(bytes);
}

pub(super) fn scgi(bytes: &[u8]) {
    any_cut(bytes, HELD, || Box::new(Scgi::new(MAX_PARAMS)));
}

pub(super) fn ajp13(bytes: &[u8]) {
    for secret in [None, Some(b"secret".to_vec())] {
        let make = || {
            let options = Ajp13Options {
                secret: secret.clone(),
                max_params: MAX_PARAMS,
                ..Ajp13Options::default()
            };
            Box::new(Ajp13::new(options)) as Box<dyn Codec>
        };
        for sent in any_cut(bytes, HELD, make) {
            packets(&sent);
        }
    }
}

/// Two bytes of length, an environment of so many, and a body.
pub(super) fn cgi(bytes: &[u8]) {
    let (length, rest) = bytes.split_at(bytes.len().min(2));
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (environ, body) = rest.split_at(rest.len().min(length));
    let environ = pairs(environ);
    any_cut(body, 0, || Box::new(Cgi::new(environ.clone())));
}

/// When a request is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    Never,
    AtOnce,
    AtTheEnd,
}

/// What a codec made of its bytes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) events: Vec<Told>,
    pub(super) sent: Vec<u8>,
    pub(super) error: Option<String>,
}

/// An event that can be kept. How a body was cut is nobody's business: its pieces are joined.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Begin(u16, Pairs),
    Reject(u16, u16, String),
    Body(u16, Vec<u8>),
    BodyEnd(u16),
    Abort(u16),
}

/// Plays the bytes whole, one by one and in pieces, and answers never, early and late. Returns what was sent.
fn any_cut(bytes: &[u8], held: usize, make: impl Fn() -> Box<dyn Codec>) -> Vec<Vec<u8>> {
    let each = [Answer::Never, Answer::AtOnce, Answer::AtTheEnd].map(|answer| {
        let whole = connection(&mut *make(), std::iter::once(bytes), answer, held);
        let single = connection(&mut *make(), bytes.chunks(1), answer, held);
        assert_eq!(whole, single, "byte by byte, answered {answer:?}");
        let pieces = connection(&mut *make(), cut(bytes), answer, held);
        assert_eq!(whole, pieces, "in pieces, answered {answer:?}");
        whole.sent
    });
    each.into()
}

/// Decodes these pieces, answers, and ends the input.
fn connection<'a>(
    codec: &mut dyn Codec,
    pieces: impl Iterator<Item = &'a [u8]>,
    answer: Answer,
    held: usize,
) -> Seen {
    let mut seen = play(codec, pieces, answer, held);
    if seen.error.is_none() {
        let idle = codec.is_idle();
        let end = codec.eof();
        assert!(!idle || end == Eof::Clean, "idle, but {end:?}");
        let open = match end {
            Eof::Clean => Vec::new(),
            Eof::HalfClosed => vec![RequestId(1)],
            Eof::Abort(ids) => ids,
        };
        for id in open {
            respond(codec, id, &mut seen.sent);
        }
    }
    seen
}

/// Decodes these pieces, and answers.
pub(super) fn play<'a>(
    codec: &mut dyn Codec,
    pieces: impl Iterator<Item = &'a [u8]>,
    answer: Answer,
    held: usize,
) -> Seen {
    let mut seen = Seen::default();
    let mut answered = HashSet::new();
    // CGI begins without any bytes.
    for piece in std::iter::once(&[][..]).chain(pieces) {
        let mut input = piece;
        loop {
            let decoded = codec.decode(&mut input, &mut seen.sent);
            assert!(codec.held() <= held, "{} bytes are held", codec.held());
            match decoded {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let (id, begins) = (
                        id(&event),
                        matches!(event, Event::Begin { .. } | Event::Reject { .. }),
                    );
                    assert!(
                        begins || !answered.contains(&id),
                        "{event:?} after the answer"
                    );
                    answered.remove(&id);
                    if keep(event, answer, &mut seen.events) {
                        respond(codec, id, &mut seen.sent);
                        answered.insert(id);
                    }
                }
                Err(error) => {
                    seen.error = Some(error.to_string());
                    return seen;
                }
            }
        }
        assert!(input.is_empty(), "no event, but input was left");
    }
    seen
}

/// The request that an event is of.
fn id(event: &Event<'_>) -> RequestId {
    match event {
        Event::Begin { id, .. }
        | Event::Reject { id, .. }
        | Event::Body { id, .. }
        | Event::BodyEnd { id }
        | Event::Abort { id } => *id,
    }
}

/// Keeps an event. Returns whether its request is to be answered now.
fn keep(event: Event<'_>, answer: Answer, events: &mut Vec<Told>) -> bool {
    let (told, due) = match event {
        Event::Body { id, bytes } => {
            assert!(!bytes.is_empty(), "an empty body event");
            match events.last_mut() {
                Some(Told::Body(its, body)) if *its == id.0 => body.extend(bytes),
                _ => events.push(Told::Body(id.0, bytes.to_vec())),
            }
            return false;
        }
        Event::Begin { id, environ } => (Told::Begin(id.0, environ), answer == Answer::AtOnce),
        Event::Reject { id, status, reason } => (Told::Reject(id.0, status, reason), true),
        Event::BodyEnd { id } => (Told::BodyEnd(id.0), answer == Answer::AtTheEnd),
        Event::Abort { id } => (Told::Abort(id.0), true),
    };
    events.push(told);
    due && answer != Answer::Never
}

fn respond(codec: &mut dyn Codec, id: RequestId, out: &mut Vec<u8>) {
    let mut fields = Pairs::new();
    fields.push(b"Content-Type", b"text/plain");
    let head = ResponseHead {
        status: 200,
        reason: b"OK".to_vec(),
        fields,
    };
    codec.encode(id, Part::Head(&head), out);
    codec.encode(id, Part::Errors(b"a line\n"), out);
    codec.encode(id, Part::Body(b"hello"), out);
    codec.encode(id, Part::End, out);
}

/// What is sent to an AJP server are whole packets that it accepts.
pub(super) fn packets(mut sent: &[u8]) {
    while !sent.is_empty() {
        let [b'A', b'B', high, low, rest @ ..] = sent else {
            panic!("no packet: {}", sent.escape_ascii())
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(
            (1..=8188).contains(&length) && length <= rest.len(),
            "{length}"
        );
        assert!((3..=9).contains(&rest[0]), "type {}", rest[0]);
        sent = &rest[length..];
    }
}
