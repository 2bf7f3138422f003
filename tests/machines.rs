//! The machines without sockets, processes and sleeping: transcripts of what happens to them and what they put out.
//!
//! A line `> EVENT` happens to the machine, `@ +3s` lets time pass, and the lines `= OUTPUT` that follow are all that it
//! puts out then. `#` begins a comment. A file of `tests/machines/reload` begins with how the process starts, one of
//! `tests/machines/pool` or `tests/machines/traffic` with the settings.

mod notation;
#[path = "machines/peer.rs"]
mod peer;
#[path = "machines/pool.rs"]
mod pool;
#[path = "machines/slow.rs"]
mod slow;
#[path = "machines/traffic.rs"]
mod traffic;

use runfcgi::config::{Config, How};
use runfcgi::image::Image;
use runfcgi::reload::{Beginning, Change, End, Output, Refusal, Release, Reload};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Plays every transcript of a folder with a machine that `play` makes of its first line.
fn transcripts(folder: &str, play: impl Fn(&str) -> Box<dyn Machine>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/machines")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let lines = text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.trim()));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let (_, first) = lines.next().expect("how it begins");
        let mut machine = play(first);
        let mut now = Instant::now();
        let mut put_out = machine.outputs();
        put_out.reverse();
        for (number, line) in lines {
            let place = format!("{}:{number}: {line}", file.display());
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            if kind == "=" {
                assert_eq!(put_out.pop().as_deref(), Some(rest), "{place}");
                continue;
            }
            assert_eq!(put_out.pop(), None, "before {place}");
            match kind {
                ">" => machine.event(rest, now),
                "@" => {
                    now += seconds(rest.trim_start_matches('+'));
                    machine.time(now);
                }
                _ => panic!("{place}: what is this?"),
            }
            put_out = machine.outputs();
            put_out.reverse();
        }
        assert_eq!(put_out.pop(), None, "at the end of {}", file.display());
    }
}

fn seconds(text: &str) -> Duration {
    let number = text.trim_end_matches('s').parse().expect("seconds");
    Duration::from_secs_f64(number)
}

/// Gives numbers below a bound, the same ones for each seed but 0 (xorshift).
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    }
}

/// A machine as a transcript sees it.
trait Machine {
    fn event(&mut self, event: &str, now: Instant);
    fn time(&mut self, now: Instant);
    fn outputs(&mut self) -> Vec<String>;
}

impl Machine for Reload {
    fn event(&mut self, event: &str, now: Instant) {
        let (name, rest) = event.split_once(' ').unwrap_or((event, ""));
        match name {
            "touched" => self.on_change(Change::Touched, now),
            "settings" => self.on_change(Change::Settings, now),
            "executable" => self.on_change(Change::Executable, now),
            "staged" => self.on_staged(Ok(Image::default())),
            "unstaged" => self.on_staged(Err(rest.to_owned())),
            "tested" => self.on_tested(None),
            "untested" => self.on_tested(Some(rest)),
            "loaded" => self.on_loaded(Ok(release(rest)), now),
            "refused" => self.on_loaded(Err(rest.to_owned()), now),
            "imported" => self.on_imported(Ok(()), now),
            "failed" => self.on_imported(Err(rest), now),
            "turn" => self.on_turn(now),
            "asked" => self.on_request(false, now),
            "lacking" => self.on_request(true, now),
            "down" => self.set_works(false, now),
            "looked" => self.on_unchanged(true),
            "unsettled" => self.on_unchanged(false),
            "stop" => self.stop(now),
            "drained" => self.on_drained(),
            _ => panic!("no event {event}"),
        }
    }

    fn time(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.on_time(now);
        }
    }

    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.poll()).map(shown).collect()
    }
}

fn shown(output: Output) -> String {
    match output {
        Output::Test => "test".into(),
        Output::Load => "load".into(),
        Output::Import(release) => format!("import {}", release.version),
        Output::Abandon => "abandon".into(),
        Output::EndTest => "end test".into(),
        Output::Promote(release) => format!("promote {}", release.version),
        Output::Drain => "drain".into(),
        Output::Note(level, text) => {
            format!("{level}{}", text.replace('\n', " / "))
        }
        Output::Refused(Refusal { code, text, .. }) => {
            format!("error: {code} {}", text.replace('\n', " / "))
        }
        Output::End(End::Exit) => "exit".into(),
        Output::End(End::Exec(Some(_), _)) => "exec the tested image".into(),
        Output::End(End::Exec(None, _)) => "exec".into(),
    }
}

/// A release of this version; `elsewhere`: its settings name another place to listen at; `exits`: they say so.
fn release(words: &str) -> Release {
    let (version, elsewhere) = words.split_once(' ').unwrap_or((words, ""));
    let mut config = Config::default();
    match elsewhere {
        "elsewhere" => config.server.backlog += 1,
        "exits" => config.restart.how = How::Exit,
        _ => (),
    }
    Release {
        config: Rc::new(config),
        version: version.to_owned(),
    }
}

/// `fresh v1`, `behind v1`, `broken`, then perhaps `exits`, or `refused` and why.
fn begin(words: &str) -> Reload {
    let mut words = words.split(' ');
    let beginning = match words.next() {
        Some("fresh") => Beginning::Fresh,
        Some("behind") => Beginning::Behind,
        Some("broken") => Beginning::Broken,
        other => panic!("no beginning {other:?}"),
    };
    let live = words.next().unwrap_or_default();
    let more: Vec<&str> = words.collect();
    match more.as_slice() {
        ["refused", why @ ..] => Reload::new(release(live), beginning, Some(why.join(" "))),
        more => Reload::new(
            release(&format!("{live} {}", more.join(" "))),
            beginning,
            None,
        ),
    }
}

#[test]
fn reload_goes_as_its_transcripts_say() {
    transcripts("reload", |first| Box::new(begin(first)));
}

#[test]
fn the_pool_goes_as_its_transcripts_say() {
    transcripts("pool", |first| Box::new(pool::begin(first)));
}

#[test]
fn traffic_goes_as_its_transcripts_say() {
    transcripts("traffic", traffic::begin);
}

/// How to get into each state from a fresh start.
const STATES: [(&str, &[&str]); 6] = [
    ("steady", &[]),
    ("testing", &["executable", "staged"]),
    ("importing", &["settings", "loaded v2"]),
    ("imported", &["settings", "loaded v2", "imported"]),
    (
        "draining to exec",
        &["settings", "loaded v2 elsewhere", "imported", "turn"],
    ),
    ("draining to exit", &["stop"]),
];

const EVENTS: [&str; 18] = [
    "touched",
    "settings",
    "executable",
    "staged",
    "unstaged why",
    "tested",
    "untested why",
    "loaded v3",
    "refused why",
    "imported",
    "failed why",
    "turn",
    "asked",
    "down",
    "looked",
    "stop",
    "drained",
    "unsettled",
];

#[test]
fn reload_has_an_answer_to_every_event_in_every_state() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines/reload_pairs.txt");
    let expected = fs::read_to_string(&file).unwrap_or_default();
    let mut found = String::from("# state, event: what it puts out\n");
    for (state, way) in STATES {
        for event in EVENTS {
            let now = Instant::now();
            let mut reload = begin("fresh v1");
            way.iter().for_each(|event| reload.event(event, now));
            reload.outputs();
            reload.event(event, now);
            let outputs = reload.outputs().join("; ");
            found.push_str(format!("{state}, {event}: {outputs}").trim_end());
            found.push('\n');
        }
    }
    for (line, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "\n{found}");
}
