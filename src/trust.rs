//! Checks that only trusted users can change a program before we run it, or lead us to another file than we mean to write.
//!
//! Trusted are our own user, root, and the owner of the executable, who controls what we run in any case. (Without suexec
//! the site runs as Apache's user, and its files belong to the user of the FTP account.)
//!
//! Who may make us run, read or write what, and the test of each row:
//!
//! | who, and by what | what holds | test |
//! |---|---|---|
//! | the web server's user: words through suexec | refused: the environment is as empty as suexec leaves it | `test_suexec_brings_no_words` (child) |
//! | the same, when the caller has gone, or has become us | the same | `test_suexec_brings_no_words` (orphan, adopted) |
//! | the same: `FcgidWrapper` with words | refused, and the page says so | `test_a_server_that_suexec_started_with_words_says_so_to_visitors` |
//! | a visitor: words in the query of a CGI request | ignored | `test_words_of_a_visitor_are_not_heeded` |
//! | a process of a third user: words | refused, if /proc shows whose it is | `test_another_user_gives_no_words` |
//! | the same with `hidepid=2` | the environment decides | `test_where_processes_are_hidden_the_environment_decides` |
//! | the account, root, cron: words | heeded | `test_the_owner_gives_words`, `test_cron_gives_words` |
//! | any user: calls us as `runfcgi-launch` | nothing is launched but through a socket pair of our user | `test_only_our_own_socket_launches_an_interpreter` |
//! | a third user's settings | refused | `test_without_suexec_the_files_may_belong_to_their_owner` |
//! | who may write the settings, by their mode | they are refused | `test_settings_that_stop_the_site` |
//! | who may change the interpreter or a directory above it | it is passed over | `test_who_may_have_put_it_there`, `test_another_users_virtualenv_is_not_run` |
//! | who may write them, or the runtime directory, by an access control list | the same: the list's mask shows in the mode | `test_an_access_control_list_counts` |
//! | a third user's link to a directory, or a directory of his | nothing behind it is run or written | `test_a_link_to_a_directory_is_looked_at` |
//! | a third user's link, directory or file where root writes a log, pidfile or socket | refused | `test_root_is_led_to_no_other_file` |
//! | the account's own links, and the system's | followed | `test_links_that_are_good_are_followed` |
//! | any user: connects to the socket or the TCP port of a server of its own | heard; with `[server] allowed_users`, only they, root and the account are | `test_only_allowed_users_are_heard`, `test_who_has_left_is_not_taken_for_root` |
//! | the same, and sends no request | makes room for who does | `test_who_sends_no_request_makes_room_for_who_does`, `test_the_first_request_must_come_in_time` |
//! | a third user has taken the name of the runtime directory | the next place is used, and the log says so | `test_a_name_that_is_taken` |
//! | a visitor: files of the runtime directory | it is nowhere below the document root | `test_a_name_that_is_taken` |
//! | a visitor: a log, the pidfile or the runtime directory that is set below the document root | `check` names it, and its URL | `test_a_warning_is_told` (files below the document root) |
//! | the app of a server that root starts | runs as `[server] user`, or the log says that it runs as root | `test_root_becomes_the_user`, `test_that_the_app_runs_as_root_is_told_at_each_start` |
//! | any user: reads a log or a secret | logs are private, and hold no secret | `test_logs_of_a_daemon_are_rotated`, `test_the_secret_is_in_no_log` |

use crate::sys::ffi::has_acl;
use crate::sys::procfs;
use nix::libc;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// The most symbolic links in one path; the limit of the kernel.
const LINKS: usize = 40;

/// The users whose files we run.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    us: u32,
    owner: Option<u32>,
}

/// What we want with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Run,
    Write,
}

/// Where a path leads: a path without links, except one into /proc.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Something is there.
    exists: bool,
    /// The directory is sticky, as /tmp is: anyone can add files.
    shared: bool,
    /// It is below /proc, as /dev/stderr is. The kernel's links there lead to what we have open.
    in_proc: bool,
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
    pub fn program(self, path: &Path) -> io::Result<()> {
        let place = self.resolve(path, Purpose::Run)?;
        let meta = metadata_of(&place.path)?;
        self.check_owner(&place.path, &meta)?;
        check_mode(&place.path, &meta, Purpose::Run)
    }

    /// Opens a file to write to. In a directory like /tmp it follows no link of a user who is not trusted, and opens no
    /// file of his. As root, it also writes only where no such user could change the path.
    pub fn open(self, options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        loop {
            let place = self.resolve(path, Purpose::Write)?;
            let fresh = place.shared && !place.exists;
            let no_links = if place.in_proc { 0 } else { libc::O_NOFOLLOW };
            let opened = options
                .create_new(fresh)
                .custom_flags(no_links | libc::O_NOCTTY)
                .open(&place.path);
            match opened {
                // Another process was faster: now it must be one that we trust.
                Err(error) if fresh && error.kind() == io::ErrorKind::AlreadyExists => (),
                other => return other,
            }
        }
    }

    /// The directory in which we may create this file, without links, if it passes the checks of `open`.
    pub fn directory_of(self, path: &Path) -> io::Result<PathBuf> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let dir = self.resolve(dir, Purpose::Write)?.path;
        self.check_directory(&dir, &metadata_of(&dir)?, Purpose::Write)?;
        Ok(dir)
    }

    fn resolve(self, path: &Path, purpose: Purpose) -> io::Result<Place> {
        let mut place = Place {
            path: PathBuf::from("/"),
            exists: true,
            shared: false,
            in_proc: false,
        };
        let mut rest = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let here = &place.path;
            if purpose == Purpose::Write && here == Path::new(procfs::ROOT) {
                place.path.push(name);
                place.path.extend(rest.into_iter().rev());
                place.in_proc = true;
                break;
            }
            place.shared = self.check_directory(here, &metadata_of(here)?, purpose)?;
            if name == ".." {
                place.path.pop();
                continue;
            }
            let next = here.join(&name);
            let meta = match metadata_of(&next) {
                Err(error) if rest.is_empty() && error.kind() == io::ErrorKind::NotFound => {
                    place.exists = false;
                    place.path = next;
                    break;
                }
                other => other?,
            };
            if place.shared {
                self.check_owner(&next, &meta)?;
            }
            if meta.is_symlink() {
                links += 1;
                if links > LINKS {
                    return Err(refusal(&next, "is one link too many"));
                }
                let target = fs::read_link(&next).map_err(lookup_error(&next))?;
                if target.is_absolute() {
                    place.path = PathBuf::from("/");
                }
                rest.extend(names(&target));
            } else {
                place.path = next;
            }
        }
        Ok(place)
    }

    /// Checks the owner. Suggests no `chown`, which would make us run a stranger's program.
    fn check_owner(self, path: &Path, meta: &Metadata) -> io::Result<()> {
        self.owner(path, meta.uid())
            .map_err(|distrust| refusal(path, &distrust.what))
    }

    /// Checks a directory. True: it is sticky, as /tmp is, so anyone can add files, but not change those of others.
    fn check_directory(self, path: &Path, meta: &Metadata, purpose: Purpose) -> io::Result<bool> {
        // What a user writes harms nobody else, and he may have reasons for the modes of his directories.
        if purpose == Purpose::Write && self.us != 0 {
            return Ok(meta.mode() & 0o1002 == 0o1002);
        }
        self.check_owner(path, meta)?;
        match check_mode(path, meta, purpose) {
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

fn metadata_of(path: &Path) -> io::Result<Metadata> {
    fs::symlink_metadata(path).map_err(lookup_error(path))
}

fn lookup_error(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        let text = format!("{} cannot be looked at: {error}", path.display());
        io::Error::new(error.kind(), text)
    }
}

fn refusal(path: &Path, what: &str) -> io::Error {
    let text = format!("{} {what}", path.display());
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// Checks that only the owner can write the file. Its group may, too, if root owns the file, or if the group has the
/// owner's number: on most systems that is the owner's private group, and umask 0002 is usual. With an access control list,
/// the mode shows as the group's what any of those in the list may do.
fn check_mode(path: &Path, meta: &Metadata, purpose: Purpose) -> io::Result<()> {
    let private = meta.uid() == 0 || meta.gid() == meta.uid();
    let harmless = private && !(meta.mode() & 0o020 != 0 && has_acl(path));
    let forbidden = if harmless { 0o002 } else { 0o022 };
    if meta.mode() & forbidden == 0 {
        return Ok(());
    }
    let harm = match purpose {
        Purpose::Run => "run code as us",
        Purpose::Write => "lead us to another file",
    };
    let text = format!(
        "others may write {0} (mode {1:04o}), and so could {harm}; chmod go-w {0}",
        path.display(),
        meta.mode() & 0o7777
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
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
        let refused = Trust::of(None).program(path).err();
        refused.map_or(String::new(), |error| error.to_string())
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
                    let why = why.to_string();
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
        assert!(trust.program(&dir.join("link")).is_ok());
        std::os::unix::fs::lchown(dir.join("link"), Some(5555), None).unwrap();
        assert!(trust.program(&dir.join("link")).is_err());
    }

    fn write(trust: Trust, path: &Path) -> String {
        let mut options = OpenOptions::new();
        let opened = trust.open(options.append(true).create(true).mode(0o600), path);
        opened.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn nobody_else_leads_root_to_another_file() {
        let (dir, target) = account("led");
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give files away
        }
        let stranger = |name: &str| std::os::unix::fs::lchown(dir.join(name), Some(5555), None);
        for name in ["own", "other", "open"] {
            fs::create_dir(dir.join(name)).unwrap();
            symlink(&target, dir.join(name).join("link")).unwrap();
        }
        symlink(&target, dir.join("link")).unwrap();
        symlink("own/new", dir.join("good")).unwrap();
        symlink("link", dir.join("good2")).unwrap();
        stranger("link").unwrap();
        stranger("other").unwrap();
        dir.mode("open", 0o777);
        let root = Trust::of_both(0, Some(1234));
        for (name, wanted) in [
            ("own/link", ""),
            ("own/new", ""),
            ("good", ""),
            ("new", ""),
            ("link", "link belongs to user 5555"),
            ("good2", "link belongs to user 5555"),
            ("other/new", "other belongs to user 5555"),
            ("other/link", "other belongs to user 5555"),
            (
                "open/new",
                "open (mode 0777), and so could lead us to another file",
            ),
            ("nowhere/new", "nowhere cannot be looked at: No such file"),
        ] {
            let said = write(root, &dir.join(name));
            assert_eq!(said.is_empty(), wanted.is_empty(), "{name}: {said}");
            assert!(said.contains(wanted), "{name}: {said}");
            let place = root.directory_of(&dir.join(name));
            let good = !name.starts_with(['o', 'n']) || wanted.is_empty();
            assert_eq!(place.is_ok(), good, "{name}: {place:?}");
        }
        let mode = fs::metadata(dir.join("new")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        stranger("new").unwrap();
        assert!(write(root, &dir.join("new")).contains("new belongs to user 5555"));
        // The owner of the executable is trusted. A user may have his reasons, but for a directory like /tmp.
        let own = Trust::of_both(0, Some(5555));
        let user = Trust::of_both(1234, None);
        for (trust, name, good) in [
            (own, "link", true),
            (own, "other/new", true),
            (own, "open/new", false),
            (user, "other/link", false),
            (user, "open/new", true),
            (user, "link", false),
            (user, "good2", false),
        ] {
            assert_eq!(write(trust, &dir.join(name)).is_empty(), good, "{name}");
        }
        for path in ["/dev/null", "/dev/stderr", "/proc/self/fd/2"] {
            assert_eq!(write(root, Path::new(path)), "", "{path}");
        }
    }
}
