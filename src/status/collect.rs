//! `Site`: all fronts, workers and preloaders of a site, from the status files of the fronts and from /proc.
//!
//! Talks to no process and waits for none. `notes` tells what cannot be seen from here.

use super::counts::COUNTS;
use super::figures::{Figure, OfUsage, Process, ago, plural};
use super::site_workers::SiteWorkers;
use super::{Count, Counters, FrontState, History, Note, Snapshot, WorkerState, one_line};
use crate::rundir::{self, BASES};
use crate::sys::limits::{self, Limit};
use crate::sys::procfs::{self, Usage};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Fronts write at least every ten seconds. One that has not written for this long hangs or is stopped.
const SILENT_MS: u64 = 25_000;
/// Bytes of a report that are read; none is as long.
const MAX_FILE: u64 = 1 << 20;
/// How many times to read a file that may be in the middle of a write.
const TRIES: usize = 20;

/// The state of a site at one moment.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// That moment, in milliseconds since 1970.
    pub now: u64,
    /// Path of the settings file.
    pub config: String,
    /// The fronts that are alive, oldest first.
    pub fronts: Vec<Front>,
    /// The preloaders that are alive.
    pub preloaders: Vec<Preloader>,
    /// The limits of the account, with its current use.
    pub limits: Vec<Limit>,
    /// Sentences about what could not be seen.
    pub notes: Vec<String>,
}

/// A front that is alive.
#[derive(Clone, Debug)]
pub struct Front {
    /// What it last reported.
    pub snapshot: Snapshot,
    /// Its CPU time and memory, if /proc shows them.
    pub usage: Option<Usage>,
    /// The same for each of `snapshot.workers`.
    pub workers: Vec<Option<Usage>>,
    /// Milliseconds since its last report, when that is overdue.
    pub silent: Option<u64>,
}

/// A process that has imported the app.
#[derive(Clone, Debug)]
pub struct Preloader {
    /// 0 when unknown.
    pub pid: u32,
    /// The version of the app's code.
    pub code: String,
    /// A front forks its workers from it.
    pub current: bool,
    /// What it reports of the workers.
    pub workers: SiteWorkers,
    /// CPU time and memory of those that it keeps, if /proc shows them.
    pub kept: Vec<Option<Usage>>,
    /// Its CPU time and memory, if /proc shows them.
    pub usage: Option<Usage>,
}

/// The runtime directories in which a site's fronts may report.
#[derive(Clone, Debug, Default)]
pub struct RuntimeDirs {
    /// Ours, of any site; every directory when we are root.
    pub readable: Vec<PathBuf>,
    /// Directories of other users for the same settings file, with the user's id.
    pub foreign: Vec<(PathBuf, u32)>,
}

impl RuntimeDirs {
    /// `named` alone if given, else every candidate in the places where a front would create one. `beside` is the
    /// directory of the executable.
    pub fn find(config: &Path, named: Option<&Path>, beside: &Path) -> RuntimeDirs {
        let mut dirs = RuntimeDirs::default();
        if let Some(path) = named {
            dirs.add(path.to_owned(), true);
            return dirs;
        }
        let this = rundir::site(config.as_os_str().as_encoded_bytes());
        let home = rundir::in_home(beside);
        let bases = BASES.iter().map(Path::new).chain(home.as_deref());
        for (name, path) in bases.flat_map(files) {
            let Some((uid, site)) = rundir::owner_and_site(&name) else {
                continue;
            };
            let meta = fs::symlink_metadata(&path);
            if meta.is_ok_and(|meta| meta.is_dir() && uid == meta.uid().to_string()) {
                dirs.add(path, site == this);
            }
        }
        dirs.readable.sort();
        dirs
    }

    fn add(&mut self, path: PathBuf, is_this_site: bool) {
        let us = nix::unistd::geteuid().as_raw();
        match fs::symlink_metadata(&path).map(|meta| meta.uid()) {
            Ok(uid) if uid == us || us == 0 => self.readable.push(path),
            Ok(uid) if is_this_site => self.foreign.push((path, uid)),
            _ => (),
        }
    }
}

impl Site {
    /// Reads the reports in these directories of the fronts that use this settings file.
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
                    format!("Front {pid} runs another version of runfcgi, or its status file is damaged: it cannot be shown.")
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

    /// Returns the pids of the living fronts whose files cannot be read.
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

    /// A preloader holds the lock of its code version for as long as it lives.
    fn find_preloaders(&mut self, dir: &Path, first: usize) {
        for (name, path) in files(dir) {
            let Some(code) = rundir::version_of(&name) else {
                continue;
            };
            let Some(file) = open(&path).filter(is_held) else {
                continue;
            };
            let (pid, workers) = read_lock(&file);
            let mut fronts = self.fronts[first..].iter();
            self.preloaders.push(Preloader {
                pid,
                current: fronts.any(|front| front.snapshot.code == code),
                code: one_line(code),
                usage: procfs::usage(pid),
                kept: workers.kept.iter().map(|w| procfs::usage(w.pid)).collect(),
                workers,
            });
        }
    }

    /// The state of the site in a word or two.
    pub fn state(&self) -> &'static str {
        let is = |state| move |front: &Front| front.snapshot.state == state;
        let any = |state| self.fronts.iter().any(is(state));
        match self.fronts.iter().all(|front| front.silent.is_some()) {
            _ if self.fronts.is_empty() => "not running",
            _ if any(FrontState::Fault) => "fault",
            true => "hanging",
            _ if any(FrontState::Restarting) => "restarting",
            _ if any(FrontState::Serving) => "serving",
            _ => "leaving",
        }
    }

    /// Whether any front can serve: neither one with a fault nor one that hangs can.
    pub fn is_running(&self) -> bool {
        self.fronts
            .iter()
            .any(|front| front.snapshot.state != FrontState::Fault && front.silent.is_none())
    }

    /// The name of the settings file, without directory and extension.
    pub fn name(&self) -> String {
        Path::new(&self.config)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The sums over all fronts.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for front in &self.fronts {
            all.merge(&front.snapshot.counters);
        }
        all
    }

    /// The last hour, summed over all fronts.
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

    /// How many workers are in this state.
    pub fn workers(&self, state: WorkerState) -> usize {
        let all = self.fronts.iter().flat_map(|front| &front.snapshot.workers);
        all.filter(|worker| worker.state == state).count()
    }

    /// The workers of the site, as its preloaders report them.
    pub(super) fn site_workers(&self) -> SiteWorkers {
        let mut all = SiteWorkers::default();
        for preloader in &self.preloaders {
            all.merge(&preloader.workers, preloader.current);
        }
        all
    }

    /// How many requests wait for a worker.
    pub fn queued(&self) -> u64 {
        self.fronts.iter().map(|front| front.snapshot.queued).sum()
    }

    /// Milliseconds since `then`.
    pub(super) fn since(&self, then: u64) -> u64 {
        self.now.saturating_sub(then)
    }

    /// The state of the site in one line.
    pub(super) fn summary(&self) -> String {
        match (self.fronts.len(), self.preloaders.len()) {
            (0, 0) => String::from("not running"),
            (0, _) => match self.site_workers().kept.len() as u64 {
                0 => String::from("not running; the app is still loaded, for the next visitor"),
                kept => {
                    let kept = plural(kept, "worker");
                    format!(
                        "not running; the app is still loaded, with {kept}, for the next visitor"
                    )
                }
            },
            (fronts, _) => {
                let (state, busy) = (self.state(), self.workers(WorkerState::Busy));
                let fronts = plural(fronts as u64, "front");
                let workers = self.fronts.iter().map(|front| front.workers.len() as u64);
                let kept = self.site_workers().kept.len() as u64;
                let workers = plural(workers.sum::<u64>() + kept, "worker");
                let kept = if kept > 0 {
                    format!(", {kept} kept")
                } else {
                    String::new()
                };
                let queued = plural(self.queued(), "request");
                format!("{state}; {fronts}, {workers} ({busy} busy{kept}), {queued} waiting")
            }
        }
    }

    /// The counts shown to people.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Figure<Count>, u64)> {
        let counters = self.counters();
        let titled = COUNTS.into_iter().filter(|figure| !figure.title.is_empty());
        titled.map(move |figure| (figure, counters.get(figure.of)))
    }

    /// Sentences about what is wrong now or failed last.
    pub(crate) fn problems(&self) -> Vec<String> {
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
        for preloader in &self.preloaders {
            all.push(Process::preloader(preloader, idle));
            let kept = preloader.workers.kept.iter().zip(&preloader.kept);
            // One that a front has got since is shown there.
            let kept = kept.filter(|(worker, _)| !all.iter().any(|p| p.pid == worker.pid));
            let kept: Vec<_> = kept
                .map(|(worker, usage)| Process::kept(self, worker, usage.as_ref()))
                .collect();
            all.extend(kept);
        }
        all
    }

    /// The usage of every process.
    pub(super) fn usages(&self) -> impl Iterator<Item = &Usage> {
        self.processes()
            .into_iter()
            .filter_map(|process| process.usage)
    }

    /// The sum of a figure over all processes.
    pub(super) fn total(&self, figure: &Figure<OfUsage>) -> u64 {
        self.usages().map(figure.of).sum()
    }
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// The names in a directory, with their paths.
fn files(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.file_name().into_string().ok()?, entry.path()))
    })
}

/// Opens a regular file and nothing else, as the directory may be another user's.
fn open(path: &Path) -> Option<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    file.ok()
        .filter(|f| f.metadata().is_ok_and(|m| m.is_file()))
}

/// The content of a status file, and whether its front is alive and holds the lock. `None` for a file that is still
/// empty.
fn read_patiently(path: &Path) -> Option<(Option<Snapshot>, bool)> {
    let file = open(path).filter(|f| f.metadata().is_ok_and(|m| m.len() > 0))?;
    let mut tries = (0..TRIES).map(|_| {
        std::thread::yield_now();
        read(&file)
    });
    Some((tries.find_map(|read| read), is_held(&file)))
}

/// The content of a status file. `None` when it is in the middle of a write, of another version, or damaged.
pub fn read(mut file: &File) -> Option<Snapshot> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    // The remains of a longer snapshot may start in the middle of a character.
    Snapshot::decode(&String::from_utf8_lossy(&bytes))
}

/// Who holds the lock of a code version, and what it reports of the workers.
fn read_lock(mut file: &File) -> (u32, SiteWorkers) {
    let (mut pid, mut workers) = (None, None);
    // It may be in the middle of a write.
    for _ in 0..TRIES {
        let mut bytes = Vec::new();
        if file.rewind().is_ok() && file.take(MAX_FILE).read_to_end(&mut bytes).is_ok() {
            let text = String::from_utf8_lossy(&bytes);
            pid = rundir::holder(&text).0;
            workers = SiteWorkers::decode(&text);
        }
        if workers.is_some() {
            break;
        }
        std::thread::yield_now();
    }
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    (pid, workers.unwrap_or_default())
}

/// Whether another process holds the lock.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status::site_workers::KeptWorker;
    use std::io::Write;

    /// A site with one of everything, and text that a careless renderer would not escape.
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
                    workers: SiteWorkers {
                        serving: 2,
                        waiting: 1,
                        most: Some(3),
                        why: String::from("a <reason>"),
                        kept: vec![KeptWorker {
                            pid: 102,
                            served: 5,
                            since: 3_591_000,
                        }],
                    },
                    kept: vec![Some(usage)],
                },
                Preloader {
                    pid: 0,
                    code: String::from("def"),
                    current: false,
                    usage: None,
                    workers: SiteWorkers::default(),
                    kept: Vec::new(),
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
        // The remains of a longer snapshot start in the middle of a character.
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
        assert!(site.notes[0].starts_with("Front 6 runs another version"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_site_sums_its_fronts() {
        let mut site = example();
        site.fronts.push(site.fronts[0].clone());
        assert_eq!(site.counters().get(crate::status::Count::Requests), 2);
        assert_eq!(site.history().requests[crate::status::MINUTES - 1], 2);
        assert_eq!(
            (site.state(), site.queued(), site.workers(WorkerState::Busy)),
            ("hanging", 2, 2)
        );
        assert!(!site.is_running());
        site.fronts[0].silent = None;
        site.fronts[0].snapshot.state = FrontState::Restarting;
        assert!(site.is_running());
        site.fronts[0].snapshot.state = FrontState::Fault;
        assert!(!site.is_running(), "one has a fault, one hangs");
        assert_eq!(site.name(), "my site");
        assert_eq!(Site::default().state(), "not running");
    }
}
