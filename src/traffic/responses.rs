//! `Responses`: the outgoing side: the app's responses, our own error pages, and the end of requests and connections.

use super::connection::{ConnNo, Connection};
use super::connections::Connections;
use super::exchange::{Client, Exchange, Progress};
use super::incidents::Incidents;
use super::output::{Incident, Output};
use super::settings::Settings;
use crate::codes::{Code, request};
use crate::failure::{DISALLOWED_HOST, Exception, Failure};
use crate::request::{RequestNo, Stream};
use crate::response::{INCIDENT, ResponseHead};
use crate::spool::{Full, Spool};
use crate::status::Count;
use crate::{log::Level, numbered::Numbered, outbox::Outbox, pairs::Pairs, proto::Part};
use std::collections::VecDeque;
use std::fs::File;
use std::rc::Rc;
use std::time::Instant;

/// Bytes to take at a time from the rest of a response.
const PIECE: usize = 64 << 10;

/// The responses, and the state that they share with the incoming side.
pub struct Responses {
    pub(super) settings: Settings,
    pub(super) conns: Connections,
    pub(super) exchanges: Numbered<RequestNo, Box<Exchange>>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) incidents: Incidents,
    pub(super) spool: Spool,
    /// Requests whose workers were paused for want of room.
    pub(super) held: Vec<RequestNo>,
    piece: Vec<u8>,
}

impl Responses {
    pub(super) fn new(settings: Settings, seed: u64) -> Responses {
        let limits = settings.limits();
        Responses {
            spool: Spool::new(limits.spool(), limits.spool_free),
            settings,
            conns: Connections::default(),
            exchanges: Numbered::default(),
            held: Vec::new(),
            outputs: VecDeque::new(),
            incidents: Incidents::new(seed),
            piece: Vec::new(),
        }
    }

    /// Starts a response with the app's head (see `ResponseHead::from_wire`).
    pub fn head(&mut self, number: RequestNo, payload: &[u8], now: Instant) {
        let Some(exchange) = self.exchanges.get(number) else {
            return;
        };
        let mut head = match ResponseHead::from_wire(payload) {
            Ok(head) => head,
            Err(error) => return self.fail(number, Failure::BadResponse(error), now),
        };
        head.drop_stray_location(exchange.environ());
        let owed = exchange.progress() == Progress::Owed;
        for warning in head.warnings() {
            let Some(exchange) = self.exchanges.get(number) else {
                return;
            };
            let text = format!("{}: {warning}", exchange.describe());
            self.warn(request::LARGE_HEAD, text, now);
        }
        if owed
            && let Some(exchange) = self.exchanges.get_mut(number)
            && let Some(failure) = exchange.failure_behind(&head)
            && let Some(incident) = self.report(number, failure, now)
        {
            head.fields.push(INCIDENT, incident.as_bytes());
        }
        self.begin_answer(number, &head);
    }

    /// The app or its framework has caught an exception, and responds itself.
    pub fn caught(&mut self, number: RequestNo, mut exception: Box<Exception>) {
        if exception.kind == DISALLOWED_HOST {
            let program = self.settings.program();
            exception.hint = format!("add it there, then touch {program}");
        }
        if let Some(exchange) = self.exchanges.get_mut(number) {
            exchange.catch(exception);
        }
    }

    /// Sends a piece of a response's body, or sets it aside if the client does not take what came before: so the worker can
    /// go on. It pauses only when there is no room.
    pub fn data(&mut self, number: RequestNo, bytes: &[u8], now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(number) else {
            return;
        };
        let conn = exchange.client().and_then(|(conn, _)| self.conns.get(conn));
        let waits = conn.is_some_and(Connection::is_full);
        if !waits && exchange.progress() != Progress::Sending {
            return self.put_data(number, bytes, now);
        }
        let full = exchange.set_aside(bytes, &self.spool);
        let (stuck, held) = (exchange.is_stuck(), exchange.is_held());
        if let Some(full) = full.filter(|full| !matches!(full, Full::Never(0))) {
            let text = format!("a worker waits for a slow reader: {full}");
            self.warn(request::SPOOL_FULL, text, now);
        }
        self.hold(number, stuck);
        if stuck && held {
            // It was already on its way, or the worker has not been paused yet. Pause it again.
            self.put(Output::Hold(number, true));
        }
    }

    /// Sends a part of a file as the rest of a response.
    pub fn file(&mut self, number: RequestNo, file: File, offset: u64, length: u64) {
        if let Some(exchange) = self.exchanges.get_mut(number)
            && exchange.attach(file, offset, length)
            && let Some((conn, _)) = exchange.client()
        {
            self.conns.queue_flush(conn);
        }
    }

    /// Logs text that the app wrote, line by line. Standard error also goes to the web server's error log. With `last`, no
    /// more text follows.
    pub fn text(&mut self, number: RequestNo, stream: Stream, bytes: &[u8], last: bool) {
        let Some(exchange) = self.exchanges.get_mut(number) else {
            return;
        };
        let level = match stream {
            Stream::Stdout => Level::Output,
            Stream::Stderr => Level::App,
        };
        let lines = exchange.lines(stream, bytes, last);
        let client = exchange.client().filter(|_| stream == Stream::Stderr);
        for (text, line) in lines {
            self.log(client, level, text, &line);
        }
    }

    /// Logs what the app wrote since the end of its last line.
    fn end_lines(&mut self, number: RequestNo) {
        self.text(number, Stream::Stderr, b"", true);
        self.text(number, Stream::Stdout, b"", true);
    }

    /// The worker is done with the request. `truncated`: it did not send the whole response.
    pub fn end(&mut self, number: RequestNo, truncated: bool, now: Instant) {
        self.end_lines(number);
        let Some(exchange) = self.exchanges.get_mut(number) else {
            return;
        };
        exchange.leave_worker();
        let progress = exchange.progress();
        match (exchange.take_caught(), progress) {
            (Some(exception), Progress::Owed) => {
                self.fail(number, Failure::Exception(exception), now);
            }
            (None, Progress::Owed) => self.fail(number, Failure::NoResponse, now),
            (Some(exception), _) => {
                // The app reported it after the head, or the client had gone by then.
                self.report(number, Failure::Caught(500, exception), now);
            }
            (None, _) => (),
        }
        match progress {
            Progress::Owed => (),
            Progress::Sending if !truncated => return,
            Progress::Whole if !truncated => self.finish(number, true, now),
            Progress::Partial | Progress::Sending | Progress::Whole => {
                self.abort_response(number, now);
            }
            Progress::Done => (),
        }
        self.exchanges.remove(number);
    }

    /// Fails a request that a worker still has: the visitor gets a page with an incident id, and the reason is logged under
    /// that id. A response that has started is aborted.
    pub fn fail(&mut self, number: RequestNo, failure: Failure, now: Instant) {
        let Some(exchange) = self.exchanges.get(number) else {
            return;
        };
        let progress = exchange.progress();
        let by_app = matches!(failure, Failure::Exception(_) | Failure::BadResponse(_));
        if progress == Progress::Done && !by_app {
            // The response is complete, or nobody waits for it, so a lost worker does not matter.
            return;
        }
        let reason = self.settings.debug().then(|| failure.reason());
        let status = failure.status();
        let Some(incident) = self.report(number, failure, now) else {
            return;
        };
        match (self.exchanges.get(number), progress) {
            (Some(exchange), Progress::Owed) => {
                let (head, body) = exchange.page(status, &incident, reason.as_ref());
                self.respond(number, &head, &body, now);
            }
            (_, Progress::Done) => (),
            (_, _) => self.abort_response(number, now),
        }
    }

    /// Logs a failure under an incident id of its own, which is returned.
    fn report(&mut self, number: RequestNo, failure: Failure, now: Instant) -> Option<String> {
        self.end_lines(number);
        let exchange = self.exchanges.get_mut(number)?;
        // The app may have reported this exception as caught before it raised it.
        exchange.take_caught();
        let (code, incident) = (failure.code(), self.incidents.id(number));
        exchange.name_incident(&incident);
        let failed = Box::new(Incident {
            environ: exchange.environ().clone(),
            failure,
            incident: incident.clone(),
        });
        let client = exchange.client();
        let detail = failed.failure.detail();
        let shown = detail.is_some_and(|traceback| exchange.has_shown(traceback));
        let texts = self.incidents.texts(&failed, shown, now);
        self.put(Output::Failed(number, failed, texts.is_some()));
        if let Some([sent, text]) = texts {
            let line = format!("{code} {sent}\n");
            self.log(client, Level::Error(code), text, line.as_bytes());
        }
        Some(incident)
    }

    /// Why no request can be served has been logged, so it is not repeated. `everywhere`: in the web server's log, too.
    pub fn told(&mut self, reason: &str, everywhere: bool) {
        self.incidents.told(reason, everywhere);
    }

    /// Logs a warning, unless it is one of a flood.
    pub(super) fn warn(&mut self, code: Code, text: String, now: Instant) {
        let output = self.incidents.warning(Level::Warning(code), text, now);
        self.outputs.extend(output);
    }

    /// Logs the summaries of floods that are due.
    pub(super) fn on_time(&mut self, now: Instant) {
        while let Some(output) = self.incidents.next_summary(now) {
            self.put(output);
        }
    }

    /// Fails a request that no worker has, or whose worker is gone. No further call for it may follow.
    pub fn give_up(&mut self, number: RequestNo, failure: Failure, now: Instant) {
        if let Some(exchange) = self.exchanges.get_mut(number) {
            exchange.leave_worker();
            self.fail(number, failure, now);
        }
        self.exchanges.remove(number);
    }

    /// An abandoned request was taken back from the workers.
    pub fn forget(&mut self, number: RequestNo, now: Instant) {
        self.give_up(number, Failure::NoWorker, now);
    }

    /// Sends our own response to a request that no worker has.
    pub fn answer(&mut self, number: RequestNo, head: &ResponseHead, body: &[u8], now: Instant) {
        self.respond(number, head, body, now);
        self.exchanges.remove(number);
    }

    /// The same, with the first bytes of a file as the body. `length`: how many.
    pub fn answer_with_file(
        &mut self,
        number: RequestNo,
        head: &ResponseHead,
        (file, length): (File, u64),
        now: Instant,
    ) {
        self.begin_answer(number, head);
        if let Some(exchange) = self.exchanges.get_mut(number) {
            exchange.leave_worker();
        }
        self.file(number, file, 0, length);
        let exchange = self.exchanges.get(number);
        if exchange.is_none_or(|exchange| exchange.progress() != Progress::Sending) {
            self.finish(number, true, now);
            self.exchanges.remove(number);
        }
    }

    /// Replaces the request's variables by ones that contain no secrets and may be logged.
    pub fn redact(&mut self, number: RequestNo, environ: Rc<Pairs>) {
        if let Some(exchange) = self.exchanges.get_mut(number) {
            exchange.redact(environ);
        }
    }

    pub(super) fn respond(
        &mut self,
        number: RequestNo,
        head: &ResponseHead,
        body: &[u8],
        now: Instant,
    ) {
        self.begin_answer(number, head);
        self.put_data(number, body, now);
        self.finish(number, true, now);
    }

    fn begin_answer(&mut self, number: RequestNo, head: &ResponseHead) {
        if let Some(exchange) = self.exchanges.get_mut(number)
            && exchange.begin_answer(head, self.settings.logs_access())
        {
            let client = exchange.client();
            self.encode(client, Part::Head(head));
            self.put(Output::Answered(head.status));
        }
    }

    fn put_data(&mut self, number: RequestNo, bytes: &[u8], now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(number) else {
            return;
        };
        if let Some((fits, complete)) = exchange.take_data(bytes.len()) {
            let client = exchange.client();
            self.encode(client, Part::Body(&bytes[..fits]));
            if let Some((conn, _)) = client {
                self.conns.queue_flush(conn);
            }
            if complete {
                self.finish(number, true, now);
            }
        }
    }

    /// Ends a response. `whole`: it is complete.
    pub(super) fn finish(&mut self, number: RequestNo, whole: bool, now: Instant) {
        self.log_access(number, whole, now);
        self.hold(number, false);
        let exchange = self.exchanges.get_mut(number);
        if let Some((conn_no, id)) = exchange.and_then(|exchange| exchange.finish())
            && let Some(conn) = self.conns.get_mut(conn_no)
        {
            conn.finish(id, number);
            self.conns.queue_flush(conn_no);
        }
    }

    /// Ends a response that cannot be completed so that the client can tell: closes the connection if no other request is
    /// on it.
    fn abort_response(&mut self, number: RequestNo, now: Instant) {
        let exchange = self.exchanges.get(number);
        let Some((conn_no, _)) = exchange.and_then(|exchange| exchange.client()) else {
            return;
        };
        let conn = self.conns.get(conn_no);
        match conn.is_none_or(Connection::has_one_request) {
            true => {
                self.log_access(number, false, now);
                if let Some(conn) = self.conns.remove(conn_no) {
                    self.put(Output::Close(conn_no, conn.into_outbox()));
                }
                self.lose_client(number);
            }
            false => self.finish(number, false, now),
        }
    }

    /// Encodes the next piece of a response that was set aside on this connection. Returns whether to flush it at once.
    pub(super) fn send_rest(&mut self, conn_no: ConnNo, now: Instant) -> bool {
        let sends = |number: &RequestNo| {
            let exchange = self.exchanges.get(*number);
            exchange.is_some_and(|e| e.progress() == Progress::Sending)
        };
        let conn = self.conns.get(conn_no);
        let Some(number) = conn.and_then(|conn| conn.requests().find(sends)) else {
            return false;
        };
        let mut buffer = std::mem::take(&mut self.piece);
        buffer.resize(PIECE, 0);
        let exchange = self.exchanges.get_mut(number);
        let conn = self.conns.get_mut(conn_no);
        let at_once = conn.is_some_and(|conn| conn.on_piece(number, now));
        match exchange.and_then(|exchange| exchange.next_piece(&mut buffer)) {
            Some(Ok((length, last))) => {
                self.put_data(number, &buffer[..length], now);
                let exchange = self.exchanges.get(number);
                match exchange.map(|exchange| (exchange.progress(), exchange.is_stuck())) {
                    Some((Progress::Sending, stuck)) if !last => self.hold(number, stuck),
                    _ => self.rest_sent(number, now),
                }
            }
            Some(Err(failure)) => {
                self.fail(number, failure, now);
                self.rest_sent(number, now);
            }
            None => (),
        }
        self.piece = buffer;
        at_once
    }

    /// The rest has been sent. If the worker is done, the response ends.
    fn rest_sent(&mut self, number: RequestNo, now: Instant) {
        self.hold(number, false);
        let Some(exchange) = self.exchanges.get(number) else {
            return;
        };
        let waiting = exchange.is_waiting();
        match exchange.progress() {
            Progress::Partial if !waiting => self.abort_response(number, now),
            Progress::Whole if !waiting => self.finish(number, true, now),
            _ => (),
        }
        if !waiting {
            self.exchanges.remove(number);
        }
    }

    /// Pauses or resumes the worker of a request.
    pub(super) fn hold(&mut self, number: RequestNo, held: bool) {
        if let Some(exchange) = self.exchanges.get_mut(number)
            && exchange.hold(held)
        {
            if let Some((conn, _)) = exchange.client() {
                self.conns.queue_flush(conn);
            }
            self.put(Output::Hold(number, held));
            match held {
                true => self.held.push(number),
                false => self.held.retain(|other| *other != number),
            }
        }
    }

    /// Closes a connection and abandons its requests.
    pub(super) fn close(&mut self, conn_no: ConnNo, now: Instant) {
        let Some(conn) = self.conns.remove(conn_no) else {
            return;
        };
        let requests: Vec<RequestNo> = conn.requests().collect();
        if !requests.is_empty() {
            self.put(Output::Count(Count::Aborted, requests.len() as u64));
        }
        for number in requests {
            self.log_access(number, false, now);
            self.lose_client(number);
        }
        self.put(Output::Close(conn_no, Outbox::default()));
    }

    /// Nobody waits for the response any more.
    fn lose_client(&mut self, number: RequestNo) {
        if let Some(exchange) = self.exchanges.get_mut(number) {
            exchange.finish();
            self.hold(number, false);
            self.abandon(number);
        }
    }

    /// Takes a request that nobody waits for back from the workers, or forgets it if they do not have it.
    pub(super) fn abandon(&mut self, number: RequestNo) {
        let exchange = self.exchanges.get(number);
        match exchange.is_some_and(|exchange| exchange.is_waiting()) {
            true => self.put(Output::Abandoned(number)),
            false => drop(self.exchanges.remove(number)),
        }
    }

    /// Writes a request to the access log, unless that was done when its response ended.
    fn log_access(&mut self, number: RequestNo, whole: bool, now: Instant) {
        if self.settings.logs_access()
            && let Some(exchange) = self.exchanges.get(number)
            && exchange.client().is_some()
        {
            self.put(Output::Access(exchange.access(whole, now)));
        }
    }

    /// Logs an event. It goes to the web server's error log too, as `line`, if the client's protocol can carry it.
    fn log(&mut self, client: Option<Client>, level: Level, text: String, line: &[u8]) {
        let conn = client.and_then(|(conn, id)| Some((self.conns.get_mut(conn)?, id)));
        let output = match conn.is_some_and(|(conn, id)| conn.encode_errors(id, line)) {
            true => Output::LogCopy(level, text),
            false => Output::Log(level, text),
        };
        self.put(output);
    }

    fn encode(&mut self, client: Option<Client>, part: Part<'_>) {
        if let Some((conn_no, id)) = client
            && let Some(conn) = self.conns.get_mut(conn_no)
        {
            conn.encode(id, part);
        }
    }

    pub(super) fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}
