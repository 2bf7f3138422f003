//! `ResponseHead`: a response's status and header fields, checked once for all protocols.
//!
//! The rules are those of RFC 3875 section 6, and some that keep web servers from misreading a response (hop-by-hop
//! fields, a `Location` with status 200). Plain data; knows no protocol, socket, clock or log.

use crate::bytes::{decimal, is_token};
use crate::pairs::Pairs;

/// Bytes of a head above which nginx, with its default buffer of one page, responds with 502.
const USUAL_HEAD: usize = 4096;
/// Bytes of a header line above which Apache responds with 500.
const USUAL_LINE: usize = 8190;
/// Number of fields for which memory is taken at once; more is taken for more.
const FEW_FIELDS: usize = 16;
/// Number of fields above which h2o and HAProxy fail.
const USUAL_FIELDS: usize = 100;

/// The header by which visitor, access log and owner know a failure.
pub const INCIDENT: &[u8] = b"X-Incident";

/// Status and header fields of a response, without control characters and hop-by-hop fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// 200 to 599.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Vec<u8>,
    /// The header fields in the application's order.
    pub fields: Pairs,
}

impl ResponseHead {
    /// Parses and checks a head as a worker sends it: `status line NUL (name NUL value NUL)*`.
    ///
    /// Drops `Status` and hop-by-hop fields, which are up to us and the web server. Keeps the first of several equal
    /// Content-Length fields, and none with status 204.
    pub fn from_wire(payload: &[u8]) -> Result<ResponseHead, String> {
        let mut rest = payload;
        let line = until_nul(&mut rest).ok_or("response head: the status line has no end")?;
        let (status, reason) = status_line(line)?;
        let mut fields = Pairs::with_capacity(FEW_FIELDS, rest.len());
        let mut length = None;
        while !rest.is_empty() {
            let (Some(name), Some(value)) = (until_nul(&mut rest), until_nul(&mut rest)) else {
                return Err(String::from(
                    "response head: the header fields are incomplete",
                ));
            };
            if !is_token(name) {
                return Err(format!(
                    "response header: the name \"{}\" is not a token",
                    name.escape_ascii()
                ));
            }
            let value = value.trim_ascii();
            if let Some(&byte) = value.iter().find(|&&b| is_control(b)) {
                return Err(format!(
                    "response header {}: control character \\x{byte:02x} in the value; it must not contain line ends",
                    name.escape_ascii()
                ));
            }
            if is_hop_by_hop(name) {
                continue;
            }
            if name.eq_ignore_ascii_case(b"Content-Length") {
                let this = decimal(value).ok_or_else(|| {
                    format!(
                        "response header Content-Length: \"{}\" is not a number",
                        value.escape_ascii()
                    )
                })?;
                match length.replace(this) {
                    Some(before) if before != this => {
                        return Err(format!(
                            "response header Content-Length: both {before} and {this}"
                        ));
                    }
                    Some(_) => continue,
                    None if status == 204 => continue,
                    None => {}
                }
            }
            fields.push(name, value);
        }
        Ok(ResponseHead {
            status,
            reason,
            fields,
        })
    }

    /// The value of the first field with this name, ignoring case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The length of the body according to the application.
    pub fn content_length(&self) -> Option<u64> {
        decimal(self.get(b"Content-Length")?)
    }

    /// Whether a body may follow this head in the response to a request with this method.
    pub fn allows_body(&self, method: &[u8]) -> bool {
        method != b"HEAD" && !matches!(self.status, 204 | 304)
    }

    /// Drops a Location from a response with status 200, where browsers ignore it, but Apache's modules and LiteSpeed
    /// serve another page instead (for a path) or redirect (for a URL), and HAProxy turns the 200 into a 302. It stays
    /// for web servers that are known to pass it on.
    pub fn drop_stray_location(&mut self, request: &Pairs) {
        if self.status != 200 || self.get(b"Location").is_none() {
            return;
        }
        let software = request.get(b"SERVER_SOFTWARE").unwrap_or_default();
        let passes = [&b"nginx"[..], b"lighttpd", b"Caddy", b"h2o"];
        if passes.iter().any(|name| software.starts_with(name)) {
            return;
        }
        let mut fields = Pairs::with_capacity(self.fields.len(), self.fields.as_bytes().len());
        for (name, value) in self.fields.iter() {
            if !name.eq_ignore_ascii_case(b"Location") {
                fields.push(name, value);
            }
        }
        self.fields = fields;
    }

    /// What some web servers would refuse in this head, for the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        // "Status: 200 " and two line ends make 16 bytes. ": " and CR LF are two bytes more than the two NULs of a field.
        let head = 16 + self.reason.len() + self.fields.as_bytes().len() + 2 * self.fields.len();
        if head > USUAL_HEAD {
            warnings.push(format!(
                "response head of {head} bytes: nginx refuses more than {USUAL_HEAD} unless fastcgi_buffer_size is raised"
            ));
        }
        for (name, value) in self.fields.iter() {
            let line = name.len() + 2 + value.len();
            if line > USUAL_LINE {
                warnings.push(format!(
                    "response header {} of {line} bytes: Apache refuses more than {USUAL_LINE}",
                    name.escape_ascii()
                ));
            }
        }
        if self.fields.len() > USUAL_FIELDS {
            warnings.push(format!(
                "response head with {} fields: some web servers refuse more than {USUAL_FIELDS}",
                self.fields.len()
            ));
        }
        warnings
    }
}

fn status_line(line: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let wrong = |why: &str| format!("response status \"{}\": {why}", line.escape_ascii());
    let (digits, rest) = line.split_at(line.len().min(3));
    if digits.len() < 3 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong("does not begin with three digits"));
    }
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] => reason.trim_ascii(),
        _ => return Err(wrong("no space after three digits")),
    };
    if reason.iter().any(|&b| is_control(b)) {
        return Err(wrong("control character in the reason"));
    }
    match decimal(digits) {
        Some(status @ 200..=599) => Ok((status as u16, reason.to_vec())),
        _ => Err(wrong("not between 200 and 599")),
    }
}

/// Takes the text before the next NUL, and that.
fn until_nul<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&b| b == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    [
        &b"Connection"[..],
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Status",
        b"TE",
        b"Trailer",
        b"Trailers",
        b"Transfer-Encoding",
        b"Upgrade",
    ]
    .iter()
    .any(|hop| name.eq_ignore_ascii_case(hop))
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<ResponseHead, String> {
        let mut payload = text.replace('|', "\0").into_bytes();
        payload.push(0);
        ResponseHead::from_wire(&payload)
    }

    fn fields(head: &ResponseHead) -> String {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let each = head
            .fields
            .iter()
            .map(|(n, v)| format!("{}: {};", text(n), text(v)));
        each.collect()
    }

    #[test]
    fn good_heads() {
        for (text, status, reason, want) in [
            ("200 OK", 200, "OK", ""),
            ("200", 200, "", ""),
            ("599 ", 599, "", ""),
            (
                "404 Not Found|Content-Type|text/html",
                404,
                "Not Found",
                "Content-Type: text/html;",
            ),
            ("200 OK|X-A| a\tb ", 200, "OK", "X-A: a\tb;"),
            ("200 OK|X-A|", 200, "OK", "X-A: ;"),
            (
                "200 OK|Set-Cookie|a|Set-Cookie|b",
                200,
                "OK",
                "Set-Cookie: a;Set-Cookie: b;",
            ),
            ("200 OK|X-\u{e9}|v", 0, "", "not a token"),
            ("200 OK|X-A|caf\u{e9}", 200, "OK", "X-A: caf\u{e9};"),
            (
                "200 OK|connection|close|Keep-Alive|1|Transfer-Encoding|chunked|UPGRADE|h2|TE|x|Trailer|y|Status|500",
                200,
                "OK",
                "",
            ),
            (
                "407 P|Proxy-Authenticate|Basic",
                407,
                "P",
                "Proxy-Authenticate: Basic;",
            ),
            (
                "200 OK|Content-Length|5|content-length|5",
                200,
                "OK",
                "Content-Length: 5;",
            ),
            ("204 No Content|Content-Length|0", 204, "No Content", ""),
        ] {
            match head(text) {
                Ok(head) => {
                    assert_eq!(head.status, status, "{text}");
                    assert_eq!(head.reason, reason.as_bytes(), "{text}");
                    assert_eq!(fields(&head), want, "{text}");
                }
                Err(error) => assert!(status == 0 && error.contains(want), "{text}: {error}"),
            }
        }
    }

    #[test]
    fn bad_heads_say_why() {
        for (text, why) in [
            ("", "three digits"),
            ("20", "three digits"),
            ("abc", "three digits"),
            ("2000 OK", "no space"),
            ("100 Continue", "between 200 and 599"),
            ("199 X", "between 200 and 599"),
            ("600 X", "between 200 and 599"),
            ("200 a\nb", "control character"),
            ("200 OK|X A|v", "not a token"),
            ("200 OK||v", "not a token"),
            ("200 OK|X:|v", "not a token"),
            ("200 OK|X|a\r\nSet-Cookie: b", "\\x0d"),
            ("200 OK|X|a\x1bb", "\\x1b"),
            ("200 OK|X|a\x7fb", "\\x7f"),
            ("200 OK|Content-Length|-1", "not a number"),
            ("200 OK|Content-Length|", "not a number"),
            ("200 OK|Content-Length|5, 5", "not a number"),
            ("200 OK|Content-Length|5|Content-Length|6", "both 5 and 6"),
            ("200 OK|Lonely", "incomplete"),
        ] {
            let error = head(text).map(|h| fields(&h)).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(ResponseHead::from_wire(b"200 OK").is_err());
    }

    #[test]
    fn lengths_and_bodies() {
        let ok = head("200 OK|content-length|12").unwrap();
        assert_eq!(ok.content_length(), Some(12));
        assert!(ok.allows_body(b"GET"));
        assert!(!ok.allows_body(b"HEAD"));
        for (text, allowed) in [("204 N", false), ("304 N", false), ("500 E", true)] {
            let head = head(text).unwrap();
            assert_eq!(head.allows_body(b"POST"), allowed, "{text}");
            assert_eq!(head.content_length(), None);
        }
    }

    #[test]
    fn a_location_with_status_200_stays_where_it_is_harmless() {
        for (software, text, stays) in [
            ("Apache/2.4", "200 OK|Location|/p", false),
            ("Apache/2.4", "200 OK|location|http://a/p", false),
            ("Apache/2.4", "302 Found|Location|/p", true),
            ("Apache/2.4", "201 Created|Location|/p", true),
            ("LiteSpeed", "200 OK|Location|/p", false),
            ("", "200 OK|Location|/p", false),
            ("nginx/1.22.1", "200 OK|Location|/p", true),
            ("lighttpd/1.4.69", "200 OK|Location|/p", true),
        ] {
            let mut request = Pairs::new();
            request.push(b"SERVER_SOFTWARE", software.as_bytes());
            let mut head = head(&format!("{text}|X-After|1")).unwrap();
            head.drop_stray_location(&request);
            assert_eq!(head.get(b"Location").is_some(), stays, "{software} {text}");
            assert!(head.get(b"X-After").is_some());
        }
    }

    #[test]
    fn heads_that_web_servers_refuse_are_named() {
        let count = |text: &str| head(text).unwrap().warnings().len();
        assert_eq!(count("200 OK|Content-Type|text/html"), 0);
        assert_eq!(count(&format!("200 OK|X-Long|{}", "x".repeat(4070))), 1);
        assert_eq!(count(&format!("200 OK|X-Long|{}", "x".repeat(8191))), 2);
        assert_eq!(count(&format!("200 OK{}", "|A|b".repeat(100))), 0);
        assert_eq!(count(&format!("200 OK{}", "|A|b".repeat(101))), 1);
    }
}
