//! Plain functions on bytes that several layers share: percent-encoding (RFC 3986 section 2.1), comparing
//! secrets, and hashing.

use std::borrow::Cow;
use std::hint::black_box;

/// Percent-decodes once. What is not an escape stays, and so does `%00`, which no variable can hold.
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

/// The value of a hexadecimal digit.
pub fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Whether `given` is the secret, found out in a time that depends on the lengths alone.
pub fn is_secret(given: &[u8], secret: &[u8]) -> bool {
    let mut different = given.len() ^ secret.len();
    for (at, byte) in secret.iter().enumerate() {
        let other = given.get(at).copied().unwrap_or_default();
        different |= usize::from(black_box(byte ^ other));
    }
    black_box(different) == 0
}

/// FNV-1a, 64 bits: names files by what they depend on; not a defence against anyone.
pub fn fnv(bytes: &[u8]) -> u64 {
    fnv_more(0xcbf2_9ce4_8422_2325, bytes)
}

/// Goes on with `hash`.
pub fn fnv_more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_secret_is_itself_alone() {
        assert!(is_secret(b"hush", b"hush") && is_secret(b"", b""));
        for other in [&b""[..], b"hus", b"hush!", b"Hush", b"hush\0"] {
            assert!(!is_secret(other, b"hush"), "{other:?}");
        }
    }
}
