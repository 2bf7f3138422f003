//! `Site`: all fronts, workers and preloaders of a site, from the files that the fronts write and from /proc.
//!
//! Talks to no process and waits for none. What cannot be seen from here is said in `notes`.

use super::{Counters, Doing, History, Snapshot, State};
use crate::runtime::fnv;
use crate::sys::limits::{self, Limit};
use crate::sys::procfs::{self, Usage};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Read;
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
        let us = nix::unistd::geteuid().as_raw();
        if let Some(path) = named {
            match fs::symlink_metadata(path).map(|meta| meta.uid()) {
                Ok(uid) if uid == us || us == 0 => places.dirs.push(path.to_owned()),
                Ok(uid) => places.foreign.push((path.to_owned(), uid)),
                Err(_) => (),
            }
            return places;
        }
        let hash = format!("{:016x}", fnv(config.as_os_str().as_encoded_bytes()));
        for base in crate::runtime::BASES
            .map(Path::new)
            .into_iter()
            .chain([beside])
        {
            let Ok(entries) = fs::read_dir(base) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some(rest) = name.trim_start_matches('.').strip_prefix("runfcgi-") else {
                    continue;
                };
                let Some((uid, site)) = rest.split_once('-') else {
                    continue;
                };
                let Ok(meta) = entry.metadata() else { continue };
                if !meta.is_dir() || uid != meta.uid().to_string() {
                    continue;
                }
                if meta.uid() == us || us == 0 {
                    places.dirs.push(entry.path());
                } else if site == hash {
                    places.foreign.push((entry.path(), meta.uid()));
                }
            }
        }
        places.dirs.sort();
        places
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
            site.read_fronts(dir);
            if site.fronts.len() > first || dirs.len() == 1 {
                site.find_preloaders(dir, first);
            }
        }
        site.fronts
            .sort_by_key(|front| (front.snapshot.started, front.snapshot.pid));
        let pid = site
            .fronts
            .first()
            .map_or(std::process::id(), |front| front.snapshot.pid);
        let uid = procfs::owner(pid).unwrap_or(nix::unistd::geteuid().as_raw());
        let largest = site.usages().map(|usage| usage.virtual_bytes).max();
        site.limits = limits::limits(pid, uid, largest.unwrap_or(0));
        site
    }

    fn read_fronts(&mut self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(pid) = name
                .to_str()
                .and_then(|n| n.strip_prefix("front-")?.strip_suffix(".status"))
            else {
                continue;
            };
            let Some((snapshot, held)) = read(&entry.path()) else {
                continue;
            };
            let alive = held || procfs::is_running(snapshot.pid, snapshot.start_ticks);
            if alive && snapshot.config == self.config && pid == snapshot.pid.to_string() {
                self.fronts.push(Front {
                    usage: procfs::usage(snapshot.pid),
                    workers: snapshot
                        .workers
                        .iter()
                        .map(|w| procfs::usage(w.pid))
                        .collect(),
                    silent: Some(self.now.saturating_sub(snapshot.written))
                        .filter(|ms| *ms > SILENT_MS),
                    snapshot,
                });
            }
        }
    }

    /// A preloader holds the lock of its version for as long as it lives.
    fn find_preloaders(&mut self, dir: &Path, first: usize) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(code) = name.to_str().and_then(|n| n.strip_suffix(".lock")) else {
                continue;
            };
            if !File::open(entry.path()).is_ok_and(|file| is_held(&file)) {
                continue;
            }
            let current = self.fronts[first..]
                .iter()
                .any(|front| front.snapshot.code == code);
            // It writes its pid into the file whose lock it holds.
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let pid = text.split_whitespace().next().and_then(|w| w.parse().ok());
            let pid = pid.unwrap_or(0);
            self.preloaders.push(Preloader {
                pid,
                code: code.to_owned(),
                current,
                usage: procfs::usage(pid),
            });
        }
    }

    /// The site in a word.
    pub fn state(&self) -> &'static str {
        let any = |state| {
            self.fronts
                .iter()
                .any(|front| front.snapshot.state == state)
        };
        if self.fronts.is_empty() {
            "not running"
        } else if any(State::Fault) {
            "fault"
        } else if self.fronts.iter().all(|front| front.silent.is_some()) {
            "hanging"
        } else if any(State::Restarting) {
            "restarting"
        } else if any(State::Serving) {
            "serving"
        } else {
            "leaving"
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
        all.turn(self.now);
        for front in &self.fronts {
            let mut history = front.snapshot.history.clone();
            history.turn(self.now);
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

    /// What each process uses.
    pub fn usages(&self) -> impl Iterator<Item = &Usage> {
        let fronts = self
            .fronts
            .iter()
            .flat_map(|front| front.usage.iter().chain(front.workers.iter().flatten()));
        fronts.chain(
            self.preloaders
                .iter()
                .filter_map(|preloader| preloader.usage.as_ref()),
        )
    }
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// A front's file, and whether the front holds it.
fn read(path: &Path) -> Option<(Snapshot, bool)> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    for _ in 0..TRIES {
        let file = options.open(path).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        let complete = (&file).take(FILE_SIZE).read_to_string(&mut text).is_ok();
        if let Some(snapshot) = Snapshot::decode(&text).filter(|_| complete) {
            return Some((snapshot, is_held(&file)));
        }
        std::thread::yield_now();
    }
    None
}

/// Whether another holds the lock. The lock is taken for a moment when nobody does.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

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
        let snapshot = crate::status::tests::example();
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
        let site = Site::collect(std::slice::from_ref(&dir), "/a.toml", SystemTime::now());
        let mut pids: Vec<u32> = site.fronts.iter().map(|f| f.snapshot.pid).collect();
        pids.sort();
        assert_eq!(pids, [us, 999_999_999]);
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
