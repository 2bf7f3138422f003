//! What this process tells whoever started it: a text, findings, its exit status, the response to a CGI request.

use super::handover::ProcessState;
use crate::config::Finding;
use crate::{cli, daemon};
use nix::sys::socket::{getsockopt, sockopt};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Tells why the server does not start. Returns the exit status.
pub(super) fn give_up(state: &mut ProcessState, findings: &[Finding]) -> u8 {
    let status = refuse(findings);
    leave(state, status)
}

/// Removes the pidfile, and tells the shell's process the exit status.
pub(super) fn leave(state: &mut ProcessState, status: u8) -> u8 {
    if let Some(pidfile) = state.pidfile.take() {
        pidfile.remove();
    }
    if let Some(ready) = state.ready.take() {
        daemon::report(ready, status);
    }
    status
}

/// Prints one line for each finding. Returns the exit status for wrong usage.
pub(super) fn refuse(findings: &[Finding]) -> u8 {
    for finding in findings {
        complain(&finding.one_line());
    }
    cli::EXIT_USAGE
}

/// Prints a line on standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "runfcgi: {text}");
}

/// Prints a text on standard output.
pub(super) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Where a CGI request comes from, and where its response goes.
pub(super) fn cgi_streams() -> io::Result<(OwnedFd, OwnedFd)> {
    let listening = getsockopt(&io::stdin(), sockopt::AcceptConn).unwrap_or(false);
    let input = match listening {
        true => File::open("/dev/null")?.into(),
        false => io::stdin().as_fd().try_clone_to_owned()?,
    };
    Ok((input, io::stdout().as_fd().try_clone_to_owned()?))
}
