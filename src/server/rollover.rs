//! What changes the process itself: new code goes live, or this process finishes what is in hand and ends, or executes a
//! new image with the same pid, listening socket and idle connections.
//!
//! What `reload` asks for is done here, and it is told what came of it. The new code is always imported first, while the
//! old serves.

use super::access::AccessLog;
use super::{Role, Server};
use crate::config::findings;
use crate::image::{self, Image};
use crate::log::{Level, LogFile};
use crate::reload::{Beginning, Change, Output, Progress, Release, Stamp};
use crate::status::Count;
use crate::systemd;
use crate::traffic::Settings;
use crate::workers::import;
use crate::workers::preloader::Link;
use crate::workers::process::Process;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How often an upload that is going on is looked at.
const UPLOAD_LOOK: Duration = Duration::from_millis(250);
/// A process of an old inode ends its worker after this time without a connection.
const UNUSED: Duration = Duration::from_secs(3);
/// A process of an old inode leaves after this time without a connection.
const STRAGGLERS: Duration = Duration::from_secs(60);

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

/// What this process does now that all is finished.
#[derive(Debug)]
pub(super) enum Ending {
    Exit,
    Exec(Option<Image>, Option<Release>),
}

/// The tie of the live release to its preloader, as this process begins. `handed`: the socket to one that the image before
/// this one has made, and its version; `shared`: preloaders are used.
pub(super) fn link(
    live: &Release,
    beginning: Beginning,
    refused: Option<&str>,
    shared: bool,
    handed: (Option<OwnedFd>, String),
    now: Instant,
) -> io::Result<Link> {
    let version = live.version.clone();
    if let (Some(control), true) = (handed.0, handed.1 == version) {
        return Link::adopted(version, control);
    }
    let mut link = Link::new(version, now);
    match beginning {
        Beginning::Behind if shared => {
            let gone = || String::from("the code that worked is gone");
            link.connect_only = Some(refused.map_or_else(gone, unconfigured));
        }
        Beginning::Fresh | Beginning::Behind => (),
        Beginning::Broken => link.fail(unconfigured(refused.unwrap_or_default())),
    }
    Ok(link)
}

/// What a visitor's page and the log say when the settings are of no use.
fn unconfigured(why: &str) -> String {
    format!("the site is not configured\n{why}")
}

impl Server {
    /// Looks at the watched files.
    pub(super) fn look(&mut self, now: Instant) {
        if self.front.role == Role::Cgi || self.reload.is_leaving() {
            return;
        }
        match self.watch.look(now) {
            Some(change) => self.reload.on_change(change, now),
            None => self.reload.on_looked(!self.watch.is_unsettled()),
        }
        self.pass_on(now);
        if self.watch.is_unsettled() {
            self.look_at = now + UPLOAD_LOOK;
        }
        self.look_for_old_class(now);
        self.workers.look_for_wish(now);
    }

    /// Does what `reload` asks for.
    pub(super) fn on_reload(&mut self, output: Output, now: Instant) {
        match output {
            Output::Test => self.test_image(),
            Output::EndTest => {
                if let Some(child) = self.testing {
                    let _ = kill(child, Signal::SIGKILL);
                }
            }
            Output::Load => self.read_settings(now),
            Output::Import(release) => {
                self.rollout.take();
                let Release { version, config } = release;
                self.workers.import(version, config, now);
            }
            Output::Abandon => self.workers.abandon(now),
            Output::Promote(release) => self.promote(&release, now),
            Output::Drain => self.drain(now),
            Output::Note(level, text) => self.note(level, &text),
            Output::Exit => self.ending = Some(Ending::Exit),
            Output::Exec(image, release) => self.ending = Some(Ending::Exec(image, release)),
        }
    }

    /// Runs the new executable once, on the side.
    fn test_image(&mut self) {
        let staged = image::stage(&self.origin.executable, self.workers.dir());
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
    pub(super) fn on_tested(&mut self, pid: Pid, status: WaitStatus) {
        if self.testing == Some(pid) {
            self.testing = None;
            let ended_well = status == WaitStatus::Exited(pid, 0);
            let trouble = (!ended_well).then(|| import::describe(status));
            self.reload.on_tested(trouble.as_deref());
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
            && self.workers.generations().version().is_empty()
        {
            // There is nothing else: this is what the owner must know.
            self.workers.fail(unconfigured(why));
        }
        self.reload.on_loaded(loaded, now);
    }

    /// Goes on with what is changing, as far as time and this process's turn allow.
    pub(super) fn step_reload(&mut self, now: Instant) {
        if self.reload.deadline().is_some_and(|at| at <= now) {
            self.reload.on_time(now);
        }
        if self.workers.generations().wants_trial() && self.has_turn(now) {
            self.workers.start_trial(now);
        }
        if self.reload.waits_for_turn() && self.has_turn(now) {
            self.set_works(now);
            self.reload.on_turn(now);
        }
        self.pass_on(now);
        if self.rollout.is_held() {
            let progress = self.progress();
            self.rollout.on_progress(progress, now);
        }
    }

    fn has_turn(&mut self, now: Instant) -> bool {
        let imports = self.workers.generations().is_plain();
        self.rollout.begin(self.workers.dir(), imports, now)
    }

    /// How far the change to new code has come in this process.
    fn progress(&self) -> Progress {
        // Who is about to execute a new image has old workers only; the new image goes on with the turn.
        if !self.reload.is_steady() {
            return Progress::default();
        }
        let pool = self.workers.pool();
        let fresh = |p: &Process| p.generation() == pool.current() && !p.is_retiring();
        let answered = pool.roster().any(|p| fresh(p) && p.served() > 0);
        let runs = pool.roster().any(|p| fresh(p) && p.pid().is_some());
        let still = runs && self.traffic.has_no_requests();
        Progress {
            done: answered || pool.is_spared(),
            still_since: still.then_some(self.last_accept),
        }
    }

    fn promote(&mut self, release: &Release, now: Instant) {
        if self.workers.promote(&release.version, now) {
            systemd::notify(&systemd::reloading());
            self.apply();
            let _ = self.listen();
            self.report.count(Count::Restarts, 1);
        }
    }

    /// Takes on what the live settings say, as far as it is not taken on when a process starts.
    pub(super) fn apply(&mut self) {
        let config = self.reload.live().config.clone();
        let name = self.origin.executable.file_name().unwrap_or_default();
        let spawned = self.front.role != Role::External;
        let settings = Settings::new(config.clone(), &name.to_string_lossy(), spawned);
        self.traffic.apply(settings);
        self.access = AccessLog::new(&config.log);
        let file = config.log.file.clone();
        let file = file.map(|path| LogFile::new(path, config.log.max_size));
        self.log.set_file(file);
        let farther = self.origin.settings.farther(config.file.as_deref());
        if let Some((used, beside)) = farther.filter(|_| self.front.role != Role::Cgi) {
            let text = format!(
                "the settings are those of {}, above the executable; {} would come first",
                used.display(),
                beside.display()
            );
            self.note(Level::Info, &text);
        }
        self.config = config;
    }

    /// Keeps the release that works, for processes that are spawned while a newer one does not.
    pub(super) fn remember_good(&self) {
        if let Some(dir) = self.workers.dir() {
            self.reload.live().keep(dir);
        }
    }

    /// The release that last worked serves, when the one that was imported does not.
    pub(super) fn fall_back(&mut self, now: Instant) {
        if !self.workers.may_fall_back() {
            return;
        }
        let good = self.workers.dir().and_then(|dir| self.origin.good(dir));
        if let Some(good) = good.filter(|good| good.version != self.workers.generations().version())
        {
            let (version, config) = (good.version.clone(), good.config.clone());
            self.workers.fall_back(version, config, now);
            self.reload.set_live(good);
            self.apply();
        }
    }

    /// Somebody asks for a site that could not be imported a while ago: it may have been mended.
    pub(super) fn retry(&mut self, now: Instant) {
        self.set_works(now);
        self.reload.on_asked(now);
        // Now: whether there is hope for this request depends on it.
        while let Some(output) = self.reload.poll() {
            self.on_reload(output, now);
        }
    }

    fn set_works(&mut self, now: Instant) {
        let works = self.workers.unavailable_reason().is_none();
        self.reload.set_works(works, now);
    }

    /// Reloads as a touch does, for all fronts of the site.
    pub(super) fn reload_all(&mut self, now: Instant) {
        let reload = self.origin.reload.as_ref();
        if reload.is_some_and(|file| fs::write(file, b"").is_ok()) {
            self.look_at = now;
        } else {
            self.reload.on_change(Change::Touched, now);
        }
    }

    /// Begins to finish what is in hand.
    fn drain(&mut self, now: Instant) {
        let execs = self.reload.leaves_for_exec();
        self.traffic.freeze_idle(execs);
        if execs {
            let _ = self.listen();
            return;
        }
        self.workers.drain();
        self.rollout.take();
        systemd::notify("STOPPING=1");
        // Of a TCP socket that is shut, nothing can be accepted any more; of a unix socket, what waits.
        self.accept_rest(now);
        let mod_fcgid = self.front.role == (Role::Spawned { mod_fcgid: true });
        self.listeners.withdraw(mod_fcgid);
        let _ = self.listen();
        self.accept_rest(now);
    }

    /// Takes what waits in the backlog: whoever has connected gets an answer.
    fn accept_rest(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((socket, listener)) = self.listeners.accept_any() {
            let connection = self.add(socket, listener, now);
            self.sockets.read(connection, &mut self.traffic, now);
            any = true;
        }
        any
    }

    /// mod_fcgid tells programs apart by inode: a process of an old one gets no more requests and is never ended.
    /// Until it leaves it keeps no worker that has nothing to do.
    fn look_for_old_class(&mut self, now: Instant) {
        if !self.is_of_old_class() || !self.traffic.has_no_requests() {
            return;
        }
        let unused = now.saturating_duration_since(self.last_accept);
        if unused >= STRAGGLERS {
            self.note(Level::Info, "leaving: the web server has newer processes");
            self.reload.stop(now);
        } else if unused >= UNUSED && !self.reload.is_importing() {
            self.workers.give_up_idle(now);
        }
    }

    pub(super) fn is_of_old_class(&self) -> bool {
        self.front.role == (Role::Spawned { mod_fcgid: true })
            && self.watch.executable() != Stamp::default()
            && self.watch.executable().inode() != self.front.spawned_as
    }

    /// Whether, and how, it is time to return from `run`.
    pub(super) fn outcome(&mut self, now: Instant) -> Option<Outcome> {
        if self.front.role == Role::Cgi && self.traffic.connections().is_empty() {
            return Some(Outcome::Exit);
        }
        let until = self.reload.drains_until()?;
        if now < until && self.has_something_in_hand(now) {
            return None;
        }
        self.reload.on_drained();
        self.flush(now);
        match self.ending.take()? {
            Ending::Exit => {
                self.leave();
                Some(Outcome::Exit)
            }
            Ending::Exec(image, release) => {
                let dir = self.workers.dir();
                let staged = || image::stage(&self.origin.executable, dir).ok();
                let image = image.or_else(staged).unwrap_or_default();
                if let (Some(dir), Some(release)) = (dir, release) {
                    // The next image takes it from there: the disk may hold another one by then.
                    release.keep(dir);
                }
                self.write_report(now);
                Some(Outcome::Exec(Box::new(self.hand_over()), image))
            }
        }
    }

    /// Whether somebody is still to be served before this process leaves.
    fn has_something_in_hand(&mut self, now: Instant) -> bool {
        let exits = !self.reload.leaves_for_exec();
        self.sockets.look_at_answered(&mut self.traffic, now);
        self.flush(now);
        let expected = self.traffic.connections().expected_until(now);
        self.expected_until = expected.filter(|_| exits);
        if self.expected_until.is_some()
            || !self.traffic.is_idle()
            || self.workers.pool().roster().is_busy()
        {
            return true;
        }
        let more = exits && self.accept_rest(now);
        self.flush(now);
        more
    }

    fn leave(&mut self) {
        self.workers.end();
        self.front.image_lock = None;
        self.report.close();
        if let Some(dir) = self.workers.dir() {
            dir.leave();
        }
    }

    fn hand_over(&mut self) -> HandOver {
        let (control, version) = match self.workers.end() {
            Some((control, version)) => (Some(control), version),
            None => (None, String::new()),
        };
        HandOver {
            control,
            version,
            connections: self.sockets.hand_over(&self.traffic),
            listeners: self.listeners.hand_over(),
            report: self.report.hand_over(),
            turn: self.rollout.take(),
        }
    }
}
