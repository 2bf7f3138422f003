//! Becomes the user of `[server] user`, before any Python runs: opens what only root may open, gives up root's rights for
//! good, and executes this program again as that user.

use super::handover::{Background, ProcessState};
use crate::codes::{place, settings::NOT_THE_USER};
use crate::config::{Address, Config, Finding};
use crate::daemon::{self, Pidfile};
use crate::endpoints;
use crate::log::PRIVATE;
use crate::reload::Origin;
use crate::server::{Listener, Role};
use crate::sys::users;
use crate::systemd::Activated;
use crate::trust::Trust;
use anyhow::Context;
use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid, setgroups, setresgid, setresuid};
use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::PathBuf;

/// The user to become.
#[derive(Debug)]
pub(super) struct User(users::User);

impl User {
    /// The user that this process is to become. None: no other than it is.
    pub(super) fn wanted(config: &Config, role: Role) -> Result<Option<User>, Finding> {
        let Some(name) = config.server.user.as_deref() else {
            return Ok(None);
        };
        let wrong = |what: String, fix: &str| Err(Finding::error(NOT_THE_USER, "user", what, fix));
        let Some(user) = users::User::named(name) else {
            let what = format!("{name} is not in /etc/passwd");
            return wrong(what, "name a user of this machine");
        };
        match geteuid() {
            us if us.as_raw() == user.uid => Ok(None),
            us if us.is_root() => Ok(Some(User(user))),
            // Whoever runs a web server's process has been chosen by its administrator.
            _ if role != Role::External => Ok(None),
            us => {
                let what = format!("only root can become {name}, and this is user {us}");
                wrong(what, "start it as root or as that user, or leave user out")
            }
        }
    }

    /// His home directory.
    pub(super) fn home(&self) -> PathBuf {
        PathBuf::from(&self.0.home)
    }

    /// His variables for the environment.
    fn variables(&self) -> [(&'static str, &str); 3] {
        [
            ("HOME", &self.0.home),
            ("USER", &self.0.name),
            ("LOGNAME", &self.0.name),
        ]
    }

    /// Executes this program again as this user. Returns only if that fails.
    fn switch(
        &self,
        role: Role,
        config: &Config,
        state: &mut ProcessState,
        activated: &[Activated],
    ) -> anyhow::Result<Infallible> {
        let mut listeners = match role {
            Role::External => self.prepare(config, state)?,
            _ => Vec::new(),
        };
        self.take_over()?;
        let error = state.execute_as(&listeners, activated, &self.variables());
        listeners.iter_mut().for_each(Listener::withdraw);
        let name = &self.0.name;
        Err(error)
            .with_context(|| format!("{NOT_THE_USER} the program cannot be executed as {name}"))
    }

    /// Gives up the rights of this process for his, for good.
    pub(super) fn take_over(&self) -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.0.uid), Gid::from_raw(self.0.gid));
        setgroups(&self.groups())?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }

    fn groups(&self) -> Vec<Gid> {
        self.0.groups.iter().copied().map(Gid::from_raw).collect()
    }

    /// Opens something as this user. What he may not open is opened by root, who then trusts nobody else.
    fn open<T>(&self, open: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<(T, bool)> {
        setegid(Gid::from_raw(self.0.gid))?;
        seteuid(Uid::from_raw(self.0.uid))?;
        let opened = open();
        seteuid(Uid::from_raw(0))?;
        setegid(Gid::from_raw(0))?;
        let denied = |error: &anyhow::Error| {
            error.chain().any(|cause| {
                let kind = cause.downcast_ref().map(io::Error::kind);
                let errno = cause.downcast_ref() == Some(&nix::errno::Errno::EACCES);
                errno || kind == Some(io::ErrorKind::PermissionDenied)
            })
        };
        match opened {
            Err(error) if denied(&error) => Ok((open()?, true)),
            other => Ok((other?, false)),
        }
    }

    /// Opens the logs, and the pidfile and the sockets for the next image. A log or socket that root creates is this user's.
    fn prepare(&self, config: &Config, state: &mut ProcessState) -> anyhow::Result<Vec<Listener>> {
        let (uid, gid) = (Some(self.0.uid), Some(self.0.gid));
        let server = &config.server;
        let daemon = state.background == Background::Daemon;
        if daemon {
            daemon::set_umask(server);
        }
        setgroups(&self.groups())?;
        let of_daemon = [&server.errlog, &server.outlog];
        let of_daemon = of_daemon.into_iter().filter(|_| daemon);
        for log in of_daemon.chain([&config.log.file, &config.log.access]) {
            let Some(path) = log else { continue };
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(PRIVATE);
            let opened = self.open(|| Ok(Trust::of(None).open(&mut options.clone(), path)?));
            // The next image tells what is wrong.
            if let Ok((file, true)) = opened
                && file
                    .metadata()
                    .is_ok_and(|meta| meta.is_file() && meta.uid() == 0 && meta.len() == 0)
            {
                fchown(&file, uid, gid)?;
            }
        }
        if let Some(path) = &server.pidfile {
            let taken = self.open(|| Pidfile::take(path, Trust::of(None)));
            state.pidfile = Some(taken.context(place::BAD_PIDFILE)?.0);
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for endpoint in &server.endpoints {
            let mut alone = config.clone();
            alone.server.endpoints = vec![endpoint.clone()];
            // Now that root opens only what the user may not, the executable's owner is a stranger.
            alone.owned_by = None;
            match self.open(|| endpoints::open(&alone, Vec::new(), false)) {
                Ok((opened, by_root)) => {
                    for (code, text) in &opened.warnings {
                        super::tell::complain(&format!("{code} {text}"));
                    }
                    listeners.extend(opened.listeners);
                    if let (true, Address::Unix(path)) = (by_root, &endpoint.address) {
                        lchown(path, uid, gid)?;
                    }
                }
                Err(error) => {
                    listeners.iter_mut().for_each(Listener::withdraw);
                    return Err(error.context(place::NOT_LISTENING));
                }
            }
        }
        Ok(listeners)
    }
}

/// What the log says if it will.
pub(super) const AS_ROOT: &str =
    "the app runs as root: set user below [server], or what it lets in has the whole machine";

/// Whether Python will run as root, and nobody has asked for that.
pub(super) fn is_root(role: Role, config: Option<&Config>) -> bool {
    let asked = config.is_some_and(|config| config.server.user.is_some());
    geteuid().is_root() && !asked && role != Role::Cgi
}

/// Becomes the user that the settings name, if that is another one. Returns if it is not, or an exit status.
pub(super) fn settle(
    role: Role,
    config: &Result<Config, Vec<Finding>>,
    origin: &Origin,
    state: &mut ProcessState,
    activated: &[Activated],
) -> Result<(), u8> {
    // A site whose settings have an error serves the last valid ones: as the same user.
    let valid = || origin.despite_errors();
    let broken = config.is_err().then(valid).flatten();
    let Some(config) = config.as_ref().ok().or(broken.as_ref()) else {
        return Ok(());
    };
    let user = match User::wanted(config, role) {
        Ok(None) => return Ok(()),
        Ok(Some(user)) => user,
        Err(finding) => return Err(super::tell::give_up(state, &[finding])),
    };
    let Err(error) = user.switch(role, config, state, activated);
    super::tell::complain(&format!("{error:#}"));
    Err(super::tell::leave(state, crate::cli::EXIT_FAILED))
}
