//! FastCGI 1.0 as a codec: roles responder and authorizer, several requests on one connection.
//!
//! Buffers at most one record header and the incomplete params of each request, and nothing of a body. Section numbers
//! are those of the FastCGI specification.

mod params;
mod record;
mod request;

use self::record::{ProtocolStatus, Record};
use self::request::{Input, Request, Response, Role};
use super::head::{cgi_head, cgi_head_status_last};
use super::{Codec, Eof, Event, Part, ProtocolError, RequestId};

/// The incomplete params of all requests on a connection may take this many times `max_params`. Web servers send the
/// params of a request in one go.
const MAX_INCOMPLETE: usize = 4;

/// One FastCGI connection.
pub struct FastCgi {
    max_params: usize,
    max_requests: usize,
    max_connections: usize,
    header: [u8; record::HEADER_LEN],
    header_len: usize,
    record: Option<Record>,
    any_record: bool,
    /// The content so far of a BEGIN_REQUEST or GET_VALUES record.
    content: Vec<u8>,
    requests: Vec<Request>,
    /// The next event is `BodyEnd` for this authorizer request: its body ends with its params.
    body_end: Option<RequestId>,
    /// FCGI_KEEP_CONN of the last request that ended.
    ended_keep_conn: bool,
    any_ended: bool,
    /// All further input is discarded.
    ignores_input: bool,
}

impl FastCgi {
    /// `max_params` limits the bytes of a request's PARAMS stream, `max_requests` the concurrent requests on this
    /// connection. FCGI_MAX_REQS is reported as `max_requests`, FCGI_MAX_CONNS as `max_connections`.
    pub fn new(max_params: usize, max_requests: usize, max_connections: usize) -> FastCgi {
        FastCgi {
            max_params,
            max_requests,
            max_connections,
            header: [0; record::HEADER_LEN],
            header_len: 0,
            record: None,
            any_record: false,
            content: Vec::new(),
            requests: Vec::new(),
            body_end: None,
            ended_keep_conn: false,
            any_ended: false,
            ignores_input: false,
        }
    }

    /// Consumes up to the end of a header; `None` while that is incomplete.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Record>, ProtocolError> {
        if self.header_len == 0
            && let Some(&version) = input.first()
            && version != record::VERSION_1
        {
            return Err(wrong_version(version, self.any_record));
        }
        let (piece, rest) = input.split_at(input.len().min(record::HEADER_LEN - self.header_len));
        self.header[self.header_len..][..piece.len()].copy_from_slice(piece);
        self.header_len += piece.len();
        *input = rest;
        if self.header_len < record::HEADER_LEN {
            return Ok(None);
        }
        self.header_len = 0;
        self.any_record = true;
        Ok(Some(Record::from_header(self.header)))
    }

    /// Handles a piece of the content of `record`, whose lengths are what follows the piece. A record without content has
    /// one empty piece.
    fn read_content<'a>(
        &mut self,
        record: Record,
        piece: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        match (record.record_type, record.id) {
            (record::GET_VALUES, 0) => {
                self.content.extend_from_slice(piece);
                if record.content == 0 {
                    self.get_values(out);
                    self.content = Vec::new();
                }
            }
            (unknown, 0) if record.content == 0 => record::append_unknown_type(out, unknown),
            (_, 0) => {}
            (record::BEGIN_REQUEST, id) => {
                self.content.extend_from_slice(piece);
                if record.content == 0 || self.content.len() > record::BODY_LEN {
                    self.begin_request(id, out)?;
                    self.content.clear();
                }
            }
            (record::PARAMS, id) => return Ok(self.params(id, piece)),
            (record::STDIN, id) => return self.stdin(id, piece),
            (record::ABORT_REQUEST, id) if record.content == 0 => {
                return Ok(self.abort_request(id, out));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Section 4.1. Each known variable is reported once, however often it is asked for.
    fn get_values(&self, out: &mut Vec<u8>) {
        let mut known = [
            (&b"FCGI_MAX_CONNS"[..], Some(self.max_connections)),
            (b"FCGI_MAX_REQS", Some(self.max_requests)),
            (b"FCGI_MPXS_CONNS", Some(usize::from(self.max_requests > 1))),
        ];
        record::append_record(out, record::GET_VALUES_RESULT, 0, |out| {
            for (asked, _) in params::pairs(&self.content).map_while(Result::ok) {
                for (name, value) in &mut known {
                    if *name == asked
                        && let Some(value) = value.take()
                    {
                        params::append_pair(out, name, value.to_string().as_bytes());
                    }
                }
            }
        });
    }

    /// Section 5.1.
    fn begin_request(&mut self, id: u16, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let &[role1, role0, flags, _, _, _, _, _] = &self.content[..] else {
            return Err(ProtocolError(format!(
                "BEGIN_REQUEST of request {id} does not have {} bytes of content",
                record::BODY_LEN
            )));
        };
        let known = self.requests.iter().find(|r| r.id == id);
        if known.is_some_and(|r| r.response != Response::Ended) {
            return Err(ProtocolError(format!(
                "BEGIN_REQUEST for request {id}, which is still in progress"
            )));
        }
        let keep_conn = flags & record::KEEP_CONN != 0;
        let mut ended = self
            .requests
            .iter()
            .filter(|r| r.response == Response::Ended);
        let oldest_ended = ended.next().map(|r| r.id);
        let ended = ended.count() + usize::from(oldest_ended.is_some());
        if self.requests.len() - ended >= self.max_requests {
            record::append_end_request(out, id, ProtocolStatus::Overloaded);
            self.note_end(keep_conn);
            return Ok(());
        }
        // A peer that reuses an id, or leaves many bodies incomplete, will not send the rest of them.
        let forget = match known {
            Some(_) => Some(id),
            None => oldest_ended.filter(|_| ended >= self.max_requests),
        };
        self.requests.retain(|r| Some(r.id) != forget);
        let role = Role::from_number(u16::from_be_bytes([role1, role0]));
        let mut request = Request::new(id, role, keep_conn);
        if role == Role::Unknown {
            record::append_end_request(out, id, ProtocolStatus::UnknownRole);
            request.input = Input::Refused;
            request.response = Response::Ended;
            self.note_end(keep_conn);
        }
        self.requests.push(request);
        Ok(())
    }

    /// Section 5.2.
    fn params<'a>(&mut self, id: u16, piece: &[u8]) -> Option<Event<'a>> {
        let max_params = self.max_params;
        let index = self.requests.iter().position(|r| r.id == id)?;
        let max_incomplete = max_params.saturating_mul(MAX_INCOMPLETE);
        let incomplete: usize = self.requests.iter().map(Request::incomplete_params).sum();
        let request = &mut self.requests[index];
        let event = match &mut request.input {
            Input::Params(bytes) if piece.is_empty() => {
                let bytes = std::mem::take(bytes);
                request.response = Response::Pending;
                Some(request.announce(&bytes))
            }
            Input::Params(bytes) => {
                let fits = bytes.len() + piece.len() <= max_params;
                if fits && incomplete + piece.len() <= max_incomplete {
                    bytes.extend_from_slice(piece);
                    return None;
                }
                request.input = Input::Refused;
                request.response = Response::Pending;
                let (status, reason) = if fits {
                    let reason = "the incomplete params of all requests on this connection exceed";
                    (503, format!("{reason} {max_incomplete} bytes"))
                } else {
                    (431, format!("params of more than {max_params} bytes"))
                };
                let id = RequestId(id);
                Some(Event::Reject { id, status, reason })
            }
            Input::Refused if piece.is_empty() => {
                request.input = Input::Drain;
                None
            }
            Input::Refused | Input::Stdin | Input::Drain | Input::Ended => None,
        };
        if request.role == Role::Authorizer && matches!(request.input, Input::Stdin | Input::Drain)
        {
            if matches!(event, Some(Event::Begin { .. })) {
                self.body_end = Some(RequestId(id));
            }
            self.end_input(index);
        }
        event
    }

    /// Section 5.3. An authorizer request has no body, but lighttpd sends an empty STDIN record.
    fn stdin<'a>(&mut self, id: u16, bytes: &'a [u8]) -> Result<Option<Event<'a>>, ProtocolError> {
        let Some(index) = self.requests.iter().position(|r| r.id == id) else {
            return Ok(None);
        };
        let id = RequestId(id);
        let request = &self.requests[index];
        let wanted = matches!(request.response, Response::Pending | Response::Started);
        match request.input {
            Input::Params(_) => {
                return Err(ProtocolError(format!(
                    "STDIN of request {} before the end of its PARAMS",
                    id.0
                )));
            }
            Input::Refused | Input::Ended => return Ok(None),
            Input::Stdin if !bytes.is_empty() => {
                return Ok(wanted.then_some(Event::Body { id, bytes }));
            }
            Input::Drain if !bytes.is_empty() => return Ok(None),
            Input::Stdin | Input::Drain => {}
        }
        let event =
            (wanted && matches!(request.input, Input::Stdin)).then_some(Event::BodyEnd { id });
        self.end_input(index);
        Ok(event)
    }

    /// Section 5.4.
    fn abort_request<'a>(&mut self, id: u16, out: &mut Vec<u8>) -> Option<Event<'a>> {
        let index = self.requests.iter().position(|r| r.id == id)?;
        let request = &mut self.requests[index];
        match request.response {
            Response::Unannounced => {
                record::append_end_request(out, id, ProtocolStatus::RequestComplete);
                let keep_conn = request.keep_conn;
                self.requests.swap_remove(index);
                self.note_end(keep_conn);
                None
            }
            Response::Pending | Response::Started => {
                request.response = Response::Aborted;
                request.input = Input::Ended;
                Some(Event::Abort { id: RequestId(id) })
            }
            Response::Aborted => None,
            Response::Ended => {
                self.requests.remove(index);
                None
            }
        }
    }

    /// The peer will send nothing more for this request.
    fn end_input(&mut self, index: usize) {
        let request = &mut self.requests[index];
        request.input = Input::Ended;
        if request.response == Response::Ended {
            self.requests.remove(index);
        }
    }

    fn note_end(&mut self, keep_conn: bool) {
        self.ended_keep_conn = keep_conn;
        self.any_ended = true;
    }

    /// Whether no more input can be expected: every request is complete, and none has FCGI_KEEP_CONN.
    fn is_input_complete(&self) -> bool {
        let complete = |r: &Request| !r.keep_conn && matches!(r.input, Input::Ended);
        (self.any_ended || !self.requests.is_empty())
            && !self.keep_alive()
            && self.requests.iter().all(complete)
    }

    fn decode_records<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if let Some(id) = self.body_end.take() {
            return Ok(Some(Event::BodyEnd { id }));
        }
        loop {
            let (mut record, new) = match self.record {
                Some(record) => (record, false),
                None => match self.read_header(input)? {
                    Some(record) => (record, true),
                    None => return Ok(None),
                },
            };
            let mut event = None;
            if record.content > 0 || new {
                let (piece, rest) = input.split_at(input.len().min(record.content));
                let complete = record.content == piece.len();
                record.content -= piece.len();
                *input = rest;
                self.record = Some(record);
                if !piece.is_empty() || complete {
                    event = self.read_content(record, piece, out)?;
                }
            }
            if record.content == 0 {
                let padding = input.len().min(record.padding);
                *input = &input[padding..];
                record.padding -= padding;
                self.record = (record.padding > 0).then_some(record);
            }
            if event.is_some() || self.record.is_some() && input.is_empty() {
                return Ok(event);
            }
        }
    }
}

impl Codec for FastCgi {
    fn decode<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let mut decoded = Ok(None);
        if !self.ignores_input {
            decoded = self.decode_records(input, out);
            // Cherokee sends an uninitialised record header after the last record.
            self.ignores_input = decoded.is_err() && self.is_input_complete();
        }
        if self.ignores_input {
            *input = &[];
            self.record = None;
            return Ok(None);
        }
        decoded
    }

    fn encode(&mut self, id: RequestId, part: Part<'_>, out: &mut Vec<u8>) {
        let Some(index) = self.requests.iter().position(|r| r.id == id.0) else {
            return;
        };
        let id = id.0;
        let request = &mut self.requests[index];
        let open = match request.response {
            Response::Pending | Response::Started => true,
            Response::Aborted => false,
            Response::Unannounced | Response::Ended => return,
        };
        match part {
            Part::Head(head) if open => {
                request.response = Response::Started;
                let write = if request.status_last {
                    cgi_head_status_last
                } else {
                    cgi_head
                };
                record::append_written(out, record::STDOUT, id, |out| write(head, out));
            }
            Part::Body(bytes) if open && !bytes.is_empty() => {
                request.response = Response::Started;
                record::append_stream(out, record::STDOUT, id, bytes);
            }
            Part::Errors(text) if open => record::append_errors(out, id, text),
            Part::Head(_) | Part::Body(_) | Part::Errors(_) => {}
            Part::End => {
                if request.response == Response::Started {
                    record::append_stream_end(out, record::STDOUT, id);
                }
                record::append_end_request(out, id, ProtocolStatus::RequestComplete);
                request.response = Response::Ended;
                self.body_end.take_if(|due| due.0 == id);
                let keep_conn = request.keep_conn;
                if matches!(request.input, Input::Ended) {
                    self.requests.remove(index);
                }
                self.note_end(keep_conn);
            }
        }
    }

    fn eof(&mut self) -> Eof {
        let mut aborted = Vec::new();
        for request in &mut self.requests {
            if matches!(
                request.response,
                Response::Pending | Response::Started | Response::Aborted
            ) {
                request.response = Response::Aborted;
                request.input = Input::Ended;
                aborted.push(RequestId(request.id));
            }
        }
        self.requests.retain(|r| r.response == Response::Aborted);
        if aborted.is_empty() {
            Eof::Clean
        } else {
            Eof::Abort(aborted)
        }
    }

    fn keep_alive(&self) -> bool {
        let in_progress = |r: &Request| r.response != Response::Ended && r.keep_conn;
        self.any_ended && (self.ended_keep_conn || self.requests.iter().any(in_progress))
    }

    fn held(&self) -> usize {
        self.requests.iter().map(Request::held).sum()
    }

    fn is_idle(&self) -> bool {
        self.header_len == 0
            && self.record.is_none()
            && self.body_end.is_none()
            && self.requests.is_empty()
    }
}

/// Judges by the first byte alone, so that the message does not depend on how the input was split.
fn wrong_version(version: u8, any_record: bool) -> ProtocolError {
    let looks_like = match version {
        _ if any_record => "; an earlier record may have had a wrong length",
        b'0'..=b'9' => {
            "; this looks like SCGI: set protocol = \"scgi\" or make the web server speak FastCGI"
        }
        0x12 => {
            "; this looks like AJP: set protocol = \"ajp\" or make the web server speak FastCGI"
        }
        b'A'..=b'Z' => {
            "; this looks like HTTP, such as \"GET \" or \"POST\": make the web server speak FastCGI"
        }
        _ => "",
    };
    ProtocolError(format!(
        "a FastCGI record has version {version}, not 1{looks_like}"
    ))
}
