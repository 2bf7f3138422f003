//! What of a site's place stands in its way: modes and owners, `.htaccess`, and the account's limits.
//!
//! Only looks; knows no Python, and of the settings only how many processes they want.

use crate::account::Account;
use crate::config::{Config, Finding, limits};
use crate::sys::limits::{Kind, Limit};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What suexec and mod_fcgid demand of the executable and its directory.
pub(super) fn permissions(exe: &Path, dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let us = nix::unistd::geteuid().as_raw();
    let group = nix::unistd::getegid().as_raw();
    let (file, folder) = match (fs::metadata(exe), fs::metadata(dir)) {
        (Ok(file), Ok(folder)) => (file, folder),
        (Err(e), _) | (_, Err(e)) => {
            let what = format!("cannot be looked at: {e}");
            return vec![Finding::error(
                "RF0210",
                exe.display().to_string(),
                what,
                "",
            )];
        }
    };
    for (path, meta) in [(exe, &file), (dir, &folder)] {
        let place = path.display().to_string();
        if meta.mode() & 0o022 != 0 {
            findings.push(Finding::error(
                "RF0211",
                &place,
                format!(
                    "its group or all may write it (mode {:04o}); hosts with suexec or the like refuse to start it",
                    meta.mode() & 0o7777
                ),
                format!("chmod 755 {place}"),
            ));
        }
        if meta.uid() != us {
            findings.push(Finding::warning(
                "RF0212",
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
                "RF0216",
                &place,
                format!(
                    "it belongs to group {}, but the account's is {group}; suexec as Apache has it refuses that",
                    meta.gid()
                ),
                format!("chgrp {group} {place}, unless the host itself has made it so"),
            ));
        }
    }
    if file.mode() & 0o6000 != 0 {
        findings.push(Finding::error(
            "RF0215",
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
            "RF0213",
            exe.display().to_string(),
            format!(
                "it may not be executed by all (mode {:04o})",
                file.mode() & 0o7777
            ),
            format!("chmod 755 {}", exe.display()),
        ));
    }
    if statvfs(exe).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOEXEC)) {
        findings.push(Finding::error(
            "RF0214",
            exe.display().to_string(),
            "its file system is mounted noexec, so no program there can be started",
            "ask the host for a directory in which programs may run, often cgi-bin",
        ));
    }
    if findings.is_empty() {
        let modes = format!("mode {:04o}, owner {}", file.mode() & 0o7777, file.uid());
        findings.push(Finding::good(exe.display().to_string(), modes));
    }
    findings
}

/// Whether Apache is told to run us.
pub(super) fn htaccess(dir: &Path, stem: &str) -> Vec<Finding> {
    let path = dir.join(".htaccess");
    let place = path.display().to_string();
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return vec![Finding::warning(
                "RF0220",
                place,
                "there is none; under Apache it tells which program answers",
                "`init` writes one; other web servers do not need it",
            )];
        }
        Err(e) => {
            let what = format!("cannot be read: {e}");
            return vec![Finding::warning("RF0221", place, what, "")];
        }
    };
    let mut findings = Vec::new();
    let lines = text
        .lines()
        .map(|l| l.trim().to_ascii_lowercase())
        .filter(|l| !l.starts_with('#'))
        .collect::<Vec<_>>();
    let handler = lines.iter().find_map(|l| {
        let directive = l.split_whitespace().next()?;
        let names = ["fcgid-script", "fastcgi-script", "cgi-script"];
        let handler = names.iter().find(|n| l.contains(*n))?;
        ["addhandler", "sethandler"]
            .contains(&directive)
            .then_some(*handler)
    });
    match handler {
        Some(name) => findings.push(Finding::good(&place, format!("hands requests to {name}"))),
        None => findings.push(Finding::warning(
            "RF0222",
            &place,
            "no handler is named, so Apache may send the program as a file",
            "AddHandler fcgid-script .fcgi   (mod_fastcgi: fastcgi-script; only CGI: cgi-script)",
        )),
    }
    let ours = format!("{stem}.").to_ascii_lowercase();
    if !lines.iter().any(|l| l.contains(&ours)) {
        findings.push(Finding::warning(
            "RF0223",
            &place,
            format!("{stem}.fcgi is not named, so only URLs with its name reach the site"),
            format!(
                "RewriteEngine On\nRewriteCond %{{REQUEST_FILENAME}} !-f\nRewriteRule ^(.*)$ {stem}.fcgi/$1 [QSA,L]"
            ),
        ));
    }
    if fs::metadata(&path).is_ok_and(|m| m.mode() & 0o044 == 0) {
        findings.push(Finding::warning(
            "RF0224",
            &place,
            "the web server may not be able to read it",
            format!("chmod 644 {place}"),
        ));
    }
    findings
}

/// What the account may have, and what `config` sets beyond that.
pub(super) fn account(config: Option<&Config>) -> Vec<Finding> {
    let known = Account::read();
    let mut findings = Vec::new();
    for limit in known.limits() {
        let Some(most) = limit.most else { continue };
        let (used, source) = (limit.used, limit.resource.source);
        if limit.resource.kind == Kind::Tasks && used + limits::FEW_PROCESSES > most {
            findings.push(Finding::warning(
                "RF0230",
                "processes",
                format!(
                    "{used} of {most} processes and threads of this account are in use ({source})"
                ),
                "end other processes, or set maxchildren = 1 below [server]",
            ));
        }
        if limit.resource.kind == Kind::AddressSpace && most < limits::LITTLE_MEMORY {
            findings.push(Finding::warning(
                "RF0231",
                "memory",
                format!(
                    "a process may only have {} MB of address space ({source})",
                    most >> 20
                ),
                "a larger app will not start; ask the host for more",
            ));
        }
    }
    // Which of the processes in use are the site's own workers cannot be told from here: none is counted.
    if let Some(text) = config.and_then(|config| known.clone().unused().cut(config)) {
        findings.push(Finding::warning(
            "RF0232",
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
        let mut said: Vec<String> = known.limits().iter().map(words).collect();
        if !known
            .limits()
            .iter()
            .any(|l| l.resource.kind == Kind::AddressSpace)
        {
            said.push(String::from("address space of a process unlimited"));
        }
        findings.push(Finding::good("limits", said.join(", ")));
    }
    findings
}
