//! `Visit`: a request for the desk: which page it is for, who sent it, and what of it may be logged. Does no I/O.

use super::form::Form;
use crate::pairs::Pairs;
use std::fmt::Write;
use std::net::IpAddr;

/// A request whose path is the desk's or below it.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    environ: &'a Pairs,
    /// The desk's path as the browser sees it, percent-encoded.
    pub(super) url: String,
    /// The path after it, without a trailing slash: empty, or begins with `/`.
    pub(super) subpath: &'a str,
    pub(super) method: &'a [u8],
    pub(super) https: bool,
}

impl<'a> Visit<'a> {
    /// The request, if it is for the desk at `path`. Takes `path` as relative to the site (`PATH_INFO`), else as
    /// relative to the host (`SCRIPT_NAME` and `PATH_INFO`).
    pub(super) fn at(path: &str, environ: &'a Pairs) -> Option<Visit<'a>> {
        let get = |name: &str| environ.get(name.as_bytes()).unwrap_or_default();
        let (script, info) = (get("SCRIPT_NAME"), get("PATH_INFO"));
        let after = |whole: &'a [u8], path: &[u8]| {
            let rest = std::str::from_utf8(whole.strip_prefix(path)?).ok()?;
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            (rest.is_empty() || rest.starts_with('/')).then_some(rest)
        };
        let path = path.trim_end_matches('/').as_bytes();
        let (subpath, prefix) = match after(info, path) {
            Some(rest) => (rest, script),
            None if path.starts_with(script) => (after(info, &path[script.len()..])?, &b""[..]),
            None => return None,
        };
        Some(Visit {
            url: url(&[prefix, path].concat()),
            subpath,
            method: get("REQUEST_METHOD"),
            // A client that forges this header exposes only its own secret.
            https: get("HTTPS") == b"on" || get("HTTP_X_FORWARDED_PROTO") == b"https",
            environ,
        })
    }

    /// Whether nobody on the network can read the request: it came over HTTPS, or from this machine and not through a
    /// proxy.
    pub(super) fn is_secure(&self) -> bool {
        const FORWARDED: [&[u8]; 3] = [
            b"HTTP_X_FORWARDED_FOR",
            b"HTTP_FORWARDED",
            b"HTTP_X_REAL_IP",
        ];
        let forwarded = FORWARDED
            .iter()
            .any(|name| self.environ.get(name).is_some());
        let loopback = self.address().is_some_and(|address| address.is_loopback());
        self.https || loopback && !forwarded
    }

    /// The `Cookie` header, or nothing.
    pub(super) fn cookies(&self) -> &'a [u8] {
        self.environ.get(b"HTTP_COOKIE").unwrap_or_default()
    }

    /// A parameter of the query string, decoded; empty if it is missing.
    pub(super) fn query(&self, name: &str) -> String {
        let query = self.environ.get(b"QUERY_STRING").unwrap_or_default();
        Form::parse(query).get(name).to_owned()
    }

    /// The client's IP address, for the log.
    pub(super) fn client(&self) -> String {
        let address = self.address();
        address.map_or_else(
            || String::from("an unknown address"),
            |address| address.to_string(),
        )
    }

    fn address(&self) -> Option<IpAddr> {
        let address = std::str::from_utf8(self.environ.get(b"REMOTE_ADDR")?).ok()?;
        Some(address.parse::<IpAddr>().ok()?.to_canonical())
    }
}

/// The variables of a request that may be logged: without query strings, credentials and whatever else contains the secret.
pub fn redact(environ: &Pairs, secret: &str) -> Pairs {
    const CREDENTIALS: [&[u8]; 3] = [
        b"HTTP_AUTHORIZATION",
        b"HTTP_COOKIE",
        b"HTTP_X_RUNFCGI_SECRET",
    ];
    let mut redacted = Pairs::new();
    for (name, value) in environ.iter() {
        let is_url = name.ends_with(b"_URI") || name.ends_with(b"_URL") || name == b"HTTP_REFERER";
        let query = value.iter().position(|b| is_url && *b == b'?');
        let end = match name.ends_with(b"QUERY_STRING") {
            true => 0,
            false => query.unwrap_or(value.len()),
        };
        let value = &value[..end];
        let mut parts = value.windows(secret.len().max(1));
        if !parts.any(|part| part == secret.as_bytes()) && !CREDENTIALS.contains(&name) {
            redacted.push(name, value);
        }
    }
    redacted
}

/// Percent-encodes a path for a header and for HTML.
fn url(path: &[u8]) -> String {
    path.iter().fold(String::new(), |mut out, byte| {
        let plain = byte.is_ascii_alphanumeric() || b"/-._~!$'()*+,:@".contains(byte);
        let _ = match plain && *byte != b'\'' {
            true => write!(out, "{}", char::from(*byte)),
            false => write!(out, "%{byte:02X}"),
        };
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environ(pairs: &[(&str, &str)]) -> Pairs {
        let mut environ = Pairs::new();
        for (name, value) in pairs {
            environ.push(name.as_bytes(), value.as_bytes());
        }
        environ
    }

    #[test]
    fn paths_of_the_desk() {
        for (script, info, expected) in [
            ("", "/-/x", Some(("/-/x", ""))),
            ("", "/-/x/", Some(("/-/x", ""))),
            ("", "/-/x/log", Some(("/-/x", "/log"))),
            ("", "/-/x2", None),
            ("", "/-", None),
            ("", "/", None),
            ("/shop", "/-/x/tasks", Some(("/shop/-/x", "/tasks"))),
            ("/a b;c", "/-/x", Some(("/a%20b%3Bc/-/x", ""))),
            ("/-", "/x/log", Some(("/-/x", "/log"))),
            ("/-/x", "", Some(("/-/x", ""))),
        ] {
            let environ = environ(&[("SCRIPT_NAME", script), ("PATH_INFO", info)]);
            let visit = Visit::at("/-/x", &environ);
            let got = visit
                .as_ref()
                .map(|visit| (visit.url.as_str(), visit.subpath));
            assert_eq!(got, expected, "{script} {info}");
        }
    }

    #[test]
    fn https_or_this_machine_is_secure() {
        let proxied = ("HTTP_X_FORWARDED_FOR", "203.0.113.9");
        for (https, address, header, secure) in [
            ("on", "203.0.113.9", None, true),
            ("", "203.0.113.9", None, false),
            ("", "127.0.0.1", None, true),
            ("", "::1", None, true),
            ("", "::ffff:127.0.0.1", None, true),
            ("", "127.0.0.1.example.org", None, false),
            ("", "", None, false),
            ("", "127.0.0.1", Some(proxied), false),
            ("on", "127.0.0.1", Some(proxied), true),
            (
                "",
                "10.0.0.1",
                Some(("HTTP_X_FORWARDED_PROTO", "https")),
                true,
            ),
        ] {
            let mut pairs = vec![
                ("PATH_INFO", "/-/x"),
                ("HTTPS", https),
                ("REMOTE_ADDR", address),
            ];
            pairs.extend(header);
            let environ = environ(&pairs);
            let visit = Visit::at("/-/x", &environ).unwrap();
            assert_eq!(visit.is_secure(), secure, "{https} {address} {header:?}");
        }
    }

    #[test]
    fn logged_variables_do_not_contain_the_secret() {
        let environ = environ(&[
            ("PATH_INFO", "/-/x"),
            ("HTTP_COOKIE", "runfcgi-desk=1.2.3"),
            ("QUERY_STRING", "q=1"),
            ("REQUEST_URI", "/-/x?q=1"),
            ("HTTP_X_OTHER", "a sesame b"),
            ("REMOTE_ADDR", "::1"),
        ]);
        let shown = redact(&environ, "sesame");
        assert_eq!(shown.get(b"REQUEST_URI"), Some(&b"/-/x"[..]));
        assert_eq!(shown.get(b"QUERY_STRING"), Some(&b""[..]));
        assert_eq!(shown.get(b"REMOTE_ADDR"), Some(&b"::1"[..]));
        assert_eq!(shown.get(b"HTTP_COOKIE"), None);
        assert_eq!(shown.get(b"HTTP_X_OTHER"), None);
    }
}
