//! The access log: a line for each request that is over.

use crate::access_log::{Format, Record};
use crate::config::Log;
use crate::log::LogFile;
use crate::traffic::Access;
use std::time::SystemTime;

/// See above.
pub(super) struct AccessLog {
    format: Format,
    file: LogFile,
}

impl AccessLog {
    /// As the settings say; None: there is to be none.
    pub(super) fn new(settings: &Log) -> Option<AccessLog> {
        Some(AccessLog {
            file: LogFile::new(settings.access.clone()?, settings.max_size),
            format: Format::parse(&settings.format).ok()?,
        })
    }

    /// A line for this request.
    pub(super) fn append(&mut self, access: &Access, now: SystemTime) {
        let line = self.format.render(&Record {
            request: &access.environ,
            head: access.head.as_ref(),
            body: access.sent,
            input: access.received,
            output: access.sent,
            time: now.checked_sub(access.took).unwrap_or(now),
            took: access.took,
            pid: std::process::id(),
            aborted: !access.whole,
        });
        let _ = self.file.append(now, line.as_bytes());
    }
}
