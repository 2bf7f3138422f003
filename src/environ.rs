//! `normalise`: from what any web server sends to the environment that a WSGI application sees.
//!
//! RFC 3875 section 4.1 and PEP 3333 name the variables; every web server bends them in its own way. Here they are
//! made alike, once, for all protocols. Pure: knows no protocol, socket, clock or log, and never the process's own
//! environment.

mod path;

use crate::config::ScriptName;
use crate::pairs::Pairs;
use path::{Sent, Split};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

/// Whether the request comes from a web server that tells the user's name from a request without having checked it:
/// nginx as Debian sets it up, and HAProxy.
pub fn has_unchecked_user(sent: &Pairs) -> bool {
    let software = sent.get(b"SERVER_SOFTWARE").unwrap_or_default();
    let is = |name: &[u8]| {
        software
            .get(..name.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(name))
    };
    is(b"nginx") || is(b"haproxy")
}

/// What the site's owner and the place we run in say about requests.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where the application is mounted.
    pub script_name: ScriptName,
    /// Name of our executable in the web server's eyes, such as `mysite.fcgi`.
    pub file_name: String,
    /// REMOTE_USER and AUTH_TYPE come from a web server that has checked them.
    pub trust_remote_user: bool,
}

impl Mount {
    /// A forced prefix loses its trailing slashes.
    pub fn new(script_name: ScriptName, file_name: &str, trust_remote_user: bool) -> Mount {
        Mount {
            script_name: match script_name {
                ScriptName::Auto => ScriptName::Auto,
                ScriptName::Forced(prefix) => {
                    ScriptName::Forced(prefix.trim_end_matches('/').to_string())
                }
            },
            file_name: file_name.to_string(),
            trust_remote_user,
        }
    }
}

/// The environment for the application: the same for the same visit, whatever the web server.
///
/// SCRIPT_NAME and PATH_INFO come from the path of REQUEST_URI, decoded once, with `.`, `..` and double slashes
/// resolved, as Apache does before we could (so `/a//b` is `/a/b`, `/a%2Fb` is `/a/b`, and `/a%252Fb` is `/a%2Fb`
/// everywhere; who needs the visitor's spelling finds it in REQUEST_URI, which is never changed or made up). Where
/// that path ends with what the server sent as PATH_INFO, the rest is SCRIPT_NAME. Where the URL was rewritten beyond
/// recognition, and under Cherokee, whose REQUEST_URI is decoded already, the server's PATH_INFO stands.
///
/// The rest:
/// - a name with other characters than letters, digits and `_` is dropped;
/// - of a variable that comes twice the first counts; header fields are joined with `, ` (Cookie: `; `), Host and
///   Authorization are not;
/// - CONTENT_LENGTH is the length of the body that came in; empty CONTENT_TYPE is absent;
/// - HTTPS is `on` or absent;
/// - HTTP_AUTHORIZATION is found under all its names; a variable of the user that internal redirects renamed to
///   `REDIRECT_…` is there under its own name too;
/// - HTTP_PROXY, SCRIPT_URL, REDIRECT_URL and other traps are dropped, REMOTE_USER unless trusted.
pub fn normalise(sent: &Pairs, mount: &Mount, body_len: u64) -> Pairs {
    let mut found = Found::default();
    let mut entries: Vec<Entry> = Vec::with_capacity(sent.len());
    // The hash has a random key, so no visitor can choose names that collide.
    let mut known: HashMap<&[u8], usize> = HashMap::with_capacity(sent.len());
    for (index, (name, value)) in sent.iter().enumerate() {
        if !is_proper(name) {
            continue;
        }
        match known.entry(name) {
            Slot::Occupied(slot) => entries[*slot.get()].join(value),
            Slot::Vacant(slot) => {
                slot.insert(entries.len());
                let kept = found.take(name, value, mount);
                entries.push(Entry {
                    index,
                    kept,
                    name,
                    value: Cow::Borrowed(value),
                });
            }
        }
    }

    let mut out = Pairs::with_capacity(sent.len() + 8, sent.as_bytes().len() + 256);
    for entry in entries.iter().filter(|entry| entry.kept) {
        match &entry.value {
            Cow::Borrowed(_) => out.push_from(sent, entry.index),
            Cow::Owned(joined) => out.push(entry.name, joined),
        };
    }
    found.recovered.sort_by_key(|(depth, ..)| *depth);
    for (_, name, value) in &found.recovered {
        if known.insert(name, entries.len()).is_none() {
            out.push(name, value);
        }
    }
    found.add(&mut out, mount, body_len);
    out
}

/// A request in one line for logs: `GET /path?query`. Control characters are escaped, the length is bounded.
pub fn describe(environ: &Pairs) -> String {
    const LONGEST: usize = 500;
    let get = |name: &[u8]| environ.get(name).unwrap_or_default();
    let mut line = get(b"REQUEST_METHOD").to_vec();
    line.push(b' ');
    match environ.get(b"REQUEST_URI") {
        Some(uri) => line.extend_from_slice(uri),
        None => {
            line.extend_from_slice(get(b"SCRIPT_NAME"));
            line.extend_from_slice(get(b"PATH_INFO"));
            if !get(b"QUERY_STRING").is_empty() {
                line.push(b'?');
                line.extend_from_slice(get(b"QUERY_STRING"));
            }
        }
    }
    let mut text = String::new();
    for &byte in &line {
        if text.len() >= LONGEST {
            text.push_str("...");
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'\\' => text.push(char::from(byte)),
            _ => text.extend(std::ascii::escape_default(byte).map(char::from)),
        }
    }
    text
}

/// The variables that others are worked out from, or that are written anew.
#[derive(Default)]
struct Found<'a> {
    path: Sent<'a>,
    method: &'a [u8],
    query: Option<&'a [u8]>,
    protocol: &'a [u8],
    server_name: &'a [u8],
    server_port: &'a [u8],
    host: &'a [u8],
    content_length: &'a [u8],
    https: bool,
    /// The path of REQUEST_URI came decoded.
    decoded: bool,
    authorization: Option<&'a [u8]>,
    other_authorization: Option<(usize, &'a [u8])>,
    recovered: Vec<(usize, &'a [u8], &'a [u8])>,
}

impl<'a> Found<'a> {
    /// Notes a variable; whether it also goes to the application as it is.
    fn take(&mut self, name: &'a [u8], value: &'a [u8], mount: &Mount) -> bool {
        let place = match name {
            b"SCRIPT_NAME" => &mut self.path.script_name,
            b"PATH_INFO" => &mut self.path.path_info,
            b"SCRIPT_URL" => &mut self.path.script_url,
            b"REDIRECT_URL" => &mut self.path.redirect_url,
            b"REQUEST_METHOD" => &mut self.method,
            b"SERVER_PROTOCOL" => &mut self.protocol,
            b"SERVER_NAME" => &mut self.server_name,
            b"SERVER_PORT" => &mut self.server_port,
            b"CONTENT_LENGTH" => &mut self.content_length,
            b"REQUEST_URI" => {
                self.path.request_uri = value;
                return true;
            }
            b"SCRIPT_FILENAME" => {
                self.path.script_filename = value;
                return true;
            }
            b"SERVER_SOFTWARE" => {
                self.decoded = value.starts_with(b"Cherokee");
                return true;
            }
            b"HTTP_HOST" => {
                self.host = value;
                return true;
            }
            b"QUERY_STRING" => {
                self.query = Some(value);
                return false;
            }
            b"HTTPS" => {
                self.https |= is_true(value);
                return false;
            }
            b"REQUEST_SCHEME" => {
                self.https |= value.eq_ignore_ascii_case(b"https");
                return true;
            }
            b"HTTP_AUTHORIZATION" => {
                self.authorization = Some(value).filter(|v| !v.is_empty());
                return false;
            }
            b"Authorization" => {
                self.redirected_authorization(0, value);
                return false;
            }
            b"REMOTE_USER" | b"AUTH_TYPE" => return mount.trust_remote_user && !value.is_empty(),
            b"CONTENT_TYPE" => return !value.is_empty(),
            // Set from a request header by no one but an attacker (httpoxy), rubbish, or said better elsewhere.
            b"HTTP_PROXY"
            | b"HTTP_CONTENT_LENGTH"
            | b"HTTP_CONTENT_TYPE"
            | b"HTTP_TRANSFER_ENCODING"
            | b"PATH_TRANSLATED"
            | b"SCRIPT_URI" => return false,
            _ => {
                return !name.starts_with(b"REDIRECT_") || self.take_redirected(name, value, mount);
            }
        };
        *place = value;
        false
    }

    fn take_redirected(&mut self, name: &'a [u8], value: &'a [u8], mount: &Mount) -> bool {
        let mut base = name;
        let mut depth = 0;
        while let Some(rest) = base.strip_prefix(b"REDIRECT_") {
            base = rest;
            depth += 1;
        }
        match base {
            b"HTTP_AUTHORIZATION" => {
                self.redirected_authorization(depth, value);
                return false;
            }
            b"HTTPS" => {
                self.https |= is_true(value);
                return false;
            }
            b"REMOTE_USER" | b"AUTH_TYPE" => return mount.trust_remote_user,
            b"URL" | b"URI" | b"SCRIPT_URL" | b"SCRIPT_URI" | b"HTTP_PROXY" => return false,
            _ => {}
        }
        if !is_the_servers(base) {
            self.recovered.push((depth, base, value));
        }
        true
    }

    fn redirected_authorization(&mut self, depth: usize, value: &'a [u8]) {
        let nearer = self
            .other_authorization
            .is_none_or(|(known, _)| depth < known);
        if nearer && !value.is_empty() {
            self.other_authorization = Some((depth, value));
        }
    }

    /// Appends everything that is worked out.
    fn add(mut self, out: &mut Pairs, mount: &Mount, body_len: u64) {
        let target = self.path.request_uri;
        if self.decoded {
            // Nobody could tell `%2F` in it from what was `%252F`; SCRIPT_NAME and PATH_INFO say as much.
            self.path.request_uri = b"";
        }
        let split = Split::of(&self.path, mount);
        out.push(b"SCRIPT_NAME", &split.script_name);
        out.push(b"PATH_INFO", &split.path_info);
        let query = self.query.unwrap_or_else(|| {
            let mark = target.iter().position(|&b| b == b'?');
            mark.map_or(&b""[..], |at| &target[at + 1..])
        });
        out.push(b"QUERY_STRING", query);
        out.push(b"REQUEST_METHOD", or(self.method, b"GET"));
        out.push(b"SERVER_PROTOCOL", or(self.protocol, b"HTTP/1.1"));
        let (name, port) = split_port(self.server_name);
        let (host, host_port) = split_port(self.host);
        out.push(b"SERVER_NAME", or(or(name, host), b"localhost"));
        let usual: &[u8] = if self.https { b"443" } else { b"80" };
        let port = or(or(self.server_port, port), or(host_port, usual));
        out.push(b"SERVER_PORT", port);
        if self.https {
            out.push(b"HTTPS", b"on");
        }
        if body_len > 0 || !self.content_length.is_empty() {
            out.push(b"CONTENT_LENGTH", body_len.to_string().as_bytes());
        }
        let other = self.other_authorization.map(|(_, value)| value);
        if let Some(value) = self.authorization.or(other) {
            out.push(b"HTTP_AUTHORIZATION", value);
        }
    }
}

/// Names that belong to the web server or to CGI: never recovered from a `REDIRECT_` form.
fn is_the_servers(name: &[u8]) -> bool {
    const FAMILIES: [&[u8]; 18] = [
        b"HTTP_",
        b"SSL_",
        b"CONTENT_",
        b"CONTEXT_",
        b"DOCUMENT_",
        b"GATEWAY_",
        b"PATH",
        b"REMOTE_",
        b"REQUEST_",
        b"SCRIPT_",
        b"SERVER_",
        b"QUERY_",
        b"ORIG_",
        b"FCGI_",
        b"AUTH_",
        b"ERROR_",
        b"LD_",
        b"Authorization",
    ];
    const NAMES: [&[u8]; 6] = [b"", b"STATUS", b"UNIQUE_ID", b"HANDLER", b"SCGI", b"HOME"];
    FAMILIES.iter().any(|family| name.starts_with(family)) || NAMES.contains(&name)
}

fn is_true(value: &[u8]) -> bool {
    [&b"on"[..], b"1", b"true", b"yes"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

fn or<'a>(value: &'a [u8], otherwise: &'a [u8]) -> &'a [u8] {
    if value.is_empty() { otherwise } else { value }
}

/// `host:port` in two; the port is empty when there is none. A bare IPv6 address has none.
fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = host.iter().rposition(|&b| b == b':') else {
        return (host, b"");
    };
    let (name, port) = (&host[..colon], &host[colon + 1..]);
    let whole = !name.contains(&b':') || name.last() == Some(&b']');
    if whole && port.iter().all(u8::is_ascii_digit) {
        (name, port)
    } else {
        (host, b"")
    }
}

/// A variable as it was sent.
struct Entry<'a> {
    index: usize,
    kept: bool,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

impl Entry<'_> {
    fn join(&mut self, value: &[u8]) {
        let header = self.name.starts_with(b"HTTP_") && self.name != b"HTTP_HOST";
        if !header || !self.kept || *self.value == *value {
            return;
        }
        let between: &[u8] = match self.name {
            b"HTTP_COOKIE" => b"; ",
            _ => b", ",
        };
        let joined = self.value.to_mut();
        joined.extend_from_slice(between);
        joined.extend_from_slice(value);
    }
}

/// Whether it is a name that CGI allows for a variable.
fn is_proper(name: &[u8]) -> bool {
    let proper = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    !name.is_empty() && name.iter().all(proper)
}

#[cfg(test)]
mod tests;
