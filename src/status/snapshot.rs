//! `Snapshot`: what a front reports about itself, and its text form for the status file.
//!
//! Status files are written in place. The first line holds length and checksum of the rest, so that a reader notices a
//! torn write. The rest is TOML, in which unknown keys are ignored and missing ones have defaults, so that versions of
//! runfcgi can read each other's files. Plain data: no file, no clock.

use super::{Counters, History};
use crate::bytes::fnv;
use serde::{Deserialize, Deserializer, Serialize};

/// How a file starts; the number is that of the format.
const MAGIC: &str = "# runfcgi-status 2";
/// Longer texts are cut to this many characters.
const LONGEST: usize = 300;

/// The report of a front. All times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The front's process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot: tells it from a later process with the same pid.
    pub start_ticks: u64,
    /// Who started it.
    #[serde(deserialize_with = "line")]
    pub role: String,
    /// The version of runfcgi.
    #[serde(deserialize_with = "line")]
    pub version: String,
    /// The version of the app's code, which also names the files of its preloader.
    #[serde(deserialize_with = "line")]
    pub code: String,
    /// Path of the settings file, which identifies the site.
    pub config: String,
    /// When the front started.
    pub started: u64,
    /// When this report was written.
    pub written: u64,
    /// What the front is doing.
    pub state: FrontState,
    /// What is wrong now; empty when nothing is.
    #[serde(deserialize_with = "line")]
    pub trouble: String,
    /// Open connections from the web server.
    pub connections: u64,
    /// Bytes of bodies and responses that wait on disk.
    pub spooled: u64,
    /// Requests that wait for a worker.
    pub queued: u64,
    /// When the oldest of them was queued; 0 when none waits.
    pub queued_since: u64,
    /// The largest number of workers.
    pub max_workers: u64,
    /// Events since the front started.
    pub counters: Counters,
    /// The last worker that died unexpectedly.
    pub last_death: Option<Note>,
    /// The last failed request or import.
    pub last_failure: Option<Note>,
    /// Requests of the last hour.
    pub history: History,
    /// The front's workers.
    pub workers: Vec<Worker>,
}

/// What a front is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontState {
    /// Serving while new code is being loaded.
    Restarting,
    /// Finishing its requests before it exits.
    Leaving,
    /// Able to answer only with an error.
    Fault,
    /// Serving requests.
    #[default]
    #[serde(other)]
    Serving,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Waiting for a request.
    Idle,
    /// Serving requests.
    Busy,
    /// Not given any more requests.
    Leaving,
    /// Requested, but not yet running.
    #[default]
    #[serde(other)]
    Starting,
}

/// A worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// 0 while unknown.
    pub pid: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// Requests served so far.
    pub served: u64,
    /// When the front asked for it.
    pub started: u64,
    /// It runs older code than a worker started now would.
    pub outdated: bool,
    /// Its last failure, in one line; empty if there was none.
    #[serde(deserialize_with = "line")]
    pub failure: String,
    /// The requests that it is serving.
    pub requests: Vec<RunningRequest>,
}

/// A request that a worker is serving.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunningRequest {
    /// When the worker got it.
    pub since: u64,
    /// Method and path, never the query.
    #[serde(deserialize_with = "line")]
    pub summary: String,
}

/// A dated line of text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// When it happened.
    pub at: u64,
    /// What happened.
    #[serde(deserialize_with = "line")]
    pub text: String,
}

impl FrontState {
    /// The name shown to people, as in the status file.
    pub fn name(self) -> &'static str {
        match self {
            FrontState::Serving => "serving",
            FrontState::Restarting => "restarting",
            FrontState::Leaving => "leaving",
            FrontState::Fault => "fault",
        }
    }
}

impl WorkerState {
    /// Every state, in the order of a worker's life.
    pub const ALL: [WorkerState; 4] = [
        WorkerState::Starting,
        WorkerState::Idle,
        WorkerState::Busy,
        WorkerState::Leaving,
    ];

    /// The name shown to people, as in the status file.
    pub fn name(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Idle => "idle",
            WorkerState::Busy => "busy",
            WorkerState::Leaving => "leaving",
        }
    }
}

impl Snapshot {
    /// The text of the status file.
    pub fn encode(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!("{}{body}", header(&body))
    }

    /// Reads the text of a status file. `None` when it is torn or of another format.
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

/// Untrusted text as one short line without control characters, safe to show in a terminal.
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

/// The file may be another user's, and its text is shown in a terminal.
pub(super) fn line<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
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
            state: FrontState::Restarting,
            trouble: String::from("a \"quoted\" <trouble>"),
            connections: 2,
            spooled: 1 << 20,
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
            state: WorkerState::Busy,
            served: 12,
            started: 1_500_000,
            failure: String::from("GET /<b>: OSError"),
            requests: vec![RunningRequest {
                since: 3_590_000,
                summary: String::from("GET /a b/\"<c>"),
            }],
            ..Worker::default()
        });
        snapshot.workers.push(Worker {
            outdated: true,
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
    fn what_is_encoded_is_decoded() {
        let snapshot = example();
        assert_eq!(Snapshot::decode(&snapshot.encode()), Some(snapshot.clone()));
        // The remains of a longer snapshot are ignored.
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
        use FrontState::{Fault, Leaving, Restarting, Serving};
        for state in [Serving, Restarting, Leaving, Fault] {
            let snapshot = Snapshot {
                state,
                ..Snapshot::default()
            };
            let line = format!("\nstate = \"{}\"\n", state.name());
            assert!(snapshot.encode().contains(&line), "{line}");
            assert_eq!(Snapshot::decode(&snapshot.encode()), Some(snapshot));
        }
        for state in WorkerState::ALL {
            let worker = Worker {
                state,
                ..Worker::default()
            };
            let text = toml::to_string(&worker).unwrap();
            assert!(
                text.contains(&format!("state = \"{}\"\n", state.name())),
                "{text}"
            );
            assert_eq!(toml::from_str(&text), Ok(worker));
        }
    }

    #[test]
    fn unknown_and_missing_keys_of_other_versions_are_no_error() {
        let body = "pid = 7\nstate = \"dreaming\"\nmood = \"good\"\ncounters = { requests = 5, dreams = 9 }\n\
                    history = { minute = 3, requests = [1, 2] }\n[[workers]]\npid = 8\ndoing = \"sleeping\"\n";
        let read = Snapshot::decode(&(header(body) + body)).unwrap();
        assert_eq!((read.pid, read.state), (7, FrontState::Serving));
        assert_eq!(read.counters.get(crate::status::Count::Requests), 5);
        assert_eq!(read.history.requests.len(), crate::status::MINUTES);
        assert_eq!(
            (read.workers[0].pid, read.workers[0].state),
            (8, WorkerState::Starting)
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
    fn control_characters_are_removed_when_reading() {
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
    fn a_line_is_short_and_harmless() {
        assert_eq!(one_line(" a\nb\x1b[31m\u{202e}c "), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).len(), LONGEST + 3);
    }
}
