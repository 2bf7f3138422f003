//! Replaces or ends this process: takes new code live, or drains and then exits or executes a new image with the same pid,
//! listening sockets and idle connections.
//!
//! Carries out what `reload` asks for, and reports the outcome to it.

use super::access::AccessLog;
use super::{Role, Server, desk, signals};
use crate::config::{Config, findings};
use crate::failure::first_line;
use crate::image::{self, Image};
use crate::log::{Level, LogFile};
use crate::owner;
use crate::reload::{Beginning, Change, End, Output, Progress, Refusal, Release, Stamp};
use crate::status::Count;
use crate::systemd;
use crate::traffic::{Settings, Share};
use crate::workers::First;
use crate::workers::import;
use crate::workers::process::Process;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// How often the files are checked while an upload is going on.
const UPLOAD_TICK: Duration = Duration::from_millis(250);
/// A superseded process retires its idle workers after this time without a connection.
const SUPERSEDED_IDLE: Duration = Duration::from_secs(3);
/// A superseded process exits after this time without a connection.
const SUPERSEDED_EXIT: Duration = Duration::from_secs(60);

/// How `run` ends.
#[derive(Debug)]
pub enum Outcome {
    /// Exit with status 0.
    Exit,
    /// Execute the new image, if it can be used, and hand all this over to it.
    Exec(Box<HandOver>, io::Result<Image>),
}

/// What one image hands over to the next.
#[derive(Debug, Default)]
pub struct HandOver {
    /// The control socket of the preloader with the new code, and its version.
    pub control: Option<(OwnedFd, String)>,
    /// Idle connections, each with the number of its listener. `true`: no request has come on it.
    pub connections: Vec<(OwnedFd, usize, bool)>,
    /// The listening sockets, in order.
    pub listeners: Vec<OwnedFd>,
    /// The status file of this process, locked.
    pub report: Option<OwnedFd>,
    /// The file whose lock is this front's turn to go live.
    pub turn: Option<OwnedFd>,
}

/// How this process gets its first workers. `shared`: fronts share preloaders; `control`: as in `HandOver`.
pub(super) fn first(
    live: &Release,
    beginning: Beginning,
    refused: Option<&str>,
    shared: bool,
    control: Option<(OwnedFd, String)>,
) -> First {
    match (control, beginning) {
        (Some((control, version)), _) if version == live.version => First::Adopt(control),
        (_, Beginning::Behind) if shared => {
            let gone = || String::from("the code that worked is gone");
            First::ConnectOnly(refused.map_or_else(gone, unconfigured))
        }
        (_, Beginning::Fresh | Beginning::Behind) => First::Import,
        (_, Beginning::Broken) => First::Fail(unconfigured(refused.unwrap_or_default())),
    }
}

/// The reason shown when the settings cannot be used.
fn unconfigured(why: &str) -> String {
    format!("the site is not configured: {why}")
}

impl Server {
    pub(super) fn on_signal(&mut self, now: Instant) {
        while let Some(meaning) = signals::next(&self.signals) {
            match meaning {
                signals::Meaning::Stop => self.reload.stop(now),
                signals::Meaning::Reload => self.reload_all(now),
                signals::Meaning::ChildEnded => self.reap(now),
            }
        }
    }

    /// Reaps children that have ended: preloaders, plain workers, the test run of a new executable.
    fn reap(&mut self, now: Instant) {
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                self.on_tested(pid, status);
                self.workers.on_exit(pid, status, now);
                self.pass_on(now);
            }
        }
    }

    /// Checks the watched files.
    pub(super) fn check_files(&mut self, now: Instant) {
        let requested = self
            .desk
            .poll_run_file(&desk::site_view(self), SystemTime::now());
        if let Some((note, restart)) = requested {
            self.carry_out(Some(note), restart, now);
        }
        if self.front.role == Role::Cgi || self.reload.is_draining() {
            return;
        }
        match self.watch.look(now) {
            Some(change) => self.reload.on_change(change, now),
            None => self.reload.on_unchanged(!self.watch.is_unsettled()),
        }
        self.pass_on(now);
        if self.watch.is_unsettled() {
            self.next_tick = now + UPLOAD_TICK;
        }
        self.end_if_superseded(now);
        self.workers.give_idle(now);
    }

    /// Carries out an output of `reload`.
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
            Output::Refused(refusal) => self.refuse(refusal, now),
            Output::Note(level, text) => self.note(level, &text),
            Output::End(end) => self.end = Some(end),
        }
    }

    /// Counts an import that has failed.
    pub(super) fn import_failed(&mut self, reason: &str, now: Instant) {
        self.report.boot_failure(reason);
        let text = format!("the app cannot be imported: {}", first_line(reason));
        systemd::notify(&systemd::status(&text));
        self.fall_back(now);
        self.set_works(now);
    }

    /// Tells the owner of a refusal, for all fronts of the site.
    pub(super) fn refuse(&mut self, refusal: Refusal, now: Instant) {
        let key = refusal.key(&self.origin.identity, self.watch.uploaded());
        match self.unavailable_reason() {
            Some(_) => self.notices.record_refusal_soon(refusal, key, now),
            None => self
                .notices
                .record_refusal(self.workers.dir(), &refusal, key),
        }
    }

    /// Runs the new executable once, as a test.
    fn test_image(&mut self) {
        let staged = self.stage(self.config.server.private_copy);
        let tested = staged.and_then(|image| Ok((image.test()?, image)));
        self.reload.on_staged(match tested {
            Ok((child, image)) => {
                self.testing = Some(child);
                Ok(image)
            }
            Err(error) => Err(error.to_string()),
        });
    }

    fn stage(&self, private_copy: bool) -> io::Result<Image> {
        image::stage(&self.origin.executable, self.workers.dir(), private_copy)
    }

    /// Handles the end of a child, if it is the test run.
    pub(super) fn on_tested(&mut self, pid: Pid, status: WaitStatus) {
        if self.testing == Some(pid) {
            self.testing = None;
            let ended_well = status == WaitStatus::Exited(pid, 0);
            let trouble = (!ended_well).then(|| import::describe(status));
            self.reload.on_tested(trouble.as_deref());
        }
    }

    fn read_settings(&mut self, now: Instant) {
        // Keep the stamp of the executable that this process has accepted.
        let mut watch = self.watch.with_settings(&self.origin.settings.paths);
        let loaded = match self.origin.settings() {
            Ok(config) => Ok(self.origin.release(config, &mut watch)),
            Err(wrong) => Err(findings::lines(&wrong)),
        };
        self.watch = watch;
        self.report.set_site(&self.origin.settings.nearest());
        if let Err(why) = &loaded
            && self.workers.generations().version().is_empty()
        {
            // No other code serves, so the error page must give this reason.
            self.workers.fail(unconfigured(why));
        }
        self.reload.on_loaded(loaded, now);
        self.settle_desk();
    }

    /// Takes a reload further, as far as its deadlines and this front's turn allow.
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

    /// The progress of this front in its turn.
    fn progress(&self) -> Progress {
        // Before `execve` all workers are old ones; the new image keeps the turn.
        if !self.reload.is_steady() {
            return Progress::default();
        }
        let pool = self.workers.pool();
        let fresh = |p: &Process| p.generation() == pool.current() && !p.is_retiring();
        let answered = pool.roster().any(|p| fresh(p) && p.served() > 0);
        let runs = pool.roster().any(|p| fresh(p) && p.pid().is_some());
        let idle = runs && self.traffic.has_no_requests();
        Progress {
            done: answered || pool.scaling().is_spared(pool.counts()),
            idle_since: idle.then_some(self.last_accept),
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

    /// Applies the live settings, except those that apply only when a process starts.
    pub(super) fn apply(&mut self) {
        let config = self.reload.live().config.clone();
        let name = self.origin.executable.file_name().unwrap_or_default();
        let spawned = self.front.role != Role::External;
        let settings = Settings::new(config.clone(), &name.to_string_lossy(), spawned);
        let sizes = self.workers.sizes();
        let share = Share::take(sizes.max, sizes.slots, config.limits.max_connections);
        self.traffic.apply(settings.within(share));
        self.listeners
            .allow(config.server.allowed_users.as_ref(), self.front.role);
        self.access = AccessLog::new(&config);
        let file = LogFile::of(&config, &config.log.file);
        self.notices.set_file(file);
        if let Some((level, text)) = share.warning() {
            self.note(level, &text);
        }
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
        self.settle_desk();
    }

    /// Gives the desk the live settings. If those have no desk, uses what is valid of the ones on disk: they, or the app,
    /// may not work yet.
    fn settle_desk(&mut self) {
        let has_desk = |config: &Config| owner::place(config).is_some();
        let disk = match has_desk(&self.config) {
            true => None,
            false => self.origin.despite_errors().filter(has_desk),
        };
        let config = disk.map_or_else(|| self.config.clone(), Rc::new);
        self.desk.set_config(config);
    }

    /// Saves the live release as the last working one, for processes that are spawned while a newer one does not work.
    pub(super) fn remember_good(&self) {
        if let Some(dir) = self.workers.dir() {
            self.reload.live().keep(dir);
        }
    }

    /// Goes back to the last working release, if the live one cannot be imported.
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

    /// Lets a new request retry a failed import: the site may have been fixed.
    pub(super) fn retry(&mut self, now: Instant) {
        self.set_works(now);
        let lacks = self.workers.generations().has_failed() && self.workers.pool().wanted() > 0;
        self.reload.on_request(lacks, now);
        // Do it now: it decides whether this request waits or fails.
        while let Some(output) = self.reload.poll() {
            self.on_reload(output, now);
        }
    }

    fn set_works(&mut self, now: Instant) {
        let works = self.workers.unavailable_reason().is_none();
        self.reload.set_works(works, now);
    }

    /// Logs and carries out what the owner requested at the desk.
    pub(super) fn carry_out(&mut self, note: Option<(Level, String)>, restart: bool, now: Instant) {
        if let Some((level, text)) = note {
            self.note(level, &text);
        }
        if restart {
            self.reload_all(now);
        }
    }

    /// Makes all fronts of the site reload, by touching the `reload` file. Without one, reloads only this front.
    pub(super) fn reload_all(&mut self, now: Instant) {
        let reload = self.origin.reload.as_ref();
        if reload.is_some_and(|file| fs::write(file, b"").is_ok()) {
            self.next_tick = now;
        } else {
            self.reload.on_change(Change::Touched, now);
        }
    }

    /// Starts draining.
    fn drain(&mut self, now: Instant) {
        let execs = self.reload.drains_for_exec();
        self.traffic.freeze_idle(execs);
        if execs {
            let _ = self.listen();
            return;
        }
        self.workers.drain();
        self.rollout.take();
        systemd::notify("STOPPING=1");
        // After a shutdown, the backlog of a unix socket can still be accepted, but not that of a TCP socket.
        self.accept_backlog(now);
        let mod_fcgid = self.front.role == (Role::Spawned { mod_fcgid: true });
        self.listeners.withdraw(mod_fcgid);
        let _ = self.listen();
        self.accept_backlog(now);
    }

    /// Accepts the whole backlog, so that every client that has connected gets a response. True: there were any.
    fn accept_backlog(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((socket, listener)) = self.listeners.accept_any() {
            let connection = self.add(socket, listener, now);
            self.sockets.read(connection, &mut self.traffic, now);
            any = true;
        }
        any
    }

    /// Retires idle workers and then exits, if this process is superseded. mod_fcgid identifies a program by its inode: a
    /// process of a replaced executable gets no more requests, but mod_fcgid never stops it.
    fn end_if_superseded(&mut self, now: Instant) {
        if !self.is_superseded() || !self.traffic.has_no_requests() {
            return;
        }
        let unused = now.saturating_duration_since(self.last_accept);
        if unused >= SUPERSEDED_EXIT {
            self.note(Level::Info, "exiting: the web server has newer processes");
            self.reload.stop(now);
        } else if unused >= SUPERSEDED_IDLE && !self.reload.is_importing() {
            self.workers.give_up_idle(false, now);
        }
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.front.role == (Role::Spawned { mod_fcgid: true })
            && self.watch.executable() != Stamp::default()
            && self.watch.executable().inode() != self.front.spawned_as
    }

    /// How `run` ends, if it is time to.
    pub(super) fn outcome(&mut self, now: Instant) -> Option<Outcome> {
        if self.front.role == Role::Cgi {
            if self.is_answered() {
                self.workers.end(now);
                return Some(Outcome::Exit);
            }
            // A slow reader keeps this process, but not its worker.
            self.workers.give_up_idle(true, now);
        }
        let until = self.reload.drains_until()?;
        if now < until && self.has_open_requests(now) {
            return None;
        }
        self.reload.on_drained();
        self.flush(now);
        match self.end.take()? {
            End::Exit => {
                self.leave(now);
                Some(Outcome::Exit)
            }
            End::Exec(image, release) => {
                let config = release.as_ref().map_or(&self.config, |next| &next.config);
                let image = match image {
                    Some(image) => Ok(image),
                    None => self.stage(config.server.private_copy),
                };
                if let (Some(dir), Some(release)) = (self.workers.dir(), release) {
                    // The next image reads it from there: the settings on disk may have changed by then.
                    release.keep(dir);
                }
                self.write_report(now);
                Some(Outcome::Exec(Box::new(self.hand_over(now)), image))
            }
        }
    }

    /// Whether the request of CGI is answered, and its worker has finished with it.
    fn is_answered(&self) -> bool {
        self.traffic.connections().is_empty() && !self.workers.pool().roster().is_busy()
    }

    /// Whether a request is open or expected, so that this process must not exit yet.
    fn has_open_requests(&mut self, now: Instant) -> bool {
        let exits = !self.reload.drains_for_exec();
        self.sockets.check_answered(&mut self.traffic, now);
        self.flush(now);
        let expected = self.traffic.connections().expected_until(now);
        self.expected_until = expected.filter(|_| exits);
        if self.expected_until.is_some()
            || !self.traffic.is_idle()
            || self.workers.pool().roster().is_busy()
        {
            return true;
        }
        let more = exits && self.accept_backlog(now);
        self.flush(now);
        more
    }

    fn leave(&mut self, now: Instant) {
        self.workers.end(now);
        self.front.image_lock = None;
        self.report.close();
        if let Some(dir) = self.workers.dir() {
            dir.leave();
        }
    }

    fn hand_over(&mut self, now: Instant) -> HandOver {
        HandOver {
            control: self.workers.end(now),
            connections: self.sockets.hand_over(&self.traffic),
            listeners: self.listeners.hand_over(),
            report: self.report.hand_over(),
            turn: self.rollout.take(),
        }
    }
}
