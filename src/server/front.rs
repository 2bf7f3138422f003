//! What a server begins with: what it is, what it may use, and the release that is live.

use crate::bytes::{fnv, fnv_more};
use crate::reload::{Beginning, Origin, Release, Watch};
use crate::workers::LaunchContext;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

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

/// Everything that was found out about this process before the server starts.
#[derive(Debug)]
pub struct Front {
    /// What we are.
    pub role: Role,
    /// Keeps the running copy of the executable from being swept away.
    pub image_lock: Option<OwnedFd>,
    /// Device and inode of the executable when the web server spawned this process.
    pub spawned_as: (u64, u64),
    /// What preloaders and workers are started with.
    pub launch: LaunchContext,
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

/// A number that differs from process to process, for incident ids and jitter.
pub(super) fn seed() -> u64 {
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    let hash = fnv(&time.to_le_bytes());
    fnv_more(hash, &std::process::id().to_le_bytes())
}
