//! The access log: one line for each finished request.

use crate::access_log::{Format, Record};
use crate::config::Config;
use crate::log::LogFile;
use crate::traffic::Access;
use std::time::SystemTime;

/// The file and the format of its lines.
pub(super) struct AccessLog {
    format: Format,
    file: LogFile,
}

impl AccessLog {
    /// The log that the settings ask for, if any.
    pub(super) fn new(config: &Config) -> Option<AccessLog> {
        Some(AccessLog {
            file: LogFile::of(config, &config.log.access)?,
            format: Format::parse(&config.log.format).ok()?,
        })
    }

    /// Appends a line for a request that finished at `now`.
    pub(super) fn append(&mut self, access: &Access, now: SystemTime) {
        let line = self.format.render(&Record {
            request: &access.environ,
            head: access.head.as_ref(),
            received: access.received,
            sent: access.sent,
            time: now.checked_sub(access.took).unwrap_or(now),
            took: access.took,
            pid: std::process::id(),
            aborted: !access.whole,
        });
        let _ = self.file.append(now, line.as_bytes());
    }
}
