//! The variables that applications get for what web servers send.

use super::*;

fn pairs(list: &[(&str, &str)]) -> Pairs {
    let mut pairs = Pairs::new();
    for (name, value) in list {
        assert!(pairs.push(name.as_bytes(), value.as_bytes()));
    }
    pairs
}

fn mount(trust: bool) -> Mount {
    Mount::new(ScriptName::Auto, "mysite.fcgi", trust)
}

fn seen(list: &[(&str, &str)], body_len: u64) -> Pairs {
    normalise(&pairs(list), &mount(false), body_len)
}

fn value(environ: &Pairs, name: &str) -> Option<String> {
    let found: Vec<_> = environ
        .iter()
        .filter(|(n, _)| *n == name.as_bytes())
        .collect();
    assert!(found.len() < 2, "{name} comes twice");
    found
        .first()
        .map(|(_, v)| String::from_utf8_lossy(v).into_owned())
}

/// The variables sent, the name of a variable, and the value that the application gets.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<&'a str>);

#[rustfmt::skip]
#[test]
fn one_variable_at_a_time() {
    let rows: &[Row] = &[
        (&[("HTTP_PROXY", "http://evil/")], "HTTP_PROXY", None),
        (&[("HTTP_CONTENT_LENGTH", "5")], "HTTP_CONTENT_LENGTH", None),
        (&[("HTTP_CONTENT_TYPE", "a/b")], "HTTP_CONTENT_TYPE", None),
        (&[("HTTP_TRANSFER_ENCODING", "chunked")], "HTTP_TRANSFER_ENCODING", None),
        (&[("SCRIPT_URL", "/x")], "SCRIPT_URL", None),
        (&[("SCRIPT_URI", "http://h/x")], "SCRIPT_URI", None),
        (&[("REDIRECT_URL", "/x")], "REDIRECT_URL", None),
        (&[("REDIRECT_URI", "/x")], "REDIRECT_URI", None),
        (&[("REDIRECT_REDIRECT_URL", "/x")], "REDIRECT_REDIRECT_URL", None),
        (&[("REDIRECT_SCRIPT_URL", "/x")], "SCRIPT_URL", None),
        (&[("PATH_TRANSLATED", "redirect:/mysite.fcgi/foo//")], "PATH_TRANSLATED", None),
        (&[("REQUEST_URI", "/a//b?c")], "REQUEST_URI", Some("/a//b?c")),
        (&[], "REQUEST_URI", None),
        (&[("REDIRECT_STATUS", "200")], "REDIRECT_STATUS", Some("200")),
        (&[("REDIRECT_STATUS", "200")], "STATUS", None),
        (&[("GATEWAY_INTERFACE", "CGI/1.1")], "GATEWAY_INTERFACE", Some("CGI/1.1")),
        (&[("HTTP_X_SP.OT", "1")], "HTTP_X_SP.OT", None),
        (&[("wsgi.url_scheme", "https")], "wsgi.url_scheme", None),
        (&[("", "x")], "", None),
        // Cherokee has decoded /a%252Fb%3Fc, and has taken /a%20b for what it is
        (&[("SERVER_SOFTWARE", "Cherokee/1.2.104 (UNIX)"), ("REQUEST_URI", "/a%2Fb?c"), ("PATH_INFO", "/a%2Fb?c")], "PATH_INFO", Some("/a%2Fb?c")),
        (&[("SERVER_SOFTWARE", "Cherokee"), ("REQUEST_URI", "/s/a b?c"), ("SCRIPT_NAME", "/s"), ("PATH_INFO", "/a b"), ("SCRIPT_URL", "/s/a b")], "PATH_INFO", Some("/a b")),
        (&[("SERVER_SOFTWARE", "Cherokee"), ("REQUEST_URI", "/s/a b?c"), ("SCRIPT_NAME", "/s"), ("PATH_INFO", "/a b"), ("SCRIPT_URL", "/s/a b")], "SCRIPT_NAME", Some("/s")),
        (&[("SERVER_SOFTWARE", "Cherokee"), ("REQUEST_URI", "/a%2Fb"), ("PATH_INFO", "/a%2Fb")], "REQUEST_URI", Some("/a%2Fb")),
        (&[("SERVER_SOFTWARE", "nginx"), ("REQUEST_URI", "/a%2Fb"), ("PATH_INFO", "/a/b")], "PATH_INFO", Some("/a/b")),
        (&[("FCGI_ROLE", "AUTHORIZER"), ("REQUEST_URI", "/private/x")], "PATH_INFO", Some("/private/x")),
        (&[("FCGI_ROLE", "AUTHORIZER"), ("REQUEST_URI", "/private/x")], "SCRIPT_NAME", Some("")),
        (&[("FCGI_ROLE", "AUTHORIZER")], "FCGI_ROLE", Some("AUTHORIZER")),
        // authorization under all its names
        (&[("HTTP_AUTHORIZATION", "Basic a")], "HTTP_AUTHORIZATION", Some("Basic a")),
        (&[("Authorization", "Basic a")], "HTTP_AUTHORIZATION", Some("Basic a")),
        (&[("Authorization", "Basic a")], "Authorization", None),
        (&[("Authorization", "Basic a"), ("HTTP_AUTHORIZATION", "Basic a")], "HTTP_AUTHORIZATION", Some("Basic a")),
        (&[("REDIRECT_HTTP_AUTHORIZATION", "Basic a")], "HTTP_AUTHORIZATION", Some("Basic a")),
        (&[("REDIRECT_HTTP_AUTHORIZATION", "Basic a")], "REDIRECT_HTTP_AUTHORIZATION", None),
        (&[("REDIRECT_REDIRECT_REDIRECT_HTTP_AUTHORIZATION", "Basic a")], "HTTP_AUTHORIZATION", Some("Basic a")),
        (&[("HTTP_AUTHORIZATION", ""), ("REDIRECT_HTTP_AUTHORIZATION", "Basic a")], "HTTP_AUTHORIZATION", Some("Basic a")),
        (&[("HTTP_AUTHORIZATION", "")], "HTTP_AUTHORIZATION", None),
        (&[("HTTP_AUTHORIZATION", "a"), ("HTTP_AUTHORIZATION", "b")], "HTTP_AUTHORIZATION", Some("a")),
        // variables of the user behind internal redirects
        (&[("REDIRECT_SITE", "a")], "SITE", Some("a")),
        (&[("REDIRECT_SITE", "a")], "REDIRECT_SITE", Some("a")),
        (&[("REDIRECT_SITE", "a"), ("SITE", "b")], "SITE", Some("b")),
        (&[("REDIRECT_REDIRECT_SITE", "old"), ("REDIRECT_SITE", "new")], "SITE", Some("new")),
        (&[("REDIRECT_HTTP_HOST", "evil")], "HTTP_HOST", None),
        (&[("REDIRECT_HTTP_PROXY", "evil")], "HTTP_PROXY", None),
        (&[("REDIRECT_REMOTE_ADDR", "evil")], "REMOTE_ADDR", None),
        (&[("REDIRECT_QUERY_STRING", "a=b")], "QUERY_STRING", Some("")),
        (&[("REDIRECT_REMOTE_USER", "joe")], "REDIRECT_REMOTE_USER", None),
        (&[("REDIRECT_SSL_CLIENT_VERIFY", "SUCCESS")], "SSL_CLIENT_VERIFY", None),
        // the scheme
        (&[("HTTPS", "on")], "HTTPS", Some("on")),
        (&[("HTTPS", "ON")], "HTTPS", Some("on")),
        (&[("HTTPS", "1")], "HTTPS", Some("on")),
        (&[("HTTPS", "true")], "HTTPS", Some("on")),
        (&[("HTTPS", "off")], "HTTPS", None),
        (&[("HTTPS", "")], "HTTPS", None),
        (&[("HTTPS", "off"), ("REQUEST_SCHEME", "https")], "HTTPS", Some("on")),
        (&[("REQUEST_SCHEME", "http")], "HTTPS", None),
        (&[("REDIRECT_HTTPS", "on")], "HTTPS", Some("on")),
        (&[("HTTP_HTTPS", "on")], "HTTPS", None),
        (&[("HTTP_X_FORWARDED_PROTO", "https")], "HTTPS", None),
        // defaults
        (&[], "QUERY_STRING", Some("")),
        (&[("REQUEST_URI", "/?a=b?c")], "QUERY_STRING", Some("a=b?c")),
        (&[("REQUEST_URI", "/?a=b"), ("QUERY_STRING", "")], "QUERY_STRING", Some("")),
        (&[], "REQUEST_METHOD", Some("GET")),
        (&[("REQUEST_METHOD", "PATCH")], "REQUEST_METHOD", Some("PATCH")),
        (&[], "SERVER_PROTOCOL", Some("HTTP/1.1")),
        (&[("SERVER_NAME", "example.org:8080")], "SERVER_NAME", Some("example.org")),
        (&[("SERVER_NAME", "example.org:8080")], "SERVER_PORT", Some("8080")),
        (&[("SERVER_NAME", "example.org:8080"), ("SERVER_PORT", "81")], "SERVER_PORT", Some("81")),
        (&[("SERVER_NAME", "[::1]:8080")], "SERVER_NAME", Some("[::1]")),
        (&[("SERVER_NAME", "::1")], "SERVER_NAME", Some("::1")),
        (&[("HTTP_HOST", "a.example:82")], "SERVER_NAME", Some("a.example")),
        (&[("HTTP_HOST", "a.example:82")], "SERVER_PORT", Some("82")),
        (&[("HTTP_HOST", "a.example:82")], "HTTP_HOST", Some("a.example:82")),
        (&[], "SERVER_NAME", Some("localhost")),
        (&[], "SERVER_PORT", Some("80")),
        (&[("HTTPS", "on")], "SERVER_PORT", Some("443")),
        // twice
        (&[("SERVER_NAME", "a"), ("SERVER_NAME", "b")], "SERVER_NAME", Some("a")),
        (&[("REMOTE_ADDR", "a"), ("REMOTE_ADDR", "b")], "REMOTE_ADDR", Some("a")),
        (&[("HTTP_HOST", "a"), ("HTTP_HOST", "b")], "HTTP_HOST", Some("a")),
        (&[("HTTP_X_A", "1"), ("HTTP_X_A", "2"), ("HTTP_X_A", "3")], "HTTP_X_A", Some("1, 2, 3")),
        (&[("HTTP_ACCEPT", "a/a"), ("HTTP_ACCEPT", "b/b")], "HTTP_ACCEPT", Some("a/a, b/b")),
        (&[("HTTP_COOKIE", "a=1"), ("HTTP_COOKIE", "b=2")], "HTTP_COOKIE", Some("a=1; b=2")),
        (&[("CONTENT_TYPE", "x/y"), ("CONTENT_TYPE", "z/z")], "CONTENT_TYPE", Some("x/y")),
        (&[("HTTP_PROXY", "a"), ("HTTP_PROXY", "b")], "HTTP_PROXY", None),
        // the body
        (&[("CONTENT_LENGTH", "")], "CONTENT_LENGTH", None),
        (&[("CONTENT_LENGTH", "0")], "CONTENT_LENGTH", Some("0")),
        (&[("CONTENT_TYPE", "")], "CONTENT_TYPE", None),
        (&[("CONTENT_TYPE", "text/plain")], "CONTENT_TYPE", Some("text/plain")),
        // the user
        (&[("REMOTE_USER", "joe"), ("AUTH_TYPE", "Basic")], "REMOTE_USER", None),
        (&[("REMOTE_USER", "joe"), ("AUTH_TYPE", "Basic")], "AUTH_TYPE", None),
    ];
    for (sent, name, want) in rows {
        assert_eq!(value(&seen(sent, 0), name).as_deref(), *want, "{name} of {sent:?}");
    }
}

#[test]
fn the_body_that_came_in_decides_its_length() {
    for (sent, len, want) in [
        (&[][..], 7, Some("7")),
        (&[("CONTENT_LENGTH", "5")], 7, Some("7")),
        (&[("CONTENT_LENGTH", "5")], 0, Some("0")),
        (
            &[("CONTENT_LENGTH", "+5")],
            u64::MAX,
            Some("18446744073709551615"),
        ),
        (&[], 0, None),
    ] {
        let got = value(&seen(sent, len), "CONTENT_LENGTH");
        assert_eq!(got.as_deref(), want, "{sent:?} {len}");
    }
}

#[test]
fn a_trusted_user_passes() {
    let sent = pairs(&[("REMOTE_USER", "joe"), ("AUTH_TYPE", "Basic")]);
    let environ = normalise(&sent, &mount(true), 0);
    assert_eq!(value(&environ, "REMOTE_USER").as_deref(), Some("joe"));
    assert_eq!(value(&environ, "AUTH_TYPE").as_deref(), Some("Basic"));
    let empty = pairs(&[("REMOTE_USER", ""), ("AUTH_TYPE", "")]);
    let environ = normalise(&empty, &mount(true), 0);
    assert_eq!(value(&environ, "REMOTE_USER"), None);
}

#[test]
fn a_second_pass_changes_nothing() {
    let once = normalise(&typical(), &mount(false), 12);
    let twice = normalise(&once, &mount(false), 12);
    let sorted = |environ: &Pairs| {
        let mut list: Vec<_> = environ
            .iter()
            .map(|(n, v)| (n.to_vec(), v.to_vec()))
            .collect();
        list.sort();
        list
    };
    assert_eq!(sorted(&once), sorted(&twice));
    assert_eq!(value(&once, "SCRIPT_NAME").as_deref(), Some(""));
    assert_eq!(value(&once, "PATH_INFO").as_deref(), Some("/polls/é/"));
}

#[test]
fn requests_are_described_in_one_bounded_line() {
    for (sent, want) in [
        (
            &[("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/a?b")][..],
            "GET /a?b",
        ),
        (
            &[
                ("REQUEST_METHOD", "PUT"),
                ("SCRIPT_NAME", "/s"),
                ("PATH_INFO", "/é\n\x1b"),
                ("QUERY_STRING", "q"),
            ],
            "PUT /s/\\xc3\\xa9\\n\\x1b?q",
        ),
        (&[], " "),
    ] {
        assert_eq!(describe(&pairs(sent)), want);
    }
    let long = "/\x01".repeat(1000);
    assert!(describe(&pairs(&[("REQUEST_URI", &long)])).len() < 520);
}

#[test]
fn how_long_it_takes() {
    let (sent, mount) = (typical(), mount(false));
    let start = std::time::Instant::now();
    let rounds = 20_000;
    for _ in 0..rounds {
        std::hint::black_box(normalise(std::hint::black_box(&sent), &mount, 12));
    }
    let each = start.elapsed() / rounds;
    eprintln!("{} variables: {each:?}", sent.len());
}

/// The variables that Apache with mod_fcgid and a rewrite in .htaccess sends for a browser's request.
fn typical() -> Pairs {
    pairs(&[
        ("REDIRECT_UNIQUE_ID", "aSFl4n8AAQEAAAB8nJAAAAAA"),
        ("REDIRECT_STATUS", "200"),
        ("UNIQUE_ID", "aSFl4n8AAQEAAAB8nJAAAAAA"),
        ("HTTP_HOST", "www.example.org"),
        ("HTTP_CONNECTION", "close"),
        ("HTTP_CACHE_CONTROL", "max-age=0"),
        ("HTTP_SEC_CH_UA_MOBILE", "?0"),
        ("HTTP_SEC_CH_UA_PLATFORM", "\"Linux\""),
        ("HTTP_UPGRADE_INSECURE_REQUESTS", "1"),
        (
            "HTTP_USER_AGENT",
            "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101",
        ),
        (
            "HTTP_ACCEPT",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("HTTP_SEC_FETCH_SITE", "same-origin"),
        ("HTTP_SEC_FETCH_MODE", "navigate"),
        ("HTTP_SEC_FETCH_DEST", "document"),
        ("HTTP_REFERER", "https://www.example.org/polls/"),
        ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
        ("HTTP_ACCEPT_LANGUAGE", "en-GB,en;q=0.9"),
        (
            "HTTP_COOKIE",
            "sessionid=0123456789abcdef; csrftoken=0123456789abcdef",
        ),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("SERVER_SIGNATURE", ""),
        ("SERVER_SOFTWARE", "Apache"),
        ("SERVER_NAME", "www.example.org"),
        ("SERVER_ADDR", "192.0.2.1"),
        ("SERVER_PORT", "443"),
        ("REMOTE_ADDR", "198.51.100.7"),
        ("DOCUMENT_ROOT", "/home/user/public_html"),
        ("REQUEST_SCHEME", "https"),
        ("CONTEXT_PREFIX", ""),
        ("SCRIPT_FILENAME", "/home/user/public_html/mysite.fcgi"),
        ("REMOTE_PORT", "51234"),
        ("REDIRECT_URL", "/polls/é/"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", "POST"),
        ("REQUEST_URI", "/polls/%C3%A9/?page=2"),
        ("QUERY_STRING", "page=2"),
        ("SCRIPT_NAME", "/mysite.fcgi"),
        ("PATH_INFO", "/polls/é/"),
        ("CONTENT_LENGTH", "12"),
    ])
}

/// Whether names collide makes no difference, and the time for 21,000 of them is that of a sort.
#[test]
fn names_that_collide_are_sorted_all_the_same() {
    let mut sent = Pairs::new();
    for number in 0..21_000 {
        sent.push(format!("HTTP_{}", number % 20_000).as_bytes(), b"");
    }
    let found = repeated(&sent, fnv);
    assert_eq!(found.len(), 1000);
    assert_eq!(found, repeated(&sent, |_| 0));
    assert_eq!(found[0], (20_000, 0));
}
