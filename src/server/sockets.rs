//! `Sockets`: the connections from web servers, as far as they are descriptors: read, sent, watched, closed. What the
//! bytes mean is known to `traffic`, which has the same numbers for them.

use crate::outbox::Outbox;
use crate::poller::{Poller, Token, Watched};
use crate::traffic::{ConnNo, Traffic};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, shutdown};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Reads of one connection at a time, so that a fast sender does not keep the others waiting.
const READS: usize = 8;
/// Bytes read at a time.
const SCRATCH: usize = 64 << 10;
/// A request that is answered within this time, and whose connection the peer then closes, leaves no trace in epoll.
const WATCH_AFTER: Duration = Duration::from_millis(100);
/// Connections that wait, answered, for their peers to close them before it is looked whether they have.
const ANSWERED: usize = 32;

struct Socket {
    input: OwnedFd,
    /// CGI has a second descriptor for its output, and neither can be watched.
    output: Option<OwnedFd>,
    /// The number of its listener.
    listener: usize,
    watched: Watched,
}

/// See above.
pub(super) struct Sockets {
    poller: Rc<Poller>,
    all: BTreeMap<ConnNo, Socket>,
    /// Those that epoll has not heard of yet.
    unwatched: Vec<ConnNo>,
    /// The same, answered and shut on our side.
    answered: Vec<ConnNo>,
    watch_at: Option<Instant>,
    scratch: Vec<u8>,
}

impl Sockets {
    pub(super) fn new(poller: Rc<Poller>) -> Sockets {
        Sockets {
            poller,
            all: BTreeMap::new(),
            unwatched: Vec::new(),
            answered: Vec::new(),
            watch_at: None,
            scratch: vec![0; SCRATCH],
        }
    }

    /// The socket of a connection, which does not block; or the two descriptors of a CGI request.
    pub(super) fn add(
        &mut self,
        number: ConnNo,
        input: OwnedFd,
        output: Option<OwnedFd>,
        listener: usize,
    ) {
        let socket = Socket {
            input,
            output,
            listener,
            watched: Watched::default(),
        };
        self.all.insert(number, socket);
    }

    /// Epoll has told of a connection.
    pub(super) fn on_ready(
        &mut self,
        number: ConnNo,
        flags: EpollFlags,
        traffic: &mut Traffic,
        now: Instant,
    ) {
        let hung_up = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        if hung_up && traffic.connections().has_eof(number) {
            traffic.on_gone(number, now);
        } else if hung_up || flags.contains(EpollFlags::EPOLLIN) {
            self.read(number, traffic, now);
        }
        traffic.connections_mut().touch(number);
    }

    /// Reads what a connection has, a bounded number of times.
    pub(super) fn read(&mut self, number: ConnNo, traffic: &mut Traffic, now: Instant) {
        for _ in 0..READS {
            // Stop reading from a peer that is not draining its responses.
            if !traffic.connections().takes_input(number) {
                return;
            }
            let Some(socket) = self.all.get(&number) else {
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

    /// Sends what waits on the connections on which something has happened, and has them watched. Whether there were any:
    /// then more may have come of it.
    pub(super) fn flush(&mut self, traffic: &mut Traffic, now: Instant) -> bool {
        // Before new ones join them, which their peers cannot have closed yet.
        let mut any = self.answered.len() >= ANSWERED;
        if any {
            self.look_at_answered(traffic, now);
        }
        while let Some(number) = traffic.connections_mut().next_to_flush() {
            any = true;
            let socket = self.all.get(&number);
            while let Some(socket) = socket
                && let Some(outbox) = traffic.connections_mut().outbox(number)
            {
                let again = match outbox.flush(socket.output.as_ref().unwrap_or(&socket.input)) {
                    Ok(taken) => traffic.on_sent(number, taken, now),
                    Err(_) => {
                        traffic.on_gone(number, now);
                        false
                    }
                };
                if !again {
                    break;
                }
            }
            self.watch_soon(number, traffic, now);
        }
        any
    }

    /// Says to the peer that nothing more will be sent: to close now would reset the connection and lose the response, if
    /// the peer has sent more, or is about to.
    pub(super) fn shut_down(&mut self, number: ConnNo) {
        if let Some(socket) = self.all.get(&number) {
            let _ = shutdown(socket.input.as_raw_fd(), Shutdown::Write);
        }
    }

    /// Sends of this what the socket takes at once, and closes it.
    pub(super) fn close(&mut self, number: ConnNo, mut outbox: Outbox) {
        if let Some(socket) = self.all.remove(&number) {
            let _ = outbox.flush(socket.output.as_ref().unwrap_or(&socket.input));
        }
    }

    /// Drops the connections, answered and shut, that their peers have closed, and has epoll watch the others.
    pub(super) fn look_at_answered(&mut self, traffic: &mut Traffic, now: Instant) {
        for number in std::mem::take(&mut self.answered) {
            self.read(number, traffic, now);
            if traffic.connections().is_draining(number) {
                self.watch(number, traffic);
            }
        }
    }

    /// When `on_time` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.watch_at
    }

    /// Has epoll watch the connections that have waited.
    pub(super) fn on_time(&mut self, traffic: &mut Traffic, now: Instant) {
        if self.watch_at.take_if(|at| *at <= now).is_some() {
            self.look_at_answered(traffic, now);
            for number in std::mem::take(&mut self.unwatched) {
                self.watch(number, traffic);
            }
        }
    }

    /// The sockets of idle connections, each with the number of its listener.
    pub(super) fn hand_over(&mut self, traffic: &Traffic) -> Vec<(OwnedFd, usize)> {
        let idle = traffic.connections().idle();
        let sockets = idle.filter_map(|number| self.all.remove(&number));
        sockets
            .map(|socket| (socket.input, socket.listener))
            .collect()
    }

    /// Has epoll watch a connection for what it waits for; a new one on which little is to be expected, after a moment.
    fn watch_soon(&mut self, number: ConnNo, traffic: &Traffic, now: Instant) {
        let Some(socket) = self.all.get(&number) else {
            return;
        };
        let connections = traffic.connections();
        let drains = connections.is_draining(number);
        if socket.output.is_some() {
            return;
        }
        if !socket.watched.is_new() || !(drains || connections.only_waits(number)) {
            return self.watch(number, traffic);
        }
        self.watch_at.get_or_insert(now + WATCH_AFTER);
        match drains {
            false => self.unwatched.push(number),
            true if self.answered.contains(&number) => (),
            true => self.answered.push(number),
        }
    }

    fn watch(&mut self, number: ConnNo, traffic: &Traffic) {
        if let Some(socket) = self.all.get_mut(&number) {
            let interest = traffic.connections().interest(number);
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, interest.read);
            flags.set(EpollFlags::EPOLLOUT, interest.write);
            let (token, watched) = (Token::Conn(number.0), &mut socket.watched);
            // Without, it ends with its deadline.
            let _ = self.poller.watch(&socket.input, token, flags, watched);
        }
    }
}
