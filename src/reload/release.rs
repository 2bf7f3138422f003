//! `Release`: what the site is made of at one moment, and `Origin`: where all that is read from.
//!
//! What is on disk is what gets imported, and what was imported is what goes live: so a release holds the settings as
//! they were read, and its version names them, the executable and the watched files together. The release that works is
//! kept in the runtime directory (`good`), for processes that start while the disk holds one that does not.

use super::watch::Watch;
use crate::bytes::{fnv, fnv_more};
use crate::config::{Candidates, Config, Finding, Options};
use crate::rundir::{Entry, RuntimeDir, replace};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The settings as read, and the name of what they were read with.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// What the owner says.
    pub config: Rc<Config>,
    /// Names it: another one for each change.
    pub version: String,
}

/// Where a release is read from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The executable as uploaded.
    pub executable: PathBuf,
    /// Where the settings may stand.
    pub settings: Candidates,
    /// Whether there must be one: only a server that a person starts may do without.
    pub required: bool,
    /// What the command line said.
    pub options: Options,
    /// What is wrong with the command line itself.
    pub refused: Vec<Finding>,
    /// Names the site.
    pub identity: Vec<u8>,
    /// The file by which one process of the site has all of them reload.
    pub reload: Option<PathBuf>,
}

impl Origin {
    /// Reads the settings that stand there now, or says all that is wrong with them.
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

    /// The files that are there now.
    pub fn watch(&self) -> Watch {
        Watch::new(&self.executable, &self.settings.paths, &[])
    }

    /// The same for a process that has looked at them before: its executable is the one that it has accepted.
    pub fn watch_again(&self, before: &Watch) -> Watch {
        before.with_settings(&self.settings.paths)
    }

    /// Makes a release of settings that were just read; `watch` knows the files from before they were read.
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

    /// Watches what these settings name.
    pub fn watch_for(&self, config: &Config, watch: &mut Watch) {
        let app = config.app.path.clone().unwrap_or_default();
        let named = config.restart.watch.iter().map(|path| app.join(path));
        let others: Vec<PathBuf> = named.chain(self.reload.clone()).collect();
        watch.set_others(&others);
    }

    /// The release that last worked, when its settings still make sense.
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
            "RF0100",
            self.executable.display().to_string(),
            format!("there is no {name} beside it nor in the two directories above"),
            format!("put {name} there, with [app] path and settings"),
        )
    }
}

impl Release {
    /// Keeps it as the one that works: first line its version, second the path of its settings, then their text.
    pub fn keep(&self, dir: &RuntimeDir) {
        let file = self.config.file.as_deref().unwrap_or(Path::new(""));
        let mut kept = format!("{}\n", self.version).into_bytes();
        kept.extend_from_slice(file.as_os_str().as_encoded_bytes());
        kept.push(b'\n');
        kept.extend_from_slice(self.config.text.as_bytes());
        let path = dir.file(Entry::Good);
        // The settings may hold secrets: nobody else may read them.
        if replace(&path, &kept).is_err() {
            // None is better than one from before.
            let _ = fs::remove_file(path);
        }
    }

    /// Whether only a new process can take these settings on after those of `live`: sockets are opened, logs and the
    /// pidfile are taken, and the processes of the site meet, when a process starts.
    pub fn needs_new_process(&self, live: &Release) -> bool {
        let (new, old) = (&self.config.server, &live.config.server);
        new.endpoints != old.endpoints
            || new.protocol != old.protocol
            || (new.umask, new.socket_mode, new.backlog)
                != (old.umask, old.socket_mode, old.backlog)
            || (&new.pidfile, &new.workdir) != (&old.pidfile, &old.workdir)
            || (&new.outlog, &new.errlog) != (&old.outlog, &old.errlog)
            || new.runtime_dir != old.runtime_dir
    }
}
