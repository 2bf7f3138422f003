//! Who may run code as us, and whether anybody else can change what we are about to run.
//!
//! Those are we ourselves, root, and the owner of the executable: he has us run what he likes in any case. (Where Apache
//! knows no suexec the site runs as Apache's user, and its files belong to the user of the FTP account.)

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Links in one path, as the kernel has it.
const LINKS: usize = 40;

/// Whose files we run.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    us: u32,
    owner: Option<u32>,
}

/// What is wrong, and what to do about it.
pub struct Distrust {
    /// In lower case; begins with a verb, for the path to stand before it.
    pub what: String,
    /// A command.
    pub fix: String,
}

impl Trust {
    /// Us, root, and `owner`, whose the executable is.
    pub fn of(owner: Option<u32>) -> Trust {
        let us = nix::unistd::geteuid().as_raw();
        Trust { us, owner }
    }

    #[cfg(test)]
    pub(crate) fn of_both(us: u32, owner: Option<u32>) -> Trust {
        Trust { us, owner }
    }

    /// Whether what belongs to `user` may be used.
    pub fn owner(self, path: &Path, user: u32) -> Result<(), Distrust> {
        let Trust { us, owner } = self;
        if user == us || user == 0 || Some(user) == owner {
            return Ok(());
        }
        let place = path.display();
        let (whose, fix) = match owner.filter(|owner| *owner != us) {
            Some(owner) => (
                format!(", and the executable belongs to user {owner}"),
                format!("chown {owner} {place}, or {us}"),
            ),
            None => (String::new(), format!("chown {us} {place}")),
        };
        Err(Distrust {
            what: format!("belongs to user {user}, but we run as user {us}{whose}"),
            fix,
        })
    }

    /// Whether a program can be changed by nobody else: neither its file, nor a directory on the way to it, nor one on
    /// the way that a link takes. The reason is one line.
    pub fn program(self, path: &Path) -> Result<(), String> {
        let mut here = PathBuf::from("/");
        let mut rest = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let directory = look(&here)?;
            let shared = self.directory(&here, &directory)?;
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let meta = look(&next)?;
            if shared {
                self.whose(&next, &meta)?;
            }
            if meta.is_symlink() {
                links += 1;
                if links > LINKS {
                    return Err(format!("{} is one link too many", next.display()));
                }
                let target = fs::read_link(&next).map_err(|error| unseen(&next, &error))?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(names(&target));
            } else {
                here = next;
            }
        }
        let meta = look(&here)?;
        self.whose(&here, &meta)?;
        closed(&here, &meta)
    }

    /// Without the remedy: who took a stranger's program over would run it.
    fn whose(self, path: &Path, meta: &Metadata) -> Result<(), String> {
        self.owner(path, meta.uid())
            .map_err(|distrust| format!("{} {}", path.display(), distrust.what))
    }

    /// Whether all may put files of their own into a directory, but not change those of others, as in /tmp.
    fn directory(self, path: &Path, meta: &Metadata) -> Result<bool, String> {
        self.whose(path, meta)?;
        match closed(path, meta) {
            Err(_) if meta.mode() & 0o1000 != 0 => Ok(true),
            other => other.map(|()| false),
        }
    }
}

/// The parts of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    names.collect()
}

fn look(path: &Path) -> Result<Metadata, String> {
    fs::symlink_metadata(path).map_err(|error| unseen(path, &error))
}

fn unseen(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be looked at: {error}", path.display())
}

/// Whether nobody but its owner may write it. A group of root's choice may, and so may the owner's own, which on most
/// systems bears the number of the owner and has no other member: umask 0002 is usual there.
fn closed(path: &Path, meta: &Metadata) -> Result<(), String> {
    let harmless = meta.uid() == 0 || meta.gid() == meta.uid();
    let forbidden = if harmless { 0o002 } else { 0o022 };
    if meta.mode() & forbidden == 0 {
        return Ok(());
    }
    Err(format!(
        "others may write {0} (mode {1:04o}), and so could run code as us; chmod go-w {0}",
        path.display(),
        meta.mode() & 0o7777
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::{chown, symlink};

    /// `home/venv/bin/python` below a directory that all may write, as /tmp is.
    fn account(name: &str) -> (Scratch, PathBuf) {
        let dir = Scratch::new(&format!("trust-{name}"));
        let python = dir.write("home/venv/bin/python", "", 0o755);
        dir.mode("", 0o1777);
        (dir, python)
    }

    fn told(path: &Path) -> String {
        Trust::of(None).program(path).err().unwrap_or_default()
    }

    #[test]
    fn nobody_else_may_write_a_program_or_a_directory_above_it() {
        let (dir, python) = account("modes");
        assert_eq!(told(&python), "");
        for name in ["home/venv/bin/python", "home/venv/bin", "home/venv", "home"] {
            for mode in [0o757, 0o777] {
                dir.mode(name, mode);
                let want = format!("others may write {}", dir.join(name).display());
                assert!(told(&python).starts_with(&want), "{}", told(&python));
            }
            dir.mode(name, 0o755);
        }
        dir.mode("", 0o777);
        assert!(told(&python).starts_with("others may write"), "not sticky");
        dir.mode("", 0o755);
        assert_eq!(told(&python), "");
    }

    #[test]
    fn links_are_followed() {
        let (dir, python) = account("links");
        std::fs::create_dir(dir.join("own")).unwrap();
        for (target, name) in [
            (python.as_path(), "own/python"),
            (Path::new("../home/venv/bin/python"), "own/relative"),
            (Path::new("relative"), "own/twice"),
            (&dir.join("home/venv"), "own/venv"),
        ] {
            symlink(target, dir.join(name)).unwrap();
        }
        symlink("round", dir.join("own/round")).unwrap();
        symlink("nowhere", dir.join("own/lost")).unwrap();
        let links = ["python", "relative", "twice", "venv/bin/python"];
        let paths = links.map(|name| dir.join("own").join(name));
        assert!(paths.iter().all(|path| told(path).is_empty()));
        dir.mode("home/venv", 0o777);
        for path in &paths {
            assert!(told(path).contains("home/venv (mode 0777)"), "{path:?}");
        }
        assert!(told(&dir.join("own/round")).contains("one link too many"));
        let lost = told(&dir.join("own/lost"));
        assert!(
            lost.contains("own/nowhere cannot be looked at: No such file"),
            "{lost}"
        );
    }

    #[test]
    fn a_group_may_write_that_root_or_its_only_member_has_given_it_to() {
        let (dir, python) = account("groups");
        if !nix::unistd::geteuid().is_root() {
            return; // only root can make it so
        }
        for (user, group, good) in [
            (0, 0, true),
            (0, 50, true),
            (4321, 4321, true),
            (4321, 33, false),
        ] {
            for name in ["home/venv", "home/venv/bin/python"] {
                chown(dir.join(name), Some(user), Some(group)).unwrap();
                dir.mode(name, 0o775);
                let trust = Trust::of_both(1234, Some(4321));
                assert_eq!(
                    trust.program(&python).is_ok(),
                    good,
                    "{name}: {user}:{group}"
                );
                chown(dir.join(name), Some(0), Some(0)).unwrap();
                dir.mode(name, 0o755);
            }
        }
    }

    #[test]
    fn it_belongs_to_us_to_root_or_to_the_owner_of_the_executable() {
        let (dir, python) = account("owners");
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give files away
        }
        let trust = Trust::of_both(1234, Some(4321));
        for name in ["home/venv/bin/python", "home/venv", "home"] {
            for (user, good) in [(0, true), (1234, true), (4321, true), (5555, false)] {
                chown(dir.join(name), Some(user), None).unwrap();
                let judged = trust.program(&python);
                assert_eq!(judged.is_ok(), good, "{name} of {user}: {judged:?}");
                if let Err(why) = judged {
                    let place = dir.join(name);
                    let want = format!(
                        "{} belongs to user 5555, but we run as user 1234, and the executable belongs to user 4321",
                        place.display()
                    );
                    assert_eq!(why, want);
                }
            }
            chown(dir.join(name), Some(0), None).unwrap();
        }
        // In a directory like /tmp the link itself counts as well.
        symlink(&python, dir.join("link")).unwrap();
        assert_eq!(trust.program(&dir.join("link")), Ok(()));
        std::os::unix::fs::lchown(dir.join("link"), Some(5555), None).unwrap();
        assert!(trust.program(&dir.join("link")).is_err());
    }
}
