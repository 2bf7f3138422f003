//! `Failure`: why a request fails, with the HTTP status, the counts and the log message that follow from it.

use crate::bytes::fnv;
use crate::codes::{Code, place, request};
use crate::config::limits::LEAST;
use crate::pairs::Pairs;
use crate::reason::Reason;
use crate::status::Count;
use std::fmt;

/// The first line of a reason, which states cause and cure. Later lines are detail, such as a traceback.
pub fn first_line(reason: &str) -> &str {
    reason.trim().lines().next().unwrap_or_default().trim_end()
}

/// An exception of the app as the worker reported it. Its text may contain data that a visitor sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// Its class without the module, or a name for what the framework refused (see `DISALLOWED_HOST`).
    pub kind: String,
    /// Its message, in one line.
    pub summary: String,
    /// Where in the owner's code: `shop/views.py:12 in basket`; empty if unknown.
    pub place: String,
    /// How to fix it; empty if unknown.
    pub hint: String,
    /// Its traceback; may be empty.
    pub traceback: String,
}

/// The `Exception::kind` of a request whose host is not in Django's ALLOWED_HOSTS.
pub const DISALLOWED_HOST: &str = "DisallowedHost";

impl Exception {
    /// Decodes the pairs of an EXCEPTION or CAUGHT frame. Missing fields are empty.
    pub fn from_wire(reported: &Pairs) -> Exception {
        let get = |name: &[u8]| {
            let value = reported.get(name).unwrap_or_default();
            String::from_utf8_lossy(value).trim_end().to_owned()
        };
        Exception {
            kind: get(b"kind"),
            summary: get(b"summary"),
            place: get(b"place"),
            hint: get(b"hint"),
            traceback: get(b"traceback"),
        }
    }
}

/// Why a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The codec rejected it, with this status and for this reason.
    Rejected(u16, String),
    /// This many requests are in progress, which is the limit.
    TooManyRequests(usize),
    /// A chunked upload that the web server does not pass on (Cherokee sends it after the end of STDIN).
    ChunkedUpload,
    /// The body is shorter than its CONTENT_LENGTH.
    ShortBody,
    /// The body is longer than this many bytes.
    LongBody(u64),
    /// The body is longer than this many bytes, the budget of all that is kept on disk.
    BodyOverSpool(u64),
    /// There is no room on disk for the body now, for this reason.
    SpoolFull(String),
    /// The body exceeds the account's file size limit (RLIMIT_FSIZE).
    BodyOverLimit(String),
    /// The body cannot be written to its temporary file.
    BodyNotStored(String),
    /// The body cannot be truncated to CONTENT_LENGTH.
    BodyNotTruncated(String),
    /// No data of the body was received for this many seconds.
    StalledBody(u64),
    /// Its body was received at less than this many bytes a second.
    SlowBody(u64),
    /// The app cannot be run.
    Unavailable(String),
    /// The process may have so many descriptors, which are too few to run the app.
    FewDescriptors(u64),
    /// This many requests fill the queue.
    QueueFull(usize),
    /// No worker was free for this many seconds.
    QueueTimeout(u64),
    /// No worker was free for this many seconds, and no more can be started for this reason.
    NoMoreWorkers(u64, String),
    /// It ran for this many seconds, the limit.
    RequestTimeout(u64),
    /// Its reader has taken nothing for this many seconds, there is no room on disk, and others wait for its worker.
    NotRead(u64),
    /// No worker could be started.
    NoWorker,
    /// Its worker is gone, for this reason; its process id.
    WorkerLost(String, i32),
    /// The app raised an exception.
    Exception(Box<Exception>),
    /// The app or its framework caught an exception and responded with this status.
    Caught(u16, Box<Exception>),
    /// The app responded with this status and reason phrase and reported no exception.
    Unexplained(u16, String),
    /// The app returned without a response.
    NoResponse,
    /// The app's status or header fields cannot be sent.
    BadResponse(String),
    /// This many bytes of a file that the app sends cannot be read, for this reason.
    FileEnded(u64, String),
}

impl Failure {
    /// The HTTP status of the response.
    pub fn status(&self) -> u16 {
        use Failure::*;
        match self {
            Rejected(status, _) | Caught(status, _) | Unexplained(status, _) => *status,
            ShortBody => 400,
            StalledBody(_) | SlowBody(_) => 408,
            ChunkedUpload => 411,
            LongBody(_) | BodyOverSpool(_) | BodyOverLimit(_) => 413,
            BodyNotTruncated(_) | Unavailable(_) | WorkerLost(..) | Exception(_) | NoResponse
            | BadResponse(_) | FileEnded(..) => 500,
            TooManyRequests(_) | SpoolFull(_) | BodyNotStored(_) | FewDescriptors(_)
            | QueueFull(_) | NotRead(_) | QueueTimeout(_) | NoMoreWorkers(..) | NoWorker => 503,
            RequestTimeout(_) => 504,
        }
    }

    /// The code under which it is documented.
    pub fn code(&self) -> Code {
        use Failure::*;
        match self {
            Rejected(..) => request::BAD_REQUEST,
            TooManyRequests(_) => request::TOO_MANY_REQUESTS,
            ChunkedUpload => request::CHUNKED_UPLOAD,
            ShortBody => request::SHORT_BODY,
            LongBody(_) | BodyOverSpool(_) => request::LONG_BODY,
            SpoolFull(_) | NotRead(_) => request::SPOOL_FULL,
            BodyOverLimit(_) => request::BODY_OVER_LIMIT,
            BodyNotStored(_) | BodyNotTruncated(_) => request::BODY_NOT_STORED,
            StalledBody(_) | SlowBody(_) => request::STALLED_BODY,
            Unavailable(_) => request::UNAVAILABLE,
            FewDescriptors(_) => place::FEW_DESCRIPTORS,
            QueueFull(_) => request::QUEUE_FULL,
            QueueTimeout(_) => request::QUEUE_TIMEOUT,
            RequestTimeout(_) => request::REQUEST_TIMEOUT,
            NoMoreWorkers(..) => request::NO_MORE_WORKERS,
            NoWorker => request::NO_WORKER,
            WorkerLost(..) => request::WORKER_LOST,
            Caught(_, exception) if exception.kind == DISALLOWED_HOST => request::DISALLOWED_HOST,
            Exception(_) => request::EXCEPTION,
            Caught(..) => request::CAUGHT,
            Unexplained(..) => request::UNEXPLAINED,
            NoResponse => request::NO_RESPONSE,
            BadResponse(_) => request::BAD_RESPONSE,
            FileEnded(..) => request::FILE_ENDED,
        }
    }

    /// The counters to increment.
    pub fn counts(&self) -> &'static [Count] {
        match self.status() {
            500.. if self.is_answered() => &[Count::Failed],
            503 => &[Count::Failed, Count::TurnedAway],
            504 => &[Count::Failed, Count::TimedOut],
            500.. => &[Count::Failed],
            _ => &[],
        }
    }

    /// Its kind in a word or two. The journal groups failures by kind and place.
    pub fn kind(&self) -> &str {
        use Failure::*;
        match self {
            Rejected(..) => "refused request",
            TooManyRequests(_) => "too many requests",
            ChunkedUpload => "chunked upload",
            ShortBody => "short body",
            LongBody(_) | BodyOverSpool(_) | BodyOverLimit(_) => "long body",
            SpoolFull(_) | NotRead(_) => "spool full",
            BodyNotStored(_) | BodyNotTruncated(_) => "body not kept",
            StalledBody(_) | SlowBody(_) => "stalled body",
            Unavailable(_) => "no app",
            FewDescriptors(_) => "few descriptors",
            QueueFull(_) => "queue full",
            QueueTimeout(_) => "queue timeout",
            RequestTimeout(_) => "request timeout",
            NoMoreWorkers(..) | NoWorker => "no worker",
            WorkerLost(..) => "worker lost",
            Exception(exception) | Caught(_, exception) => &exception.kind,
            Unexplained(..) => "unexplained",
            NoResponse => "no response",
            BadResponse(_) => "bad response",
            FileEnded(..) => "file ended",
        }
    }

    /// What the owner can do. `None` if the reason says so itself, or if the client is at fault.
    fn cure(&self) -> Option<&'static str> {
        use Failure::*;
        match self {
            Unavailable(_) | Exception(_) | NoMoreWorkers(..) => None,
            other => (other.status() >= 500).then(|| other.code().cure()),
        }
    }

    /// Whether the app sent a response itself, so that the visitor does not get our error page.
    pub fn is_answered(&self) -> bool {
        matches!(self, Failure::Caught(..) | Failure::Unexplained(..))
    }

    /// The app's exception, if one is known.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Failure::Exception(exception) | Failure::Caught(_, exception) => Some(exception),
            _ => None,
        }
    }

    /// The traceback, if there is one.
    pub fn detail(&self) -> Option<&str> {
        let traceback = self.exception().map(|exception| &*exception.traceback);
        traceback.filter(|traceback| !traceback.is_empty())
    }

    /// The reason in one line; of an exception its message, place and hint. Only for the owner, as an exception's message
    /// may contain secrets.
    pub fn headline(&self) -> String {
        let Some(exception) = self.exception() else {
            let reason = self.to_string();
            let first = first_line(&reason);
            return match self.cure() {
                Some(cure) => format!("{first}; {cure}"),
                None => first.to_owned(),
            };
        };
        let mut text = exception.summary.clone();
        if !exception.place.is_empty() {
            text = format!("{text}, at {}", exception.place);
        }
        if !exception.hint.is_empty() {
            text = format!("{text}: {}", exception.hint);
        }
        text
    }

    /// The lines to print below the headline, such as a traceback; may be empty.
    pub fn body(&self) -> &str {
        let body = match self {
            Failure::Unavailable(reason) => reason.split_once('\n').map(|(_, more)| more),
            _ => self.detail(),
        };
        body.unwrap_or_default().trim_end()
    }

    /// The reason in its parts. Only for the owner.
    pub fn reason(&self) -> Reason {
        let Some(exception) = self.exception() else {
            let cure = self.cure().unwrap_or_default();
            return Reason::parse(&self.to_string()).with_cure(cure);
        };
        let place = match exception.place.as_str() {
            "" => String::new(),
            place => format!(" ({place})"),
        };
        Reason {
            what: exception.summary.clone() + &place,
            cure: exception.hint.clone(),
            more: exception.traceback.clone(),
        }
    }

    /// A hash to group failures by: equal for failures of one kind at one place whose headlines differ only in digits.
    pub fn fingerprint(&self) -> u64 {
        let place = self.exception().map_or("", |exception| &exception.place);
        fingerprint(&[self.kind(), place, &self.headline()])
    }
}

/// A hash of texts without their digits, so that messages that differ only in numbers count as the same.
pub fn fingerprint(texts: &[&str]) -> u64 {
    let bytes: Vec<u8> = texts.join("\n").into_bytes();
    let rest: Vec<u8> = bytes.into_iter().filter(|b| !b.is_ascii_digit()).collect();
    fnv(&rest)
}

/// The reason for the log, with the setting that limits.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Failure::*;
        match self {
            Rejected(_, reason) | Unavailable(reason) => f.write_str(reason),
            TooManyRequests(max) => write!(
                f,
                "too many requests: {max} are in progress ([limits] max_connections)"
            ),
            FewDescriptors(all) => write!(
                f,
                "RLIMIT_NOFILE allows {all} open files, and serving a request needs {LEAST}"
            ),
            ChunkedUpload => {
                f.write_str("a chunked upload, which this web server does not pass on")
            }
            ShortBody => f.write_str("the body is shorter than its CONTENT_LENGTH"),
            LongBody(max) => write!(f, "the body is longer than [limits] max_body ({max} bytes)"),
            BodyOverSpool(limit) => {
                write!(f, "the body is longer than [limits] spool ({limit} bytes)")
            }
            SpoolFull(why) => write!(f, "no room on disk for the body: {why}"),
            BodyOverLimit(why) => write!(
                f,
                "cannot store the body: {why} (RLIMIT_FSIZE, `ulimit -f`)"
            ),
            BodyNotStored(why) => write!(f, "cannot store the body: {why}"),
            BodyNotTruncated(why) => {
                write!(f, "cannot truncate the body to its CONTENT_LENGTH: {why}")
            }
            StalledBody(seconds) => write!(
                f,
                "no data of its body was received for {seconds} s ([limits] read_timeout)"
            ),
            SlowBody(rate) => write!(
                f,
                "its body was received at less than {rate} bytes/s ([limits] min_rate)"
            ),
            QueueFull(waiting) => {
                write!(f, "the queue is full: {waiting} requests ([limits] queue)")
            }
            QueueTimeout(seconds) => write!(
                f,
                "no worker was free for {seconds} s ([limits] queue_timeout)"
            ),
            NoMoreWorkers(seconds, why) => {
                write!(f, "no worker was free for {seconds} s: {why}")
            }
            RequestTimeout(seconds) => write!(
                f,
                "it ran for {seconds} s ([limits] request_timeout); its worker is killed"
            ),
            NotRead(seconds) => write!(
                f,
                "its reader has taken nothing for {seconds} s, there is no room on disk for the rest, and other requests wait \
                 for its worker"
            ),
            NoWorker => f.write_str("no worker could be started for it"),
            WorkerLost(reason, pid) => write!(f, "{reason} (pid {pid})"),
            Exception(_) | Caught(..) => f.write_str("the app raised an exception"),
            Unexplained(status, reason) => write!(
                f,
                "the app answered {status} {reason} and reported no exception"
            ),
            NoResponse => f.write_str("the app returned no response"),
            BadResponse(why) => write!(f, "the app's response was refused: {why}"),
            FileEnded(left, why) => write!(f, "{left} bytes of a file are missing: {why}"),
        }
    }
}
