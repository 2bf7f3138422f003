//! `LaunchContext`: what everything that is started for a site has in common, whatever its settings.

use super::preloader::Hello;
use super::spawn::Start;
use crate::config::Config;
use crate::rundir::RuntimeDir;
use std::path::PathBuf;

/// See above.
#[derive(Debug, Default)]
pub struct LaunchContext {
    /// The executable that runs: a copy of the one that was uploaded.
    pub image: PathBuf,
    /// Where the processes of the site meet; None: nowhere, so each front is on its own.
    pub dir: Option<RuntimeDir>,
    /// Where the interpreter that was found is remembered.
    pub python_cache: Option<PathBuf>,
    /// What a preloader is told of this front.
    pub hello: Hello,
    /// Preloaders may outlive their last front for a while: another one is likely to come.
    pub lingers: bool,
    /// The environment is that of a CGI request.
    pub cgi: bool,
    /// The front is given one request at a time.
    pub alone: bool,
    /// What the app writes to standard output is kept apart from what it writes to standard error.
    pub outlog: bool,
}

impl LaunchContext {
    /// What a preloader that imports the app with these settings is told of this front.
    pub fn hello(&self, config: &Config) -> Hello {
        Hello {
            linger: if self.lingers {
                config.server.linger
            } else {
                0
            },
            ..self.hello
        }
    }

    /// How everything of these settings is started.
    pub fn start<'a>(&'a self, config: &'a Config) -> Start<'a> {
        Start {
            config,
            exe: &self.image,
            cache: self.python_cache.as_deref(),
            cgi: self.cgi,
            outlog: self.outlog,
        }
    }
}
