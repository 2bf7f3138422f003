//! The format of the access log: Apache's LogFormat directives, parsed once and rendered for each request.
//!
//! Values are escaped as Apache does it, so no request can forge a line, and secrets in URLs are left out. Pure: knows no file and no clock.

use crate::bytes::without_secrets;
use crate::log::Utc;
use crate::pairs::Pairs;
use crate::response::ResponseHead;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer values are cut to this many bytes.
const LONGEST_VALUE: usize = 4096;

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    items: Vec<Item>,
}

/// A finished request.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The request's variables as the application saw them.
    pub request: &'a Pairs,
    /// The response's head, if one was sent.
    pub head: Option<&'a ResponseHead>,
    /// Bytes of the request's body that were received.
    pub received: u64,
    /// Bytes of the response's body that were sent.
    pub sent: u64,
    /// When the request began.
    pub time: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The process that writes the log.
    pub pid: u32,
    /// The response is incomplete, as the visitor left or the app failed.
    pub aborted: bool,
}

impl Format {
    /// Parses a format such as `%h %l %u %t "%r" %>s %b`. The error names the directive and its position.
    ///
    /// `%>s` and `%<s` mean the same; `\"`, `\\`, `\n` and `\t` are escapes as in Apache's configuration. `%I` and `%O`
    /// count bodies alone, as only the web server knows the size of heads. `%{Authorization}i` is refused because
    /// passwords do not belong in a log.
    pub fn parse(text: &str) -> Result<Format, String> {
        let mut items = Vec::new();
        let mut literal = String::new();
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                match chars.next() {
                    Some((_, 'n')) => literal.push('\n'),
                    Some((_, 't')) => literal.push('\t'),
                    Some((_, other)) => literal.push(other),
                    None => literal.push('\\'),
                }
                continue;
            }
            if c != '%' {
                literal.push(c);
                continue;
            }
            let rest = &text[at + 1..];
            if rest.starts_with('%') {
                literal.push('%');
                chars.next();
                continue;
            }
            let (item, used) = directive(rest).map_err(|why| {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                format!(
                    "access log format, position {}: \"%{}\": {why}",
                    text[..at].chars().count() + 1,
                    &rest[..end]
                )
            })?;
            if !literal.is_empty() {
                items.push(Item::Literal(std::mem::take(&mut literal)));
            }
            items.push(item);
            for _ in rest[..used].chars() {
                chars.next();
            }
        }
        literal.push('\n');
        items.push(Item::Literal(literal));
        Ok(Format { items })
    }

    /// A line with its newline.
    pub fn render(&self, record: &Record<'_>) -> String {
        let mut out = String::with_capacity(256);
        for item in &self.items {
            item.render(record, &mut out);
        }
        out
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Literal(String),
    /// The first of these variables that exists.
    Variable(Vec<Vec<u8>>),
    RequestLine,
    Path,
    Query,
    ServerName,
    Time,
    Epoch(Unit),
    Took(Unit),
    Status,
    SentOrDash,
    Sent,
    Received,
    Pid,
    Outcome,
    Field(Vec<u8>),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
}

impl Unit {
    fn of(self, time: Duration) -> u128 {
        match self {
            Unit::Seconds => u128::from(time.as_secs()),
            Unit::Milliseconds => time.as_millis(),
            Unit::Microseconds => time.as_micros(),
        }
    }
}

/// Parses the directive after a `%`. Returns also its length in bytes.
fn directive(text: &str) -> Result<(Item, usize), &'static str> {
    let mut rest = text.trim_start_matches(['<', '>']);
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('{') {
        let end = inner.find('}').ok_or("the { is not closed")?;
        argument = Some(&inner[..end]);
        rest = &inner[end + 1..];
    }
    let letter = rest.chars().next().ok_or("the name is missing")?;
    let used = text.len() - rest.len() + letter.len_utf8();
    let item = match argument {
        None => plain(letter)?,
        Some(argument) => with_argument(letter, argument)?,
    };
    Ok((item, used))
}

fn plain(letter: char) -> Result<Item, &'static str> {
    let variable = |names: &[&str]| {
        let names = names.iter().map(|name| name.as_bytes().to_vec());
        Item::Variable(names.collect())
    };
    Ok(match letter {
        'h' => variable(&["REMOTE_HOST", "REMOTE_ADDR"]),
        'a' => variable(&["REMOTE_ADDR"]),
        'A' => variable(&["SERVER_ADDR"]),
        'l' => variable(&["REMOTE_IDENT"]),
        'u' => variable(&["REMOTE_USER"]),
        'm' => variable(&["REQUEST_METHOD"]),
        'H' => variable(&["SERVER_PROTOCOL"]),
        'p' => variable(&["SERVER_PORT"]),
        'v' => variable(&["SERVER_NAME"]),
        'f' => variable(&["SCRIPT_FILENAME"]),
        'V' => Item::ServerName,
        'r' => Item::RequestLine,
        'U' => Item::Path,
        'q' => Item::Query,
        't' => Item::Time,
        'D' => Item::Took(Unit::Microseconds),
        'T' => Item::Took(Unit::Seconds),
        's' => Item::Status,
        'b' => Item::SentOrDash,
        'B' | 'O' => Item::Sent,
        'I' => Item::Received,
        'P' => Item::Pid,
        'X' => Item::Outcome,
        'k' | 'L' => Item::Nothing,
        'i' | 'e' | 'o' => return Err("a name in {} is missing"),
        _ => return Err("unknown"),
    })
}

fn with_argument(letter: char, argument: &str) -> Result<Item, &'static str> {
    let upper: Vec<u8> = argument
        .bytes()
        .map(|b| match b {
            b'-' => b'_',
            _ => b.to_ascii_uppercase(),
        })
        .collect();
    if upper.ends_with(b"AUTHORIZATION") {
        return Err("would write passwords to the log");
    }
    if upper.ends_with(b"X_RUNFCGI_SECRET") {
        return Ok(Item::Nothing);
    }
    match (letter, argument) {
        ('i' | 'e' | 'o', "") => Err("a name in {} is missing"),
        ('i', _) => {
            let plain = matches!(&upper[..], b"CONTENT_TYPE" | b"CONTENT_LENGTH");
            let prefix: &[u8] = if plain { b"" } else { b"HTTP_" };
            Ok(Item::Variable(vec![[prefix, &upper].concat()]))
        }
        ('e', _) => Ok(Item::Variable(vec![argument.into()])),
        ('o', _) => Ok(Item::Field(argument.into())),
        ('T', "s") => Ok(Item::Took(Unit::Seconds)),
        ('T', "ms") => Ok(Item::Took(Unit::Milliseconds)),
        ('T', "us") => Ok(Item::Took(Unit::Microseconds)),
        ('t', "sec") => Ok(Item::Epoch(Unit::Seconds)),
        ('t', "msec") => Ok(Item::Epoch(Unit::Milliseconds)),
        ('t', "usec") => Ok(Item::Epoch(Unit::Microseconds)),
        ('P', "pid") => Ok(Item::Pid),
        ('a', "c") => plain('a'),
        _ => Err("unknown"),
    }
}

impl Item {
    fn render(&self, record: &Record<'_>, out: &mut String) {
        let get = |name: &[u8]| record.request.get(name).unwrap_or_default();
        match self {
            Item::Literal(text) => out.push_str(text),
            Item::Variable(names) => {
                let value = names.iter().find_map(|name| record.request.get(name));
                push_value(out, value);
            }
            Item::RequestLine => {
                escape(out, get(b"REQUEST_METHOD"));
                out.push(' ');
                match record.request.get(b"REQUEST_URI") {
                    Some(uri) => escape(out, uri),
                    None => {
                        Item::Path.render(record, out);
                        Item::Query.render(record, out);
                    }
                }
                out.push(' ');
                escape(out, get(b"SERVER_PROTOCOL"));
            }
            Item::Path => {
                escape(out, get(b"SCRIPT_NAME"));
                escape(out, get(b"PATH_INFO"));
            }
            Item::Query => {
                let query = get(b"QUERY_STRING");
                if !query.is_empty() {
                    out.push('?');
                    escape(out, query);
                }
            }
            Item::ServerName => {
                let host = get(b"HTTP_HOST");
                let name = match host.iter().rposition(|&b| b == b':') {
                    Some(colon) if host.last() != Some(&b']') => &host[..colon],
                    _ => host,
                };
                let name = Some(name).filter(|name| !name.is_empty());
                push_value(out, name.or(record.request.get(b"SERVER_NAME")));
            }
            Item::Time => push_time(out, record.time),
            Item::Epoch(unit) => {
                let since = record.time.duration_since(UNIX_EPOCH).unwrap_or_default();
                push_number(out, unit.of(since));
            }
            Item::Took(unit) => push_number(out, unit.of(record.took)),
            Item::Status => match record.head {
                Some(head) => push_number(out, u128::from(head.status)),
                None => out.push('-'),
            },
            Item::SentOrDash if record.sent == 0 => out.push('-'),
            Item::Sent | Item::SentOrDash => push_number(out, u128::from(record.sent)),
            Item::Received => push_number(out, u128::from(record.received)),
            Item::Pid => push_number(out, u128::from(record.pid)),
            Item::Outcome => out.push(if record.aborted { 'X' } else { '-' }),
            Item::Field(name) => push_value(out, record.head.and_then(|head| head.get(name))),
            Item::Nothing => out.push('-'),
        }
    }
}

fn push_value(out: &mut String, value: Option<&[u8]>) {
    match value {
        None | Some(b"") => out.push('-'),
        Some(value) => escape(out, value),
    }
}

fn push_number(out: &mut String, number: u128) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{number}");
}

/// `[22/Nov/2026:07:48:58 +0000]`
fn push_time(out: &mut String, time: SystemTime) {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let t = Utc::from(time);
    let month = MONTHS.get(t.month as usize - 1).unwrap_or(&"-");
    let _ = write!(
        out,
        "[{:02}/{month}/{:04}:{:02}:{:02}:{:02} +0000]",
        t.day, t.year, t.hour, t.minute, t.second
    );
}

fn escape(out: &mut String, value: &[u8]) {
    let value = &*without_secrets(value);
    let (value, cut) = match value.get(..LONGEST_VALUE) {
        Some(start) => (start, value.len() > LONGEST_VALUE),
        None => (value, false),
    };
    for &byte in value {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    if cut {
        out.push_str("...");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request() -> Pairs {
        let mut request = Pairs::new();
        for (name, value) in [
            ("REMOTE_ADDR", "192.0.2.7"),
            ("REMOTE_USER", ""),
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/a%20b/?q=\"1\""),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", "www.example.org"),
            ("SERVER_PORT", "443"),
            ("SERVER_ADDR", "192.0.2.1"),
            ("SCRIPT_NAME", "/a b"),
            ("PATH_INFO", "/\u{e9}"),
            ("QUERY_STRING", "q=\"1\""),
            ("SCRIPT_FILENAME", "/srv/mysite.fcgi"),
            ("HTTP_HOST", "example.org:8443"),
            ("HTTP_USER_AGENT", "evil\"\n\\\x01\x7f"),
            ("CONTENT_TYPE", "text/plain"),
            ("SITE", "one"),
        ] {
            assert!(request.push(name.as_bytes(), value.as_bytes()));
        }
        request
    }

    fn render(format: &str, head: Option<&ResponseHead>, sent: u64) -> String {
        let record = Record {
            request: &request(),
            head,
            received: 11,
            sent,
            time: UNIX_EPOCH + Duration::from_micros(1_795_333_738_000_500),
            took: Duration::from_micros(1_234_567),
            pid: 4711,
            aborted: head.is_none(),
        };
        Format::parse(format).unwrap().render(&record)
    }

    #[test]
    fn each_directive() {
        let head = ResponseHead::from_wire(b"404 Not Found\0X-Cache\0hit\0").unwrap();
        for (format, want) in [
            ("", ""),
            ("a%%b", "a%b"),
            ("\\\"%m\\\"\\t\\\\", "\"GET\"\t\\"),
            ("é%mé%s", "éGETé404"),
            ("%h %a %A %l %u", "192.0.2.7 192.0.2.7 192.0.2.1 - -"),
            ("%t", "[22/Nov/2026:07:48:58 +0000]"),
            (
                "%{sec}t %{msec}t %{usec}t",
                "1795333738 1795333738000 1795333738000500",
            ),
            ("%r", "GET /a%20b/?q=\\\"1\\\" HTTP/1.1"),
            ("%s %>s %<s", "404 404 404"),
            ("%b %B", "5 5"),
            ("%D %T %{s}T %{ms}T %{us}T", "1234567 1 1 1234 1234567"),
            ("%U%q", "/a b/\\xc3\\xa9?q=\\\"1\\\""),
            ("%m %H %P", "GET HTTP/1.1 4711"),
            (
                "%v %V %p %f",
                "www.example.org example.org 443 /srv/mysite.fcgi",
            ),
            ("%I %O %X", "11 5 -"),
            ("%{User-Agent}i", "evil\\\"\\n\\\\\\x01\\x7f"),
            ("%{content-type}i %{Referer}i", "text/plain -"),
            ("%{SITE}e %{OTHER}e", "one -"),
            ("%{x-cache}o %{X-No}o", "hit -"),
            ("%{X-Runfcgi-Secret}i %{HTTP_X_RUNFCGI_SECRET}e", "- -"),
        ] {
            assert_eq!(
                render(format, Some(&head), 5),
                format!("{want}\n"),
                "{format}"
            );
        }
        assert_eq!(render("%s %b %B %X %{a}o", None, 0), "- - 0 X -\n");
    }

    #[test]
    fn the_default_is_apaches_common_log_format_with_the_duration_and_the_incident() {
        let format = crate::config::Config::default().log.format;
        let head = ResponseHead::from_wire(b"200 OK\0").unwrap();
        let want = "192.0.2.7 - - [22/Nov/2026:07:48:58 +0000] \"GET /a%20b/?q=\\\"1\\\" HTTP/1.1\" 200 7 1234567";
        assert_eq!(render(&format, Some(&head), 7), format!("{want} -\n"));
        let head = ResponseHead::from_wire(b"200 OK\0X-Incident\x001a2b3c4d\0").unwrap();
        let want = format!("{want} 1a2b3c4d\n");
        assert_eq!(render(&format, Some(&head), 7), want);
    }

    #[test]
    fn errors_name_the_directive_and_its_position() {
        for (format, want) in [
            ("%h %Z", "position 4: \"%Z\": unknown"),
            ("é %", "position 3: \"%\": the name is missing"),
            (
                "%{Referer",
                "position 1: \"%{Referer\": the { is not closed",
            ),
            ("%{Referer}", "the name is missing"),
            ("%i", "a name in {} is missing"),
            ("%{}e", "a name in {} is missing"),
            ("%{fortnight}T", "unknown"),
            ("%400{Referer}i", "\"%400{Referer}i\": unknown"),
            ("%{Authorization}i", "passwords"),
            ("%{HTTP_AUTHORIZATION}e", "passwords"),
        ] {
            let error = Format::parse(format).unwrap_err();
            assert!(error.contains(want), "{format}: {error}");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let mut request = Pairs::new();
        request.push(b"REQUEST_METHOD", &[b'x'; LONGEST_VALUE + 1]);
        let record = Record {
            request: &request,
            head: None,
            received: 0,
            sent: 0,
            time: UNIX_EPOCH,
            took: Duration::ZERO,
            pid: 1,
            aborted: false,
        };
        let line = Format::parse("%m").unwrap().render(&record);
        assert_eq!(line, format!("{}...\n", "x".repeat(LONGEST_VALUE)));
    }
}
