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
    let mut names = Names::new(sent.len());
    for (index, (name, value)) in sent.iter().enumerate() {
        match names.insert(index, name, value) {
            Insert::New => {
                if !found.take(name, value, mount) {
                    names.drop_last();
                }
            }
            Insert::Again(entry) => entry.join(value),
            Insert::BadName => {}
        }
    }

    let mut out = Pairs::with_capacity(sent.len() + 8, sent.as_bytes().len() + 256);
    for entry in names.entries.iter().filter(|entry| entry.kept) {
        match &entry.value {
            Cow::Borrowed(_) => out.push_from(sent, entry.index),
            Cow::Owned(joined) => out.push(entry.name, joined),
        };
    }
    found.recovered.sort_by_key(|(depth, ..)| *depth);
    for (_, name, value) in &found.recovered {
        if let Insert::New = names.insert(0, name, value) {
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
            let mut digits = [0; 20];
            out.push(b"CONTENT_LENGTH", decimal(body_len, &mut digits));
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

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The variables in order, with a table that finds the ones that come twice.
struct Names<'a> {
    entries: Vec<Entry<'a>>,
    slots: Vec<u32>,
}

struct Entry<'a> {
    hash: u32,
    index: usize,
    kept: bool,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

enum Insert<'n, 'a> {
    New,
    Again(&'n mut Entry<'a>),
    BadName,
}

impl<'a> Names<'a> {
    fn new(pairs: usize) -> Names<'a> {
        Names {
            entries: Vec::with_capacity(pairs + 8),
            // Recovered variables go in as well, each beside its sent form.
            slots: vec![u32::MAX; (pairs * 4).next_power_of_two().max(64)],
        }
    }

    fn insert(&mut self, index: usize, name: &'a [u8], value: &'a [u8]) -> Insert<'_, 'a> {
        let Some(hash) = hash_of(name) else {
            return Insert::BadName;
        };
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        while let Some(entry) = self.entries.get(self.slots[slot] as usize) {
            if entry.hash == hash && entry.name == name {
                let at = self.slots[slot] as usize;
                return Insert::Again(&mut self.entries[at]);
            }
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = self.entries.len() as u32;
        self.entries.push(Entry {
            hash,
            index,
            kept: true,
            name,
            value: Cow::Borrowed(value),
        });
        Insert::New
    }

    fn drop_last(&mut self) {
        if let Some(entry) = self.entries.last_mut() {
            entry.kept = false;
        }
    }
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

/// A hash of a proper variable name; `None` for an improper one.
fn hash_of(name: &[u8]) -> Option<u32> {
    const PROPER: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < table.len() {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'_';
            byte += 1;
        }
        table
    };
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let proper = name.iter().all(|&byte| PROPER[usize::from(byte)]);
    if name.is_empty() || !proper {
        return None;
    }
    let mut hash = name.len() as u64;
    let mut mix = |word: u64| hash = (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
    let (words, rest) = name.as_chunks::<8>();
    for word in words {
        mix(u64::from_le_bytes(*word));
    }
    match name.last_chunk::<8>() {
        // The last word may overlap the one before it.
        Some(last) if !rest.is_empty() => mix(u64::from_le_bytes(*last)),
        Some(_) => {}
        None => mix(rest.iter().fold(0, |word, &b| word << 8 | u64::from(b))),
    }
    Some((hash >> 32) as u32)
}

#[cfg(test)]
mod tests;
