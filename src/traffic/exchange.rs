//! `Exchange`: one request and its response, from the request's first byte to the response's last.

use super::connection::ConnNo;
use super::file::FilePart;
use super::lines::Lines;
use super::output::Access;
use super::settings::Settings;
use super::tracebacks::Tracebacks;
use crate::body::Body;
use crate::environ::describe;
use crate::failure::{Exception, Failure};
use crate::pairs::Pairs;
use crate::proto::RequestId;
use crate::request::{Request, RequestNo, Stream};
use crate::response::{INCIDENT, ResponseHead};
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// The connection that a request came on, and its id there.
pub(super) type Client = (ConnNo, RequestId);

/// The state of the request.
///
/// ```text
/// Receiving ─body complete─▶ Waiting ─worker done─▶ gone, or Sending (a file) ─sent─▶ gone
/// ```
#[derive(Debug)]
enum Phase {
    /// The body is being received.
    Receiving(Body),
    /// The request is with the workers, queued or running.
    Waiting,
    /// The worker is done, but a file is still being sent.
    Sending,
}

/// The state of the response.
///
/// ```text
/// Owed ─head─▶ Begun ─whole body, or end─▶ Done          any ─aborted, or web server gone─▶ Done
/// ```
#[derive(Debug)]
enum Answer {
    /// Nothing.
    Owed,
    /// The head. Up to `left` more bytes of body may follow (`None`: any number), and `file` may be the rest of them.
    Begun {
        left: Option<u64>,
        file: Option<FilePart>,
    },
    /// Everything, or nobody is left to receive it.
    Done,
}

/// The progress of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing has been sent.
    Owed,
    /// Less than Content-Length has been sent.
    Partial,
    /// A file is being sent.
    Sending,
    /// The body may be complete: Content-Length has been reached, or there is none.
    Whole,
    /// The response has ended.
    Done,
}

/// A request and its response.
#[derive(Debug)]
pub(super) struct Exchange {
    /// `None` once the response has ended or the web server is gone.
    client: Option<Client>,
    /// The variables: as sent while receiving, later as the app sees them.
    environ: Rc<Pairs>,
    phase: Phase,
    answer: Answer,
    began: Instant,
    /// Bytes of the request's body that were received.
    received: u64,
    /// The response has no body (HEAD).
    head_only: bool,
    stdout: Lines,
    stderr: Lines,
    /// The response's head, for the access log.
    head: Option<ResponseHead>,
    /// Bytes of the response's body that were sent.
    sent: u64,
    /// The worker was told to pause.
    held: bool,
    /// The first exception that the app caught.
    caught: Option<Box<Exception>>,
    /// The exceptions that the app has shown in its log.
    tracebacks: Tracebacks,
}

impl Exchange {
    /// A request whose variables have just been received.
    pub(super) fn new(conn: ConnNo, id: RequestId, environ: Pairs, now: Instant) -> Exchange {
        Exchange {
            client: Some((conn, id)),
            head_only: environ.get(b"REQUEST_METHOD") == Some(b"HEAD"),
            environ: Rc::new(environ),
            phase: Phase::Receiving(Body::default()),
            answer: Answer::Owed,
            began: now,
            received: 0,
            stdout: Lines::default(),
            stderr: Lines::default(),
            head: None,
            sent: 0,
            held: false,
            caught: None,
            tracebacks: Tracebacks::default(),
        }
    }

    /// Adds a piece of the body, which may be at most `max` bytes long.
    pub(super) fn receive(&mut self, bytes: &[u8], max: u64) -> Result<(), Failure> {
        let Phase::Receiving(body) = &mut self.phase else {
            return Ok(());
        };
        self.received += bytes.len() as u64;
        if body.length() + bytes.len() as u64 > max {
            return Err(Failure::LongBody(max));
        }
        body.push(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => Failure::BodyOverLimit(error.to_string()),
            _ => Failure::BodyNotStored(error.to_string()),
        })
    }

    /// The body is complete. Returns the request as the app sees it.
    pub(super) fn complete(
        &mut self,
        number: RequestNo,
        settings: &Settings,
    ) -> Result<Request, Failure> {
        let mut body = match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Receiving(body) => body,
            Phase::Waiting | Phase::Sending => Body::default(),
        };
        // Cherokee sends a chunked body after the end of STDIN, where it is lost.
        let unframed = self.environ.get(b"CONTENT_TRANSFER_ENCODING") == Some(b"chunked");
        if unframed && body.length() == 0 {
            return Err(Failure::ChunkedUpload);
        }
        let declared = self.environ.get(b"CONTENT_LENGTH");
        let declared = declared.and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
        let length = declared.unwrap_or(body.length());
        if length > body.length() {
            return Err(Failure::ShortBody);
        }
        body.truncate(length)
            .map_err(|error| Failure::BodyNotTruncated(error.to_string()))?;
        self.environ = Rc::new(settings.environ(&self.environ, length));
        let environ = self.environ.clone();
        Ok(Request {
            number,
            environ,
            body,
        })
    }

    /// Starts the response. Returns false if it has been started before. `logged`: keep the head for the access log.
    pub(super) fn begin_answer(&mut self, head: &ResponseHead, logged: bool) -> bool {
        if self.progress() != Progress::Owed {
            return false;
        }
        let bodiless = self.head_only || !head.allows_body(b"GET");
        let left = match bodiless {
            true => Some(0),
            false => head.content_length(),
        };
        self.answer = Answer::Begun { left, file: None };
        self.head = logged.then(|| head.clone());
        true
    }

    /// Counts bytes of the body before they are sent. Returns how many to send, as nothing may exceed Content-Length, and
    /// whether they complete the response.
    pub(super) fn take_data(&mut self, length: usize) -> Option<(usize, bool)> {
        let Answer::Begun { left, .. } = &mut self.answer else {
            return None;
        };
        let fits = left.map_or(length, |left| {
            usize::try_from(left).map_or(length, |left| left.min(length))
        });
        let complete = left.as_mut().is_some_and(|left| {
            *left -= fits as u64;
            *left == 0 && fits > 0
        });
        self.sent += fits as u64;
        Some((fits, complete))
    }

    /// Makes a file the rest of the response. Returns false if no body may follow.
    pub(super) fn attach(&mut self, rest: File, offset: u64, length: u64) -> bool {
        match &mut self.answer {
            Answer::Begun { left: Some(0), .. } | Answer::Owed | Answer::Done => false,
            Answer::Begun { file, .. } => {
                *file = Some(FilePart::new(rest, offset, length));
                true
            }
        }
    }

    /// Reads the next piece of the file. Returns its length and whether it is the last; `None` if no file is being sent.
    pub(super) fn next_piece(
        &mut self,
        buffer: &mut [u8],
    ) -> Option<Result<(usize, bool), Failure>> {
        let Answer::Begun { file, .. } = &mut self.answer else {
            return None;
        };
        let part = file.as_mut()?;
        let piece = part.next(buffer).map(|length| (length, part.is_read()));
        if !matches!(piece, Ok((_, false))) {
            *file = None;
        }
        Some(piece)
    }

    /// The complete lines of the app's text so far. With `last`, no more text follows.
    pub(super) fn lines(&mut self, stream: Stream, bytes: &[u8], last: bool) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let text = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        text.push(bytes, last, |line| lines.push(line.to_vec()));
        if stream == Stream::Stderr {
            lines.iter().for_each(|line| self.tracebacks.push(line));
        }
        lines
    }

    /// Whether the app has written a traceback to its log that ends like this one.
    pub(super) fn has_shown(&self, traceback: &str) -> bool {
        self.tracebacks.has(traceback)
    }

    /// The app has caught an exception. Only the first is kept: it is why the request fails.
    pub(super) fn catch(&mut self, exception: Box<Exception>) {
        self.caught.get_or_insert(exception);
    }

    /// Takes the exception that the app has caught, so that it is reported once.
    pub(super) fn take_caught(&mut self) -> Option<Box<Exception>> {
        self.caught.take()
    }

    /// Adds the incident id to the head in the access log.
    pub(super) fn name_incident(&mut self, incident: &str) {
        if let Some(head) = &mut self.head {
            head.fields.push(INCIDENT, incident.as_bytes());
        }
    }

    /// The worker is done with the request.
    pub(super) fn leave_worker(&mut self) {
        self.phase = Phase::Sending;
    }

    /// Ends the response. Returns the client, if there still is one.
    pub(super) fn finish(&mut self) -> Option<Client> {
        self.answer = Answer::Done;
        self.client.take()
    }

    /// The entry for the access log.
    pub(super) fn access(&self, whole: bool, now: Instant) -> Access {
        Access {
            environ: self.environ.clone(),
            head: self.head.clone(),
            received: self.received,
            sent: self.sent,
            took: now.saturating_duration_since(self.began),
            whole,
        }
    }

    /// Notes that the worker must pause or may resume. Returns whether that changes anything.
    pub(super) fn hold(&mut self, held: bool) -> bool {
        self.is_waiting() && std::mem::replace(&mut self.held, held) != held
    }

    /// Replaces the variables by ones that may be logged.
    pub(super) fn redact(&mut self, environ: Rc<Pairs>) {
        self.environ = environ;
    }

    pub(super) fn progress(&self) -> Progress {
        match &self.answer {
            Answer::Owed => Progress::Owed,
            Answer::Begun { file: Some(_), .. } => Progress::Sending,
            Answer::Begun {
                left: Some(1..), ..
            } => Progress::Partial,
            Answer::Begun { .. } => Progress::Whole,
            Answer::Done => Progress::Done,
        }
    }

    /// Whether the body is being received.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Receiving(_))
    }

    /// Whether the request is with the workers.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    /// Whether the worker was told to pause.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.client
    }

    pub(super) fn environ(&self) -> &Rc<Pairs> {
        &self.environ
    }

    /// One line about the request, for logs.
    pub(super) fn describe(&self) -> String {
        describe(&self.environ)
    }

    /// The media types that the visitor accepts.
    pub(super) fn accept(&self) -> Option<&[u8]> {
        self.environ.get(b"HTTP_ACCEPT")
    }
}
