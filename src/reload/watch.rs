//! `Watch`: notices that the executable, the settings or a watched file has changed.
//!
//! A stamp is only the trigger. A plain touch (same content) is acted on at once; content that changes means an upload,
//! which must stand still for `SETTLE` first. So does a settings file that appears in a nearer place, or goes away and
//! leaves a farther one. A watched file that goes away is a touch too, since a process that starts later names its
//! version without it; but one that is deleted and uploaded again is one touch. The decisions are functions of stamps
//! and `now`.

use crate::bytes::{fnv, fnv_more};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long an upload must stand still.
const SETTLE: Duration = Duration::from_millis(1000);

/// What `stat` says of a file; all zero when it is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    modified: i128,
    /// Permissions and owner change this one.
    changed: i128,
}

/// A file that is looked at.
#[derive(Clone, Debug)]
struct Watched {
    path: PathBuf,
    stamp: Stamp,
    /// Hash of the content, for the files whose content matters.
    content: Option<u64>,
    /// Since when it is not there, though `stamp` says that it is.
    gone: Option<Instant>,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A touch: new code goes live.
    Touched,
    /// The settings say something else, or stand elsewhere.
    Settings,
    /// The executable is another one.
    Executable,
}

/// The files whose change means something: the executable, the settings wherever they may stand, and others.
#[derive(Debug)]
pub struct Watch {
    executable: Watched,
    /// The nearest place first.
    settings: Vec<Watched>,
    others: Vec<Watched>,
    unsettled: Option<(u64, Instant)>,
}

impl Watch {
    /// Looks at all files once: this is the state that counts as unchanged.
    pub fn new(executable: &Path, settings: &[PathBuf], others: &[PathBuf]) -> Watch {
        let with_content = |path: &PathBuf| Watched::new(path, true);
        let mut watch = Watch {
            executable: Watched::new(executable, true),
            settings: settings.iter().map(with_content).collect(),
            others: Vec::new(),
            unsettled: None,
        };
        watch.set_others(others);
        watch
    }

    /// The same, with the settings as they are now.
    pub fn with_settings(&self, paths: &[PathBuf]) -> Watch {
        Watch {
            executable: self.executable.clone(),
            settings: paths.iter().map(|path| Watched::new(path, true)).collect(),
            others: self.others.clone(),
            unsettled: None,
        }
    }

    /// Watches these files beside the executable and the settings. What is watched already keeps its state.
    pub fn set_others(&mut self, paths: &[PathBuf]) {
        let before = std::mem::take(&mut self.others);
        let known = |path: &PathBuf| before.iter().find(|other| other.path == *path).cloned();
        let other = |path| known(path).unwrap_or_else(|| Watched::new(path, false));
        self.others = paths.iter().map(other).collect();
    }

    /// Looks at all files. A change is told once.
    pub fn look(&mut self, now: Instant) -> Option<Change> {
        let mut change = None;
        for other in &mut self.others {
            let stamp = Stamp::of(&other.path);
            if stamp != other.stamp {
                if stamp == Stamp::default()
                    && now.saturating_duration_since(*other.gone.get_or_insert(now)) < SETTLE
                {
                    continue;
                }
                other.stamp = stamp;
                change = Some(Change::Touched);
            }
            other.gone = None;
        }
        let executable = [(&mut self.executable, Change::Executable)].into_iter();
        let settings = self
            .settings
            .iter_mut()
            .map(|file| (file, Change::Settings));
        let (mut uploads, mut has_settings) = (Vec::new(), false);
        for (watched, kind) in executable.chain(settings) {
            let stamp = Stamp::of(&watched.path);
            has_settings |= kind == Change::Settings && stamp != Stamp::default();
            if stamp == watched.stamp {
                continue;
            }
            let content = content(&watched.path);
            if content.is_some() && content == watched.content {
                watched.stamp = stamp;
                change = change.max(Some(Change::Touched));
            } else {
                uploads.push((watched, kind, stamp, content));
            }
        }
        let state = uploads
            .iter()
            .fold(fnv(b""), |hash, (_, _, stamp, content)| {
                fnv_more(
                    fnv_more(hash, &stamp.hash().to_le_bytes()),
                    &content.unwrap_or(0).to_le_bytes(),
                )
            });
        // What is gone is not new; but of the settings there may be others.
        let complete = uploads.iter().all(|(_, kind, stamp, _)| {
            *stamp != Stamp::default() || *kind == Change::Settings && has_settings
        });
        match self.unsettled {
            _ if uploads.is_empty() => self.unsettled = None,
            Some((seen, since)) if seen == state => {
                if complete && now.saturating_duration_since(since) >= SETTLE {
                    for (watched, kind, stamp, content) in uploads {
                        (watched.stamp, watched.content) = (stamp, content);
                        change = change.max(Some(kind));
                    }
                    self.unsettled = None;
                }
            }
            _ => self.unsettled = Some((state, now)),
        }
        change
    }

    /// The settings were written so short a time before `now` that an upload of them may still be going on.
    pub fn may_be_uploading(&self, now: SystemTime) -> bool {
        let recent = |file: &Watched| {
            let modified = fs::metadata(&file.path).and_then(|meta| meta.modified());
            modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age < SETTLE * 2))
        };
        self.settings.iter().any(recent)
    }

    /// An upload is going on: look again soon.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some() || self.others.iter().any(|other| other.gone.is_some())
    }

    /// A number for the state that counts as unchanged: another one for each change.
    pub fn hash(&self) -> u64 {
        let files = [&self.executable]
            .into_iter()
            .chain(&self.settings)
            .chain(&self.others);
        files.fold(fnv(b""), |hash, file| {
            fnv_more(hash, &file.stamp.hash().to_le_bytes())
        })
    }

    /// The stamp of the executable that counts as unchanged.
    pub fn executable(&self) -> Stamp {
        self.executable.stamp
    }
}

impl Watched {
    fn new(path: &Path, with_content: bool) -> Watched {
        Watched {
            path: path.to_owned(),
            stamp: Stamp::of(path),
            content: if with_content { content(path) } else { None },
            gone: None,
        }
    }
}

impl Stamp {
    /// The stamp of the file at `path`, links followed.
    pub fn of(path: &Path) -> Stamp {
        fs::metadata(path).map_or(Stamp::default(), |meta| Stamp {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// A number for this stamp.
    pub fn hash(&self) -> u64 {
        let mut hash = fnv(&self.dev.to_le_bytes());
        hash = fnv_more(hash, &self.ino.to_le_bytes());
        hash = fnv_more(hash, &self.size.to_le_bytes());
        hash = fnv_more(hash, &self.modified.to_le_bytes());
        fnv_more(hash, &self.changed.to_le_bytes())
    }

    /// Device and inode: what a web server goes by to tell programs apart.
    pub fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn content(path: &Path) -> Option<u64> {
    let mut file = fs::File::open(path).ok()?;
    let mut hash = fnv(b"");
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hash),
            count => hash = fnv_more(hash, &buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn age(path: &Path, seconds: u64) {
        let time = std::time::SystemTime::now() - Duration::from_secs(seconds);
        fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    #[test]
    fn touch_is_at_once_and_an_upload_settles() {
        let dir = Scratch::new("watch-settle");
        let (exe, toml, restart) = (
            dir.join("a.fcgi"),
            dir.join("a.toml"),
            dir.join("restart.txt"),
        );
        fs::write(&exe, "one").unwrap();
        fs::write(&toml, "x").unwrap();
        let now = Instant::now();
        let mut watch = Watch::new(
            &exe,
            std::slice::from_ref(&toml),
            std::slice::from_ref(&restart),
        );
        let first = watch.hash();
        assert_eq!(watch.look(now), None);
        age(&exe, 100);
        assert_eq!(watch.look(now), Some(Change::Touched));
        assert_ne!(watch.hash(), first);
        assert_eq!(watch.look(now), None);
        fs::write(&restart, "").unwrap();
        assert_eq!(watch.look(now), Some(Change::Touched));

        fs::write(&exe, "two").unwrap();
        assert_eq!(watch.look(now), None);
        fs::write(&exe, "three").unwrap();
        assert_eq!(watch.look(now + SETTLE), None, "it moved once more");
        assert_eq!(watch.look(now + SETTLE * 2), Some(Change::Executable));
        assert_eq!(watch.look(now + SETTLE * 3), None);

        fs::remove_file(&toml).unwrap();
        assert_eq!(watch.look(now), None);
        assert_eq!(
            watch.look(now + SETTLE * 9),
            None,
            "a file that is gone is not new"
        );
        fs::write(&toml, "y").unwrap();
        assert_eq!(watch.look(now + SETTLE * 10), None);
        assert_eq!(watch.look(now + SETTLE * 11), Some(Change::Settings));
    }

    #[test]
    fn a_watched_file_that_goes_away_is_a_touch() {
        let dir = Scratch::new("watch-gone");
        let exe = dir.write("a.fcgi", "one", 0o755);
        let restart = dir.write("restart.txt", "", 0o644);
        let now = Instant::now();
        let new = || Watch::new(&exe, &[], std::slice::from_ref(&restart));
        let mut watch = new();
        let first = watch.hash();

        fs::remove_file(&restart).unwrap();
        assert_eq!(watch.look(now), None);
        assert!(watch.is_unsettled());
        assert_eq!(watch.hash(), first, "nothing is told yet");
        dir.write("restart.txt", "again", 0o644);
        assert_eq!(
            watch.look(now + SETTLE * 2),
            Some(Change::Touched),
            "deleted and uploaded: once"
        );
        assert!(!watch.is_unsettled());

        fs::remove_file(&restart).unwrap();
        assert_eq!(watch.look(now + SETTLE * 3), None);
        assert_eq!(watch.look(now + SETTLE * 4), Some(Change::Touched));
        assert_eq!(watch.look(now + SETTLE * 9), None);
        assert!(!watch.is_unsettled());
        assert_eq!(watch.hash(), new().hash(), "who starts now says the same");
    }

    #[test]
    fn permissions_count_and_so_does_a_nearer_file() {
        let dir = Scratch::new("watch-places");
        let exe = dir.write("a.fcgi", "one", 0o755);
        fs::create_dir(dir.join("near")).unwrap();
        let far = dir.write("a.toml", "x", 0o644);
        let near = dir.join("near/a.toml");
        let now = Instant::now();
        let mut watch = Watch::new(&exe, &[near.clone(), far], &[]);

        dir.mode("a.toml", 0o664);
        assert_eq!(watch.look(now), Some(Change::Touched));
        assert_eq!(watch.look(now), None);

        dir.write("near/a.toml", "y", 0o644);
        assert_eq!(watch.look(now), None);
        assert_eq!(watch.look(now + SETTLE), Some(Change::Settings));

        fs::remove_file(&near).unwrap();
        assert_eq!(watch.look(now + SETTLE), None);
        assert_eq!(
            watch.look(now + SETTLE * 2),
            Some(Change::Settings),
            "the other one counts"
        );
        assert!(!watch.is_unsettled());
    }
}
