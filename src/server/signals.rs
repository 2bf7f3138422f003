//! Signals, read from a descriptor like anything else.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Finish what is in hand, then leave.
    Stop,
    /// Put new code live.
    Reload,
    /// A child has ended.
    Reap,
}

/// Blocks the signals that the server answers to, and opens the descriptor that tells of them.
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

/// The next wish, None when there is no more.
pub(super) fn next(descriptor: &SignalFd) -> Option<Wish> {
    let info = descriptor.read_signal().ok()??;
    match Signal::try_from(info.ssi_signo as i32).ok()? {
        Signal::SIGTERM | Signal::SIGINT => Some(Wish::Stop),
        Signal::SIGHUP | Signal::SIGUSR1 => Some(Wish::Reload),
        _ => Some(Wish::Reap),
    }
}
