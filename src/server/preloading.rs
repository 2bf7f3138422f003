//! The ties to preloaders: one for the code that serves, one for the code that is to come.

use super::processes::FORK_PAUSE;
use super::{Generation, Role, Server, Token};
use crate::log::Level;
use crate::systemd;
use crate::worker::pool::{self, ProcessNo};
use crate::worker::preloader::{Hello, Link, State};
use crate::worker::wire::Frame;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// What helps against a connection that is open after the import.
const OPEN_LATER: &str = "To have it imported once for all: open such things with the first request, or close them at the end of the import";

impl Server {
    /// Goes on with the ties to preloaders, as far as they are needed.
    pub(super) fn step_links(&mut self, now: Instant) {
        if self.is_faulty() {
            return;
        }
        let sizes = self.sizes();
        let wanting = pool::growth(
            sizes,
            self.pool.counts(self.queue.len(), self.current.number),
        ) > 0;
        for number in [
            self.current.number,
            self.next.as_ref().map_or(0, |g| g.number),
        ] {
            let is_current = number == self.current.number;
            let Some(mut generation) = self.take_generation(number) else {
                continue;
            };
            let needed =
                !is_current || wanting || !matches!(generation.link.state, State::Electing { .. });
            if !generation.plain && needed {
                self.step_link(&mut generation, now);
            }
            if let Some(at) = generation
                .link
                .deadline()
                .filter(|_| needed && !generation.plain)
            {
                self.due(at.max(now + Duration::from_millis(1)));
            }
            self.put_generation(generation);
            self.watch_control(number);
        }
        if matches!(self.current.link.state, State::Failed { .. }) && self.fall_back(now) {
            return;
        }
        self.fail_waiting(now);
    }

    pub(super) fn step_link(&mut self, generation: &mut Generation, now: Instant) {
        let Some(dir) = &self.place.dir else { return };
        match generation
            .link
            .step(now, dir, self.start(), self.place.hello)
        {
            Ok(None) => (),
            Ok(Some(text)) => self.note(Level::Error, &text),
            Err(error) => self.not_started(generation, &error, now),
        }
        if let State::Failed { reason, .. } = &generation.link.state
            && generation.number != self.current.number
        {
            let reason = reason.clone();
            self.next_failed(&reason);
        }
    }

    /// No process for a preloader: the account is at its limits, or something is amiss.
    pub(super) fn not_started(
        &mut self,
        generation: &mut Generation,
        error: &io::Error,
        now: Instant,
    ) {
        let text = format!("the preloader cannot be started: {error}");
        if self.place.role == Role::Cgi {
            self.note(Level::Error, &text);
            generation.plain = true;
        } else if super::sharing::is_refusal(error) {
            // Those who wait go on waiting, up to their time, and who has an idle worker ends it.
            self.note_limit(&text, now);
            self.give_back(now);
            self.wish();
            generation.link.state = State::Electing {
                next: now + FORK_PAUSE,
                pause: FORK_PAUSE,
            };
        } else {
            self.note(Level::Error, &text);
            generation.link.fail(now, text);
        }
    }

    /// Somebody asks for a site that could not be imported a while ago: it may have been mended.
    pub(super) fn retry_import(&mut self, now: Instant) {
        if self.current.link.may_retry(now) && self.fault.is_none() && self.next.is_none() {
            let version = self.watch.version(&self.place.identity);
            self.last_generation += 1;
            self.current = Generation {
                number: self.last_generation,
                link: Link::new(version, now),
                plain: self.current.plain,
            };
            self.due(now);
        }
    }

    /// Generations are taken out while they are worked on: the current one leaves a tie that does nothing.
    pub(super) fn take_generation(&mut self, number: u64) -> Option<Generation> {
        if self.current.number == number {
            let idle = Link {
                version: String::new(),
                state: State::Ready,
                channel: None,
                started_here: false,
                connect_only: None,
                deaths: 0,
                asked: VecDeque::new(),
            };
            let stand_in = Generation {
                number,
                link: idle,
                plain: self.current.plain,
            };
            return Some(std::mem::replace(&mut self.current, stand_in));
        }
        self.next.take_if(|next| next.number == number)
    }

    pub(super) fn put_generation(&mut self, generation: Generation) {
        if generation.number == self.current.number {
            self.current = generation;
        } else if !matches!(generation.link.state, State::Failed { .. }) {
            self.next = Some(generation);
        }
    }

    /// Lets epoll watch the control socket of a generation.
    pub(super) fn watch_control(&mut self, number: u64) {
        let found = [Some(&mut self.current), self.next.as_mut()]
            .into_iter()
            .flatten()
            .find(|g| g.number == number);
        if let Some(channel) = found.and_then(|g| g.link.channel.as_mut())
            && channel.registered.is_empty()
        {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Control(number).into());
            if self.epoll.add(&*channel, event).is_ok() {
                channel.registered = EpollFlags::EPOLLIN;
            }
        }
    }

    pub(super) fn on_control(&mut self, number: u64, now: Instant) {
        let Some(mut generation) = self.take_generation(number) else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        self.read_control(&mut generation, &mut scratch, now);
        self.scratch = scratch;
        if let State::Failed { reason, .. } = &generation.link.state
            && number != self.current.number
            && self.restart.is_importing()
        {
            self.next_failed(reason);
        }
        self.put_generation(generation);
        self.sweep_at = now;
    }

    pub(super) fn read_control(
        &mut self,
        generation: &mut Generation,
        scratch: &mut [u8],
        now: Instant,
    ) {
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
                Ok(Some(frame)) => self.on_control_frame(generation, frame, now),
                Err(error) => {
                    self.note(Level::Error, &format!("the preloader sent {error}"));
                    return generation.link.lost(now);
                }
            }
        }
        if let Some(channel) = generation.link.channel.as_mut() {
            channel.decoder = decoder;
        }
    }

    pub(super) fn on_control_frame(
        &mut self,
        generation: &mut Generation,
        frame: Frame<'_>,
        now: Instant,
    ) {
        match frame {
            Frame::Ready(facts) => {
                let fact = |name: &[u8]| {
                    String::from_utf8_lossy(facts.get(name).unwrap_or_default()).into_owned()
                };
                generation.link.state = State::Ready;
                generation.link.deaths = 0;
                if generation.number == self.current.number {
                    self.remember_good(&generation.link.version);
                }
                let (threads, open) = (fact(b"threads"), fact(b"open"));
                let threaded = threads.parse::<u32>().is_ok_and(|n| n > 1);
                generation.plain = threaded || !open.is_empty();
                if threaded {
                    self.note(Level::Warning, &format!("importing the app started {threads} threads: each worker imports it by itself"));
                }
                if !open.is_empty() && generation.link.started_here {
                    self.note(Level::Warning, &format!("importing the app left open what workers must not share: {open}; so each worker imports it by itself. {OPEN_LATER}"));
                }
                if generation.plain {
                    generation.link.greet(Hello {
                        linger: 0,
                        ..self.place.hello
                    });
                    generation.link.channel = None;
                } else if generation.link.started_here {
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
                if generation.link.started_here || generation.number != self.current.number {
                    self.note(
                        Level::Error,
                        &format!("the app cannot be imported\n{}", reason.trim_end()),
                    );
                }
                self.tell_failure(&reason);
                generation.link.fail(now, reason.clone());
                if generation.number != self.current.number {
                    self.next_failed(&reason);
                }
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

    /// A worker of the plain form could not import the app.
    pub(super) fn boot_failed(&mut self, process: ProcessNo, text: &str, now: Instant) {
        self.tell_failure(text);
        let generation = self.pool.processes.get(&process).map(|p| p.generation);
        let found = [Some(&mut self.current), self.next.as_mut()]
            .into_iter()
            .flatten()
            .find(|g| Some(g.number) == generation);
        if let Some(generation) = found {
            generation.link.fail(now, text.to_owned());
        }
        self.note(
            Level::Error,
            &format!("the app cannot be imported\n{}", text.trim_end()),
        );
        self.fail_waiting(now);
        self.pool.retire(process, now);
    }

    /// Tells those who ask how we do that the app cannot be imported.
    fn tell_failure(&mut self, reason: &str) {
        self.report.boot_failure(reason);
        let last = reason.trim_end().lines().last().unwrap_or_default();
        let text = format!("the app cannot be imported: {last}");
        systemd::notify(&systemd::status(&text));
    }

    /// Why no request can be served now; None when there is hope.
    pub(super) fn hopeless(&self) -> Option<String> {
        let failed = matches!(self.current.link.state, State::Failed { .. });
        if let Some(fault) = &self.fault
            && (failed || self.is_faulty())
            && self.pool.processes.is_empty()
        {
            return Some(fault.clone());
        }
        let nobody = || self.pool.processes.values().all(|p| p.retiring);
        match &self.current.link.state {
            State::Failed { reason, .. } if self.next.is_none() && nobody() => {
                Some(format!("the app cannot be imported\n{}", reason.trim_end()))
            }
            _ => None,
        }
    }

    /// Answers those who wait for what will not come.
    pub(super) fn fail_waiting(&mut self, now: Instant) {
        while self.pool.pick().is_none()
            && let Some(reason) = self.hopeless()
            && let Some(number) = self.queue.pop_front()
        {
            self.fail(number, 500, &reason, None, now);
            self.forget(number);
        }
    }
}
