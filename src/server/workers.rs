//! The front's side of workers and preloader: starting them, giving them requests, taking their frames.

use super::body::Body;
use super::request::{Answer, Phase};
use super::{Generation, Role, Server, Token};
use crate::environ::describe;
use crate::log::Level;
use crate::worker::channel::Channel;
use crate::worker::pool::{self, Process, ProcessNo, RequestNo, Sizes, SlotNo, SlotState};
use crate::worker::preloader::{Link, State};
use crate::worker::spawn::{self, Start};
use crate::worker::wire::{self, Frame};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Workers that end before they start on a request, after which the request fails.
const FALSE_STARTS: u32 = 3;
/// Pause after a fork was refused, or a worker did not start.
const FORK_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
const FORK_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A worker that ran too long has this much time to write its stack.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Workers of one front where the server gives it many requests at a time and nothing is said.
const CHILDREN: usize = 8;

impl Server {
    /// Gives waiting requests to free workers.
    pub(super) fn dispatch(&mut self, now: Instant) {
        while let Some(number) = self.queue.front().copied() {
            let Some(slot) = self.pool.pick() else {
                self.tend(now);
                if self.pool.pick().is_none() {
                    return;
                }
                continue;
            };
            self.queue.pop_front();
            if !self.hand_over(number, slot, now) {
                self.lose_slot(slot, now);
                self.queue.push_front(number);
            }
        }
    }

    /// Sends a request to a worker. `false`: the worker is gone.
    fn hand_over(&mut self, number: RequestNo, slot: SlotNo, now: Instant) -> bool {
        let Some(request) = self.requests.get_mut(&number) else {
            return true;
        };
        let Some(found) = self.pool.slots.get_mut(&slot) else {
            return false;
        };
        self.message.clear();
        let length = request
            .environ
            .get(b"CONTENT_LENGTH")
            .and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
            .unwrap_or(0)
            .min(request.body.len());
        let sent = match &request.body {
            Body::Memory(bytes) => {
                wire::put_request(&mut self.message, &request.environ, length, false);
                self.message.extend_from_slice(&bytes[..length as usize]);
                found.channel.send(&self.message, &[])
            }
            Body::File(file, _) => {
                let _ = io::Seek::rewind(&mut &*file);
                wire::put_request(&mut self.message, &request.environ, length, true);
                found.channel.send(&self.message, &[file.as_raw_fd()])
            }
        };
        if sent.is_err() {
            return false;
        }
        let waiting = found.channel.is_waiting();
        request.phase = Phase::Running(slot);
        request.since = now;
        self.pool.occupy(slot, number);
        if waiting {
            self.watch_slot(slot, true);
        }
        true
    }

    /// Tells a worker that nobody waits for its answer.
    pub(super) fn tell_abort(&mut self, slot: SlotNo) {
        if let Some(found) = self.pool.slots.get_mut(&slot) {
            let mut frame = Vec::new();
            wire::put_abort(&mut frame);
            let _ = found.channel.send(&frame, &[]);
        }
        self.watch_slot(slot, true);
    }

    /// Lets epoll watch a worker's socket: for its frames if `reading`, and to send what waits.
    pub(super) fn watch_slot(&mut self, slot: SlotNo, reading: bool) {
        let Some(found) = self.pool.slots.get_mut(&slot) else {
            return;
        };
        let mut wanted = EpollFlags::empty();
        if reading {
            wanted |= EpollFlags::EPOLLIN;
        }
        if found.channel.is_waiting() {
            wanted |= EpollFlags::EPOLLOUT;
        }
        if found.channel.registered != wanted {
            let mut event = EpollEvent::new(wanted, Token::Slot(slot.0).into());
            if self.epoll.modify(&found.channel, &mut event).is_ok() {
                found.channel.registered = wanted;
            }
        }
    }

    pub(super) fn on_slot(&mut self, number: SlotNo, flags: EpollFlags, now: Instant) {
        let Some(slot) = self.pool.slots.get_mut(&number) else {
            return;
        };
        if flags.contains(EpollFlags::EPOLLOUT) {
            if slot.channel.flush().is_err() {
                self.lose_slot(number, now);
                return;
            }
            self.watch_slot(number, true);
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.read_slot(number, &mut scratch, now);
        self.scratch = scratch;
    }

    fn read_slot(&mut self, number: SlotNo, scratch: &mut [u8], now: Instant) {
        let Some(slot) = self.pool.slots.get_mut(&number) else {
            return;
        };
        let count = match slot.channel.receive(scratch) {
            Ok(0) => return self.lose_slot(number, now),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => return self.lose_slot(number, now),
        };
        let mut input = &scratch[..count];
        let mut decoder = std::mem::take(&mut slot.channel.decoder);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => self.on_worker_frame(number, frame, now),
                Err(error) => {
                    self.note(Level::Error, &format!("a worker sent {error}"));
                    return self.lose_slot(number, now);
                }
            }
        }
        if let Some(slot) = self.pool.slots.get_mut(&number) {
            slot.channel.decoder = decoder;
        }
    }

    fn on_worker_frame(&mut self, slot_no: SlotNo, frame: Frame<'_>, now: Instant) {
        let Some(slot) = self.pool.slots.get(&slot_no) else {
            return;
        };
        let process = slot.process;
        let request = match slot.state {
            SlotState::Busy(number) | SlotState::Starting(Some(number)) => Some(number),
            _ => None,
        };
        match (frame, request) {
            (Frame::Started { pid }, _) => {
                self.pool.started(slot_no, pid, now);
                self.boot_failures = 0;
            }
            (Frame::BootFailed(text), _) => {
                self.boot_failed(process, &String::from_utf8_lossy(&text), now)
            }
            (Frame::Head(payload), Some(number)) => self.on_head(number, &payload, now),
            (Frame::Data(bytes), Some(number)) => self.on_data(number, bytes, now),
            (Frame::File { offset, length }, Some(number)) => {
                let descriptor = self
                    .pool
                    .slots
                    .get_mut(&slot_no)
                    .and_then(|s| s.channel.received.pop_front());
                if let Some(descriptor) = descriptor {
                    self.on_file(number, File::from(descriptor), offset, length);
                }
            }
            (Frame::Log(bytes), Some(number)) => self.on_text(number, bytes, false),
            (Frame::Exception(text), Some(number)) => {
                let detail = String::from_utf8_lossy(&text).into_owned();
                self.fail(
                    number,
                    500,
                    "the app raised an exception",
                    Some(detail.trim_end()),
                    now,
                );
            }
            (Frame::End { truncated }, Some(number)) => {
                self.on_end(slot_no, number, truncated, now)
            }
            _ => (),
        }
    }

    fn on_end(&mut self, slot: SlotNo, number: RequestNo, truncated: bool, now: Instant) {
        self.on_text(number, b"", true);
        let mut sending = false;
        if let Some(request) = self.requests.get_mut(&number) {
            request.body = Body::new();
            request.phase = Phase::Sending;
            sending = request.file.is_some() && !truncated;
            match request.answer {
                Answer::Owed => {
                    self.fail(number, 500, "the app ended without an answer", None, now)
                }
                Answer::Begun(_) if sending => self.touched.extend(request.conn),
                Answer::Begun(Some(left)) if truncated || left > 0 => self.cut(number, now),
                Answer::Begun(_) if truncated => self.cut(number, now),
                Answer::Begun(_) => self.end_answer(number, now),
                Answer::Done => (),
            }
        }
        if !sending {
            self.forget(number);
        }
        let Some(process) = self.pool.slots.get(&slot).map(|s| s.process) else {
            return;
        };
        if self.pool.release(slot, now) || self.is_too_large(process) {
            self.pool.retire(process, now);
            self.sweep_at = now;
        }
        if self
            .pool
            .processes
            .get(&process)
            .is_some_and(|p| p.retiring)
        {
            self.pool.close_idle(process, now);
            self.sweep_at = now;
        }
    }

    fn is_too_large(&self, process: ProcessNo) -> bool {
        let limit = self.config.server.max_memory;
        if limit == 0 {
            return false;
        }
        let Some(pid) = self.pool.processes.get(&process).and_then(|p| p.pid) else {
            return false;
        };
        let pages = std::fs::read_to_string(format!("/proc/{pid}/statm"))
            .ok()
            .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
        pages.is_some_and(|pages| pages * 4096 > limit)
    }

    /// A worker's socket has ended.
    fn lose_slot(&mut self, number: SlotNo, now: Instant) {
        let Some(slot) = self.pool.lose(number) else {
            return;
        };
        self.sweep_at = now;
        match slot.state {
            SlotState::Starting(Some(request)) => self.requeue(request, now),
            SlotState::Busy(request) => {
                self.read_output(slot.process);
                let process = self.pool.processes.get(&slot.process);
                let reason = process
                    .and_then(|p| p.ended_for)
                    .unwrap_or("the worker died in the middle of the request");
                let pid = process.and_then(|p| p.pid).unwrap_or(0);
                if let Some(found) = self.requests.get_mut(&request) {
                    found.phase = Phase::Sending;
                }
                self.fail(request, 500, &format!("{reason} (pid {pid})"), None, now);
                self.forget(request);
            }
            _ => (),
        }
        let Some(process) = self.pool.processes.get_mut(&slot.process) else {
            return;
        };
        if process.slots.is_empty() {
            if process.pid.is_none() && !process.retiring {
                self.fork_failed(now);
            }
            let Some(process) = self.pool.processes.get_mut(&slot.process) else {
                return;
            };
            process.retiring = true;
            process.cut_at.get_or_insert(now + LAST_WORDS);
        }
    }

    /// The worker to which the request was promised never came.
    fn requeue(&mut self, number: RequestNo, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.false_starts += 1;
        if request.false_starts >= FALSE_STARTS {
            self.fail(number, 503, "no worker could be started for it", None, now);
            self.forget(number);
        } else if request.conn.is_some() {
            request.phase = Phase::Queued;
            self.queue.push_front(number);
        } else {
            self.forget(number);
        }
    }

    fn fork_failed(&mut self, now: Instant) {
        self.boot_failures = (self.boot_failures + 1).min(16);
        let pause = (FORK_PAUSE * (1 << self.boot_failures.min(6))).min(FORK_PAUSE_MAX);
        self.fork_after = Some(now + pause);
        self.due(now + pause);
    }

    /// A worker of the plain form could not import the app.
    fn boot_failed(&mut self, process: ProcessNo, text: &str, now: Instant) {
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

    /// Why no request can be served now; None when there is hope.
    pub(super) fn hopeless(&self) -> Option<String> {
        if let Some(fault) = &self.fault
            && self.pool.processes.is_empty()
        {
            return Some(fault.clone());
        }
        match &self.current.link.state {
            State::Failed { reason, .. } if self.pool.processes.values().all(|p| p.retiring) => {
                Some(format!("the app cannot be imported\n{}", reason.trim_end()))
            }
            _ => None,
        }
    }

    /// Answers those who wait for what will not come.
    fn fail_waiting(&mut self, now: Instant) {
        while self.pool.pick().is_none()
            && let Some(reason) = self.hopeless()
            && let Some(number) = self.queue.pop_front()
        {
            self.fail(number, 500, &reason, None, now);
            self.forget(number);
        }
    }

    /// What a worker wrote to its standard output and error.
    pub(super) fn on_output(&mut self, number: ProcessNo, now: Instant) {
        if !self.read_output(number) {
            let gone = self.pool.processes.get_mut(&number).is_some_and(|process| {
                process.output = None;
                process.slots.is_empty()
            });
            if gone {
                self.sweep_at = now;
            }
        }
    }

    /// Reads what is there. `false` at the end.
    fn read_output(&mut self, number: ProcessNo) -> bool {
        let mut buffer = [0; 8192];
        for _ in 0..8 {
            let Some(process) = self.pool.processes.get(&number) else {
                return false;
            };
            let Some(output) = &process.output else {
                return false;
            };
            match nix::unistd::read(output, &mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    let pid = process.pid.unwrap_or(0);
                    let busy =
                        process
                            .slots
                            .iter()
                            .find_map(|s| match self.pool.slots.get(s)?.state {
                                SlotState::Busy(request) => Some(request),
                                _ => None,
                            });
                    match busy {
                        Some(request) => self.on_text(request, &buffer[..count], false),
                        None => {
                            let text = String::from_utf8_lossy(&buffer[..count])
                                .trim_end()
                                .to_owned();
                            self.note(Level::App, &format!("worker {pid}: {text}"));
                        }
                    }
                }
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// How many workers this front may have.
    fn sizes(&self) -> Sizes {
        let server = &self.config.server;
        let slots = crate::worker::threads(&self.config) as usize;
        let alone = matches!(
            self.place.role,
            Role::Spawned { mod_fcgid: true } | Role::Cgi
        );
        let max = match (alone, slots) {
            (true, _) | (_, 2..) => 1,
            _ => server.maxchildren.map_or(CHILDREN, |n| n as usize).max(1),
        };
        let minspare = server.minspare.map_or(1, |n| n as usize).min(max);
        let maxspare = server
            .maxspare
            .map_or(max.min(5), |n| n as usize)
            .max(minspare);
        let slots = if alone { 1 } else { slots };
        Sizes {
            minspare,
            maxspare,
            max,
            slots,
        }
    }

    /// Grows and shrinks the pool, ends what is to be ended.
    pub(super) fn tend(&mut self, now: Instant) {
        self.cut_lifelines(now);
        if self.fork_after.is_some_and(|at| at <= now) {
            self.fork_after = None;
        }
        let sizes = self.sizes();
        let counts = self.pool.counts(self.queue.len(), self.current.number);
        let wanted = if self.fault.is_some() || self.restart.is_leaving() && self.queue.is_empty() {
            0
        } else {
            pool::growth(sizes, counts)
        };
        for _ in 0..wanted {
            if self.fork_after.is_some() || !self.start_worker(sizes.slots, now) {
                break;
            }
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

    /// Ends processes whose time has come, and forgets those that are gone.
    fn cut_lifelines(&mut self, now: Instant) {
        let mut gone = Vec::new();
        let mut next = None;
        for (number, process) in &mut self.pool.processes {
            let Some(at) = process.cut_at else { continue };
            if process.output.is_none() && process.slots.is_empty() || at <= now {
                gone.push(*number);
            } else {
                next = Some(next.map_or(at, |n: Instant| n.min(at)));
            }
        }
        for number in gone {
            self.read_output(number);
            if let Some(process) = self.pool.processes.remove(&number) {
                drop(process.lifeline);
                for slot in process.slots {
                    self.lose_slot(slot, now);
                }
            }
        }
        if let Some(at) = next {
            self.due(at);
        }
    }

    /// Asks for one more worker. `false`: not now.
    fn start_worker(&mut self, slots: usize, now: Instant) -> bool {
        if !self.current.plain && self.current.link.state != State::Ready {
            if matches!(self.current.link.state, State::Electing { .. }) {
                self.step_links(now);
            }
            return false;
        }
        if self.current.plain
            && matches!(self.current.link.state, State::Failed { retry, .. } if retry > now)
        {
            return false;
        }
        match self.try_start(slots, now) {
            Ok(()) => true,
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

    fn try_start(&mut self, slots: usize, now: Instant) -> io::Result<()> {
        let (life_read, life_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (output_read, output_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(
            &output_read,
            nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
        )?;
        let mut channels = Vec::new();
        let mut theirs: Vec<OwnedFd> = Vec::new();
        for _ in 0..slots {
            let (ours, their) = UnixStream::pair()?;
            channels.push(Channel::new(ours.into())?);
            theirs.push(their.into());
        }
        let sockets = theirs.iter().map(AsRawFd::as_raw_fd);
        if self.current.plain {
            let descriptors: Vec<RawFd> =
                [life_read.as_raw_fd()].into_iter().chain(sockets).collect();
            let setup = spawn::setup(&self.config, "worker", slots as u32, true);
            let start = self.start();
            spawn::start(
                start,
                &setup,
                &descriptors,
                File::from(output_write),
                wire::BOOT_FAILED,
            )?;
        } else {
            let descriptors: Vec<RawFd> = [life_read.as_raw_fd(), output_write.as_raw_fd()]
                .into_iter()
                .chain(sockets)
                .collect();
            self.current.link.fork(&descriptors)?;
        }
        let server = &self.config.server;
        let jitter = crate::runtime::fnv_more(
            self.seed,
            &now.duration_since(self.started).as_nanos().to_le_bytes(),
        );
        let lifetime =
            (server.max_lifetime > 0).then(|| now + Duration::from_secs(server.max_lifetime));
        let process = Process {
            pid: None,
            generation: self.current.number,
            lifeline: Some(life_write),
            output: Some(output_read),
            slots: Vec::new(),
            served: 0,
            served_limit: less_up_to_a_tenth(server.maxrequests, jitter),
            born: now,
            old_at: lifetime,
            retiring: false,
            cut_at: None,
            ended_for: None,
        };
        let number = self.pool.add(process, channels);
        let Some(process) = self.pool.processes.get(&number) else {
            return Ok(());
        };
        if let Some(output) = &process.output {
            self.epoll.add(
                output,
                EpollEvent::new(EpollFlags::EPOLLIN, Token::Output(number.0).into()),
            )?;
        }
        for slot in &process.slots {
            if let Some(found) = self.pool.slots.get_mut(slot) {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Slot(slot.0).into());
                self.epoll.add(&found.channel, event)?;
                found.channel.registered = EpollFlags::EPOLLIN;
            }
        }
        Ok(())
    }

    pub(super) fn start(&self) -> Start<'_> {
        Start {
            config: &self.config,
            exe: &self.place.image,
            cache: None,
            cgi: self.place.role == Role::Cgi,
        }
    }

    /// Goes on with the ties to preloaders, as far as they are needed.
    pub(super) fn step_links(&mut self, now: Instant) {
        if self.fault.is_some() {
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

    fn step_link(&mut self, generation: &mut Generation, now: Instant) {
        let Some(dir) = &self.place.dir else { return };
        if let Err(error) = generation
            .link
            .step(now, dir, self.start(), self.place.hello)
        {
            generation
                .link
                .fail(now, format!("the preloader cannot be started: {error}"));
            self.note(
                Level::Error,
                &format!("the preloader cannot be started: {error}"),
            );
        }
        if let State::Failed { reason, .. } = &generation.link.state
            && generation.number != self.current.number
        {
            let reason = reason.clone();
            self.next_failed(&reason);
        }
    }

    /// Generations are taken out while they are worked on: the current one leaves a tie that does nothing.
    fn take_generation(&mut self, number: u64) -> Option<Generation> {
        if self.current.number == number {
            let idle = Link {
                version: String::new(),
                state: State::Ready,
                channel: None,
                started_here: false,
                connect_only: false,
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

    fn put_generation(&mut self, generation: Generation) {
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
        self.put_generation(generation);
        self.sweep_at = now;
    }

    fn read_control(&mut self, generation: &mut Generation, scratch: &mut [u8], now: Instant) {
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

    fn on_control_frame(&mut self, generation: &mut Generation, frame: Frame<'_>, now: Instant) {
        match frame {
            Frame::Ready(facts) => {
                let fact = |name: &[u8]| {
                    String::from_utf8_lossy(facts.get(name).unwrap_or_default()).into_owned()
                };
                generation.link.state = State::Ready;
                if generation.number == self.current.number {
                    self.remember_good(&generation.link.version);
                }
                generation.plain = fact(b"threads").parse::<u32>().is_ok_and(|n| n > 1);
                if generation.plain {
                    let threads = fact(b"threads");
                    self.note(Level::Warning, &format!("importing the app started {threads} threads: each worker imports it by itself"));
                    generation.link.channel = None;
                } else if generation.link.started_here {
                    self.note(
                        Level::Info,
                        &format!(
                            "imported the app in {} s with Python {}",
                            fact(b"seconds"),
                            fact(b"python")
                        ),
                    );
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
                generation.link.fail(now, reason.clone());
                if generation.number != self.current.number {
                    self.next_failed(&reason);
                }
            }
            Frame::Refused(text) => {
                let reason = String::from_utf8_lossy(&text).into_owned();
                self.note(
                    Level::Warning,
                    &format!("the system refused a worker: {reason}"),
                );
                self.fork_failed(now);
            }
            Frame::Release => self.give_back(now),
            _ => (),
        }
    }

    /// Another front of the site needs a process more than we do.
    fn give_back(&mut self, now: Instant) {
        if self.queue.is_empty()
            && let Some(process) = self.pool.idle_since(now).first().copied()
        {
            self.pool.retire(process, now);
            self.fork_after = Some(now + FORK_PAUSE_MAX);
        }
    }

    /// Requests that wait or run for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let limits = &self.config.limits;
        let seconds = Duration::from_secs;
        let (queue, run) = (
            seconds(limits.queue_timeout),
            seconds(limits.request_timeout),
        );
        let (read, write) = (seconds(limits.read_timeout), seconds(limits.write_timeout));
        let slow = Duration::try_from_secs_f64(self.config.log.slow_log).unwrap_or_default();
        let mut late = Vec::new();
        let mut slow_ones = Vec::new();
        for (number, request) in &self.requests {
            let waited = now.saturating_duration_since(request.since);
            match request.phase {
                Phase::Queued if waited >= queue => late.push((*number, 503)),
                Phase::Running(_) if !run.is_zero() && waited >= run => late.push((*number, 504)),
                Phase::Running(slot)
                    if !slow.is_zero() && waited >= slow && !request.slow_logged =>
                {
                    slow_ones.push((*number, slot));
                }
                _ => (),
            }
        }
        for (number, slot) in slow_ones {
            self.log_stack(number, slot, now);
        }
        for (number, status) in late {
            self.time_out(number, status, now);
        }
        let stalled = |conn: &super::Connection| {
            let still = now.saturating_duration_since(conn.moved);
            let sending = conn.waiting() > 0 && still >= write;
            let receiving = !conn.codec.is_idle()
                && still >= read
                && conn.requests.iter().any(|(_, r)| {
                    self.requests
                        .get(r)
                        .is_some_and(|r| r.phase == Phase::Receiving)
                });
            let half_begun = conn.requests.is_empty() && !conn.codec.is_idle() && still >= read;
            let draining =
                conn.stage == super::connection::Stage::Draining && still >= Duration::from_secs(5);
            sending || receiving || half_begun || draining
        };
        let stalled: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, conn)| stalled(conn))
            .map(|(n, _)| *n)
            .collect();
        for number in stalled {
            self.note(
                Level::Warning,
                "a connection is closed: its peer has stalled",
            );
            self.drop_conn(number, now);
        }
    }

    /// Has the worker write its Python stack to the log, without disturbing it.
    fn log_stack(&mut self, number: RequestNo, slot: SlotNo, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.slow_logged = true;
        let seconds = now.saturating_duration_since(request.since).as_secs_f64();
        let text = format!(
            "slow: {} has run for {seconds:.1} s; its stack follows",
            describe(&request.environ)
        );
        self.note(Level::Warning, &text);
        self.ask_for_stack(slot);
    }

    fn ask_for_stack(&self, slot: SlotNo) {
        let process = self
            .pool
            .slots
            .get(&slot)
            .and_then(|slot| self.pool.processes.get(&slot.process));
        // The pid is the worker's: its socket is open, so it has not been reaped.
        if let Some(pid) = process.and_then(|p| p.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGUSR2);
        }
    }

    fn time_out(&mut self, number: RequestNo, status: u16, now: Instant) {
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        let seconds = now.saturating_duration_since(request.since).as_secs();
        let Phase::Running(slot) = request.phase else {
            let reason = format!("no worker was free for {seconds} s ([limits] queue_timeout)");
            self.fail(number, status, &reason, None, now);
            return self.forget(number);
        };
        let Some(process_no) = self.pool.slots.get(&slot).map(|s| s.process) else {
            return;
        };
        let already = self
            .pool
            .processes
            .get(&process_no)
            .is_some_and(|p| p.ended_for.is_some());
        if request.answer != Answer::Done {
            let reason =
                format!("it ran for {seconds} s ([limits] request_timeout); its worker is ended");
            self.fail(number, status, &reason, None, now);
        }
        if already {
            return;
        }
        self.ask_for_stack(slot);
        let others_busy = self.pool.processes.get(&process_no).is_some_and(|p| {
            p.slots.iter().any(|s| {
                *s != slot
                    && matches!(
                        self.pool.slots.get(s).map(|s| s.state),
                        Some(SlotState::Busy(_))
                    )
            })
        });
        self.pool.retire(process_no, now);
        if let Some(process) = self.pool.processes.get_mut(&process_no) {
            process.ended_for = Some("its worker had to be ended for a request that ran too long");
            // Other requests in the same process get a chance to finish.
            let grace = if others_busy {
                Duration::from_secs(5)
            } else {
                LAST_WORDS
            };
            process.cut_at = Some(now + grace);
            self.due(now + grace);
        }
    }

    /// Collects children that have ended: launchers, preloaders' first processes, workers of the plain form.
    pub(super) fn reap(&mut self, now: Instant) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.on_exit(
                    pid,
                    (code != 0).then(|| format!("exited with status {code}")),
                    now,
                ),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.on_exit(pid, Some(format!("was ended by {signal}")), now);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => (),
            }
        }
    }

    fn on_exit(&mut self, pid: Pid, trouble: Option<String>, now: Instant) {
        self.on_tested(pid, trouble.as_deref(), now);
        let worker = self
            .pool
            .processes
            .values()
            .find(|p| p.pid == Some(pid.as_raw()));
        if let (Some(trouble), Some(worker)) = (trouble, worker)
            && !worker.retiring
        {
            self.note(Level::Warning, &format!("worker {pid} {trouble}"));
        }
    }
}

/// Spreads the moments at which workers that began together are replaced.
fn less_up_to_a_tenth(limit: u64, random: u64) -> u64 {
    limit - random % (limit / 10 + 1)
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
