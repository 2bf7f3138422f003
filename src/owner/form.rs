//! `Form`: the fields of a submitted form (`application/x-www-form-urlencoded`). Does no I/O.

use crate::bytes::hex;

/// Largest form body, in bytes. The largest form holds a username, an email address and a password.
pub(super) const MAX_BYTES: u64 = 8 << 10;
/// Fields after this many are ignored.
const MAX_FIELDS: usize = 32;

/// Names and values, decoded, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    fields: Vec<(String, String)>,
}

impl Form {
    /// Parses a body of at most `MAX_BYTES`. Skips what is not `name=value`; replaces what is not UTF-8.
    pub(super) fn parse(body: &[u8]) -> Form {
        let fields = body
            .split(|b| *b == b'&')
            .take(MAX_FIELDS)
            .filter_map(|field| {
                let at = field.iter().position(|b| *b == b'=')?;
                Some((decode(&field[..at]), decode(&field[at + 1..])))
            });
        Form {
            fields: fields.collect(),
        }
    }

    /// The value of the first field with this name, or an empty string.
    pub(super) fn get(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(key, _)| key == name);
        field.map_or("", |(_, value)| value)
    }
}

/// Decodes `%XX` and `+`. A `%` without two hexadecimal digits stays as it is.
fn decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        match (escaped, first) {
            (Some(byte), _) => {
                out.push(byte);
                rest = &after[2..];
            }
            (None, b'+') => out.push(b' '),
            (None, byte) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded() {
        let form = Form::parse(b"a=1+2%2b%C3%A9&b=&c&a=again&d=%zz%&%62=x&=y&e=%00");
        for (name, value) in [
            ("a", "1 2+é"),
            ("b", ""),
            ("c", ""),
            ("d", "%zz%"),
            ("e", "\0"),
            ("nowhere", ""),
        ] {
            assert_eq!(form.get(name), value, "{name}");
        }
    }

    #[test]
    fn fields_are_limited() {
        let many = "a=b&".repeat(100) + "last=x";
        assert_eq!(Form::parse(many.as_bytes()).get("last"), "");
        assert_eq!(Form::parse(&[0xff; 100]).get("a"), "");
    }
}
