//! What one image of this process leaves to the next, in the environment: descriptors by their numbers, and a few paths.
//!
//! Also what a process of ours in the background is started with. Knows no configuration and serves nothing.

use crate::config::Protocol;
use crate::daemon::{self, Pidfile};
use crate::endpoints::Handed;
use crate::image::{self, Image};
use crate::rundir::RuntimeDir;
use crate::server::HandOver;
use crate::sys::{fd, procfs};
use crate::systemd::{self, Activated};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `key=value` words, all of them descriptors or plain numbers.
const HANDOVER: &str = "RUNFCGI_HANDOVER";
/// The last of them may be this one, and a text.
const REFUSED: &str = "refused=";
/// The path of the uploaded executable, beside `HANDOVER`.
const ORIGINAL: &str = "RUNFCGI_ORIGINAL";
/// The directory in which the words of the command line were written.
const DIRECTORY: &str = "RUNFCGI_DIRECTORY";
/// Bytes of `HANDOVER`. Linux executes nothing with a variable of 128 KiB, so of very many idle connections some are
/// closed instead.
const HANDOVER_SIZE: usize = 120 << 10;

/// How far this process is in the background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Background {
    /// Not at all.
    #[default]
    No,
    /// It is to begin a session and start the daemon.
    Leader,
    /// It is the daemon.
    Daemon,
}

/// What this process is, and keeps from image to image.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The executable as uploaded.
    pub(super) original: PathBuf,
    /// Its inode when this process was started.
    pub(super) spawned_as: (u64, u64),
    /// Whose it is.
    pub(super) owner: Option<u32>,
    /// Where the words of the command line were written.
    pub(super) directory: PathBuf,
    /// Those words count.
    pub(super) heeded: bool,
    pub(super) background: Background,
    /// The shell's process waits for a status at its other end.
    pub(super) ready: Option<OwnedFd>,
    pub(super) pidfile: Option<Pidfile>,
    /// Of each listening socket: what is spoken there, and whether systemd opened it.
    pub(super) listening: BTreeMap<RawFd, (Protocol, bool)>,
}

/// What the image before this one has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) original: Option<PathBuf>,
    pub(super) spawned_as: Option<(u64, u64)>,
    pub(super) owner: Option<u32>,
    pub(super) directory: Option<PathBuf>,
    /// The words of the command line have been judged, and count.
    pub(super) heeded: bool,
    /// We are the copy of the executable.
    pub(super) is_copy: bool,
    /// The image before this one has served.
    pub(super) again: bool,
    /// Why this is still the same image, though another one was to be executed.
    pub(super) refused: Option<String>,
    pub(super) background: Background,
    pub(super) ready: Option<OwnedFd>,
    pub(super) pidfile: Option<OwnedFd>,
    pub(super) lock: Option<OwnedFd>,
    pub(super) control: Option<OwnedFd>,
    pub(super) report: Option<OwnedFd>,
    pub(super) turn: Option<OwnedFd>,
    pub(super) version: String,
    pub(super) listeners: Vec<Handed>,
    pub(super) connections: Vec<(OwnedFd, usize)>,
}

impl Left {
    pub(super) fn read() -> Left {
        let mut left = Left::default();
        let (Some(original), Ok(words)) = (std::env::var_os(ORIGINAL), std::env::var(HANDOVER))
        else {
            return left;
        };
        left.original = Some(PathBuf::from(original));
        left.directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
        let (words, refused) = match words.split_once(REFUSED) {
            Some((words, refused)) => (words, Some(refused.to_owned())),
            None => (words.as_str(), None),
        };
        left.refused = refused;
        for word in words.split(' ') {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            let (first, second) = value.split_once('.').unwrap_or((value, ""));
            let descriptor = || fd::adopt(first.parse().ok().filter(|n| *n > 2)?);
            match name {
                "spawned" => left.spawned_as = first.parse().ok().zip(second.parse().ok()),
                "owner" => left.owner = first.parse().ok(),
                "heeded" => left.heeded = true,
                "copy" => left.is_copy = true,
                "again" => left.again = true,
                "leader" => left.background = Background::Leader,
                "daemon" => left.background = Background::Daemon,
                "ready" => left.ready = descriptor(),
                "pidfile" => left.pidfile = descriptor(),
                "lock" => left.lock = descriptor(),
                "control" => (left.control, left.version) = (descriptor(), second.to_owned()),
                "report" => left.report = descriptor(),
                "turn" => left.turn = descriptor(),
                "listener" => left.listeners.extend(descriptor().map(|socket| {
                    Handed {
                        socket,
                        protocol: Protocol::named(second.trim_end_matches("-systemd"))
                            .unwrap_or(Protocol::Fcgi),
                        activated: second.ends_with("-systemd"),
                    }
                })),
                "connection" => left
                    .connections
                    .extend(descriptor().zip(second.parse().ok())),
                _ => (),
            }
        }
        left
    }
}

impl Own {
    /// Goes on as a daemon, in another process. Returns its process id, or the exit status of this one.
    pub(super) fn go_to_background(&self) -> Result<Pid, u8> {
        match nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) {
            Ok((read, write)) => {
                let leader = self.command("leader=1", &write);
                daemon::start_and_wait(leader, (read, write))
            }
            Err(error) => {
                super::complain(&format!("cannot start in background: {error}"));
                Err(crate::cli::EXIT_FAILED)
            }
        }
    }

    /// Begins a session and starts the daemon. Returns the exit status.
    pub(super) fn lead(&self) -> u8 {
        let Some(ready) = &self.ready else {
            return crate::cli::EXIT_FAILED;
        };
        daemon::lead(self.command("daemon=1", ready))
    }

    fn command(&self, word: &str, ready: &OwnedFd) -> Command {
        inherit(ready);
        let mut command = Command::new(&self.original);
        let mut arguments = std::env::args_os();
        if let Some(first) = arguments.next() {
            command.arg0(first);
        }
        let words = format!("{word} heeded=1 ready={}", ready.as_raw_fd());
        command
            .args(arguments)
            .env(ORIGINAL, &self.original)
            .env(DIRECTORY, &self.directory)
            .env(HANDOVER, words);
        command
    }

    /// Goes on in a private copy of the executable. Returns when that is not possible: then it goes on in the original.
    pub(super) fn move_to_copy(&self, dir: Option<&RuntimeDir>, activated: &[Activated]) {
        if let Ok(image) = image::stage(&self.original, dir)
            && image.path.as_deref() != Some(&self.original)
        {
            // systemd's variables, which name them, are for this process id: the copy's, too.
            activated.iter().for_each(|a| inherit(&a.socket));
            let _ = self.execute(image, None);
        }
    }

    /// Executes an image in this process and leaves it what it needs. A process that has served goes on in the image
    /// that it has when the new one cannot be executed. Returns only when that fails too.
    pub(super) fn execute(&self, image: Image, hand: Option<HandOver>) -> io::Error {
        let image = match image.exec_path() {
            Some(_) => Ok(image),
            None => image::stage(&self.original, None),
        };
        let again = hand.is_some();
        if again {
            systemd::notify(&systemd::reloading());
        }
        let hand = hand.unwrap_or_default();
        let mut words = self.words(&hand, again);
        let error = match &image {
            Ok(image) => {
                let path = image.exec_path().unwrap_or_default();
                words.leave("lock", image.lock.as_ref(), "");
                self.execute_with(&path, &words)
            }
            Err(error) => io::Error::other(error.to_string()),
        };
        if !again {
            return error;
        }
        words.add(format!("{REFUSED}{error}"));
        self.execute_with(&own_image(&self.original), &words)
    }

    /// What the next image is told.
    fn words(&self, hand: &HandOver, again: bool) -> Words {
        let mut words = Words::default();
        words.add(format!(
            "spawned={}.{} copy=1",
            self.spawned_as.0, self.spawned_as.1
        ));
        if let Some(owner) = self.owner {
            words.add(format!("owner={owner}"));
        }
        if self.heeded {
            words.add("heeded=1");
        }
        if again {
            words.add("again=1");
        }
        if self.background == Background::Daemon {
            words.add("daemon=1");
        }
        words.leave("ready", self.ready.as_ref(), "");
        words.leave("pidfile", self.pidfile.as_ref().map(Pidfile::file), "");
        words.leave("control", hand.control.as_ref(), &hand.version);
        words.leave("report", hand.report.as_ref(), "");
        words.leave("turn", hand.turn.as_ref(), "");
        for socket in &hand.listeners {
            let known = self.listening.get(&socket.as_raw_fd()).copied();
            let (protocol, activated) = known.unwrap_or((Protocol::Fcgi, false));
            let origin = if activated { "-systemd" } else { "" };
            let more = format!("{}{origin}", protocol.name());
            words.leave("listener", Some(socket), &more);
        }
        for (connection, listener) in &hand.connections {
            if words.has_room() {
                words.leave("connection", Some(connection), &listener.to_string());
            }
        }
        words
    }

    fn execute_with(&self, path: &Path, words: &Words) -> io::Error {
        let ours: [(&str, OsString); 3] = [
            (ORIGINAL, self.original.clone().into()),
            (DIRECTORY, self.directory.clone().into()),
            (HANDOVER, words.0.clone().into()),
        ];
        // By hand, because `Command` would let go of the signals that are held back.
        let arguments: Vec<CString> = std::env::args_os().filter_map(c_string).collect();
        let others = std::env::vars_os().filter(|(name, _)| !ours.iter().any(|(n, _)| n == name));
        let environment: Vec<CString> = others
            .chain(ours.iter().map(|(n, v)| (OsString::from(n), v.clone())))
            .filter_map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                c_string(name)
            })
            .collect();
        let Some(path) = c_string(path.as_os_str().to_owned()) else {
            return io::ErrorKind::InvalidInput.into();
        };
        match nix::unistd::execve(&path, &arguments, &environment) {
            Ok(never) => match never {},
            Err(error) => error.into(),
        }
    }
}

/// The value of `HANDOVER`.
#[derive(Debug, Default)]
struct Words(String);

impl Words {
    fn add(&mut self, word: impl AsRef<str>) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(word.as_ref());
    }

    /// For one more connection; the other words are few and short.
    fn has_room(&self) -> bool {
        self.0.len() < HANDOVER_SIZE
    }

    /// Leaves a descriptor to the next image.
    fn leave(&mut self, name: &str, descriptor: Option<&(impl AsFd + AsRawFd)>, more: &str) {
        if let Some(descriptor) = descriptor {
            inherit(descriptor);
            let raw = descriptor.as_raw_fd();
            self.add(match more {
                "" => format!("{name}={raw}"),
                more => format!("{name}={raw}.{more}"),
            });
        }
    }
}

fn inherit(descriptor: &impl AsFd) {
    let descriptor: BorrowedFd<'_> = descriptor.as_fd();
    let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()));
}

fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

/// The executable as uploaded, or the link to it by which this process was called from the directory `here`: where that
/// leads may change. `argv[0]` alone counts only where /proc is missing.
pub(super) fn own_path(called_as: &OsStr, here: &Path) -> PathBuf {
    let called = here.join(called_as);
    let Some(executable) = procfs::executable() else {
        return std::fs::canonicalize(&called).unwrap_or(called);
    };
    let search = match called_as.as_encoded_bytes().contains(&b'/') {
        true => None,
        false => std::env::var_os("PATH"),
    };
    let named = search
        .iter()
        .flat_map(|path| std::env::split_paths(path))
        .map(|dir| here.join(dir).join(called_as));
    let is_ours = |path: &PathBuf| {
        path.is_symlink() && std::fs::canonicalize(path).is_ok_and(|leads| leads == executable)
    };
    let link = [called.clone()].into_iter().chain(named).find(is_ours);
    let link = link.and_then(|link| std::path::absolute(link).ok());
    link.unwrap_or(executable)
}

/// A path by which children execute this very image.
pub(super) fn own_image(original: &Path) -> PathBuf {
    procfs::own_image().unwrap_or_else(|| original.to_owned())
}
