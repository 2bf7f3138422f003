//! The status page. The front serves it to requests that carry its secret. All other requests go to the app, as if
//! there were no such page.

use crate::bytes::{is_secret, percent_decode};
use crate::config::Status;
use crate::owner::{Reply, SiteView, redact};
use crate::pairs::Pairs;
use crate::response::ResponseHead;
use crate::status::collect::Site;
use crate::status::command::Format;
use std::rc::Rc;
use std::time::SystemTime;

/// Renders the page in this format. `redacted` holds the variables of the request that may be logged.
pub(super) fn reply(format: Format, redacted: Pairs, site: &SiteView<'_>) -> Reply {
    let dirs: Vec<_> = site.dir.iter().map(|dir| dir.path().to_owned()).collect();
    let mut status = Site::collect(&dirs, site.name, SystemTime::now());
    if dirs.is_empty() {
        status.notes.push(String::from(
            "There is no runtime directory, so the fronts cannot report.",
        ));
    }
    let body = format.render(&status);
    let mut fields = Pairs::new();
    for (name, value) in [
        ("Content-Type", format.content_type()),
        ("Content-Length", &body.len().to_string()),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Robots-Tag", "noindex"),
        (
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ] {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    let head = ResponseHead {
        status: 200,
        reason: b"OK".to_vec(),
        fields,
    };
    Reply {
        head,
        body: body.into_bytes(),
        redacted: Rc::new(redacted),
        note: None,
        file: None,
        restart: false,
    }
}

/// For a request that asks for the page and carries its secret: the format, and the variables that may be logged.
pub(super) fn requested(environ: &Pairs, status: &Status) -> Option<(Format, Pairs)> {
    let (path, secret) = (status.path.as_ref()?, status.secret.as_ref()?);
    let format = authorized_format(environ, path, secret)?;
    Some((format, redact(environ, secret)))
}

/// The format of the page, for a request that asks for it and carries its secret.
fn authorized_format(environ: &Pairs, path: &str, secret: &str) -> Option<Format> {
    let get = |name: &str| environ.get(name.as_bytes()).unwrap_or_default();
    let whole = [get("SCRIPT_NAME"), get("PATH_INFO")].concat();
    let matches = whole == path.as_bytes() || get("PATH_INFO") == path.as_bytes();
    if !matches || secret.is_empty() || !matches!(get("REQUEST_METHOD"), b"GET" | b"HEAD") {
        return None;
    }
    let bearer = get("HTTP_AUTHORIZATION")
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    let given = [
        query(get("QUERY_STRING"), b"secret"),
        bearer.map(|(_, token)| token.trim_ascii().to_vec()),
        Some(get("HTTP_X_RUNFCGI_SECRET").to_vec()),
    ];
    // Compare them all, so that the time taken reveals nothing.
    let matching = given
        .iter()
        .flatten()
        .filter(|value| is_secret(value, secret.as_bytes()))
        .count();
    (matching > 0)
        .then(|| Format::named(&query(get("QUERY_STRING"), b"format").unwrap_or_default()))
}

/// The value of the first `name=value` in a query, decoded.
fn query(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let pairs = query.split(|b| *b == b'&');
    let value = pairs
        .filter_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
        .next()?;
    let spaced: Vec<u8> = value
        .iter()
        .map(|&b| if b == b'+' { b' ' } else { b })
        .collect();
    Some(percent_decode(&spaced).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "long random+text";

    type Given<'a> = &'a [(&'a str, &'a str)];

    fn request(pairs: Given<'_>) -> Pairs {
        let mut environ = Pairs::new();
        for (name, value) in pairs {
            environ.push(name.as_bytes(), value.as_bytes());
        }
        environ
    }

    #[test]
    fn only_requests_with_the_secret_get_the_page() {
        let get = ("REQUEST_METHOD", "GET");
        let here = ("PATH_INFO", "/-/status");
        let good = "secret=long+random%2Btext&format=json";
        let table: [(Given, Option<Format>); 12] = [
            (&[get, here], None),
            (&[get, here, ("QUERY_STRING", "secret=")], None),
            (
                &[get, here, ("QUERY_STRING", "secret=long+random%2Btex")],
                None,
            ),
            (
                &[get, here, ("QUERY_STRING", "secret=long+random%2Btextx")],
                None,
            ),
            (&[get, here, ("QUERY_STRING", good)], Some(Format::Json)),
            (
                &[get, ("PATH_INFO", "/-/statu"), ("QUERY_STRING", good)],
                None,
            ),
            (
                &[("REQUEST_METHOD", "POST"), here, ("QUERY_STRING", good)],
                None,
            ),
            (
                &[get, here, ("HTTP_AUTHORIZATION", "bearer long random+text")],
                Some(Format::Html),
            ),
            (
                &[get, here, ("HTTP_AUTHORIZATION", "Basic long random+text")],
                None,
            ),
            (
                &[
                    get,
                    here,
                    ("HTTP_X_RUNFCGI_SECRET", SECRET),
                    ("QUERY_STRING", "format=text"),
                ],
                Some(Format::Text),
            ),
            (
                &[
                    get,
                    ("SCRIPT_NAME", "/-"),
                    ("PATH_INFO", "/status"),
                    ("QUERY_STRING", good),
                ],
                Some(Format::Json),
            ),
            (
                &[
                    ("REQUEST_METHOD", "HEAD"),
                    here,
                    (
                        "QUERY_STRING",
                        "x&format=prometheus&secret=long random%2btext",
                    ),
                ],
                Some(Format::Prometheus),
            ),
        ];
        for (pairs, expected) in table {
            assert_eq!(
                authorized_format(&request(pairs), "/-/status", SECRET),
                expected,
                "{pairs:?}"
            );
        }
        assert_eq!(
            authorized_format(
                &request(&[get, here, ("QUERY_STRING", "secret=")]),
                "/-/status",
                ""
            ),
            None
        );
    }

    #[test]
    fn logged_variables_do_not_contain_the_secret() {
        let environ = request(&[
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/-/status?secret=long+random%2Btext"),
            ("QUERY_STRING", "secret=long+random%2Btext"),
            ("REDIRECT_QUERY_STRING", "secret=long+random%2Btext"),
            (
                "HTTP_REFERER",
                "https://a/-/status?secret=long+random%2Btext",
            ),
            ("HTTP_AUTHORIZATION", "Bearer long random+text"),
            ("HTTP_X_OTHER", "a long random+text b"),
            ("REMOTE_ADDR", "::1"),
        ]);
        let left = redact(&environ, SECRET);
        let text = String::from_utf8(left.as_bytes().to_vec()).unwrap();
        assert!(!text.contains("random"), "{text}");
        assert_eq!(left.get(b"REQUEST_URI"), Some(&b"/-/status"[..]));
        assert_eq!(left.get(b"REMOTE_ADDR"), Some(&b"::1"[..]));
    }
}
