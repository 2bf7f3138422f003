//! Writes a checked `ResponseHead` as CGI text (RFC 3875 section 6), for FastCGI, SCGI and CGI.

use crate::response::ResponseHead;
/// Appends `Status: 200 OK`, the fields and an empty line to `out`. The status comes first because LiteSpeed requires it.
pub fn cgi_head(head: &ResponseHead, out: &mut Vec<u8>) {
    status(head, out);
    fields(head, out);
    out.extend_from_slice(b"\r\n");
}

/// The same with the status after the fields: HAProxy 2.6 turns a `Location` after a status into a 302.
pub fn cgi_head_status_last(head: &ResponseHead, out: &mut Vec<u8>) {
    fields(head, out);
    status(head, out);
    out.extend_from_slice(b"\r\n");
}

fn status(head: &ResponseHead, out: &mut Vec<u8>) {
    let status = head.status;
    let digit = |n: u16| b'0' + (n % 10) as u8;
    out.extend_from_slice(b"Status: ");
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
    if !head.reason.is_empty() {
        out.push(b' ');
        out.extend_from_slice(&head.reason);
    }
    out.extend_from_slice(b"\r\n");
}

fn fields(head: &ResponseHead, out: &mut Vec<u8>) {
    for (name, value) in head.fields.iter() {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::Pairs;

    fn created() -> ResponseHead {
        let mut fields = Pairs::new();
        fields.push(b"Location", b"/new");
        ResponseHead {
            status: 201,
            reason: b"Created".to_vec(),
            fields,
        }
    }

    #[test]
    fn the_status_stands_first_or_last() {
        let mut out = b"-".to_vec();
        cgi_head(&created(), &mut out);
        assert_eq!(out, b"-Status: 201 Created\r\nLocation: /new\r\n\r\n");
        out.clear();
        cgi_head_status_last(&created(), &mut out);
        assert_eq!(out, b"Location: /new\r\nStatus: 201 Created\r\n\r\n");
    }

    #[test]
    fn an_empty_reason_leaves_no_space_behind() {
        let head = ResponseHead {
            status: 599,
            reason: Vec::new(),
            fields: Pairs::new(),
        };
        let mut out = Vec::new();
        cgi_head(&head, &mut out);
        assert_eq!(out, b"Status: 599\r\n\r\n");
    }
}
