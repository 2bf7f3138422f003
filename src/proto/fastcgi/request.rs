//! The state of one FastCGI request (FastCGI 1.0 sections 5.1 to 5.5 and 6), and its variables.
//!
//! Knows no records.

use super::params;
use crate::pairs::Pairs;
use crate::proto::{Event, RequestId};

/// A request, from its BEGIN_REQUEST until both its input and its response have ended.
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) role: Role,
    pub(super) keep_conn: bool,
    /// Whether the head ends with the status: see `cgi_head_status_last`.
    pub(super) status_last: bool,
    pub(super) input: Input,
    pub(super) response: Response,
}

/// The role that the web server asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Responder,
    Authorizer,
    /// Filter or an unspecified role: rejected with UNKNOWN_ROLE.
    Unknown,
}

// The input (an authorizer request goes from Params to Ended):
//
// Params ──empty PARAMS──▶ Stdin ──empty STDIN──▶ Ended
//   └─too long─▶ Refused ─empty PARAMS─▶ Drain ─empty STDIN──▲
pub(super) enum Input {
    Params(Vec<u8>),
    /// The rest of the params is discarded.
    Refused,
    Stdin,
    /// The body is discarded.
    Drain,
    Ended,
}

// The response:
//
// Unannounced ──Begin, Reject──▶ Pending ──Head, Body──▶ Started ──End──▶ Ended
//                                  └──ABORT_REQUEST──▶ Aborted ◀──┘     ▲
//                                                         └─────End─────┘
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Response {
    Unannounced,
    Pending,
    Started,
    Aborted,
    Ended,
}

impl Request {
    /// A request whose params follow.
    pub(super) fn new(id: u16, role: Role, keep_conn: bool) -> Request {
        Request {
            id,
            role,
            keep_conn,
            status_last: false,
            input: Input::Params(Vec::new()),
            response: Response::Unannounced,
        }
    }

    /// Bytes of params that are buffered.
    pub(super) fn incomplete_params(&self) -> usize {
        match &self.input {
            Input::Params(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// The memory that they take.
    pub(super) fn held(&self) -> usize {
        match &self.input {
            Input::Params(bytes) => bytes.capacity(),
            _ => 0,
        }
    }

    /// The event for complete params.
    pub(super) fn announce<'a>(&mut self, bytes: &[u8]) -> Event<'a> {
        let id = RequestId(self.id);
        match environ(self.role, bytes) {
            Ok(environ) => {
                self.input = Input::Stdin;
                self.status_last = environ.get(b"SERVER_SOFTWARE").is_some_and(is_haproxy);
                Event::Begin { id, environ }
            }
            Err(params::Truncated { at }) => {
                self.input = Input::Drain;
                Event::Reject {
                    id,
                    status: 400,
                    reason: format!("params end within the pair at byte {at} of {}", bytes.len()),
                }
            }
        }
    }
}

impl Role {
    /// Section 5.1.
    pub(super) fn from_number(number: u16) -> Role {
        match number {
            1 => Role::Responder,
            2 => Role::Authorizer,
            _ => Role::Unknown,
        }
    }
}

/// The variables of a request. FCGI_ROLE comes from the record, as only mod_fcgid sends it as a variable.
fn environ(role: Role, bytes: &[u8]) -> Result<Pairs, params::Truncated> {
    const FCGI_ROLE: &[u8] = b"FCGI_ROLE";
    const USUAL_PAIRS: usize = 48;
    let mut environ = Pairs::with_capacity(USUAL_PAIRS, bytes.len() + 32);
    let role: &[u8] = match role {
        Role::Authorizer => b"AUTHORIZER",
        Role::Responder | Role::Unknown => b"RESPONDER",
    };
    environ.push(FCGI_ROLE, role);
    for pair in params::pairs(bytes) {
        let (name, value) = pair?;
        if name != FCGI_ROLE {
            environ.push(name, value);
        }
    }
    Ok(environ)
}

fn is_haproxy(software: &[u8]) -> bool {
    const HAPROXY: &[u8] = b"haproxy";
    software
        .windows(HAPROXY.len())
        .any(|w| w.eq_ignore_ascii_case(HAPROXY))
}
