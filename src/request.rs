//! `Request`: one complete request on its way from the web server to the app.

use crate::body::Body;
use crate::pairs::Pairs;
use std::rc::Rc;

/// The number of a request within this front; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestNo(pub u64);

/// A complete request, ready for a worker.
#[derive(Debug)]
pub struct Request {
    /// Its number.
    pub number: RequestNo,
    /// The number of who has sent it: those of one source share a place in the queue.
    pub source: u64,
    /// Its variables as the app sees them.
    pub environ: Rc<Pairs>,
    /// Its whole body.
    pub body: Body,
}

/// A stream to which the app writes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
