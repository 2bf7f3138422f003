//! The state of one FastCGI request: FastCGI 1.0 sections 5.1 to 5.5 and 6.
//!
//! What has come in, what has gone out, and how params become an environ. Knows no records.

use super::params;
use crate::pairs::Pairs;
use crate::proto::{Event, RequestId};

/// A request, from its BEGIN_REQUEST until it is answered and nothing more of it comes in.
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) role: Role,
    pub(super) keep_conn: bool,
    /// Where the status stands in the head: see `cgi_head_status_last`.
    pub(super) status_last: bool,
    pub(super) input: Input,
    pub(super) answer: Answer,
}

/// What the application is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Responder,
    Authorizer,
    /// Filter, or a role that the specification does not know: answered with UNKNOWN_ROLE, then swallowed.
    Unknown,
}

// What comes in (an authorizer goes from its last PARAMS to Ended):
//
// Params ──empty PARAMS──▶ Stdin ──empty STDIN──▶ Ended
//   └─too long─▶ Refused ─empty PARAMS─▶ Drain ─empty STDIN──▲
pub(super) enum Input {
    Params(Vec<u8>),
    /// Params without a use: swallowed.
    Refused,
    Stdin,
    /// A body without a use: swallowed.
    Drain,
    Ended,
}

// What goes out:
//
// Unannounced ──Begin, Reject──▶ Owed ──Head, Body──▶ Begun ──End──▶ Ended
//                                  └──ABORT_REQUEST──▶ Aborted ◀──┘     ▲
//                                                         └─────End─────┘
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Unannounced,
    Owed,
    Begun,
    Aborted,
    Ended,
}

impl Request {
    /// A request whose params are still to come.
    pub(super) fn new(id: u16, role: Role, keep_conn: bool) -> Request {
        Request {
            id,
            role,
            keep_conn,
            status_last: false,
            input: Input::Params(Vec::new()),
            answer: Answer::Unannounced,
        }
    }

    /// Bytes of params that are kept until all have come.
    pub(super) fn unfinished_params(&self) -> usize {
        match &self.input {
            Input::Params(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// The event of complete params.
    pub(super) fn announce<'a>(&mut self, bytes: &[u8]) -> Event<'a> {
        let id = RequestId(self.id);
        match environ(self.role, bytes) {
            Ok(environ) => {
                self.input = Input::Stdin;
                self.status_last = environ.get(b"SERVER_SOFTWARE").is_some_and(is_haproxy);
                Event::Begin { id, environ }
            }
            Err(params::Torn { at }) => {
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

/// The variables of a request. FCGI_ROLE is always ours: mod_fcgid sends one, others do not.
fn environ(role: Role, bytes: &[u8]) -> Result<Pairs, params::Torn> {
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
