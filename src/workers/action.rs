//! `Action`: what the pool asks the crew to do.

use super::process::{ProcessNo, SlotNo};
use crate::failure::Failure;
use crate::request::RequestNo;
use std::time::Duration;

/// A step that the pool decided on; the crew carries it out.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process of this generation with these slots; then `launched` or `not_started`.
    Start(ProcessNo, u64, Vec<SlotNo>),
    /// Send a request to a worker; if that fails, `send_failed`.
    Send(SlotNo, RequestNo),
    /// Tell a worker that nobody waits for its response.
    Abort(SlotNo),
    /// Close a slot. A process exits when all of its slots are closed.
    Close(SlotNo),
    /// Give an idle process to the preloader, for another front; `take` it first.
    Keep(ProcessNo),
    /// Make the process with this pid write its Python stack to the log.
    WriteStack(i32),
    /// Kill a process; then `killed`.
    Kill(ProcessNo),
    /// The request fails.
    Fail(RequestNo, Failure),
    /// No worker will get the request again.
    Forget(RequestNo),
    /// The request is slow: log it.
    Slow(RequestNo, Duration),
    /// The preloader has not started a process within so many seconds: it is killed.
    Unstarted(ProcessNo, u64),
    /// The process with this pid has closed its sockets.
    Lost(i32),
    /// The first worker of a generation that was promoted has started, or none is needed.
    Live,
}
