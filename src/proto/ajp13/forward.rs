//! Turns a FORWARD_REQUEST packet, which holds one request, into CGI meta-variables (RFC 3875 section 4.1).
//!
//! Knows one complete packet, nothing of the connection. AJP carries raw header names, so this is where we decide which
//! of them become variables.

use super::packet::Cursor;
use super::tables::{self, Attribute};
use crate::bytes::{decimal, hex, is_secret, is_token};
use crate::pairs::Pairs;
use crate::proto::ProtocolError;
use std::borrow::Cow;

/// The content of a FORWARD_REQUEST packet.
pub(super) enum Forward {
    Request(Request),
    /// A request that must be answered with this status.
    Refused {
        status: u16,
        reason: String,
    },
}

/// A request that can be served.
pub(super) struct Request {
    pub(super) environ: Pairs,
    pub(super) body: Length,
    /// The web server sends named attributes. Servers that do also put an inner length into data packets.
    pub(super) names_attributes: bool,
}

/// The length of the body according to the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
}

/// Parses the payload of the packet, type byte included.
pub(super) fn parse(payload: &[u8], secret: Option<&[u8]>) -> Result<Forward, ProtocolError> {
    let mut packet = Cursor::new(payload);
    packet.byte("the type")?;
    let code = packet.byte("the method")?;
    let protocol = packet.string("the protocol")?.unwrap_or_default();
    let uri = packet.string("the uri")?.unwrap_or_default();
    let remote_addr = packet.string("remote_addr")?.unwrap_or_default();
    let remote_host = packet.string("remote_host")?;
    let server_name = packet.string("server_name")?.unwrap_or_default();
    let server_port = packet.number("server_port")?;
    let is_ssl = packet.byte("is_ssl")? != 0;
    let headers = headers(&mut packet)?;
    let attributes = Attributes::read(&mut packet)?;

    let refused = |status, reason| Ok(Forward::Refused { status, reason });
    if let Some(secret) = secret {
        match attributes.secret {
            Some(given) if is_secret(given, secret) => {}
            Some(_) => return refused(403, String::from("ajp13: the secret is wrong")),
            None => {
                let reason = "ajp13: the web server sends no secret, but [server] secret is set";
                return refused(403, String::from(reason));
            }
        }
    }
    let method = match (code, attributes.stored_method) {
        (tables::STORED, Some(name)) if is_token(name) => name,
        (tables::STORED, name) => {
            let name = String::from_utf8_lossy(name.unwrap_or_default());
            return refused(400, format!("ajp13: {name:?} is not a method name"));
        }
        (code, _) => match tables::method(code) {
            Some(name) => name.as_bytes(),
            None => return refused(501, format!("ajp13: unknown method code {code}")),
        },
    };
    if uri.contains(&0) {
        return refused(400, String::from("ajp13: a NUL in the uri"));
    }
    let body = match body_length(&headers) {
        Ok(body) => body,
        Err(reason) => return refused(400, reason),
    };
    let query = attributes.get("QUERY_STRING");
    let (request_uri, path) = split_uri(uri, query);
    if path.contains(&0) {
        return refused(400, String::from("ajp13: a NUL in the path"));
    }

    let mut environ = Pairs::with_capacity(40, payload.len() * 2);
    environ.push(b"GATEWAY_INTERFACE", b"CGI/1.1");
    environ.push(b"SERVER_SOFTWARE", b"AJP/1.3");
    environ.push(b"REQUEST_METHOD", method);
    environ.push(b"REQUEST_URI", &request_uri);
    environ.push(b"SCRIPT_NAME", b"");
    environ.push(b"PATH_INFO", &path);
    environ.push(b"QUERY_STRING", query.unwrap_or_default());
    environ.push(b"SERVER_PROTOCOL", protocol);
    environ.push(b"SERVER_NAME", server_name);
    environ.push(b"SERVER_PORT", server_port.to_string().as_bytes());
    environ.push(b"REMOTE_ADDR", remote_addr);
    if let Some(host) = remote_host {
        environ.push(b"REMOTE_HOST", host);
    }
    if is_ssl {
        environ.push(b"HTTPS", b"on");
    }
    for (name, value) in &attributes.variables {
        if *name != "QUERY_STRING" {
            environ.push(name.as_bytes(), value);
        }
    }
    for (name, value) in &headers {
        match &name[..] {
            // The web server removes that framing. HTTP_PROXY: some libraries take it for their proxy setting (httpoxy).
            b"HTTP_TRANSFER_ENCODING" | b"HTTP_PROXY" => false,
            _ => environ.push(name, value),
        };
    }
    Ok(Forward::Request(Request {
        environ,
        body,
        names_attributes: attributes.named,
    }))
}

/// A request header's variable and its value.
type Header<'a> = (Cow<'static, [u8]>, &'a [u8]);

/// The request headers that have a variable, in the order sent.
fn headers<'a>(packet: &mut Cursor<'a>) -> Result<Vec<Header<'a>>, ProtocolError> {
    let mut headers = Vec::new();
    for _ in 0..packet.number("the number of headers")? {
        let [high, low] = packet.number("a header's name")?.to_be_bytes();
        let name = match (high, low) {
            (tables::CODED, code) => tables::request_header(code).map(|n| n.as_bytes().into()),
            (0xff, 0xff) => None,
            (high, low) => {
                let length = u16::from_be_bytes([high, low]);
                variable(packet.text(usize::from(length), "a header's name")?).map(Cow::Owned)
            }
        };
        let value = packet.string("a header's value")?.unwrap_or_default();
        headers.extend(name.map(|name| (name, value)));
    }
    Ok(headers)
}

/// The length of the body, or why the headers leave it unclear.
fn body_length(headers: &[Header<'_>]) -> Result<Length, String> {
    let values = |name: &'static [u8]| {
        let named = headers.iter().filter(move |(n, _)| **n == *name);
        named.map(|(_, value)| *value)
    };
    if values(b"HTTP_TRANSFER_ENCODING").any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Ok(Length::Chunked);
    }
    let mut lengths = values(b"CONTENT_LENGTH");
    let text = lengths.next().unwrap_or_default();
    if lengths.any(|other| other != text) {
        return Err(String::from("ajp13: two different content-lengths"));
    }
    match decimal(text) {
        _ if text.is_empty() => Ok(Length::Known(0)),
        Some(length) => Ok(Length::Known(length)),
        None => {
            let text = String::from_utf8_lossy(text);
            Err(format!("ajp13: content-length {text:?} is not a number"))
        }
    }
}

/// The attributes. Of several with the same code the last one counts, as in servlet containers.
#[derive(Default)]
struct Attributes<'a> {
    variables: Vec<(&'static str, Vec<u8>)>,
    secret: Option<&'a [u8]>,
    stored_method: Option<&'a [u8]>,
    named: bool,
}

impl<'a> Attributes<'a> {
    fn read(packet: &mut Cursor<'a>) -> Result<Attributes<'a>, ProtocolError> {
        let mut found = Attributes::default();
        loop {
            let code = packet.byte("an attribute")?;
            let Some(attribute) = tables::attribute(code) else {
                return Err(ProtocolError(format!("ajp13: unknown attribute {code}")));
            };
            match attribute {
                Attribute::End => return Ok(found),
                Attribute::Ignored => {
                    packet.string("an attribute")?;
                }
                Attribute::Variable(name) => {
                    if let Some(value) = packet.string(name)? {
                        found.set(name, value.to_vec());
                    }
                }
                Attribute::Secret => found.secret = packet.string("the secret")?,
                Attribute::StoredMethod => {
                    found.stored_method = packet.string("stored_method")?;
                }
                Attribute::KeySize => found.key_size(packet)?,
                Attribute::Named => {
                    found.named = true;
                    let name = packet.string("an attribute's name")?.unwrap_or_default();
                    let value = packet.string("an attribute's value")?;
                    if let (Some(name), Some(value)) = (tables::named_attribute(name), value) {
                        found.set(name, value.to_vec());
                    }
                }
            }
        }
    }

    /// The key size is a number, but lighttpd sends a string of digits, whose length is smaller than any key size.
    fn key_size(&mut self, packet: &mut Cursor<'a>) -> Result<(), ProtocolError> {
        let what = "the key size";
        let bits = match packet.number(what)? {
            0xffff => return Ok(()),
            length @ 1..=5 => packet.text(usize::from(length), what)?.to_vec(),
            bits => bits.to_string().into_bytes(),
        };
        self.set("SSL_CIPHER_USEKEYSIZE", bits);
        Ok(())
    }

    fn set(&mut self, name: &'static str, value: Vec<u8>) {
        match self.variables.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.variables.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| &value[..])
    }
}

/// The variable for a header. A name with other characters than letters, digits and `-` has none, as `X_User` could pose
/// as `X-User`.
fn variable(name: &[u8]) -> Option<Vec<u8>> {
    if name.is_empty() || !name.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    let upper = name.iter().map(|&b| match b {
        b'-' => b'_',
        b => b.to_ascii_uppercase(),
    });
    let upper: Vec<u8> = upper.collect();
    Some(match &upper[..] {
        b"CONTENT_TYPE" | b"CONTENT_LENGTH" => upper,
        _ => [b"HTTP_", &upper[..]].concat(),
    })
}

/// REQUEST_URI and the decoded path. Apache sends the path percent-encoded, lighttpd sends it decoded. We take it for
/// decoded if it contains a byte that no encoded path contains.
fn split_uri(uri: &[u8], query: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let (mut request_uri, path) = match decode(uri) {
        Some(path) if uri.iter().all(|&b| is_raw(b) || b == b'%') => (uri.to_vec(), path),
        _ => (encode(uri), uri.to_vec()),
    };
    if let Some(query) = query {
        request_uri.push(b'?');
        request_uri.extend_from_slice(query);
    }
    (request_uri, path)
}

/// Whether a byte needs no encoding in the path of a URI (RFC 3986 section 3.3).
fn is_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

fn encode(path: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(path.len());
    for &byte in path {
        if is_raw(byte) {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    encoded
}

/// `None` when a `%` is not followed by two hexadecimal digits.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (hex(*bytes.next()?)? << 4) | hex(*bytes.next()?)?,
            byte => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_survives_both_forms(path in proptest::collection::vec(any::<u8>(), 0..20)) {
            let path = [b"/", &path[..]].concat();
            let encoded = encode(&path);
            prop_assert_eq!(decode(&encoded), Some(path.clone()));
            let (uri, decoded) = split_uri(&encoded, None);
            prop_assert_eq!((&uri, &decoded), (&encoded, &path));
            // A path that was decoded by the server and does not look encoded.
            if !path.contains(&b'%') {
                prop_assert_eq!(split_uri(&path, None), (encoded, path));
            }
        }
    }

    #[test]
    fn a_header_has_a_variable_or_none() {
        let named = |name: &str| variable(name.as_bytes());
        assert_eq!(named("x-Real-ip"), Some(b"HTTP_X_REAL_IP".to_vec()));
        assert_eq!(named("content-type"), Some(b"CONTENT_TYPE".to_vec()));
        for odd in ["", "X_A", "X A", "X=A", "X:", "X\u{e9}", "A\0B"] {
            assert_eq!(named(odd), None, "{odd:?}");
        }
    }
}
