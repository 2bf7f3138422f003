//! `Url`: an address with http or https. Does no I/O.

use std::fmt;

/// An absolute URL without user name, password and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(super) https: bool,
    /// The host, and the port if it is not the default.
    pub(super) authority: String,
    /// The path, percent-encoded, with the query if there is one.
    pub(super) path: String,
}

impl Url {
    /// Parses a URL. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Url, &'static str> {
        let scheme = |name: &str| {
            let (begin, rest) = text.split_at_checked(name.len())?;
            begin.eq_ignore_ascii_case(name).then_some(rest)
        };
        let (https, rest) = match (scheme("https://"), scheme("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("it begins neither with https:// nor with http://"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it must not contain a user name or password");
        }
        let of_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if authority.is_empty() || !authority.bytes().all(of_host) {
            return Err("the name of the host is wrong; write an international name as xn--...");
        }
        let of_path = |b: u8| b.is_ascii_graphic() && !b"\"\\<>^`{}|".contains(&b);
        if !path.bytes().all(of_path) {
            return Err("a character in its path must be percent-encoded");
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url {
            https,
            authority: authority.to_ascii_lowercase(),
            path: format!("{slash}{path}"),
        })
    }

    /// The URL of a directory: without a query, and with a slash at its end.
    pub(super) fn as_directory(&self) -> Url {
        let path = self.path.split('?').next().unwrap_or_default();
        self.at(&format!("{}/", path.trim_end_matches('/')))
    }

    /// The URL of another path on the same host.
    pub(super) fn at(&self, path: &str) -> Url {
        Url {
            path: path.to_owned(),
            ..self.clone()
        }
    }

    /// The URL that a reference on this page means (RFC 3986 section 5.2), as browsers send it to a server. None: it is no
    /// address with http or https.
    pub(super) fn join(&self, reference: &str) -> Option<Url> {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = if self.https { "https:" } else { "http:" };
        let base = self.path.split('?').next().unwrap_or_default();
        let directory = &base[..base.rfind('/').map_or(0, |at| at + 1)];
        let colon = reference.find(':').unwrap_or(usize::MAX);
        let whole = match reference {
            _ if reference.starts_with("//") => format!("{scheme}{reference}"),
            _ if reference.starts_with('/') => format!("{scheme}//{}{reference}", self.authority),
            _ if reference.find(['/', '?']).is_none_or(|at| colon < at) && colon < usize::MAX => {
                reference.to_owned()
            }
            "" => format!("{scheme}//{}{}", self.authority, self.path),
            _ if reference.starts_with('?') => {
                format!("{scheme}//{}{base}{reference}", self.authority)
            }
            _ => format!("{scheme}//{}{directory}{reference}", self.authority),
        };
        let mut url = Url::parse(&whole).ok()?;
        url.path = without_dots(&url.path);
        Some(url)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// The path without `.` and `..`.
fn without_dots(path: &str) -> String {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (path, String::new()),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// A name as a segment of a path.
pub(super) fn encode(name: &[u8]) -> String {
    name.iter()
        .map(|byte| match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(b) => char::from(*b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for (text, parsed) in [
            ("https://example.org", Ok("https://example.org/")),
            (
                "HTTP://Example.org:80/a?b#c",
                Ok("http://example.org:80/a?b"),
            ),
            ("http://[::1]:8000/%20", Ok("http://[::1]:8000/%20")),
            ("https://a?b", Ok("https://a/?b")),
            ("example.org", Err("neither")),
            ("ftp://example.org/", Err("neither")),
            ("https://", Err("the host")),
            ("https://a b/", Err("the host")),
            ("https://-oProxy=x", Err("the host")),
            ("https://user:secret@a/", Err("user name")),
            ("https://a/b c", Err("percent-encoded")),
            ("https://a/\n", Err("percent-encoded")),
        ] {
            match (Url::parse(text), parsed) {
                (Ok(url), Ok(shown)) => assert_eq!(url.to_string(), shown, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        assert_eq!(encode("a b/\u{e9}~".as_bytes()), "a%20b%2F%C3%A9~");
    }

    #[test]
    fn references_are_resolved() {
        let page = Url::parse("https://a/b/c?d").unwrap();
        for (reference, url) in [
            ("e.css", Some("https://a/b/e.css")),
            ("./../e?f:g", Some("https://a/e?f:g")),
            ("../../../e/.", Some("https://a/e/")),
            ("/e", Some("https://a/e")),
            ("//f:81/e#x", Some("https://f:81/e")),
            ("http://f", Some("http://f/")),
            ("", Some("https://a/b/c?d")),
            ("?e", Some("https://a/b/c?e")),
            ("data:text/css,x", None),
            ("javascript:alert(1)", None),
            ("/a\"b", None),
        ] {
            let joined = page.join(reference).map(|url| url.to_string());
            assert_eq!(joined.as_deref(), url, "{reference}");
        }
        assert_eq!(page.as_directory().path, "/b/c/");
        assert_eq!(page.at("/").as_directory().path, "/");
    }
}
