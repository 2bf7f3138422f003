//! Transcripts: what goes over the wire, as text files under `tests/wire/<codec>/`. The whole of every codec's
//! behaviour is told there; this file only plays them. A new bug is a new file.
//!
//! Each transcript is played whole, byte by byte, cut in two at every offset and, where the protocol keeps the
//! connection, twice on one connection.
//!
//! ```text
//! # a comment
//! % name value       a setting, given to the codec at construction (see `codec` below)
//! > BYTES            the peer sends; consecutive lines are one piece, also with = and < lines in between (? ends it)
//! = begin 1          an event; its variables follow, one a line, two spaces deeper:
//! =   NAME=value       either side may be BYTES in quotes; the list is complete and in order
//! = body 1 BYTES     consecutive bodies of one request are joined before they are compared
//! = bodyend 1
//! = reject 1 431 words of the reason
//! = abort 1
//! < BYTES            the codec sends; all < lines of a step are joined
//! ! words            a protocol error with these words; the last step
//! @ 1 head 200 OK | Name: value | Name: value
//! @ 1 body BYTES
//! @ 1 errors BYTES
//! @ 1 end
//! @ eof clean        the peer shuts down; or: halfclosed, abort 1 2
//! ? idle keep        what is_idle() and keep_alive() say now: idle or busy, keep or close
//! ```
//! `=`, `<`, `!` and `?` belong to the `>` or `@` step before them; `@` lines without any of them in between are
//! one step. BYTES is as
//! `notation` says.

#![allow(clippy::unwrap_used)]

mod notation;

use notation::{number, parse_bytes};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;

use runfcgi::pairs::Pairs;
use runfcgi::proto::ajp13::{Ajp13, Ajp13Options};
use runfcgi::proto::cgi::Cgi;
use runfcgi::proto::fastcgi::FastCgi;
use runfcgi::proto::scgi::Scgi;
use runfcgi::proto::{Codec, Eof, Event, Part, RequestId};
use runfcgi::response::ResponseHead;

/// The codec of a directory under `tests/wire`: the one place to name a new one.
fn codec(directory: &str, settings: &Settings) -> Box<dyn Codec> {
    match directory {
        "fastcgi" => Box::new(FastCgi::new(
            settings.number("max_params", 1 << 20),
            settings.number("max_requests", 64),
            settings.number("max_connections", 1024),
        )),
        "cgi" => Box::new(Cgi::new(settings.pairs("env"))),
        "scgi" => Box::new(Scgi::new(settings.number("max_params", 1 << 18))),
        "ajp13" => Box::new(Ajp13::new(Ajp13Options {
            secret: settings.text("secret").map(|secret| secret.into()),
            max_packet: settings.number("max_packet", 8192),
            max_params: settings.number("max_params", 1 << 18),
        })),
        _ => panic!("no codec for tests/wire/{directory}"),
    }
}

#[test]
fn fastcgi() {
    play_directory("fastcgi");
}

#[test]
fn cgi() {
    play_directory("cgi");
}

#[test]
fn scgi() {
    play_directory("scgi");
}

#[test]
fn ajp13() {
    play_directory("ajp13");
}

#[test]
fn every_directory_is_played() {
    let played = include_str!("wire.rs");
    for entry in std::fs::read_dir(wire()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            played.contains(&format!("play_directory(\"{name}\")")),
            "{name}"
        );
    }
}

fn wire() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

fn play_directory(directory: &str) {
    let mut files: Vec<_> = std::fs::read_dir(wire().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no transcripts in {directory}");
    let mut failures = String::new();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let failed = Transcript::parse(&text)
            .and_then(|transcript| transcript.play_all_ways(|settings| codec(directory, settings)));
        if let Err(why) = failed {
            writeln!(failures, "{directory}/{name}:{why}").unwrap();
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// The `%` lines of a transcript.
#[derive(Default)]
struct Settings(Vec<(String, String)>);

impl Settings {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| &v[..])
    }

    fn number(&self, name: &str, default: usize) -> usize {
        self.text(name).map_or(default, |v| v.parse().unwrap())
    }

    /// All lines `% name NAME=value`.
    fn pairs(&self, name: &str) -> Pairs {
        let mut pairs = Pairs::new();
        for (_, pair) in self.0.iter().filter(|(n, _)| n == name) {
            let (name, value) = pair.split_once('=').unwrap();
            assert!(pairs.push(name.as_bytes(), value.as_bytes()));
        }
        pairs
    }
}

#[derive(Default)]
struct Transcript {
    settings: Settings,
    steps: Vec<Step>,
}

struct Step {
    line: usize,
    action: Action,
    sends: Vec<u8>,
    events: Vec<Seen>,
    error: Option<String>,
    state: Vec<String>,
    expects: bool,
}

enum Action {
    Feed(Vec<u8>),
    Answer(Vec<Call>),
    Eof,
}

struct Call {
    id: RequestId,
    part: OwnedPart,
}

enum OwnedPart {
    Head(ResponseHead),
    Body(Vec<u8>),
    Errors(Vec<u8>),
    End,
}

/// An event, or the meaning of an end, in a form that can be kept, compared and shown. A `Reject`'s words are those of the
/// transcript where it is expected, the whole reason where it was seen.
#[derive(Clone, PartialEq)]
enum Seen {
    Begin(u16, Vec<(Vec<u8>, Vec<u8>)>),
    Reject(u16, u16, String),
    Body(u16, Vec<u8>),
    BodyEnd(u16),
    Abort(u16),
    Eof(String),
}

/// How the bytes of a transcript are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    EveryByte,
    At(usize),
}

impl Transcript {
    fn parse(text: &str) -> Result<Transcript, String> {
        let mut transcript = Transcript::default();
        for (number, line) in text.lines().enumerate() {
            transcript
                .parse_line(number + 1, line)
                .map_err(|why| format!("{}: {why}: {line}", number + 1))?;
        }
        if transcript.steps.is_empty() {
            return Err(" no steps".into());
        }
        Ok(transcript)
    }

    fn parse_line(&mut self, line: usize, text: &str) -> Result<(), String> {
        let Some(kind) = text.chars().next() else {
            return Ok(());
        };
        let rest = text[kind.len_utf8()..].trim_end();
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match kind {
            '#' => return Ok(()),
            '%' => {
                let (name, value) = rest.split_once(' ').ok_or("a setting has no value")?;
                self.settings.0.push((name.into(), value.trim().into()));
                return Ok(());
            }
            '>' => {
                let bytes = parse_bytes(rest)?;
                match self.steps.last_mut() {
                    Some(Step {
                        action: Action::Feed(fed),
                        state,
                        ..
                    }) if state.is_empty() => fed.extend(bytes),
                    _ => self.steps.push(Step::new(line, Action::Feed(bytes))),
                }
                return Ok(());
            }
            '@' => return self.parse_call(line, rest),
            _ => {}
        }
        let step = self.steps.last_mut().ok_or("nothing has happened yet")?;
        step.expects = true;
        match kind {
            '<' => step.sends.extend(parse_bytes(rest)?),
            '!' => step.error = Some(rest.into()),
            '?' => step
                .state
                .extend(rest.split_whitespace().map(str::to_owned)),
            '=' => match rest.strip_prefix("  ") {
                Some(pair) => {
                    let Some(Seen::Begin(_, pairs)) = step.events.last_mut() else {
                        return Err("a variable without a begin".into());
                    };
                    let (name, value) = split_pair(pair).ok_or("a variable has no =")?;
                    pairs.push((plain_or_bytes(name)?, plain_or_bytes(value)?));
                }
                None => step.events.push(Seen::parse(rest)?),
            },
            _ => return Err("a line of no known kind".into()),
        }
        Ok(())
    }

    fn parse_call(&mut self, line: usize, text: &str) -> Result<(), String> {
        if let Some(meaning) = text.strip_prefix("eof ") {
            let mut step = Step::new(line, Action::Eof);
            step.events.push(Seen::Eof(meaning.trim().into()));
            step.expects = true;
            self.steps.push(step);
            return Ok(());
        }
        let (id, text) = text.split_once(' ').ok_or("no request id")?;
        let (kind, text) = text.split_once(' ').unwrap_or((text, ""));
        let call = Call {
            id: RequestId(number(id)?),
            part: match kind {
                "head" => OwnedPart::Head(parse_head(text)?),
                "body" => OwnedPart::Body(parse_bytes(text)?),
                "errors" => OwnedPart::Errors(parse_bytes(text)?),
                "end" => OwnedPart::End,
                _ => return Err("no such part".into()),
            },
        };
        match self.steps.last_mut() {
            Some(Step {
                action: Action::Answer(calls),
                expects: false,
                ..
            }) => calls.push(call),
            _ => self.steps.push(Step::new(line, Action::Answer(vec![call]))),
        }
        Ok(())
    }

    fn play_all_ways(&self, codec: impl Fn(&Settings) -> Box<dyn Codec>) -> Result<(), String> {
        let length: usize = self
            .steps
            .iter()
            .map(|step| match &step.action {
                Action::Feed(bytes) => bytes.len(),
                _ => 0,
            })
            .sum();
        // All offsets; of a long transcript the ends, and some that share no factor with a power of two.
        let stride = if length > 4096 { (length / 251) | 1 } else { 1 };
        let offsets = (1..length).filter(|at| at % stride == 0 || *at < 300 || length - at < 100);
        let cuts = [Cut::Whole, Cut::EveryByte].into_iter();
        for cut in cuts.chain(offsets.map(Cut::At)) {
            let mut codec = codec(&self.settings);
            self.play(&mut *codec, cut)
                .map_err(|why| format!("{why}\n  (cut: {cut:?})"))?;
            if codec.keep_alive() && codec.is_idle() {
                self.play(&mut *codec, cut)
                    .map_err(|why| format!("{why}\n  (cut: {cut:?}, second time)"))?;
            }
        }
        Ok(())
    }

    fn play(&self, codec: &mut dyn Codec, cut: Cut) -> Result<(), String> {
        let mut fed = 0;
        for step in &self.steps {
            let mut player = Player::new(codec);
            match &step.action {
                Action::Feed(bytes) => {
                    let pieces: Vec<&[u8]> = match cut {
                        Cut::EveryByte => bytes.chunks(1).collect(),
                        Cut::At(at) if (fed + 1..fed + bytes.len()).contains(&at) => {
                            let (front, back) = bytes.split_at(at - fed);
                            vec![front, back]
                        }
                        _ => vec![bytes],
                    };
                    fed += bytes.len();
                    // With no bytes first: CGI begins without any.
                    player.feed(&[]);
                    for piece in pieces {
                        player.feed(piece);
                    }
                }
                Action::Answer(calls) => calls.iter().for_each(|call| player.answer(call)),
                Action::Eof => player.eof(),
            }
            let (sent, seen, error) = (player.sent, player.seen, player.error);
            step.check(&sent, seen.into(), error, codec)
                .map_err(|why| format!("{}: {why}", step.line))?;
        }
        Ok(())
    }
}

impl Step {
    fn new(line: usize, action: Action) -> Step {
        Step {
            line,
            action,
            sends: Vec::new(),
            events: Vec::new(),
            error: None,
            state: Vec::new(),
            expects: false,
        }
    }

    fn check(
        &self,
        sent: &[u8],
        mut seen: Vec<Seen>,
        error: Option<String>,
        codec: &dyn Codec,
    ) -> Result<(), String> {
        for (seen, expected) in seen.iter_mut().zip(&self.events) {
            if let (Seen::Reject(_, _, reason), Seen::Reject(_, _, words)) = (seen, expected)
                && reason.contains(&words[..])
            {
                reason.clone_from(words);
            }
        }
        if seen != self.events {
            return Err(format!(
                "events\n  expected {}\n  seen     {}",
                show(&self.events),
                show(&seen)
            ));
        }
        match (&self.error, &error) {
            (None, None) => {}
            (Some(words), Some(error)) if error.contains(&words[..]) => {}
            (expected, seen) => {
                return Err(format!(
                    "error\n  expected {expected:?}\n  seen     {seen:?}"
                ));
            }
        }
        if sent != self.sends {
            return Err(format!(
                "sent\n  expected {}\n  seen     {}",
                show_bytes(&self.sends),
                show_bytes(sent)
            ));
        }
        for state in &self.state {
            let (is, word) = match &state[..] {
                "idle" => (codec.is_idle(), true),
                "busy" => (codec.is_idle(), false),
                "keep" => (codec.keep_alive(), true),
                "close" => (codec.keep_alive(), false),
                _ => return Err(format!("no such state: {state}")),
            };
            if is != word {
                return Err(format!("the connection is not {state}"));
            }
        }
        Ok(())
    }
}

/// Drives a codec through one step and keeps what comes of it.
struct Player<'c> {
    codec: &'c mut dyn Codec,
    sent: Vec<u8>,
    seen: VecDeque<Seen>,
    error: Option<String>,
}

impl Player<'_> {
    fn new(codec: &mut dyn Codec) -> Player<'_> {
        Player {
            codec,
            sent: Vec::new(),
            seen: VecDeque::new(),
            error: None,
        }
    }

    fn feed(&mut self, piece: &[u8]) {
        let mut input = piece;
        while self.error.is_none() {
            match self.codec.decode(&mut input, &mut self.sent) {
                Ok(Some(event)) => {
                    let new = Seen::from(event);
                    match (self.seen.back_mut(), new) {
                        (Some(Seen::Body(id, joined)), Seen::Body(new_id, bytes))
                            if *id == new_id =>
                        {
                            joined.extend(bytes);
                        }
                        (_, new) => self.seen.push_back(new),
                    }
                }
                Ok(None) => {
                    assert!(input.is_empty(), "no event, but input was left");
                    return;
                }
                Err(error) => self.error = Some(error.to_string()),
            }
        }
    }

    fn answer(&mut self, call: &Call) {
        let part = match &call.part {
            OwnedPart::Head(head) => Part::Head(head),
            OwnedPart::Body(bytes) => Part::Body(bytes),
            OwnedPart::Errors(text) => Part::Errors(text),
            OwnedPart::End => Part::End,
        };
        self.codec.encode(call.id, part, &mut self.sent);
    }

    fn eof(&mut self) {
        let text = match self.codec.eof() {
            Eof::Clean => "clean".to_owned(),
            Eof::HalfClosed => "halfclosed".to_owned(),
            Eof::Abort(ids) => ids
                .iter()
                .fold("abort".to_owned(), |text, id| format!("{text} {}", id.0)),
        };
        self.seen.push_back(Seen::Eof(text));
    }
}

impl Seen {
    fn parse(text: &str) -> Result<Seen, String> {
        let mut words = text.splitn(3, ' ');
        let kind = words.next().unwrap_or_default();
        let id = number(words.next().ok_or("no request id")?)?;
        let rest = words.next().unwrap_or_default();
        Ok(match kind {
            "begin" => Seen::Begin(id, Vec::new()),
            "body" => Seen::Body(id, parse_bytes(rest)?),
            "bodyend" => Seen::BodyEnd(id),
            "abort" => Seen::Abort(id),
            "reject" => {
                let (status, words) = rest.split_once(' ').unwrap_or((rest, ""));
                Seen::Reject(id, number(status)?, words.into())
            }
            _ => return Err("no such event".into()),
        })
    }
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Begin { id, environ } => Seen::Begin(
                id.0,
                environ
                    .iter()
                    .map(|(n, v)| (n.to_vec(), v.to_vec()))
                    .collect(),
            ),
            Event::Reject { id, status, reason } => Seen::Reject(id.0, status, reason),
            Event::Body { id, bytes } => {
                assert!(!bytes.is_empty(), "an empty body event");
                Seen::Body(id.0, bytes.to_vec())
            }
            Event::BodyEnd { id } => Seen::BodyEnd(id.0),
            Event::Abort { id } => Seen::Abort(id.0),
        }
    }
}

fn show(events: &[Seen]) -> String {
    let mut text = String::new();
    for event in events {
        text.push_str("\n    ");
        match event {
            Seen::Begin(id, pairs) => {
                write!(text, "begin {id}").unwrap();
                for (name, value) in pairs {
                    let (name, value) = (show_bytes(name), show_bytes(value));
                    write!(text, "\n      {name}={value}").unwrap();
                }
            }
            Seen::Reject(id, status, reason) => {
                write!(text, "reject {id} {status} {reason}").unwrap()
            }
            Seen::Body(id, bytes) => write!(text, "body {id} {}", show_bytes(bytes)).unwrap(),
            Seen::BodyEnd(id) => write!(text, "bodyend {id}").unwrap(),
            Seen::Abort(id) => write!(text, "abort {id}").unwrap(),
            Seen::Eof(meaning) => write!(text, "eof {meaning}").unwrap(),
        }
    }
    text
}

fn show_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 600;
    let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
    match bytes.len() {
        0..=SHOWN => format!("\"{shown}\""),
        length => format!("\"{shown}\"... ({length} bytes)"),
    }
}

fn parse_head(text: &str) -> Result<ResponseHead, String> {
    let mut parts = text.split(" | ");
    let status = parts.next().unwrap_or_default();
    let (status, reason) = status.split_once(' ').unwrap_or((status, ""));
    let mut fields = Pairs::new();
    for field in parts {
        let (name, value) = field.split_once(": ").ok_or("a field has no colon")?;
        fields.push(name.as_bytes(), &plain_or_bytes(value)?);
    }
    Ok(ResponseHead {
        status: number(status)?,
        reason: reason.into(),
        fields,
    })
}

/// At the first `=` outside of quotes.
fn split_pair(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = text.find(|c| {
        quoted ^= c == '"';
        c == '=' && !quoted
    })?;
    Some((&text[..at], &text[at + 1..]))
}

/// BYTES in quotes, or the text itself.
fn plain_or_bytes(text: &str) -> Result<Vec<u8>, String> {
    if text.starts_with('"') {
        parse_bytes(text)
    } else {
        Ok(text.into())
    }
}
