//! Plain functions on bytes that several layers share: decoding, comparing secrets, hashing.

use std::borrow::Cow;
use std::hint::black_box;

/// Percent-decodes once (RFC 3986 section 2.1). Invalid escapes stay as they are, and so does `%00`, as no variable can
/// contain a NUL.
pub fn percent_decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = after;
        let value = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        match value {
            Some(byte) if byte != 0 => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => out.push(*first),
        }
    }
    Cow::Owned(out)
}

/// The value of a decimal number without a sign. `None` for anything else, and above `u64::MAX`.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// Whether the bytes are a token: the name of a header field or a method (RFC 9110 section 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(allowed)
}

/// The value of a hexadecimal digit.
pub fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// The bytes in hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares in a time that depends only on the lengths, so that it reveals nothing about the secret.
pub fn is_secret(given: &[u8], secret: &[u8]) -> bool {
    let mut different = given.len() ^ secret.len();
    for (at, byte) in secret.iter().enumerate() {
        let other = given.get(at).copied().unwrap_or_default();
        different |= usize::from(black_box(byte ^ other));
    }
    black_box(different) == 0
}

/// Leaves out the values of parameters whose names end in `secret`, for a log. They may be in a URL within a URL.
pub fn without_secrets(bytes: &[u8]) -> Cow<'_, [u8]> {
    const NAME: &[u8] = b"secret";
    let mut out: Option<Vec<u8>> = None;
    let mut done = 0;
    while let Some(found) = bytes[done..]
        .windows(NAME.len())
        .position(|part| part.eq_ignore_ascii_case(NAME))
    {
        let name = done + found + NAME.len();
        let rest = &bytes[name..];
        let value = match rest {
            [b'=', ..] => 1,
            [b'%', after @ ..] => {
                let levels = after.chunks(2).take_while(|part| *part == b"25").count();
                let last = after.get(2 * levels..2 * levels + 2);
                match last.is_some_and(|last| last.eq_ignore_ascii_case(b"3d")) {
                    true => 3 + 2 * levels,
                    false => 0,
                }
            }
            _ => 0,
        };
        let end = rest[value..].iter().position(|b| b"&# ".contains(b));
        let end = end.map_or(bytes.len(), |end| name + value + end);
        let out = out.get_or_insert_default();
        out.extend_from_slice(&bytes[done..name + value]);
        done = name + value;
        if value > 0 {
            out.extend_from_slice(b"***");
            done = end;
        }
    }
    match out {
        None => Cow::Borrowed(bytes),
        Some(mut out) => {
            out.extend_from_slice(&bytes[done..]);
            Cow::Owned(out)
        }
    }
}

/// FNV-1a with 64 bits. Not a cryptographic hash.
pub fn fnv(bytes: &[u8]) -> u64 {
    fnv_more(0xcbf2_9ce4_8422_2325, bytes)
}

/// Continues `hash` with more bytes.
pub fn fnv_more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Hashes megabytes in less than a millisecond: eight bytes at a time. Not a cryptographic hash.
pub fn hash_long(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let hash = words
        .by_ref()
        .fold(fnv(&bytes.len().to_le_bytes()), |hash, word| {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
    fnv_more(hash, words.remainder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_hashes_differ_with_each_byte_and_with_the_length() {
        let text: Vec<u8> = (0..=255).cycle().take(1021).collect();
        let mut seen = std::collections::BTreeSet::from([hash_long(&text)]);
        for at in 0..text.len() {
            let mut other = text.clone();
            other[at] ^= 0x80;
            assert!(seen.insert(hash_long(&other)), "{at}");
            assert!(seen.insert(hash_long(&text[..at])), "{at}");
        }
    }

    #[test]
    fn numbers_are_plain_digits() {
        for (text, number) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("+5", None),
            ("-1", None),
            ("", None),
            (" 5", None),
            ("\u{665}", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn escapes_are_decoded_once_and_the_rest_stays() {
        for (sent, seen) in [
            ("a%20b", "a b"),
            ("%2520", "%20"),
            ("%zz%", "%zz%"),
            ("%2", "%2"),
            ("%00", "%00"),
            ("plain", "plain"),
        ] {
            assert_eq!(percent_decode(sent.as_bytes()), seen.as_bytes(), "{sent}");
        }
    }

    #[test]
    fn secrets_are_left_out() {
        for (given, want) in [
            ("", ""),
            ("/secret/secrets?x=secret", "/secret/secrets?x=secret"),
            ("secret=abc", "secret=***"),
            (
                "/-/status?secret=a%26b+c&format=json",
                "/-/status?secret=***&format=json",
            ),
            ("/x?my_Secret=a&secret=b#c", "/x?my_Secret=***&secret=***#c"),
            ("GET /x?secret=a%20b HTTP/1.1", "GET /x?secret=*** HTTP/1.1"),
            (
                "/login/?next=/-/status%3Fsecret%3Dabc%26x",
                "/login/?next=/-/status%3Fsecret%3D***",
            ),
            ("?a=secret%25253dabc&b", "?a=secret%25253d***&b"),
            ("secret%", "secret%"),
            ("secret%3", "secret%3"),
            ("secret", "secret"),
            ("secretsecret=secret", "secretsecret=***"),
        ] {
            let left = without_secrets(given.as_bytes());
            assert_eq!(String::from_utf8_lossy(&left), want, "{given}");
        }
    }

    #[test]
    fn only_the_secret_itself_matches() {
        assert!(is_secret(b"hush", b"hush") && is_secret(b"", b""));
        for other in [&b""[..], b"hus", b"hush!", b"Hush", b"hush\0"] {
            assert!(!is_secret(other, b"hush"), "{other:?}");
        }
    }
}
