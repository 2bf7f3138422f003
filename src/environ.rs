//! `normalise`: turns the CGI variables that a web server sends into the environment of a WSGI application.
//!
//! RFC 3875 section 4.1 and PEP 3333 define the variables, but every web server deviates in its own way. This module
//! removes the differences, for all protocols. Pure functions: no protocol, socket, clock or log, and no access to the
//! environment of this process.

mod path;

use crate::bytes::{fnv, without_secrets};
use crate::config::ScriptName;
use crate::pairs::Pairs;
use path::{PathVars, Split};
use std::borrow::Cow;
use std::collections::HashSet;

/// Whether the web server fills REMOTE_USER from the Authorization header without checking the password. HAProxy does,
/// and so does nginx as Debian configures it.
pub fn has_unchecked_user(sent: &Pairs) -> bool {
    let software = sent.get(b"SERVER_SOFTWARE").unwrap_or_default();
    let is = |name: &[u8]| {
        software
            .get(..name.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(name))
    };
    is(b"nginx") || is(b"haproxy")
}

/// Where the application is mounted, and whether the web server authenticates users.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The setting for SCRIPT_NAME.
    pub script_name: ScriptName,
    /// The file name of our executable as the web server knows it, such as `mysite.fcgi`.
    pub file_name: String,
    /// Whether REMOTE_USER and AUTH_TYPE can be trusted.
    pub trust_remote_user: bool,
}

impl Mount {
    /// A mount. Trailing slashes of a forced prefix are removed.
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

/// The environment for the application. The same request gives the same environment behind every web server.
///
/// SCRIPT_NAME and PATH_INFO together are the path of REQUEST_URI, decoded once, with `.`, `..` and double slashes
/// resolved as Apache does. So `/a//b` and `/a%2Fb` always become `/a/b`, and `/a%252Fb` becomes `/a%2Fb`. If the path
/// ends with the PATH_INFO that the server sent, the rest is SCRIPT_NAME. The server's own PATH_INFO is used if the URL
/// was rewritten beyond recognition, or if the server is Cherokee, which sends REQUEST_URI decoded. REQUEST_URI itself is
/// passed on unchanged, and is not invented where it is missing.
///
/// Further rules:
/// - variables whose names contain anything but letters, digits and `_` are dropped;
/// - repeated header fields are joined with `, ` (Cookie with `; `), except Host and Authorization; of any other repeated
///   variable the first is used;
/// - CONTENT_LENGTH is the length of the received body; an empty CONTENT_TYPE is dropped;
/// - HTTPS is `on` or absent;
/// - HTTP_AUTHORIZATION is taken from any of the names that servers give it; variables of the owner's that internal
///   redirects have renamed to `REDIRECT_…` are also available under their own names;
/// - HTTP_PROXY, SCRIPT_URL, REDIRECT_URL and other misleading variables are dropped, as is REMOTE_USER unless trusted.
pub fn normalise(sent: &Pairs, mount: &Mount, body_len: u64) -> Pairs {
    let mut collector = Collector::default();
    let mut entries: Vec<Entry> = Vec::with_capacity(sent.len());
    let mut repeated = repeated(sent, fnv).into_iter().peekable();
    for (index, (name, value)) in sent.iter().enumerate() {
        if let Some((_, first)) = repeated.next_if(|(again, _)| *again == index) {
            if let Ok(at) = entries.binary_search_by_key(&first, |entry| entry.index) {
                entries[at].join(value);
            }
        } else if is_valid_name(name) {
            let kept = collector.collect(name, value, mount);
            entries.push(Entry {
                index,
                kept,
                name,
                value: Cow::Borrowed(value),
            });
        }
    }

    let mut out = Pairs::with_capacity(sent.len() + 8, sent.as_bytes().len() + 256);
    for entry in entries.iter().filter(|entry| entry.kept) {
        match &entry.value {
            Cow::Borrowed(_) => out.push_from(sent, entry.index),
            Cow::Owned(joined) => out.push(entry.name, joined),
        };
    }
    if !collector.recovered.is_empty() {
        // `HashSet` hashes with a random key, so visitors cannot choose names that collide.
        let mut known: HashSet<&[u8]> = entries.iter().map(|entry| entry.name).collect();
        collector.recovered.sort_by_key(|(depth, ..)| *depth);
        for (_, name, value) in &collector.recovered {
            if known.insert(name) {
                out.push(name, value);
            }
        }
    }
    collector.append_derived(&mut out, mount, body_len);
    out
}

/// A request in one line for logs: `GET /path?query`, escaped, without secrets, cut after about 500 bytes.
pub fn describe(environ: &Pairs) -> String {
    const MAX_LEN: usize = 500;
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
    for &byte in without_secrets(&line).iter() {
        if text.len() >= MAX_LEN {
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

/// Collects the variables that are replaced, or from which others are derived.
#[derive(Default)]
struct Collector<'a> {
    path: PathVars<'a>,
    method: &'a [u8],
    query: Option<&'a [u8]>,
    protocol: &'a [u8],
    server_name: &'a [u8],
    server_port: &'a [u8],
    host: &'a [u8],
    content_length: &'a [u8],
    https: bool,
    /// The web server has decoded the path of REQUEST_URI (Cherokee).
    decoded: bool,
    authorization: Option<&'a [u8]>,
    /// HTTP_AUTHORIZATION under another name, and the number of redirects that renamed it. The fewest win.
    redirected_authorization: Option<(usize, &'a [u8])>,
    /// Variables that internal redirects have renamed: the number of redirects, the original name, the value.
    recovered: Vec<(usize, &'a [u8], &'a [u8])>,
}

impl<'a> Collector<'a> {
    /// Collects a variable. Returns whether the application also gets it as it is.
    fn collect(&mut self, name: &'a [u8], value: &'a [u8], mount: &Mount) -> bool {
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
                self.collect_authorization(0, value);
                return false;
            }
            b"REMOTE_USER" | b"AUTH_TYPE" => return mount.trust_remote_user && !value.is_empty(),
            b"CONTENT_TYPE" => return !value.is_empty(),
            // Only attackers send a Proxy header (httpoxy); the others are wrong or redundant.
            b"HTTP_PROXY"
            | b"HTTP_CONTENT_LENGTH"
            | b"HTTP_CONTENT_TYPE"
            | b"HTTP_TRANSFER_ENCODING"
            | b"PATH_TRANSLATED"
            | b"SCRIPT_URI" => return false,
            _ => {
                return !name.starts_with(b"REDIRECT_")
                    || self.collect_redirected(name, value, mount);
            }
        };
        *place = value;
        false
    }

    fn collect_redirected(&mut self, name: &'a [u8], value: &'a [u8], mount: &Mount) -> bool {
        let mut base = name;
        let mut depth = 0;
        while let Some(rest) = base.strip_prefix(b"REDIRECT_") {
            base = rest;
            depth += 1;
        }
        match base {
            b"HTTP_AUTHORIZATION" => {
                self.collect_authorization(depth, value);
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
        if !is_server_defined(base) {
            self.recovered.push((depth, base, value));
        }
        true
    }

    fn collect_authorization(&mut self, depth: usize, value: &'a [u8]) {
        let nearest = self
            .redirected_authorization
            .is_none_or(|(known, _)| depth < known);
        if nearest && !value.is_empty() {
            self.redirected_authorization = Some((depth, value));
        }
    }

    /// Appends the derived variables.
    fn append_derived(mut self, out: &mut Pairs, mount: &Mount, body_len: u64) {
        let target = self.path.request_uri;
        if self.decoded {
            // A `%2F` in it may have been `%2F` or `%252F`, so it says no more than SCRIPT_NAME and PATH_INFO.
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
        let other = self.redirected_authorization.map(|(_, value)| value);
        if let Some(value) = self.authorization.or(other) {
            out.push(b"HTTP_AUTHORIZATION", value);
        }
    }
}

/// Whether CGI or the web server defines this name, so that its `REDIRECT_` form is not a variable of the owner's.
fn is_server_defined(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 18] = [
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
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

fn is_true(value: &[u8]) -> bool {
    [&b"on"[..], b"1", b"true", b"yes"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

fn or<'a>(value: &'a [u8], otherwise: &'a [u8]) -> &'a [u8] {
    if value.is_empty() { otherwise } else { value }
}

/// Splits `host:port`. The port is empty if there is none, as with a bare IPv6 address.
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

/// A variable in the order in which it was sent.
struct Entry<'a> {
    index: usize,
    /// The application gets it.
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

/// The variables that repeat an earlier name: the index of each, and of the first with that name. Sorted by index.
fn repeated(sent: &Pairs, hash: impl Fn(&[u8]) -> u64) -> Vec<(usize, usize)> {
    // Sort by a hash first, as most names differ in it. Names crafted to collide cost one more comparison each, so no key
    // is needed.
    let names = sent.iter().enumerate();
    let mut names: Vec<_> = names
        .map(|(at, (name, _))| (hash(name), name, at))
        .collect();
    names.sort_unstable();
    let mut repeats = Vec::new();
    for same in names.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        repeats.extend(same[1..].iter().map(|again| (again.2, same[0].2)));
    }
    repeats.sort_unstable();
    repeats
}

/// Whether CGI allows this name for a variable.
fn is_valid_name(name: &[u8]) -> bool {
    const VALID: [bool; 256] = {
        let mut valid = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            valid[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'_';
            byte += 1;
        }
        valid
    };
    !name.is_empty() && name.iter().all(|byte| VALID[usize::from(*byte)])
}

#[cfg(test)]
mod tests;
