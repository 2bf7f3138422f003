//! Workers' sockets: requests go down, frames come up.

use super::Server;
use super::request::{Answer, Phase};
use crate::body::Body;
use crate::failure::Failure;
use crate::log::Level;
use crate::poller::Token;
use crate::request::RequestNo;
use crate::status::Count;
use crate::sys::procfs;
use crate::worker::import;
use crate::worker::pool::{ProcessNo, STATUS_WITHIN, SlotNo, SlotState, Stream};
use crate::worker::preloader::State;
use crate::worker::wire::{self, Frame};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Workers that end before they start on a request, after which the request fails.
const FALSE_STARTS: u32 = 3;
/// A worker that ran too long has this much time to write its stack.
const LAST_WORDS: Duration = Duration::from_millis(300);

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
    pub(super) fn hand_over(&mut self, number: RequestNo, slot: SlotNo, now: Instant) -> bool {
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
            .min(request.body.length());
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
        let _ = found
            .channel
            .watch(&self.poller, Token::Slot(slot.0), wanted);
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

    pub(super) fn read_slot(&mut self, number: SlotNo, scratch: &mut [u8], now: Instant) {
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

    pub(super) fn on_worker_frame(&mut self, slot_no: SlotNo, frame: Frame<'_>, now: Instant) {
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
                let number = self
                    .pool
                    .processes
                    .get(&process)
                    .map_or(0, |p| p.generation);
                let plain = self.generation(number).is_some_and(|g| g.plain);
                if plain {
                    // This was written while the app was imported.
                    self.read_outputs(process);
                }
                self.report_started(process);
                self.pool.started(slot_no, pid, now);
                if !plain {
                    // And this for the request that waited for the worker.
                    self.read_outputs(process);
                }
                self.boot_failures = 0;
                // Workers of older code may now go.
                self.sweep_at = now;
                if plain && let Some(generation) = self.generation(number) {
                    generation.link.state = State::Ready;
                    if number == self.current.number {
                        self.remember_good();
                    }
                }
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
            (Frame::Log(bytes), Some(number)) => self.on_text(number, Stream::Stderr, bytes, false),
            (Frame::Output(bytes), Some(number)) => {
                self.on_text(number, Stream::Stdout, bytes, false)
            }
            (Frame::Exception(text), Some(number)) => {
                let detail = String::from_utf8_lossy(&text).into_owned();
                self.fail(number, Failure::Exception(detail), now);
            }
            (Frame::End { truncated }, Some(number)) => {
                self.on_end(slot_no, number, truncated, now)
            }
            _ => (),
        }
    }

    pub(super) fn on_end(
        &mut self,
        slot: SlotNo,
        number: RequestNo,
        truncated: bool,
        now: Instant,
    ) {
        self.on_text(number, Stream::Stderr, b"", true);
        self.on_text(number, Stream::Stdout, b"", true);
        let mut sending = false;
        if let Some(request) = self.requests.get_mut(&number) {
            let took = now.saturating_duration_since(request.since);
            self.report
                .count(Count::BusyMillis, took.as_millis() as u64);
            request.body = Body::default();
            request.phase = Phase::Sending;
            // A visitor who left before this END takes no file any more.
            sending = request.file.is_some() && !truncated && request.conn.is_some();
            match request.answer {
                Answer::Owed => self.fail(number, Failure::NoResponse, now),
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
        if self.turns.is_held() {
            self.sweep_at = now;
        }
        if self.pool.release(slot, now) || self.is_too_large(process) || self.is_asked_back(now) {
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

    pub(super) fn is_too_large(&self, process: ProcessNo) -> bool {
        let limit = self.config.server.max_memory;
        if limit == 0 {
            return false;
        }
        let Some(pid) = self.pool.processes.get(&process).and_then(|p| p.pid) else {
            return false;
        };
        procfs::resident(pid).is_some_and(|bytes| bytes > limit)
    }

    /// A worker's socket has ended.
    pub(super) fn lose_slot(&mut self, number: SlotNo, now: Instant) {
        let Some(slot) = self.pool.lose(number) else {
            return;
        };
        self.sweep_at = now;
        let refused = self
            .pool
            .processes
            .get(&slot.process)
            .is_some_and(|p| p.refused);
        match slot.state {
            SlotState::Starting(Some(request)) => self.requeue(request, refused, now),
            SlotState::Busy(request) => {
                self.read_outputs(slot.process);
                let process = self.pool.processes.get(&slot.process);
                let reason = process
                    .and_then(|p| p.ended_for)
                    .unwrap_or("the worker died in the middle of the request");
                let pid = process.and_then(|p| p.pid).unwrap_or(0);
                let mut waits = false;
                if let Some(found) = self.requests.get_mut(&request) {
                    found.phase = Phase::Sending;
                    // One that ran too long has been told so, and a visitor who left is told nothing.
                    waits = found.answer != Answer::Done;
                }
                if waits {
                    self.fail(request, Failure::WorkerLost(reason, pid), now);
                }
                self.forget(request);
            }
            _ => (),
        }
        let Some(process) = self.pool.processes.get_mut(&slot.process) else {
            return;
        };
        if process.slots.is_empty() {
            if process.pid.is_none() && !process.retiring && !refused {
                self.fork_failed(now);
            }
            let Some(process) = self.pool.processes.get_mut(&slot.process) else {
                return;
            };
            if let Some(pid) = process.pid
                && !process.retiring
                && process.ended_for.is_none()
            {
                self.report.lost(pid);
            }
            process.retiring = true;
            let wait = process.launched.map_or(LAST_WORDS, |_| STATUS_WITHIN);
            process.cut_at.get_or_insert(now + wait);
        }
    }

    /// The worker to which the request was promised never came.
    pub(super) fn requeue(&mut self, number: RequestNo, refused: bool, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.false_starts += u32::from(!refused);
        if request.false_starts >= FALSE_STARTS {
            self.fail(number, Failure::NoWorker, now);
            self.forget(number);
        } else if request.conn.is_some() {
            request.phase = Phase::Queued;
            self.queue.push_front(number);
        } else {
            self.forget(number);
        }
    }

    /// What a worker wrote to a descriptor of its own.
    pub(super) fn on_output(&mut self, number: ProcessNo, stream: Stream, now: Instant) {
        if !self.read_output(number, stream) {
            let gone = self.pool.processes.get_mut(&number).is_some_and(|process| {
                *process.output(stream) = None;
                process.slots.is_empty()
            });
            if gone {
                self.sweep_at = now;
            }
        }
    }

    /// Reads the last of a worker.
    pub(super) fn read_outputs(&mut self, number: ProcessNo) {
        self.read_output(number, Stream::Stdout);
        self.read_output(number, Stream::Stderr);
    }

    /// Reads what is there. `false` at the end.
    fn read_output(&mut self, number: ProcessNo, stream: Stream) -> bool {
        let mut buffer = [0; 8192];
        for _ in 0..8 {
            let pid = self.pool.pid(number);
            let Some(process) = self.pool.processes.get_mut(&number) else {
                return false;
            };
            let Some(output) = process.output(stream) else {
                return false;
            };
            match nix::unistd::read(output, &mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    if process.launched.is_some() {
                        import::keep_tail(&mut process.said, &buffer[..count]);
                    }
                    let busy =
                        process
                            .slots
                            .iter()
                            .find_map(|s| match self.pool.slots.get(s)?.state {
                                SlotState::Busy(request) => Some(request),
                                // Another of its threads was the first to say that it has started.
                                SlotState::Starting(request) if pid.is_some() => request,
                                _ => None,
                            });
                    match busy {
                        Some(request) => self.on_text(request, stream, &buffer[..count], false),
                        None => {
                            let level = match stream {
                                Stream::Stdout => Level::Output,
                                Stream::Stderr => Level::App,
                            };
                            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                            for line in text.lines() {
                                self.note(level, &format!("worker {}: {line}", pid.unwrap_or(0)));
                            }
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
}
