//! FastCGI name-value pairs (FastCGI 1.0 section 3.4): two lengths of one or four bytes each, then name and value.

/// The pairs of a complete stream, in order. If the stream ends within a pair, the last item is an `Err`.
pub(super) fn pairs(bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Truncated>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = bytes.len() - rest.len();
        let pair = split_pair(&mut rest);
        if pair.is_none() {
            rest = &[];
        }
        Some(pair.ok_or(Truncated { at }))
    })
}

/// The stream ends within a pair.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Truncated {
    /// The offset of that pair.
    pub(super) at: usize,
}

/// Appends a pair, with lengths as short as possible.
pub(super) fn append_pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    append_length(out, name.len());
    append_length(out, value.len());
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

fn split_pair<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let name = split_length(rest)?;
    let value = split_length(rest)?;
    Some((split(rest, name)?, split(rest, value)?))
}

fn split_length(rest: &mut &[u8]) -> Option<usize> {
    let first = *rest.first()?;
    if first < 0x80 {
        *rest = &rest[1..];
        return Some(usize::from(first));
    }
    let (four, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*four) & 0x7FFF_FFFF).ok()
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(front)
}

fn append_length(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => out.push(short),
        _ => out.extend_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_one_byte_below_128() {
        for (length, lengths) in [(127, &[127, 0][..]), (128, &[0x80, 0, 0, 128, 0])] {
            let name = vec![b'n'; length];
            let mut out = Vec::new();
            append_pair(&mut out, &name, b"");
            assert_eq!(&out[..lengths.len()], lengths);
            assert_eq!(pairs(&out).collect::<Vec<_>>(), [Ok((&name[..], &b""[..]))]);
        }
    }

    #[test]
    fn a_torn_pair_ends_the_list() {
        let stream = b"\x01\x01A1\x01\x05B";
        assert_eq!(
            pairs(stream).collect::<Vec<_>>(),
            [Ok((&b"A"[..], &b"1"[..])), Err(Truncated { at: 4 })]
        );
        for torn in [&b"\x01"[..], b"\x80\0", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(pairs(torn).collect::<Vec<_>>(), [Err(Truncated { at: 0 })]);
        }
    }
}
