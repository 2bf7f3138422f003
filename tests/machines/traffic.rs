//! Traffic as its transcripts see it: the web servers' side as bytes and peers that take them or not, the app's side as
//! what it answers. No sockets.
//!
//! ```text
//! settings max_body=10 ping=/ping secret=hush access debug user    the first line: what differs from the defaults
//! > scgi, fcgi, ajp            a connection comes; they are numbered from 1 on, as requests are
//! > cgi POST /a 5              a CGI process begins with this request
//! > 1 POST /a NAME=value 5 BYTES    a request on an SCGI connection: variables, CONTENT_LENGTH, and so much of its body
//! > 1.3 POST /a 5 BYTES        the same with id 3 on a FastCGI connection, kept open; GET has no body and ends it
//! > 1.3+1.4 GET /a             two in one piece; `GET!` is not to keep the connection
//! > 1.3 stdin BYTES            more of a body; its end when there are none
//! > 1.3 abort
//! > 1 bytes BYTES              anything else; BYTES is as `notation` says
//! > 1 eof, gone                the peer sends no more, or is not there any more
//! > 1 takes nothing            from now on the peer takes so many bytes, or: all
//! > head 1 200 OK|Name|value   from here on the number is that of a request
//! > data 1 BYTES
//! > file 1 OFFSET LENGTH BYTES  part of a file that holds BYTES
//! > stderr 1 BYTES, stdout 1 BYTES
//! > end 1, truncated 1, forget 1
//! > caught 1 EXCEPTION         see `exception`
//! > fail 1 WHY, give_up 1 WHY  see `failure`
//! > answer 1 BYTES             a page of the front itself
//! > redact 1 /path
//! > apply max_body=20          new settings
//! > told here WHY, told everywhere WHY    why no request can be served is in our log, or in the web server's, too
//! > freeze, thaw
//! > ask                        what can be asked
//! ```
//! A page of an error is told by its status, and with `debug` by what it shows; an incident by its request's number.

use super::Machine;
use super::notation::parse_bytes;
use super::peer::{Peer, fastcgi, record, request, scgi, shown_bytes};
use runfcgi::body::Body;
use runfcgi::config::{Config, Protocol};
use runfcgi::failure::{Exception, Failure};
use runfcgi::pairs::Pairs;
use runfcgi::request::{RequestNo, Stream};
use runfcgi::response::ResponseHead;
use runfcgi::spool::{Content, Spool};
use runfcgi::traffic::{ConnNo, Output, Settings, Traffic};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The machine, and who is at the other ends.
struct Played {
    traffic: Traffic,
    config: Config,
    peers: BTreeMap<ConnNo, Peer>,
    incidents: Vec<(String, RequestNo)>,
    now: Instant,
    shown: Vec<String>,
}

/// A machine with these settings.
pub(crate) fn begin(words: &str) -> Box<dyn Machine> {
    Box::new(Played::new(words.trim_start_matches("settings").trim()))
}

fn configure(config: &mut Config, words: &str) {
    for word in words.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<usize>().expect("a number");
        let limits = &mut config.limits;
        match name {
            "max_connections" => limits.max_connections = number(),
            "max_params" => limits.max_params = number(),
            "max_body" => limits.max_body = number() as u64,
            "spool" => limits.spool = Some(number() as u64),
            "min_rate" => limits.min_rate = number() as u64,
            "read_timeout" => limits.read_timeout = number() as u64,
            "write_timeout" => limits.write_timeout = number() as u64,
            "ping" => config.server.ping = Some(value.into()),
            "secret" => config.server.secret = Some(value.into()),
            "access" => config.log.access = Some("access.log".into()),
            "debug" => config.server.debug = true,
            "user" => config.server.remote_user = true,
            _ => panic!("no setting {word}"),
        }
    }
}

impl Machine for Played {
    fn event(&mut self, event: &str, now: Instant) {
        self.now = now;
        let (name, rest) = event.split_once(' ').unwrap_or((event, ""));
        match name {
            "scgi" => self.connect(Protocol::Scgi),
            "fcgi" => self.connect(Protocol::Fcgi),
            "ajp" => self.connect(Protocol::Ajp),
            "cgi" => {
                let (environ, _) = request(rest);
                let number = self.traffic.on_cgi(environ, now);
                self.meet(number, None);
            }
            "apply" => {
                configure(&mut self.config, rest);
                let config = Rc::new(self.config.clone());
                self.traffic.apply(Settings::new(config, "site.fcgi", true));
            }
            "freeze" => self.traffic.freeze_idle(true),
            "thaw" => self.traffic.freeze_idle(false),
            "told" => {
                let (place, reason) = rest.split_once(' ').expect("where, and what");
                let reason = reason.replace('|', "\n");
                let everywhere = place == "everywhere";
                self.traffic.responses().told(&reason, everywhere);
            }
            "ask" => self.ask(),
            _ if name.starts_with(|c: char| c.is_ascii_digit()) => self.peer(name, rest),
            _ => self.app(name, rest),
        }
    }

    fn time(&mut self, now: Instant) {
        self.now = now;
        if self.traffic.deadline().is_some_and(|at| at <= now) {
            self.traffic.on_time(now);
        }
    }

    fn outputs(&mut self) -> Vec<String> {
        loop {
            while let Some(output) = self.traffic.poll() {
                self.output(output);
            }
            let connections = self.traffic.connections_mut();
            let mut to_flush: Vec<ConnNo> =
                std::iter::from_fn(|| connections.next_to_flush()).collect();
            to_flush.sort();
            if to_flush.is_empty() {
                return self
                    .shown
                    .drain(..)
                    .map(|text| hide(text, &self.incidents))
                    .collect();
            }
            for number in to_flush {
                self.flush(number);
            }
        }
    }
}

impl Played {
    fn new(words: &str) -> Played {
        let mut config = Config::default();
        configure(&mut config, words);
        let settings = Settings::new(Rc::new(config.clone()), "site.fcgi", true);
        Played {
            traffic: Traffic::new(settings, 7),
            config,
            peers: BTreeMap::new(),
            incidents: Vec::new(),
            now: Instant::now(),
            shown: Vec::new(),
        }
    }

    fn connect(&mut self, protocol: Protocol) {
        self.traffic.make_room(self.now);
        let number = self.traffic.on_connection(protocol, self.now);
        self.meet(number, Some(protocol));
    }

    fn meet(&mut self, number: ConnNo, protocol: Option<Protocol>) {
        let interest = self.traffic.connections().interest(number);
        let peer = Peer {
            protocol,
            takes: None,
            taken: Vec::new(),
            interest,
        };
        self.peers.insert(number, peer);
    }

    /// What a peer does.
    fn peer(&mut self, target: &str, event: &str) {
        let (conn, ids) = numbers(target);
        let (name, rest) = event.split_once(' ').unwrap_or((event, ""));
        let bytes = || parse_bytes(rest).expect("bytes");
        let reads = self.traffic.connections().takes_input(conn);
        let waits = ["gone", "takes"].contains(&name);
        assert!(
            reads || waits,
            "{conn:?} is not read, so it cannot hear of {event}"
        );
        match name {
            "bytes" => self.traffic.on_bytes(conn, &bytes(), self.now),
            "eof" => self.traffic.on_eof(conn, self.now),
            "gone" => self.traffic.on_gone(conn, self.now),
            "takes" => {
                let peer = self
                    .peers
                    .get_mut(&conn)
                    .unwrap_or_else(|| panic!("no connection {target}"));
                peer.takes = match rest {
                    "nothing" => Some(0),
                    "all" => None,
                    number => Some(number.parse().expect("a number")),
                };
                self.flush(conn);
            }
            "stdin" => {
                let piece: Vec<u8> = ids.iter().flat_map(|id| record(*id, 5, &bytes())).collect();
                self.traffic.on_bytes(conn, &piece, self.now);
            }
            "abort" => {
                let piece: Vec<u8> = ids.iter().flat_map(|id| record(*id, 2, b"")).collect();
                self.traffic.on_bytes(conn, &piece, self.now);
            }
            method => {
                let kept = !method.ends_with('!');
                let (environ, body) = request(&event.replacen('!', "", 1));
                let sends = |id: &u16| fastcgi(*id, kept, &environ, &body);
                let piece = match ids.as_slice() {
                    [] => scgi(&environ, &body),
                    ids => ids.iter().flat_map(sends).collect(),
                };
                self.traffic.on_bytes(conn, &piece, self.now);
            }
        }
    }

    /// What comes from the app's side.
    fn app(&mut self, name: &str, rest: &str) {
        let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = RequestNo(number.parse().expect("a request"));
        let bytes = |text: &str| parse_bytes(text).expect("bytes");
        let now = self.now;
        let responses = self.traffic.responses();
        match name {
            "head" => {
                let payload = rest.replace('|', "\0").into_bytes();
                responses.head(number, &[&payload[..], b"\0"].concat(), now);
            }
            "data" => responses.data(number, &bytes(rest), now),
            "file" => {
                let mut words = rest.splitn(3, ' ');
                let mut word = || words.next().expect("offset, length and bytes");
                let offset = word().parse().expect("a number");
                let length = word().parse().expect("a number");
                let file = file(&bytes(word()));
                responses.file(number, file, offset, length);
            }
            "stderr" => responses.text(number, Stream::Stderr, &bytes(rest), false),
            "stdout" => responses.text(number, Stream::Stdout, &bytes(rest), false),
            "end" => responses.end(number, false, now),
            "truncated" => responses.end(number, true, now),
            "caught" => responses.caught(number, exception(rest)),
            "forget" => responses.forget(number, now),
            "fail" => responses.fail(number, failure(rest), now),
            "give_up" => responses.give_up(number, failure(rest), now),
            "answer" => {
                let head = ResponseHead::from_wire(b"200 OK\0").expect("a head");
                responses.answer(number, &head, &bytes(rest), now);
            }
            "redact" => responses.redact(number, Rc::new(request(&format!("GET {rest}")).0)),
            _ => panic!("no event {name}"),
        }
    }

    fn ask(&mut self) {
        let connections = self.traffic.connections();
        let list = |which: &dyn Fn(ConnNo) -> bool| {
            let numbers = self.peers.keys().filter(|number| which(**number));
            let numbers: Vec<String> = numbers.map(|number| number.0.to_string()).collect();
            match numbers.is_empty() {
                true => "none".into(),
                false => numbers.join(" "),
            }
        };
        let idle: Vec<ConnNo> = connections.idle().collect();
        let until = self.traffic.deadline();
        let expected = connections.expected_until(self.now);
        let seconds = |at: Option<Instant>| {
            at.map_or("none".into(), |at| {
                let left = at.saturating_duration_since(self.now);
                format!("{}s", left.as_secs_f64())
            })
        };
        let shown = format!(
            "in use {}, idle: {}, only wait: {}; {}, {}; deadline: {}; expected: {}",
            connections.in_use(),
            list(&|number| idle.contains(&number)),
            list(&|number| connections.only_waits(number)),
            match self.traffic.is_idle() {
                true => "nothing in hand",
                false if self.traffic.is_receiving() => "receiving",
                false if self.traffic.has_no_requests() => "no requests",
                false => "busy",
            },
            match self.traffic.has_room() {
                true => "room",
                false => "no room",
            },
            seconds(until),
            seconds(expected),
        );
        self.shown.push(shown);
    }

    /// Sends what a connection has to send, as far as its peer takes it.
    fn flush(&mut self, number: ConnNo) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        loop {
            let Some(outbox) = self.traffic.connections_mut().outbox(number) else {
                return;
            };
            let taken = peer.take(outbox);
            if !self.traffic.on_sent(number, taken, self.now) {
                break;
            }
        }
        let shown = peer.show(number);
        self.shown.extend(shown);
        if self.traffic.connections_mut().outbox(number).is_none() {
            return;
        }
        let interest = self.traffic.connections().interest(number);
        if interest != std::mem::replace(&mut peer.interest, interest) {
            let shown = match (interest.read, interest.write) {
                (true, true) => "reads, and waits to send",
                (true, false) => "reads",
                (false, true) => "waits to send",
                (false, false) => "waits",
            };
            self.shown.push(format!("{} {shown}", number.0));
        }
    }

    fn output(&mut self, output: Output) {
        let shown = match output {
            Output::Ready(request) => {
                let get = |name: &[u8]| {
                    let value = request.environ.get(name).unwrap_or_default();
                    String::from_utf8_lossy(value).into_owned()
                };
                let mut text = format!("ready {}: {}", request.number.0, line(&request.environ));
                match get(b"REMOTE_USER").as_str() {
                    "" => (),
                    user => text += &format!(", user {user}"),
                }
                if !get(b"CONTENT_LENGTH").is_empty() {
                    text += &format!(", {} bytes", get(b"CONTENT_LENGTH"));
                }
                match request.body {
                    Body::Memory(bytes) if bytes.is_empty() => text,
                    Body::Memory(bytes) => format!("{text} {}", shown_bytes(&bytes)),
                    Body::File(file) => format!("{text}, a file of {}", file.length()),
                }
            }
            Output::Abandoned(number) => format!("abandoned {}", number.0),
            Output::Hold(number, true) => format!("hold {}", number.0),
            Output::Hold(number, false) => format!("go on {}", number.0),
            Output::Stalled(number, true) => format!("{} stalls", number.0),
            Output::Stalled(number, false) => format!("{} takes some", number.0),
            Output::ShutDown(number) => format!("{} is shut down", number.0),
            Output::Close(number, mut outbox) => {
                let mut peer = self.peers.remove(&number).expect("a connection");
                peer.take(&mut outbox);
                self.shown.extend(peer.show(number));
                format!("{} is closed", number.0)
            }
            Output::Log(level, text) | Output::LogCopy(level, text) => {
                format!("{level}{}", text.replace('\n', " / "))
            }
            Output::Access(access) => {
                let head = access.head.as_ref();
                let page = head.is_some_and(|h| h.get(b"Content-Security-Policy").is_some());
                let sent = match page {
                    true => String::from("a page"),
                    false => access.sent.to_string(),
                };
                format!(
                    "access {}: {}, {} in, {sent} out, {}{}",
                    line(&access.environ),
                    head.map_or(0, |head| head.status),
                    access.received,
                    if access.whole { "whole" } else { "aborted" },
                    match access.took.as_secs() {
                        0 => String::new(),
                        seconds => format!(" after {seconds}s"),
                    },
                )
            }
            Output::Repeated(text, count, _) => format!("repeated {count}: {text}"),
            Output::Answered(status) => format!("answered {status}"),
            Output::Count(count, more) => format!("count {count:?} {more}").to_lowercase(),
            Output::Failed(number, failed, told) => {
                let told = if told { "" } else { "not told: " };
                let (status, line) = (failed.failure.status(), line(&failed.environ));
                self.incidents.push((failed.incident, number));
                format!("{told}failed {} {status}: {line}", number.0)
            }
        };
        self.shown.push(shown);
    }
}

/// `1`, `1.3`, `1.3+1.4`: the connection and the ids.
fn numbers(target: &str) -> (ConnNo, Vec<u16>) {
    let split = |part: &str| match part.split_once('.') {
        Some((conn, id)) => (
            conn.parse().expect("a connection"),
            Some(id.parse().expect("an id")),
        ),
        None => (part.parse().expect("a connection"), None),
    };
    let parts: Vec<(u64, Option<u16>)> = target.split('+').map(split).collect();
    let ids = parts.iter().filter_map(|(_, id)| *id).collect();
    (ConnNo(parts[0].0), ids)
}

/// A file without a name that holds these bytes.
fn file(bytes: &[u8]) -> File {
    let spool = Spool::new(1 << 30, 0);
    let mut file = spool.open(Content::Body).expect("a file");
    file.append(bytes).expect("room");
    file.file().try_clone().expect("a file")
}

fn failure(why: &str) -> Failure {
    let (name, text) = why.split_once(' ').unwrap_or((why, ""));
    let text = text.to_owned();
    match name {
        "exception" => Failure::Exception(exception(&text)),
        "lost" => Failure::WorkerLost(String::from("the worker died"), 42),
        "unavailable" => Failure::Unavailable(text.replace('|', "\n")),
        "queue" => Failure::QueueFull(3),
        "late" => Failure::QueueTimeout(30),
        "ran" => Failure::RequestTimeout(240),
        "none" => Failure::NoWorker,
        _ => panic!("no failure {why}"),
    }
}

/// `Traceback|NameError: x`: the class stands in the last line. `at x.py:1` before it is the place.
fn exception(text: &str) -> Box<Exception> {
    let (place, text) = match text.strip_prefix("at ").and_then(|t| t.split_once('|')) {
        Some((place, text)) => (place, text),
        None => ("", text),
    };
    let summary = text.rsplit('|').next().unwrap_or_default();
    Box::new(Exception {
        kind: summary.split(':').next().unwrap_or_default().to_owned(),
        summary: summary.to_owned(),
        place: place.to_owned(),
        traceback: text.replace('|', "\n"),
        hint: String::new(),
    })
}

/// Method and path, as the app sees them when it does.
fn line(environ: &Pairs) -> String {
    let get = |name: &[u8]| String::from_utf8_lossy(environ.get(name).unwrap_or_default());
    match environ.is_empty() {
        true => "?".into(),
        false => format!("{} {}", get(b"REQUEST_METHOD"), get(b"REQUEST_URI")),
    }
}

/// The number of the request in the place of the incident's id.
fn hide(text: String, incidents: &[(String, RequestNo)]) -> String {
    let hide_one = |text: String, (incident, number): &(String, RequestNo)| {
        text.replace(incident, &format!("#{}", number.0))
    };
    incidents.iter().fold(text, hide_one)
}

/// Whatever happens, in any order: no request is abandoned twice, and when all peers are gone and all workers done,
/// nothing is left.
#[test]
fn nothing_is_left_in_hand() {
    const PEERS: [&str; 17] = [
        "takes nothing",
        "takes 100000",
        "takes all",
        "eof",
        "gone",
        "bytes \"1\"",
        "POST /a 20000 \"a\"*20000",
        "GET /a",
        "1 GET /a",
        "2 GET /a",
        "2 GET! /a",
        "3 POST /a 5 \"hel\"",
        "3 stdin \"l\"",
        "3 stdin",
        "1 abort",
        "2 abort",
        "3 abort",
    ];
    const APP: [&str; 9] = [
        "head 200 OK",
        "head 200 OK|Content-Length|150000",
        "data \"x\"*150000",
        "file 0 150000 \"x\"*150000",
        "stderr \"line\\n\"",
        "fail exception text",
        "truncated",
        "end",
        "give_up lost",
    ];
    for seed in 1..=300_u64 {
        let mut random = crate::random(seed);
        let spool = [0, 400_000, 1 << 30][seed as usize % 3];
        let settings = "access debug read_timeout=10 write_timeout=10";
        let mut played = Played::new(&format!("{settings} spool={spool}"));
        let mut now = Instant::now();
        let mut open: Vec<u64> = Vec::new();
        let mut said = Vec::new();
        for _ in 0..150 {
            let event = match random(10) {
                0 => String::from(["scgi", "fcgi", "freeze", "thaw", "apply access"][random(5)]),
                1 => {
                    now += Duration::from_secs(random(8) as u64);
                    played.time(now);
                    String::from("apply access")
                }
                2..=5 if !played.peers.is_empty() => {
                    let peers: Vec<ConnNo> = played.peers.keys().copied().collect();
                    let conn = peers[random(peers.len())];
                    let event = PEERS[random(PEERS.len())];
                    let fastcgi = played.peers[&conn].protocol == Some(Protocol::Fcgi);
                    let numbered = event.starts_with(|c: char| c.is_ascii_digit());
                    let request = event.contains("/a") || event.contains("stdin");
                    let waits = ["gone", "takes all", "takes nothing"].contains(&event);
                    let hears = played.traffic.connections().takes_input(conn);
                    if fastcgi != numbered && (request || numbered) || !hears && !waits {
                        continue;
                    }
                    match event.split_once(' ') {
                        Some((id, event)) if numbered => format!("{}.{id} {event}", conn.0),
                        _ => format!("{} {event}", conn.0),
                    }
                }
                _ if !open.is_empty() => {
                    let at = random(open.len());
                    let (name, rest) = APP[random(APP.len())]
                        .split_once(' ')
                        .unwrap_or(("end", ""));
                    let number = open[at];
                    if ["end", "give_up"].contains(&name) {
                        open.remove(at);
                    }
                    format!("{name} {number} {rest}")
                }
                _ => continue,
            };
            played.event(&event, now);
            for output in played.outputs() {
                if let Some(ready) = output.strip_prefix("ready ") {
                    let number = ready.split(':').next().expect("a number");
                    open.push(number.parse().expect("a number"));
                }
                said.push(output);
            }
        }
        let peers: Vec<ConnNo> = played.peers.keys().copied().collect();
        for conn in peers {
            played.event(&format!("{} gone", conn.0), now);
            said.extend(played.outputs());
        }
        for number in &open {
            played.event(&format!("end {number}"), now);
            said.extend(played.outputs());
        }
        said.sort();
        let ends: Vec<&String> = said.iter().filter(|s| s.starts_with("abandoned")).collect();
        assert!(ends.windows(2).all(|two| two[0] != two[1]), "seed {seed}");
        assert!(played.traffic.is_idle(), "seed {seed}");
        assert!(played.traffic.connections().is_empty(), "seed {seed}");
        assert_eq!(played.traffic.deadline(), None, "seed {seed}");
        assert_eq!(played.traffic.spooled(), 0, "seed {seed}");
    }
}

#[test]
fn a_file_holds_what_it_is_given() {
    let mut found = String::new();
    let mut file = file(b"abc");
    file.rewind().expect("a file");
    file.read_to_string(&mut found).expect("text");
    assert_eq!(found, "abc");
}
