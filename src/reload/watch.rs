//! `Watch`: notices that the executable, the settings or a watched file has changed.
//!
//! A stamp is only the trigger. A plain touch (same content) counts at once; changed content means an upload, which must
//! settle for `SETTLE` first. So must a settings file that appears in a nearer place, or disappears and leaves a farther
//! one. A watched file that disappears is a touch, too, since a process that starts later computes its version without
//! it; but a file that is deleted and uploaded again is one touch.

use crate::bytes::{fnv, fnv_more};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long an upload must stay unchanged.
const SETTLE: Duration = Duration::from_millis(1000);

/// What `stat` says about a file; all zero if it does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    modified: i128,
    /// Changes with permissions and owner, too.
    changed: i128,
}

/// A watched file.
#[derive(Clone, Debug)]
struct Watched {
    path: PathBuf,
    stamp: Stamp,
    /// Hash of the content, if that matters and is known.
    content: Option<u64>,
    /// Since when it is missing, until that counts as a change.
    missing_since: Option<Instant>,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A touch: new code goes live.
    Touched,
    /// The settings have changed, or are in another place.
    Settings,
    /// The executable has changed.
    Executable,
}

/// The watched files: the executable, the settings in each place where they may be, and others.
#[derive(Debug)]
pub struct Watch {
    executable: Watched,
    /// The running image, whose content is that of the executable when this process began. It is read only when needed:
    /// it has megabytes, and a CGI process lives for milliseconds.
    image: Option<PathBuf>,
    /// The nearest place first.
    settings: Vec<Watched>,
    others: Vec<Watched>,
    unsettled: Option<(u64, Instant)>,
}

impl Watch {
    /// Takes the present state of all files as unchanged. `image`: what runs, a copy of the executable.
    pub fn new(
        executable: &Path,
        image: Option<PathBuf>,
        settings: &[PathBuf],
        others: &[PathBuf],
    ) -> Watch {
        let with_content = |path: &PathBuf| Watched::new(path, true);
        let mut watch = Watch {
            executable: Watched::new(executable, image.is_none()),
            image,
            settings: settings.iter().map(with_content).collect(),
            others: Vec::new(),
            unsettled: None,
        };
        watch.set_others(others);
        watch
    }

    /// A copy that takes the present state of the settings as unchanged.
    pub fn with_settings(&self, paths: &[PathBuf]) -> Watch {
        Watch {
            executable: self.executable.clone(),
            image: self.image.clone(),
            settings: paths.iter().map(|path| Watched::new(path, true)).collect(),
            others: self.others.clone(),
            unsettled: None,
        }
    }

    /// Watches these files besides the executable and the settings. A file that is watched already keeps its state.
    pub fn set_others(&mut self, paths: &[PathBuf]) {
        let before = std::mem::take(&mut self.others);
        let known = |path: &PathBuf| before.iter().find(|other| other.path == *path).cloned();
        let other = |path| known(path).unwrap_or_else(|| Watched::new(path, false));
        self.others = paths.iter().map(other).collect();
    }

    /// Checks all files. Each change is reported once.
    pub fn look(&mut self, now: Instant) -> Option<Change> {
        let mut change = None;
        for other in &mut self.others {
            let stamp = Stamp::of(&other.path);
            if stamp != other.stamp {
                if stamp == Stamp::default()
                    && now.saturating_duration_since(*other.missing_since.get_or_insert(now))
                        < SETTLE
                {
                    continue;
                }
                other.stamp = stamp;
                change = Some(Change::Touched);
            }
            other.missing_since = None;
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
            if kind == Change::Executable && watched.content.is_none() {
                watched.content = self.image.as_deref().and_then(content);
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
        // A missing file is not a new one; but there may be settings in another place.
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

    /// The settings were written so recently that their upload may still be going on.
    pub fn may_be_uploading(&self, now: SystemTime) -> bool {
        let recent = |file: &Watched| {
            let modified = fs::metadata(&file.path).and_then(|meta| meta.modified());
            modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age < SETTLE * 2))
        };
        self.settings.iter().any(recent)
    }

    /// An upload may be going on: check again soon.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
            || self
                .others
                .iter()
                .any(|other| other.missing_since.is_some())
    }

    /// A number for the state that counts as unchanged; differs after each change.
    pub fn hash(&self) -> u64 {
        with_stamps(self.uploaded(), &self.others)
    }

    /// The same for the executable and the settings alone.
    pub fn uploaded(&self) -> u64 {
        let executable = with_stamps(fnv(b""), [&self.executable]);
        with_stamps(executable, &self.settings)
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
            missing_since: None,
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

    /// Device and inode, by which mod_fcgid tells programs apart.
    pub fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

fn with_stamps<'a>(hash: u64, files: impl IntoIterator<Item = &'a Watched>) -> u64 {
    files.into_iter().fold(hash, |hash, file| {
        fnv_more(hash, &file.stamp.hash().to_le_bytes())
    })
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
    fn a_touch_counts_at_once_and_an_upload_settles_first() {
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
            None,
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
        assert_eq!(watch.look(now + SETTLE), None, "it has changed again");
        assert_eq!(watch.look(now + SETTLE * 2), Some(Change::Executable));
        assert_eq!(watch.look(now + SETTLE * 3), None);

        fs::remove_file(&toml).unwrap();
        assert_eq!(watch.look(now), None);
        assert_eq!(
            watch.look(now + SETTLE * 9),
            None,
            "a missing file is not a new one"
        );
        fs::write(&toml, "y").unwrap();
        assert_eq!(watch.look(now + SETTLE * 10), None);
        assert_eq!(watch.look(now + SETTLE * 11), Some(Change::Settings));
    }

    #[test]
    fn the_running_image_tells_a_touch_from_an_upload() {
        let dir = Scratch::new("watch-image");
        let exe = dir.write("a.fcgi", "one", 0o755);
        let image = dir.write("image", "one", 0o755);
        let now = Instant::now();
        let new = || Watch::new(&exe, Some(image.clone()), &[], &[]);
        let (mut touched, mut uploaded) = (new(), new());
        age(&exe, 100);
        assert_eq!(touched.look(now), Some(Change::Touched));
        fs::write(&exe, "two").unwrap();
        assert_eq!(uploaded.look(now), None);
        assert_eq!(uploaded.look(now + SETTLE), Some(Change::Executable));
    }

    #[test]
    fn a_watched_file_that_goes_away_is_a_touch() {
        let dir = Scratch::new("watch-gone");
        let exe = dir.write("a.fcgi", "one", 0o755);
        let restart = dir.write("restart.txt", "", 0o644);
        let now = Instant::now();
        let new = || Watch::new(&exe, None, &[], std::slice::from_ref(&restart));
        let mut watch = new();
        let first = watch.hash();

        fs::remove_file(&restart).unwrap();
        assert_eq!(watch.look(now), None);
        assert!(watch.is_unsettled());
        assert_eq!(watch.hash(), first, "nothing is reported yet");
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
        assert_eq!(watch.hash(), new().hash(), "a new process agrees");
    }

    #[test]
    fn permissions_count_and_so_does_a_nearer_file() {
        let dir = Scratch::new("watch-places");
        let exe = dir.write("a.fcgi", "one", 0o755);
        fs::create_dir(dir.join("near")).unwrap();
        let far = dir.write("a.toml", "x", 0o644);
        let near = dir.join("near/a.toml");
        let now = Instant::now();
        let mut watch = Watch::new(&exe, None, &[near.clone(), far], &[]);

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
