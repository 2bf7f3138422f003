//! `Poller`: epoll, and what each event is about.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Signals.
    Signal,
    /// A listening socket.
    Listener(usize),
    /// A connection from a web server.
    Conn(u64),
    /// A worker's socket.
    Slot(u64),
    /// A worker's standard output.
    Stdout(u64),
    /// A worker's standard error.
    Stderr(u64),
    /// The socket to a preloader.
    Control(u64),
}

/// What epoll watches a descriptor for, as far as it was told; kept beside the descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched(Option<EpollFlags>);

/// Events of one sleep.
pub struct Events {
    events: [EpollEvent; 64],
    ready: usize,
}

/// See above.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Token {
    /// The worker, if it is about what that writes.
    pub fn pipe(self) -> Option<u64> {
        match self {
            Token::Stdout(number) | Token::Stderr(number) => Some(number),
            _ => None,
        }
    }
}

impl Watched {
    /// Epoll has never heard of the descriptor.
    pub fn is_new(self) -> bool {
        self.0.is_none()
    }
}

impl Poller {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches `fd` for `flags` from now on. Costs nothing when that is already so. An error for what cannot be watched,
    /// such as a regular file.
    pub fn watch(
        &self,
        fd: impl AsFd,
        token: Token,
        flags: EpollFlags,
        watched: &mut Watched,
    ) -> io::Result<()> {
        let mut event = EpollEvent::new(flags, token.into());
        match watched.0 {
            Some(before) if before == flags => return Ok(()),
            Some(_) => self.0.modify(fd, &mut event)?,
            None => self.0.add(fd, event)?,
        }
        watched.0 = Some(flags);
        Ok(())
    }

    /// Watches `fd` no more, not even for its end.
    pub fn forget(&self, fd: impl AsFd, watched: &mut Watched) -> io::Result<()> {
        if watched.0.take().is_some() {
            self.0.delete(fd)?;
        }
        Ok(())
    }

    /// Sleeps until something is ready, `timeout` at the longest.
    pub fn wait(&self, timeout: Duration, events: &mut Events) {
        // Rounded up: a sleep that ends too early would be followed by more of them.
        let millis = u16::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let timeout = EpollTimeout::from(millis);
        events.ready = self.0.wait(&mut events.events, timeout).unwrap_or(0);
    }
}

impl Default for Events {
    fn default() -> Events {
        Events {
            events: [EpollEvent::empty(); 64],
            ready: 0,
        }
    }
}

impl Events {
    /// What is ready, and for what.
    pub fn iter(&self) -> impl Iterator<Item = (Token, EpollFlags)> {
        let ready = self.events[..self.ready].iter();
        ready.map(|event| (Token::from(event.data()), event.events()))
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        let (kind, number) = match token {
            Token::Signal => (0, 0),
            Token::Listener(number) => (1, number as u64),
            Token::Conn(number) => (2, number),
            Token::Slot(number) => (3, number),
            Token::Stdout(number) => (4, number),
            Token::Stderr(number) => (5, number),
            Token::Control(number) => (6, number),
        };
        kind << 56 | number
    }
}

impl From<u64> for Token {
    fn from(data: u64) -> Token {
        let number = data & ((1 << 56) - 1);
        match data >> 56 {
            0 => Token::Signal,
            1 => Token::Listener(number as usize),
            2 => Token::Conn(number),
            3 => Token::Slot(number),
            4 => Token::Stdout(number),
            5 => Token::Stderr(number),
            _ => Token::Control(number),
        }
    }
}
