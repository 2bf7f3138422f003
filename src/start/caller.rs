//! Who started this process, and what that caller may make it do.
//!
//! suexec runs us as the owner, with any arguments and descriptors that the web server's user chooses. So:
//!
//! *An interpreter is launched* only through the socket on descriptor 0, and only if that is one end of a socket pair made
//! by a process of our own user. (A connection to a listening socket is not a pair: one of its ends has a name.)
//!
//! *Command-line arguments* are accepted only from the owner: from a shell, cron, systemd, an init script. The parent
//! process proves nothing: it may have exited, every crontab runs below root's cron, and suexec can make the parent, too,
//! a process of the owner. The environment is the evidence: suexec clears it, sets PATH, and passes only the variables on
//! its list (CGI's, `HTTP_*`, `SSL_*`, TZ). So either one of `SESSION` is set, or PATH is not. A parent that visibly
//! belongs to a third user is refused in any case.

use crate::codes::{self, Code};
use crate::config::Finding;
use crate::server::Role;
use crate::sys::procfs;
use nix::sys::socket::{self, SockType, UnixAddr, sockopt};
use nix::unistd::{geteuid, getppid};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Logins, cron, systemd, containers and init scripts each set some of these; suexec passes none of them.
const SESSION: [&str; 7] = [
    "HOME",
    "LOGNAME",
    "USER",
    "SHELL",
    "TERM",
    "PWD",
    "INVOCATION_ID",
];
/// The variable that suexec always sets.
const SUEXEC_SETS: &str = "PATH";

/// Whether descriptor 0 is one end of a socket pair made by a process of our user.
pub(super) fn has_launch_socket() -> bool {
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

/// The error when an interpreter is requested without that socket.
pub(super) fn foreign_launch() -> Finding {
    Finding::error(
        codes::settings::FOREIGN_LAUNCH,
        "descriptor 0",
        "an interpreter is launched only through a socket of our own making",
        "",
    )
}

/// The error when FCGI_FORCE_CGI is set but there is no CGI request.
pub(super) fn no_cgi_request() -> Finding {
    Finding::error(
        codes::settings::NO_CGI_VARIABLES,
        "environment",
        "FCGI_FORCE_CGI asks for one CGI request, but REQUEST_METHOD and the other variables of one are missing",
        "",
    )
}

/// Refuses command-line arguments that the owner cannot have given. `owner` owns the executable, whose name is `stem`.
pub(super) fn check_arguments(owner: Option<u32>, stem: &str) -> Result<(), Finding> {
    let has = |name: &str| std::env::var_os(name).is_some();
    judge(has, parent(), geteuid().as_raw(), owner).map_err(|(code, what, fix)| {
        Finding::error(code, "command line", what, fix.replace("{}", stem))
    })
}

/// The code, what is wrong, and how to fix it (`{}` stands for the name of the site).
type Refusal = (Code, String, &'static str);

fn judge(
    has: impl Fn(&str) -> bool,
    parent: Option<u32>,
    us: u32,
    owner: Option<u32>,
) -> Result<(), Refusal> {
    // suexec runs a program only as the file's owner. A file of root's counts too: some hosts patch suexec that way.
    let could_be = owner.is_none_or(|owner| owner == us || owner == 0);
    if could_be && has(SUEXEC_SETS) && !SESSION.iter().any(|name| has(name)) {
        let what =
            "words are not taken from suexec, and this environment is as empty as suexec leaves it";
        let fix = "write the settings in {}.toml; if this is no suexec, set HOME: env HOME=/ ...";
        return Err((codes::settings::WORDS_FROM_SUEXEC, what.to_owned(), fix));
    }
    match parent {
        Some(other) if other != us && other != 0 => {
            let what =
                format!("words are not taken from a process of user {other}: we run as user {us}");
            let fix = "run it as that user or as root, or write the settings in {}.toml";
            Err((codes::settings::WORDS_FROM_ANOTHER_USER, what, fix))
        }
        _ => Ok(()),
    }
}

/// The effective user of our parent. None: it has exited, is in another PID namespace, or /proc hides it.
fn parent() -> Option<u32> {
    let parent = getppid();
    let user = procfs::user(parent.as_raw());
    // If it has exited since, another process may have its pid.
    user.filter(|_| getppid() == parent)
}

/// Our role when a web server spawned us with a listening socket on descriptor 0.
pub(super) fn spawned_role() -> Role {
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
    fn only_the_owner_may_give_arguments() {
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
            let accepted = judge(|name| names.contains(&name), Some(parent), us, Some(owner));
            let code = accepted
                .err()
                .map_or(String::new(), |(code, ..)| code.to_string());
            assert_eq!(code, refused, "{environment}, {parent}, {owner}");
        }
        let gone = judge(|name| name == "PATH", None, us, None);
        assert_eq!(gone.unwrap_err().0, codes::settings::WORDS_FROM_SUEXEC);
        assert!(judge(|_| true, None, us, None).is_ok());
    }

    #[test]
    fn the_user_of_the_parent_is_known() {
        assert_eq!(parent(), Some(geteuid().as_raw()));
    }
}
