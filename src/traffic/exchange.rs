//! `Exchange`: one request from its first byte, and its response to the last one.

use super::connection::ConnNo;
use super::file::FilePart;
use super::lines::Lines;
use super::output::Access;
use super::settings::Settings;
use crate::body::Body;
use crate::environ::describe;
use crate::failure::Failure;
use crate::pairs::Pairs;
use crate::proto::RequestId;
use crate::request::{Request, RequestNo, Stream};
use crate::response::ResponseHead;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// Where the request stands.
///
/// ```text
/// Receiving ─its body is complete─▶ Waiting ─the worker is done─▶ gone, or Sending (a file) ─sent─▶ gone
/// ```
#[derive(Debug)]
enum Phase {
    /// Its body comes in.
    Receiving(Body),
    /// It is with the workers: in their queue, or running.
    Waiting,
    /// The worker is done; a file of the response is still being sent.
    Sending,
}

/// What of the response has gone out.
///
/// ```text
/// Owed ─head─▶ Begun ─all of the body, or the end─▶ Done          any ─aborted, the web server has gone─▶ Done
/// ```
#[derive(Debug)]
enum Answer {
    /// Nothing.
    Owed,
    /// The head. So many more bytes of body may follow (None: any number), and a file may be the rest of them.
    Begun {
        left: Option<u64>,
        file: Option<FilePart>,
    },
    /// All of it, or nobody is there to take it.
    Done,
}

/// How far the response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing has gone out.
    Owed,
    /// Some of the announced bytes have not gone out.
    Partial,
    /// A file is being sent.
    Sending,
    /// All but its end has gone out, as far as anybody knows.
    Whole,
    /// It is over.
    Done,
}

/// See above.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The connection and the id there; None when the answer is over, or the web server has gone.
    client: Option<(ConnNo, RequestId)>,
    /// The variables: as sent while receiving, then as the app sees them.
    environ: Rc<Pairs>,
    phase: Phase,
    answer: Answer,
    began: Instant,
    /// Bytes of the request's body that came.
    received: u64,
    /// The response has no body (HEAD).
    head_only: bool,
    stdout: Lines,
    stderr: Lines,
    /// The head that was sent, kept for the access log.
    head: Option<ResponseHead>,
    /// Bytes of the response's body.
    sent: u64,
    /// Its worker was asked to wait.
    held: bool,
}

impl Exchange {
    /// A request whose variables have just come in.
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
        }
    }

    /// A piece of its body, which may be `max` bytes long in all.
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
            _ => Failure::UnkeptBody(error.to_string()),
        })
    }

    /// Its body is complete: the request as the app shall see it.
    pub(super) fn complete(
        &mut self,
        number: RequestNo,
        settings: &Settings,
    ) -> Result<Request, Failure> {
        let mut body = match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Receiving(body) => body,
            Phase::Waiting | Phase::Sending => Body::default(),
        };
        // Cherokee sends it after the end of STDIN, where it is lost.
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
            .map_err(|error| Failure::UncutBody(error.to_string()))?;
        self.environ = Rc::new(settings.environ(&self.environ, length));
        let environ = self.environ.clone();
        Ok(Request {
            number,
            environ,
            body,
        })
    }

    /// The head goes out. Returns false when one has gone out before. `kept`: the access log wants it.
    pub(super) fn begin_answer(&mut self, head: &ResponseHead, kept: bool) -> bool {
        if self.progress() != Progress::Owed {
            return false;
        }
        let bodiless = self.head_only || !head.allows_body(b"GET");
        let left = match bodiless {
            true => Some(0),
            false => head.content_length(),
        };
        self.answer = Answer::Begun { left, file: None };
        self.head = kept.then(|| head.clone());
        true
    }

    /// So many bytes of body are to go out. Returns how many do, as nothing beyond the announced length is sent, and whether
    /// the response is complete with them, whatever the app still does.
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

    /// The rest of the response is a file. Returns false when no body may follow.
    pub(super) fn attach(&mut self, rest: File, offset: u64, length: u64) -> bool {
        match &mut self.answer {
            Answer::Begun { left: Some(0), .. } | Answer::Owed | Answer::Done => false,
            Answer::Begun { file, .. } => {
                *file = Some(FilePart::new(rest, offset, length));
                true
            }
        }
    }

    /// The next piece of the file, and whether it is the last one. None: no file is being sent.
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

    /// Text that the app wrote, as lines. `last`: no more of it follows.
    pub(super) fn lines(&mut self, stream: Stream, bytes: &[u8], last: bool) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let text = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        text.push(bytes, last, |line| lines.push(line.to_vec()));
        lines
    }

    /// The worker is done with it.
    pub(super) fn leave_worker(&mut self) {
        self.phase = Phase::Sending;
    }

    /// The response is over. Returns where it went, unless nobody was there to take it.
    pub(super) fn finish(&mut self) -> Option<(ConnNo, RequestId)> {
        self.answer = Answer::Done;
        self.client.take()
    }

    /// For the access log.
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

    /// Its worker is to wait, or to go on. Returns whether that is news to one.
    pub(super) fn hold(&mut self, held: bool) -> bool {
        self.is_waiting() && std::mem::replace(&mut self.held, held) != held
    }

    /// From now on logs see these variables.
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

    /// Its body is coming in.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Receiving(_))
    }

    /// It is with the workers.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    /// Its worker was asked to wait.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    pub(super) fn client(&self) -> Option<(ConnNo, RequestId)> {
        self.client
    }

    pub(super) fn environ(&self) -> &Rc<Pairs> {
        &self.environ
    }

    /// In one line, for logs.
    pub(super) fn describe(&self) -> String {
        describe(&self.environ)
    }

    /// The form of page that the visitor asks for.
    pub(super) fn accept(&self) -> Option<&[u8]> {
        self.environ.get(b"HTTP_ACCEPT")
    }
}
