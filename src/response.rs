//! `ResponseHead`: a response's status and header fields, checked once for all protocols.
//!
//! Plain data. What a CGI response may carry is RFC 3875 section 6; what web servers make of odd ones decides the
//! rest (hop-by-hop fields, a `Location` beside status 200). Knows no protocol, socket, clock or log.

use crate::pairs::Pairs;

/// Status and header fields of a response: three digits, no control characters, no hop-by-hop fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// 200 to 599.
    pub status: u16,
    /// The reason phrase, without the number; may be empty.
    pub reason: Vec<u8>,
    /// Header fields in the application's order.
    pub fields: Pairs,
}
