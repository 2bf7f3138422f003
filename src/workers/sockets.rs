//! `Sockets`: the front's ends of the sockets and pipes to its workers: a socket for each slot, a pipe for each output.

use super::channel::Channel;
use super::launch::{Launched, Pipes};
use super::process::{ProcessNo, SlotNo};
use super::wire::{self, Frame};
use crate::body::Body;
use crate::failure::Exception;
use crate::numbered::Numbered;
use crate::poller::{Poller, Token, Watched};
use crate::request::{Request, Stream};
use nix::sys::epoll::EpollFlags;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Bytes read at a time. See `SCRATCH` of `server/sockets`.
const SCRATCH: usize = 128 << 10;
/// How many pieces of a worker's output are read at a time, and their size in bytes.
const PIECES: usize = 8;
const PIECE: usize = 8 << 10;
/// Odd, and far from small numbers.
const SPREAD: u16 = 40503;

/// What a worker sends: see `wire::Frame`.
#[derive(Debug)]
pub(super) enum Reply {
    Started(i32),
    BootFailed(String),
    Head(Vec<u8>),
    Data(Vec<u8>),
    File(File, u64, u64),
    Text(Stream, Vec<u8>),
    Exception(Box<Exception>),
    Caught(Box<Exception>),
    End { truncated: bool },
}

/// The socket of a slot has ended; or it cannot be used any more, for this reason.
#[derive(Debug)]
pub(super) struct Ended(pub Option<String>);

/// The front's ends of all sockets and pipes to its workers.
#[derive(Debug)]
pub(super) struct Sockets {
    poller: Rc<Poller>,
    channels: Numbered<SlotNo, Channel>,
    pipes: Numbered<ProcessNo, Pipes>,
    /// Of the last request. Where it begins differs from front to front, for workers go from one to another.
    serial: u16,
    scratch: Vec<u8>,
    message: Vec<u8>,
}

impl Sockets {
    pub(super) fn new(poller: Rc<Poller>) -> Sockets {
        Sockets {
            poller,
            channels: Numbered::default(),
            pipes: Numbered::default(),
            serial: (std::process::id() as u16).wrapping_mul(SPREAD),
            scratch: vec![0; SCRATCH],
            message: Vec::new(),
        }
    }

    /// Adds those of a worker that was launched. Returns how many pipes are read.
    pub(super) fn add(
        &mut self,
        process: ProcessNo,
        slots: &[SlotNo],
        launched: Launched,
    ) -> io::Result<usize> {
        let mut pipes = launched.pipes;
        for (stream, token) in [
            (Stream::Stdout, Token::Stdout(process.0)),
            (Stream::Stderr, Token::Stderr(process.0)),
        ] {
            if let Some(output) = pipes.output(stream) {
                let (flags, mut watched) = (EpollFlags::EPOLLIN, Watched::default());
                self.poller.watch(output, token, flags, &mut watched)?;
            }
        }
        for (slot, mut channel) in slots.iter().zip(launched.channels) {
            channel.watch(&self.poller, Token::Slot(slot.0), EpollFlags::EPOLLIN)?;
            self.channels.insert(*slot, channel);
        }
        let open = pipes.open();
        self.pipes.insert(process, pipes);
        Ok(open)
    }

    /// Sends a request. `false`: the worker is gone.
    pub(super) fn send(&mut self, slot: SlotNo, request: &Request) -> bool {
        let Some(channel) = self.channels.get_mut(slot) else {
            return false;
        };
        self.serial = self.serial.wrapping_add(1);
        channel.decoder.expect(self.serial);
        self.message.clear();
        let (environ, length) = (&request.environ, request.body.length());
        let sent = match &request.body {
            Body::Memory(bytes) => {
                wire::put_request(&mut self.message, self.serial, environ, length, false);
                self.message.extend_from_slice(bytes);
                channel.send(&self.message, &[])
            }
            Body::File(spooled) => {
                let mut file = spooled.file();
                let _ = io::Seek::rewind(&mut file);
                wire::put_request(&mut self.message, self.serial, environ, length, true);
                channel.send(&self.message, &[file.as_raw_fd()])
            }
        };
        if channel.is_waiting() {
            self.watch(slot, true);
        }
        sent.is_ok()
    }

    /// Tells a worker that nobody waits for its response.
    pub(super) fn abort(&mut self, slot: SlotNo) {
        if let Some(channel) = self.channels.get_mut(slot) {
            let mut frame = Vec::new();
            wire::put_abort(&mut frame);
            let _ = channel.send(&frame, &[]);
            self.watch(slot, true);
        }
    }

    /// Has epoll watch for input, if `reading`, and for room to send what is waiting.
    pub(super) fn watch(&mut self, slot: SlotNo, reading: bool) {
        if let Some(channel) = self.channels.get_mut(slot) {
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, reading);
            flags.set(EpollFlags::EPOLLOUT, channel.is_waiting());
            let _ = channel.watch(&self.poller, Token::Slot(slot.0), flags);
        }
    }

    /// Sends what is waiting.
    pub(super) fn flush(&mut self, slot: SlotNo) -> Result<(), Ended> {
        if let Some(channel) = self.channels.get_mut(slot) {
            channel.flush().map_err(|_| Ended(None))?;
            self.watch(slot, true);
        }
        Ok(())
    }

    /// Reads once. `replies` gets what came in before an error, too.
    pub(super) fn read(&mut self, slot: SlotNo, replies: &mut Vec<Reply>) -> Result<(), Ended> {
        let Some(channel) = self.channels.get_mut(slot) else {
            return Ok(());
        };
        let count = match channel.receive(&mut self.scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                let text = format!("the socket of a worker cannot be read: {error}");
                return Err(Ended(Some(text)));
            }
            Ok(0) | Err(_) => return Err(Ended(None)),
            Ok(count) => count,
        };
        let mut input = &self.scratch[..count];
        loop {
            let frame = match channel.decoder.decode(&mut input) {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => frame,
                Err(error) => return Err(Ended(Some(format!("a worker sent {error}")))),
            };
            let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
            replies.push(match frame {
                Frame::Started { pid } => Reply::Started(pid),
                Frame::BootFailed(reason) => Reply::BootFailed(text(&reason)),
                Frame::Head(payload) => Reply::Head(payload.into_owned()),
                Frame::Data(bytes) => Reply::Data(bytes.to_vec()),
                Frame::File { offset, length } => match channel.received.pop_front() {
                    Some(descriptor) => Reply::File(File::from(descriptor), offset, length),
                    None => continue,
                },
                Frame::Log(bytes) => Reply::Text(Stream::Stderr, bytes.to_vec()),
                Frame::Output(bytes) => Reply::Text(Stream::Stdout, bytes.to_vec()),
                Frame::Exception(told) => Reply::Exception(Box::new(Exception::from_wire(&told))),
                Frame::Caught(told) => Reply::Caught(Box::new(Exception::from_wire(&told))),
                Frame::End { truncated } => Reply::End { truncated },
                _ => continue,
            });
        }
    }

    /// Reads the output of a worker. `true`: it has ended.
    pub(super) fn read_pipe(
        &mut self,
        process: ProcessNo,
        stream: Stream,
        text: &mut Vec<u8>,
    ) -> bool {
        let Some(pipes) = self.pipes.get_mut(process) else {
            return false;
        };
        let mut buffer = [0; PIECE];
        for _ in 0..PIECES {
            match pipes.read(stream, &mut buffer) {
                None => return false,
                Some(0) => return true,
                Some(count) => text.extend_from_slice(&buffer[..count]),
            }
        }
        false
    }

    /// It is known how the import of a worker went: the tail of its output until now.
    pub(super) fn take_boot_output(&mut self, process: ProcessNo) -> Vec<u8> {
        let pipes = self.pipes.get_mut(process);
        pipes.map(Pipes::take_boot_output).unwrap_or_default()
    }

    /// Gives up those of an idle worker, so that another front can have it. None: it is of no use, and is killed.
    pub(super) fn withdraw(
        &mut self,
        process: ProcessNo,
        slots: &[SlotNo],
    ) -> Option<(Pipes, Vec<Channel>)> {
        let mut pipes = self.pipes.remove(process)?;
        // One that has closed its standard error does not have the shape that others ask for.
        let mut is_idle = pipes.output(Stream::Stderr).is_some();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(output) = pipes.output(stream) {
                let mut watched = Watched::new(EpollFlags::EPOLLIN);
                is_idle &= self.poller.forget(output, &mut watched).is_ok();
            }
        }
        let mut channels = Vec::new();
        for slot in slots {
            let mut channel = self.channels.remove(*slot)?;
            is_idle &= channel.withdraw(&self.poller);
            channels.push(channel);
        }
        is_idle.then_some((pipes, channels))
    }

    /// Closes a slot.
    pub(super) fn close(&mut self, slot: SlotNo) {
        self.channels.remove(slot);
    }

    /// Kills a worker, by closing its lifeline.
    pub(super) fn kill(&mut self, process: ProcessNo) {
        self.pipes.remove(process);
    }

    /// Kills all workers.
    pub(super) fn clear(&mut self) {
        self.channels.clear();
        self.pipes.clear();
    }
}
