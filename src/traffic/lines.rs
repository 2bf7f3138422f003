//! `Lines`: text that comes in pieces of any size, as lines.

/// A longer line is broken.
const LONGEST: usize = 4000;

/// What is not a whole line yet.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Tells the lines that are complete with `bytes`, each with its end. `last`: no more text follows, so what is left
    /// is a line too.
    pub(super) fn push(&mut self, bytes: &[u8], last: bool, mut tell: impl FnMut(&[u8])) {
        self.0.extend_from_slice(bytes);
        let mut done = 0;
        loop {
            let rest = &self.0[done..];
            let newline = rest.iter().take(LONGEST).position(|b| *b == b'\n');
            let length = match newline {
                Some(at) => at + 1,
                None if rest.len() >= LONGEST => LONGEST,
                None if last => rest.len(),
                None => 0,
            };
            if length == 0 {
                break;
            }
            done += length;
            match newline {
                Some(_) => tell(&rest[..length]),
                None => tell(&[&rest[..length], b"\n"].concat()),
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
        let long = "x".repeat(LONGEST);
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
            let mut tell = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
            let mut text = Lines::default();
            for piece in *pieces {
                text.push(piece.as_bytes(), false, &mut tell);
            }
            text.push(b"", true, &mut tell);
            assert_eq!(&found, lines);
        }
    }
}
