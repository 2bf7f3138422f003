//! `Exchange`: one request and its response, from the request's first byte to the response's last.

use super::connection::ConnNo;
use super::file::FilePart;
use super::lines::Lines;
use super::output::Access;
use super::rest::Rest;
use super::settings::Settings;
use super::tracebacks::Tracebacks;
use crate::body::Body;
use crate::environ::describe;
use crate::failure::{Exception, Failure};
use crate::pages::Page;
use crate::pairs::Pairs;
use crate::proto::RequestId;
use crate::reason::Reason;
use crate::request::{Request, RequestNo, Stream};
use crate::response::{INCIDENT, ResponseHead};
use crate::spool::{Full, Spool};
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// The connection that a request came on, and its id there.
pub(super) type Client = (ConnNo, RequestId);

/// The state of the request.
///
/// ```text
/// Receiving ─body complete─▶ Waiting ─worker done─▶ gone, or Sending (the rest) ─sent─▶ gone
/// ```
#[derive(Debug)]
enum Phase {
    /// The body is being received.
    Receiving(Body),
    /// The request is with the workers, queued or running.
    Waiting,
    /// The worker is done, but not all of the response is sent.
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
    /// The head. Up to `left` more bytes of body may follow (`None`: any number); the first of them are `rest`.
    Begun {
        left: Option<u64>,
        rest: Option<Box<Rest>>,
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
    /// The rest is being sent: what was set aside, or a file.
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
    pub(super) fn receive(&mut self, bytes: &[u8], max: u64, spool: &Spool) -> Result<(), Failure> {
        let Phase::Receiving(body) = &mut self.phase else {
            return Ok(());
        };
        self.received += bytes.len() as u64;
        if body.length() + bytes.len() as u64 > max {
            return Err(Failure::LongBody(max));
        }
        let environ = &self.environ;
        body.push(bytes, spool).map_err(|full| match full {
            Full::Never(limit) => Failure::BodyOverSpool(limit),
            Full::Now(_) if declared_length(environ) > Some(spool.largest()) => {
                Failure::BodyOverSpool(spool.largest())
            }
            Full::Now(_) | Full::Files(_) | Full::Disk(..) => Failure::SpoolFull(full.to_string()),
            Full::System(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Failure::BodyOverLimit(error.to_string())
            }
            Full::System(error) => Failure::BodyNotStored(error.to_string()),
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
        let length = declared_length(&self.environ).unwrap_or(body.length());
        if length > body.length() {
            return Err(Failure::ShortBody);
        }
        body.truncate(length)
            .map_err(|error| Failure::BodyNotTruncated(error.to_string()))?;
        let environ = settings.environ(&self.environ, length);
        *Rc::make_mut(&mut self.environ) = environ;
        let environ = self.environ.clone();
        Ok(Request {
            number,
            source: self.client.map_or(0, |(conn, _)| conn.0),
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
        self.answer = Answer::Begun { left, rest: None };
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

    /// Sets a piece of the body aside until the client has taken what came before. Returns why there is no room for it, if
    /// that is news.
    pub(super) fn set_aside(&mut self, bytes: &[u8], spool: &Spool) -> Option<Full> {
        let Answer::Begun { left, rest } = &mut self.answer else {
            return None;
        };
        let before = rest.as_ref().map_or(0, |rest| rest.set_aside());
        let fits = left.map_or(bytes.len(), |left| {
            let left = usize::try_from(left.saturating_sub(before));
            left.map_or(bytes.len(), |left| left.min(bytes.len()))
        });
        match fits {
            0 => None,
            fits => rest.get_or_insert_default().push(&bytes[..fits], spool),
        }
    }

    /// Makes a file the end of the response. Returns false if no body may follow.
    pub(super) fn attach(&mut self, end: File, offset: u64, length: u64) -> bool {
        match &mut self.answer {
            Answer::Begun { left: Some(0), .. } | Answer::Owed | Answer::Done => false,
            Answer::Begun { rest, .. } => {
                let end = FilePart::new(end, offset, length);
                rest.get_or_insert_default().attach(end);
                true
            }
        }
    }

    /// Takes the next piece of the rest. Returns its length and whether it is the last; `None` if there is no rest.
    pub(super) fn next_piece(
        &mut self,
        buffer: &mut [u8],
    ) -> Option<Result<(usize, bool), Failure>> {
        let Answer::Begun { rest, .. } = &mut self.answer else {
            return None;
        };
        let part = rest.as_mut()?;
        let piece = part.next(buffer).map(|length| (length, part.is_empty()));
        if !matches!(piece, Ok((_, false))) {
            *rest = None;
        }
        Some(piece)
    }

    /// Sets aside what had no room, if there is some now. Whether the worker need not pause.
    pub(super) fn settle(&mut self, spool: &Spool) -> bool {
        match &mut self.answer {
            Answer::Begun {
                rest: Some(rest), ..
            } => rest.settle(spool),
            _ => true,
        }
    }

    /// Whether not all that was set aside has room, so that the worker must pause.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(&self.answer, Answer::Begun { rest: Some(rest), .. } if rest.is_stuck())
    }

    /// The complete lines of the app's text so far, each as the log has it and as it was written. With `last`, no more text
    /// follows.
    pub(super) fn lines(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        last: bool,
    ) -> Vec<(String, Vec<u8>)> {
        let mut lines = Vec::new();
        let text = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        text.push(bytes, last, |line| lines.push(line.to_vec()));
        if stream == Stream::Stderr {
            lines.iter().for_each(|line| self.tracebacks.push(line));
        }
        let lines = lines.into_iter().map(|line| {
            let said = String::from_utf8_lossy(&line);
            (format!("{}: {}", self.describe(), said.trim_end()), line)
        });
        lines.collect()
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

    /// The failure behind a response of the app with this head, if the app caught an exception or responds with status 500.
    pub(super) fn failure_behind(&mut self, head: &ResponseHead) -> Option<Failure> {
        match self.take_caught() {
            Some(exception) => Some(Failure::Caught(head.status, exception)),
            None if head.status == 500 => {
                let reason = String::from_utf8_lossy(&head.reason).into_owned();
                Some(Failure::Unexplained(head.status, reason))
            }
            None => None,
        }
    }

    /// The error page for this request.
    pub(super) fn page(
        &self,
        status: u16,
        incident: &str,
        reason: Option<&Reason>,
    ) -> (ResponseHead, Vec<u8>) {
        let page = Page {
            incident: Some(incident),
            reason,
            again: self.environ.get(b"REQUEST_METHOD") == Some(b"GET"),
            ..Page::new(status)
        };
        page.render(self.accept())
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
            Answer::Begun { rest: Some(_), .. } => Progress::Sending,
            Answer::Begun {
                left: Some(1..), ..
            } => Progress::Partial,
            Answer::Begun { .. } => Progress::Whole,
            Answer::Done => Progress::Done,
        }
    }

    /// The memory, in bytes, that it takes while it is coming in.
    pub(super) fn held(&self) -> usize {
        match &self.phase {
            Phase::Receiving(body) => self.environ.as_bytes().len() + body.held(),
            Phase::Waiting | Phase::Sending => 0,
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

/// The length of the body that the client has announced.
fn declared_length(environ: &Pairs) -> Option<u64> {
    let declared = environ.get(b"CONTENT_LENGTH")?;
    std::str::from_utf8(declared).ok()?.parse().ok()
}
