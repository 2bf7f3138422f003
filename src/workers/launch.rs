//! Launching a worker: its sockets and pipes, and its process, forked by the preloader or started from scratch.

use super::channel::Channel;
use super::context::LaunchContext;
use super::generation::Generation;
use super::import;
use super::kept;
use super::process::{Origin, ProcessNo};
use super::spawn::{self, Outputs};
use super::wire;
use crate::request::Stream;
use crate::sys::fd;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Our ends of a worker's pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    /// When it is closed, the process is killed.
    lifeline: OwnedFd,
    /// Its standard output, where that is kept apart.
    stdout: Option<OwnedFd>,
    /// Its standard error, with standard output where that is not kept apart.
    stderr: Option<OwnedFd>,
    /// The tail of its output, until it is known how its import went.
    boot_output: Option<Vec<u8>>,
}

/// A worker that was launched.
pub(super) struct Launched {
    pub(super) pipes: Pipes,
    pub(super) channels: Vec<Channel>,
    /// Who starts it.
    pub(super) origin: Origin,
}

/// Launches a worker of this generation with so many slots. `others`: how many of this front serve or wait in line.
pub(super) fn launch(
    context: &LaunchContext,
    generation: &mut Generation,
    process: ProcessNo,
    slots: usize,
    others: usize,
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
    let slot_fds = theirs.iter().map(AsRawFd::as_raw_fd);
    let plain = generation.is_plain();
    let origin = if let Some(link) = generation.link() {
        descriptors.extend([&stdout_write, &stderr_write].map(AsRawFd::as_raw_fd));
        descriptors.extend(slot_fds);
        let shape = kept::shape(slots, context.outlog);
        link.fork(process, &format!("{shape}\0{others}"), &descriptors)?;
        match plain {
            true => Origin::Keeper,
            false => Origin::Preloader,
        }
    } else {
        descriptors.extend(slot_fds);
        let config = generation.config();
        let setup = spawn::setup(config, context.outlog, "worker", slots as u32);
        let outputs = Outputs {
            stdout: stdout_write,
            stderr: stderr_write,
        };
        let failed = wire::BOOT_FAILED;
        let (_, pid) = spawn::start(context, config, &setup, &descriptors, outputs, failed)?;
        Origin::Front(pid)
    };
    let pipes = Pipes {
        lifeline: life_write,
        stdout,
        stderr: Some(stderr),
        boot_output: (origin != Origin::Preloader).then(Vec::new),
    };
    Ok(Launched {
        pipes,
        channels,
        origin,
    })
}

/// Both ends of a pipe for a worker's output; ours does not block.
fn output_pipe() -> io::Result<(OwnedFd, File)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fd::set_nonblocking(&read)?;
    Ok((read, File::from(write)))
}

impl Pipes {
    /// The read end of an output.
    pub(super) fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Those of a worker that was kept: lifeline, standard output where it is kept apart, standard error.
    pub(super) fn received(
        outlog: bool,
        mut next: impl FnMut() -> Option<OwnedFd>,
    ) -> Option<Pipes> {
        Some(Pipes {
            lifeline: next()?,
            stdout: match outlog {
                true => Some(next()?),
                false => None,
            },
            stderr: Some(next()?),
            boot_output: None,
        })
    }

    /// The same, to keep it.
    pub(super) fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        let outputs = self.stdout.into_iter().chain(self.stderr);
        std::iter::once(self.lifeline).chain(outputs)
    }

    /// How many outputs are open.
    pub(super) fn open(&self) -> usize {
        usize::from(self.stdout.is_some()) + usize::from(self.stderr.is_some())
    }

    /// It is known how its import went: the tail of its output until now.
    pub(super) fn take_boot_output(&mut self) -> Vec<u8> {
        self.boot_output.take().unwrap_or_default()
    }

    /// Reads once. None: nothing is there now; 0: the end.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Option<usize> {
        let output = self.output(stream).as_ref()?;
        let count = loop {
            match nix::unistd::read(output, buffer) {
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return None,
                read => break read.unwrap_or(0),
            }
        };
        if let Some(output) = &mut self.boot_output {
            import::keep_tail(output, &buffer[..count]);
        }
        if count == 0 {
            *self.output(stream) = None;
        }
        Some(count)
    }
}
