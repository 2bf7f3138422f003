//! `Connection`: a web server's connection: its socket, its codec, and what waits to be sent.

use crate::outbox::Outbox;
use crate::poller::{Poller, Token, Watched};
use crate::proto::{Codec, RequestId};
use crate::request::RequestNo;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Numbers a connection; counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnNo(pub u64);

/// Above this many bytes waiting, nothing more is read here, nor taken from the workers that answer here.
pub(super) const HIGH_MARK: usize = 256 << 10;

/// Requests that one connection may hold: a web server that sends many at a time opens more connections before that.
pub(super) const MAX_REQUESTS: usize = 128;

/// A connection from a web server.
pub(super) struct Connection {
    input: OwnedFd,
    output: Option<OwnedFd>,
    /// Its protocol.
    pub codec: Box<dyn Codec>,
    /// What is to be sent; codecs append to its tail.
    pub out: Outbox,
    /// It became full while this was decoded: to go on with, also when it is empty.
    pub kept: Option<Vec<u8>>,
    /// Its requests that are not over.
    pub requests: Vec<(RequestId, RequestNo)>,
    /// What becomes of it.
    pub stage: Stage,
    /// What epoll watches it for.
    pub watched: Watched,
    /// Last time a byte came that counts: what follows a whole request, while draining, does not.
    pub last_in: Instant,
    /// Since when it is read: it was full until then.
    pub read_since: Instant,
    /// Since when the peer has taken nothing of what waits.
    pub stuck: Option<Instant>,
    /// When it was accepted.
    pub came: Instant,
    /// The number of its endpoint, for a hand-over.
    pub endpoint: usize,
    /// The peer sends nothing more.
    pub half_closed: bool,
    /// A request on it was turned away because there were too many, and the log was told.
    pub turned_away: bool,
    /// Its codec is from before the settings changed.
    pub outdated: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It goes on.
    Open,
    /// To be closed when all is sent.
    Closing,
    /// All is sent and our side is shut; what the peer still sends is read and dropped until it closes.
    Draining,
}

/// A web server connects when it has a request, and sends it at once.
const EXPECTED: std::time::Duration = std::time::Duration::from_millis(500);

impl Connection {
    /// A connection on a non-blocking socket; CGI has a second descriptor for its output.
    pub(super) fn new(
        input: OwnedFd,
        output: Option<OwnedFd>,
        codec: Box<dyn Codec>,
        endpoint: usize,
        now: Instant,
    ) -> Connection {
        Connection {
            input,
            output,
            codec,
            out: Outbox::default(),
            kept: None,
            requests: Vec::new(),
            stage: Stage::Open,
            watched: Watched::default(),
            last_in: now,
            read_since: now,
            stuck: None,
            came: now,
            endpoint,
            half_closed: false,
            turned_away: false,
            outdated: false,
        }
    }

    /// Reads once: bytes read, 0 at the end, `WouldBlock` when there is nothing now.
    pub(super) fn read(&mut self, buffer: &mut [u8], now: Instant) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.input, buffer) {
                Err(Errno::EINTR) => (),
                Ok(count) => {
                    if self.stage != Stage::Draining || !self.codec.is_idle() {
                        self.last_in = now;
                    }
                    return Ok(count);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        if self.is_full() {
            self.read_since = now;
        }
        let output = self.output.as_ref().unwrap_or(&self.input);
        let taken = self.out.flush(output)?;
        if self.waiting() == 0 || taken > 0 {
            self.stuck = None;
        }
        if self.waiting() > 0 {
            self.stuck.get_or_insert(now);
        }
        Ok(())
    }

    /// Has epoll watch it for `flags`. A regular file (CGI) cannot be watched and is always ready.
    pub(super) fn watch(&mut self, poller: &Poller, token: Token, flags: EpollFlags) {
        let _ = poller.watch(&self.input, token, flags, &mut self.watched);
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.out.waiting()
    }

    /// It was accepted a moment ago and its request is on the way: until when to wait for that.
    pub(super) fn expected(&self, now: Instant) -> Option<Instant> {
        let until = self.came + EXPECTED;
        (self.last_in == self.came && now < until).then_some(until)
    }

    /// Too much waits: who sends here, and workers that answer here, have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.waiting() >= HIGH_MARK
    }

    /// Says that nothing more will be sent.
    pub(super) fn shut_down(&mut self, now: Instant) {
        let _ =
            nix::sys::socket::shutdown(self.input.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        self.stage = Stage::Draining;
        self.last_in = now;
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        if !self.half_closed && !self.is_full() {
            flags |= EpollFlags::EPOLLIN;
        }
        if self.waiting() > 0 {
            flags |= EpollFlags::EPOLLOUT;
        }
        flags
    }

    /// A CGI request: two descriptors that block.
    pub(super) fn is_cgi(&self) -> bool {
        self.output.is_some()
    }

    /// Gives the socket up, for the image that comes after this one.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.input
    }
}
