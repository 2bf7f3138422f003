//! `Snapshot`: what a front tells about itself, as text in a file of the runtime directory.
//!
//! Whoever wants to know how a site does reads these files and talks to no process, so that it also works when one
//! hangs. A file is written in place: its first line holds length and checksum of the rest, so a reader that comes in
//! the middle of a write notices. Here is only data and its text form; no file, no clock.

pub mod collect;
pub mod command;
mod counts;
mod html;
mod json;
mod prometheus;
mod text;

pub use counts::{COUNTS, Count, Counters, History, MINUTES};

use crate::runtime::fnv;
use std::fmt::Write;
use std::str::FromStr;

/// First word of a file, with the number of its form.
const MAGIC: &str = "runfcgi-status 1";
/// Characters of a text that are kept.
const LONGEST: usize = 300;

/// A front and its workers. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The front.
    pub pid: u32,
    /// When the process started, in ticks since boot: tells it from another with the same pid.
    pub start_ticks: u64,
    /// By whom it was started.
    pub role: String,
    /// Of runfcgi.
    pub version: String,
    /// Names the version of the app's code, and the files of its preloader.
    pub code: String,
    /// The settings file: names the site.
    pub config: String,
    /// When it began to serve.
    pub started: u64,
    /// When this was written.
    pub written: u64,
    /// What it does.
    pub state: State,
    /// What is wrong now; empty: nothing.
    pub trouble: String,
    /// Open connections from the web server.
    pub connections: u64,
    /// Requests that wait for a worker.
    pub queued: u64,
    /// Since when the first of them waits; 0: none does.
    pub queued_since: u64,
    /// Workers at the most.
    pub max_workers: u64,
    /// What has happened so far.
    pub counters: Counters,
    /// The last worker that ended before its time.
    pub last_death: Option<Note>,
    /// The last request that failed, or import.
    pub last_failure: Option<Note>,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// Requests of the last hour.
    pub history: History,
}

/// What a front does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It serves.
    #[default]
    Serving,
    /// New code is on its way; it serves.
    Restarting,
    /// It finishes what is in hand.
    Leaving,
    /// It can only answer that something is wrong.
    Fault,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// Asked for, not yet heard of.
    #[default]
    Starting,
    /// Waits for a request.
    Idle,
    /// Serves.
    Busy,
    /// Gets no more requests.
    Leaving,
}

/// A worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// 0: not known yet.
    pub pid: u32,
    /// What it does.
    pub doing: Doing,
    /// Requests served.
    pub served: u64,
    /// When it was asked for.
    pub born: u64,
    /// It runs older code than the front would start now.
    pub old: bool,
    /// Its last failure, in a line.
    pub failure: String,
    /// What it serves now.
    pub requests: Vec<Serving>,
}

/// A request in a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// Since when the worker has it.
    pub since: u64,
    /// Method and path; never the query.
    pub what: String,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: u64,
    /// A line.
    pub text: String,
}

impl State {
    const NAMES: [(State, &str); 4] = [
        (State::Serving, "serving"),
        (State::Restarting, "restarting"),
        (State::Leaving, "leaving"),
        (State::Fault, "fault"),
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

impl Doing {
    const NAMES: [(Doing, &str); 4] = [
        (Doing::Starting, "starting"),
        (Doing::Idle, "idle"),
        (Doing::Busy, "busy"),
        (Doing::Leaving, "leaving"),
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

impl Snapshot {
    /// The whole file.
    pub fn encode(&self) -> String {
        let body = self.body();
        format!("{}{body}", header(&body))
    }

    /// What follows the first line. A worker's lines follow its own.
    fn body(&self) -> String {
        let mut out = String::with_capacity(1024);
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(out, "{key} {value}");
            }
        };
        put("pid", &self.pid.to_string());
        put("start_ticks", &self.start_ticks.to_string());
        put("role", &one_line(&self.role));
        put("version", &one_line(&self.version));
        put("code", &one_line(&self.code));
        put("config", &self.config.replace('\n', "?"));
        put("started", &self.started.to_string());
        put("written", &self.written.to_string());
        put("state", self.state.name());
        put("trouble", &one_line(&self.trouble));
        put("connections", &self.connections.to_string());
        put("queued", &format!("{} {}", self.queued, self.queued_since));
        put("max_workers", &self.max_workers.to_string());
        for (count, name, _) in COUNTS {
            put(
                &format!("count.{name}"),
                &self.counters.get(count).to_string(),
            );
        }
        for (key, note) in [
            ("last_death", &self.last_death),
            ("last_failure", &self.last_failure),
        ] {
            if let Some(note) = note {
                put(key, &format!("{} {}", note.at, one_line(&note.text)));
            }
        }
        for worker in &self.workers {
            let Worker {
                pid, served, born, ..
            } = worker;
            let old = u8::from(worker.old);
            put(
                "worker",
                &format!("{pid} {} {served} {born} {old}", worker.doing.name()),
            );
            put("failure", &one_line(&worker.failure));
            for request in &worker.requests {
                put(
                    "serves",
                    &format!("{} {}", request.since, one_line(&request.what)),
                );
            }
        }
        put("minute", &self.history.minute.to_string());
        put("requests", &numbers(&self.history.requests));
        put("failed", &numbers(&self.history.failed));
        out
    }

    /// Reads a file. None: torn, or not of this form.
    pub fn decode(text: &str) -> Option<Snapshot> {
        let (first, rest) = text.split_once('\n')?;
        let length = first.split(' ').nth(2)?.parse().ok()?;
        let body = rest.get(..length)?;
        if header(body).trim_end() != first {
            return None;
        }
        let mut snapshot = Snapshot::default();
        for line in body.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            snapshot.take(key, value);
        }
        Some(snapshot)
    }

    /// Takes a line in. What is unknown comes from another version, and is left out.
    fn take(&mut self, key: &str, value: &str) {
        let (first, rest) = value.split_once(' ').unwrap_or((value, ""));
        let note = || {
            Some(Note {
                at: number(first),
                text: rest.to_owned(),
            })
        };
        match key {
            "pid" => self.pid = number(value),
            "start_ticks" => self.start_ticks = number(value),
            "role" => self.role = value.to_owned(),
            "version" => self.version = value.to_owned(),
            "code" => self.code = value.to_owned(),
            "config" => self.config = value.to_owned(),
            "started" => self.started = number(value),
            "written" => self.written = number(value),
            "state" => self.state = named(&State::NAMES, value),
            "trouble" => self.trouble = value.to_owned(),
            "connections" => self.connections = number(value),
            "queued" => (self.queued, self.queued_since) = (number(first), number(rest)),
            "max_workers" => self.max_workers = number(value),
            "last_death" => self.last_death = note(),
            "last_failure" => self.last_failure = note(),
            "worker" => {
                let words: Vec<&str> = value.split(' ').collect();
                let word = |at: usize| words.get(at).copied().unwrap_or_default();
                self.workers.push(Worker {
                    pid: number(word(0)),
                    doing: named(&Doing::NAMES, word(1)),
                    served: number(word(2)),
                    born: number(word(3)),
                    old: word(4) == "1",
                    ..Worker::default()
                });
            }
            "failure" | "serves" => {
                let Some(worker) = self.workers.last_mut() else {
                    return;
                };
                if key == "failure" {
                    worker.failure = value.to_owned();
                } else {
                    let what = rest.to_owned();
                    worker.requests.push(Serving {
                        since: number(first),
                        what,
                    });
                }
            }
            "minute" => self.history.minute = number(value),
            "requests" => fill(&mut self.history.requests, value),
            "failed" => fill(&mut self.history.failed, value),
            _ => {
                let name = key.strip_prefix("count.").unwrap_or_default();
                if let Some((count, ..)) = COUNTS.iter().find(|(_, n, _)| *n == name) {
                    self.counters.add(*count, number(value));
                }
            }
        }
    }
}

/// Text of anyone's in one line: nothing that a terminal would obey, and not long.
pub fn one_line(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count >= LONGEST {
            out.push_str("...");
            break;
        }
        let harmless = !c.is_control()
            && !('\u{200b}'..='\u{200f}').contains(&c)
            && !('\u{202a}'..='\u{202e}').contains(&c);
        out.push(if harmless { c } else { ' ' });
    }
    out
}

fn header(body: &str) -> String {
    format!("{MAGIC} {} {:016x}\n", body.len(), fnv(body.as_bytes()))
}

fn numbers(row: &[u32]) -> String {
    let words: Vec<String> = row.iter().map(u32::to_string).collect();
    words.join(" ")
}

fn fill(row: &mut [u32; MINUTES], text: &str) {
    for (place, word) in row.iter_mut().zip(text.split(' ')) {
        *place = number(word);
    }
}

fn number<T: FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}

fn named<T: Copy + Default>(names: &[(T, &str)], text: &str) -> T {
    let found = names.iter().find(|(_, name)| *name == text);
    found.map_or(T::default(), |(value, _)| *value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Snapshot {
        let mut snapshot = Snapshot {
            pid: 100,
            start_ticks: 7,
            role: String::from("mod_fcgid"),
            version: String::from("0.1.0"),
            code: String::from("abc"),
            config: String::from("/home/ann/my site.toml"),
            started: 1_000_000,
            written: 3_600_000,
            state: State::Restarting,
            trouble: String::from("a \"quoted\" <trouble>"),
            connections: 2,
            queued: 1,
            queued_since: 3_599_000,
            max_workers: 8,
            last_death: Some(Note {
                at: 5,
                text: String::from("killed"),
            }),
            ..Snapshot::default()
        };
        snapshot.workers.push(Worker {
            pid: 101,
            doing: Doing::Busy,
            served: 12,
            born: 1_500_000,
            failure: String::from("GET /<b>: OSError"),
            requests: vec![Serving {
                since: 3_590_000,
                what: String::from("GET /a b/\"<c>"),
            }],
            ..Worker::default()
        });
        snapshot.workers.push(Worker {
            old: true,
            ..Worker::default()
        });
        for (count, ..) in COUNTS {
            snapshot.counters.add(count, count as u64 + 1);
        }
        snapshot.history.request(3_500_000);
        snapshot.history.request(3_600_000);
        snapshot.history.failure(3_600_000);
        snapshot
    }

    #[test]
    fn what_is_written_is_read() {
        let snapshot = example();
        assert_eq!(Snapshot::decode(&snapshot.encode()), Some(snapshot.clone()));
        // What a longer file has left behind does not matter.
        assert_eq!(
            Snapshot::decode(&(snapshot.encode() + "worker 1 idle")),
            Some(snapshot)
        );
        assert_eq!(
            Snapshot::decode(&Snapshot::default().encode()),
            Some(Snapshot::default())
        );
    }

    #[test]
    fn a_torn_file_is_noticed() {
        let text = example().encode();
        for end in 0..text.len() {
            assert_eq!(Snapshot::decode(&text[..end]), None, "cut at {end}");
        }
        assert_eq!(Snapshot::decode(&text.replace("busy", "idle")), None);
    }

    #[test]
    fn names_stand_in_their_places() {
        for (at, (state, _)) in State::NAMES.iter().enumerate() {
            assert_eq!(at, *state as usize);
        }
        for (at, (doing, _)) in Doing::NAMES.iter().enumerate() {
            assert_eq!(at, *doing as usize);
        }
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(one_line(" a\nb\x1b[31m\u{202e}c "), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).len(), LONGEST + 3);
    }
}
