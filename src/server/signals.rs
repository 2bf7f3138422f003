//! Signals, read from a descriptor.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;

/// What a signal means to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Drain, then exit.
    Stop,
    /// Put new code live.
    Reload,
    /// A child has ended.
    ChildEnded,
}

/// Blocks the signals that the server handles, and opens a descriptor to read them from.
pub(super) fn open() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGCHLD,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// The next signal that has come.
pub(super) fn next(descriptor: &SignalFd) -> Option<Meaning> {
    let info = descriptor.read_signal().ok()??;
    match Signal::try_from(info.ssi_signo as i32).ok()? {
        Signal::SIGTERM | Signal::SIGINT => Some(Meaning::Stop),
        Signal::SIGHUP | Signal::SIGUSR1 => Some(Meaning::Reload),
        _ => Some(Meaning::ChildEnded),
    }
}
