//! `Job`: everything a task process needs to know, and how a front starts that process.
//!
//! The front runs this program with `RUNNER` as `argv[0]` and one end of a socket pair as standard input, and sends the
//! job over it. A job may hold a password, so only its name and the project go into the arguments, where `ps` shows
//! them. The process calls `setsid`, runs itself once more and exits, so the task is no child of the front.

use super::SiteView;
use super::task::{self, State};
use crate::config::{App, Config};
use crate::rundir::{Entry, RuntimeDir};
use crate::status::collect::millis;
use crate::sys::procfs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// `argv[0]` of a task process.
pub const RUNNER: &str = "runfcgi-task";
/// The last argument of the second of the two processes. Those before it tell whoever looks at the account's processes
/// which task of which project it is.
const DETACHED: &str = "detached";
/// Largest job, in bytes of TOML. It fits into the socket's buffer, so the front does not block when it sends one.
const MAX_JOB_BYTES: usize = 64 << 10;

/// One task to run, for one site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Job {
    /// Names the task: a word of `Task::ALL`.
    pub(super) word: String,
    /// The site's runtime directory.
    pub(super) dir: PathBuf,
    /// The executable at the path where the owner uploaded it.
    pub(super) executable: PathBuf,
    /// For `--config`: the settings file, unless it is found by the name of the executable.
    pub(super) config_option: Option<PathBuf>,
    /// The settings file in use.
    pub(super) settings_file: Option<PathBuf>,
    /// `[app] path`; the next three are also from `[app]`.
    pub(super) path: PathBuf,
    pub(super) settings: Option<String>,
    pub(super) wsgi: Option<String>,
    pub(super) python: Option<PathBuf>,
    /// `[env]`.
    pub(super) env: BTreeMap<String, String>,
    /// User id of the owner of the executable.
    pub(super) owned_by: Option<u32>,
    /// The front runs as CGI: its environment holds variables of a request, which the task must not get.
    pub(super) cgi: bool,
    /// A file that gets a copy of the output.
    pub(super) output_copy: Option<PathBuf>,
    /// What the owner filled in for the task: `username`, `email`, `password`.
    pub(super) fields: BTreeMap<String, String>,
}

impl Job {
    /// A job with the settings on disk if they are valid, else with `fallback`. None if there is no runtime directory.
    pub(super) fn new(word: &str, site: &SiteView<'_>, fallback: &Config) -> Option<Job> {
        let on_disk = site.origin.settings().ok();
        let config = on_disk.as_ref().unwrap_or(fallback);
        let candidates = &site.origin.settings.paths;
        Some(Job {
            word: word.to_owned(),
            dir: site.dir?.path().to_owned(),
            executable: site.origin.executable.clone(),
            config_option: candidates
                .first()
                .filter(|_| candidates.len() == 1)
                .cloned(),
            settings_file: config.file.clone(),
            path: config.app.path.clone().unwrap_or_default(),
            settings: config.app.settings.clone(),
            wsgi: config.app.wsgi.clone(),
            python: config.app.python.clone(),
            env: config.env.clone(),
            owned_by: config.owned_by,
            cgi: site.cgi,
            ..Job::default()
        })
    }

    /// The part of the settings that a task needs.
    pub(super) fn config(&self) -> Config {
        Config {
            app: App {
                path: Some(self.path.clone()),
                settings: self.settings.clone(),
                wsgi: self.wsgi.clone(),
                python: self.python.clone(),
                ..App::default()
            },
            env: self.env.clone(),
            owned_by: self.owned_by,
            ..Config::default()
        }
    }

    /// Starts the task process and returns at once. The error says why it was not started.
    pub(super) fn start(&self, now: SystemTime) -> Result<(), String> {
        let (dir, now) = (RuntimeDir::of(&self.dir), millis(now));
        if task::last(&dir, now).is_some_and(|last| last.running) {
            return Err(String::from("Another task is running"));
        }
        let _ = fs::remove_file(dir.file(Entry::TaskOutput));
        let saved = State::started(&self.word, now).save(&dir);
        saved
            .and_then(|()| self.send())
            .map_err(|error| format!("Cannot start the task: {error}"))
    }

    fn send(&self) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        if text.len() > MAX_JOB_BYTES {
            return Err(io::Error::other("the job is too large"));
        }
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        ours.write_all(text.as_bytes())?;
        let mut command = runner_command(OwnedFd::from(theirs).into())?;
        command.arg(&self.word).arg(&self.path).spawn()?;
        Ok(())
    }

    /// Reads the job from standard input; the caller has checked that it is a socket of ours. In the first of the two
    /// processes, starts the second and returns None.
    pub(super) fn receive() -> io::Result<Option<Job>> {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        if arguments.last().is_none_or(|last| last != DETACHED) {
            nix::unistd::setsid()?;
            let mut command = runner_command(Stdio::inherit())?;
            command.args(arguments).arg(DETACHED).spawn()?;
            return Ok(None);
        }
        let _ = nix::sys::prctl::set_name(c"runfcgi-task");
        let mut text = String::new();
        io::stdin()
            .take(MAX_JOB_BYTES as u64)
            .read_to_string(&mut text)?;
        toml::from_str(&text).map(Some).map_err(io::Error::other)
    }
}

/// This very program as a task process.
fn runner_command(stdin: Stdio) -> io::Result<Command> {
    let image = procfs::own_image().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(image);
    command.arg0(RUNNER).current_dir("/").stdin(stdin);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}
