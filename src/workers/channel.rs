//! One end of a private socket to Python: frames with descriptors, never blocking.

use super::wire::FrameDecoder;
use crate::outbox::Outbox;
use crate::poller::{Poller, Token, Watched};
use crate::sys::fd;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A non-blocking stream socket whose other end is Python's.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    /// Splits what `receive` returns into frames.
    pub decoder: FrameDecoder,
    /// Descriptors received and not yet claimed by a frame, in order.
    pub received: VecDeque<OwnedFd>,
    watched: Watched,
    out: Outbox,
}

impl Channel {
    /// Takes over a connected stream socket and makes it non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Channel> {
        fd::set_nonblocking(&fd)?;
        Ok(Channel {
            fd,
            decoder: FrameDecoder::default(),
            received: VecDeque::new(),
            watched: Watched::default(),
            out: Outbox::default(),
        })
    }

    /// Sends `bytes`, with `descriptors` beside the first one. Keeps for `flush` what the socket does not take now.
    /// Descriptors can be sent only while nothing is waiting; otherwise `WouldBlock`, and nothing is sent.
    pub fn send(&mut self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        if self.is_waiting() {
            if !descriptors.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.out.tail().extend_from_slice(bytes);
            return Ok(());
        }
        let rights = [ControlMessage::ScmRights(descriptors)];
        let messages: &[ControlMessage] = if descriptors.is_empty() { &[] } else { &rights };
        let taken = loop {
            match sendmsg::<()>(
                self.fd.as_raw_fd(),
                &[IoSlice::new(bytes)],
                messages,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(taken) => break taken,
                Err(nix::errno::Errno::EINTR) => (),
                Err(nix::errno::Errno::EAGAIN) if descriptors.is_empty() => break 0,
                Err(error) => return Err(error.into()),
            }
        };
        self.out.tail().extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Something is waiting to be sent.
    pub fn is_waiting(&self) -> bool {
        self.out.waiting() > 0
    }

    /// Sends as much as the socket takes of what is waiting.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush(&self.fd).map(drop)
    }

    /// Has epoll watch it for `flags`.
    pub fn watch(&mut self, poller: &Poller, token: Token, flags: EpollFlags) -> io::Result<()> {
        poller.watch(&self.fd, token, flags, &mut self.watched)
    }

    /// Has epoll forget it. Whether nothing is under way, so that another process can go on with it.
    pub fn withdraw(&mut self, poller: &Poller) -> bool {
        let forgotten = poller.forget(&self.fd, &mut self.watched).is_ok();
        forgotten && !self.is_waiting() && self.received.is_empty() && self.decoder.is_empty()
    }

    /// Receives into `buffer`: bytes received, 0 at the end of the stream. Descriptors go to `received`.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(fd::receive(&self.fd, buffer, &mut self.received)?)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.fd
    }
}
