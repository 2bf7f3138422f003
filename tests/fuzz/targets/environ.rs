//! Path mapping: what the app sees of the variables that a web server sends, most of which a visitor chooses.

use super::pairs;
use runfcgi::config::ScriptName;
use runfcgi::environ::{Mount, describe, normalise};
use runfcgi::pairs::Pairs;
use std::collections::HashSet;

pub(super) fn environ(bytes: &[u8]) {
    let sent = pairs(bytes);
    for prefix in [None, Some(""), Some("/shop/")] {
        for trust in [false, true] {
            let script_name = match prefix {
                None => ScriptName::Auto,
                Some(prefix) => ScriptName::Forced(prefix.to_owned()),
            };
            let mount = Mount::new(script_name, "mysite.fcgi", trust);
            let length = bytes.len() as u64;
            let environ = normalise(&sent, &mount, length);
            check(&sent, &environ, length, trust);
            path(&environ, prefix);
        }
    }
}

fn check(sent: &Pairs, environ: &Pairs, length: u64, trust: bool) {
    let mut names = HashSet::new();
    for (name, value) in environ.iter() {
        let shown = name.escape_ascii();
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        assert!(!name.is_empty() && name.iter().all(valid), "{shown}");
        assert!(names.insert(name), "{shown} comes twice");
        match name {
            b"HTTP_PROXY" | b"HTTP_TRANSFER_ENCODING" => panic!("{shown} is there"),
            b"REMOTE_USER" | b"AUTH_TYPE" => assert!(trust, "{shown} is believed"),
            b"HTTPS" => assert_eq!(value, b"on"),
            b"CONTENT_LENGTH" => assert_eq!(value, length.to_string().as_bytes()),
            _ => {}
        }
    }
    for name in [
        "REQUEST_METHOD",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "QUERY_STRING",
    ] {
        assert!(names.contains(name.as_bytes()), "{name} is missing");
    }
    // Variables that redirects have renamed are there twice; paths and queries in three places.
    let most = 4 * sent.as_bytes().len() + 1000;
    assert!(environ.as_bytes().len() <= most);
    let line = describe(environ);
    assert!(line.len() < 520 && line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
}

/// The path is one: absolute, without empty segments, `.` and `..`.
fn path(environ: &Pairs, prefix: Option<&str>) {
    let get = |name: &[u8]| environ.get(name).expect("always there");
    let (script, info) = (get(b"SCRIPT_NAME"), get(b"PATH_INFO"));
    let whole = [script, info].concat();
    let shown = whole.escape_ascii();
    assert!(whole.starts_with(b"/"), "{shown}");
    assert!(!script.ends_with(b"/"), "{shown}");
    assert!(info.is_empty() || info.starts_with(b"/"), "{shown}");
    if let Some(prefix) = prefix {
        assert_eq!(script, prefix.trim_end_matches('/').as_bytes());
    }
    let mut segments = whole[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        assert!(![&b"."[..], b".."].contains(&segment), "{shown}");
        assert!(last || !segment.is_empty(), "{shown}");
    }
}
