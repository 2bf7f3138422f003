//! `Release`: the settings of the site at one moment, and a version that names them with its files; `Origin`: where they
//! are read from.
//!
//! A release holds the settings as they were read, so that what was imported is what goes live. The version covers them,
//! the executable and the watched files. The release that last worked is kept in the runtime directory (`good`), for
//! processes that start while the one on disk does not work.

use super::watch::Watch;
use crate::bytes::{fnv, fnv_more};
use crate::codes;
use crate::config::{Candidates, Config, Finding, Options};
use crate::rundir::{Entry, RuntimeDir, replace};
use crate::sys::procfs;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The settings at one moment, and the version that names them with the files.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// The settings as read.
    pub config: Rc<Config>,
    /// Differs after each change; empty: there is no release.
    pub version: String,
}

/// Where a release is read from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The executable as uploaded.
    pub executable: PathBuf,
    /// Where the settings file may be.
    pub settings: Candidates,
    /// Whether there must be one: only a server that a person starts may do without.
    pub required: bool,
    /// Settings from the command line.
    pub options: Options,
    /// What is wrong with the command line itself.
    pub refused: Vec<Finding>,
    /// Names the site.
    pub identity: Vec<u8>,
    /// A touch of this file makes all fronts of the site reload.
    pub reload: Option<PathBuf>,
}

impl Origin {
    /// Reads the settings, or says all that is wrong with them.
    pub fn settings(&self) -> Result<Config, Vec<Finding>> {
        if !self.refused.is_empty() {
            return Err(self.refused.clone());
        }
        let found = self.settings.find(self.options.owner);
        match found.map_err(|finding| vec![finding])? {
            None if self.required => Err(vec![self.missing()]),
            path => Config::load_with(path.as_deref(), &self.options),
        }
    }

    /// The valid part of settings that have errors.
    pub fn despite_errors(&self) -> Option<Config> {
        let path = self.settings.find(self.options.owner).ok()??;
        Config::despite_errors(&path, &self.options)
    }

    /// What the executable is called, without its extension.
    pub fn stem(&self) -> String {
        let stem = self.executable.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Watches the executable and the settings as they are now.
    pub fn watch(&self) -> Watch {
        Watch::new(
            &self.executable,
            procfs::own_image(),
            &self.settings.paths,
            &[],
        )
    }

    /// Makes a release of settings that were just read; `watch` must be from before that.
    pub fn release(&self, config: Config, watch: &mut Watch) -> Release {
        self.watch_for(&config, watch);
        let file = config.file.as_deref().unwrap_or(Path::new(""));
        let mut hash = fnv_more(fnv(&self.identity), &watch.hash().to_le_bytes());
        hash = fnv_more(hash, file.as_os_str().as_encoded_bytes());
        hash = fnv_more(hash, config.text.as_bytes());
        Release {
            version: format!("{hash:016x}"),
            config: Rc::new(config),
        }
    }

    /// Watches the files that these settings name.
    pub fn watch_for(&self, config: &Config, watch: &mut Watch) {
        let app = config.app.path.clone().unwrap_or_default();
        let named = config.restart.watch.iter().map(|path| app.join(path));
        let others: Vec<PathBuf> = named.chain(self.reload.clone()).collect();
        watch.set_others(&others);
    }

    /// The release that last worked, if its settings are still valid.
    pub fn good(&self, dir: &RuntimeDir) -> Option<Release> {
        let kept = fs::read_to_string(dir.file(Entry::Good)).ok()?;
        let mut parts = kept.splitn(3, '\n');
        let (version, file, text) = (parts.next()?, parts.next()?, parts.next()?);
        let config = match file {
            "" => Config::load_with(None, &self.options),
            file => Config::from_text(Path::new(file), text, &self.options),
        };
        Some(Release {
            config: Rc::new(config.ok()?),
            version: version.to_owned(),
        })
    }

    fn missing(&self) -> Finding {
        let name = self
            .settings
            .name()
            .file_name()
            .unwrap_or_default()
            .display();
        Finding::error(
            codes::settings::NO_FILE,
            self.executable.display().to_string(),
            format!("there is no {name} beside it or in the two directories above"),
            format!("put {name} there, with [app] path and settings"),
        )
    }
}

impl Release {
    /// Keeps it as the one that works: its version, the path of its settings, their text, each on a line of its own.
    pub fn keep(&self, dir: &RuntimeDir) {
        let file = self.config.file.as_deref().unwrap_or(Path::new(""));
        let mut kept = format!("{}\n", self.version).into_bytes();
        kept.extend_from_slice(file.as_os_str().as_encoded_bytes());
        kept.push(b'\n');
        kept.extend_from_slice(self.config.text.as_bytes());
        let path = dir.file(Entry::Good);
        // Most fronts, and each request of CGI, find what they would write.
        if fs::read(&path).is_ok_and(|there| there == kept) {
            return;
        }
        if replace(&path, &kept).is_err() {
            // None is better than an older one.
            let _ = fs::remove_file(path);
        }
    }

    /// Whether only a new process can replace the settings of `live` by these: a process opens sockets, logs, pidfile and
    /// runtime directory when it starts.
    pub fn needs_new_process(&self, live: &Release) -> bool {
        let (new, old) = (&self.config.server, &live.config.server);
        new.endpoints != old.endpoints
            || new.protocol != old.protocol
            || (new.umask, new.socket_mode, new.backlog)
                != (old.umask, old.socket_mode, old.backlog)
            || (&new.pidfile, &new.workdir) != (&old.pidfile, &old.workdir)
            || (&new.outlog, &new.errlog) != (&old.outlog, &old.errlog)
            || (&new.runtime_dir, new.private_copy) != (&old.runtime_dir, old.private_copy)
    }
}
