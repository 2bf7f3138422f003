//! `Lines`: splits text that arrives in pieces of any size into lines.

/// The longest line, in bytes. Longer ones are broken.
const MAX_LINE: usize = 4000;

/// The incomplete line at the end of the text so far.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Adds text and passes each complete line, with its newline, to `emit`. With `last`, no more text follows, so the
    /// rest is a line too.
    pub(super) fn push(&mut self, bytes: &[u8], last: bool, mut emit: impl FnMut(&[u8])) {
        self.0.extend_from_slice(bytes);
        let mut done = 0;
        loop {
            let rest = &self.0[done..];
            let newline = rest.iter().take(MAX_LINE).position(|b| *b == b'\n');
            let length = match newline {
                Some(at) => at + 1,
                None if rest.len() >= MAX_LINE => MAX_LINE,
                None if last => rest.len(),
                None => 0,
            };
            if length == 0 {
                break;
            }
            done += length;
            match newline {
                Some(_) => emit(&rest[..length]),
                None => emit(&[&rest[..length], b"\n"].concat()),
            }
        }
        self.0.drain(..done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_lines() {
        let long = "x".repeat(MAX_LINE);
        let longer = format!("{long}y");
        let table: &[(&[&str], &[&str])] = &[
            (&[""], &[]),
            (&["one\ntwo\nthr", "ee\n"], &["one\n", "two\n", "three\n"]),
            (&["a", "b"], &["ab\n"]),
            (&["\n\n"], &["\n", "\n"]),
            (&[&long], &[&format!("{long}\n")]),
            (&[&longer, "\n"], &[&format!("{long}\n"), "y\n"]),
        ];
        for (pieces, lines) in table {
            let mut found = Vec::new();
            let mut emit = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
            let mut text = Lines::default();
            for piece in *pieces {
                text.push(piece.as_bytes(), false, &mut emit);
            }
            text.push(b"", true, &mut emit);
            assert_eq!(&found, lines);
        }
    }
}
