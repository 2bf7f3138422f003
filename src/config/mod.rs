//! `Config`: what the TOML file and the command line's options say, as plain data with every default filled in.
//!
//! `table` has a row of each setting; `load` goes from what is written to the fields.

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
pub use table::{App, How, Limits, Log, Method, Protocol, Restart, Server, Status};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that the owner of a site can say: the sections of the file. Sizes are bytes, times are seconds.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The application.
    pub app: App,
    /// Environment variables of the application.
    pub env: BTreeMap<String, String>,
    /// Sockets and processes.
    pub server: Server,
    /// Bounds.
    pub limits: Limits,
    /// When and how new code goes live.
    pub restart: Restart,
    /// Logs.
    pub log: Log,
    /// The status page.
    pub status: Status,
    /// The file that all this was read from; absolute. None when there was none.
    pub file: Option<PathBuf>,
    /// The text of that file, by which another process can make the same of it.
    pub text: String,
    /// Whose the executable is, as far as it is known.
    pub owner: Option<u32>,
    /// What is odd but does not stop the site.
    pub warnings: Vec<Finding>,
}

/// `[app] script_name`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "String")]
pub enum ScriptName {
    /// Worked out from what the web server sends.
    Auto,
    /// This very prefix, for every request; empty for the root of the host.
    Forced(String),
}

impl From<String> for ScriptName {
    /// Of text that has passed the checks of `value.rs`: `auto`, or a prefix.
    fn from(text: String) -> ScriptName {
        match text.as_str() {
            "auto" => ScriptName::Auto,
            _ => ScriptName::Forced(text),
        }
    }
}

impl Server {
    /// Whether to go into the background: what `daemonize` says, else yes exactly when an endpoint is named.
    pub fn daemonizes(&self) -> bool {
        self.daemonize.unwrap_or(!self.endpoints.is_empty())
    }
}

/// A place to listen at, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What the web server speaks there.
    pub protocol: Protocol,
    /// Where it is.
    pub address: Address,
}

/// The address of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket; absolute.
    Unix(PathBuf),
    /// A TCP port at an IP address.
    Tcp(SocketAddr),
}
