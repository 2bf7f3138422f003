//! `Output`: what becomes of requests and workers.

use crate::failure::Failure;
use crate::log::Level;
use crate::request::{RequestNo, Stream};
use std::fs::File;
use std::time::Duration;

/// See above.
#[derive(Debug)]
pub enum Output {
    /// The head of the response: status and fields, for `ResponseHead::from_wire`.
    Head(RequestNo, Vec<u8>),
    /// A piece of its body.
    Data(RequestNo, Vec<u8>),
    /// From this offset on so many bytes of a file are the rest of its body.
    File(RequestNo, File, u64, u64),
    /// What the app has written meanwhile.
    Text(RequestNo, Stream, Vec<u8>),
    /// The worker is done with the request, after so long. `true`: the body is not whole.
    End(RequestNo, bool, Duration),
    /// The request has failed.
    Fail(RequestNo, Failure),
    /// No worker will have the request again.
    Gone(RequestNo),
    /// This is for the log.
    Note(Level, String),
    /// Where the site stands, in a line for those who ask the init system.
    Status(String),
    /// A worker has started.
    Started,
    /// The worker with this id has let go of its sockets.
    Lost(i32),
    /// The process with this id has ended, in this unusual way. `true`: it is a worker that was to go on.
    Exited(i32, String, bool),
    /// The app of some generation cannot be imported.
    ImportFailed(String),
    /// The app of the generation that serves was imported.
    Works,
    /// The candidate was imported, or why it cannot be.
    Imported(Result<(), String>),
    /// The first worker of the generation that was promoted has started.
    Live,
}
