//! `Poller`: epoll, and a token that says which descriptor an event belongs to.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// The descriptor that an event belongs to.
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

/// The flags for which epoll watches a descriptor. Kept next to the descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched(Option<EpollFlags>);

/// The events of one `wait`, at most 64.
pub struct Events {
    events: [EpollEvent; 64],
    ready: usize,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Token {
    /// Whether it is the control socket of a preloader.
    pub fn is_control(self) -> bool {
        matches!(self, Token::Control(_))
    }

    /// The worker process, if the event is about its standard output or error.
    pub fn pipe(self) -> Option<u64> {
        match self {
            Token::Stdout(number) | Token::Stderr(number) => Some(number),
            _ => None,
        }
    }
}

impl Watched {
    /// Whether the descriptor is not registered with epoll.
    pub fn is_new(self) -> bool {
        self.0.is_none()
    }
}

impl Poller {
    /// A poller that watches nothing.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches `fd` for `flags`. Makes no system call if they are unchanged. Fails for a descriptor that cannot be watched,
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

    /// Stops watching `fd`, including for hang-ups.
    pub fn forget(&self, fd: impl AsFd, watched: &mut Watched) -> io::Result<()> {
        if watched.0.take().is_some() {
            self.0.delete(fd)?;
        }
        Ok(())
    }

    /// Sleeps until a descriptor is ready, but at most for `timeout`, which is cut to 65 s.
    pub fn wait(&self, timeout: Duration, events: &mut Events) {
        // Round up: waking before the deadline would only cause another short sleep.
        let millis = u16::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let timeout = EpollTimeout::from(millis);
        events.ready = self.0.wait(&mut events.events, timeout).unwrap_or(0);
    }
}

impl Watched {
    /// A descriptor that is watched for these.
    pub fn new(flags: EpollFlags) -> Watched {
        Watched(Some(flags))
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
    /// The tokens that are ready, each with its flags.
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
