//! `Pairs`: an ordered list of (name, value) byte strings in one buffer, for CGI variables and response header fields.
//!
//! The buffer has the format of the private wire (`name NUL value NUL …`), so that a request goes to a worker without
//! being encoded again. Knows no protocol and does no I/O.

/// An ordered list of (name, value) byte strings without NUL.
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

    /// An empty list with room for this many pairs and bytes in total.
    pub fn with_capacity(pairs: usize, bytes: usize) -> Pairs {
        Pairs {
            bytes: Vec::with_capacity(bytes),
            spans: Vec::with_capacity(pairs),
        }
    }

    /// Parses `name NUL value NUL …`. `None` if the bytes have another format or exceed 4 GiB.
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

    /// Appends a pair. Returns false and appends nothing if it contains a NUL or the list would exceed 4 GiB.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> bool {
        let start = self.bytes.len();
        let value_at = start + name.len() + 1;
        let end = value_at + value.len();
        if has_nul(name) || has_nul(value) {
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

    /// Appends pair number `index` of another list in one copy. Returns false if there is none or the list is full.
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

    /// The value of the first pair with exactly this name.
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

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are no pairs.
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

/// Whether a NUL is among them. Asked of each variable, so of eight bytes at a time.
fn has_nul(bytes: &[u8]) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks();
    let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
    words.any(|word| word.wrapping_sub(LOW) & !word & HIGH != 0) || rest.contains(&0)
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
    fn a_nul_is_found_wherever_it_stands() {
        for length in 0..40 {
            let mut bytes = vec![0x80; length];
            assert!(!has_nul(&bytes));
            for place in 0..length {
                bytes[place] = 0;
                assert!(has_nul(&bytes), "{place} of {length}");
                bytes[place] = 1;
            }
            assert!(!has_nul(&bytes));
        }
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
