//! The status page: who knows its secret gets it from the front; for all others it does not exist, and their requests
//! go to the app.

use crate::bytes::{is_secret, percent_decode};
use crate::config::Status;
use crate::pairs::Pairs;
use crate::response::ResponseHead;
use crate::rundir::RuntimeDir;
use crate::status::collect::Site;
use crate::status::command::Form;
use std::time::SystemTime;

/// The page in this form, of the site that `name` names; `dir`: where its fronts tell of themselves.
pub(super) fn page(form: Form, dir: Option<&RuntimeDir>, name: &str) -> (ResponseHead, String) {
    let dirs: Vec<_> = dir.iter().map(|dir| dir.path().to_owned()).collect();
    let mut site = Site::collect(&dirs, name, SystemTime::now());
    if dirs.is_empty() {
        site.notes.push(String::from(
            "There is no runtime directory, so the fronts cannot tell of themselves.",
        ));
    }
    let body = form.render(&site);
    let mut fields = Pairs::new();
    for (name, value) in [
        ("Content-Type", form.content_type()),
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
    (head, body)
}

/// Whether a request is for the page, by someone who knows its secret: then in which form, and what of the request may be
/// logged.
pub(super) fn asked_for(environ: &Pairs, status: &Status) -> Option<(Form, Pairs)> {
    let (path, secret) = (status.path.as_ref()?, status.secret.as_ref()?);
    let form = asked(environ, path, secret)?;
    Some((form, without(environ, secret)))
}

/// In which form the page is asked for, by someone who knows the secret.
fn asked(environ: &Pairs, path: &str, secret: &str) -> Option<Form> {
    let get = |name: &str| environ.get(name.as_bytes()).unwrap_or_default();
    let whole = [get("SCRIPT_NAME"), get("PATH_INFO")].concat();
    let here = whole == path.as_bytes() || get("PATH_INFO") == path.as_bytes();
    if !here || secret.is_empty() || !matches!(get("REQUEST_METHOD"), b"GET" | b"HEAD") {
        return None;
    }
    let bearer = get("HTTP_AUTHORIZATION")
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    let known = [
        query(get("QUERY_STRING"), b"secret"),
        bearer.map(|(_, token)| token.trim_ascii().to_vec()),
        Some(get("HTTP_X_RUNFCGI_SECRET").to_vec()),
    ];
    // Each is compared, so that time tells nothing.
    let matching = known
        .iter()
        .flatten()
        .filter(|given| is_secret(given, secret.as_bytes()))
        .count();
    (matching > 0).then(|| Form::named(&query(get("QUERY_STRING"), b"format").unwrap_or_default()))
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

/// The request as it may be logged: no query, and nothing else that holds the secret.
fn without(environ: &Pairs, secret: &str) -> Pairs {
    let mut out = Pairs::new();
    for (name, value) in environ.iter() {
        let holds = value
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        let telling = [
            &b"HTTP_AUTHORIZATION"[..],
            b"HTTP_X_RUNFCGI_SECRET",
            b"HTTP_COOKIE",
        ]
        .contains(&name);
        if name.ends_with(b"QUERY_STRING") {
            out.push(name, b"");
        } else if name.ends_with(b"_URI") || name.ends_with(b"_URL") || name == b"HTTP_REFERER" {
            let end = value.iter().position(|b| *b == b'?').unwrap_or(value.len());
            out.push(name, &value[..end]);
        } else if !holds && !telling {
            out.push(name, value);
        }
    }
    out
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
    fn only_who_knows_the_secret_gets_the_page() {
        let get = ("REQUEST_METHOD", "GET");
        let here = ("PATH_INFO", "/-/status");
        let good = "secret=long+random%2Btext&format=json";
        let table: [(Given, Option<Form>); 12] = [
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
            (&[get, here, ("QUERY_STRING", good)], Some(Form::Json)),
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
                Some(Form::Html),
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
                Some(Form::Text),
            ),
            (
                &[
                    get,
                    ("SCRIPT_NAME", "/-"),
                    ("PATH_INFO", "/status"),
                    ("QUERY_STRING", good),
                ],
                Some(Form::Json),
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
                Some(Form::Prometheus),
            ),
        ];
        for (pairs, expected) in table {
            assert_eq!(
                asked(&request(pairs), "/-/status", SECRET),
                expected,
                "{pairs:?}"
            );
        }
        assert_eq!(
            asked(
                &request(&[get, here, ("QUERY_STRING", "secret=")]),
                "/-/status",
                ""
            ),
            None
        );
    }

    #[test]
    fn what_is_logged_does_not_hold_the_secret() {
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
        let left = without(&environ, SECRET);
        let text = String::from_utf8(left.as_bytes().to_vec()).unwrap();
        assert!(!text.contains("random"), "{text}");
        assert_eq!(left.get(b"REQUEST_URI"), Some(&b"/-/status"[..]));
        assert_eq!(left.get(b"REMOTE_ADDR"), Some(&b"::1"[..]));
    }
}
