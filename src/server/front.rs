//! The initial state of a server: its role, what it was given, the live release, and warnings about them.

use super::{Server, told};
use crate::bytes::{fnv, fnv_more};
use crate::codes::Code;
use crate::reload::{Beginning, Origin, Release, Watch};
use crate::workers::LaunchContext;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

/// The most connections to accept from a listener in one pass of the loop.
const ACCEPTS: usize = 32;

/// How the server was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Spawned by a web server, with a listening socket.
    Spawned {
        /// By mod_fcgid, which sends one request at a time and keeps no copy of the socket.
        mod_fcgid: bool,
    },
    /// Started by a person or an init system.
    External,
    /// Started for one request.
    Cgi,
}

impl Role {
    /// How many connections to accept from a listener in one pass of the loop. mod_fcgid has one at a time: a second try
    /// would find nobody.
    pub(super) fn accepts(self) -> usize {
        match self {
            Role::Spawned { mod_fcgid: true } => 1,
            _ => ACCEPTS,
        }
    }
}

/// What is known about this process before the server starts.
#[derive(Debug)]
pub struct Front {
    /// How it was started.
    pub role: Role,
    /// Keeps the running copy of the executable from being swept.
    pub image_lock: Option<OwnedFd>,
    /// Device and inode of the executable when the web server spawned this process.
    pub spawned_as: (u64, u64),
    /// What all preloaders and workers are launched with.
    pub launch: LaunchContext,
}

/// The initial release and settings of a server.
#[derive(Debug)]
pub struct Begin {
    /// Where releases are read from.
    pub origin: Origin,
    /// The state of the watched files before the settings were read.
    pub watch: Watch,
    /// The release that is live.
    pub live: Release,
    /// How that release was chosen.
    pub beginning: Beginning,
    /// What is wrong with the settings on disk.
    pub refused: Option<String>,
}

/// A number that differs between processes, for incident numbers and jitter.
pub(super) fn seed() -> u64 {
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    let hash = fnv(&time.to_le_bytes());
    fnv_more(hash, &std::process::id().to_le_bytes())
}

/// Logs a warning. `once`: unless another front of the site has.
pub fn warn(server: &mut Server, code: Code, text: &str, once: bool) {
    let dir = server.workers.dir().filter(|_| once);
    if dir.is_none_or(|dir| told::is_first(dir, fnv(text.as_bytes()))) {
        server.notices.warn(code, text);
    }
}
