//! Bytes as text, for transcripts. BYTES are tokens between spaces:
//! ```text
//! 01 ff              hexadecimal
//! "text\r\n\0\x7f"   text; both may be repeated: "x"*500 00*7
//! "NAME"="value"     a FastCGI name-value pair with the shortest lengths; both may be repeated strings
//! [stdin 1 +3 BYTES] a FastCGI record: type as name or number, id, padding (`+` alone: to a multiple of eight)
//! {BYTES}            two bytes of length before the bytes: an AJP string or packet
//! netstring(BYTES)   as SCGI has it
//! ```

/// Reads BYTES.
pub(crate) fn parse_bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut notation = Notation { text };
    let bytes = notation.tokens()?;
    match notation.text {
        "" => Ok(bytes),
        rest => Err(format!("not understood from {rest:?} on")),
    }
}

/// What is left to read.
struct Notation<'a> {
    text: &'a str,
}

impl Notation<'_> {
    /// Tokens up to the end or a closing bracket.
    fn tokens(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            self.text = self.text.trim_start();
            if self.text.is_empty() || self.text.starts_with([']', '}', ')']) {
                return Ok(bytes);
            }
            if self.eat("[") {
                self.record(&mut bytes)?;
            } else if self.eat("{") {
                let content = self.until("}")?;
                let length = u16::try_from(content.len()).map_err(|e| e.to_string())?;
                bytes.extend(length.to_be_bytes());
                bytes.extend(content);
            } else if self.eat("netstring(") {
                let content = self.until(")")?;
                bytes.extend(format!("{}:", content.len()).bytes());
                bytes.extend(content);
                bytes.push(b',');
            } else {
                let first = self.item()?;
                if self.eat("=") {
                    let value = self.item()?;
                    pair(&mut bytes, &first, &value);
                } else {
                    bytes.extend(first);
                }
            }
        }
    }

    /// A FastCGI record, behind its bracket.
    fn record(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        const TYPES: [&str; 11] = [
            "begin",
            "abort",
            "end",
            "params",
            "stdin",
            "stdout",
            "stderr",
            "data",
            "get_values",
            "get_values_result",
            "unknown_type",
        ];
        let word = self.word();
        let record_type = match TYPES.iter().position(|t| *t == word) {
            Some(at) => at as u8 + 1,
            None => word
                .parse()
                .map_err(|_| format!("no such type: {word:?}"))?,
        };
        self.text = self.text.trim_start();
        let id = number(self.word())?;
        self.text = self.text.trim_start();
        let padding = match self.eat("+") {
            true => Some(self.word().to_owned()),
            false => None,
        };
        let content = self.until("]")?;
        let padding = match padding.as_deref() {
            None => 0,
            Some("") => (content.len().wrapping_neg() % 8) as u8,
            Some(count) => count.parse().map_err(|_| "no such padding")?,
        };
        let length = u16::try_from(content.len()).map_err(|e| e.to_string())?;
        bytes.extend([1, record_type]);
        bytes.extend(id.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([padding, 0]);
        bytes.extend(content);
        bytes.resize(bytes.len() + usize::from(padding), 0);
        Ok(())
    }

    /// A string or a hexadecimal byte, perhaps repeated.
    fn item(&mut self) -> Result<Vec<u8>, String> {
        let bytes = if self.eat("\"") {
            self.string()?
        } else {
            let digits = self.text.get(..2).ok_or("half a byte")?;
            let byte =
                u8::from_str_radix(digits, 16).map_err(|_| format!("no byte: {digits:?}"))?;
            self.text = &self.text[2..];
            vec![byte]
        };
        if !self.eat("*") {
            return Ok(bytes);
        }
        let count = self.word();
        Ok(bytes.repeat(count.parse().map_err(|_| format!("no count: {count:?}"))?))
    }

    fn string(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut chars = self.text.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => {
                    self.text = chars.as_str();
                    return Ok(bytes);
                }
                '\\' => bytes.push(match chars.next().ok_or("a lone backslash")? {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '0' => 0,
                    'x' => {
                        let rest = chars.as_str();
                        let digits = rest.get(..2).ok_or("half a byte")?;
                        chars = rest[2..].chars();
                        u8::from_str_radix(digits, 16).map_err(|e| e.to_string())?
                    }
                    c @ ('"' | '\\') => c as u8,
                    c => return Err(format!("no such escape: \\{c}")),
                }),
                c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        Err("a string without an end".into())
    }

    fn until(&mut self, bracket: &str) -> Result<Vec<u8>, String> {
        let content = self.tokens()?;
        if !self.eat(bracket) {
            return Err(format!("{bracket} is missing"));
        }
        Ok(content)
    }

    fn word(&mut self) -> &str {
        let text = self.text;
        let length = text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(text.len());
        self.text = &text[length..];
        &text[..length]
    }

    fn eat(&mut self, prefix: &str) -> bool {
        match self.text.strip_prefix(prefix) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }
}

fn pair(bytes: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, value] {
        match part.len() {
            length @ 0..128 => bytes.push(length as u8),
            length => bytes.extend((length as u32 | 1 << 31).to_be_bytes()),
        }
    }
    bytes.extend(name);
    bytes.extend(value);
}

#[test]
fn the_notation_means_bytes() {
    #[track_caller]
    fn check(text: &str, bytes: &[u8]) {
        assert_eq!(parse_bytes(text).as_deref(), Ok(bytes));
    }
    check("01 ff \"a\\r\\n\\0\\x7f\\\"\"", b"\x01\xffa\r\n\0\x7f\"");
    check("\"ab\"*2 00*3", b"abab\0\0\0");
    check("\"A\"=\"1\" \"\"=\"\"", b"\x01\x01A1\0\0");
    check("[stdin 258 +2 \"a\"]", b"\x01\x05\x01\x02\0\x01\x02\0a\0\0");
    check("[250 1 +]", b"\x01\xfa\0\x01\0\0\0\0");
    check(
        "[stdout 1 + \"a\"]",
        b"\x01\x06\0\x01\0\x01\x07\0a\0\0\0\0\0\0\0",
    );
    check("12 34 {02 {\"ab\"} 00}", b"\x12\x34\0\x06\x02\0\x02ab\0");
    check("netstring(\"A\" 00) \"x\"", b"2:A\0,x");
    for wrong in ["0", "zz", "\"a", "[stdin 1", "[nope 1]", "]", "\"a\"*"] {
        assert!(parse_bytes(wrong).is_err(), "{wrong}");
    }
}

/// A number of two bytes.
pub(crate) fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("not a number: {text:?}"))
}
