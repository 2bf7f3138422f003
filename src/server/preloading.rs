//! The ties to preloaders: one for the code that serves, one for the code that is to come.

use super::processes::FORK_PAUSE;
use super::{Generation, Role, Server};
use crate::failure::Failure;
use crate::log::Level;
use crate::poller::Token;
use crate::rundir::is_full;
use crate::systemd;
use crate::worker::pool::{self, ProcessNo};
use crate::worker::preloader::{Hello, State};
use crate::worker::wire::Frame;
use nix::sys::epoll::EpollFlags;
use nix::sys::wait::WaitStatus;
use std::io;
use std::time::{Duration, Instant};

/// What helps against a connection that is open after the import.
const OPEN_LATER: &str = "To have it imported once for all: open such things with the first request, or close them at the end of the import";

impl Server {
    /// The generation of this number, if it is served or tried.
    pub(super) fn generation(&mut self, number: u64) -> Option<&mut Generation> {
        let both = [Some(&mut self.current), self.next.as_mut()];
        both.into_iter().flatten().find(|g| g.number == number)
    }

    /// Goes on with the ties to preloaders, as far as they are needed.
    pub(super) fn step_links(&mut self, now: Instant) {
        let sizes = self.sizes();
        let wanting = pool::growth(
            sizes,
            self.pool.counts(self.queue.len(), self.current.number),
        ) > 0;
        let next = self.next.as_ref().map(|next| next.number);
        for number in [Some(self.current.number), next].into_iter().flatten() {
            let is_current = number == self.current.number;
            let Some(generation) = self.generation(number) else {
                continue;
            };
            let electing = matches!(generation.link.state, State::Electing { .. });
            if generation.plain || is_current && electing && !wanting {
                continue;
            }
            self.step_link(number, now);
            let deadline = self.generation(number).and_then(|g| g.link.deadline());
            if let Some(at) = deadline {
                self.due(at.max(now + Duration::from_millis(1)));
            }
            self.watch_control(number);
        }
        if matches!(self.current.link.state, State::Failed { .. }) && self.fall_back(now) {
            return;
        }
        self.fail_waiting(now);
    }

    fn step_link(&mut self, number: u64, now: Instant) {
        let Some(dir) = &self.place.dir else { return };
        let both = [Some(&mut self.current), self.next.as_mut()];
        let Some(generation) = both.into_iter().flatten().find(|g| g.number == number) else {
            return;
        };
        let config = generation.release.config.clone();
        let start = super::processes::start(&self.place, &self.log, &config);
        let hello = self.place.hello_with(&config);
        let had_failed = matches!(generation.link.state, State::Failed { .. });
        match generation.link.step(now, dir, start, hello) {
            Ok(None) => (),
            Ok(Some(text)) => self.note(Level::Error, &text),
            Err(error) => self.not_started(number, &error, now),
        }
        if let Some(State::Failed { reason }) = self.generation(number).map(|g| &g.link.state)
            && !had_failed
        {
            let reason = reason.clone();
            self.tell_failure(&reason);
        }
        self.see_failure(number, now);
    }

    /// What was tried has failed: the old goes on.
    fn see_failure(&mut self, number: u64, now: Instant) {
        if number != self.current.number
            && let Some(next) = self.next.as_ref().filter(|next| next.number == number)
            && let State::Failed { reason, .. } = &next.link.state
        {
            let reason = reason.clone();
            self.next_failed(&reason, now);
        }
    }

    /// No process for a preloader: the account is at its limits, or something is amiss.
    fn not_started(&mut self, number: u64, error: &io::Error, now: Instant) {
        let mut text = format!("the preloader cannot be started: {error}");
        let refused = super::sharing::is_refusal(error);
        let goes_without = self.place.role == Role::Cgi || is_full(error);
        if goes_without {
            text.push_str("; each worker imports the app by itself");
        }
        if goes_without || !refused {
            self.note(Level::Error, &text);
        } else {
            // Those who wait go on waiting, up to their time, and who has an idle worker ends it.
            self.note_limit(&text, now);
            self.give_back(now);
            self.wish();
        }
        let Some(generation) = self.generation(number) else {
            return;
        };
        if goes_without {
            generation.plain = true;
        } else if refused {
            generation.link.state = State::Electing {
                next: now + FORK_PAUSE,
                pause: FORK_PAUSE,
            };
        } else {
            generation.link.fail(text);
        }
    }

    /// Lets epoll watch the control socket of a generation.
    pub(super) fn watch_control(&mut self, number: u64) {
        let both = [Some(&mut self.current), self.next.as_mut()];
        let found = both.into_iter().flatten().find(|g| g.number == number);
        if let Some(channel) = found.and_then(|g| g.link.channel.as_mut()) {
            let _ = channel.watch(&self.poller, Token::Control(number), EpollFlags::EPOLLIN);
        }
    }

    pub(super) fn on_control(&mut self, number: u64, now: Instant) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.read_control(number, &mut scratch, now);
        self.scratch = scratch;
        self.see_failure(number, now);
        self.sweep_at = now;
    }

    fn read_control(&mut self, number: u64, scratch: &mut [u8], now: Instant) {
        let Some(generation) = self.generation(number) else {
            return;
        };
        let Some(channel) = generation.link.channel.as_mut() else {
            return;
        };
        let count = match channel.receive(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(0) | Err(_) => return generation.link.lost(now),
            Ok(count) => count,
        };
        let mut input = &scratch[..count];
        let mut decoder = std::mem::take(&mut channel.decoder);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => self.on_control_frame(number, frame, now),
                Err(error) => {
                    self.note(Level::Error, &format!("the preloader sent {error}"));
                    if let Some(generation) = self.generation(number) {
                        generation.link.lost(now);
                    }
                    return;
                }
            }
        }
        let channel = self
            .generation(number)
            .and_then(|g| g.link.channel.as_mut());
        if let Some(channel) = channel {
            channel.decoder = decoder;
        }
    }

    fn on_control_frame(&mut self, number: u64, frame: Frame<'_>, now: Instant) {
        let Some(generation) = self.generation(number) else {
            return;
        };
        match frame {
            Frame::Ready(facts) => {
                let fact = |name: &[u8]| {
                    String::from_utf8_lossy(facts.get(name).unwrap_or_default()).into_owned()
                };
                generation.link.imported();
                let (threads, open) = (fact(b"threads"), fact(b"open"));
                let threaded = threads.parse::<u32>().is_ok_and(|n| n > 1);
                let plain = threaded || !open.is_empty();
                generation.plain = plain;
                let started_here = generation.link.started_here;
                if number == self.current.number {
                    self.remember_good();
                }
                if threaded {
                    self.note(Level::Warning, &format!("importing the app started {threads} threads: each worker imports it by itself"));
                }
                if !open.is_empty() && started_here && fact(b"said").is_empty() {
                    self.note(Level::Warning, &format!("importing the app left open what workers must not share: {open}; so each worker imports it by itself. {OPEN_LATER}"));
                }
                if plain {
                    let hello = Hello {
                        linger: 0,
                        ..self.place.hello
                    };
                    if let Some(generation) = self.generation(number) {
                        generation.link.greet(hello);
                        generation.link.channel = None;
                    }
                } else if started_here {
                    for (level, name) in [(Level::App, b"errors"), (Level::Output, b"output")] {
                        let text = fact(name);
                        if !text.trim().is_empty() {
                            self.note(level, text.trim_end());
                        }
                    }
                    let (seconds, python) = (fact(b"seconds"), fact(b"python"));
                    let text = format!("imported the app in {seconds} s with Python {python}");
                    self.note(Level::Info, &text);
                    systemd::notify(&systemd::status(&text));
                }
            }
            Frame::Failed(text) => {
                let reason = String::from_utf8_lossy(&text).into_owned();
                let started_here = generation.link.started_here;
                generation.link.fail(reason.clone());
                if started_here || number != self.current.number {
                    self.note(
                        Level::Error,
                        &format!("the app cannot be imported\n{}", reason.trim_end()),
                    );
                }
                self.tell_failure(&reason);
            }
            Frame::Refused(text) => {
                let reason = String::from_utf8_lossy(&text).into_owned();
                let process = generation.link.answered();
                self.refused(process, &reason, now);
            }
            Frame::Forked { .. } => {
                generation.link.answered();
            }
            Frame::Release => self.give_back(now),
            Frame::Exited { pid, how } => self.on_worker_exit(pid, &how),
            _ => (),
        }
    }

    /// A child has ended: one that imports the app?
    pub(super) fn on_import_end(&mut self, status: WaitStatus, now: Instant) {
        let both = [Some(&mut self.current), self.next.as_mut()];
        let ended = |generation: &mut Generation| generation.link.ended(status, now);
        if both.into_iter().flatten().any(ended) {
            self.due(now);
        }
    }

    /// A worker of the plain form could not import the app.
    pub(super) fn boot_failed(&mut self, process: ProcessNo, text: &str, now: Instant) {
        self.tell_failure(text);
        self.note(
            Level::Error,
            &format!("the app cannot be imported\n{}", text.trim_end()),
        );
        let number = self
            .pool
            .processes
            .get(&process)
            .map_or(0, |p| p.generation);
        if let Some(generation) = self.generation(number) {
            generation.link.fail(text.to_owned());
        }
        self.pool.retire(process, now);
        self.see_failure(number, now);
        self.fail_waiting(now);
    }

    /// Tells those who ask how we do that the app cannot be imported.
    fn tell_failure(&mut self, reason: &str) {
        self.report.boot_failure(reason);
        let last = reason.trim_end().lines().last().unwrap_or_default();
        let text = format!("the app cannot be imported: {last}");
        systemd::notify(&systemd::status(&text));
    }

    /// Why no request is served now.
    pub(super) fn trouble(&self) -> Option<String> {
        let nobody = || {
            self.pool
                .processes
                .values()
                .all(|p| p.retiring || p.on_trial)
        };
        match &self.current.link.state {
            State::Failed { reason, .. } if nobody() => {
                Some(match self.current.link.version.is_empty() {
                    true => reason.clone(),
                    false => format!("the app cannot be imported\n{}", reason.trim_end()),
                })
            }
            _ => None,
        }
    }

    /// Why no request can be served now; None when there is hope: something else is tried, or may just be coming in.
    pub(super) fn hopeless(&self) -> Option<String> {
        let uploading = || {
            self.current.link.version.is_empty()
                && self.watch.may_be_uploading(std::time::SystemTime::now())
        };
        self.trouble()
            .filter(|_| self.next.is_none() && !uploading())
    }

    /// Answers those who wait for what will not come.
    pub(super) fn fail_waiting(&mut self, now: Instant) {
        while self.pool.pick().is_none()
            && let Some(reason) = self.hopeless()
            && let Some(number) = self.queue.pop_front()
        {
            self.fail(number, Failure::Unavailable(reason), now);
            self.forget(number);
        }
    }
}
