//! What a server begins with: what it is, what it may use, and the release that is live.

use crate::config::Config;
use crate::reload::{Beginning, Origin, Release, Watch};
use crate::rundir::RuntimeDir;
use crate::worker::preloader::Hello;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What the server is in the eyes of who started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Spawned by a web server with a listening socket; `true`: by mod_fcgid, which gives one request at a time and
    /// keeps no copy of the socket.
    Spawned {
        /// By mod_fcgid.
        mod_fcgid: bool,
    },
    /// Started by a person or an init system.
    External,
    /// Started for one request.
    Cgi,
}

/// Everything that `main` has found out before the server starts.
#[derive(Debug)]
pub struct Place {
    /// What we are.
    pub role: Role,
    /// The executable that runs: a copy of it.
    pub image: PathBuf,
    /// Keeps the copy from being swept away.
    pub image_lock: Option<OwnedFd>,
    /// Inode of the executable when the web server spawned this process.
    pub spawned_as: (u64, u64),
    /// Where the processes of the site meet; None: nowhere, so each front is on its own.
    pub dir: Option<RuntimeDir>,
    /// Where the interpreter that was found is remembered.
    pub python_cache: Option<PathBuf>,
    /// What the preloader is told of us.
    pub hello: Hello,
}

impl Place {
    /// What a preloader that imports the app with these settings is told of us.
    pub(super) fn hello_with(&self, config: &Config) -> Hello {
        // A process whose parent is init was left alone by who started it: nobody will start the next one.
        let lingers = self.role != Role::External && self.hello.spawner != 1;
        Hello {
            linger: if lingers { config.server.linger } else { 0 },
            ..self.hello
        }
    }
}

/// What a server begins with.
#[derive(Debug)]
pub struct Begin {
    /// Where releases are read from.
    pub origin: Origin,
    /// The files as they were before the settings were read.
    pub watch: Watch,
    /// The release that is live.
    pub live: Release,
    /// How it came to be that.
    pub beginning: Beginning,
    /// What is wrong with the settings on disk.
    pub refused: Option<String>,
}
