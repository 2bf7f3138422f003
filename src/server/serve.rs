//! Serving: from bytes on a connection to requests in the queue, and from a worker's frames to bytes again.

use super::connection::{ConnNo, Connection, Stage};
use super::listener::Accepted;
use super::request::{Answer, FilePiece, Phase, Request};
use super::{ACCEPTS, Server, Token};
use crate::access_log::Record;
use crate::environ::{describe, normalise};
use crate::log::Level;
use crate::pages::Page;
use crate::proto::{Codec, Eof, Event, Part, RequestId};
use crate::response::ResponseHead;
use crate::worker::pool::RequestNo;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long accepting pauses when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(500);
/// Reads of one connection in a turn, so that a fast sender does not keep the others waiting.
const READS: usize = 8;
/// A line of the app's output that is longer is broken.
const LINE: usize = 4000;
/// After an answer, how long the rest of a request is read before the connection is closed.
const DRAIN: Duration = Duration::from_secs(5);

impl Server {
    pub(super) fn on_listener(&mut self, number: usize, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(number) else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(socket) => {
                    self.last_accept = now;
                    let Some(codec) = self.codec(number) else {
                        return;
                    };
                    let conn = self.admit(socket, None, codec, number, now);
                    self.read(conn, now);
                }
                Accepted::Refused(peer) => self.note(
                    Level::Warning,
                    &format!("refused a connection from {peer}: not in FCGI_WEB_SERVER_ADDRS"),
                ),
                Accepted::Nobody | Accepted::Ended => return,
                Accepted::Exhausted(error) => {
                    self.note(Level::Warning, &format!("accepting pauses: {error}"));
                    self.accept_after = Some(now + EXHAUSTED_PAUSE);
                    self.due(now + EXHAUSTED_PAUSE);
                    let _ = self.listen();
                    return;
                }
            }
            if self.conns.len() >= self.config.limits.max_connections {
                let _ = self.listen();
                return;
            }
        }
    }

    /// A new connection.
    pub(super) fn admit(
        &mut self,
        input: OwnedFd,
        output: Option<OwnedFd>,
        codec: Box<dyn Codec>,
        endpoint: usize,
        now: Instant,
    ) -> ConnNo {
        self.last_conn += 1;
        let number = ConnNo(self.last_conn);
        let conn = Connection::new(input, output, codec, endpoint, now);
        self.conns.insert(number, conn);
        self.touched.push(number);
        number
    }

    pub(super) fn on_conn(&mut self, number: ConnNo, flags: EpollFlags, now: Instant) {
        let Some(conn) = self.conns.get(&number) else {
            return;
        };
        if conn.half_closed && flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.drop_conn(number, now);
            return;
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read(number, now);
        }
        self.touched.push(number);
    }

    /// Reads what a connection has, as far as a turn allows.
    pub(super) fn read(&mut self, number: ConnNo, now: Instant) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..READS {
            let Some(conn) = self.conns.get_mut(&number) else {
                break;
            };
            match conn.read(&mut scratch, now) {
                Ok(0) => {
                    self.on_eof(number, now);
                    break;
                }
                Ok(count) => {
                    if conn.stage != Stage::Draining {
                        self.decode(number, &scratch[..count], now);
                    }
                    if count < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.drop_conn(number, now);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    pub(super) fn decode(&mut self, number: ConnNo, mut input: &[u8], now: Instant) {
        loop {
            let Some(conn) = self.conns.get_mut(&number) else {
                return;
            };
            match conn.codec.decode(&mut input, &mut conn.out) {
                Ok(None) => return,
                Ok(Some(event)) => self.on_event(number, event, now),
                Err(error) => {
                    self.note(Level::Warning, &format!("a connection is closed: {error}"));
                    self.drop_conn(number, now);
                    return;
                }
            }
        }
    }

    fn on_event(&mut self, conn_no: ConnNo, event: Event<'_>, now: Instant) {
        match event {
            Event::Begin { id, environ } => {
                self.begin(conn_no, id, environ, now);
            }
            Event::Reject { id, status, reason } => {
                let number = self.begin(conn_no, id, crate::pairs::Pairs::new(), now);
                self.fail(number, status, &reason, None, now);
                self.forget(number);
            }
            Event::Body { id, bytes } => {
                let Some(number) = self.find(conn_no, id) else {
                    return;
                };
                let max = self.config.limits.max_body;
                let Some(request) = self.requests.get_mut(&number) else {
                    return;
                };
                if request.body.len() + bytes.len() as u64 > max {
                    self.fail(
                        number,
                        413,
                        &format!("the body is longer than [limits] max_body ({max} bytes)"),
                        None,
                        now,
                    );
                    self.forget(number);
                } else if let Err(error) = request.body.push(bytes) {
                    self.fail(
                        number,
                        503,
                        &format!("the body cannot be kept: {error}"),
                        None,
                        now,
                    );
                    self.forget(number);
                }
            }
            Event::BodyEnd { id } => {
                if let Some(number) = self.find(conn_no, id) {
                    self.enqueue(number, now);
                }
            }
            Event::Abort { id } => {
                if let Some(number) = self.find(conn_no, id) {
                    self.end_answer(number, now);
                    self.abandon(number);
                }
            }
        }
    }

    fn begin(
        &mut self,
        conn_no: ConnNo,
        id: RequestId,
        environ: crate::pairs::Pairs,
        now: Instant,
    ) -> RequestNo {
        self.last_request += 1;
        let number = RequestNo(self.last_request);
        self.requests
            .insert(number, Request::new(conn_no, id, environ, now));
        if let Some(conn) = self.conns.get_mut(&conn_no) {
            conn.requests.push((id, number));
        }
        number
    }

    fn find(&self, conn_no: ConnNo, id: RequestId) -> Option<RequestNo> {
        let conn = self.conns.get(&conn_no)?;
        conn.requests
            .iter()
            .find(|(i, _)| *i == id)
            .map(|(_, number)| *number)
    }

    /// The request is complete: what the app will see is worked out, and it waits for a worker.
    fn enqueue(&mut self, number: RequestNo, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        let declared = request
            .environ
            .get(b"CONTENT_LENGTH")
            .and_then(|v| std::str::from_utf8(v).ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > request.body.len()) {
            self.fail(
                number,
                400,
                "the body is shorter than its CONTENT_LENGTH",
                None,
                now,
            );
            self.forget(number);
            return;
        }
        let length = declared.unwrap_or(request.body.len());
        request.environ = normalise(&request.environ, &self.mount, length);
        if self.answers_itself(number, now) {
            self.forget(number);
            return;
        }
        if let Some(reason) = self.hopeless() {
            self.fail(number, 500, &reason, None, now);
            self.forget(number);
            return;
        }
        if self.queue.len() >= self.config.limits.queue && self.pool.pick().is_none() {
            let reason = format!(
                "{} requests wait already ([limits] queue)",
                self.queue.len()
            );
            self.fail(number, 503, &reason, None, now);
            self.forget(number);
            return;
        }
        if let Some(request) = self.requests.get_mut(&number) {
            request.phase = Phase::Queued;
            request.since = now;
        }
        self.queue.push_back(number);
    }

    /// The page that the front answers by itself.
    fn answers_itself(&mut self, number: RequestNo, now: Instant) -> bool {
        let Some(ping) = self.config.server.ping.as_deref() else {
            return false;
        };
        let Some(request) = self.requests.get(&number) else {
            return false;
        };
        let path = |name: &[u8]| request.environ.get(name).unwrap_or_default().to_vec();
        if [path(b"SCRIPT_NAME"), path(b"PATH_INFO")].concat() != ping.as_bytes() {
            return false;
        }
        let head = ResponseHead::from_wire(
            b"200 OK\0Content-Type\0text/plain\0Content-Length\x005\0Cache-Control\0no-store\0",
        );
        if let Ok(head) = head {
            self.answer(number, head, b"pong\n", now);
        }
        true
    }

    fn on_eof(&mut self, number: ConnNo, now: Instant) {
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        if conn.stage == Stage::Draining {
            self.drop_conn(number, now);
            return;
        }
        match conn.codec.eof() {
            Eof::HalfClosed => conn.half_closed = true,
            Eof::Clean if conn.waiting() > 0 => {
                conn.half_closed = true;
                conn.stage = Stage::Closing;
            }
            Eof::Clean | Eof::Abort(_) => self.drop_conn(number, now),
        }
    }

    /// The connection is gone, and nobody waits for its requests.
    pub(super) fn drop_conn(&mut self, number: ConnNo, now: Instant) {
        let Some(conn) = self.conns.remove(&number) else {
            return;
        };
        for (_, request) in &conn.requests {
            self.log_access(*request, false, now);
            if let Some(found) = self.requests.get_mut(request) {
                found.conn = None;
                found.answer = Answer::Done;
                found.since = found.since.min(now);
            }
            self.abandon(*request);
        }
        if !conn.requests.is_empty() || self.accept_after.is_none() {
            let _ = self.listen();
        }
    }

    /// Nobody waits for the request's answer any more: it is forgotten, or its worker is told.
    fn abandon(&mut self, number: RequestNo) {
        match self.requests.get(&number).map(|request| request.phase) {
            Some(Phase::Running(slot)) => self.tell_abort(slot),
            _ => self.forget(number),
        }
    }

    pub(super) fn forget(&mut self, number: RequestNo) {
        if let Some(request) = self.requests.remove(&number)
            && request.phase == Phase::Queued
        {
            self.queue.retain(|queued| *queued != number);
        }
    }

    /// The answer's head, from the worker.
    pub(super) fn on_head(&mut self, number: RequestNo, payload: &[u8], now: Instant) {
        let mut head = match ResponseHead::from_wire(payload) {
            Ok(head) => head,
            Err(error) => {
                self.fail(
                    number,
                    500,
                    &format!("the app's response was refused: {error}"),
                    None,
                    now,
                );
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

    fn put_head(&mut self, number: RequestNo, head: &ResponseHead) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        if request.answer != Answer::Owed {
            return;
        }
        let bodiless = request.head_only || !head.allows_body(b"GET");
        request.answer = Answer::Begun(if bodiless {
            Some(0)
        } else {
            head.content_length()
        });
        request.head = self.access.is_some().then(|| head.clone());
        if let Some(conn) = request.conn.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.codec
                .encode(request.id, Part::Head(head), &mut conn.out);
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
                .encode(request.id, Part::Body(&bytes[..fits]), &mut conn.out);
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

    /// Text that the app wrote: to the log line by line, and to the web server's.
    pub(super) fn on_text(&mut self, number: RequestNo, bytes: &[u8], whole: bool) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.text.extend_from_slice(bytes);
        while !request.text.is_empty() {
            let newline = request
                .text
                .iter()
                .position(|b| *b == b'\n')
                .map(|at| at + 1);
            let take = match newline {
                Some(at) => at.min(LINE),
                None if request.text.len() >= LINE => LINE,
                None if whole => request.text.len(),
                None => return,
            };
            let mut line: Vec<u8> = request.text.drain(..take).collect();
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            let shown = String::from_utf8_lossy(&line);
            self.log
                .event(std::time::SystemTime::now(), Level::App, shown.trim_end());
            put_errors(&mut self.conns, request, &line);
        }
    }

    /// The answer is complete: its last bytes are encoded, and the connection goes on or closes.
    pub(super) fn end_answer(&mut self, number: RequestNo, now: Instant) {
        if self
            .requests
            .get(&number)
            .is_some_and(|request| request.conn.is_some())
        {
            self.log_access(number, true, now);
        }
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.answer = Answer::Done;
        request.file = None;
        let Some(conn_no) = request.conn.take() else {
            return;
        };
        let id = request.id;
        let Some(conn) = self.conns.get_mut(&conn_no) else {
            return;
        };
        conn.codec.encode(id, Part::End, &mut conn.out);
        conn.requests.retain(|(_, r)| *r != number);
        if conn.requests.is_empty() && !conn.codec.keep_alive() && conn.stage == Stage::Open {
            conn.stage = Stage::Closing;
        }
        self.touched.push(conn_no);
    }

    /// A line for the access log. `whole`: the answer was sent to its end.
    fn log_access(&mut self, number: RequestNo, whole: bool, now: Instant) {
        let (Some(access), Some(request)) = (&mut self.access, self.requests.get(&number)) else {
            return;
        };
        let took = now.saturating_duration_since(request.began);
        let time = std::time::SystemTime::now();
        let record = Record {
            request: &request.environ,
            head: request.head.as_ref(),
            body: request.sent,
            input: request.body.len(),
            output: request.sent,
            time: time.checked_sub(took).unwrap_or(time),
            took,
            pid: std::process::id(),
            aborted: !whole,
        };
        let mut line = access.format.render(&record);
        line.push('\n');
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
        } else {
            self.end_answer(number, now);
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
    pub(super) fn fail(
        &mut self,
        number: RequestNo,
        status: u16,
        reason: &str,
        detail: Option<&str>,
        now: Instant,
    ) {
        let incident = format!(
            "{:08x}",
            crate::runtime::fnv_more(self.seed, &number.0.to_le_bytes()) as u32
        );
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
                    ..Page::new(status)
                };
                let (head, body) = page.render(request.environ.get(b"HTTP_ACCEPT"));
                self.answer(number, head, &body, now);
            }
            Answer::Begun(_) => self.cut(number, now),
            Answer::Done => (),
        }
    }

    /// Flushes the connections on which something has happened in this turn, and tells epoll what they wait for.
    pub(super) fn settle_touched(&mut self, now: Instant) {
        while let Some(number) = self.touched.pop() {
            self.settle(number, now);
        }
    }

    fn settle(&mut self, number: ConnNo, now: Instant) {
        loop {
            let Some(conn) = self.conns.get_mut(&number) else {
                return;
            };
            if conn.flush(now).is_err() {
                self.drop_conn(number, now);
                return;
            }
            if conn.is_full() || !self.pump(number, now) {
                break;
            }
        }
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        if conn.waiting() == 0 && conn.stage == Stage::Closing {
            if conn.codec.is_idle() || conn.half_closed {
                self.drop_conn(number, now);
                return;
            }
            // The request has not come in whole: to close now would reset the connection and lose the answer.
            conn.shut_down();
            self.due(now + DRAIN);
        }
        self.watch_conn(number);
    }

    fn watch_conn(&mut self, number: ConnNo) {
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        let wanted = if self.restart.pauses_accept() && conn.codec.is_idle() && conn.waiting() == 0
        {
            EpollFlags::empty()
        } else {
            conn.interest()
        };
        if !conn.is_cgi() && conn.registered != Some(wanted) {
            let mut event = EpollEvent::new(wanted, Token::Conn(number.0).into());
            let done = match conn.registered {
                None => self.epoll.add(&*conn, event),
                Some(_) => self.epoll.modify(&*conn, &mut event),
            };
            // A regular file (CGI) cannot be watched and is always ready.
            if done.is_ok() {
                conn.registered = Some(wanted);
            }
        }
        let full = conn.is_full();
        let running: Vec<RequestNo> = conn.requests.iter().map(|(_, r)| *r).collect();
        for request in running {
            if let Some(Phase::Running(slot)) = self.requests.get(&request).map(|r| r.phase) {
                self.watch_slot(slot, !full);
            }
        }
    }

    /// Encodes the next piece of a file that is being sent on this connection. Whether there was one.
    fn pump(&mut self, conn_no: ConnNo, now: Instant) -> bool {
        let Some(conn) = self.conns.get(&conn_no) else {
            return false;
        };
        let sending = |r: &RequestNo| self.requests.get(r).is_some_and(|r| r.file.is_some());
        let Some(number) = conn.requests.iter().map(|(_, r)| *r).find(sending) else {
            return false;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let taken = self
            .requests
            .get_mut(&number)
            .and_then(|r| r.file.as_mut())
            .map(|file| {
                let bytes = file.next(&mut scratch).map(|bytes| bytes.len());
                (bytes, file.left)
            });
        match taken {
            Some((Ok(count), left)) if count > 0 => {
                self.on_data(number, &scratch[..count], now);
                if left == 0 {
                    self.file_sent(number, now);
                }
            }
            Some((Ok(_), 0)) => self.file_sent(number, now),
            Some((outcome, left)) => {
                let reason = outcome
                    .err()
                    .map_or_else(|| String::from("it has become shorter"), |e| e.to_string());
                self.fail(
                    number,
                    500,
                    &format!("{left} bytes of a file are missing: {reason}"),
                    None,
                    now,
                );
                self.forget_if_sending(number);
            }
            None => (),
        }
        self.scratch = scratch;
        true
    }

    fn file_sent(&mut self, number: RequestNo, now: Instant) {
        if let Some(request) = self.requests.get_mut(&number) {
            request.file = None;
            match request.answer {
                Answer::Begun(Some(left)) if left > 0 => self.cut(number, now),
                Answer::Begun(_) if request.phase == Phase::Sending => self.end_answer(number, now),
                _ => (),
            }
        }
        self.forget_if_sending(number);
    }

    fn forget_if_sending(&mut self, number: RequestNo) {
        if self
            .requests
            .get(&number)
            .is_some_and(|r| r.phase == Phase::Sending && r.file.is_none())
        {
            self.forget(number);
        }
    }
}

/// Text for the web server's error log, on the request's connection.
fn put_errors(
    conns: &mut std::collections::HashMap<ConnNo, Connection>,
    request: &Request,
    text: &[u8],
) {
    if let Some(conn) = request.conn.and_then(|conn| conns.get_mut(&conn)) {
        conn.codec
            .encode(request.id, Part::Errors(text), &mut conn.out);
    }
}
