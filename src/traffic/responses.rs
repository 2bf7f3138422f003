//! `Responses`: what goes out: the parts of a response as the app gives them, pages of our own when it cannot, and what
//! becomes of a request and its connection then.

use super::connection::{ConnNo, Connection};
use super::connections::Connections;
use super::exchange::{Exchange, Progress};
use super::output::Output;
use super::settings::Settings;
use crate::bytes::fnv_more;
use crate::failure::Failure;
use crate::log::Level;
use crate::outbox::Outbox;
use crate::pages::Page;
use crate::pairs::Pairs;
use crate::proto::{Part, RequestId};
use crate::request::{RequestNo, Stream};
use crate::response::ResponseHead;
use crate::status::Count;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::rc::Rc;
use std::time::Instant;

/// Bytes of a file that are read at a time.
const PIECE: usize = 64 << 10;

/// See above.
pub struct Responses {
    pub(super) settings: Settings,
    pub(super) conns: Connections,
    pub(super) exchanges: BTreeMap<RequestNo, Exchange>,
    pub(super) outputs: VecDeque<Output>,
    /// Makes incident ids differ from process to process.
    seed: u64,
    piece: Vec<u8>,
}

impl Responses {
    pub(super) fn new(settings: Settings, seed: u64) -> Responses {
        Responses {
            settings,
            conns: Connections::default(),
            exchanges: BTreeMap::new(),
            outputs: VecDeque::new(),
            seed,
            piece: vec![0; PIECE],
        }
    }

    /// The head of a response, as the app gives it (see `ResponseHead::from_wire`).
    pub fn head(&mut self, number: RequestNo, payload: &[u8], now: Instant) {
        let Some(exchange) = self.exchanges.get(&number) else {
            return;
        };
        let mut head = match ResponseHead::from_wire(payload) {
            Ok(head) => head,
            Err(error) => return self.fail(number, Failure::BadResponse(error), now),
        };
        head.settle_location(exchange.environ());
        for warning in head.warnings() {
            let text = format!("{}: {warning}", exchange.describe());
            self.outputs.push_back(Output::Log(Level::Warning, text));
        }
        self.begin_answer(number, &head);
    }

    /// A piece of a response's body, from a worker.
    pub fn data(&mut self, number: RequestNo, bytes: &[u8], now: Instant) {
        self.put_data(number, bytes, now);
        if let Some(exchange) = self.exchanges.get(&number)
            && exchange.is_held()
        {
            // It was on its way already, or the worker has not been told yet.
            self.put(Output::Hold(number, true));
        }
    }

    /// The rest of a response is this part of a file.
    pub fn file(&mut self, number: RequestNo, file: File, offset: u64, length: u64) {
        if let Some(exchange) = self.exchanges.get_mut(&number)
            && exchange.attach(file, offset, length)
            && let Some((conn, _)) = exchange.client()
        {
            self.conns.touch(conn);
        }
    }

    /// Text that the app wrote: to the log line by line, and to the web server's unless it went to standard output.
    /// `last`: no more of it follows.
    pub fn text(&mut self, number: RequestNo, stream: Stream, bytes: &[u8], last: bool) {
        let Some(exchange) = self.exchanges.get_mut(&number) else {
            return;
        };
        let level = match stream {
            Stream::Stdout => Level::Output,
            Stream::Stderr => Level::App,
        };
        for line in exchange.lines(stream, bytes, last) {
            let said = String::from_utf8_lossy(&line);
            let text = format!("{}: {}", exchange.describe(), said.trim_end());
            self.outputs.push_back(Output::Log(level, text));
            if stream == Stream::Stderr
                && let Some((conn, id)) = exchange.client()
                && let Some(conn) = self.conns.get_mut(conn)
            {
                conn.encode_errors(id, &line);
            }
        }
    }

    /// The worker is done with the request. `truncated`: it could not send all of the response.
    pub fn end(&mut self, number: RequestNo, truncated: bool, now: Instant) {
        self.text(number, Stream::Stderr, b"", true);
        self.text(number, Stream::Stdout, b"", true);
        let Some(exchange) = self.exchanges.get_mut(&number) else {
            return;
        };
        exchange.leave_worker();
        match exchange.progress() {
            Progress::Owed => self.fail(number, Failure::NoResponse, now),
            Progress::Sending if !truncated => return,
            Progress::Whole if !truncated => self.finish(number, true, now),
            Progress::Partial | Progress::Sending | Progress::Whole => {
                self.abort_response(number, now);
            }
            Progress::Done => (),
        }
        self.exchanges.remove(&number);
    }

    /// The request fails while a worker still has it: the visitor gets a page with an incident id, the log has the reason
    /// under that id. A response that has begun is aborted.
    pub fn fail(&mut self, number: RequestNo, failure: Failure, now: Instant) {
        let Some(exchange) = self.exchanges.get(&number) else {
            return;
        };
        let progress = exchange.progress();
        let by_app = matches!(failure, Failure::Exception(_) | Failure::BadResponse(_));
        if progress == Progress::Done && !by_app {
            // The response is complete, or nobody waits for it: what became of its worker concerns nobody.
            return;
        }
        let hash = fnv_more(self.seed, &number.0.to_le_bytes()) as u32;
        let incident = format!("{hash:08x}");
        let reason = failure.to_string();
        let detail = failure.detail().map(str::trim_end);
        let mut text = format!("incident {incident}: {}: {reason}", exchange.describe());
        if let Some(detail) = detail {
            text = format!("{text}\n{detail}");
        }
        if let Some((conn, id)) = exchange.client()
            && let Some(conn) = self.conns.get_mut(conn)
        {
            conn.encode_errors(id, format!("{text}\n").as_bytes());
        }
        let shown = detail.unwrap_or(&reason);
        let page = Page {
            incident: Some(&incident),
            detail: self.settings.debug().then_some(shown),
            ..Page::new(failure.status())
        };
        let page = (progress == Progress::Owed).then(|| page.render(exchange.accept()));
        let environ = exchange.environ().clone();
        self.put(Output::Failed {
            number,
            environ,
            failure,
            incident,
        });
        self.put(Output::Log(Level::Error, text));
        match (page, progress) {
            (Some((head, body)), _) => self.respond(number, &head, &body, now),
            (None, Progress::Done) => (),
            (None, _) => self.abort_response(number, now),
        }
    }

    /// The request fails and no worker has it: it was never given to one, or that one is gone. Nothing more may be said
    /// about it.
    pub fn give_up(&mut self, number: RequestNo, failure: Failure, now: Instant) {
        if let Some(exchange) = self.exchanges.get_mut(&number) {
            exchange.leave_worker();
            self.fail(number, failure, now);
        }
        self.exchanges.remove(&number);
    }

    /// An abandoned request was taken back from the workers.
    pub fn forget(&mut self, number: RequestNo, now: Instant) {
        self.give_up(number, Failure::NoWorker, now);
    }

    /// A response of our own, to a request that no worker has had.
    pub fn answer(&mut self, number: RequestNo, head: &ResponseHead, body: &[u8], now: Instant) {
        self.respond(number, head, body, now);
        self.exchanges.remove(&number);
    }

    /// From now on logs see these variables of the request.
    pub fn redact(&mut self, number: RequestNo, environ: Rc<Pairs>) {
        if let Some(exchange) = self.exchanges.get_mut(&number) {
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
        if let Some(exchange) = self.exchanges.get_mut(&number)
            && exchange.begin_answer(head, self.settings.logs_access())
        {
            let client = exchange.client();
            self.encode(client, Part::Head(head));
            self.put(Output::Answered(head.status));
        }
    }

    fn put_data(&mut self, number: RequestNo, bytes: &[u8], now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(&number) else {
            return;
        };
        if let Some((fits, complete)) = exchange.take_data(bytes.len()) {
            let client = exchange.client();
            self.encode(client, Part::Body(&bytes[..fits]));
            if let Some((conn, _)) = client {
                self.conns.touch(conn);
            }
            if complete {
                self.finish(number, true, now);
            }
        }
    }

    /// Nothing more of the response follows. `whole`: it was sent to its end.
    pub(super) fn finish(&mut self, number: RequestNo, whole: bool, now: Instant) {
        self.log_access(number, whole, now);
        self.hold(number, false);
        if let Some((conn_no, id)) = self.exchanges.get_mut(&number).and_then(Exchange::finish)
            && let Some(conn) = self.conns.get_mut(conn_no)
        {
            conn.finish(id, number);
            self.conns.touch(conn_no);
        }
    }

    /// The response cannot be completed, and must not look complete.
    fn abort_response(&mut self, number: RequestNo, now: Instant) {
        let client = self.exchanges.get(&number).and_then(Exchange::client);
        let Some((conn_no, _)) = client else {
            return;
        };
        match self
            .conns
            .get(conn_no)
            .is_none_or(Connection::has_one_request)
        {
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

    /// Encodes the next piece of a file that is being sent on this connection. Returns whether there was one.
    pub(super) fn send_file(&mut self, conn_no: ConnNo, now: Instant) -> bool {
        let sends = |number: &RequestNo| {
            let exchange = self.exchanges.get(number);
            exchange.is_some_and(|e| e.progress() == Progress::Sending)
        };
        let conn = self.conns.get(conn_no);
        let Some(number) = conn.and_then(|conn| conn.requests().find(sends)) else {
            return false;
        };
        let mut buffer = std::mem::take(&mut self.piece);
        let exchange = self.exchanges.get_mut(&number);
        match exchange.and_then(|exchange| exchange.next_piece(&mut buffer)) {
            Some(Ok((length, last))) => {
                self.put_data(number, &buffer[..length], now);
                if last {
                    self.file_sent(number, now);
                }
            }
            Some(Err(failure)) => {
                self.fail(number, failure, now);
                self.file_sent(number, now);
            }
            None => (),
        }
        self.piece = buffer;
        true
    }

    /// The end of a file: also that of the response, once its worker is done.
    fn file_sent(&mut self, number: RequestNo, now: Instant) {
        let Some(exchange) = self.exchanges.get(&number) else {
            return;
        };
        let waiting = exchange.is_waiting();
        match exchange.progress() {
            Progress::Partial => self.abort_response(number, now),
            Progress::Whole if !waiting => self.finish(number, true, now),
            _ => (),
        }
        if !waiting {
            self.exchanges.remove(&number);
        }
    }

    /// Has the worker of a request wait, or go on.
    pub(super) fn hold(&mut self, number: RequestNo, held: bool) {
        if let Some(exchange) = self.exchanges.get_mut(&number)
            && exchange.hold(held)
        {
            self.put(Output::Hold(number, held));
        }
    }

    /// A connection is over: nobody waits for its requests any more.
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
        if let Some(exchange) = self.exchanges.get_mut(&number) {
            exchange.finish();
            self.hold(number, false);
            self.abandon(number);
        }
    }

    /// A request that nobody waits for is forgotten, or taken from the workers.
    pub(super) fn abandon(&mut self, number: RequestNo) {
        match self
            .exchanges
            .get(&number)
            .is_some_and(Exchange::is_waiting)
        {
            true => self.put(Output::Abandoned(number)),
            false => drop(self.exchanges.remove(&number)),
        }
    }

    /// Tells the access log of a request, unless its answer was over before.
    fn log_access(&mut self, number: RequestNo, whole: bool, now: Instant) {
        if self.settings.logs_access()
            && let Some(exchange) = self.exchanges.get(&number)
            && exchange.client().is_some()
        {
            self.put(Output::Access(exchange.access(whole, now)));
        }
    }

    fn encode(&mut self, client: Option<(ConnNo, RequestId)>, part: Part<'_>) {
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
