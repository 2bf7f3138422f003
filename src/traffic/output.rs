//! `Output`: what `Traffic` asks its caller to do.

use super::connection::ConnNo;
use crate::failure::Failure;
use crate::log::Level;
use crate::outbox::Outbox;
use crate::pairs::Pairs;
use crate::request::{Request, RequestNo};
use crate::response::ResponseHead;
use crate::status::Count;
use std::rc::Rc;
use std::time::Duration;

/// Something to do, or to record.
#[derive(Debug)]
pub enum Output {
    /// Serve this complete request. The last call for it must be `end`, `give_up`, `forget` or `answer` of `Responses`.
    Ready(Request),
    /// Take this request back, as nobody waits for its response.
    Abandoned(RequestNo),
    /// Pause reading the response to this request from its worker, or resume it.
    Hold(RequestNo, bool),
    /// The peer of this connection takes none of its responses, for which there is no room on disk, or some again. Until
    /// then its requests need no worker. Ends with `Close`.
    Stalled(ConnNo, bool),
    /// Shut down the sending side of this connection.
    ShutDown(ConnNo),
    /// Send as much of this as the socket accepts at once, then close the connection.
    Close(ConnNo, Outbox),
    /// Log this message.
    Log(Level, String),
    /// Log this message, which has also gone to the web server's error log in the FastCGI stream STDERR.
    LogCopy(Level, String),
    /// Write a finished request to the access log.
    Access(Access),
    /// A response with this status has started.
    Answered(u16),
    /// Add to a count.
    Count(Count, u64),
    /// A request has failed. `true`: it is logged; `false`: it is one of a flood and will be part of a `Repeated`.
    Failed(RequestNo, Box<Incident>, bool),
    /// Log this summary of suppressed failures, and record them: their number, and the last of them.
    Repeated(String, u64, Box<Incident>),
}

/// A request that has failed.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Its variables.
    pub environ: Rc<Pairs>,
    /// The reason.
    pub failure: Failure,
    /// The id on the visitor's page and in the log: eight hexadecimal digits.
    pub incident: String,
}

/// A finished request.
#[derive(Debug)]
pub struct Access {
    /// Its variables.
    pub environ: Rc<Pairs>,
    /// The response's head, if one was sent.
    pub head: Option<ResponseHead>,
    /// Bytes of the request's body that were received.
    pub received: u64,
    /// Bytes of the response's body that were sent.
    pub sent: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether the response was sent completely.
    pub whole: bool,
}
