//! `LaunchContext`: what all processes that a front launches have in common, whatever its settings.

use crate::config::Config;
use crate::pairs::Pairs;
use crate::rundir::RuntimeDir;
use std::path::PathBuf;

/// What does not depend on the settings when a process is launched.
#[derive(Debug, Default)]
pub struct LaunchContext {
    /// The running executable: a copy of the uploaded one.
    pub image: PathBuf,
    /// Where the processes of the site meet; None: nowhere, so each front is on its own.
    pub dir: Option<RuntimeDir>,
    /// Remembers which interpreter was found.
    pub python_cache: Option<PathBuf>,
    /// The process that spawned the front; 0: none whose end would matter.
    pub spawner: i32,
    /// Its start time in clock ticks since boot.
    pub spawner_start: u64,
    /// Preloaders may outlive their last front for a while: another one is likely to come.
    pub lingers: bool,
    /// The environment is that of a CGI request.
    pub cgi: bool,
    /// The front gets one request at a time.
    pub alone: bool,
    /// The app's standard output is kept apart from its standard error.
    pub outlog: bool,
}

impl LaunchContext {
    /// How long a preloader of these settings may outlive its last front, in seconds.
    pub(super) fn linger(&self, config: &Config) -> u64 {
        match self.lingers {
            true => config.server.linger,
            false => 0,
        }
    }

    /// What HELLO tells a preloader about this front.
    pub(super) fn hello(&self, linger: u64) -> Pairs {
        let mut pairs = Pairs::new();
        let mut put = |name: &str, value: String| pairs.push(name.as_bytes(), value.as_bytes());
        put("pid", std::process::id().to_string());
        put("spawner", self.spawner.to_string());
        put("spawner_start", self.spawner_start.to_string());
        put("linger", linger.to_string());
        pairs
    }
}
