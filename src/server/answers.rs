//! What goes out: a worker's frames, or a page of our own, as an answer on the request's connection.

use super::Server;
use super::connection::{ConnNo, Connection, Stage};
use super::request::{Answer, FilePiece, Phase, Request};
use crate::access_log::Record;
use crate::environ::describe;
use crate::failure::Failure;
use crate::log::Level;
use crate::pages::Page;
use crate::proto::Part;
use crate::request::RequestNo;
use crate::response::ResponseHead;
use crate::worker::pool::Stream;
use std::fs::File;
use std::time::Instant;

/// A line of the app's output that is longer is broken.
const LINE: usize = 4000;

impl Server {
    /// The answer's head, from the worker.
    pub(super) fn on_head(&mut self, number: RequestNo, payload: &[u8], now: Instant) {
        let mut head = match ResponseHead::from_wire(payload) {
            Ok(head) => head,
            Err(error) => {
                self.fail(number, Failure::BadResponse(error.to_string()), now);
                return;
            }
        };
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        head.settle_location(&request.environ);
        for warning in head.warnings() {
            let text = format!("{}: {warning}", describe(&request.environ));
            self.log
                .event(std::time::SystemTime::now(), Level::Warning, &text);
        }
        self.put_head(number, &head);
    }

    pub(super) fn put_head(&mut self, number: RequestNo, head: &ResponseHead) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        if request.answer != Answer::Owed {
            return;
        }
        self.report.answered(head.status);
        let bodiless = request.head_only || !head.allows_body(b"GET");
        request.answer = Answer::Begun(if bodiless {
            Some(0)
        } else {
            head.content_length()
        });
        request.head = self.access.is_some().then(|| head.clone());
        if let Some(conn) = request.conn.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.codec
                .encode(request.id, Part::Head(head), conn.out.tail());
        }
    }

    /// A piece of the answer's body. What exceeds the announced length is dropped; with its last byte the answer is
    /// complete, whatever the app still does.
    pub(super) fn on_data(&mut self, number: RequestNo, bytes: &[u8], now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        let Answer::Begun(left) = &mut request.answer else {
            return;
        };
        let fits = left.map_or(bytes.len(), |left| {
            bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
        });
        let complete = left.as_mut().is_some_and(|left| {
            *left -= fits as u64;
            *left == 0 && fits > 0
        });
        request.sent += fits as u64;
        if let Some(conn_no) = request.conn
            && let Some(conn) = self.conns.get_mut(&conn_no)
        {
            conn.codec
                .encode(request.id, Part::Body(&bytes[..fits]), conn.out.tail());
            self.touched.push(conn_no);
        }
        if complete {
            self.end_answer(number, now);
        }
    }

    /// The rest of the answer is a file.
    pub(super) fn on_file(&mut self, number: RequestNo, file: File, offset: u64, length: u64) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        if matches!(request.answer, Answer::Begun(_)) {
            request.file = Some(FilePiece {
                file,
                offset,
                left: length,
            });
            self.touched.extend(request.conn);
        }
    }

    /// Text that the app wrote: to the log line by line, and to the web server's unless it has a file of its own.
    /// `whole`: no more of it follows.
    pub(super) fn on_text(&mut self, number: RequestNo, stream: Stream, bytes: &[u8], whole: bool) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        let (kept, level) = match stream {
            Stream::Stdout => (&mut request.output, Level::Output),
            Stream::Stderr => (&mut request.errors, Level::App),
        };
        let mut text = std::mem::take(kept);
        text.extend_from_slice(bytes);
        let mut done = 0;
        while done < text.len() {
            let newline = text[done..]
                .iter()
                .position(|b| *b == b'\n')
                .map(|at| at + 1);
            let take = match newline {
                Some(at) => at.min(LINE),
                None if text.len() - done >= LINE => LINE,
                None if whole => text.len() - done,
                None => break,
            };
            let mut line = text[done..done + take].to_vec();
            done += take;
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            let said = String::from_utf8_lossy(&line);
            let event = format!("{}: {}", describe(&request.environ), said.trim_end());
            self.log.event(std::time::SystemTime::now(), level, &event);
            if stream == Stream::Stderr {
                put_errors(&mut self.conns, request, &line);
            }
        }
        text.drain(..done);
        match stream {
            Stream::Stdout => request.output = text,
            Stream::Stderr => request.errors = text,
        }
    }

    /// The answer is complete.
    pub(super) fn end_answer(&mut self, number: RequestNo, now: Instant) {
        self.finish(number, true, now);
    }

    /// Nothing more of the answer follows: its last bytes are encoded, and the connection goes on or closes. `whole`: it
    /// was sent to its end.
    pub(super) fn finish(&mut self, number: RequestNo, whole: bool, now: Instant) {
        if self
            .requests
            .get(&number)
            .is_some_and(|request| request.conn.is_some())
        {
            self.log_access(number, whole, now);
        }
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.answer = Answer::Done;
        request.file = None;
        let phase = request.phase;
        let Some(conn_no) = request.conn.take() else {
            return;
        };
        let id = request.id;
        let Some(conn) = self.conns.get_mut(&conn_no) else {
            return;
        };
        conn.codec.encode(id, Part::End, conn.out.tail());
        conn.requests.retain(|(_, r)| *r != number);
        if conn.requests.is_empty() && !conn.codec.keep_alive() && conn.stage == Stage::Open {
            conn.stage = Stage::Closing;
        }
        self.touched.push(conn_no);
        if let Phase::Running(slot) = phase {
            // It may have been kept waiting while this connection was full.
            self.watch_slot(slot, true);
        }
    }

    /// A line for the access log. `whole`: the answer was sent to its end.
    pub(super) fn log_access(&mut self, number: RequestNo, whole: bool, now: Instant) {
        let (Some(access), Some(request)) = (&mut self.access, self.requests.get(&number)) else {
            return;
        };
        let took = now.saturating_duration_since(request.began);
        let time = std::time::SystemTime::now();
        let record = Record {
            request: &request.environ,
            head: request.head.as_ref(),
            body: request.sent,
            input: request.received,
            output: request.sent,
            time: time.checked_sub(took).unwrap_or(time),
            took,
            pid: std::process::id(),
            aborted: !whole,
        };
        let line = access.format.render(&record);
        let _ = access.file.append(time, line.as_bytes());
    }

    /// The answer cannot be completed, and must not look complete.
    pub(super) fn cut(&mut self, number: RequestNo, now: Instant) {
        let Some(conn_no) = self.requests.get(&number).and_then(|request| request.conn) else {
            return;
        };
        let alone = self
            .conns
            .get(&conn_no)
            .is_none_or(|conn| conn.requests.len() <= 1);
        if alone {
            self.log_access(number, false, now);
            if let Some(conn) = self.conns.get_mut(&conn_no) {
                let _ = conn.flush(now);
            }
            if let Some(request) = self.requests.get_mut(&number) {
                request.answer = Answer::Done;
                request.conn = None;
            }
            if let Some(conn) = self.conns.get_mut(&conn_no) {
                conn.requests.clear();
            }
            self.drop_conn(conn_no, now);
            if let Some(Phase::Running(slot)) = self.requests.get(&number).map(|r| r.phase) {
                self.tell_abort(slot);
            }
        } else {
            self.finish(number, false, now);
        }
    }

    /// A complete answer.
    pub(super) fn answer(
        &mut self,
        number: RequestNo,
        head: ResponseHead,
        body: &[u8],
        now: Instant,
    ) {
        self.put_head(number, &head);
        self.on_data(number, body, now);
        self.end_answer(number, now);
    }

    /// The request fails: the visitor gets a page with an incident id, the owner the reason under that id. An answer
    /// that has begun is cut.
    pub(super) fn fail(&mut self, number: RequestNo, failure: Failure, now: Instant) {
        let reason = &failure.to_string();
        let detail = failure.detail().map(str::trim_end);
        let incident = format!(
            "{:08x}",
            crate::bytes::fnv_more(self.seed, &number.0.to_le_bytes()) as u32
        );
        self.report_failure(number, &failure, &incident);
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        let text = match detail {
            Some(detail) => format!(
                "incident {incident}: {}: {reason}\n{detail}",
                describe(&request.environ)
            ),
            None => format!(
                "incident {incident}: {}: {reason}",
                describe(&request.environ)
            ),
        };
        self.note(Level::Error, &text);
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        put_errors(&mut self.conns, request, format!("{text}\n").as_bytes());
        match request.answer {
            Answer::Owed => {
                let shown = detail.unwrap_or(reason);
                let page = Page {
                    incident: Some(&incident),
                    detail: self.config.server.debug.then_some(shown),
                    ..Page::new(failure.status())
                };
                let (head, body) = page.render(request.environ.get(b"HTTP_ACCEPT"));
                self.answer(number, head, &body, now);
            }
            Answer::Begun(_) => self.cut(number, now),
            Answer::Done => (),
        }
    }
}

/// Text for the web server's error log, on the request's connection.
fn put_errors(
    conns: &mut std::collections::HashMap<ConnNo, Connection>,
    request: &Request,
    text: &[u8],
) {
    let conn = request.conn.and_then(|conn| conns.get_mut(&conn));
    // A web server that takes nothing must not make us keep all that an app writes.
    if let Some(conn) = conn.filter(|conn| !conn.is_full()) {
        conn.codec
            .encode(request.id, Part::Errors(text), conn.out.tail());
    }
}
