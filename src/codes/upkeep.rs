//! RF06: logs, the status report and the runtime directory.

super::codes! {
    LOG_LOST = 601, "a log file cannot be written" {
        cause: "the file or its directory is not writable or is missing, or the disk or the quota is full",
        consequence: "events for this file are lost until it can be written; the site is served",
        cure: "create the directory and let this user write there, or name another file below [log]",
    }
    LOG_NOT_ROTATED = 602, "a log file cannot be rotated" {
        cause: "the file has reached [log] max_size, and its directory is not writable",
        consequence: "the file keeps growing",
        cure: "move the log to a directory that this user may write",
    }
    STDERR_UNREAD = 603, "nobody reads standard error" {
        cause: "the web server or terminal stopped reading the messages, and the buffer filled up",
        consequence: "messages were lost; the site is served",
        cure: "set [log] file, for a log that does not depend on the web server",
    }
    NO_RUNTIME_DIR = 604, "there is no runtime directory" {
        cause: "none of the directories for sockets and locks can be used: the message lists each with the reason",
        consequence: "the site is served, but each process imports the application itself, and `status` has nothing to show",
        cure: "set [server] runtime_dir to a local directory that the account owns",
    }
    STATUS_NOT_WRITTEN = 605, "the status report cannot be written" {
        cause: "the runtime directory is full",
        consequence: "`status` and the status page show the last known state of this process; the site is served",
        cure: "free space in the directory that the message names",
    }
    JOURNAL_NOT_WRITTEN = 606, "the journal of failures cannot be written" {
        cause: "the runtime directory is full or missing",
        consequence: "failures are in the log, but not on the owner's desk; the site is served",
        cure: "free space in the runtime directory: `status` names it",
    }
    TAKEN_NAME = 607, "another user has taken the name of the runtime directory" {
        cause: "where the runtime directory would be, there is something that belongs to another user; perhaps he wants to \
            disturb the site",
        consequence: "the next place that the message names is used, and the site is served",
        cure: "tell the host, or set [server] runtime_dir to a local directory that the account owns",
    }
}
