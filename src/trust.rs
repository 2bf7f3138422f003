//! Checks that only trusted users can change a program before we run it.
//!
//! Trusted are our own user, root, and the owner of the executable, who controls what we run in any case. (Without suexec
//! the site runs as Apache's user, and its files belong to the user of the FTP account.)

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The most symbolic links in one path; the limit of the kernel.
const LINKS: usize = 40;

/// The users whose files we run.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    us: u32,
    owner: Option<u32>,
}

/// Why a file is not trusted, and the fix.
pub struct Distrust {
    /// In lower case; begins with a verb and follows the path in a message.
    pub what: String,
    /// A shell command.
    pub fix: String,
}

impl Trust {
    /// Trusts our own user, root, and `owner`, the owner of the executable.
    pub fn of(owner: Option<u32>) -> Trust {
        let us = nix::unistd::geteuid().as_raw();
        Trust { us, owner }
    }

    #[cfg(test)]
    pub(crate) fn of_both(us: u32, owner: Option<u32>) -> Trust {
        Trust { us, owner }
    }

    /// Checks whether a file of `user` may be used.
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

    /// Checks that nobody else can change the program: not the file, no directory on its path, and none on the path of a
    /// symbolic link. The error is one line.
    pub fn program(self, path: &Path) -> Result<(), String> {
        let mut here = PathBuf::from("/");
        let mut rest = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let directory = metadata_of(&here)?;
            let shared = self.check_directory(&here, &directory)?;
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let meta = metadata_of(&next)?;
            if shared {
                self.check_owner(&next, &meta)?;
            }
            if meta.is_symlink() {
                links += 1;
                if links > LINKS {
                    return Err(format!("{} is one link too many", next.display()));
                }
                let target = fs::read_link(&next).map_err(|error| lookup_error(&next, &error))?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(names(&target));
            } else {
                here = next;
            }
        }
        let meta = metadata_of(&here)?;
        self.check_owner(&here, &meta)?;
        check_mode(&here, &meta)
    }

    /// Checks the owner. Suggests no `chown`, which would make us run a stranger's program.
    fn check_owner(self, path: &Path, meta: &Metadata) -> Result<(), String> {
        self.owner(path, meta.uid())
            .map_err(|distrust| format!("{} {}", path.display(), distrust.what))
    }

    /// Checks a directory. True: it is sticky, as /tmp is, so anyone can add files, but not change those of others.
    fn check_directory(self, path: &Path, meta: &Metadata) -> Result<bool, String> {
        self.check_owner(path, meta)?;
        match check_mode(path, meta) {
            Err(_) if meta.mode() & 0o1000 != 0 => Ok(true),
            other => other.map(|()| false),
        }
    }
}

/// The components of a path, last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    names.collect()
}

fn metadata_of(path: &Path) -> Result<Metadata, String> {
    fs::symlink_metadata(path).map_err(|error| lookup_error(path, &error))
}

fn lookup_error(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be looked at: {error}", path.display())
}

/// Checks that only the owner can write the file. Its group may, too, if root owns the file, or if the group has the
/// owner's number: on most systems that is the owner's private group, and umask 0002 is usual.
fn check_mode(path: &Path, meta: &Metadata) -> Result<(), String> {
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

    /// `home/venv/bin/python` below a directory that anyone can write, like /tmp.
    fn account(name: &str) -> (Scratch, PathBuf) {
        let dir = Scratch::new(&format!("trust-{name}"));
        let python = dir.write("home/venv/bin/python", "", 0o755);
        dir.mode("", 0o1777);
        (dir, python)
    }

    fn refusal(path: &Path) -> String {
        Trust::of(None).program(path).err().unwrap_or_default()
    }

    #[test]
    fn nobody_else_may_write_a_program_or_a_directory_above_it() {
        let (dir, python) = account("modes");
        assert_eq!(refusal(&python), "");
        for name in ["home/venv/bin/python", "home/venv/bin", "home/venv", "home"] {
            for mode in [0o757, 0o777] {
                dir.mode(name, mode);
                let want = format!("others may write {}", dir.join(name).display());
                assert!(refusal(&python).starts_with(&want), "{}", refusal(&python));
            }
            dir.mode(name, 0o755);
        }
        dir.mode("", 0o777);
        assert!(
            refusal(&python).starts_with("others may write"),
            "not sticky"
        );
        dir.mode("", 0o755);
        assert_eq!(refusal(&python), "");
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
        assert!(paths.iter().all(|path| refusal(path).is_empty()));
        dir.mode("home/venv", 0o777);
        for path in &paths {
            assert!(refusal(path).contains("home/venv (mode 0777)"), "{path:?}");
        }
        assert!(refusal(&dir.join("own/round")).contains("one link too many"));
        let lost = refusal(&dir.join("own/lost"));
        assert!(
            lost.contains("own/nowhere cannot be looked at: No such file"),
            "{lost}"
        );
    }

    #[test]
    fn a_private_group_or_a_group_of_roots_may_write() {
        let (dir, python) = account("groups");
        if !nix::unistd::geteuid().is_root() {
            return; // only root can change the owner
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
    fn the_owner_is_us_root_or_the_owner_of_the_executable() {
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
        // In a directory like /tmp the owner of the link itself counts, too.
        symlink(&python, dir.join("link")).unwrap();
        assert_eq!(trust.program(&dir.join("link")), Ok(()));
        std::os::unix::fs::lchown(dir.join("link"), Some(5555), None).unwrap();
        assert!(trust.program(&dir.join("link")).is_err());
    }
}
