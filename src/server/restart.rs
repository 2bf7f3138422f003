//! Restarts: noticing new code, a new configuration or a new executable, and changing over without a gap.
//!
//! ```text
//! Quiet ─executable changed─▶ Testing ─it runs─▶ Importing ─READY─▶ (touch) workers change over ─▶ Quiet
//!   │                            └─it does not─▶ Quiet  │ └─FAILED─▶ Quiet, the old code goes on
//!   ├─touched, configuration changed────────────────────┘ └─READY, image or configuration changed─▶ Draining(Exec)
//!   └─TERM, `how = "exit"`, old inode─▶ Draining(Exit)
//! ```
//! The new code is always imported first, while the old serves. Then, when it is this front's turn (`turns`), only the
//! workers change (a touch), or this process executes its new image with the same pid, listening socket and idle
//! connections.

use super::watch::{Change, Watch};
use super::{Generation, Place, Role, Server};
use crate::config::{Config, How};
use crate::image::{self, Image};
use crate::log::Level;
use crate::worker::preloader::{Link, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a new executable may take to show that it runs.
const TEST_WITHIN: Duration = Duration::from_secs(10);
/// How often an upload that is going on is looked at.
const UPLOAD_LOOK: Duration = Duration::from_millis(250);

/// How `run` ends.
#[derive(Debug)]
pub enum Outcome {
    /// Leave with status 0.
    Exit,
    /// Execute the new image and hand all this over to it.
    Exec(Box<HandOver>, Image),
}

/// What one image leaves to the next.
#[derive(Debug, Default)]
pub struct HandOver {
    /// The control socket of the preloader that has the new code.
    pub control: Option<OwnedFd>,
    /// The version of that code.
    pub version: String,
    /// Idle connections, each with the number of its listener.
    pub connections: Vec<(OwnedFd, usize)>,
    /// The listening sockets, in order.
    pub listeners: Vec<OwnedFd>,
    /// The file in which this process tells of itself, locked.
    pub report: Option<OwnedFd>,
    /// The file whose lock is this front's turn to change over.
    pub turn: Option<OwnedFd>,
}

/// See the diagram above.
#[derive(Debug)]
pub(super) enum Restart {
    Quiet,
    Testing {
        child: Pid,
        until: Instant,
        image: Image,
    },
    Importing {
        change: Change,
        image: Option<Image>,
    },
    Draining {
        until: Instant,
        then: Then,
    },
}

/// What comes when all is finished.
#[derive(Debug)]
pub(super) enum Then {
    Exit,
    Exec(Option<Image>),
}

impl Restart {
    pub(super) fn pauses_accept(&self) -> bool {
        matches!(
            self,
            Restart::Draining {
                then: Then::Exec(_),
                ..
            }
        )
    }

    pub(super) fn is_importing(&self) -> bool {
        matches!(self, Restart::Importing { .. })
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self, Restart::Draining { .. })
    }
}

/// The files whose change means something.
pub(super) fn watch(config: &Config, place: &Place) -> Watch {
    let app = config.app.path.clone().unwrap_or_default();
    let mut others: Vec<PathBuf> = config
        .restart
        .watch
        .iter()
        .map(|path| app.join(path))
        .collect();
    others.extend(place.dir.as_ref().map(|dir| dir.file("reload")));
    Watch::new(&place.original, place.config_file.as_deref(), &others)
}

impl Server {
    /// Looks at the watched files.
    pub(super) fn look(&mut self, now: Instant) {
        if let Restart::Testing { child, until, .. } = &self.restart
            && *until <= now
        {
            let _ = kill(*child, Signal::SIGKILL);
        }
        if self.place.role == Role::Cgi || self.restart.is_leaving() {
            return;
        }
        if let Some(change) = self.watch.look(now) {
            self.on_change(change, now);
        }
        if self.watch.is_unsettled() {
            self.look_at = now + UPLOAD_LOOK;
            self.due(self.look_at);
        }
        self.look_for_old_class(now);
        self.look_for_wish(now);
    }

    pub(super) fn on_change(&mut self, change: Change, now: Instant) {
        if self.config.restart.how == How::Exit {
            self.note(
                Level::Info,
                "restart: a change was noticed; leaving ([restart] how = \"exit\")",
            );
            return self.stop(now);
        }
        let under_way = matches!(
            self.restart,
            Restart::Testing { .. } | Restart::Importing { .. }
        );
        if change == Change::Touched && under_way {
            // Neither is a changed executable or configuration forgotten, nor an import begun again without end.
            self.touched_again = true;
            return;
        }
        match change {
            Change::Touched if self.fault.is_none() => self.import(Change::Touched, None, now),
            Change::Touched | Change::Configuration => {
                self.check_configuration(Change::Configuration, None, now)
            }
            Change::Executable => self.test_image(now),
        }
    }

    /// Runs the new executable once, on the side.
    pub(super) fn test_image(&mut self, now: Instant) {
        let staged =
            image::stage(&self.place.original, self.place.dir.as_ref()).and_then(|image| {
                let child = image.test()?;
                Ok((image, child))
            });
        match staged {
            Ok((image, child)) => {
                self.restart = Restart::Testing {
                    child,
                    until: now + TEST_WITHIN,
                    image,
                };
                self.due(now + TEST_WITHIN);
            }
            Err(error) => self.note(
                Level::Error,
                &format!(
                    "restart: the new {} cannot be used, the old one goes on: {error}",
                    self.place.original.display()
                ),
            ),
        }
    }

    /// A child has ended: the one that tested the new executable?
    pub(super) fn on_tested(&mut self, pid: Pid, trouble: Option<&str>, now: Instant) {
        if !matches!(&self.restart, Restart::Testing { child, .. } if *child == pid) {
            return;
        }
        let Restart::Testing { image, .. } = std::mem::replace(&mut self.restart, Restart::Quiet)
        else {
            return;
        };
        match trouble {
            None => self.check_configuration(Change::Executable, Some(image), now),
            Some(trouble) => self.note(
                Level::Error,
                &format!(
                    "restart: the new {} {trouble} in its test, the old one goes on",
                    self.place.original.display()
                ),
            ),
        }
    }

    pub(super) fn check_configuration(
        &mut self,
        change: Change,
        image: Option<Image>,
        now: Instant,
    ) {
        let loaded = match &self.place.config_file {
            Some(file) => Config::load_with(Some(file), &self.place.options),
            None => Config::load_with(None, &self.place.options),
        };
        match loaded {
            Ok(_) if self.fault.is_some() => self.drain_for_exec(image, now),
            Ok(_) => self.import(change, image, now),
            Err(findings) => {
                let lines: Vec<String> = findings.iter().map(|f| f.one_line()).collect();
                let text = format!(
                    "restart: the configuration is wrong, the old one goes on\n{}",
                    lines.join("\n")
                );
                self.note(Level::Error, &text);
            }
        }
    }

    /// Has the new code imported while the old serves.
    pub(super) fn import(&mut self, change: Change, image: Option<Image>, now: Instant) {
        let version = self.watch.version(&self.place.identity);
        if let Some(old) = self.next.take() {
            self.dismiss(old.link);
        }
        self.last_generation += 1;
        let generation = Generation {
            number: self.last_generation,
            link: Link::new(version, now),
            plain: self.current.plain,
        };
        self.restart = Restart::Importing { change, image };
        self.next = Some(generation);
        self.turns.take();
        self.due(now);
    }

    /// The new code cannot be imported: the old goes on.
    pub(super) fn next_failed(&mut self, reason: &str) {
        self.next = None;
        self.restart = Restart::Quiet;
        if let State::Failed { reason: shown, .. } = &mut self.current.link.state {
            // There is no old code either: this is what the owner must know.
            *shown = reason.to_owned();
            return;
        }
        let last = reason
            .trim_end()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        self.note(
            Level::Error,
            &format!("restart: the new code cannot be imported, the old goes on serving: {last}"),
        );
    }

    /// Goes on when the new code is there.
    pub(super) fn step_restart(&mut self, now: Instant) {
        if matches!(self.restart, Restart::Quiet) && std::mem::take(&mut self.touched_again) {
            self.on_change(Change::Touched, now);
        }
        let ready = self
            .next
            .as_ref()
            .is_some_and(|next| next.plain || next.link.state == State::Ready);
        if ready
            && self.restart.is_importing()
            && self.has_turn(now)
            && let Restart::Importing { change, image } = &mut self.restart
        {
            let image = image.take();
            match change {
                Change::Touched => self.promote(now),
                _ => self.drain_for_exec(image, now),
            }
        }
        self.retire_old(now);
    }

    /// The next generation becomes the current one. Old workers go on until a new one has started.
    pub(super) fn promote(&mut self, now: Instant) {
        let Some(next) = self.next.take() else { return };
        let old = std::mem::replace(&mut self.current, next);
        self.dismiss(old.link);
        self.restart = Restart::Quiet;
        self.fork_after = None;
        let version = self.current.link.version.clone();
        self.remember_good(&version);
        self.report.count(crate::status::Count::Restarts, 1);
        self.note(Level::Info, "restart: new code goes live");
        self.due(now);
    }

    /// Tells a preloader that its version is not needed any more.
    pub(super) fn dismiss(&self, mut link: Link) {
        let hello = crate::worker::preloader::Hello {
            linger: 0,
            ..self.place.hello
        };
        link.greet(hello);
    }

    /// Ends workers of older generations as soon as one of the current has started.
    pub(super) fn retire_old(&mut self, now: Instant) {
        let current = self.current.number;
        let started = |p: &crate::worker::pool::Process| {
            p.generation == current && p.pid.is_some() && !p.retiring
        };
        if self.pool.processes.values().any(started) {
            let old = self
                .pool
                .processes
                .iter()
                .filter(|(_, p)| p.generation != current && !p.retiring);
            let old: Vec<_> = old.map(|(number, _)| *number).collect();
            for number in old {
                self.pool.retire(number, now);
            }
        }
    }

    /// Notes the version that works, for processes that are spawned while a newer one does not.
    pub(super) fn remember_good(&self, version: &str) {
        let Some(dir) = &self.place.dir else { return };
        if self.current.plain {
            return;
        }
        let temporary = dir.file(&format!("good.{}", std::process::id()));
        if fs::write(&temporary, version).is_ok() {
            let _ = fs::rename(&temporary, dir.file("good"));
        }
    }

    /// The version that last worked.
    fn good(&self) -> Option<String> {
        fs::read_to_string(self.place.dir.as_ref()?.file("good")).ok()
    }

    /// A process that is spawned between a change and the moment when the new code is there begins with the code that
    /// works, like its elder siblings; so does one that finds a configuration that cannot be used.
    pub(super) fn start_from_good(&mut self, now: Instant) {
        let first = &mut self.current;
        let anew = self.config.restart.how == How::Exit;
        if self.place.role == Role::Cgi || first.plain || anew {
            return;
        }
        if first.link.channel.is_some() {
            // The image before this one has seen it imported.
            let version = first.link.version.clone();
            return self.remember_good(&version);
        }
        let Some(good) = self
            .good()
            .filter(|good| *good != self.current.link.version)
        else {
            return;
        };
        let reason = self
            .fault
            .clone()
            .unwrap_or_else(|| String::from("the code that worked is gone"));
        let link = Link {
            connect_only: Some(reason),
            ..Link::new(good, now)
        };
        let newer = std::mem::replace(&mut self.current.link, link);
        if self.fault.is_none() {
            self.last_generation += 1;
            self.next = Some(Generation {
                number: self.last_generation,
                link: newer,
                plain: false,
            });
            self.restart = Restart::Importing {
                change: Change::Touched,
                image: None,
            };
        }
    }

    /// Nothing can be started: the settings are of no use, and no code that works is left running.
    pub(super) fn is_faulty(&self) -> bool {
        self.fault.is_some() && self.current.link.connect_only.is_none()
    }

    /// The tie to the version that last worked, when this one does not.
    pub(super) fn fall_back(&mut self, now: Instant) -> bool {
        let Some(version) = self.good() else {
            return false;
        };
        if version == self.current.link.version
            || self.current.link.connect_only.is_some()
            || !self.pool.processes.is_empty()
        {
            return false;
        }
        let State::Failed { reason, .. } = &self.current.link.state else {
            return false;
        };
        let mut link = Link::new(version, now);
        link.connect_only = Some(reason.clone());
        self.last_generation += 1;
        self.current = Generation {
            number: self.last_generation,
            link,
            plain: false,
        };
        self.due(now);
        true
    }

    /// Reloads as a touch does, for all fronts of the site.
    pub(super) fn reload(&mut self, now: Instant) {
        let touched = self
            .place
            .dir
            .as_ref()
            .is_some_and(|dir| fs::write(dir.file("reload"), b"").is_ok());
        if touched {
            self.look_at = now;
            self.sweep_at = now;
        } else if !self.restart.is_leaving() {
            self.on_change(Change::Touched, now);
        }
    }
}
