//! `Output`: what comes out of `Workers`.

use crate::failure::{Exception, Failure};
use crate::log::Level;
use crate::request::{RequestNo, Stream};
use std::fs::File;
use std::time::Duration;

/// An event from `Workers` for the rest of the front.
#[derive(Debug)]
pub enum Output {
    /// The head of the response: status and fields, for `ResponseHead::from_wire`.
    Head(RequestNo, Vec<u8>),
    /// A piece of its body.
    Data(RequestNo, Vec<u8>),
    /// A piece of a file as body: offset and length in bytes.
    File(RequestNo, File, u64, u64),
    /// Text that the app wrote during the request.
    Text(RequestNo, Stream, Vec<u8>),
    /// The app has caught an exception, and answers for it itself.
    Caught(RequestNo, Box<Exception>),
    /// The worker has finished the request, after so long. `true`: the body is incomplete.
    End(RequestNo, bool, Duration),
    /// The request has failed.
    Fail(RequestNo, Failure),
    /// No worker will get the request again.
    Gone(RequestNo),
    /// A line for the log.
    Note(Level, String),
    /// The state of the site in a line, for the init system.
    Status(String),
    /// A worker has started.
    Started,
    /// The worker with this pid has closed its sockets.
    Lost(i32),
    /// The process with this pid has ended in this unusual way. `true`: a worker that was not meant to end;
    /// `true`: a request has failed for this, and tells it.
    Exited(i32, String, bool, bool),
    /// What is to serve cannot be imported, for this reason. `true`: this front writes it to the log.
    ImportFailed(String, bool),
    /// The app of the generation that serves was imported.
    Works,
    /// The candidate was imported, or why it cannot be.
    Imported(Result<(), String>),
    /// The first worker of the generation that was promoted has started.
    Live,
}
