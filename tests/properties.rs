//! Properties of the codecs under bytes that nobody wrote by hand: what is encoded is what is decoded, cuts change
//! nothing, and noise neither panics nor fills the memory.
//!
//! Every run draws a new seed and prints it; `RUNFCGI_SEED=<number>` repeats a run, `RUNFCGI_CASES=<number>` makes
//! it longer. A failing case is printed in its smallest form.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::hash::{BuildHasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use runfcgi::pairs::Pairs;
use runfcgi::proto::cgi::Cgi;
use runfcgi::proto::fastcgi::FastCgi;
use runfcgi::proto::{Codec, Event, Part, ProtocolError, RequestId};
use runfcgi::response::ResponseHead;

const MAX_PARAMS: usize = 2000;
const MAX_REQUESTS: usize = 3;

/// Runs a property with a fresh or a given seed.
fn check<S: Strategy>(
    name: &'static str,
    strategy: S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let seed = number("RUNFCGI_SEED").unwrap_or_else(|| RandomState::new().hash_one(name));
    println!("{name}: RUNFCGI_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: number("RUNFCGI_CASES").map_or(300, |n| n as u32),
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    if let Err(error) = TestRunner::new_with_rng(config, rng).run(&strategy, property) {
        panic!("{name} with RUNFCGI_SEED={seed}: {error}");
    }
}

fn fastcgi() -> FastCgi {
    FastCgi::new(MAX_PARAMS, MAX_REQUESTS, 100)
}

/// What a codec made of its bytes. Bodies are joined, for how they are cut is nobody's business; each is kept with its
/// request and the number of events before it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    events: Vec<String>,
    bodies: Vec<(u16, usize, Vec<u8>)>,
    sent: Vec<u8>,
    error: Option<ProtocolError>,
}

impl Seen {
    fn feed(&mut self, codec: &mut dyn Codec, pieces: &[&[u8]]) {
        for mut piece in pieces.iter().copied() {
            while self.error.is_none() {
                match codec.decode(&mut piece, &mut self.sent) {
                    Ok(Some(Event::Body { id, bytes })) => {
                        assert!(!bytes.is_empty());
                        let at = (id.0, self.events.len());
                        match self.bodies.last_mut() {
                            Some((id, before, body)) if (*id, *before) == at => body.extend(bytes),
                            _ => self.bodies.push((at.0, at.1, bytes.to_vec())),
                        }
                    }
                    Ok(Some(event)) => self.events.push(format!("{event:?}")),
                    Ok(None) => {
                        assert!(piece.is_empty(), "no event, but input was left");
                        break;
                    }
                    Err(error) => self.error = Some(error),
                }
            }
        }
    }
}

/// Cuts `bytes` where `cuts` say.
fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.push(0);
    at.push(bytes.len());
    at.sort_unstable();
    at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}

fn record(record_type: u8, id: u16, padding: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, record_type];
    bytes.extend(id.to_be_bytes());
    bytes.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
    bytes.extend([padding, 0]);
    bytes.extend(content);
    bytes.resize(bytes.len() + usize::from(padding), 0xEE);
    bytes
}

/// A length in one byte, or in four where it must be or `long` asks for it.
fn length(bytes: &mut Vec<u8>, length: usize, long: bool) {
    if long || length > 127 {
        bytes.extend((length as u32 | 1 << 31).to_be_bytes());
    } else {
        bytes.push(length as u8);
    }
}

/// A byte string without NUL.
fn text(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255u8, 0..longest)
}

/// Records that make sense one by one, in an order that mostly does not.
fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        2 => Just(Vec::new()),
        2 => Just(b"\x01\x01A1\x03\x00ABC".to_vec()),
        1 => vec(any::<u8>(), 0..4000),
    ];
    prop_oneof![
        3 => (0..5u16, 0..4u8, any::<u8>()).prop_map(|(id, role, flags)| {
            record(1, id, 0, &[0, role, flags, 0, 0, 0, 0, 0])
        }),
        8 => (0..13u8, 0..5u16, 0..9u8, content)
            .prop_map(|(kind, id, padding, content)| record(kind.max(2), id, padding, &content)),
        3 => (1..5u16).prop_map(|id| [record(4, id, 0, b""), record(5, id, 0, b"")].concat()),
    ]
}

#[test]
fn params_and_body_come_out_as_they_went_in() {
    let pair = (text(20), text(200), any::<bool>(), any::<bool>());
    let strategy = (
        vec(pair, 0..12),
        vec(any::<u8>(), 0..3000),
        vec(any::<Index>(), 0..6),
        vec(any::<Index>(), 0..6),
        vec(any::<Index>(), 0..20),
        any::<u8>(),
    );
    check(
        "params_and_body_come_out_as_they_went_in",
        strategy,
        |(pairs, body, params_cuts, body_cuts, cuts, padding)| {
            let mut params = Vec::new();
            let mut environ = Pairs::new();
            environ.push(b"FCGI_ROLE", b"RESPONDER");
            for (name, value, long_name, long_value) in &pairs {
                length(&mut params, name.len(), *long_name);
                length(&mut params, value.len(), *long_value);
                params.extend(name);
                params.extend(value);
                if name != b"FCGI_ROLE" {
                    environ.push(name, value);
                }
            }
            let mut bytes = record(1, 9, 0, &[0, 1, 0, 0, 0, 0, 0, 0]);
            for (kind, stream, cuts) in [(4, &params, &params_cuts), (5, &body, &body_cuts)] {
                for piece in pieces(stream, cuts).iter().filter(|p| !p.is_empty()) {
                    bytes.extend(record(kind, 9, padding, piece));
                }
                bytes.extend(record(kind, 9, padding, b""));
            }
            let mut seen = Seen::default();
            let mut codec = FastCgi::new(params.len(), 1, 1);
            seen.feed(&mut codec, &pieces(&bytes, &cuts));
            let id = RequestId(9);
            let expected = [Event::Begin { id, environ }, Event::BodyEnd { id }];
            prop_assert_eq!(seen.events, expected.map(|e| format!("{e:?}")));
            let joined: Vec<u8> = seen.bodies.into_iter().flat_map(|(_, _, b)| b).collect();
            prop_assert_eq!(joined, body);
            prop_assert_eq!(seen.sent, b"");
            prop_assert_eq!(seen.error, None);
            Ok(())
        },
    );
}

#[test]
fn cuts_change_nothing() {
    let strategy = (
        vec(any_record(), 0..30),
        vec(any::<u8>(), 0..10),
        vec(any::<Index>(), 0..30),
    );
    check("cuts_change_nothing", strategy, |(records, tail, cuts)| {
        let bytes = [records.concat(), tail].concat();
        let [mut whole, mut cut, mut single] = [(); 3].map(|()| Seen::default());
        let mut codec = fastcgi();
        whole.feed(&mut codec, &[&bytes]);
        cut.feed(&mut fastcgi(), &pieces(&bytes, &cuts));
        single.feed(&mut fastcgi(), &bytes.chunks(1).collect::<Vec<_>>());
        prop_assert_eq!(&whole, &cut);
        prop_assert_eq!(&whole, &single);
        Ok(())
    });
}

#[test]
fn noise_is_survived() {
    let action = prop_oneof![
        6 => any_record().prop_map(Action::Feed),
        1 => vec(any::<u8>(), 0..50).prop_map(Action::Feed),
        1 => (1..5u16).prop_map(Action::Head),
        1 => (1..5u16, vec(any::<u8>(), 0..5000)).prop_map(|(id, bytes)| Action::Body(id, bytes)),
        1 => (1..5u16, vec(any::<u8>(), 0..9000)).prop_map(|(id, text)| Action::Errors(id, text)),
        2 => (1..5u16).prop_map(Action::End),
    ];
    check("noise_is_survived", vec(action, 0..60), |actions| {
        let head = ResponseHead {
            status: 200,
            reason: b"OK".to_vec(),
            fields: Pairs::new(),
        };
        let mut codec = fastcgi();
        let mut seen = Seen::default();
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Feed(bytes) if seen.error.is_none() => seen.feed(&mut codec, &[&bytes]),
                Action::Feed(_) => {}
                Action::Head(id) => codec.encode(RequestId(id), Part::Head(&head), &mut sent),
                Action::Body(id, bytes) => {
                    codec.encode(RequestId(id), Part::Body(&bytes), &mut sent)
                }
                Action::Errors(id, text) => {
                    codec.encode(RequestId(id), Part::Errors(&text), &mut sent)
                }
                Action::End(id) => codec.encode(RequestId(id), Part::End, &mut sent),
            }
            seen.sent.append(&mut sent);
        }
        check_records(&seen.sent)?;
        codec.eof();
        for id in 1..5 {
            codec.encode(RequestId(id), Part::End, &mut sent);
        }
        check_records(&sent)
    });
}

#[derive(Clone, Debug)]
enum Action {
    Feed(Vec<u8>),
    Head(u16),
    Body(u16, Vec<u8>),
    Errors(u16, Vec<u8>),
    End(u16),
}

/// What is sent are whole records; none of a stream is empty but the one right before its END_REQUEST.
fn check_records(mut sent: &[u8]) -> Result<(), TestCaseError> {
    let mut ending = None;
    while !sent.is_empty() {
        prop_assert!(sent.len() >= 8, "a torn header");
        let (header, rest) = sent.split_at(8);
        let content = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let padding = usize::from(header[6]);
        prop_assert_eq!(header[0], 1);
        prop_assert!(rest.len() >= content + padding, "a torn record");
        prop_assert!(rest[content..content + padding].iter().all(|&b| b == 0));
        prop_assert!((content + padding) % 8 == 0);
        prop_assert!([3, 6, 7, 10, 11].contains(&header[1]));
        prop_assert!(header[1] != 7 || (1..=4096).contains(&content));
        if let Some(id) = ending {
            prop_assert_eq!((header[1], &header[2..4]), (3, id));
        }
        ending = (header[1] == 6 && content == 0).then_some(&header[2..4]);
        sent = &rest[content + padding..];
    }
    prop_assert!(ending.is_none());
    Ok(())
}

#[test]
fn cgi_bodies_have_their_length() {
    let strategy = (
        vec(any::<u8>(), 0..500),
        any::<Index>(),
        vec(any::<Index>(), 0..10),
    );
    check(
        "cgi_bodies_have_their_length",
        strategy,
        |(bytes, length, cuts)| {
            let length = length.index(bytes.len() + 1);
            let mut environ = Pairs::new();
            environ.push(b"CONTENT_LENGTH", length.to_string().as_bytes());
            let mut seen = Seen::default();
            let mut codec = Cgi::new(environ);
            seen.feed(&mut codec, &pieces(&bytes, &cuts));
            prop_assert_eq!(seen.events.len(), 2);
            let joined: Vec<u8> = seen.bodies.into_iter().flat_map(|(_, _, b)| b).collect();
            prop_assert_eq!(joined, &bytes[..length]);
            prop_assert_eq!(seen.error, None);
            Ok(())
        },
    );
}

/// The most that the peer of one connection can do: 300 MB each of params without an end, of requests that are never
/// finished, of answered bodies that are never ended, and of body.
#[test]
fn memory_is_bounded() {
    const CONTENT: usize = 60_000;
    const ROUNDS: u16 = 5000;
    let begin = |id| record(1, id, 0, &[0, 1, 1, 0, 0, 0, 0, 0]);
    let mut codec = FastCgi::new(1 << 20, 4, 1);
    let before = resident();
    let feed = |codec: &mut FastCgi, bytes: &[u8]| {
        let mut seen = Seen::default();
        let mut input = bytes;
        while let Some(event) = codec.decode(&mut input, &mut seen.sent).unwrap() {
            if let Event::Begin { id, .. } = event {
                codec.encode(id, Part::End, &mut seen.sent);
            }
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes more than before");
    };
    let params = |id| record(4, id, 0, &[b'p'; CONTENT]);
    feed(&mut codec, &begin(1));
    for _ in 0..ROUNDS {
        feed(&mut codec, &params(1));
    }
    for id in 2..ROUNDS {
        feed(&mut codec, &[begin(id), params(id)].concat());
    }
    let mut codec = FastCgi::new(1 << 20, 4, 1);
    let body = record(5, 1, 0, &[b'b'; CONTENT]);
    for id in 1..=u16::MAX {
        feed(&mut codec, &[begin(id), record(4, id, 0, b"")].concat());
    }
    for _ in 0..ROUNDS {
        feed(&mut codec, &body);
    }
}

/// The memory of this process that is in use, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split_whitespace().nth(1).unwrap();
    pages.parse::<usize>().unwrap() * 4096
}
