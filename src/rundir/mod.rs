//! The runtime directory: where the processes of a site find each other, and where the running copy of the executable is.
//! There is one for each site, user and machine, on a local file system, with mode 700.
//!
//! Only this module knows the files in it; Python gets their names from `RuntimeDir::put_names`. Fronts of other versions
//! use the same directory, so no name may change its meaning.
//! ```text
//! file               written by                                read by                           stays until
//! VERSION.lock       preloader: its pid, then `ready` and its  fronts, `status`                  preloader leaves, swept
//!                    report of the workers; or the front that
//!                    started it: `failed`, and why
//! VERSION.sock       front that starts a preloader: listens    fronts: connect                   VERSION.lock goes
//! VERSION.log, .out  preloader: stderr, stdout of the import   itself, front that started it     unlinked at once
//! front-PID.status   front                                     `status`, fronts, its next image  front ends, swept
//! exe-HASH           first front that runs this executable     fronts: run it                    swept
//! exe-of-STAMP       the same: another name of exe-HASH        fronts: run it                    swept
//! exe-new-PID        the same, while it is copied              -                                 complete, swept
//! exe-probe-PID      front: is there room?                     -                                 unlinked at once
//! good               front: the release that last worked       fronts that start, preloader      last leaves
//! open               preloader: what the import left open      preloader of the same version     last leaves
//! python             launcher: the interpreter it found        launcher                          last leaves
//! reload             front that is to reload the whole site    fronts: watch it                  last leaves
//! told               fronts: each refusal that one has told      fronts                            last leaves
//! turn               front whose turn it is: locks it          fronts: try to lock it            last leaves
//! task-lock          process of a task: locks it               fronts, other tasks               swept
//! task, task.out     the same: what it is, what it says        fronts                            a day old, swept
//! check.out          the same: what the last check found       fronts                            a day old, swept
//! task.stop          front: the task is to stop                process of the task               taken, a day old, swept
//! tries              front: wrong secrets at the owner's desk  fronts                            last leaves
//! echo               `check --url`: a key                      fronts                            check ends, ten minutes old, swept
//! journal            fronts: each failure                      the owner's page                  a week old, swept
//! ```
//! The process that holds the lock on `VERSION.lock` is the preloader of that version, or about to become it. A front locks
//! its `.status`. All processes that run `exe-HASH` share its lock. *Swept*: any process removes it if no process holds the
//! lock. *Last leaves*: the last process of the site removes it when it exits. `good`, `open`, `python`, and `journal` when
//! it is shortened, are written as `NAME.PID` and then renamed.

mod dir;

use crate::bytes::fnv;
use crate::echo;
use std::fmt;

pub use dir::{BASES, RuntimeDir, at, in_home, is_at, is_full, open_plain, replace};

/// A file in the runtime directory; see the table above.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// The lock that the preloader of this code version holds.
    Lock(&'a str),
    /// The socket of that preloader.
    Socket(&'a str),
    /// Standard error of the import.
    Errors(&'a str),
    /// Standard output of the import.
    Output(&'a str),
    /// The status of the front with this pid.
    Status(u32),
    /// A copy of the executable with this hash.
    Copy(u64),
    /// The same copy, by the stamp of the file that was copied.
    CopyOf(u64),
    /// A copy that this process is making.
    NewCopy,
    /// A file that this process writes to check that there is room.
    Probe,
    /// The release that last worked.
    Good,
    /// The list of what the import left open.
    Open,
    /// The cached interpreter.
    Python,
    /// The file that makes all fronts reload when it is touched.
    Reload,
    /// The refused releases that a front has told of.
    Told,
    /// The lock that the front holds whose turn it is to go live.
    Turn,
    /// The wrong secrets entered at the owner's desk.
    Tries,
    /// The key with which `check --url` asks for the echo.
    Echo,
    /// The lock that the running task holds.
    TaskLock,
    /// The description of the running or last task.
    Task,
    /// The output of that task.
    TaskOutput,
    /// The findings of the last check, as JSON.
    CheckOutput,
    /// The request that the running task stop.
    TaskStop,
    /// The recent failures.
    Journal,
}

const LOCK: &str = ".lock";
const FRONT: &str = "front-";
const STATUS: &str = ".status";
const COPY: &str = "exe-";
const TASK: &str = "task-";

/// Name prefixes of the files that a sweep removes if no process holds a lock on them.
const SWEPT: [&str; 3] = [FRONT, COPY, TASK];

/// Files that the last process of the site removes.
const KEPT: [Entry; 7] = [
    Entry::Good,
    Entry::Open,
    Entry::Python,
    Entry::Reload,
    Entry::Told,
    Entry::Turn,
    Entry::Tries,
];

/// Files that outlive the last process, because the owner or `check` may read them later, and the seconds without a change
/// after which they are removed.
const AGED: [(Entry, u64); 6] = [
    (Entry::Task, DAY),
    (Entry::TaskOutput, DAY),
    (Entry::CheckOutput, DAY),
    (Entry::TaskStop, DAY),
    (Entry::Journal, 7 * DAY),
    (Entry::Echo, echo::LIFETIME),
];
const DAY: u64 = 86_400;

/// The name of the file.
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
            Entry::CopyOf(stamp) => write!(f, "{COPY}of-{stamp:016x}"),
            Entry::NewCopy => write!(f, "{COPY}new-{us}"),
            Entry::Probe => write!(f, "{COPY}probe-{us}"),
            Entry::Good => f.write_str("good"),
            Entry::Open => f.write_str("open"),
            Entry::Python => f.write_str("python"),
            Entry::Reload => f.write_str("reload"),
            Entry::Told => f.write_str("told"),
            Entry::Turn => f.write_str("turn"),
            Entry::Tries => f.write_str("tries"),
            Entry::Echo => f.write_str("echo"),
            Entry::TaskLock => write!(f, "{TASK}lock"),
            Entry::Task => f.write_str("task"),
            Entry::TaskOutput => f.write_str("task.out"),
            Entry::CheckOutput => f.write_str("check.out"),
            Entry::TaskStop => f.write_str("task.stop"),
            Entry::Journal => f.write_str("journal"),
        }
    }
}

/// The version in the name of a lock file. None: it is another file.
pub fn version_of(name: &str) -> Option<&str> {
    name.strip_suffix(LOCK)
}

/// The pid in the name of a front's status file. None: it is another file.
pub fn pid_of(name: &str) -> Option<&str> {
    name.strip_prefix(FRONT)?.strip_suffix(STATUS)
}

/// The word after the pid in a lock file, once the preloader has imported the app.
const READY: &str = "ready";
/// The first line of a lock file that says why the import failed.
pub const FAILED: &str = "failed\n";

/// The pid in the text of a lock file, and whether that process has imported the app.
pub fn holder(lock: &str) -> (Option<i32>, bool) {
    let mut words = lock.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    (pid, words.next() == Some(READY))
}

/// The prefix of directory names, which are `runfcgi-UID-SITE`.
const DIRECTORY: &str = "runfcgi-";

/// The hash of the identity of a site, as in the name of its directory.
pub fn site(identity: &[u8]) -> String {
    format!("{:016x}", fnv(identity))
}

/// The user id and the site in the name of a runtime directory.
pub fn owner_and_site(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(DIRECTORY)?.split_once('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::Pairs;
    use crate::scratch::Scratch;
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    #[test]
    fn sweeping_does_not_disturb_a_probe() {
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
            (Entry::CopyOf(0x1f), "exe-of-000000000000001f"),
            (Entry::NewCopy, &format!("exe-new-{us}")),
            (Entry::Probe, &format!("exe-probe-{us}")),
            (Entry::Good, "good"),
            (Entry::Open, "open"),
            (Entry::Python, "python"),
            (Entry::Reload, "reload"),
            (Entry::Told, "told"),
            (Entry::Turn, "turn"),
            (Entry::Tries, "tries"),
            (Entry::Echo, "echo"),
            (Entry::TaskLock, "task-lock"),
            (Entry::Task, "task"),
            (Entry::TaskOutput, "task.out"),
            (Entry::CheckOutput, "check.out"),
            (Entry::TaskStop, "task.stop"),
            (Entry::Journal, "journal"),
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
        assert_eq!(owner_and_site("runfcgi-1000-1f"), Some(("1000", "1f")));
        assert_eq!(owner_and_site("runfcgi"), None);
    }

    #[test]
    fn unused_files_are_removed() {
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
        for (entry, _) in AGED {
            put(entry);
        }
        dir.leave();
        assert!(!KEPT.into_iter().any(there), "nobody uses them any more");
        for (entry, seconds) in AGED {
            assert!(there(entry), "somebody may want to read it");
            let old = SystemTime::now() - Duration::from_secs(seconds + 1);
            put(entry).set_modified(old).unwrap();
            dir.leave();
            assert!(!there(entry));
        }
        assert!(!scratch.exists());
    }

    const SWEPT_ENTRIES: [Entry; 5] = [
        Entry::TaskLock,
        Entry::Status(7),
        Entry::Copy(1),
        Entry::NewCopy,
        Entry::Probe,
    ];

    #[test]
    fn python_gets_all_names() {
        let scratch = Scratch::new("rundir-names");
        scratch.mode("", 0o700);
        let dir = RuntimeDir::open(Some(&scratch), &scratch, b"").unwrap();
        let mut told = Pairs::new();
        dir.put_names("1f", &mut told);
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
        assert_eq!(of("swept"), "front- exe- task-");
        assert_eq!(of("kept"), "good open python reload told turn tries");
        assert_eq!(of("aged"), "task task.out check.out task.stop journal echo");
        assert_eq!(of("ready"), "ready");
    }
}
