//! `Sockets`: the descriptors of the connections from web servers. Reads, sends, watches and closes them. `traffic`, which
//! uses the same connection numbers, knows what the bytes mean.

use super::cgi_output::CgiOutput;
use crate::numbered::Numbered;
use crate::outbox::Outbox;
use crate::poller::{Poller, Token, Watched};
use crate::sys::ffi;
use crate::traffic::{ConnNo, Traffic};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, shutdown};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The most reads of one connection in a row, so that a fast sender does not delay the others.
const READS: usize = 8;
/// The size of the read buffer in bytes. One of this size is mapped by itself: the pages that are not used take no memory.
const SCRATCH: usize = 128 << 10;
/// A new connection is registered with epoll only after this time. A short request ends before, and saves the system
/// calls.
const WATCH_AFTER: Duration = Duration::from_millis(100);
/// How often to give memory back, at most: the loop wakes up as often.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);
/// When this many answered connections wait for their peers to close them, they are checked.
const ANSWERED: usize = 32;

struct Socket {
    input: OwnedFd,
    /// The second descriptor of a CGI request. It is watched when it has no room; the first one is not.
    output: Option<CgiOutput>,
    /// The number of its listener.
    listener: usize,
    watched: Watched,
}

impl Socket {
    /// Sends as much as the descriptor accepts at once.
    fn flush(&self, outbox: &mut Outbox) -> io::Result<usize> {
        match &self.output {
            Some(output) => outbox.flush_by(|bytes| output.write(bytes)),
            None => outbox.flush(&self.input),
        }
    }
}

/// The descriptors of all connections.
pub(super) struct Sockets {
    poller: Rc<Poller>,
    all: Numbered<ConnNo, Socket>,
    /// Connections not yet registered with epoll.
    unwatched: Vec<ConnNo>,
    /// Connections not yet registered with epoll, answered and shut down on our side.
    answered: Vec<ConnNo>,
    watch_at: Option<Instant>,
    /// When to look whether memory is to be given back.
    look_at: Option<Instant>,
    scratch: Vec<u8>,
}

impl Sockets {
    pub(super) fn new(poller: Rc<Poller>) -> Sockets {
        Sockets {
            poller,
            all: Numbered::default(),
            unwatched: Vec::new(),
            answered: Vec::new(),
            watch_at: None,
            look_at: None,
            scratch: vec![0; SCRATCH],
        }
    }

    /// Adds a connection: its non-blocking socket, or the two descriptors of a CGI request.
    pub(super) fn add(
        &mut self,
        number: ConnNo,
        input: OwnedFd,
        output: Option<OwnedFd>,
        listener: usize,
    ) {
        let socket = Socket {
            input,
            output: output.map(CgiOutput::new),
            listener,
            watched: Watched::default(),
        };
        self.all.insert(number, socket);
    }

    /// Handles an epoll event of a connection.
    pub(super) fn on_ready(
        &mut self,
        number: ConnNo,
        flags: EpollFlags,
        traffic: &mut Traffic,
        now: Instant,
    ) {
        let hung_up = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        // Of CGI, only the output is watched.
        let is_cgi = self.all.get(number).is_some_and(|s| s.output.is_some());
        if hung_up && (is_cgi || traffic.connections().has_eof(number)) {
            traffic.on_gone(number, now);
        } else if hung_up || flags.contains(EpollFlags::EPOLLIN) {
            self.read(number, traffic, now);
        }
        traffic.connections_mut().queue_flush(number);
    }

    /// Reads what a connection has, at most `READS` times.
    pub(super) fn read(&mut self, number: ConnNo, traffic: &mut Traffic, now: Instant) {
        for _ in 0..READS {
            // Stop reading from a peer that is not draining its responses.
            if !traffic.connections().takes_input(number) {
                return;
            }
            let Some(socket) = self.all.get(number) else {
                return;
            };
            match nix::unistd::read(&socket.input, &mut self.scratch) {
                Ok(0) => return traffic.on_eof(number, now),
                Ok(count) => {
                    traffic.on_bytes(number, &self.scratch[..count], now);
                    // The next read of a CGI request would block.
                    if count < self.scratch.len() || socket.output.is_some() {
                        return;
                    }
                }
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return,
                Err(_) => return traffic.on_gone(number, now),
            }
        }
    }

    /// Sends the pending output of connections that have changed, and updates their epoll flags. True: there were any, so
    /// there may be more to do.
    pub(super) fn flush(&mut self, traffic: &mut Traffic, now: Instant) -> bool {
        // Check before this flush adds new ones, which their peers cannot have closed yet.
        let mut any = self.answered.len() >= ANSWERED;
        if any {
            self.check_answered(traffic, now);
        }
        while let Some(number) = traffic.connections_mut().next_to_flush() {
            any = true;
            let socket = self.all.get(number);
            while let Some(socket) = socket
                && let Some(outbox) = traffic.connections_mut().outbox(number)
            {
                let more = match socket.flush(outbox) {
                    Ok(taken) => traffic.on_sent(number, taken, now),
                    Err(_) => {
                        traffic.on_gone(number, now);
                        false
                    }
                };
                if !more {
                    break;
                }
            }
            self.watch_soon(number, traffic, now);
        }
        any
    }

    /// Shuts down the write side. Closing instead would reset the connection and lose the response, if the peer still
    /// sends.
    pub(super) fn shut_down(&mut self, number: ConnNo) {
        if let Some(socket) = self.all.get(number) {
            let _ = shutdown(socket.input.as_raw_fd(), Shutdown::Write);
        }
    }

    /// Sends as much of `outbox` as the socket takes at once, and closes the connection.
    pub(super) fn close(&mut self, number: ConnNo, mut outbox: Outbox) {
        if let Some(socket) = self.all.remove(number) {
            let _ = socket.flush(&mut outbox);
        }
    }

    /// Removes the answered connections that their peers have closed, and registers the others with epoll.
    pub(super) fn check_answered(&mut self, traffic: &mut Traffic, now: Instant) {
        for number in std::mem::take(&mut self.answered) {
            self.read(number, traffic, now);
            if traffic.connections().is_draining(number) {
                self.watch(number, traffic, now);
            }
        }
    }

    /// When `on_time` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.watch_at
    }

    /// Registers the connections that have waited for `WATCH_AFTER` with epoll. Gives memory back that is free.
    pub(super) fn on_time(&mut self, traffic: &mut Traffic, now: Instant) {
        if self.look_at.is_none_or(|at| at <= now) {
            self.look_at = Some(now + GIVE_BACK_EVERY);
            if traffic.has_released() {
                ffi::give_back_memory();
            }
        }
        if self.watch_at.take_if(|at| *at <= now).is_some() {
            self.check_answered(traffic, now);
            for number in std::mem::take(&mut self.unwatched) {
                // Most have been answered by now.
                if !traffic.connections().is_draining(number) {
                    self.watch(number, traffic, now);
                }
            }
        }
    }

    /// The sockets of idle connections, each with the number of its listener. The last ones are those on which no request has
    /// come (`true`).
    pub(super) fn hand_over(&mut self, traffic: &Traffic) -> Vec<(OwnedFd, usize, bool)> {
        let connections = traffic.connections();
        let mut idle: Vec<ConnNo> = connections.idle().collect();
        idle.sort_by_key(|number| connections.is_new(*number));
        let mut handed = Vec::with_capacity(idle.len());
        for number in idle {
            if let Some(Socket {
                input, listener, ..
            }) = self.all.remove(number)
            {
                handed.push((input, listener, connections.is_new(number)));
            }
        }
        handed
    }

    /// Updates the epoll flags of a connection. A new one that will probably end soon is registered after `WATCH_AFTER`.
    fn watch_soon(&mut self, number: ConnNo, traffic: &Traffic, now: Instant) {
        let Some(socket) = self.all.get(number) else {
            return;
        };
        let connections = traffic.connections();
        let drains = connections.is_draining(number);
        if socket.output.is_some() {
            return self.watch_output(number, traffic);
        }
        if !socket.watched.is_new() || !(drains || connections.only_waits(number)) {
            return self.watch(number, traffic, now);
        }
        self.watch_at.get_or_insert(now + WATCH_AFTER);
        match drains {
            false => self.unwatched.push(number),
            true if self.answered.contains(&number) => (),
            true => self.answered.push(number),
        }
    }

    /// Watches the output of a CGI request while bytes wait for room in it.
    fn watch_output(&mut self, number: ConnNo, traffic: &Traffic) {
        if let Some(socket) = self.all.get_mut(number)
            && let Some(output) = &socket.output
        {
            let (token, watched) = (Token::Conn(number.0), &mut socket.watched);
            // A file cannot be watched, and need not be.
            let _ = match traffic.connections().interest(number).write {
                true => self
                    .poller
                    .watch(output, token, EpollFlags::EPOLLOUT, watched),
                false => self.poller.forget(output, watched),
            };
        }
    }

    fn watch(&mut self, number: ConnNo, traffic: &Traffic, now: Instant) {
        if let Some(socket) = self.all.get_mut(number) {
            let interest = traffic.connections().interest(number);
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, interest.read);
            flags.set(EpollFlags::EPOLLOUT, interest.write);
            let (token, watched) = (Token::Conn(number.0), &mut socket.watched);
            let refused = self.poller.watch(&socket.input, token, flags, watched);
            if refused.is_err() {
                // There may be memory for it in a moment.
                self.unwatched.push(number);
                self.watch_at.get_or_insert(now + WATCH_AFTER);
            }
        }
    }
}
