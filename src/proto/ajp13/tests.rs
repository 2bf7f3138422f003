//! What transcripts cannot test: random input, any split of the input, and how much memory is used.

use proptest::prelude::*;

use super::*;

const MAX_PARAMS: usize = 300;

fn codec(secret: Option<&[u8]>) -> Ajp13 {
    Ajp13::new(Ajp13Options {
        secret: secret.map(<[u8]>::to_vec),
        max_params: MAX_PARAMS,
        ..Ajp13Options::default()
    })
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x12, 0x34], &length[..], payload].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u16).to_be_bytes();
    [&length[..], bytes, b"\0"].concat()
}

/// A POST with these headers, at most 255, and attributes.
fn request(headers: &[(&[u8], &[u8])], attributes: &[u8]) -> Vec<u8> {
    let mut payload = vec![tables::FORWARD_REQUEST, 4];
    for part in [
        &b"HTTP/1.1"[..],
        b"/a",
        b"127.0.0.1",
        b"localhost",
        b"localhost",
    ] {
        payload.extend(text(part));
    }
    payload.extend([0, 80, 0, 0, headers.len() as u8]);
    for (name, value) in headers {
        payload.extend(text(name));
        payload.extend(text(value));
    }
    payload.extend(attributes);
    payload.push(0xff);
    packet(&payload)
}

/// Everything observable about a connection: events, the joined bodies, what was sent, the error.
#[derive(Default, Debug, PartialEq)]
struct Seen {
    events: Vec<String>,
    body: Vec<u8>,
    sent: Vec<u8>,
    error: Option<ProtocolError>,
}

/// Decodes the pieces. Responds to a request at once if `early`, else when its body is complete.
fn play<'a>(codec: &mut Ajp13, pieces: impl Iterator<Item = &'a [u8]>, early: bool) -> Seen {
    let mut seen = Seen::default();
    for mut piece in pieces {
        loop {
            let answer = match codec.decode(&mut piece, &mut seen.sent) {
                Ok(None) => break,
                Ok(Some(Event::Body { bytes, .. })) => {
                    assert!(!bytes.is_empty());
                    seen.body.extend_from_slice(bytes);
                    false
                }
                Ok(Some(event)) => {
                    seen.events.push(format!("{event:?}"));
                    match event {
                        Event::Begin { .. } => early,
                        _ => true,
                    }
                }
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
            };
            if let Reading::Forward { bytes, .. } = &codec.reading {
                assert!(bytes.capacity() <= 2 * MAX_PARAMS);
            }
            if answer {
                let head = ResponseHead {
                    status: 200,
                    reason: Vec::new(),
                    fields: Pairs::new(),
                };
                codec.encode(ID, Part::Head(&head), &mut seen.sent);
                codec.encode(ID, Part::End, &mut seen.sent);
            }
        }
        assert!(piece.is_empty());
    }
    seen
}

/// Nearly valid packets, and some random bytes.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let port = [&[10][..], &text(b"AJP_REMOTE_PORT"), &text(b"1")].concat();
    let length = &[(&b"Content-Length"[..], &b"7"[..])];
    let chunked = &[(&b"Transfer-Encoding"[..], &b"chunked"[..])];
    let pool = vec![
        request(&[], &[]),
        request(length, &[]),
        request(length, &port),
        request(chunked, &[]),
        request(chunked, &port),
        request(&[(&[b'x'; 200], &[b'y'; 200])], &[]),
        packet(b"\0\x03abc"),
        packet(b"\0\x07abcdefg"),
        packet(b"abcd"),
        packet(b"\x0a"),
        packet(b"\0\0"),
        packet(b""),
        b"\x12\x34\xff\xff".to_vec(),
    ];
    let piece = prop_oneof![
        12 => proptest::sample::select(pool),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (proptest::collection::vec(piece, 1..12), flips).prop_map(|(pieces, flips)| {
        let mut bytes = pieces.concat();
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        bytes in stream(),
        early: bool,
        secret: bool,
        sizes in proptest::collection::vec(1..40usize, 1..8),
    ) {
        let secret = secret.then_some(&b"hush"[..]);
        let whole = play(&mut codec(secret), std::iter::once(&bytes[..]), early);
        let single = play(&mut codec(secret), bytes.chunks(1), early);
        prop_assert_eq!(&whole, &single);
        let mut rest = &bytes[..];
        let pieces = sizes.iter().cycle().map_while(|size| {
            let (piece, behind) = rest.split_at(rest.len().min(*size));
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        });
        let pieces: Vec<_> = pieces.collect();
        prop_assert_eq!(&whole, &play(&mut codec(secret), pieces.into_iter(), early));
    }

    #[test]
    fn noise_in_a_request_never_panics(payload in proptest::collection::vec(any::<u8>(), 1..200)) {
        let bytes = packet(&[&[tables::FORWARD_REQUEST, 2], &payload[..]].concat());
        play(&mut codec(None), bytes.chunks(7), true);
    }

    #[test]
    fn body_packets_hold_the_body(body in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let mut out = Vec::new();
        packet::send_body(&body, 8192, &mut out);
        let mut held = Vec::new();
        let mut rest = &out[..];
        while let [b'A', b'B', a, b, 3, c, d, behind @ ..] = rest {
            let payload = usize::from(u16::from_be_bytes([*a, *b]));
            let data = usize::from(u16::from_be_bytes([*c, *d]));
            prop_assert_eq!(payload, data + 4);
            prop_assert!(payload + packet::HEADER <= 8192);
            prop_assert_eq!(behind[data], 0);
            held.extend_from_slice(&behind[..data]);
            rest = &behind[data + 1..];
        }
        prop_assert_eq!(rest, b"");
        prop_assert_eq!(held, body);
    }
}

#[test]
fn a_body_that_looks_like_a_request_is_never_one() {
    // lighttpd's framing, and a response that does not wait for the body.
    let mut smuggled = request(&[], &[&[3][..], &text(b"root")].concat());
    let length = [(&b"Content-Length"[..], &b"4000"[..])];
    let mut bytes = request(&length, &[]);
    bytes.append(&mut smuggled);
    let seen = play(&mut codec(None), std::iter::once(&bytes[..]), true);
    assert_eq!(seen.events.len(), 1, "{:?}", seen.events);
    assert_eq!(seen.error, None);
}

#[test]
fn nothing_is_kept_between_requests() {
    let mut codec = codec(None);
    let bytes = request(&[], &[]);
    let seen = play(&mut codec, bytes.chunks(1), false);
    assert_eq!(seen.events.len(), 2);
    assert!(matches!(codec.reading, Reading::Header { have: 0, .. }));
    assert!(codec.is_idle() && codec.keep_alive());
}
