//! What one image of this process hands over to the next through the environment: descriptor numbers and a few paths.
//!
//! The leader and the daemon are started with the same variables. Knows no configuration and serves nothing.

use super::user::User;
use crate::config::Protocol;
use crate::daemon::{self, Pidfile};
use crate::endpoints::Handed;
use crate::image::{self, Image};
use crate::rundir::RuntimeDir;
use crate::server::{HandOver, Listener};
use crate::sys::{fd, procfs};
use crate::systemd::{self, Activated};
use crate::trust::Trust;
use crate::{cli, codes, python};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `key=value` words; each value is a descriptor or a plain number. Other versions read
/// them, too, so no word may change.
const HANDOVER: &str = "RUNFCGI_HANDOVER";
/// This one may come last; its value is the rest of the text.
const REFUSED: &str = "refused=";
/// Stands behind the listener of a connection on which no request has come.
const NEW: &str = "-new";
/// The variable with the path of the uploaded executable.
const ORIGINAL: &str = "RUNFCGI_ORIGINAL";
/// The variable with the directory that the command line's relative paths refer to.
const DIRECTORY: &str = "RUNFCGI_DIRECTORY";
/// Limit of `HANDOVER` in bytes. `execve` fails if one variable has 128 KiB, so idle connections that do not fit are
/// closed.
const HANDOVER_SIZE: usize = 120 << 10;

/// The part of this process in going to the background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Background {
    /// None: it stays in the foreground.
    #[default]
    No,
    /// It starts a session, and the daemon in it.
    Leader,
    /// It is the daemon.
    Daemon,
}

/// The state that this process keeps across `execve`.
#[derive(Debug, Default)]
pub(super) struct ProcessState {
    /// The executable as uploaded.
    pub(super) original: PathBuf,
    /// Its device and inode when this process was started.
    pub(super) spawned_as: (u64, u64),
    /// The user who owns it.
    pub(super) owner: Option<u32>,
    /// The directory that the command line's relative paths refer to.
    pub(super) directory: PathBuf,
    /// The command-line arguments were accepted.
    pub(super) arguments_accepted: bool,
    pub(super) background: Background,
    /// The write end of the pipe from which the shell's process reads our status.
    pub(super) ready: Option<OwnedFd>,
    pub(super) pidfile: Option<Pidfile>,
    /// The protocol of each listening socket, and whether systemd opened it.
    pub(super) listening: BTreeMap<RawFd, (Protocol, bool)>,
}

/// What the previous image has handed over.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) original: Option<PathBuf>,
    pub(super) spawned_as: Option<(u64, u64)>,
    pub(super) owner: Option<u32>,
    pub(super) directory: Option<PathBuf>,
    /// The command-line arguments were checked and accepted.
    pub(super) arguments_accepted: bool,
    /// This image is the private copy of the executable.
    pub(super) is_copy: bool,
    /// The previous image was root's, and has opened what only root may.
    pub(super) changed_user: bool,
    /// The previous image was serving.
    pub(super) restarted: bool,
    /// Why the new image could not be executed, if this is the old one again.
    pub(super) refused: Option<String>,
    pub(super) background: Background,
    pub(super) ready: Option<OwnedFd>,
    pub(super) pidfile: Option<OwnedFd>,
    pub(super) lock: Option<OwnedFd>,
    pub(super) control: Option<(OwnedFd, String)>,
    pub(super) report: Option<OwnedFd>,
    pub(super) turn: Option<OwnedFd>,
    pub(super) listeners: Vec<Handed>,
    pub(super) connections: Vec<(OwnedFd, usize, bool)>,
}

impl Inherited {
    pub(super) fn read() -> Inherited {
        let mut inherited = Inherited::default();
        let (Some(original), Ok(words)) = (std::env::var_os(ORIGINAL), std::env::var(HANDOVER))
        else {
            return inherited;
        };
        inherited.original = Some(PathBuf::from(original));
        inherited.directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
        let (words, refused) = match words.split_once(REFUSED) {
            Some((words, refused)) => (words, Some(refused.to_owned())),
            None => (words.as_str(), None),
        };
        inherited.refused = refused;
        for word in words.split(' ') {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            let (first, second) = value.split_once('.').unwrap_or((value, ""));
            let descriptor = || fd::adopt(first.parse().ok().filter(|n| *n > 2)?);
            match name {
                "spawned" => inherited.spawned_as = first.parse().ok().zip(second.parse().ok()),
                "owner" => inherited.owner = first.parse().ok(),
                "heeded" => inherited.arguments_accepted = true,
                "copy" => inherited.is_copy = true,
                "again" => inherited.restarted = true,
                "user" => inherited.changed_user = true,
                "leader" => inherited.background = Background::Leader,
                "daemon" => inherited.background = Background::Daemon,
                "ready" => inherited.ready = descriptor(),
                "pidfile" => inherited.pidfile = descriptor(),
                "lock" => inherited.lock = descriptor(),
                "control" => inherited.control = descriptor().map(|fd| (fd, second.to_owned())),
                "report" => inherited.report = descriptor(),
                "turn" => inherited.turn = descriptor(),
                "listener" => inherited.listeners.extend(descriptor().map(|socket| {
                    Handed {
                        socket,
                        protocol: Protocol::named(second.trim_end_matches("-systemd"))
                            .unwrap_or(Protocol::Fcgi),
                        activated: second.ends_with("-systemd"),
                    }
                })),
                "connection" => {
                    let listener = second.trim_end_matches(NEW).parse().ok();
                    let is_new = second.ends_with(NEW);
                    let connection = descriptor().zip(listener);
                    inherited
                        .connections
                        .extend(connection.map(|(fd, listener)| (fd, listener, is_new)));
                }
                _ => (),
            }
        }
        inherited
    }
}

impl ProcessState {
    /// Starts the daemon. Returns its process id, or the exit status of this process.
    pub(super) fn go_to_background(&self) -> Result<Pid, u8> {
        match nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) {
            Ok((read, write)) => {
                let leader = self.command("leader=1", &write);
                daemon::start_and_wait(leader, (read, write))
            }
            Err(error) => {
                super::tell::complain(&daemon::start_error(&error.into()));
                Err(crate::cli::EXIT_FAILED)
            }
        }
    }

    /// Starts a session, and the daemon in it. Returns the exit status.
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

    /// Executes a private copy of the executable. Returns only if that fails; the original then keeps running.
    pub(super) fn move_to_copy(
        &self,
        dir: Option<&RuntimeDir>,
        activated: &[Activated],
        inherited: &Inherited,
    ) {
        if let Ok(image) = image::stage(&self.original, dir, true)
            && image.path.as_deref() != Some(&self.original)
        {
            let mut words = self.words(&HandOver::default());
            words.add("copy=1");
            words.pass("lock", image.lock.as_ref(), "");
            words.pass("pidfile", inherited.pidfile.as_ref(), "");
            for handed in &inherited.listeners {
                words.pass("listener", Some(&handed.socket), handed.protocol.name());
            }
            inherit_all(activated);
            let _ = self.execute_with(&image.exec_path().unwrap_or_default(), &words, &[]);
        }
    }

    /// Executes this image again, with these listening sockets and variables. Returns only if that fails.
    pub(super) fn execute_as(
        &self,
        listeners: &[Listener],
        activated: &[Activated],
        variables: &[(&str, &str)],
    ) -> io::Error {
        let mut words = self.words(&HandOver::default());
        words.add("user=1");
        for listener in listeners {
            let socket = listener.as_fd();
            words.pass("listener", Some(&socket), listener.protocol.name());
        }
        inherit_all(activated);
        self.execute_with(&own_image(&self.original), &words, variables)
    }

    /// Executes another image in this process while serving, and hands over what it needs. If that fails, executes the
    /// current image again. Returns only if that fails, too.
    pub(super) fn execute(&self, image: io::Result<Image>, hand: &HandOver) -> io::Error {
        systemd::notify(&systemd::reloading());
        let mut words = self.words(hand);
        words.add("copy=1 again=1");
        let error = match &image {
            Ok(image) => {
                let path = image.exec_path().unwrap_or_default();
                words.pass("lock", image.lock.as_ref(), "");
                self.execute_with(&path, &words, &[])
            }
            Err(error) => io::Error::other(error.to_string()),
        };
        words.add(format!("{REFUSED}{error}"));
        self.execute_with(&own_image(&self.original), &words, &[])
    }

    /// The words for the next image.
    fn words(&self, hand: &HandOver) -> Words {
        let mut words = Words::default();
        words.add(format!(
            "spawned={}.{}",
            self.spawned_as.0, self.spawned_as.1
        ));
        if let Some(owner) = self.owner {
            words.add(format!("owner={owner}"));
        }
        if self.arguments_accepted {
            words.add("heeded=1");
        }
        if self.background == Background::Daemon {
            words.add("daemon=1");
        }
        words.pass("ready", self.ready.as_ref(), "");
        words.pass("pidfile", self.pidfile.as_ref().map(Pidfile::file), "");
        if let Some((control, version)) = &hand.control {
            words.pass("control", Some(control), version);
        }
        words.pass("report", hand.report.as_ref(), "");
        words.pass("turn", hand.turn.as_ref(), "");
        for socket in &hand.listeners {
            let known = self.listening.get(&socket.as_raw_fd()).copied();
            let (protocol, activated) = known.unwrap_or((Protocol::Fcgi, false));
            let origin = if activated { "-systemd" } else { "" };
            let more = format!("{}{origin}", protocol.name());
            words.pass("listener", Some(socket), &more);
        }
        for (connection, listener, is_new) in &hand.connections {
            if words.has_room() {
                let origin = if *is_new { NEW } else { "" };
                words.pass(
                    "connection",
                    Some(connection),
                    &format!("{listener}{origin}"),
                );
            }
        }
        words
    }

    fn execute_with(&self, path: &Path, words: &Words, variables: &[(&str, &str)]) -> io::Error {
        let more = variables.iter().map(|(name, value)| (*name, value.into()));
        let ours: Vec<(&str, OsString)> = [
            (ORIGINAL, self.original.clone().into()),
            (DIRECTORY, self.directory.clone().into()),
            (HANDOVER, words.0.clone().into()),
        ]
        .into_iter()
        .chain(more)
        .collect();
        // Not through `Command`, which would unblock the signals that are blocked.
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

/// The value of `HANDOVER`: words separated by spaces.
#[derive(Debug, Default)]
struct Words(String);

impl Words {
    fn add(&mut self, word: impl AsRef<str>) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(word.as_ref());
    }

    /// Whether one more connection fits; the other words are few and short.
    fn has_room(&self) -> bool {
        self.0.len() < HANDOVER_SIZE
    }

    /// Passes a descriptor to the next image.
    fn pass(&mut self, name: &str, descriptor: Option<&(impl AsFd + AsRawFd)>, more: &str) {
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

/// systemd's variables still hold in the next image: LISTEN_PID is its pid, too.
fn inherit_all(activated: &[Activated]) {
    activated.iter().for_each(|a| inherit(&a.socket));
}

fn inherit(descriptor: &impl AsFd) {
    let descriptor: BorrowedFd<'_> = descriptor.as_fd();
    let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()));
}

fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

/// Starts the daemon, and then looks for the interpreter. Returns the exit status for the shell. In this order, a client
/// that waits for the socket does not wait for the search.
pub(super) fn to_background(state: &ProcessState, config: &super::Config) -> u8 {
    let daemon = match state.go_to_background() {
        Ok(daemon) => daemon,
        Err(status) => return status,
    };
    let mut home = std::env::var_os("HOME").map(PathBuf::from);
    if let Ok(Some(user)) = User::wanted(config, super::Role::External) {
        let _ = user.take_over();
        home = Some(user.home());
    }
    match python::discover(&config.app, Trust::of(config.owned_by), home.as_deref()) {
        Ok(_) => cli::EXIT_OK,
        Err(why) => {
            super::tell::complain(&format!("{} {why}", codes::place::NO_PYTHON));
            let _ = kill(daemon, Signal::SIGTERM);
            cli::EXIT_FAILED
        }
    }
}

/// The path of the uploaded executable. If this process was called through a symbolic link, from the directory `here`,
/// that is the link, because its target may change. `argv[0]` alone is trusted only where /proc is missing.
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

/// A path through which children execute the running image.
pub(super) fn own_image(original: &Path) -> PathBuf {
    procfs::own_image().unwrap_or_else(|| original.to_owned())
}
