//! Worker processes: how many there should be, starting and ending them.

use super::{Place, Role, Server, sharing};
use crate::account::Account;
use crate::config::Config;
use crate::log::{Level, Log};
use crate::poller::{Token, Watched};
use crate::worker::channel::Channel;
use crate::worker::import;
use crate::worker::pool::{self, Counts, Pool, Process, Sizes};
use crate::worker::preloader::{ANSWERS_WITHIN, State};
use crate::worker::spawn::{self, Outputs, Start};
use crate::worker::wire::{self};
use nix::fcntl::OFlag;
use nix::sys::epoll::EpollFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Pause after a fork was refused, or a worker did not start.
pub(super) const FORK_PAUSE: Duration = Duration::from_millis(200);
/// So many workers that do not start, and are ended by somebody else, are no accident.
const BOOT_FAILURES: u32 = 8;
/// The longest such pause.
const FORK_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Workers of one front where the server gives it many requests at a time and nothing is said.
const CHILDREN: usize = 8;

impl Server {
    /// Grows and shrinks the pool, ends what is to be ended.
    pub(super) fn tend(&mut self, now: Instant) {
        self.end_unborn(now);
        self.cut_lifelines(now);
        if self.fork_after.is_some_and(|at| at <= now) {
            self.fork_after = None;
        }
        let counts = self.pool.counts(self.queue.len(), self.current.number);
        let spared = self.is_spared();
        self.given_back = spared;
        let leaving = self.reload.is_leaving() && self.queue.is_empty();
        if !(leaving || spared) {
            self.grow(counts, now);
        }
        let sizes = self.sizes();
        let old = |p: &Process| !p.retiring && p.old_at.is_some_and(|at| at <= now);
        let old = self
            .pool
            .processes
            .iter()
            .find(|(_, p)| old(p))
            .map(|(n, _)| *n);
        if let Some(process) = old
            && self.pool.idle_since(now).contains(&process)
        {
            self.pool.retire(process, now);
        }
        let idle_timeout = Duration::from_secs(self.config.server.idle_timeout);
        if counts.idle > sizes.maxspare
            && let Some(since) = now.checked_sub(idle_timeout)
        {
            for process in self
                .pool
                .idle_since(since)
                .into_iter()
                .take(counts.idle - sizes.maxspare)
            {
                self.pool.retire(process, now);
            }
        }
    }

    /// Starts workers, as many as are needed and as the account has room for.
    fn grow(&mut self, counts: Counts, now: Instant) {
        if self.fork_after.is_some() {
            return;
        }
        let (started, here) = self.pool.tasks();
        // Not before one can be forked: what starts a preloader passes by.
        let can = self.current.plain || self.current.link.state == State::Ready;
        let more = || pool::growth(self.sizes_in(&Account::default()), counts) > 0;
        if can && !self.is_alone() && more() {
            self.account.look(started, !self.queue.is_empty(), now);
            if let Some(text) = self.account.tell_cut(&self.config) {
                self.note(Level::Warning, &text);
            }
        }
        let sizes = self.sizes();
        let mut wanted = pool::growth(sizes, counts);
        // Those with old code, and those that leave, are still there. But never none at all.
        let room = self.account.tasks().map(|most| most.saturating_sub(here));
        if counts.processes > 0 {
            wanted = wanted.min(room.unwrap_or(wanted));
        }
        let slots = room.map_or(sizes.slots, |room| sizes.slots.min(room).max(1));
        for _ in 0..wanted {
            if self.fork_after.is_some() || !self.start_worker(slots, now) {
                break;
            }
        }
    }

    /// Workers that were asked for and have not started in time: whoever was to start them is stuck.
    pub(super) fn end_unborn(&mut self, now: Instant) {
        let mut seconds = self.config.limits.start_timeout;
        if !self.current.plain {
            seconds = seconds.min(ANSWERS_WITHIN.as_secs());
        }
        let late = |p: &&mut Process| {
            p.pid.is_none()
                && p.cut_at.is_none()
                && now.saturating_duration_since(p.born) >= Duration::from_secs(seconds)
        };
        let Some(process) = self.pool.processes.values_mut().find(late) else {
            return;
        };
        process.cut_at = Some(now);
        let generation = process.generation;
        let text = format!("a worker has not started within {seconds} s");
        self.note(Level::Error, &text);
        if self
            .next
            .as_ref()
            .is_some_and(|next| next.number == generation)
        {
            return self.next_failed(&text, now);
        }
        if generation != self.current.number {
            return;
        }
        if self.current.plain {
            self.current.link.fail(text);
        } else if let Some(dir) = &self.place.dir {
            self.current.link.end_stuck(dir);
            self.current.link.lost(now);
        }
        self.due(now);
    }

    /// How many workers this front may have.
    pub(super) fn sizes(&self) -> Sizes {
        self.sizes_in(&self.account)
    }

    /// Whether it is given one request at a time.
    fn is_alone(&self) -> bool {
        matches!(
            self.place.role,
            Role::Spawned { mod_fcgid: true } | Role::Cgi
        )
    }

    fn sizes_in(&self, account: &Account) -> Sizes {
        let server = &self.config.server;
        let slots = crate::worker::threads(&self.config) as usize;
        let alone = self.is_alone();
        let max = match (alone, slots) {
            (true, _) | (_, 2..) => 1,
            _ => account.fitting(server.maxchildren.map_or(CHILDREN, |n| n as usize)),
        };
        let minspare = server.minspare.map_or(0, |n| n as usize).min(max);
        let maxspare = server
            .maxspare
            .map_or(max.min(5), |n| n as usize)
            .max(minspare);
        let slots = match alone {
            true => 1,
            false => account.fitting_threads(slots),
        };
        Sizes {
            minspare,
            maxspare,
            max,
            slots,
        }
    }

    /// Asks for one more worker. `false`: not now.
    pub(super) fn start_worker(&mut self, slots: usize, now: Instant) -> bool {
        if !self.current.plain && self.current.link.state != State::Ready {
            if matches!(self.current.link.state, State::Electing { .. }) {
                self.step_links(now);
            }
            return false;
        }
        if matches!(self.current.link.state, State::Failed { .. }) || self.pool.has_mute() {
            return false;
        }
        match self.try_start(self.current.number, slots, now) {
            Ok(()) => true,
            Err(error) if sharing::is_refusal(&error) => {
                self.wish();
                self.wait_for_room(&format!("a worker cannot be started: {error}"), now);
                false
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotConnected {
                    self.note(
                        Level::Warning,
                        &format!("a worker cannot be started: {error}"),
                    );
                }
                self.fork_failed(now);
                false
            }
        }
    }

    /// Asks for the worker that shows whether the next release can be imported. Where there is no room for one more,
    /// that shows when it is live.
    pub(super) fn start_trial(&mut self, now: Instant) {
        let Some(next) = &mut self.next else { return };
        next.tried = true;
        let number = next.number;
        let slots = crate::worker::threads(&next.release.config) as usize;
        match self.try_start(number, slots, now) {
            Ok(()) => (),
            Err(error) if sharing::is_refusal(&error) => {
                if let Some(next) = &mut self.next {
                    next.link.state = State::Ready;
                }
            }
            Err(error) => self.next_failed(&format!("a worker cannot be started: {error}"), now),
        }
    }

    /// Starts a worker of this generation.
    fn try_start(&mut self, generation: u64, slots: usize, now: Instant) -> io::Result<()> {
        let both = [Some(&mut self.current), self.next.as_mut()];
        let found = both.into_iter().flatten().find(|g| g.number == generation);
        let of = found.ok_or(ErrorKind::NotConnected)?;
        let config = of.release.config.clone();
        let (life_read, life_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_write) = output_pipe()?;
        let (stdout, stdout_write) = match self.log.has_output() {
            true => output_pipe().map(|(read, write)| (Some(read), write))?,
            false => (None, stderr_write.try_clone()?),
        };
        let mut channels = Vec::new();
        let mut theirs: Vec<OwnedFd> = Vec::new();
        for _ in 0..slots {
            let (ours, their) = UnixStream::pair()?;
            channels.push(Channel::new(ours.into())?);
            theirs.push(their.into());
        }
        let sockets = theirs.iter().map(AsRawFd::as_raw_fd);
        let mut launched = None;
        if of.plain {
            let descriptors: Vec<RawFd> =
                [life_read.as_raw_fd()].into_iter().chain(sockets).collect();
            let start = start(&self.place, &self.log, &config);
            let setup = spawn::setup(start, "worker", slots as u32, true);
            let outputs = Outputs {
                stdout: stdout_write,
                stderr: stderr_write,
            };
            let (_, pid) = spawn::start(start, &setup, &descriptors, outputs, wire::BOOT_FAILED)?;
            launched = Some(pid);
        } else {
            let own = [&stdout_write, &stderr_write].map(AsRawFd::as_raw_fd);
            let descriptors: Vec<RawFd> = [life_read.as_raw_fd()]
                .into_iter()
                .chain(own)
                .chain(sockets)
                .collect();
            of.link.fork(&descriptors)?;
        }
        let (plain, server) = (of.plain, &config.server);
        let jitter = crate::bytes::fnv_more(
            self.seed,
            &now.duration_since(self.started).as_nanos().to_le_bytes(),
        );
        let lifetime =
            (server.max_lifetime > 0).then(|| now + Duration::from_secs(server.max_lifetime));
        let process = Process {
            pid: None,
            launched,
            said: Vec::new(),
            generation,
            on_trial: generation != self.current.number,
            lifeline: Some(life_write),
            stdout,
            stderr: Some(stderr),
            slots: Vec::new(),
            served: 0,
            served_limit: less_up_to_a_tenth(server.maxrequests, jitter),
            born: now,
            old_at: lifetime,
            retiring: false,
            cut_at: None,
            refused: false,
            ended_for: None,
        };
        let number = self.pool.add(process, channels);
        if !plain && let Some(of) = self.generation(generation) {
            of.link.has_asked_for(number);
        }
        let Some(process) = self.pool.processes.get(&number) else {
            return Ok(());
        };
        for (output, token) in [
            (&process.stdout, Token::Stdout(number.0)),
            (&process.stderr, Token::Stderr(number.0)),
        ] {
            if let Some(output) = output {
                let mut watched = Watched::default();
                self.poller
                    .watch(output, token, EpollFlags::EPOLLIN, &mut watched)?;
            }
        }
        for slot in &process.slots {
            if let Some(found) = self.pool.slots.get_mut(slot) {
                let (token, flags) = (Token::Slot(slot.0), EpollFlags::EPOLLIN);
                found.channel.watch(&self.poller, token, flags)?;
            }
        }
        Ok(())
    }

    pub(super) fn fork_failed(&mut self, now: Instant) {
        self.boot_failures = (self.boot_failures + 1).min(16);
        let pause = (FORK_PAUSE * (1 << self.boot_failures.min(6))).min(FORK_PAUSE_MAX);
        self.fork_after = Some(now + pause);
        self.due(now + pause);
    }

    /// Ends processes whose time has come, and forgets those that are gone.
    pub(super) fn cut_lifelines(&mut self, now: Instant) {
        let mut gone = Vec::new();
        let mut next = None;
        for (number, process) in &mut self.pool.processes {
            let Some(at) = process.cut_at else { continue };
            let silent = process.stdout.is_none() && process.stderr.is_none();
            let silent = silent && process.launched.is_none();
            if silent && process.slots.is_empty() || at <= now {
                gone.push(*number);
            } else {
                next = Some(next.map_or(at, |n: Instant| n.min(at)));
            }
        }
        for number in gone {
            self.read_outputs(number);
            let Some(process) = self.pool.processes.get_mut(&number) else {
                continue;
            };
            process.retiring = true;
            process.lifeline = None;
            if process.launched.take().is_some() {
                let reason = import::reason(&process.said, "has let go of its sockets");
                self.boot_failed(number, &reason, now);
            }
            let Some(process) = self.pool.processes.get_mut(&number) else {
                continue;
            };
            // Before it is forgotten: those that it served are told which process it was, and why it was ended.
            for slot in process.slots.clone() {
                self.lose_slot(slot, now);
            }
            self.pool.processes.remove(&number);
        }
        if let Some(at) = next {
            self.due(at);
        }
    }

    /// Collects children that have ended: preloaders, workers of the plain form, the one that tests a new executable.
    pub(super) fn reap(&mut self, now: Instant) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => {
                    self.on_exit(pid, status, now);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => (),
            }
        }
    }

    /// The preloader tells how a worker of ours has ended; of those that we ended ourselves we know.
    pub(super) fn on_worker_exit(&mut self, pid: i32, how: &str) {
        let found = self.pool.processes.values().find(|p| p.pid == Some(pid));
        let ours = found.is_some_and(|process| process.ended_for.is_none());
        if ours || self.report.has_died(pid) {
            self.report.death(pid, how);
            self.note(Level::Warning, &format!("worker {pid} {how}"));
        }
    }

    fn on_exit(&mut self, pid: Pid, status: WaitStatus, now: Instant) {
        let trouble = match status {
            WaitStatus::Exited(_, 0) => None,
            _ => Some(import::describe(status)),
        };
        self.on_tested(pid, trouble.as_deref(), now);
        self.on_import_end(status, now);
        self.on_unborn_end(status, now);
        if let Some(trouble) = trouble {
            self.on_worker_exit(pid.as_raw(), &trouble);
        }
    }

    /// A child has ended: a worker of the plain form that has not imported the app yet?
    fn on_unborn_end(&mut self, status: WaitStatus, now: Instant) {
        let is_it = |p: &Process| p.launched.is_some() && p.launched == status.pid();
        let find = |pool: &Pool| {
            let mut all = pool.processes.iter();
            let (number, process) = all.find(|(_, p)| is_it(p))?;
            Some((*number, process.slots.clone()))
        };
        let Some((_, slots)) = find(&self.pool) else {
            return;
        };
        // It may have told the reason itself.
        for slot in slots {
            self.on_slot(slot, EpollFlags::EPOLLIN, now);
        }
        let Some((number, _)) = find(&self.pool) else {
            return;
        };
        self.read_outputs(number);
        let how = import::describe(status);
        let Some(process) = self.pool.processes.get_mut(&number) else {
            return;
        };
        process.launched = None;
        let said = std::mem::take(&mut process.said);
        let reason = import::reason(&said, &how);
        let of = process.generation;
        if !import::is_from_outside(status) || self.boot_failures >= BOOT_FAILURES {
            return self.boot_failed(number, &reason, now);
        }
        self.note(Level::Warning, &reason);
        if let Some(next) = self.next.as_mut().filter(|next| next.number == of) {
            next.tried = false;
        }
        self.due(now);
    }
}

/// How everything of these settings is started.
pub(super) fn start<'a>(place: &'a Place, log: &Log, config: &'a Config) -> Start<'a> {
    Start {
        config,
        exe: &place.image,
        cache: place.python_cache.as_deref(),
        cgi: place.role == Role::Cgi,
        outlog: log.has_output(),
    }
}

/// Spreads the moments at which workers that began together are replaced.
fn less_up_to_a_tenth(limit: u64, random: u64) -> u64 {
    limit - random % (limit / 10 + 1)
}

/// Both ends of a pipe for what a worker writes; ours does not block.
fn output_pipe() -> io::Result<(OwnedFd, File)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, File::from(write)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_a_tenth_at_most() {
        assert_eq!(less_up_to_a_tenth(0, 7), 0);
        assert_eq!(less_up_to_a_tenth(1, 7), 1);
        for random in 0..1000 {
            assert!((900..=1000).contains(&less_up_to_a_tenth(1000, random)));
        }
    }
}
