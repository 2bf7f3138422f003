//! Restarts: what `Reload` asks for is done here, and it is told what came of it.
//!
//! The new code is always imported first, while the old serves. Then, when it is this front's turn (`turns`), the workers
//! change, or this process executes its new image with the same pid, listening socket and idle connections.

use super::{Generation, Role, Server};
use crate::config::findings;
use crate::image;
use crate::reload::{Change, Output, Release};
use crate::systemd;
use crate::worker::preloader::{Link, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

/// How often an upload that is going on is looked at.
const UPLOAD_LOOK: Duration = Duration::from_millis(250);

impl Server {
    /// Looks at the watched files.
    pub(super) fn look(&mut self, now: Instant) {
        if self.place.role == Role::Cgi || self.reload.is_leaving() {
            return;
        }
        match self.watch.look(now) {
            Some(change) => self.reload.on_change(change, now),
            None => self.reload.on_looked(!self.watch.is_unsettled()),
        }
        self.run_reload(now);
        if self.watch.is_unsettled() {
            self.look_at = now + UPLOAD_LOOK;
            self.due(self.look_at);
        }
        self.look_for_old_class(now);
        self.look_for_wish(now);
    }

    /// Does what the reload asks for.
    pub(super) fn run_reload(&mut self, now: Instant) {
        while let Some(output) = self.reload.poll() {
            match output {
                Output::Test => self.test_image(),
                Output::EndTest => {
                    if let Some(child) = self.testing {
                        let _ = kill(child, Signal::SIGKILL);
                    }
                }
                Output::Load => self.read_settings(now),
                Output::Import(release) => self.import(release, now),
                Output::Abandon => self.abandon_next(now),
                Output::Promote(release) => self.promote(release, now),
                Output::Drain => self.drain(now),
                Output::Note(level, text) => self.note(level, &text),
                Output::Exit => self.ends = Some(super::leave::Ending::Exit),
                Output::Exec(image) => self.ends = Some(super::leave::Ending::Exec(image)),
            }
            if let Some(at) = self.reload.deadline() {
                self.due(at);
            }
        }
    }

    /// Runs the new executable once, on the side.
    fn test_image(&mut self) {
        let staged = image::stage(&self.origin.executable, self.place.dir.as_ref());
        let tested = staged.and_then(|image| Ok((image.test()?, image)));
        self.reload.on_staged(match tested {
            Ok((child, image)) => {
                self.testing = Some(child);
                Ok(image)
            }
            Err(error) => Err(error.to_string()),
        });
    }

    /// A child has ended: the one that tested the new executable?
    pub(super) fn on_tested(&mut self, pid: Pid, trouble: Option<&str>, now: Instant) {
        if self.testing == Some(pid) {
            self.testing = None;
            self.reload.on_tested(trouble);
            self.run_reload(now);
        }
    }

    fn read_settings(&mut self, now: Instant) {
        let mut watch = self.origin.watch_again(&self.watch);
        let loaded = match self.origin.settings() {
            Ok(config) => Ok(self.origin.release(config, &mut watch)),
            Err(wrong) => Err(findings::lines(&wrong)),
        };
        self.watch = watch;
        self.report.site_is(&self.origin.settings.nearest());
        if let Err(why) = &loaded
            && self.current.link.version.is_empty()
        {
            // There is nothing else: this is what the owner must know.
            self.current.link.fail(super::unconfigured(why));
        }
        self.reload.on_loaded(loaded, now);
    }

    /// Has a release imported while the live one serves.
    fn import(&mut self, release: Release, now: Instant) {
        self.last_generation += 1;
        self.next = Some(Generation {
            number: self.last_generation,
            link: Link::new(release.version.clone(), now),
            plain: !release.config.server.preload || self.place.dir.is_none(),
            release,
            tried: false,
        });
        self.turns.take();
        self.due(now);
    }

    fn abandon_next(&mut self, now: Instant) {
        if let Some(next) = self.next.take() {
            self.pool.end_trial(next.number, now);
            self.dismiss(next.link);
        }
    }

    /// The new code cannot be imported.
    pub(super) fn next_failed(&mut self, reason: &str, now: Instant) {
        if let Some(next) = self.next.take() {
            self.pool.end_trial(next.number, now);
        }
        if matches!(self.current.link.state, State::Failed { .. }) {
            // There is no old code either: this is what the owner must know.
            self.current.link.fail(reason.to_owned());
        }
        self.reload.on_imported(Err(reason), now);
        self.run_reload(now);
    }

    /// Goes on when the new code is there.
    pub(super) fn step_reload(&mut self, now: Instant) {
        self.reload.on_time(now);
        if self.reload.is_importing() {
            self.step_trial(now);
        }
        if self.reload.waits_for_turn() && self.has_turn(now) {
            self.reload.set_works(self.trouble().is_none(), now);
            self.reload.on_turn(now);
        }
        self.run_reload(now);
        self.retire_old(now);
    }

    /// Whether the next release can be imported shows in its preloader; where each worker imports the app, in the first.
    fn step_trial(&mut self, now: Instant) {
        let begins = self.next.as_ref().is_some_and(|next| {
            next.plain && !next.tried && matches!(next.link.state, State::Electing { .. })
        });
        if begins && self.has_turn(now) {
            self.start_trial(now);
        }
        let ready = self
            .next
            .as_ref()
            .is_some_and(|next| next.link.state == State::Ready);
        if ready {
            self.reload.on_imported(Ok(()), now);
        }
    }

    /// The next generation becomes the current one. Old workers go on until a new one has started.
    fn promote(&mut self, release: Release, now: Instant) {
        let Some(next) = self
            .next
            .take_if(|next| next.release.version == release.version)
        else {
            return;
        };
        systemd::notify(&systemd::reloading());
        self.reloading = true;
        let old = std::mem::replace(&mut self.current, next);
        self.dismiss(old.link);
        self.pool.admit(self.current.number, now);
        self.fork_after = None;
        self.apply();
        self.renew_codecs();
        self.remember_good();
        let _ = self.listen();
        self.report.count(crate::status::Count::Restarts, 1);
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
    fn retire_old(&mut self, now: Instant) {
        let current = self.current.number;
        let started = |p: &crate::worker::pool::Process| {
            p.generation == current && p.pid.is_some() && !p.retiring
        };
        if self.pool.processes.values().any(started) {
            if std::mem::take(&mut self.reloading) {
                systemd::notify("READY=1");
            }
            let old = self
                .pool
                .processes
                .iter()
                .filter(|(_, p)| p.generation < current && !p.retiring);
            let old: Vec<_> = old.map(|(number, _)| *number).collect();
            for number in old {
                self.pool.retire(number, now);
            }
        }
    }

    /// Keeps the release that works, for processes that are spawned while a newer one does not.
    pub(super) fn remember_good(&self) {
        if let Some(dir) = &self.place.dir
            && self.current.link.connect_only.is_none()
        {
            self.current.release.keep(dir);
        }
    }

    /// The release that last worked serves, when the one that was imported does not.
    pub(super) fn fall_back(&mut self, now: Instant) -> bool {
        let State::Failed { reason, .. } = &self.current.link.state else {
            return false;
        };
        let reason = reason.clone();
        let usable = self.current.link.connect_only.is_none() && self.pool.processes.is_empty();
        let good = match &self.place.dir {
            Some(dir) if usable => self.origin.good(dir),
            _ => None,
        };
        let Some(good) = good.filter(|good| good.version != self.current.link.version) else {
            return false;
        };
        self.last_generation += 1;
        self.current = Generation {
            number: self.last_generation,
            link: Link {
                connect_only: Some(reason),
                ..Link::new(good.version.clone(), now)
            },
            plain: false,
            release: good.clone(),
            tried: true,
        };
        self.reload.set_live(good);
        self.apply();
        self.due(now);
        true
    }

    /// Somebody asks for a site that could not be imported a while ago: it may have been mended.
    pub(super) fn retry(&mut self, now: Instant) {
        self.reload.set_works(self.trouble().is_none(), now);
        self.reload.on_asked(now);
        self.run_reload(now);
    }

    /// Reloads as a touch does, for all fronts of the site.
    pub(super) fn reload_all(&mut self, now: Instant) {
        let reload = self.origin.reload.as_ref();
        if reload.is_some_and(|file| fs::write(file, b"").is_ok()) {
            self.look_at = now;
            self.sweep_at = now;
        } else {
            self.reload.on_change(Change::Touched, now);
            self.run_reload(now);
        }
    }
}
