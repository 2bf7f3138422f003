//! The release that a new process serves first, and the identity of the site.

use crate::config::{Config, Finding, How, findings};
use crate::reload::{self, Origin, Watch};
use crate::rundir::RuntimeDir;
use crate::server::{Begin, Role};
use std::ffi::OsString;
use std::path::Path;

/// Chooses the first release. A process that is spawned while new code is being imported starts with the last working
/// code, like the processes that already run; so does one that finds unusable settings.
pub(super) fn begin(
    role: Role,
    restarted: bool,
    origin: Origin,
    mut watch: Watch,
    config: Result<Config, Vec<Finding>>,
    dir: Option<&RuntimeDir>,
) -> Begin {
    let exits = |config: &Config| config.restart.how == How::Exit;
    let good = dir.and_then(|dir| origin.good(dir));
    // With `how = exit` the previous process exited so that its successor would load what is on disk.
    let from_disk = role == Role::Cgi
        || role == Role::External && !restarted
        || config.as_ref().is_ok_and(exits)
        || good.as_ref().is_some_and(|good| exits(&good.config));
    let disk = match config {
        Ok(config) => Ok(origin.release(config, &mut watch)),
        Err(findings) => Err(findings::lines(&findings)),
    };
    let (live, beginning, refused) = reload::begin(disk, good, from_disk);
    Begin {
        origin,
        watch,
        live,
        beginning,
        refused,
    }
}

/// The identity of the site. Several servers may share a settings file and differ only in their options.
pub(super) fn identity(role: Role, config_file: &Path, directory: &Path) -> Vec<u8> {
    let mut identity = config_file.as_os_str().as_encoded_bytes().to_vec();
    if role != Role::Cgi && std::env::args_os().len() > 1 {
        identity.extend(directory.as_os_str().as_encoded_bytes());
        identity.extend(
            std::env::args_os()
                .skip(1)
                .flat_map(OsString::into_encoded_bytes),
        );
    }
    identity
}
