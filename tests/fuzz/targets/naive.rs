//! A second decoder of FastCGI, written from the specification alone: it goes through the whole records of a complete byte
//! string, one after the other. What ours makes of the same bytes must be the same.

use super::codecs::{Answer, Told, play};
use runfcgi::proto::fastcgi::FastCgi;
use std::collections::BTreeMap;

/// FCGI_BEGIN_REQUEST and so on, section 8.
const BEGIN: u8 = 1;
const ABORT: u8 = 2;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const GET_VALUES: u8 = 9;
const GET_VALUES_RESULT: u8 = 10;
const UNKNOWN_TYPE: u8 = 11;

/// Record type, request id, content.
type Record<'a> = (u8, u16, &'a [u8]);

/// Names and values in order.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A request whose params are complete.
#[derive(Debug, PartialEq)]
struct Request {
    id: u16,
    /// None: they are torn.
    params: Option<Pairs>,
    stdin: Vec<u8>,
    end: Outcome,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Open,
    Complete,
    Aborted,
}

impl Request {
    fn new(id: u16, params: Option<Pairs>, end: Outcome) -> Request {
        Request {
            id,
            params,
            stdin: Vec::new(),
            end,
        }
    }
}

/// A request that is not answered yet.
enum Active {
    /// Its role, and its params so far.
    Params(u16, Vec<u8>),
    /// Its index among the requests.
    Stdin(usize),
}

/// What a connection says, if each request is answered as soon as it is complete, aborted or torn.
#[derive(Default)]
struct Decoded {
    requests: Vec<Request>,
    /// What is sent, but for the responses themselves.
    replies: Vec<(u8, u16, Vec<u8>)>,
    /// How many bytes this was made of.
    taken: usize,
    /// The bytes break the protocol there.
    broken: bool,
    /// No request is in progress.
    done: bool,
}

fn decode(bytes: &[u8]) -> Decoded {
    let mut out = Decoded::default();
    let mut active: BTreeMap<u16, Active> = BTreeMap::new();
    let end = |id, status| (END, id, vec![0, 0, 0, 0, status, 0, 0, 0]);
    while let Some(version) = bytes.get(out.taken) {
        if *version != 1 {
            out.taken += 1;
            out.broken = true;
            break;
        }
        let Some((record, length)) = record(&bytes[out.taken..]) else {
            break;
        };
        out.taken += length;
        match record {
            (GET_VALUES, 0, content) => {
                out.replies.push((GET_VALUES_RESULT, 0, values(content)));
            }
            (kind, 0, _) => {
                out.replies
                    .push((UNKNOWN_TYPE, 0, vec![kind, 0, 0, 0, 0, 0, 0, 0]));
            }
            (BEGIN, id, content) => {
                if content.len() != 8 || active.contains_key(&id) {
                    out.broken = true;
                    break;
                }
                match u16::from_be_bytes([content[0], content[1]]) {
                    role @ (1 | 2) => {
                        active.insert(id, Active::Params(role, Vec::new()));
                    }
                    _ => out.replies.push(end(id, 3)),
                }
            }
            (PARAMS, id, content) => {
                let Some(Active::Params(role, params)) = active.get_mut(&id) else {
                    continue;
                };
                if !content.is_empty() {
                    params.extend(content);
                    continue;
                }
                let role = *role;
                let params = list(params, role);
                let complete = params.is_none() || role == 2;
                active.insert(id, Active::Stdin(out.requests.len()));
                let state = if complete {
                    Outcome::Complete
                } else {
                    Outcome::Open
                };
                out.requests.push(Request::new(id, params, state));
                if complete {
                    active.remove(&id);
                    out.replies.push(end(id, 0));
                }
            }
            (STDIN, id, content) => match active.get(&id) {
                Some(Active::Params(..)) => {
                    out.broken = true;
                    break;
                }
                Some(Active::Stdin(at)) if content.is_empty() => {
                    out.requests[*at].end = Outcome::Complete;
                    active.remove(&id);
                    out.replies.push(end(id, 0));
                }
                Some(Active::Stdin(at)) => out.requests[*at].stdin.extend(content),
                None => {}
            },
            (ABORT, id, _) => {
                let Some(aborted) = active.remove(&id) else {
                    continue;
                };
                if let Active::Stdin(at) = aborted {
                    out.requests[at].end = Outcome::Aborted;
                }
                out.replies.push(end(id, 0));
            }
            _ => {}
        }
    }
    out.done = active.is_empty();
    out
}

/// Section 3.3: the first record, and its length. None: it is not whole.
fn record(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let header = bytes.get(..8)?;
    let id = u16::from_be_bytes([header[2], header[3]]);
    let content = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let length = 8 + content + usize::from(header[6]);
    bytes.get(..length)?;
    Some(((header[1], id, &bytes[8..8 + content]), length))
}

/// Section 3.4: name-value pairs, as many as are whole, and whether that is all.
fn name_value_pairs(bytes: &[u8]) -> (Pairs, bool) {
    let mut pairs = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let mut lengths = [0, 0];
        for length in &mut lengths {
            match (bytes.get(at), bytes.get(at..at + 4)) {
                (Some(short @ 0..=127), _) => {
                    *length = usize::from(*short);
                    at += 1;
                }
                (Some(_), Some(long)) => {
                    let long = [long[0] & 127, long[1], long[2], long[3]];
                    *length = u32::from_be_bytes(long) as usize;
                    at += 4;
                }
                _ => return (pairs, false),
            }
        }
        let [name, value] = lengths;
        if bytes.len() - at < name + value {
            return (pairs, false);
        }
        let pair = &bytes[at..at + name + value];
        pairs.push((pair[..name].to_vec(), pair[name..].to_vec()));
        at += name + value;
    }
    (pairs, true)
}

/// The variables: those with a NUL cannot be environment variables, and the role comes from the record.
fn list(params: &[u8], role: u16) -> Option<Pairs> {
    let (pairs, whole) = name_value_pairs(params);
    let role = if role == 2 { "AUTHORIZER" } else { "RESPONDER" };
    let mut list = vec![(b"FCGI_ROLE".to_vec(), role.as_bytes().to_vec())];
    let good = |(name, value): &(Vec<u8>, Vec<u8>)| {
        name != b"FCGI_ROLE" && !name.contains(&0) && !value.contains(&0)
    };
    list.extend(pairs.into_iter().filter(good));
    whole.then_some(list)
}

/// Section 4.1: the answer to GET_VALUES, of a server with these limits.
fn values(content: &[u8]) -> Vec<u8> {
    let mut known = BTreeMap::from([
        (&b"FCGI_MAX_CONNS"[..], "100"),
        (b"FCGI_MAX_REQS", "70000"),
        (b"FCGI_MPXS_CONNS", "1"),
    ]);
    let mut reply = Vec::new();
    for (name, _) in name_value_pairs(content).0 {
        if let Some(value) = known.remove(&name[..]) {
            reply.extend([name.len() as u8, value.len() as u8]);
            reply.extend([&name, value.as_bytes()].concat());
        }
    }
    reply
}

/// The same bytes through both decoders.
pub(super) fn compare(bytes: &[u8]) {
    let naive = decode(bytes);
    // Limits that these bytes do not reach: what happens at a limit is not in the specification.
    let mut codec = FastCgi::new(1 << 20, 70_000, 100);
    let whole = std::iter::once(&bytes[..naive.taken]);
    let seen = play(&mut codec, whole, Answer::AtTheEnd, usize::MAX);
    // After the last request on a connection that is not kept, whatever follows is ignored.
    assert!(naive.broken || seen.error.is_none(), "{:?}", seen.error);
    assert!(!naive.broken || seen.error.is_some() || naive.done);
    let mut requests = Vec::new();
    seen.events.iter().for_each(|told| add(told, &mut requests));
    assert_eq!(requests, naive.requests);
    let sent = records(&seen.sent);
    let replies = sent
        .into_iter()
        .filter(|(kind, ..)| ![STDOUT, STDERR].contains(kind));
    let replies: Vec<_> = replies
        .map(|(kind, id, content)| (kind, id, content.to_vec()))
        .collect();
    assert_eq!(replies, naive.replies);
}

/// The request with this id that has not ended.
fn open(requests: &mut [Request], id: u16) -> &mut Request {
    let mut requests = requests.iter_mut();
    let open = requests.rfind(|r| r.id == id && r.end == Outcome::Open);
    open.expect("an open request")
}

/// Adds what an event tells of a request.
fn add(told: &Told, requests: &mut Vec<Request>) {
    match told {
        Told::Begin(id, environ) => {
            let params = environ.iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
            requests.push(Request::new(*id, Some(params.collect()), Outcome::Open));
        }
        Told::Reject(id, 400, _) => requests.push(Request::new(*id, None, Outcome::Complete)),
        Told::Reject(..) => panic!("{told:?}"),
        Told::Body(id, bytes) => open(requests, *id).stdin.extend(bytes),
        Told::BodyEnd(id) => open(requests, *id).end = Outcome::Complete,
        Told::Abort(id) => open(requests, *id).end = Outcome::Aborted,
    }
}

/// What we send are whole records; none of a stream is empty but the one right before its END_REQUEST.
pub(super) fn records(mut sent: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    let mut ending = None;
    while !sent.is_empty() {
        let (found, length) = record(sent).expect("a whole record");
        let (kind, id, content) = found;
        assert_eq!((sent[0], length % 8), (1, 0));
        assert!(
            sent[8 + content.len()..length]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert!(
            [END, STDOUT, STDERR, GET_VALUES_RESULT, UNKNOWN_TYPE].contains(&kind),
            "{kind}"
        );
        assert!(kind != STDERR || (1..=4096).contains(&content.len()));
        if let Some(ended) = ending {
            assert_eq!((kind, id), (END, ended));
        }
        ending = (kind == STDOUT && content.is_empty()).then_some(id);
        records.push(found);
        sent = &sent[length..];
    }
    assert_eq!(ending, None);
    records
}
