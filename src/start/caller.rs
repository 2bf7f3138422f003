//! Who started this process, and what they may make it do.
//!
//! suexec runs us as the owner, with whatever words and descriptors the web server's user gives it. So:
//!
//! *An interpreter is launched* by no word, but through the socket on descriptor 0, when that is one end of a pair that a
//! process of our own user made. (A connection to a listening socket is no pair: one of its ends has a name.)
//!
//! *Words* are heeded when the owner gives them: from a shell, cron, systemd, an init script. The parent process does not
//! tell: it may have gone, anyone's crontab has root's cron as parent, and suexec can turn the parent, too, into a process
//! of the owner's. The environment tells: suexec empties it, sets PATH, and lets through only what its list names (the
//! variables of CGI, `HTTP_*`, `SSL_*`, TZ). So one of `SESSION` must be there, or not even PATH. A parent that is seen to
//! belong to a third user speaks against the words all the same.

use crate::config::Finding;
use crate::server::Role;
use crate::sys::procfs;
use nix::sys::socket::{self, SockType, UnixAddr, sockopt};
use nix::unistd::{geteuid, getppid};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Logins, cron, systemd, containers and the shells of init scripts each set some of these; no list of suexec has them.
const SESSION: [&str; 7] = [
    "HOME",
    "LOGNAME",
    "USER",
    "SHELL",
    "TERM",
    "PWD",
    "INVOCATION_ID",
];
/// What suexec always sets.
const ALWAYS: &str = "PATH";

/// Whether descriptor 0 is one end of a socket pair that a process of our user made.
pub(super) fn is_ours() -> bool {
    let stdin = io::stdin();
    let names = [
        socket::getsockname::<UnixAddr>(stdin.as_raw_fd()),
        socket::getpeername::<UnixAddr>(stdin.as_raw_fd()),
    ];
    let pair = names.iter().all(|name| {
        name.as_ref()
            .is_ok_and(|name| name.path().is_none() && name.as_abstract().is_none())
    });
    pair && socket::getsockopt(&stdin.as_fd(), sockopt::SockType) == Ok(SockType::Stream)
        && socket::getsockopt(&stdin.as_fd(), sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

/// What is told who calls for an interpreter without that socket.
pub(super) fn not_ours() -> Finding {
    Finding::error(
        "RF0151",
        "descriptor 0",
        "an interpreter is launched only through a socket of our own making",
        "",
    )
}

/// Whether the words of the command line may be heeded. `owner` is whose the executable called `stem` is.
pub(super) fn words(owner: Option<u32>, stem: &str) -> Result<(), Finding> {
    let has = |name: &str| std::env::var_os(name).is_some();
    judge(has, parent(), geteuid().as_raw(), owner).map_err(|(code, what, fix)| {
        Finding::error(code, "command line", what, fix.replace("{}", stem))
    })
}

/// The code of the refusal, what is wrong, and what to do ({} stands for the name of the site).
type Refusal = (&'static str, String, &'static str);

fn judge(
    has: impl Fn(&str) -> bool,
    parent: Option<u32>,
    us: u32,
    owner: Option<u32>,
) -> Result<(), Refusal> {
    // It becomes none but the owner of the file; root's counts, since hosts have changed it so.
    let could_be = owner.is_none_or(|owner| owner == us || owner == 0);
    if could_be && has(ALWAYS) && !SESSION.iter().any(|name| has(name)) {
        let what =
            "words are not taken from suexec, and this environment is as empty as suexec leaves it";
        let fix = "write the settings in {}.toml; if this is no suexec, set HOME: env HOME=/ ...";
        return Err(("RF0152", what.to_owned(), fix));
    }
    match parent {
        Some(other) if other != us && other != 0 => {
            let what =
                format!("words are not taken from a process of user {other}: we run as user {us}");
            let fix = "run it as that user or as root, or write the settings in {}.toml";
            Err(("RF0153", what, fix))
        }
        _ => Ok(()),
    }
}

/// The effective user of our parent; None when it has gone, is in another namespace, or is hidden.
fn parent() -> Option<u32> {
    let parent = getppid();
    let user = procfs::user(parent.as_raw());
    // If it has gone meanwhile, the number may be another's.
    user.filter(|_| getppid() == parent)
}

/// What a web server has made of us, with a listening socket on descriptor 0.
pub(super) fn spawned() -> Role {
    Role::Spawned {
        mod_fcgid: spawned_by_mod_fcgid(),
    }
}

/// mod_fcgid names its sockets `<its own pid>.<number>`.
fn spawned_by_mod_fcgid() -> bool {
    let Ok(name) = socket::getsockname::<socket::UnixAddr>(0) else {
        return false;
    };
    let file = name
        .path()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let parent = format!("{}.", getppid());
    file.strip_prefix(&parent)
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_words_count() {
        let (us, root, third) = (1000, 0, 33);
        for (environment, parent, owner, refused) in [
            ("PATH HOME", us, us, ""),
            ("PATH INVOCATION_ID", root, us, ""),
            ("", us, us, ""),
            ("PATH", us, us, "RF0152"),
            ("PATH TZ HTTP_HOME SERVER_NAME", root, us, "RF0152"),
            ("PATH", third, us, "RF0152"),
            ("PATH", us, root, "RF0152"),
            ("PATH", us, third, ""),
            ("PATH HOME", third, us, "RF0153"),
        ] {
            let names: Vec<&str> = environment.split(' ').collect();
            let judged = judge(|name| names.contains(&name), Some(parent), us, Some(owner));
            let code = judged.err().map_or("", |(code, ..)| code);
            assert_eq!(code, refused, "{environment}, {parent}, {owner}");
        }
        let gone = judge(|name| name == "PATH", None, us, None);
        assert_eq!(gone.unwrap_err().0, "RF0152");
        assert!(judge(|_| true, None, us, None).is_ok());
    }

    #[test]
    fn the_parent_is_seen() {
        assert_eq!(parent(), Some(geteuid().as_raw()));
    }
}
