//! The private wire, in both directions: what Python sends is read the same however it is cut, and what is sent to Python
//! says what it is to say.

use super::{cut, pairs};
use runfcgi::pairs::Pairs;
use runfcgi::workers::wire::{self, Frame, FrameDecoder};

/// Type and payload of each frame; what comes in pieces is joined.
type Frames = Vec<(u8, Vec<u8>)>;

/// From Python, which runs the app: it may send anything.
pub(super) fn frames(bytes: &[u8]) {
    let whole = read(std::iter::once(bytes));
    assert_eq!(whole, read(bytes.chunks(1)), "byte by byte");
    assert_eq!(whole, read(cut(bytes)), "in pieces");
    let (frames, error) = whole;
    let (expected, refused) = naive(bytes);
    match error {
        // Of a payload that does not make sense, the naive reader knows nothing.
        true => assert!(frames.len() <= expected.len()),
        false => assert!(!refused && frames.len() == expected.len()),
    }
    for ((kind, payload), expected) in frames.iter().zip(&expected) {
        assert_eq!((*kind, &payload[..]), (expected.0, &expected.1[..]));
    }
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Frames, bool) {
    let mut decoder = FrameDecoder::default();
    let mut frames = Frames::new();
    for piece in pieces {
        let mut input = piece;
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => keep(frame, &mut frames),
                Err(_) => return (frames, true),
            }
        }
        assert!(input.is_empty());
    }
    (frames, false)
}

fn keep(frame: Frame<'_>, frames: &mut Frames) {
    let pid = |pid: i32| u32::try_from(pid).expect("a pid").to_be_bytes().to_vec();
    let known = |pairs: Pairs| pairs.as_bytes().to_vec();
    let (kind, payload) = match frame {
        Frame::Data(piece) => return join(wire::DATA, piece, frames),
        Frame::Log(piece) => return join(wire::LOG, piece, frames),
        Frame::Output(piece) => return join(wire::OUTPUT, piece, frames),
        Frame::Started { pid: its } => (wire::STARTED, pid(its)),
        Frame::BootFailed(text) => (wire::BOOT_FAILED, text.into_owned()),
        Frame::Head(text) => (wire::HEAD, text.into_owned()),
        Frame::File { offset, length } => (
            wire::FILE,
            [offset.to_be_bytes(), length.to_be_bytes()].concat(),
        ),
        Frame::Exception(pairs) => (wire::EXCEPTION, known(pairs)),
        Frame::Caught(pairs) => (wire::CAUGHT, known(pairs)),
        Frame::End { .. } => (wire::END, Vec::new()),
        Frame::Ready(pairs) => (wire::READY, known(pairs)),
        Frame::Failed(text) => (wire::FAILED, text.into_owned()),
        Frame::Forked { pid: its } => (wire::FORKED, pid(its)),
        Frame::Refused(text) => (wire::REFUSED, text.into_owned()),
        Frame::Waiting(text) => (wire::WAITING, text.into_owned()),
        Frame::Given(pairs) => (wire::GIVEN, known(pairs)),
        Frame::Release { .. } => (wire::RELEASE, Vec::new()),
        Frame::Exited(exited) => {
            let numbers = [pid(exited.pid), exited.status.to_be_bytes().to_vec()];
            (wire::EXITED, numbers.concat())
        }
    };
    frames.push((kind, payload));
}

fn join(kind: u8, piece: &[u8], frames: &mut Frames) {
    assert!(!piece.is_empty());
    match frames.last_mut() {
        Some((last, joined)) if *last == kind => joined.extend(piece),
        _ => frames.push((kind, piece.to_vec())),
    }
}

/// The same, read from a complete byte string; and whether it breaks off because of a header.
fn naive(mut rest: &[u8]) -> (Frames, bool) {
    let mut frames = Frames::new();
    while let [kind, _, serial1, serial0, a, b, c, d, payload @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if matches!(*kind, wire::DATA | wire::LOG | wire::OUTPUT) {
            let (piece, after) = payload.split_at(payload.len().min(length));
            if !piece.is_empty() {
                join(*kind, piece, &mut frames);
            }
            rest = after;
            continue;
        }
        let other = matches!(*kind, wire::HEAD | wire::END) && (*serial1, *serial0) != (0, 0);
        if length > wire::MAX_WHOLE || other {
            return (frames, true);
        }
        let Some((payload, after)) = payload.split_at_checked(length) else {
            break;
        };
        let payload = match *kind {
            wire::END | wire::RELEASE => &[],
            wire::EXITED => &payload[..payload.len().min(8)],
            _ => payload,
        };
        frames.push((*kind, payload.to_vec()));
        rest = after;
    }
    (frames, false)
}

/// To a worker: a request with these variables, which a visitor may choose, and a body.
pub(super) fn request(bytes: &[u8]) {
    let environ = pairs(bytes);
    let body = bytes.len() as u64;
    for as_descriptor in [false, true] {
        let mut out = Vec::new();
        wire::put_request(&mut out, 0x0102, &environ, body, as_descriptor);
        let (header, rest) = out.split_at(wire::REQUEST_HEADER);
        assert_eq!(header[..4], [b'R', u8::from(as_descriptor), 1, 2]);
        let length = u32::from_be_bytes(header[4..8].try_into().expect("four bytes"));
        assert_eq!(header[8..], body.to_be_bytes());
        assert_eq!(rest.len(), length as usize);
        // As `decode_pairs` of the bridge: names and values, each ended by NUL.
        let mut texts = rest.split(|byte| *byte == 0);
        for (name, value) in environ.iter() {
            assert_eq!((texts.next(), texts.next()), (Some(name), Some(value)));
        }
        assert_eq!((texts.next(), texts.next()), (Some(&b""[..]), None));
        assert_eq!(Pairs::from_bytes(rest.to_vec()).as_ref(), Some(&environ));
    }
}
