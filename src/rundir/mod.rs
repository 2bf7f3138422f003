//! The runtime directory: where the processes of one site find each other, and where the running copy of the
//! executable lies. One per site, user and machine; ours alone; on a local file system.
//!
//! The one room that knows its files, also for Python, which is told their names (`RuntimeDir::tell`). Fronts of other
//! versions meet here, so no name may change its meaning.
//! ```text
//! file               written by                                read by                           stays until
//! VERSION.lock       preloader: its pid, then `ready`; or the  fronts, `status`                  preloader leaves, swept
//!                    front that started it: `failed`, and why
//! VERSION.sock       front that starts a preloader: listens    fronts: connect                   VERSION.lock goes
//! VERSION.log, .out  preloader: stderr, stdout of the import   itself, front that started it     nameless at once
//! front-PID.status   front                                     `status`, fronts, its next image  front ends, swept
//! exe-HASH           first front that runs this executable     fronts: run it                    swept
//! exe-new-PID        the same, before it is whole              -                                 whole, swept
//! exe-probe-PID      front: is there room?                     -                                 nameless at once
//! good               front: the release that works             fronts that start, preloader      last leaves
//! open               preloader: what the import left open      preloader of the same version     last leaves
//! python             launcher: the interpreter it found        launcher                          last leaves
//! reload             front that is to reload the whole site    fronts: watch it                  last leaves
//! turn               front whose turn it is: locks it          fronts: try to lock it            last leaves
//! want               front that was refused a process          fronts: one gives a worker back   taken, last leaves
//! ```
//! Who holds a lock on `VERSION.lock` is the preloader of that version, or imports for it; a front locks its `.status`,
//! and who runs `exe-HASH` shares its lock. *Swept*: when somebody looks and nobody holds the lock. *Last leaves*: with
//! the last process. `good`, `open` and `python` are written with `.PID` after their names, and then renamed.

mod dir;

use crate::bytes::fnv;
use std::fmt;

pub use dir::{BASES, RuntimeDir, at, is_at, is_full, replace};

/// A file in the runtime directory. What it is for: see the table.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// Of a code version: the lock that its preloader holds.
    Lock(&'a str),
    /// Where that listens.
    Socket(&'a str),
    /// What the import writes to standard error.
    Errors(&'a str),
    /// What the import writes to standard output.
    Output(&'a str),
    /// What the front with this pid tells of itself.
    Status(u32),
    /// A copy of the executable whose content has this hash.
    Copy(u64),
    /// A copy that this process makes.
    NewCopy,
    /// What this process tries to write.
    Probe,
    /// The release that works.
    Good,
    /// What an import has left open.
    Open,
    /// The interpreter that was found.
    Python,
    /// What all fronts watch.
    Reload,
    /// The lock of the front whose turn it is.
    Turn,
    /// The wish for a process.
    Want,
}

const LOCK: &str = ".lock";
const FRONT: &str = "front-";
const STATUS: &str = ".status";
const COPY: &str = "exe-";

/// What begins like this goes when nobody holds a lock on it.
const SWEPT: [&str; 2] = [FRONT, COPY];

/// Files without a lock that lasts: they go with the last process.
const KEPT: [Entry; 6] = [
    Entry::Good,
    Entry::Open,
    Entry::Python,
    Entry::Reload,
    Entry::Turn,
    Entry::Want,
];

/// Its name.
impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = std::process::id();
        match self {
            Entry::Lock(version) => write!(f, "{version}{LOCK}"),
            Entry::Socket(version) => write!(f, "{version}.sock"),
            Entry::Errors(version) => write!(f, "{version}.log"),
            Entry::Output(version) => write!(f, "{version}.out"),
            Entry::Status(pid) => write!(f, "{FRONT}{pid}{STATUS}"),
            Entry::Copy(hash) => write!(f, "{COPY}{hash:016x}"),
            Entry::NewCopy => write!(f, "{COPY}new-{us}"),
            Entry::Probe => write!(f, "{COPY}probe-{us}"),
            Entry::Good => f.write_str("good"),
            Entry::Open => f.write_str("open"),
            Entry::Python => f.write_str("python"),
            Entry::Reload => f.write_str("reload"),
            Entry::Turn => f.write_str("turn"),
            Entry::Want => f.write_str("want"),
        }
    }
}

/// The version whose lock file has this name.
pub fn version_of(name: &str) -> Option<&str> {
    name.strip_suffix(LOCK)
}

/// The pid in the name of a front's file.
pub fn pid_of(name: &str) -> Option<&str> {
    name.strip_prefix(FRONT)?.strip_suffix(STATUS)
}

/// What a preloader writes into its lock file, after its pid, when it has imported the app.
const READY: &str = "ready";
/// The first line of a lock file that tells why the import failed.
pub const FAILED: &str = "failed\n";

/// The pid in a lock file, and whether that process has imported the app.
pub fn holder(lock: &str) -> (Option<i32>, bool) {
    let mut words = lock.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    (pid, words.next() == Some(READY))
}

/// What the name of a directory begins with; then come its owner's number and the site.
const DIRECTORY: &str = "runfcgi-";

/// How the site with this identity is called in the name of its directory.
pub fn site(identity: &[u8]) -> String {
    format!("{:016x}", fnv(identity))
}

/// The owner and the site in the name of a directory. One beside an executable is hidden.
pub fn owner_and_site(name: &str) -> Option<(&str, &str)> {
    let name = name.trim_start_matches('.').strip_prefix(DIRECTORY)?;
    name.split_once('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::Pairs;
    use crate::scratch::Scratch;
    use std::fs::{self, File};

    #[test]
    fn who_looks_for_room_is_not_disturbed_by_who_sweeps() {
        let base = Scratch::new("rundir-race");
        base.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&base), &base, b"").unwrap();
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| (0..2000).try_for_each(|_| dir.has_room()));
            while !looks.is_finished() {
                dir.sweep();
            }
            looks.join().unwrap().unwrap();
        });
    }

    #[test]
    fn other_versions_of_this_program_find_the_files() {
        let us = std::process::id();
        for (entry, name) in [
            (Entry::Lock("1f"), "1f.lock"),
            (Entry::Socket("1f"), "1f.sock"),
            (Entry::Status(7), "front-7.status"),
            (Entry::Copy(0x1f), "exe-000000000000001f"),
            (Entry::NewCopy, &format!("exe-new-{us}")),
            (Entry::Probe, &format!("exe-probe-{us}")),
            (Entry::Good, "good"),
            (Entry::Open, "open"),
            (Entry::Python, "python"),
            (Entry::Reload, "reload"),
            (Entry::Turn, "turn"),
            (Entry::Want, "want"),
        ] {
            assert_eq!(entry.to_string(), name);
        }
        assert_eq!(version_of("1f.lock"), Some("1f"));
        assert_eq!(version_of("1f.sock"), None);
        assert_eq!(pid_of("front-7.status"), Some("7"));
        assert_eq!(pid_of("front-7"), None);
        assert_eq!(holder("7"), (Some(7), false));
        assert_eq!(holder("7 ready"), (Some(7), true));
        assert_eq!(holder(FAILED), (None, false));
        assert_eq!(site(b""), "cbf29ce484222325");
        for name in ["runfcgi-1000-1f", ".runfcgi-1000-1f"] {
            assert_eq!(owner_and_site(name), Some(("1000", "1f")));
        }
        assert_eq!(owner_and_site("runfcgi"), None);
    }

    #[test]
    fn what_nobody_needs_any_more_goes() {
        let scratch = Scratch::new("rundir");
        scratch.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
        let put = |entry| {
            fs::write(dir.file(entry), "").unwrap();
            File::open(dir.file(entry)).unwrap()
        };
        let held = put(Entry::Lock("held"));
        held.lock().unwrap();
        let of_versions = [
            Entry::Socket("held"),
            Entry::Lock("free"),
            Entry::Socket("free"),
        ];
        for entry in of_versions.into_iter().chain(SWEPT_ENTRIES).chain(KEPT) {
            put(entry);
        }
        dir.leave();
        let there = |entry| dir.file(entry).exists();
        assert!(there(Entry::Lock("held")) && there(Entry::Socket("held")));
        assert!(!there(Entry::Lock("free")) && !there(Entry::Socket("free")));
        assert!(!SWEPT_ENTRIES.into_iter().any(there) && KEPT.into_iter().all(there));
        drop(held);
        dir.leave();
        assert!(!scratch.exists());
    }

    const SWEPT_ENTRIES: [Entry; 4] = [
        Entry::Status(7),
        Entry::Copy(1),
        Entry::NewCopy,
        Entry::Probe,
    ];

    #[test]
    fn python_is_told_all_names() {
        let scratch = Scratch::new("rundir-told");
        scratch.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
        let mut told = Pairs::new();
        dir.tell("1f", &mut told);
        let of = |name: &str| {
            let value = told.get(name.as_bytes()).unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        };
        assert_eq!(of("version"), "1f");
        for (name, file) in [
            ("socket", "1f.sock"),
            ("lock", "1f.lock"),
            ("good_file", "good"),
            ("open_file", "open"),
        ] {
            assert_eq!(of(name), scratch.join(file).to_str().unwrap());
        }
        assert_eq!(of("swept"), "front- exe-");
        assert_eq!(of("kept"), "good open python reload turn want");
        assert_eq!(of("ready"), "ready");
    }
}
