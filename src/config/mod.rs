//! `Config`: the settings from the TOML file and the command line, as plain data with every default filled in.
//!
//! `table` has one row per setting; `load` parses and checks the settings and fills in the fields.

mod checks;
mod file;
pub mod findings;
pub mod limits;
pub mod load;
pub mod options;
mod row;
pub mod table;
mod value;

pub use file::{Candidates, explicit_from_env, owner, runtime_dir_of_broken};
pub use findings::{Finding, Level};
pub use options::Options;
pub use table::{App, How, Limits, Log, Method, Owner, Protocol, Restart, Server, Status};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that the owner of a site can set, by section of the file. Sizes are in bytes, times in seconds.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The application.
    pub app: App,
    /// Environment variables of the application.
    pub env: BTreeMap<String, String>,
    /// Sockets and processes.
    pub server: Server,
    /// Limits.
    pub limits: Limits,
    /// When and how new code goes live.
    pub restart: Restart,
    /// Logs.
    pub log: Log,
    /// The status page.
    pub status: Status,
    /// The owner's desk.
    pub owner: Owner,
    /// The absolute path of the settings file; None if there was none.
    pub file: Option<PathBuf>,
    /// The text of the settings file, from which another process can load the same settings.
    pub text: String,
    /// The user id of the owner of the executable, if known.
    pub owned_by: Option<u32>,
    /// Findings that do not stop the site.
    pub warnings: Vec<Finding>,
}

/// `[app] script_name`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "String")]
pub enum ScriptName {
    /// Derived from what the web server sends.
    Auto,
    /// This prefix for every request; empty for the root of the host.
    Forced(String),
}

impl From<String> for ScriptName {
    /// Converts text that `value.rs` has checked: `auto`, or a prefix.
    fn from(text: String) -> ScriptName {
        match text.as_str() {
            "auto" => ScriptName::Auto,
            _ => ScriptName::Forced(text),
        }
    }
}

impl Server {
    /// Whether to go into the background: as `daemonize` says; without it, only if there is an endpoint.
    pub fn daemonizes(&self) -> bool {
        self.daemonize.unwrap_or(!self.endpoints.is_empty())
    }
}

/// The budget of what waits on disk, unless it is given or a body may be larger.
const SPOOL: u64 = 1 << 30;

impl Limits {
    /// The budget of what waits on disk.
    pub fn spool(&self) -> u64 {
        self.spool.unwrap_or(self.max_body.max(SPOOL))
    }
}

/// An address to listen on, and its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The protocol that the web server speaks.
    pub protocol: Protocol,
    /// The address.
    pub address: Address,
}

/// The address of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The absolute path of a unix socket.
    Unix(PathBuf),
    /// An IP address and a TCP port.
    Tcp(SocketAddr),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_on_disk_has_room_for_the_largest_body() {
        let mut limits = Limits::default();
        assert_eq!((limits.max_body, limits.spool()), (SPOOL, SPOOL));
        limits.max_body = 5;
        assert_eq!(limits.spool(), SPOOL);
        limits.max_body = 2 * SPOOL;
        assert_eq!(limits.spool(), 2 * SPOOL);
        limits.spool = Some(7);
        assert_eq!(limits.spool(), 7);
    }
}
