//! `Request`: one request from its first byte to its last answer.

use super::connection::ConnNo;
use crate::body::Body;
use crate::pairs::Pairs;
use crate::proto::RequestId;
use crate::response::ResponseHead;
use crate::worker::pool::SlotNo;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Where a request stands.
///
/// ```text
/// Receiving ─body complete─▶ Queued ─free slot─▶ Running ─END─▶ gone, or Sending (a file) ─sent─▶ gone
///                              ▲──worker never started──┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The body comes in.
    Receiving,
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Running(SlotNo),
    /// The worker is done; a file of the answer is still being sent.
    Sending,
}

/// What of the answer has gone out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    Owed,
    /// The head; so many more bytes of body may follow (None: any number).
    Begun(Option<u64>),
    /// All of it, or nobody is there to take it.
    Done,
}

/// A file that is the rest of an answer.
#[derive(Debug)]
pub(super) struct FilePiece {
    /// The app's file.
    pub file: File,
    /// Where to go on.
    pub offset: u64,
    /// Bytes still to send.
    pub left: u64,
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// Its connection; None when the web server has gone.
    pub conn: Option<ConnNo>,
    /// Its id there.
    pub id: RequestId,
    /// Its variables: as sent while receiving, then as the app sees them.
    pub environ: Pairs,
    /// Its body.
    pub body: Body,
    /// Where it stands.
    pub phase: Phase,
    /// What has gone out.
    pub answer: Answer,
    /// When it began.
    pub began: Instant,
    /// Last time a byte of it came.
    pub last_in: Instant,
    /// Bytes of its body that came; the body itself goes once the worker is done.
    pub received: u64,
    /// When it was put into the queue, or given to a worker.
    pub since: Instant,
    /// Its stack was logged already.
    pub slow_logged: bool,
    /// Its answer has no body (HEAD).
    pub head_only: bool,
    /// Of the app's standard error, what is not a whole line yet.
    pub errors: Vec<u8>,
    /// The same of its standard output.
    pub output: Vec<u8>,
    /// The rest of the answer.
    pub file: Option<FilePiece>,
    /// The head that was sent, kept for the access log.
    pub head: Option<ResponseHead>,
    /// Bytes of body sent.
    pub sent: u64,
    /// Workers that ended before they started on it.
    pub false_starts: u32,
}

impl Request {
    /// A request whose variables have just come in.
    pub(super) fn new(conn: ConnNo, id: RequestId, environ: Pairs, now: Instant) -> Request {
        let head_only = environ.get(b"REQUEST_METHOD") == Some(b"HEAD");
        Request {
            conn: Some(conn),
            id,
            environ,
            body: Body::default(),
            phase: Phase::Receiving,
            answer: Answer::Owed,
            began: now,
            last_in: now,
            received: 0,
            since: now,
            slow_logged: false,
            head_only,
            errors: Vec::new(),
            output: Vec::new(),
            file: None,
            head: None,
            sent: 0,
            false_starts: 0,
        }
    }
}

impl FilePiece {
    /// Reads the next piece into `buffer`; empty at the end of the file. An error ends the answer.
    pub(super) fn next<'a>(&mut self, buffer: &'a mut [u8]) -> std::io::Result<&'a [u8]> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += got as u64;
        self.left -= got as u64;
        Ok(&buffer[..got])
    }
}
