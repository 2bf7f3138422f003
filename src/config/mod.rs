//! `Config`: what the TOML file and the command line's options say, as plain data with every default filled in.

mod checks;
mod defaults;
mod file;
pub mod findings;
pub mod limits;
pub mod load;
pub mod options;
pub mod table;
mod value;

pub use file::{explicit_from_env, locate, owner, runtime_dir_of_broken};
pub use findings::{Finding, Level};
pub use options::Options;

use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that the owner of a site can say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// What is odd but does not stop the site.
    #[serde(skip)]
    pub warnings: Vec<Finding>,
}

/// `[app]`: which application, and the Python that runs it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct App {
    /// Put first on `sys.path`, and the working directory. Absolute after loading.
    pub path: Option<PathBuf>,
    /// `DJANGO_SETTINGS_MODULE`.
    pub settings: Option<String>,
    /// `module:callable`, any WSGI application. With neither `wsgi` nor `settings` the site cannot start.
    pub wsgi: Option<String>,
    /// The interpreter; found by itself when absent. Absolute after loading, unless it is a bare name.
    pub python: Option<PathBuf>,
    /// `auto`, empty, or a prefix that begins with `/` and does not end with one.
    pub script_name: ScriptName,
}

/// `[app] script_name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum ScriptName {
    /// Worked out from what the web server sends.
    #[default]
    Auto,
    /// This very prefix, for every request; empty for the root of the host.
    Forced(String),
}

impl From<String> for ScriptName {
    /// Of text that has passed the checks of `value.rs`: `auto`, or a prefix.
    fn from(text: String) -> ScriptName {
        match text.as_str() {
            "auto" => ScriptName::Auto,
            prefix => ScriptName::Forced(prefix.trim_end_matches('/').to_string()),
        }
    }
}

/// `[server] protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// FastCGI 1.0.
    #[default]
    Fcgi,
    /// SCGI.
    Scgi,
    /// AJP 1.3.
    Ajp,
}

/// `[server] method`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A process for each request at a time.
    #[default]
    Prefork,
    /// One process with several threads.
    Threaded,
}

/// `[server]`: the options of `runfcgi`, and what came since. Relative paths are relative to the file's directory
/// (on the command line: to the current one).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// What the web server speaks.
    pub protocol: Protocol,
    /// IP literal or `localhost`.
    pub host: Option<String>,
    /// TCP port; goes with `host`.
    pub port: Option<u16>,
    /// Path of a unix socket.
    pub socket: Option<PathBuf>,
    /// Processes or threads.
    pub method: Method,
    /// Threads of a process when `method` is threaded.
    pub threads: u32,
    /// Requests after which a worker is replaced; 0: never. Each worker draws up to a tenth less.
    pub maxrequests: u64,
    /// Idle workers that are kept in readiness; None: what suits the place.
    pub minspare: Option<u32>,
    /// Idle workers above this are ended; None: what suits the place.
    pub maxspare: Option<u32>,
    /// Workers at the most; None: what suits the place.
    pub maxchildren: Option<u32>,
    /// Go into the background; None: as `runfcgi` did, when a socket or port is named.
    pub daemonize: Option<bool>,
    /// File that holds the process id while the server runs.
    pub pidfile: Option<PathBuf>,
    /// Working directory when daemonized.
    pub workdir: Option<PathBuf>,
    /// Show tracebacks to the visitor.
    pub debug: bool,
    /// Where standard output goes when daemonized.
    pub outlog: Option<PathBuf>,
    /// Where standard error goes when daemonized.
    pub errlog: Option<PathBuf>,
    /// File mode creation mask (octal in text) when daemonized, and for the unix socket.
    pub umask: Option<u32>,
    /// Mode of the unix socket, overrules `umask`.
    pub socket_mode: Option<u32>,
    /// Length of the listening socket's backlog.
    pub backlog: u32,
    /// AJP: the secret that every request must carry.
    pub secret: Option<String>,
    /// Import the app once and fork workers from that process.
    pub preload: bool,
    /// A path that is requested once before workers are forked.
    pub warm: Option<String>,
    /// Seconds for which the imported app outlives the last front.
    pub linger: u64,
    /// Seconds after which an idle worker above the spare ones is ended.
    pub idle_timeout: u64,
    /// Seconds after which a worker is replaced between two requests; 0: never.
    pub max_lifetime: u64,
    /// Bytes of memory above which a worker is replaced between two requests; 0: never.
    pub max_memory: u64,
    /// Directory for sockets, locks and the running copy of the executable; None: found.
    pub runtime_dir: Option<PathBuf>,
    /// Pass REMOTE_USER and AUTH_TYPE on from an external web server (some send unverified ones).
    pub remote_user: bool,
    /// Path of a page that the front answers by itself; None: none.
    pub ping: Option<String>,
    /// Where to listen, from `host`, `port` and `socket`; empty: descriptor 0 is the listening socket.
    #[serde(skip)]
    pub endpoints: Vec<Endpoint>,
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

/// `[limits]`: bounds. Sizes in bytes, times in seconds; each default and its reason stands in `limits.rs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections from web servers.
    pub max_connections: usize,
    /// Requests that wait for a worker.
    pub queue: usize,
    /// How long one may wait.
    pub queue_timeout: u64,
    /// How long one may run.
    pub request_timeout: u64,
    /// How long the import of the app may take.
    pub start_timeout: u64,
    /// Size of all CGI meta-variables of a request.
    pub max_params: usize,
    /// Size of a request's body.
    pub max_body: u64,
    /// How long a request may stall while it comes in.
    pub read_timeout: u64,
    /// How long a response may stall while it is taken.
    pub write_timeout: u64,
}

/// `[restart]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// What happens when the executable or the configuration has changed.
    pub how: How,
    /// Files whose change puts new code live; relative to the app's path. Default `tmp/restart.txt`.
    pub watch: Vec<PathBuf>,
}

/// `[restart] how`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Replace processes without a gap.
    #[default]
    Replace,
    /// Finish and exit, for the web server to start anew.
    Exit,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Own log file; None: only the web server's.
    pub file: Option<PathBuf>,
    /// Size at which it is rotated.
    pub max_size: u64,
    /// Access log; None: none.
    pub access: Option<PathBuf>,
    /// Format of the access log, with the names of Apache's LogFormat.
    pub format: String,
    /// Seconds after which a request's Python stack is logged; 0: never.
    pub slow_log: f64,
}

/// `[status]`: how the site does, as a page over HTTP. There is one when both are given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// Its path.
    pub path: Option<String>,
    /// What who asks for it must know.
    pub secret: Option<String>,
}
