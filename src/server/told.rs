//! Which refusals the fronts of a site have told: one of them tells, and the others stay silent.
//!
//! Each refusal is a line of a file in the runtime directory. Fronts that find the same thing at the same time all append
//! it; the one whose line comes first tells. Never blocks.

use crate::rundir::{Entry, RuntimeDir, open_plain};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};

/// The largest size of the file, in bytes. A full file is emptied.
const MAX_SIZE: u64 = 16 << 10;

/// Whether this front is the first to tell of this refusal. If the file cannot be used, it is: better twice than never.
pub(super) fn is_first(dir: &RuntimeDir, refusal: u64) -> bool {
    claim(dir, refusal).unwrap_or(true)
}

fn claim(dir: &RuntimeDir, refusal: u64) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    let mut file = open_plain(&mut options, &dir.file(Entry::Told))?;
    let refusal = format!("{refusal:016x}");
    if first(&mut file, &refusal)?.is_some() {
        return Ok(false);
    }
    if file.metadata()?.len() >= MAX_SIZE {
        file.set_len(0)?;
    }
    let us = std::process::id().to_string();
    file.write_all(format!("{refusal} {us}\n").as_bytes())?;
    Ok(first(&mut file, &refusal)? == Some(us))
}

/// The process that was the first to add this refusal.
fn first(file: &mut File, refusal: &str) -> io::Result<Option<String>> {
    let mut text = String::new();
    file.rewind()?;
    file.take(2 * MAX_SIZE).read_to_string(&mut text)?;
    let pid = text.lines().find_map(|line| line.strip_prefix(refusal));
    Ok(pid.map(|pid| pid.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs;

    fn runtime(scratch: &Scratch) -> RuntimeDir {
        scratch.mode("", 0o700);
        RuntimeDir::open(Some(scratch), scratch, b"").unwrap()
    }

    #[test]
    fn a_refusal_is_told_once() {
        let scratch = Scratch::new("told");
        let dir = runtime(&scratch);
        assert!(is_first(&dir, 1) && !is_first(&dir, 1));
        assert!(is_first(&dir, 2) && !is_first(&dir, 1));
        // Another process was faster by a moment.
        let path = dir.file(Entry::Told);
        let other = format!("{}0000000000000003 1\n", fs::read_to_string(&path).unwrap());
        fs::write(&path, other).unwrap();
        assert!(!is_first(&dir, 3));
        for refusal in 4..10_000 {
            assert!(is_first(&dir, refusal));
        }
        assert!(!is_first(&dir, 9_999));
        assert!(fs::metadata(&path).unwrap().len() < 2 * MAX_SIZE);
    }

    #[test]
    fn without_the_file_everybody_tells() {
        let scratch = Scratch::new("told-odd");
        let dir = runtime(&scratch);
        fs::create_dir(dir.file(Entry::Told)).unwrap();
        assert!(is_first(&dir, 1) && is_first(&dir, 1));
        fs::remove_dir(dir.file(Entry::Told)).unwrap();
        fs::write(dir.file(Entry::Told), b"\xff").unwrap();
        assert!(is_first(&dir, 1), "the app can write anything to it");
    }
}
