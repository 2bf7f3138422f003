//! Starting a worker: its sockets and pipes, and the process, forked by a preloader or started from nothing.

use super::channel::Channel;
use super::context::LaunchContext;
use super::generation::Generation;
use super::import;
use super::spawn::{self, Outputs};
use super::wire;
use crate::request::Stream;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Our ends of what a worker holds the other end of.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Its end is the process's end.
    _lifeline: OwnedFd,
    /// What it writes to standard output, where that is kept apart.
    stdout: Option<OwnedFd>,
    /// What it writes to standard error, and to standard output where that is not kept apart.
    stderr: Option<OwnedFd>,
    /// The tail of what it has written, until it has told how its import went.
    said: Option<Vec<u8>>,
}

/// A worker that was asked for.
pub(super) struct Launched {
    pub(super) pipes: Pipes,
    pub(super) channels: Vec<Channel>,
    /// It is a child of ours, which imports the app by itself.
    pub(super) child: Option<Pid>,
}

/// Asks for a worker of this generation with so many slots.
pub(super) fn launch(
    context: &LaunchContext,
    generation: &mut Generation,
    slots: usize,
) -> io::Result<Launched> {
    let (life_read, life_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, stderr_write) = output_pipe()?;
    let (stdout, stdout_write) = match context.outlog {
        true => output_pipe().map(|(read, write)| (Some(read), write))?,
        false => (None, stderr_write.try_clone()?),
    };
    let mut channels = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..slots {
        let (ours, their) = UnixStream::pair()?;
        channels.push(Channel::new(ours.into())?);
        theirs.push(OwnedFd::from(their));
    }
    let mut descriptors: Vec<RawFd> = vec![life_read.as_raw_fd()];
    let mut child = None;
    if generation.plain {
        descriptors.extend(theirs.iter().map(AsRawFd::as_raw_fd));
        let start = context.start(&generation.config);
        let setup = spawn::setup(start, "worker", slots as u32, true);
        let outputs = Outputs {
            stdout: stdout_write,
            stderr: stderr_write,
        };
        let (_, pid) = spawn::start(start, &setup, &descriptors, outputs, wire::BOOT_FAILED)?;
        child = Some(pid);
    } else {
        descriptors.extend([&stdout_write, &stderr_write].map(AsRawFd::as_raw_fd));
        descriptors.extend(theirs.iter().map(AsRawFd::as_raw_fd));
        generation.link.fork(&descriptors)?;
    }
    let pipes = Pipes {
        _lifeline: life_write,
        stdout,
        stderr: Some(stderr),
        said: child.map(|_| Vec::new()),
    };
    Ok(Launched {
        pipes,
        channels,
        child,
    })
}

/// Both ends of a pipe for what a worker writes; ours does not block.
fn output_pipe() -> io::Result<(OwnedFd, File)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, File::from(write)))
}

impl Pipes {
    /// Where we read what it writes.
    pub(super) fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// How many descriptors are read.
    pub(super) fn open(&self) -> usize {
        usize::from(self.stdout.is_some()) + usize::from(self.stderr.is_some())
    }

    /// It has told how its import went. What it had written.
    pub(super) fn take_said(&mut self) -> Vec<u8> {
        self.said.take().unwrap_or_default()
    }

    /// Reads once what is there. None: nothing now; empty: the end.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Option<usize> {
        let output = self.output(stream).as_ref()?;
        let count = loop {
            match nix::unistd::read(output, buffer) {
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return None,
                read => break read.unwrap_or(0),
            }
        };
        if let Some(said) = &mut self.said {
            import::keep_tail(said, &buffer[..count]);
        }
        if count == 0 {
            *self.output(stream) = None;
        }
        Some(count)
    }
}
