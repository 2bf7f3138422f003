//! `Output`: what traffic wants done by others.

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

/// See above.
#[derive(Debug)]
pub enum Output {
    /// A request is complete: have it served. Whatever becomes of it, the last word on it is one of `Responses::end`,
    /// `give_up`, `forget` and `answer`.
    Ready(Request),
    /// Nobody waits for this one any more.
    Abandoned(RequestNo),
    /// Take no more of this one's response from its worker; or go on.
    Hold(RequestNo, bool),
    /// Say to the peer that nothing more will be sent.
    ShutDown(ConnNo),
    /// The connection is over: send of this what the socket takes at once, and close it.
    Close(ConnNo, Outbox),
    /// This has to be told.
    Log(Level, String),
    /// A request is over, for the access log.
    Access(Access),
    /// A response with this status has begun.
    Answered(u16),
    /// So many more of these.
    Count(Count, u64),
    /// A request has failed.
    Failed {
        /// Its number.
        number: RequestNo,
        /// Its variables.
        environ: Rc<Pairs>,
        /// Why.
        failure: Failure,
        /// Under which id the visitor and the log know it.
        incident: String,
    },
}

/// A request that is over.
#[derive(Debug)]
pub struct Access {
    /// Its variables.
    pub environ: Rc<Pairs>,
    /// The head that was sent, if one was.
    pub head: Option<ResponseHead>,
    /// Bytes of its body that came in.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// How long it took.
    pub took: Duration,
    /// The response was sent to its end.
    pub whole: bool,
}
