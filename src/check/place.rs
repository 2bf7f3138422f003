//! Checks the site's surroundings: modes and owners, space for files, and the account's limits.
//!
//! Does not run Python, and writes nothing but a page in the runtime directory, to see whether there is room. Of the settings it uses paths and the number of processes.

use crate::account::Account;
use crate::codes;
use crate::config::{Config, Finding, limits};
use crate::rundir::RuntimeDir;
use crate::sys::limits::{Kind, Limit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where distributions and hosting panels install suexec and its equivalents.
const SUEXEC: [&str; 6] = [
    "/usr/lib/apache2/suexec",
    "/usr/sbin/suexec",
    "/usr/sbin/suexec2",
    "/usr/local/apache2/bin/suexec",
    "/usr/local/apache/bin/suexec",
    "/usr/local/lsws/bin/lsphp_cgi",
];
/// Bytes of free space below which an upload or the start may fail.
const LITTLE_DISK: u64 = 16 << 20;

/// Whether the executable and its directory have the modes and owners that suexec and mod_fcgid require.
pub(super) fn permissions(exe: &Path, dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let us = nix::unistd::geteuid().as_raw();
    let group = nix::unistd::getegid().as_raw();
    let (file, folder) = match (fs::metadata(exe), fs::metadata(dir)) {
        (Ok(file), Ok(folder)) => (file, folder),
        (Err(e), _) | (_, Err(e)) => {
            let what = format!("cannot be looked at: {e}");
            return vec![Finding::error(
                codes::place::UNSEEN_EXECUTABLE,
                exe.display().to_string(),
                what,
                "",
            )];
        }
    };
    for (path, meta) in [(exe, &file), (dir, &folder)] {
        let place = path.display().to_string();
        if meta.mode() & 0o022 != 0 {
            let what = format!(
                "its group or all may write it (mode {:04o}); hosts with suexec or the like refuse to start it",
                meta.mode() & 0o7777
            );
            let fix = format!("chmod 755 {place}");
            let code = codes::place::WRITABLE_BY_OTHERS;
            findings.push(match SUEXEC.iter().any(|path| Path::new(path).exists()) {
                true => Finding::error(code, &place, what, fix),
                false => Finding::warning(code, &place, what, fix),
            });
        }
        if meta.uid() != us {
            findings.push(Finding::warning(
                codes::place::OTHER_OWNER,
                &place,
                format!(
                    "it belongs to user {}, but this is user {us}; suexec wants the account's own files",
                    meta.uid()
                ),
                format!("chown {us} {place}, unless the web server runs without suexec"),
            ));
        }
        if meta.gid() != group {
            findings.push(Finding::warning(
                codes::place::OTHER_GROUP,
                &place,
                format!(
                    "it belongs to group {}, but the account's is {group}; suexec as Apache has it refuses that",
                    meta.gid()
                ),
                format!("chgrp {group} {place}, unless the host itself has made it so"),
            ));
        }
    }
    if exe.to_string_lossy().contains(char::is_whitespace) {
        findings.push(Finding::error(
            codes::place::SPACE_IN_PATH,
            exe.display().to_string(),
            "there is a space in this path, and mod_fcgid cannot start such a program",
            "rename the directory, or move the site",
        ));
    }
    if file.mode() & 0o6000 != 0 {
        findings.push(Finding::error(
            codes::place::SETUID,
            exe.display().to_string(),
            format!(
                "it has a set-user-id or set-group-id bit (mode {:04o}), so suexec refuses to start it",
                file.mode() & 0o7777
            ),
            format!("chmod 755 {}", exe.display()),
        ));
    }
    if file.mode() & 0o111 != 0o111 {
        findings.push(Finding::error(
            codes::place::NOT_EXECUTABLE,
            exe.display().to_string(),
            format!(
                "it may not be executed by all (mode {:04o})",
                file.mode() & 0o7777
            ),
            format!("chmod 755 {}", exe.display()),
        ));
    }
    if findings.is_empty() {
        let modes = format!("mode {:04o}, owner {}", file.mode() & 0o7777, file.uid());
        findings.push(Finding::good(exe.display().to_string(), modes));
    }
    findings
}

/// Whether logs can be written and there is space for temporary files.
pub(super) fn writable(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let logs = [
        ("log.file", &config.log.file),
        ("log.access", &config.log.access),
    ];
    for (name, path) in logs {
        let Some(path) = path else { continue };
        let folder = path.parent().unwrap_or(Path::new("/"));
        let there = if path.exists() { path } else { folder };
        if let Err(error) = access(there, AccessFlags::W_OK) {
            findings.push(Finding::warning(
                codes::place::UNWRITABLE_LOG,
                name,
                format!("{} cannot be written: {}", path.display(), error.desc()),
                format!(
                    "give user {} the right to write {}",
                    nix::unistd::geteuid(),
                    there.display()
                ),
            ));
        }
    }
    if let Some(dir) = &config.server.runtime_dir
        && let Err(error) = usable(dir)
    {
        findings.push(Finding::warning(
            codes::upkeep::NO_RUNTIME_DIR,
            "server.runtime_dir",
            error.to_string(),
            "",
        ));
    }
    let temporary = config
        .env
        .get("TMPDIR")
        .map_or_else(std::env::temp_dir, Into::into);
    let mut dirs = vec![temporary];
    dirs.extend(config.server.runtime_dir.clone());
    for dir in dirs {
        let (free, inodes) = match statvfs(&dir) {
            Ok(fs) => (
                fs.blocks_available() * fs.fragment_size(),
                fs.files_available(),
            ),
            Err(_) => continue,
        };
        // Some file systems have no inode limit and report 0.
        let full = inodes == 0 && statvfs(&dir).is_ok_and(|fs| fs.files() > 0);
        if free < LITTLE_DISK || full {
            findings.push(Finding::warning(
                codes::place::LITTLE_DISK,
                dir.display().to_string(),
                format!("only {} KB and {inodes} files are left there", free >> 10),
                "delete what is not needed, or name another place: TMPDIR below [env], runtime_dir below [server]",
            ));
        }
    }
    findings
}

/// Whether a front could use this runtime directory, or make it.
fn usable(dir: &Path) -> io::Result<()> {
    match (dir.symlink_metadata(), dir.parent()) {
        (Err(_), Some(parent)) => access(parent, AccessFlags::W_OK)
            .map_err(|error| io::Error::other(format!("{}: {}", dir.display(), error.desc()))),
        _ => RuntimeDir::open(Some(dir), dir, b"").map(drop),
    }
}

/// The limits of the account, and settings in `config` that exceed them.
pub(super) fn account(config: Option<&Config>) -> Vec<Finding> {
    let known = Account::read();
    let mut findings = Vec::new();
    for limit in known.limits() {
        let Some(most) = limit.most else { continue };
        let (used, source) = (limit.used, limit.resource.source);
        if limit.resource.kind == Kind::Tasks && used + limits::FEW_PROCESSES > most {
            findings.push(Finding::warning(
                codes::place::FEW_PROCESSES,
                "processes",
                format!(
                    "{used} of {most} processes and threads of this account are in use ({source})"
                ),
                "end other processes, or set maxchildren = 1 below [server]",
            ));
        }
        if limit.resource.kind == Kind::AddressSpace && most < limits::LITTLE_MEMORY {
            findings.push(Finding::warning(
                codes::place::LITTLE_MEMORY,
                "memory",
                format!(
                    "a process may only have {} MB of address space ({source})",
                    most >> 20
                ),
                "a larger app will not start; ask the host for more",
            ));
        }
    }
    // We cannot tell which of the processes in use are the site's own workers, so count none.
    if let Some(text) = config.and_then(|config| known.clone().unused().cut(config)) {
        findings.push(Finding::warning(
            codes::place::MORE_THAN_ALLOWED,
            "processes",
            text,
            "set what the account has room for, or leave it out: the server then looks by itself",
        ));
    }
    if findings.is_empty() {
        let words = |limit: &Limit| match (limit.most, limit.in_bytes()) {
            (None, _) => format!("{} unlimited ({} in use)", limit.resource.name, limit.used),
            (Some(most), false) => {
                format!("{} {most} ({} in use)", limit.resource.name, limit.used)
            }
            (Some(most), true) => format!("{} {} MB", limit.resource.name, most >> 20),
        };
        let mut parts: Vec<String> = known.limits().iter().map(words).collect();
        if !known
            .limits()
            .iter()
            .any(|l| l.resource.kind == Kind::AddressSpace)
        {
            parts.push(String::from("address space of a process unlimited"));
        }
        findings.push(Finding::good("limits", parts.join(", ")));
    }
    findings
}
