//! `Action`: what the pool wants done.

use super::process::{ProcessNo, SlotNo};
use crate::failure::Failure;
use crate::request::RequestNo;
use std::time::Duration;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process of this generation with these slots; then `launched`, or `not_started`.
    Start(ProcessNo, u64, Vec<SlotNo>),
    /// Send a request to a worker; if that fails, `send_failed`.
    Send(SlotNo, RequestNo),
    /// Tell a worker that nobody waits for its answer.
    Abort(SlotNo),
    /// Close a slot: its process leaves when all are closed.
    Close(SlotNo),
    /// Have the process with this id write its Python stack to the log.
    WriteStack(i32),
    /// End a process for good, then `killed`.
    Kill(ProcessNo),
    /// The request fails.
    Fail(RequestNo, Failure),
    /// No worker will be given the request again.
    Forget(RequestNo),
    /// The request has run for so long that it is to be told.
    Slow(RequestNo, Duration),
    /// A process has not started within so many seconds, and is ended.
    Unstarted(ProcessNo, u64),
    /// The process with this id has let go of its sockets.
    Lost(i32),
    /// The first worker of a generation that was promoted has started.
    Live,
}
