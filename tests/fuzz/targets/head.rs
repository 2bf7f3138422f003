//! The head of a response, as the app gives it: what web servers get has as many lines as it has fields.

use super::codecs::packets;
use runfcgi::pairs::Pairs;
use runfcgi::proto::ajp13::{Ajp13, Ajp13Options};
use runfcgi::proto::head::{cgi_head, cgi_head_status_last};
use runfcgi::proto::{Codec, Part, RequestId};
use runfcgi::response::ResponseHead;

pub(super) fn head(bytes: &[u8]) {
    let Ok(mut head) = ResponseHead::from_wire(bytes) else {
        return;
    };
    assert!((200..=599).contains(&head.status));
    assert!(head.fields.len() <= bytes.len());
    let lengths = head
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
    assert!(lengths.count() <= 1);
    for write in [cgi_head, cgi_head_status_last] {
        let mut out = Vec::new();
        write(&head, &mut out);
        lines(&out, &head);
    }
    head.warnings();
    let mut codec = Ajp13::new(Ajp13Options::default());
    let mut out = Vec::new();
    let get = b"\x12\x34\0\x23\x02\x02\0\x08HTTP/1.1\0\0\x01/\0\0\x01a\0\0\x01a\0\0\x01a\0\0\x50\0\0\0\xff";
    let begun = codec.decode(&mut &get[..], &mut out);
    assert!(matches!(begun, Ok(Some(_))), "{begun:?}");
    codec.encode(RequestId(1), Part::Head(&head), &mut out);
    codec.encode(RequestId(1), Part::End, &mut out);
    packets(&out);
    head.drop_stray_location(&Pairs::new());
    assert!(head.status != 200 || head.get(b"location").is_none());
}

/// A head as text is the status and each field in a line of its own, and an empty line.
fn lines(text: &[u8], head: &ResponseHead) {
    let text = text.strip_suffix(b"\r\n\r\n").expect("an empty line");
    let mut rest: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    assert_eq!(rest.len(), head.fields.len() + 1);
    let status = rest.iter().position(|line| line.starts_with(b"Status: "));
    rest.remove(status.expect("a status"));
    for (line, (name, value)) in rest.into_iter().zip(head.fields.iter()) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let at = line.iter().position(|byte| *byte == b':').expect("a colon");
        assert_eq!((&line[..at], &line[at + 2..]), (name, value));
        assert!(!line.contains(&b'\r') && !line.contains(&0));
    }
}
