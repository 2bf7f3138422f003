//! `Request`: one request, complete, on its way from the web server to the app.

use crate::body::Body;
use crate::pairs::Pairs;
use std::rc::Rc;

/// Numbers a request of this front; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestNo(pub u64);

/// What a worker is given.
#[derive(Debug)]
pub struct Request {
    /// Its number.
    pub number: RequestNo,
    /// Its variables, as the app shall see them.
    pub environ: Rc<Pairs>,
    /// Its body.
    pub body: Body,
}

/// One of the two streams of text that an app writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
