//! The numbers of AJP 1.3: packet types, and the codes for methods, header names and attributes.
//!
//! From the protocol reference of the Tomcat connectors ("AJPv13").

/// Web server to us: a request.
pub(super) const FORWARD_REQUEST: u8 = 2;
/// To the web server: a piece of the response's body.
pub(super) const SEND_BODY_CHUNK: u8 = 3;
/// To the web server: status and header fields.
pub(super) const SEND_HEADERS: u8 = 4;
/// To the web server: the response is complete.
pub(super) const END_RESPONSE: u8 = 5;
/// To the web server: send more of the request's body.
pub(super) const GET_BODY_CHUNK: u8 = 6;
/// Web server to us: shut down. We ignore it.
pub(super) const SHUTDOWN: u8 = 7;
/// Web server to us: log-on of an old extension. We ignore it.
pub(super) const PING: u8 = 8;
/// To the web server: alive.
pub(super) const CPONG: u8 = 9;
/// Web server to us: are you alive?
pub(super) const CPING: u8 = 10;

/// The method code that says: the name is in the attribute `stored_method`.
pub(super) const STORED: u8 = 0xff;

/// The high byte of a code in the place of a string's length.
pub(super) const CODED: u8 = 0xa0;

/// The meaning of an attribute code.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    /// A string for this variable.
    Variable(&'static str),
    /// A string without a use in CGI.
    Ignored,
    /// Two strings: name and value.
    Named,
    /// A number: bits of the cipher key.
    KeySize,
    /// The shared secret.
    Secret,
    /// The name of a method without a code.
    StoredMethod,
    /// The end of the attributes.
    End,
}

/// The method with this code.
pub(super) fn method(code: u8) -> Option<&'static str> {
    METHODS.get(usize::from(code).checked_sub(1)?).copied()
}

/// The variable for the request header with code 0xA0`code`.
pub(super) fn request_header(code: u8) -> Option<&'static str> {
    REQUEST_HEADERS
        .get(usize::from(code).checked_sub(1)?)
        .copied()
}

/// The low byte of the code for a response field; the high byte is `CODED`.
pub(super) fn response_code(name: &[u8]) -> Option<u8> {
    let at = RESPONSE_FIELDS
        .iter()
        .position(|field| field.as_bytes().eq_ignore_ascii_case(name))?;
    u8::try_from(at + 1).ok()
}

/// The meaning of an attribute code. An unknown attribute cannot be skipped, as its length is unknown too.
pub(super) fn attribute(code: u8) -> Option<Attribute> {
    Some(match code {
        1 | 2 | 6 => Attribute::Ignored,
        3 => Attribute::Variable("REMOTE_USER"),
        4 => Attribute::Variable("AUTH_TYPE"),
        5 => Attribute::Variable("QUERY_STRING"),
        7 => Attribute::Variable("SSL_CLIENT_CERT"),
        8 => Attribute::Variable("SSL_CIPHER"),
        9 => Attribute::Variable("SSL_SESSION_ID"),
        10 => Attribute::Named,
        11 => Attribute::KeySize,
        12 => Attribute::Secret,
        13 => Attribute::StoredMethod,
        0xff => Attribute::End,
        _ => return None,
    })
}

/// The variable for a named attribute. All other names are ignored, whoever sets them.
pub(super) fn named_attribute(name: &[u8]) -> Option<&'static str> {
    match name {
        b"AJP_REMOTE_PORT" => Some("REMOTE_PORT"),
        b"AJP_LOCAL_ADDR" => Some("SERVER_ADDR"),
        b"AJP_SSL_PROTOCOL" => Some("SSL_PROTOCOL"),
        _ => None,
    }
}

#[rustfmt::skip]
const METHODS: [&str; 27] = [
    "OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "PROPFIND", "PROPPATCH", "MKCOL",
    "COPY", "MOVE", "LOCK", "UNLOCK", "ACL", "REPORT", "VERSION-CONTROL", "CHECKIN", "CHECKOUT",
    "UNCHECKOUT", "SEARCH", "MKWORKSPACE", "UPDATE", "LABEL", "MERGE", "BASELINE-CONTROL",
    "MKACTIVITY",
];

#[rustfmt::skip]
const REQUEST_HEADERS: [&str; 14] = [
    "HTTP_ACCEPT", "HTTP_ACCEPT_CHARSET", "HTTP_ACCEPT_ENCODING", "HTTP_ACCEPT_LANGUAGE",
    "HTTP_AUTHORIZATION", "HTTP_CONNECTION", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_COOKIE",
    "HTTP_COOKIE2", "HTTP_HOST", "HTTP_PRAGMA", "HTTP_REFERER", "HTTP_USER_AGENT",
];

#[rustfmt::skip]
const RESPONSE_FIELDS: [&str; 11] = [
    "Content-Type", "Content-Language", "Content-Length", "Date", "Last-Modified", "Location",
    "Set-Cookie", "Set-Cookie2", "Servlet-Engine", "Status", "WWW-Authenticate",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods() {
        assert_eq!(method(0), None);
        for (code, name) in [
            (1, "OPTIONS"),
            (2, "GET"),
            (3, "HEAD"),
            (4, "POST"),
            (5, "PUT"),
            (6, "DELETE"),
            (7, "TRACE"),
            (8, "PROPFIND"),
            (9, "PROPPATCH"),
            (10, "MKCOL"),
            (11, "COPY"),
            (12, "MOVE"),
            (13, "LOCK"),
            (14, "UNLOCK"),
            (15, "ACL"),
            (16, "REPORT"),
            (17, "VERSION-CONTROL"),
            (18, "CHECKIN"),
            (19, "CHECKOUT"),
            (20, "UNCHECKOUT"),
            (21, "SEARCH"),
            (22, "MKWORKSPACE"),
            (23, "UPDATE"),
            (24, "LABEL"),
            (25, "MERGE"),
            (26, "BASELINE-CONTROL"),
            (27, "MKACTIVITY"),
        ] {
            assert_eq!(method(code), Some(name), "{code}");
        }
        assert!((28..=255).all(|code| method(code).is_none()));
    }

    #[test]
    fn request_headers() {
        assert_eq!(request_header(0), None);
        assert_eq!(request_header(1), Some("HTTP_ACCEPT"));
        assert_eq!(request_header(5), Some("HTTP_AUTHORIZATION"));
        assert_eq!(request_header(7), Some("CONTENT_TYPE"));
        assert_eq!(request_header(8), Some("CONTENT_LENGTH"));
        assert_eq!(request_header(9), Some("HTTP_COOKIE"));
        assert_eq!(request_header(11), Some("HTTP_HOST"));
        assert_eq!(request_header(13), Some("HTTP_REFERER"));
        assert_eq!(request_header(14), Some("HTTP_USER_AGENT"));
        assert!((15..=255).all(|code| request_header(code).is_none()));
    }

    #[test]
    fn response_fields() {
        for (name, code) in [
            ("content-type", 1),
            ("Content-Language", 2),
            ("CONTENT-LENGTH", 3),
            ("Date", 4),
            ("Last-Modified", 5),
            ("Location", 6),
            ("Set-Cookie", 7),
            ("Set-Cookie2", 8),
            ("Servlet-Engine", 9),
            ("Status", 10),
            ("WWW-Authenticate", 11),
        ] {
            assert_eq!(response_code(name.as_bytes()), Some(code), "{name}");
        }
        assert_eq!(response_code(b"Vary"), None);
        assert_eq!(response_code(b""), None);
    }

    #[test]
    fn attributes() {
        assert_eq!(attribute(0), None);
        assert_eq!(attribute(3), Some(Attribute::Variable("REMOTE_USER")));
        assert_eq!(attribute(5), Some(Attribute::Variable("QUERY_STRING")));
        assert_eq!(attribute(10), Some(Attribute::Named));
        assert_eq!(attribute(11), Some(Attribute::KeySize));
        assert_eq!(attribute(12), Some(Attribute::Secret));
        assert_eq!(attribute(13), Some(Attribute::StoredMethod));
        assert_eq!(attribute(255), Some(Attribute::End));
        assert!((14..255).all(|code| attribute(code).is_none()));
        assert_eq!(named_attribute(b"AJP_REMOTE_PORT"), Some("REMOTE_PORT"));
        assert_eq!(named_attribute(b"javax.servlet.include.request_uri"), None);
    }
}
