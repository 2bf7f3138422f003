//! `Pairs`: an ordered list of (name, value) byte strings in one buffer.
//!
//! The form in which CGI meta-variables and response header fields travel inside runfcgi. The buffer is
//! the very bytes that the private wire carries (`name NUL value NUL …`), so a request reaches a worker
//! without being encoded again. Knows no protocol and does no I/O.

/// Ordered (name, value) byte strings. A NUL can stand in neither.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    name: u32,
    value: u32,
    end: u32,
}

impl Pairs {
    /// An empty list.
    pub fn new() -> Pairs {
        Pairs::default()
    }

    /// An empty list with room for `pairs` pairs of `bytes` bytes in all.
    pub fn with_capacity(pairs: usize, bytes: usize) -> Pairs {
        Pairs {
            bytes: Vec::with_capacity(bytes),
            spans: Vec::with_capacity(pairs),
        }
    }

    /// Splits `name NUL value NUL …`; `None` when the bytes are not of that form.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Pairs> {
        let mut spans = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let value = start + nul(&bytes[start..])? + 1;
            let end = value + nul(&bytes[value..])?;
            spans.push(Span::new(start, value, end)?);
            start = end + 1;
        }
        Some(Pairs { bytes, spans })
    }

    /// Appends a pair. `false`, and nothing appended, when either holds a NUL or the list is full (4 GiB).
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> bool {
        let start = self.bytes.len();
        let value_at = start + name.len() + 1;
        let end = value_at + value.len();
        if name.contains(&0) || value.contains(&0) {
            return false;
        }
        let Some(span) = Span::new(start, value_at, end) else {
            return false;
        };
        self.bytes.reserve(end + 1 - start);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.bytes.extend_from_slice(value);
        self.bytes.push(0);
        self.spans.push(span);
        true
    }

    /// Appends pair number `index` of another list, in one copy. `false` when there is none or the list is full.
    pub fn push_from(&mut self, other: &Pairs, index: usize) -> bool {
        let Some(&from) = other.spans.get(index) else {
            return false;
        };
        let start = self.bytes.len();
        let moved = |place: u32| start + (place - from.name) as usize;
        let Some(span) = Span::new(start, moved(from.value), moved(from.end)) else {
            return false;
        };
        let bytes = &other.bytes[from.name as usize..=from.end as usize];
        self.bytes.extend_from_slice(bytes);
        self.spans.push(span);
        true
    }

    /// The value of the first pair with this very name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|s| {
            (
                &self.bytes[s.name as usize..s.value as usize - 1],
                &self.bytes[s.value as usize..s.end as usize],
            )
        })
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// No pairs.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// All pairs as `name NUL value NUL …`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Span {
    fn new(name: usize, value: usize, end: usize) -> Option<Span> {
        Some(Span {
            name: u32::try_from(name).ok()?,
            value: u32::try_from(value).ok()?,
            end: u32::try_from(end).ok()?,
        })
    }
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))),
            )
            .finish()
    }
}

fn nul(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_wire_form() {
        let mut pairs = Pairs::new();
        assert!(pairs.push(b"A", b"1"));
        assert!(pairs.push(b"", b""));
        assert!(pairs.push(b"B", b"two words"));
        assert!(!pairs.push(b"C\0", b""));
        assert!(!pairs.push(b"C", b"\0"));
        assert_eq!(pairs.as_bytes(), b"A\x001\0\0\0B\0two words\0");
        assert_eq!(
            Pairs::from_bytes(pairs.as_bytes().to_vec()),
            Some(pairs.clone())
        );
        assert_eq!(pairs.get(b"B"), Some(&b"two words"[..]));
        assert_eq!(pairs.get(b"b"), None);
        assert_eq!(pairs.len(), 3);
    }

    #[test]
    fn pairs_are_copied_from_list_to_list() {
        let mut from = Pairs::new();
        for (name, value) in [("A", "1"), ("", ""), ("B", "two words")] {
            assert!(from.push(name.as_bytes(), value.as_bytes()));
        }
        let mut to = Pairs::new();
        for index in [2, 1, 0] {
            assert!(to.push_from(&from, index));
        }
        assert!(!to.push_from(&from, 3));
        assert_eq!(to.as_bytes(), b"B\0two words\0\0\0A\x001\0");
        assert_eq!(Pairs::from_bytes(to.as_bytes().to_vec()), Some(to));
    }

    #[test]
    fn a_torn_list_is_refused() {
        assert_eq!(Pairs::from_bytes(b"A\x001".to_vec()), None);
        assert_eq!(Pairs::from_bytes(b"A\0".to_vec()), None);
        assert_eq!(Pairs::from_bytes(b"A".to_vec()), None);
        assert!(Pairs::from_bytes(Vec::new()).is_some_and(|p| p.is_empty()));
    }
}
