//! `Site`: all fronts, workers and preloaders of a site, from the files that the fronts write and from /proc.
//!
//! Talks to no process and waits for none. What cannot be seen from here is said in `notes`.

use super::counts::COUNTS;
use super::figures::{Figure, OfUsage, Process, ago, counted};
use super::{Count, Counters, Doing, History, Note, Snapshot, State, one_line};
use crate::rundir::{self, BASES};
use crate::sys::limits::{self, Limit};
use crate::sys::procfs::{self, Usage};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A front writes every ten seconds at the least; one that has not for this long hangs or is stopped.
const SILENT_MS: u64 = 25_000;
/// A front's file is smaller.
const FILE_SIZE: u64 = 1 << 20;
/// How often a file that is just being written is read again.
const TRIES: usize = 20;

/// A site at a moment.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// When, in milliseconds since 1970.
    pub now: u64,
    /// Its settings file.
    pub config: String,
    /// Its fronts that are alive, the oldest first.
    pub fronts: Vec<Front>,
    /// Its preloaders.
    pub preloaders: Vec<Preloader>,
    /// Of the account.
    pub limits: Vec<Limit>,
    /// What could not be seen, in sentences.
    pub notes: Vec<String>,
}

/// A front.
#[derive(Clone, Debug)]
pub struct Front {
    /// What it says.
    pub snapshot: Snapshot,
    /// What it uses.
    pub usage: Option<Usage>,
    /// What its workers use, in their order.
    pub workers: Vec<Option<Usage>>,
    /// It has not written for so many milliseconds, and should have.
    pub silent: Option<u64>,
}

/// A process that has the app imported.
#[derive(Clone, Debug)]
pub struct Preloader {
    /// 0: not found.
    pub pid: u32,
    /// Names the version of the code.
    pub code: String,
    /// Fronts take their workers from it.
    pub current: bool,
    /// What it uses.
    pub usage: Option<Usage>,
}

/// Where a site's processes meet.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Directories that may be looked into.
    pub dirs: Vec<PathBuf>,
    /// Directories of other users that belong to the same settings file.
    pub foreign: Vec<(PathBuf, u32)>,
}

impl Places {
    /// Finds the runtime directories of this user, which may belong to any site: `named` if given, else those where
    /// fronts look for one. `beside`: the directory of the executable.
    pub fn find(config: &Path, named: Option<&Path>, beside: &Path) -> Places {
        let mut places = Places::default();
        if let Some(path) = named {
            places.add(path.to_owned(), true);
            return places;
        }
        let this = rundir::site(config.as_os_str().as_encoded_bytes());
        let bases = BASES.iter().map(Path::new).chain([beside]);
        for (name, path) in bases.flat_map(files) {
            let Some((uid, site)) = rundir::owner_and_site(&name) else {
                continue;
            };
            let meta = fs::symlink_metadata(&path);
            if meta.is_ok_and(|meta| meta.is_dir() && uid == meta.uid().to_string()) {
                places.add(path, site == this);
            }
        }
        places.dirs.sort();
        places
    }

    fn add(&mut self, path: PathBuf, of_this_site: bool) {
        let us = nix::unistd::geteuid().as_raw();
        match fs::symlink_metadata(&path).map(|meta| meta.uid()) {
            Ok(uid) if uid == us || us == 0 => self.dirs.push(path),
            Ok(uid) if of_this_site => self.foreign.push((path, uid)),
            _ => (),
        }
    }
}

impl Site {
    /// What the fronts in these directories say that serve by this settings file.
    pub fn collect(dirs: &[PathBuf], config: &str, now: SystemTime) -> Site {
        let mut site = Site {
            now: millis(now),
            config: config.to_owned(),
            ..Site::default()
        };
        for dir in dirs {
            let first = site.fronts.len();
            let unreadable = site.read_fronts(dir);
            if site.fronts.len() > first || dirs.len() == 1 {
                site.find_preloaders(dir, first);
                site.notes.extend(unreadable.iter().map(|pid| {
                    format!("Front {pid} is of another version, or its file is damaged: what it does cannot be shown.")
                }));
            }
        }
        site.fronts
            .sort_by_key(|f| (f.snapshot.started, f.snapshot.pid));
        let first = site.fronts.first();
        let pid = first.map_or(std::process::id(), |front| front.snapshot.pid);
        let uid = procfs::owner(pid).unwrap_or(nix::unistd::geteuid().as_raw());
        let largest = site.usages().map(|usage| usage.virtual_bytes).max();
        site.limits = limits::limits(pid, uid, largest.unwrap_or(0));
        site
    }

    /// Returns the pids of fronts that live and cannot be read.
    fn read_fronts(&mut self, dir: &Path) -> Vec<String> {
        let mut unreadable = Vec::new();
        for (name, path) in files(dir) {
            let Some(pid) = rundir::pid_of(&name) else {
                continue;
            };
            let Some((snapshot, held)) = read_patiently(&path) else {
                continue;
            };
            let Some(snapshot) = snapshot else {
                unreadable.extend(held.then(|| one_line(pid)));
                continue;
            };
            let alive = held || procfs::is_running(snapshot.pid, snapshot.start_ticks);
            if alive && snapshot.config == self.config && pid == snapshot.pid.to_string() {
                let workers = snapshot.workers.iter();
                let silence = self.since(snapshot.written);
                self.fronts.push(Front {
                    usage: procfs::usage(snapshot.pid),
                    workers: workers.map(|w| procfs::usage(w.pid)).collect(),
                    silent: Some(silence).filter(|ms| *ms > SILENT_MS),
                    snapshot,
                });
            }
        }
        unreadable
    }

    /// A preloader holds the lock of its version for as long as it lives.
    fn find_preloaders(&mut self, dir: &Path, first: usize) {
        for (name, path) in files(dir) {
            let Some(code) = rundir::version_of(&name) else {
                continue;
            };
            let Some(file) = open(&path).filter(is_held) else {
                continue;
            };
            // It writes its pid into the file whose lock it holds.
            let mut text = String::new();
            let _ = file.take(64).read_to_string(&mut text);
            let (pid, _) = rundir::holder(&text);
            let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
            let mut fronts = self.fronts[first..].iter();
            self.preloaders.push(Preloader {
                pid,
                current: fronts.any(|front| front.snapshot.code == code),
                code: one_line(code),
                usage: procfs::usage(pid),
            });
        }
    }

    /// The site in a word.
    pub fn state(&self) -> &'static str {
        let is = |state| move |front: &Front| front.snapshot.state == state;
        let any = |state| self.fronts.iter().any(is(state));
        match self.fronts.iter().all(|front| front.silent.is_some()) {
            _ if self.fronts.is_empty() => "not running",
            _ if any(State::Fault) => "fault",
            true => "hanging",
            _ if any(State::Restarting) => "restarting",
            _ if any(State::Serving) => "serving",
            _ => "leaving",
        }
    }

    /// Whether a front serves: one that only tells what is wrong does not, nor does one that hangs.
    pub fn runs(&self) -> bool {
        self.fronts
            .iter()
            .any(|front| front.snapshot.state != State::Fault && front.silent.is_none())
    }

    /// What the settings file is called, without directory and extension.
    pub fn name(&self) -> String {
        Path::new(&self.config)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The counts of all fronts.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for front in &self.fronts {
            all.merge(&front.snapshot.counters);
        }
        all
    }

    /// The last hour of all fronts.
    pub fn history(&self) -> History {
        let mut all = History::default();
        all.advance(self.now);
        for front in &self.fronts {
            let mut history = front.snapshot.history.clone();
            history.advance(self.now);
            all.merge(&history);
        }
        all
    }

    /// Workers that do this.
    pub fn workers(&self, doing: Doing) -> usize {
        let all = self.fronts.iter().flat_map(|front| &front.snapshot.workers);
        all.filter(|worker| worker.doing == doing).count()
    }

    /// Requests that wait.
    pub fn queued(&self) -> u64 {
        self.fronts.iter().map(|front| front.snapshot.queued).sum()
    }

    /// Milliseconds since `then`.
    pub(super) fn since(&self, then: u64) -> u64 {
        self.now.saturating_sub(then)
    }

    /// The site in a line.
    pub(super) fn summary(&self) -> String {
        match (self.fronts.len(), self.preloaders.len()) {
            (0, 0) => String::from("not running"),
            (0, _) => String::from("not running; the app is still loaded, for the next visitor"),
            (fronts, _) => {
                let (state, busy) = (self.state(), self.workers(Doing::Busy));
                let fronts = counted(fronts as u64, "front");
                let workers = self.fronts.iter().map(|front| front.workers.len() as u64);
                let workers = counted(workers.sum(), "worker");
                let queued = counted(self.queued(), "request");
                format!("{state}; {fronts}, {workers} ({busy} busy), {queued} waiting")
            }
        }
    }

    /// The counts that are for people.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Figure<Count>, u64)> {
        let counters = self.counters();
        let titled = COUNTS.into_iter().filter(|figure| !figure.title.is_empty());
        titled.map(move |figure| (figure, counters.get(figure.of)))
    }

    /// What went wrong, in sentences.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut lines = self.notes.clone();
        let snapshots = || self.fronts.iter().map(|front| &front.snapshot);
        let troubled = snapshots().filter(|s| !s.trouble.is_empty());
        lines.extend(troubled.map(|s| format!("front {}: {}", s.pid, s.trouble)));
        let failures = snapshots().filter_map(|s| s.last_failure.as_ref());
        let deaths = snapshots().filter_map(|s| s.last_death.as_ref());
        let newest: [(_, Option<&Note>); 2] = [
            ("last failure", failures.max_by_key(|note| note.at)),
            ("last worker that died", deaths.max_by_key(|note| note.at)),
        ];
        let said = newest.into_iter().filter_map(|(name, note)| {
            let Note { at, text } = note?;
            Some(format!("{name}, {} ago: {text}", ago(self.since(*at))))
        });
        lines.extend(said);
        lines
    }

    /// The table of processes: fronts, each followed by its workers, and preloaders.
    pub(super) fn processes(&self) -> Vec<Process<'_>> {
        let mut all = Vec::new();
        for front in &self.fronts {
            all.push(Process::front(self, front));
            let workers = front.snapshot.workers.iter().zip(&front.workers);
            all.extend(
                workers.map(|(worker, usage)| Process::worker(self, worker, usage.as_ref())),
            );
        }
        let idle = self.fronts.is_empty();
        let preloaders = self.preloaders.iter();
        all.extend(preloaders.map(|preloader| Process::preloader(preloader, idle)));
        all
    }

    /// What each process uses.
    pub(super) fn usages(&self) -> impl Iterator<Item = &Usage> {
        self.processes()
            .into_iter()
            .filter_map(|process| process.usage)
    }

    /// A figure of all processes together.
    pub(super) fn total(&self, figure: &Figure<OfUsage>) -> u64 {
        self.usages().map(figure.of).sum()
    }
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// The names in a directory, and their paths.
fn files(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.file_name().into_string().ok()?, entry.path()))
    })
}

/// A regular file, whoever has put it there.
fn open(path: &Path) -> Option<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    file.ok()
        .filter(|f| f.metadata().is_ok_and(|m| m.is_file()))
}

/// What a front's file says, and whether the front holds it. None: it says nothing yet.
fn read_patiently(path: &Path) -> Option<(Option<Snapshot>, bool)> {
    let file = open(path).filter(|f| f.metadata().is_ok_and(|m| m.len() > 0))?;
    let mut tries = (0..TRIES).map(|_| {
        std::thread::yield_now();
        read(&file)
    });
    Some((tries.find_map(|read| read), is_held(&file)))
}

/// What a front's file says. None: it is just being written, of another version, or damaged.
pub fn read(mut file: &File) -> Option<Snapshot> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.take(FILE_SIZE).read_to_end(&mut bytes).ok()?;
    // What a longer file has left behind may begin within a character.
    Snapshot::decode(&String::from_utf8_lossy(&bytes))
}

/// Whether another holds the lock. The lock is taken for a moment when nobody does.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// A site that has everything, with text that would break a careless form.
    pub(in crate::status) fn example() -> Site {
        let usage = Usage {
            letter: 'S',
            cpu_ms: 1234,
            age_ms: 90_000,
            threads: 1,
            virtual_bytes: 1 << 30,
            bytes: 35 << 20,
            is_pss: true,
        };
        let snapshot = crate::status::snapshot::tests::example();
        Site {
            now: 3_601_000,
            config: snapshot.config.clone(),
            fronts: vec![Front {
                workers: vec![Some(usage), None],
                snapshot,
                usage: Some(Usage {
                    is_pss: false,
                    ..usage
                }),
                silent: Some(30_000),
            }],
            preloaders: vec![
                Preloader {
                    pid: 90,
                    code: String::from("abc"),
                    current: true,
                    usage: Some(usage),
                },
                Preloader {
                    pid: 0,
                    code: String::from("def"),
                    current: false,
                    usage: None,
                },
            ],
            limits: vec![
                Limit {
                    resource: &limits::RESOURCES[0],
                    used: 14,
                    most: Some(15),
                },
                Limit {
                    resource: &limits::RESOURCES[2],
                    used: 100 << 20,
                    most: None,
                },
            ],
            notes: vec![String::from("a <note> & \"more\"")],
        }
    }

    #[test]
    fn only_living_fronts_of_the_site_are_shown() {
        let dir = std::env::temp_dir().join(format!("runfcgi-collect-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let put = |pid: u32, start_ticks: u64, config: &str| {
            let snapshot = Snapshot {
                pid,
                start_ticks,
                config: config.to_owned(),
                ..Snapshot::default()
            };
            let path = dir.join(format!("front-{pid}.status"));
            fs::write(&path, snapshot.encode()).unwrap();
            File::open(path).unwrap()
        };
        let us = std::process::id();
        let started = procfs::start_time(us as i32);
        let held = put(999_999_999, 1, "/a.toml");
        held.lock().unwrap();
        put(999_999_998, 1, "/a.toml");
        put(us, started, "/a.toml");
        put(1, 1, "/a.toml");
        put(999_999_997, 1, "/b.toml").lock().unwrap();
        fs::write(dir.join("front-5.status"), "").unwrap();
        // What a longer text has left behind is cut within a character.
        let mut rest = OpenOptions::new();
        let mut rest = rest
            .append(true)
            .open(dir.join(format!("front-{us}.status")))
            .unwrap();
        rest.write_all(&"ä".as_bytes()[1..]).unwrap();
        let damaged = File::create(dir.join("front-6.status")).unwrap();
        (&damaged)
            .write_all(b"# runfcgi-status 3 what is this\n")
            .unwrap();
        damaged.lock().unwrap();
        fs::write(dir.join("front-7.status"), "nobody's").unwrap();
        let site = Site::collect(std::slice::from_ref(&dir), "/a.toml", SystemTime::now());
        let mut pids: Vec<u32> = site.fronts.iter().map(|f| f.snapshot.pid).collect();
        pids.sort();
        assert_eq!(pids, [us, 999_999_999]);
        assert_eq!(site.notes.len(), 1, "{:?}", site.notes);
        assert!(site.notes[0].starts_with("Front 6 is of another version"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_site_adds_up() {
        let mut site = example();
        site.fronts.push(site.fronts[0].clone());
        assert_eq!(site.counters().get(crate::status::Count::Requests), 2);
        assert_eq!(site.history().requests[crate::status::MINUTES - 1], 2);
        assert_eq!(
            (site.state(), site.queued(), site.workers(Doing::Busy)),
            ("hanging", 2, 2)
        );
        assert!(!site.runs());
        site.fronts[0].silent = None;
        site.fronts[0].snapshot.state = State::Restarting;
        assert!(site.runs());
        site.fronts[0].snapshot.state = State::Fault;
        assert!(!site.runs(), "one has a fault, one hangs");
        assert_eq!(site.name(), "my site");
        assert_eq!(Site::default().state(), "not running");
    }
}
