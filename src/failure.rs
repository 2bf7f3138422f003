//! `Failure`: why a request is answered with an error of our own: its status, how it is counted, what the log says.

use crate::status::Count;
use std::fmt;

/// Why a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The codec refused it, with this status and for this reason.
    Rejected(u16, String),
    /// This many requests are going on already.
    TooManyRequests(usize),
    /// A chunked upload that the web server does not pass on (Cherokee sends it after the end of STDIN).
    ChunkedUpload,
    /// The body is shorter than its CONTENT_LENGTH.
    ShortBody,
    /// The body is longer than this number of bytes.
    LongBody(u64),
    /// The body is longer than the file size that the account is allowed.
    BodyOverLimit(String),
    /// The body cannot be written to its file.
    UnkeptBody(String),
    /// What is beyond CONTENT_LENGTH cannot be dropped.
    UncutBody(String),
    /// Nothing of the body has come for so many seconds.
    StalledBody(u64),
    /// There is no app to serve it.
    Unavailable(String),
    /// So many requests wait already.
    QueueFull(usize),
    /// No worker was free for so many seconds.
    QueueTimeout(u64),
    /// It ran for so many seconds.
    RequestTimeout(u64),
    /// The workers that were to serve it ended before they started.
    NoWorker,
    /// Its worker is gone: why, and its process id.
    WorkerLost(&'static str, i32),
    /// The app raised an exception before its response began: the traceback.
    Exception(String),
    /// The app returned without a response.
    NoResponse,
    /// The app's status or header fields cannot be sent.
    BadResponse(String),
    /// So many bytes of a file that is the rest of the response cannot be read.
    FileEnded(u64, String),
}

impl Failure {
    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        use Failure::*;
        match self {
            Rejected(status, _) => *status,
            ShortBody => 400,
            StalledBody(_) => 408,
            ChunkedUpload => 411,
            LongBody(_) | BodyOverLimit(_) => 413,
            UncutBody(_) | Unavailable(_) | WorkerLost(..) | Exception(_) | NoResponse
            | BadResponse(_) | FileEnded(..) => 500,
            TooManyRequests(_) | UnkeptBody(_) | QueueFull(_) | QueueTimeout(_) | NoWorker => 503,
            RequestTimeout(_) => 504,
        }
    }

    /// Under what it is counted.
    pub fn counts(&self) -> &'static [Count] {
        match self.status() {
            503 => &[Count::Failed, Count::TurnedAway],
            504 => &[Count::Failed, Count::TimedOut],
            500.. => &[Count::Failed],
            _ => &[],
        }
    }

    /// More than the reason: a traceback.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Failure::Exception(traceback) => Some(traceback),
            _ => None,
        }
    }
}

/// The reason, for the log: what, and the setting that decides.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Failure::*;
        match self {
            Rejected(_, reason) | Unavailable(reason) => f.write_str(reason),
            TooManyRequests(max) => write!(
                f,
                "{max} requests are going on already ([limits] max_connections)"
            ),
            ChunkedUpload => {
                f.write_str("a chunked upload, which this web server does not pass on")
            }
            ShortBody => f.write_str("the body is shorter than its CONTENT_LENGTH"),
            LongBody(max) => write!(f, "the body is longer than [limits] max_body ({max} bytes)"),
            BodyOverLimit(why) => write!(
                f,
                "the body cannot be kept: {why} (RLIMIT_FSIZE, `ulimit -f`)"
            ),
            UnkeptBody(why) => write!(f, "the body cannot be kept: {why}"),
            UncutBody(why) => write!(f, "the body cannot be cut to its CONTENT_LENGTH: {why}"),
            StalledBody(seconds) => write!(
                f,
                "nothing of its body has come for {seconds} s ([limits] read_timeout)"
            ),
            QueueFull(waiting) => {
                write!(f, "{waiting} requests wait already ([limits] queue)")
            }
            QueueTimeout(seconds) => write!(
                f,
                "no worker was free for {seconds} s ([limits] queue_timeout)"
            ),
            RequestTimeout(seconds) => write!(
                f,
                "it ran for {seconds} s ([limits] request_timeout); its worker is ended"
            ),
            NoWorker => f.write_str("no worker could be started for it"),
            WorkerLost(reason, pid) => write!(f, "{reason} (pid {pid})"),
            Exception(_) => f.write_str("the app raised an exception"),
            NoResponse => f.write_str("the app ended without an answer"),
            BadResponse(why) => write!(f, "the app's response was refused: {why}"),
            FileEnded(left, why) => write!(f, "{left} bytes of a file are missing: {why}"),
        }
    }
}
