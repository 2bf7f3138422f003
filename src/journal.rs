//! The journal: the latest failures of a site, for its owner. All fronts of the site append to one file in the runtime
//! directory, and the owner's desk reads it.
//!
//! A record is a line of fields separated by tabs. It begins with a newline too, so that a torn record damages no other.
//! The size of the file is limited: the front that finds it full keeps the newer half. The app runs as the same user and
//! may write anything to the file, so reading limits sizes and removes control characters. Never blocks; reads no clock.

use crate::rundir::{self, is_at, open_plain, replace};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::Split;

/// The largest size of the file, in bytes. A full file loses its older half.
const MAX_SIZE: u64 = 256 << 10;
/// The longest traceback, in bytes. Of a longer one the end is kept.
const MAX_TRACEBACK: usize = 8 << 10;
/// The longest other text, in bytes. Of a longer one the beginning is kept.
const MAX_FIELD: usize = 1000;
/// How often to try for the lock, which is normally held for a few microseconds.
const ATTEMPTS: usize = 100;
/// The first field of a record: the version of the format. Records of other versions are skipped.
const FORMAT: &str = "1";

/// One failure, or several similar ones of a flood with the details of the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it happened, in milliseconds since 1970.
    pub time: u64,
    /// How many failures this stands for.
    pub count: u64,
    /// The incident id on the visitor's page: eight hexadecimal digits. Empty if no request failed.
    pub incident: String,
    /// The code under which it is documented; empty if it has none.
    pub code: String,
    /// The kind of failure: the exception's class, or `Failure::kind`.
    pub kind: String,
    /// Method and path, without the query. Empty if no request failed.
    pub request: String,
    /// What happened, in one line.
    pub summary: String,
    /// Where in the owner's code: `shop/views.py:12 in basket`; empty if unknown.
    pub place: String,
    /// How to fix it; empty if unknown.
    pub hint: String,
    /// The traceback or other details, in lines; may be empty.
    pub traceback: String,
}

/// Failures of one kind at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// How many.
    pub count: u64,
    /// When the first known one happened, in milliseconds since 1970.
    pub first: u64,
    /// The last of them.
    pub last: &'a Entry,
}

/// Appends a failure to the journal in this runtime directory. Fails if the file is full and another process keeps it
/// locked.
pub fn append(dir: &Path, entry: &Entry) -> io::Result<()> {
    let (path, record) = (path(dir), entry.encode());
    for _ in 0..ATTEMPTS {
        let mut file = open_plain(OpenOptions::new().append(true).create(true), &path)?;
        // Append even without the lock: no other process may block this one.
        let locked = try_lock(&file);
        if !is_at(&file, &path) {
            continue;
        }
        let length = file.metadata()?.len();
        if length + record.len() as u64 <= MAX_SIZE {
            return file.write_all(record.as_bytes());
        }
        if !locked {
            break;
        }
        replace(&path, newer_half(&path)?.as_bytes())?;
    }
    Err(io::Error::other(
        "the journal is full, and held by another process",
    ))
}

/// The failures in the journal of this runtime directory, oldest first. Empty if the journal is missing or unreadable.
pub fn read(dir: &Path) -> Vec<Entry> {
    let text = read_end(&path(dir), MAX_SIZE).unwrap_or_default();
    text.lines().filter_map(Entry::decode).collect()
}

/// The latest failure with this incident id.
pub fn find<'a>(entries: &'a [Entry], incident: &str) -> Option<&'a Entry> {
    let wanted = incident.trim();
    let mut newest_first = entries.iter().rev();
    newest_first.find(|entry| is_incident(wanted) && entry.incident.eq_ignore_ascii_case(wanted))
}

/// The failures grouped by code, kind and place. The group with the latest failure comes first.
pub fn groups(entries: &[Entry]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let key = |entry: &Entry| [&entry.code, &entry.kind, &entry.place].map(String::clone);
    for entry in entries.iter().rev() {
        match groups
            .iter_mut()
            .find(|group| key(group.last) == key(entry))
        {
            Some(group) => {
                group.count = group.count.saturating_add(entry.count);
                group.first = group.first.min(entry.time);
            }
            None => groups.push(Group {
                count: entry.count,
                first: entry.time,
                last: entry,
            }),
        }
    }
    groups
}

impl Entry {
    fn encode(&self) -> String {
        let (time, count) = (self.time.to_string(), self.count.to_string());
        let fields = [
            FORMAT,
            &time,
            &count,
            &self.incident,
            &clean(&self.code, MAX_FIELD),
            &clean(&self.kind, MAX_FIELD),
            &clean(&self.request, MAX_FIELD),
            &clean(&self.summary, MAX_FIELD),
            &clean(&self.place, MAX_FIELD),
            &clean(&self.hint, MAX_FIELD),
            &clean_traceback(&self.traceback),
        ];
        format!("\n{}\n", fields.map(escape).join("\t"))
    }

    fn decode(line: &str) -> Option<Entry> {
        let mut fields = line.split('\t');
        if fields.next()? != FORMAT {
            return None;
        }
        let entry = Entry {
            time: fields.next()?.parse().ok()?,
            count: fields.next()?.parse().ok()?,
            incident: fields.next()?.to_owned(),
            code: text(&mut fields)?,
            kind: text(&mut fields)?,
            request: text(&mut fields)?,
            summary: text(&mut fields)?,
            place: text(&mut fields)?,
            hint: text(&mut fields)?,
            traceback: clean_traceback(&unescape(fields.next()?)),
        };
        let valid = entry.incident.is_empty() || is_incident(&entry.incident);
        (valid && entry.count > 0 && fields.next().is_none()).then_some(entry)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(rundir::Entry::Journal.to_string())
}

fn is_incident(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text(fields: &mut Split<'_, char>) -> Option<String> {
    Some(clean(&unescape(fields.next()?), MAX_FIELD))
}

fn try_lock(file: &File) -> bool {
    (0..ATTEMPTS).any(|_| {
        let locked = file.try_lock().is_ok();
        if !locked {
            std::thread::yield_now();
        }
        locked
    })
}

/// The records in the newer half of a full file.
fn newer_half(path: &Path) -> io::Result<String> {
    let text = read_end(path, MAX_SIZE / 2)?;
    let records = text.lines().filter(|line| Entry::decode(line).is_some());
    Ok(records.map(|line| format!("\n{line}\n")).collect())
}

/// The last `max` bytes.
fn read_end(path: &Path, max: u64) -> io::Result<String> {
    let mut file = open_plain(OpenOptions::new().read(true), path)?;
    let begin = file.metadata()?.len().saturating_sub(max);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A text as one line of at most `max` bytes, without control characters.
fn clean(text: &str, max: usize) -> String {
    let text = text.trim();
    let end = text.floor_char_boundary(max);
    let mut out: String = text[..end].chars().map(neutralise).collect();
    if end < text.len() {
        out.push_str("...");
    }
    out
}

/// The same for a text of several lines. Keeps the last `MAX_TRACEBACK` bytes, as the end of a traceback matters most.
fn clean_traceback(text: &str) -> String {
    let text = text.trim_end();
    let mut begin = text.ceil_char_boundary(text.len().saturating_sub(MAX_TRACEBACK));
    if begin > 0 {
        begin += text[begin..].find('\n').map_or(0, |at| at + 1);
    }
    let keep = |c| if c == '\n' { c } else { neutralise(c) };
    text[begin..].chars().map(keep).collect()
}

fn neutralise(c: char) -> char {
    let invisible =
        ('\u{200b}'..='\u{200f}').contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c);
    if c.is_control() || invisible { ' ' } else { c }
}

fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => (),
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn entry(number: u64) -> Entry {
        Entry {
            time: 1_795_333_738_000 + number,
            count: 1,
            incident: format!("{number:08x}"),
            code: String::from("RF0315"),
            kind: String::from("ValueError"),
            request: String::from("GET /basket"),
            summary: String::from("ValueError: a\\nb \u{e9}"),
            place: String::from("shop/views.py:12 in basket"),
            hint: String::new(),
            traceback: String::from("Traceback:\n  File \"a\\b.py\"\n    x = 1\nValueError: a"),
        }
    }

    #[test]
    fn appended_failures_are_read() {
        let dir = Scratch::new("journal");
        assert_eq!(read(&dir), []);
        append(&dir, &entry(1)).unwrap();
        append(&dir, &entry(2)).unwrap();
        assert_eq!(read(&dir), [entry(1), entry(2)]);
        let file = fs::metadata(dir.join("journal")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_failure_is_found_by_its_incident_id() {
        let entries = [entry(0xab), entry(2)];
        assert_eq!(find(&entries, " 000000AB\n"), Some(&entries[0]));
        assert_eq!(find(&entries, "000000ac"), None);
        let unnumbered = Entry {
            incident: String::new(),
            ..entry(1)
        };
        assert_eq!(find(&[unnumbered], ""), None);
    }

    #[test]
    fn failures_are_grouped_by_kind_and_place() {
        let other = |number| Entry {
            place: String::from("shop/views.py:30 in pay"),
            count: 412,
            ..entry(number)
        };
        let entries = [entry(1), entry(2), other(3), entry(4), other(5)];
        let group = |count, first: usize, last: usize| Group {
            count,
            first: entries[first].time,
            last: &entries[last],
        };
        assert_eq!(groups(&entries), [group(824, 2, 4), group(3, 0, 3)]);
    }

    #[test]
    fn a_full_journal_keeps_its_newer_half() {
        let dir = Scratch::new("journal-full");
        for number in 0..5000 {
            append(&dir, &entry(number)).unwrap();
        }
        let file = fs::metadata(dir.join("journal")).unwrap();
        assert!(file.len() <= MAX_SIZE && file.permissions().mode() & 0o777 == 0o600);
        let entries = read(&dir);
        assert!(entries.len() > 500, "{}", entries.len());
        let first = 5000 - entries.len() as u64;
        assert!(entries.iter().zip(first..).all(|(e, n)| *e == entry(n)));
    }

    #[test]
    fn several_fronts_neither_lose_nor_tear_records() {
        let dir = Scratch::new("journal-several");
        let (fronts, each) = (4, 100);
        std::thread::scope(|scope| {
            for front in 0..fronts {
                let dir = &dir;
                scope.spawn(move || {
                    for number in 0..each {
                        append(dir, &entry(front * each + number)).unwrap();
                    }
                });
            }
        });
        let mut entries = read(&dir);
        entries.sort_by_key(|entry| entry.time);
        assert!((0..fronts * each).map(entry).eq(entries));
    }

    #[test]
    fn torn_and_hostile_records_damage_no_other() {
        let dir = Scratch::new("journal-torn");
        let path = dir.join("journal");
        let whole = entry(1).encode();
        let torn = &whole[..whole.len() / 2];
        let mut hostile = entry(2);
        hostile.summary = String::from("x\u{202e}\x1b[31m\ty\nz");
        hostile.traceback = "y\x07".repeat(20_000);
        let huge = format!("\n1\t1\t1\t\t\t\t\t{}\t\t\t\n", "x".repeat(50_000));
        fs::write(&path, [torn, "\n\u{0}\t\t\n1\t\t\n2\t", &huge].concat()).unwrap();
        append(&dir, &hostile).unwrap();
        append(&dir, &entry(3)).unwrap();
        let entries = read(&dir);
        assert_eq!(entries.len(), 3);
        assert!(entries[0].summary.len() < 1100 && entries[0].incident.is_empty());
        assert_eq!(entries[1].summary, "x  [31m y z");
        assert!(entries[1].traceback.len() <= MAX_TRACEBACK);
        assert!(!entries[1].traceback.contains('\x07'));
        assert_eq!(entries[2], entry(3));
        for forged in ["zzzzzzzz", "1", "<script>"] {
            let mut forged_entry = entry(9);
            forged_entry.incident = String::from(forged);
            assert_eq!(Entry::decode(forged_entry.encode().trim()), None);
        }
    }

    #[test]
    fn only_a_regular_file_is_used() {
        let dir = Scratch::new("journal-odd");
        let path = dir.join("journal");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(append(&dir, &entry(1)).is_err());
        assert_eq!(read(&dir), []);
        fs::remove_file(&path).unwrap();
        let target = dir.write("target", "", 0o600);
        std::os::unix::fs::symlink(target, &path).unwrap();
        assert!(append(&dir, &entry(1)).is_err());
        assert_eq!(dir.read("target"), "");
    }

    #[test]
    fn a_lock_that_another_process_holds_does_not_block() {
        let dir = Scratch::new("journal-locked");
        append(&dir, &entry(1)).unwrap();
        let held = File::open(dir.join("journal")).unwrap();
        held.lock().unwrap();
        append(&dir, &entry(2)).unwrap();
        assert_eq!(read(&dir), [entry(1), entry(2)]);
    }
}
