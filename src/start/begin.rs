//! With what a process of the site begins: the release that it serves first, and the name of the site.

use crate::config::{Config, Finding, How, findings};
use crate::reload::{self, Origin, Watch};
use crate::rundir::RuntimeDir;
use crate::server::{Begin, Role};
use std::ffi::OsString;
use std::path::Path;

/// The release to begin with. A process that is spawned while new code is being imported begins with the code that
/// works, like its elder siblings; so does one that finds settings that cannot be used.
pub(super) fn begin(
    role: Role,
    again: bool,
    origin: Origin,
    mut watch: Watch,
    config: Result<Config, Vec<Finding>>,
    dir: Option<&RuntimeDir>,
) -> Begin {
    let exits = |config: &Config| config.restart.how == How::Exit;
    let good = dir.and_then(|dir| origin.good(dir));
    // After the end of one that was to exit, what the disk holds is what the web server has started this process for.
    let anew = role == Role::Cgi
        || role == Role::External && !again
        || config.as_ref().is_ok_and(exits)
        || good.as_ref().is_some_and(|good| exits(&good.config));
    let disk = match config {
        Ok(config) => Ok(origin.release(config, &mut watch)),
        Err(findings) => Err(findings::lines(&findings)),
    };
    let (live, beginning, refused) = reload::begin(disk, good, anew);
    Begin {
        origin,
        watch,
        live,
        beginning,
        refused,
    }
}

/// Names the site. Several servers may share a file and differ by their options.
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
