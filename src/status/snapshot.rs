//! `Snapshot`: what a front tells about itself, as text in a file of the runtime directory.
//!
//! A file is written in place: its first line holds length and checksum of the rest, so a reader that comes in the
//! middle of a write notices. The rest is TOML; what another version has more or less does no harm. Here is only data
//! and its text form; no file, no clock.

use super::{Counters, History};
use crate::bytes::fnv;
use serde::{Deserialize, Deserializer, Serialize};

/// First words of a file, with the number of its form.
const MAGIC: &str = "# runfcgi-status 2";
/// Characters of a text that are kept.
const LONGEST: usize = 300;

/// A front and its workers. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The front.
    pub pid: u32,
    /// When the process started, in ticks since boot: tells it from another with the same pid.
    pub start_ticks: u64,
    /// By whom it was started.
    #[serde(deserialize_with = "line")]
    pub role: String,
    /// Of runfcgi.
    #[serde(deserialize_with = "line")]
    pub version: String,
    /// Names the version of the app's code, and the files of its preloader.
    #[serde(deserialize_with = "line")]
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
    #[serde(deserialize_with = "line")]
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
    /// Requests of the last hour.
    pub history: History,
    /// Its workers.
    pub workers: Vec<Worker>,
}

/// What a front does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// New code is on its way; it serves.
    Restarting,
    /// It finishes what is in hand.
    Leaving,
    /// It can only answer that something is wrong.
    Fault,
    /// It serves.
    #[default]
    #[serde(other)]
    Serving,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// Waits for a request.
    Idle,
    /// Serves.
    Busy,
    /// Gets no more requests.
    Leaving,
    /// Asked for, not yet heard of.
    #[default]
    #[serde(other)]
    Starting,
}

/// A worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    #[serde(deserialize_with = "line")]
    pub failure: String,
    /// What it serves now.
    pub requests: Vec<Serving>,
}

/// A request in a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Serving {
    /// Since when the worker has it.
    pub since: u64,
    /// Method and path; never the query.
    #[serde(deserialize_with = "line")]
    pub what: String,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// When.
    pub at: u64,
    /// A line.
    #[serde(deserialize_with = "line")]
    pub text: String,
}

impl State {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Restarting => "restarting",
            State::Leaving => "leaving",
            State::Fault => "fault",
        }
    }
}

impl Doing {
    /// All of them.
    pub const ALL: [Doing; 4] = [Doing::Starting, Doing::Idle, Doing::Busy, Doing::Leaving];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Doing::Starting => "starting",
            Doing::Idle => "idle",
            Doing::Busy => "busy",
            Doing::Leaving => "leaving",
        }
    }
}

impl Snapshot {
    /// The whole file.
    pub fn encode(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!("{}{body}", header(&body))
    }

    /// Reads a file. None: torn, or not of this form.
    pub fn decode(text: &str) -> Option<Snapshot> {
        let (first, rest) = text.split_once('\n')?;
        let length = first.strip_prefix(MAGIC)?.split(' ').nth(1)?.parse().ok()?;
        let body = rest.get(..length)?;
        if header(body).trim_end() != first {
            return None;
        }
        body.parse::<toml::Table>().ok()?.try_into().ok()
    }
}

fn header(body: &str) -> String {
    format!("{MAGIC} {} {:016x}\n", body.len(), fnv(body.as_bytes()))
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

/// The file may be another user's, and what it says is shown in a terminal.
fn line<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|text| one_line(&text))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::status::counts::COUNTS;

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
        for count in COUNTS.map(|figure| figure.of) {
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
    fn names_are_those_in_the_file() {
        use State::{Fault, Leaving, Restarting, Serving};
        for state in [Serving, Restarting, Leaving, Fault] {
            let snapshot = Snapshot {
                state,
                ..Snapshot::default()
            };
            let line = format!("\nstate = \"{}\"\n", state.name());
            assert!(snapshot.encode().contains(&line), "{line}");
            assert_eq!(Snapshot::decode(&snapshot.encode()), Some(snapshot));
        }
        for doing in Doing::ALL {
            let worker = Worker {
                doing,
                ..Worker::default()
            };
            let text = toml::to_string(&worker).unwrap();
            assert!(
                text.contains(&format!("doing = \"{}\"\n", doing.name())),
                "{text}"
            );
            assert_eq!(toml::from_str(&text), Ok(worker));
        }
    }

    #[test]
    fn what_another_version_says_is_read_as_far_as_it_is_known() {
        let body = "pid = 7\nstate = \"dreaming\"\nmood = \"good\"\ncounters = { requests = 5, dreams = 9 }\n\
                    history = { minute = 3, requests = [1, 2] }\n[[workers]]\npid = 8\ndoing = \"sleeping\"\n";
        let read = Snapshot::decode(&(header(body) + body)).unwrap();
        assert_eq!((read.pid, read.state), (7, State::Serving));
        assert_eq!(read.counters.get(crate::status::Count::Requests), 5);
        assert_eq!(read.history.requests.len(), crate::status::MINUTES);
        assert_eq!(
            (read.workers[0].pid, read.workers[0].doing),
            (8, Doing::Starting)
        );
        for wrong in [
            "pid = \"7\"\n",
            "pid = -1\n",
            "workers = 3\n",
            "\u{1b}\n",
            "x",
        ] {
            assert_eq!(Snapshot::decode(&(header(wrong) + wrong)), None, "{wrong}");
        }
        let earlier = "runfcgi-status 1 6 85c5a5a8b3f8b5b5\npid 7\n";
        assert_eq!(Snapshot::decode(earlier), None);
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_read() {
        let snapshot = Snapshot {
            trouble: String::from("a\x1b]0;b\x07\nc"),
            workers: vec![Worker {
                failure: "y".repeat(9999),
                ..Worker::default()
            }],
            ..Snapshot::default()
        };
        let read = Snapshot::decode(&snapshot.encode()).unwrap();
        assert_eq!(read.trouble, "a ]0;b  c");
        assert_eq!(read.workers[0].failure.len(), LONGEST + 3);
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(one_line(" a\nb\x1b[31m\u{202e}c "), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).len(), LONGEST + 3);
    }
}
