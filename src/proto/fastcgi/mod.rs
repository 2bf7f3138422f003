//! FastCGI 1.0 as a codec: roles responder and authorizer, several requests on one connection.
//!
//! Keeps at most one record header, the unfinished params of each request and nothing of a body. Section numbers
//! are those of the FastCGI specification. Knows no socket, clock or log, and does not mend what servers send.

mod params;
mod record;
mod request;

use self::record::{ProtocolStatus, Record};
use self::request::{Answer, Input, Request, Role};
use super::head::{cgi_head, cgi_head_status_last};
use super::{Codec, Eof, Event, Part, ProtocolError, RequestId};

/// The unfinished params of all requests of a connection may take so many times what those of one may. Web servers send
/// each request's in one go.
const UNFINISHED: usize = 4;

/// One FastCGI connection.
pub struct FastCgi {
    max_params: usize,
    max_requests: usize,
    max_connections: usize,
    header: [u8; record::HEADER_LEN],
    header_len: usize,
    record: Option<Record>,
    any_record: bool,
    /// The content of a BEGIN_REQUEST or GET_VALUES record, until it is complete.
    content: Vec<u8>,
    requests: Vec<Request>,
    /// An authorizer's body ends with its params: the second event of one record.
    body_end: Option<RequestId>,
    /// FCGI_KEEP_CONN of the request that ended last.
    ended_keep_conn: bool,
    any_ended: bool,
    /// What comes is no longer looked at.
    deaf: bool,
}

impl FastCgi {
    /// `max_params`: how many bytes the params of a request may take, with their lengths.
    /// `max_requests`: how many requests may be going on at once on this connection; told as FCGI_MAX_REQS.
    /// `max_connections`: told as FCGI_MAX_CONNS.
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
            deaf: false,
        }
    }

    /// Eats up to the end of a header; `None` when it is not complete.
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

    /// Takes a piece of the content of `record`, whose lengths tell what follows the piece. An empty piece comes
    /// once, for a record without content.
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

    /// Section 4.1. Each known name is answered once, however often it is asked for.
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
        if known.is_some_and(|r| r.answer != Answer::Ended) {
            return Err(ProtocolError(format!(
                "BEGIN_REQUEST for request {id}, which is still going on"
            )));
        }
        let keep_conn = flags & record::KEEP_CONN != 0;
        let mut ended = self.requests.iter().filter(|r| r.answer == Answer::Ended);
        let oldest_ended = ended.next().map(|r| r.id);
        let ended = ended.count() + usize::from(oldest_ended.is_some());
        if self.requests.len() - ended >= self.max_requests {
            record::append_end_request(out, id, ProtocolStatus::Overloaded);
            self.note_end(keep_conn);
            return Ok(());
        }
        // A peer that begins anew with an id, or leaves many bodies without an end, will not send the rest of them.
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
            request.answer = Answer::Ended;
            self.note_end(keep_conn);
        }
        self.requests.push(request);
        Ok(())
    }

    /// Section 5.2.
    fn params<'a>(&mut self, id: u16, piece: &[u8]) -> Option<Event<'a>> {
        let max_params = self.max_params;
        let index = self.requests.iter().position(|r| r.id == id)?;
        let max_unfinished = max_params.saturating_mul(UNFINISHED);
        let unfinished: usize = self.requests.iter().map(Request::unfinished_params).sum();
        let request = &mut self.requests[index];
        let event = match &mut request.input {
            Input::Params(bytes) if piece.is_empty() => {
                let bytes = std::mem::take(bytes);
                request.answer = Answer::Owed;
                Some(request.announce(&bytes))
            }
            Input::Params(bytes) => {
                let fits = bytes.len() + piece.len() <= max_params;
                if fits && unfinished + piece.len() <= max_unfinished {
                    bytes.extend_from_slice(piece);
                    return None;
                }
                request.input = Input::Refused;
                request.answer = Answer::Owed;
                let (status, reason) = if fits {
                    let reason = "unfinished params of many requests at once: more than";
                    (503, format!("{reason} {max_unfinished} bytes"))
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

    /// Section 5.3. An authorizer has no body, though lighttpd ends it.
    fn stdin<'a>(&mut self, id: u16, bytes: &'a [u8]) -> Result<Option<Event<'a>>, ProtocolError> {
        let Some(index) = self.requests.iter().position(|r| r.id == id) else {
            return Ok(None);
        };
        let id = RequestId(id);
        let request = &self.requests[index];
        let wanted = matches!(request.answer, Answer::Owed | Answer::Begun);
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
        match request.answer {
            Answer::Unannounced => {
                record::append_end_request(out, id, ProtocolStatus::RequestComplete);
                let keep_conn = request.keep_conn;
                self.requests.swap_remove(index);
                self.note_end(keep_conn);
                None
            }
            Answer::Owed | Answer::Begun => {
                request.answer = Answer::Aborted;
                request.input = Input::Ended;
                Some(Event::Abort { id: RequestId(id) })
            }
            Answer::Aborted => None,
            Answer::Ended => {
                self.requests.remove(index);
                None
            }
        }
    }

    /// Nothing more is expected from the peer for this request.
    fn end_input(&mut self, index: usize) {
        let request = &mut self.requests[index];
        request.input = Input::Ended;
        if request.answer == Answer::Ended {
            self.requests.remove(index);
        }
    }

    fn note_end(&mut self, keep_conn: bool) {
        self.ended_keep_conn = keep_conn;
        self.any_ended = true;
    }

    /// Whether all that this connection was made for has come in: no request on it has FCGI_KEEP_CONN, and none lacks
    /// anything.
    fn has_all(&self) -> bool {
        let all = |r: &Request| !r.keep_conn && matches!(r.input, Input::Ended);
        (self.any_ended || !self.requests.is_empty())
            && !self.keep_alive()
            && self.requests.iter().all(all)
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
        if !self.deaf {
            decoded = self.decode_records(input, out);
            // Cherokee goes on with the header of a record that it has not filled in.
            self.deaf = decoded.is_err() && self.has_all();
        }
        if self.deaf {
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
        let open = match request.answer {
            Answer::Owed | Answer::Begun => true,
            Answer::Aborted => false,
            Answer::Unannounced | Answer::Ended => return,
        };
        match part {
            Part::Head(head) if open => {
                request.answer = Answer::Begun;
                let write = if request.status_last {
                    cgi_head_status_last
                } else {
                    cgi_head
                };
                record::append_written(out, record::STDOUT, id, |out| write(head, out));
            }
            Part::Body(bytes) if open && !bytes.is_empty() => {
                request.answer = Answer::Begun;
                record::append_stream(out, record::STDOUT, id, bytes);
            }
            Part::Errors(text) if open => record::append_errors(out, id, text),
            Part::Head(_) | Part::Body(_) | Part::Errors(_) => {}
            Part::End => {
                if request.answer == Answer::Begun {
                    record::append_stream_end(out, record::STDOUT, id);
                }
                record::append_end_request(out, id, ProtocolStatus::RequestComplete);
                request.answer = Answer::Ended;
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
                request.answer,
                Answer::Owed | Answer::Begun | Answer::Aborted
            ) {
                request.answer = Answer::Aborted;
                request.input = Input::Ended;
                aborted.push(RequestId(request.id));
            }
        }
        self.requests.retain(|r| r.answer == Answer::Aborted);
        if aborted.is_empty() {
            Eof::Clean
        } else {
            Eof::Abort(aborted)
        }
    }

    fn keep_alive(&self) -> bool {
        let going_on = |r: &Request| r.answer != Answer::Ended && r.keep_conn;
        self.any_ended && (self.ended_keep_conn || self.requests.iter().any(going_on))
    }

    fn is_idle(&self) -> bool {
        self.header_len == 0
            && self.record.is_none()
            && self.body_end.is_none()
            && self.requests.is_empty()
    }
}

/// Looks at the first byte alone, so that the words do not hang on how the bytes were cut.
fn wrong_version(version: u8, any_record: bool) -> ProtocolError {
    let looks_like = match version {
        _ if any_record => "; the records before it may have had a wrong length",
        b'0'..=b'9' => {
            "; the bytes look like SCGI: set protocol = \"scgi\" or let the server speak FastCGI"
        }
        0x12 => "; the bytes look like AJP: set protocol = \"ajp\" or let the server speak FastCGI",
        b'A'..=b'Z' => {
            "; the bytes look like HTTP, such as \"GET \" or \"POST\": let the server speak FastCGI"
        }
        _ => "",
    };
    ProtocolError(format!(
        "a FastCGI record has version {version}, not 1{looks_like}"
    ))
}
