//! FORWARD_REQUEST: the one packet that holds a request, turned into CGI meta-variables.
//!
//! Knows one complete packet, nothing of the connection. AJP sends raw header names, so what must never become a
//! variable is decided here; variables are named as RFC 3875 section 4.1 names them.

use std::collections::HashMap;

use super::packet::Cursor;
use super::tables::{self, Attribute};
use crate::bytes::{hex, is_secret};
use crate::pairs::Pairs;
use crate::proto::ProtocolError;

/// A FORWARD_REQUEST packet's content.
pub(super) enum Forward {
    Request(Request),
    /// To be answered with this status.
    Refused {
        status: u16,
        reason: String,
    },
}

/// A request that can be served.
pub(super) struct Request {
    pub(super) environ: Pairs,
    pub(super) body: Length,
    /// The web server sends named attributes. Those that do also give data packets an inner length.
    pub(super) names_attributes: bool,
}

/// What the headers say of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
}

/// Takes a whole payload, the type byte included.
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
    let headers = Headers::read(&mut packet)?;
    let attributes = Attributes::read(&mut packet)?;

    let refused = |status, reason| Ok(Forward::Refused { status, reason });
    if let Some(secret) = secret {
        match attributes.secret {
            Some(given) if is_secret(given, secret) => {}
            Some(_) => return refused(403, String::from("ajp13: the secret is wrong")),
            None => {
                let reason = "ajp13: the web server sends no secret, but one is configured here";
                return refused(403, String::from(reason));
            }
        }
    }
    let method = match (code, attributes.stored_method) {
        (tables::STORED, Some(name)) if is_token(name) => name,
        (tables::STORED, name) => {
            let name = String::from_utf8_lossy(name.unwrap_or_default());
            return refused(400, format!("ajp13: {name:?} is no method"));
        }
        (code, _) => match tables::method(code) {
            Some(name) => name.as_bytes(),
            None => return refused(501, format!("ajp13: no method has the code {code}")),
        },
    };
    if uri.contains(&0) {
        return refused(400, String::from("ajp13: a NUL in the uri"));
    }
    let body = match headers.body() {
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
    for (name, value) in &headers.variables {
        environ.push(name, value);
    }
    Ok(Forward::Request(Request {
        environ,
        body,
        names_attributes: attributes.named,
    }))
}

/// Request headers as variables, in order, equal names joined.
#[derive(Default)]
struct Headers {
    variables: Vec<(Vec<u8>, Vec<u8>)>,
    by_name: HashMap<Vec<u8>, usize>,
    chunked: bool,
    lengths_differ: bool,
}

impl Headers {
    fn read(packet: &mut Cursor<'_>) -> Result<Headers, ProtocolError> {
        let mut headers = Headers::default();
        for _ in 0..packet.number("the number of headers")? {
            let [high, low] = packet.number("a header's name")?.to_be_bytes();
            let name = match (high, low) {
                (tables::CODED, code) => tables::request_header(code).map(|n| n.as_bytes().into()),
                (0xff, 0xff) => None,
                (high, low) => {
                    let length = u16::from_be_bytes([high, low]);
                    variable(packet.text(usize::from(length), "a header's name")?)
                }
            };
            let value = packet.string("a header's value")?.unwrap_or_default();
            if let Some(name) = name {
                headers.add(name, value);
            }
        }
        Ok(headers)
    }

    fn add(&mut self, name: Vec<u8>, value: &[u8]) {
        match &name[..] {
            // The body arrives without that framing.
            b"HTTP_TRANSFER_ENCODING" => {
                self.chunked |= !value.eq_ignore_ascii_case(b"identity");
                return;
            }
            // httpoxy: libraries take HTTP_PROXY for a setting of their own.
            b"HTTP_PROXY" => return,
            _ => {}
        }
        let Some(&at) = self.by_name.get(&name) else {
            self.by_name.insert(name.clone(), self.variables.len());
            self.variables.push((name, value.to_vec()));
            return;
        };
        let joined = &mut self.variables[at].1;
        match &name[..] {
            b"CONTENT_LENGTH" => self.lengths_differ |= joined != value,
            b"CONTENT_TYPE" => {}
            _ => {
                let separator: &[u8] = if name == b"HTTP_COOKIE" { b"; " } else { b", " };
                joined.extend_from_slice(separator);
                joined.extend_from_slice(value);
            }
        }
    }

    fn body(&self) -> Result<Length, String> {
        if self.chunked {
            return Ok(Length::Chunked);
        }
        if self.lengths_differ {
            return Err(String::from("ajp13: two content-lengths that differ"));
        }
        let Some(&at) = self.by_name.get(&b"CONTENT_LENGTH"[..]) else {
            return Ok(Length::Known(0));
        };
        let text = String::from_utf8_lossy(&self.variables[at].1);
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            _ if text.is_empty() => Ok(Length::Known(0)),
            Ok(length) if digits => Ok(Length::Known(length)),
            _ => Err(format!("ajp13: content-length {text:?} is not a number")),
        }
    }
}

/// What the attributes say; a later one of the same code wins, as in other containers.
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

    /// A number; lighttpd writes a string of digits, whose length is smaller than any key.
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

/// The variable of a header. Only letters, digits and `-` have one: `X_User` would pass for `X-User`.
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

/// REQUEST_URI and the decoded path. Apache sends the path percent-encoded, lighttpd decoded; one that holds what no
/// encoded path can hold has been decoded.
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

/// A byte that stands for itself in the path of a URI (RFC 3986 section 3.3).
fn is_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

fn encode(path: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(path.len());
    for &byte in path {
        match is_raw(byte) {
            true => encoded.push(byte),
            false => encoded.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
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

/// A method's name (RFC 9110 section 5.6.2).
fn is_token(name: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(allowed)
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
            // Decoded before it came: only what looks encoded is taken for it.
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
