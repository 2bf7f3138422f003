//! Going to the background, and the pidfile.
//!
//! ```text
//! shell's process ─starts─▶ leader (setsid) ─starts─▶ daemon (no session leader, so it never gets a terminal)
//!        │                     └─ends at once            │ opens sockets, logs, pidfile; errors go to the shell
//!        └─reads a pipe ◀─────────────its status─────────┘ then detaches from the shell and serves
//! ```
//! Each of the three executes this program with the same arguments. None is a bare fork, so none inherits half-initialised
//! state. Blocks only before serving begins. Knows no protocol and no Python.

use crate::codes::place::NO_BACKGROUND;
use crate::config;
use crate::log::{LogFile, PRIVATE};
use crate::sys::procfs;
use crate::trust::Trust;
use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Whence, dup2_stderr, dup2_stdin, dup2_stdout, ftruncate, lseek};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start waits for the previous server to exit, as after `kill`.
pub const EXIT_WAIT: Duration = Duration::from_secs(1);
/// The pause between two tries in that time.
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The umask of a daemon if none is set.
const UMASK: u32 = 0o022;
/// Size in bytes of the report of the daemon: an exit status and its process id.
const REPORT_SIZE: usize = 5;

/// Starts `leader` (this program, which inherits the write end of `pipe`) and waits for the report of the daemon. Returns
/// the daemon's process id, or an exit status after an error, which was printed on standard error.
pub fn start_and_wait(mut leader: Command, pipe: (OwnedFd, OwnedFd)) -> Result<Pid, u8> {
    let (read, write) = pipe;
    let led = leader.stdin(Stdio::null()).status();
    drop(write);
    match led {
        Ok(status) if status.success() => (),
        Ok(_) => return Err(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "runfcgi: {}", start_error(&error));
            return Err(1);
        }
    }
    let mut report = [0; REPORT_SIZE];
    match (File::from(read).read_exact(&mut report), report) {
        (Ok(()), [0, pid @ ..]) => Ok(Pid::from_raw(i32::from_le_bytes(pid))),
        (Ok(()), [status, ..]) => Err(status),
        (Err(_), _) => {
            let _ = writeln!(
                io::stderr(),
                "runfcgi: {NO_BACKGROUND} the daemon ended before it was ready; daemonize=false shows more"
            );
            Err(1)
        }
    }
}

/// The message when the leader or the daemon cannot be started.
pub fn start_error(error: &io::Error) -> String {
    format!("{NO_BACKGROUND} cannot start in the background: {error}")
}

/// Starts a session, and the daemon in it. Returns the exit status of the leader.
pub fn lead(mut daemon: Command) -> u8 {
    let started = nix::unistd::setsid()
        .map_err(io::Error::from)
        .and_then(|_| daemon.stdin(Stdio::null()).spawn());
    match started {
        Ok(_) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "runfcgi: {}", start_error(&error));
            1
        }
    }
}

/// Reports an exit status and our pid to the shell's process. Ignores that it may have gone.
pub fn report(ready: OwnedFd, status: u8) {
    let mut report = [status; REPORT_SIZE];
    report[1..].copy_from_slice(&Pid::this().as_raw().to_le_bytes());
    let _ = File::from(ready).write_all(&report);
}

/// Blocks the signals that the server will read, so that none of them kills us and leaves a stale pidfile.
pub fn block_signals() {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        mask.add(signal);
    }
    let _ = mask.thread_block();
}

/// What replaces the shell's descriptors and working directory.
#[derive(Debug)]
pub struct Surroundings {
    input: File,
    output: File,
    error: File,
}

impl Surroundings {
    /// Sets the umask and opens the logs.
    pub fn open(config: &config::Config) -> anyhow::Result<Surroundings> {
        let server = &config.server;
        set_umask(server);
        let log = |name: &str, path: Option<&Path>| {
            let path = path.unwrap_or(Path::new("/dev/null"));
            let mut options = OpenOptions::new();
            options.append(true).create(path != Path::new("/dev/null"));
            Trust::of(config.owned_by)
                .open(options.mode(PRIVATE), path)
                .with_context(|| format!("{name}={}: cannot be opened", path.display()))
        };
        let dir = workdir(server);
        if !dir.is_dir() {
            bail!(
                "workdir={}: not a directory that we may enter",
                dir.display()
            );
        }
        Ok(Surroundings {
            input: File::open("/dev/null")?,
            output: log("outlog", server.outlog.as_deref())?,
            error: log("errlog", server.errlog.as_deref())?,
        })
    }

    /// The files of `errlog` and `outlog`, for a log that rotates them.
    pub fn logs(config: &config::Config) -> [Option<LogFile>; 2] {
        [&config.server.errlog, &config.server.outlog].map(|path| LogFile::of(config, path))
    }

    /// Changes to `workdir` and replaces descriptors 0, 1 and 2.
    pub fn enter(self, server: &config::Server) -> anyhow::Result<()> {
        let dir = workdir(server);
        std::env::set_current_dir(dir)
            .with_context(|| format!("workdir={}: cannot be entered", dir.display()))?;
        dup2_stdin(&self.input)?;
        dup2_stdout(&self.output)?;
        dup2_stderr(&self.error)?;
        Ok(())
    }
}

/// Sets the umask of a daemon.
pub fn set_umask(server: &config::Server) {
    nix::sys::stat::umask(Mode::from_bits_truncate(server.umask.unwrap_or(UMASK)));
}

fn workdir(server: &config::Server) -> &Path {
    server.workdir.as_deref().unwrap_or(Path::new("/"))
}

/// A file with our process id, locked until we exit.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    file: File,
}

impl Pidfile {
    /// Creates the file, or takes over a stale one. If a live process holds it, waits 1 s for that to exit, then fails
    /// with its process id.
    pub fn take(path: &Path, trust: Trust) -> anyhow::Result<Pidfile> {
        let name = format!("pidfile={}", path.display());
        let cannot = || format!("{name}: cannot be opened");
        let dir = trust.directory_of(path).with_context(cannot)?;
        let path = &dir.join(path.file_name().unwrap_or_default());
        let until = Instant::now() + EXIT_WAIT;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)
                .with_context(cannot)?;
            let meta = file.metadata()?;
            if !meta.is_file() {
                bail!("{name}: not a regular file; name another");
            }
            if meta.uid() != nix::unistd::geteuid().as_raw() {
                bail!("{name}: belongs to another user; remove it, or name another");
            }
            let mut text = String::new();
            let is_text = (&mut file).take(64).read_to_string(&mut text).is_ok();
            let pid = text.trim();
            if !is_text || !pid.bytes().all(|b| b.is_ascii_digit()) {
                bail!("{name}: there is something else in it than a process id; name another");
            }
            match file.try_lock() {
                Ok(()) if inode(&file) == inode_at(path) => {
                    let path = path.to_owned();
                    return Ok(Pidfile { path, file });
                }
                // Another process removed it while we locked it: try again.
                Ok(()) => (),
                Err(fs::TryLockError::WouldBlock) if Instant::now() >= until => {
                    bail!("{name}: the server already runs, as process {pid}; `kill {pid}` ends it")
                }
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(RETRY_PAUSE),
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("{name}: cannot be locked"));
                }
            }
        }
    }

    /// Keeps the pidfile of the previous image if `path` still names it. Otherwise replaces it with a new one.
    pub fn inherit(
        left: OwnedFd,
        path: Option<&Path>,
        trust: Trust,
    ) -> anyhow::Result<Option<Pidfile>> {
        match Pidfile::keep(left) {
            Some(old) if path.is_some() && inode_at(&old.path) == path.and_then(inode_at) => {
                Ok(Some(old))
            }
            old => {
                let new = path.map(|path| Pidfile::take(path, trust)).transpose();
                if let Some(old) = old {
                    old.remove();
                }
                new
            }
        }
    }

    /// Keeps the pidfile of the previous image. None: its path is unknown, because there is no /proc.
    pub fn keep(left: OwnedFd) -> Option<Pidfile> {
        let file = File::from(left);
        let path = procfs::path_of(&file).ok()?;
        Some(Pidfile { path, file })
    }

    /// Writes our process id.
    pub fn write(&mut self) -> anyhow::Result<()> {
        let text = format!("{}\n", Pid::this());
        ftruncate(&self.file, 0)
            .and_then(|()| lseek(&self.file, 0, Whence::SeekSet))
            .map_err(io::Error::from)
            .and_then(|_| self.file.write_all(text.as_bytes()))
            .with_context(|| format!("pidfile={}: cannot be written", self.path.display()))
    }

    /// Removes it, unless another file has replaced it.
    pub fn remove(self) {
        if inode(&self.file) == inode_at(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// The descriptor that holds the lock.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn inode(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|m| (m.dev(), m.ino()))
}

fn inode_at(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &Path) -> anyhow::Result<Pidfile> {
        Pidfile::take(path, Trust::of(None))
    }

    fn place(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("runfcgi-pid-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir.join(name)
    }

    #[test]
    fn a_stale_pidfile_is_taken_over_and_a_live_one_is_not() {
        let path = place("stale");
        fs::write(&path, "99999999\n").unwrap();
        let mut own = take(&path).unwrap();
        own.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        let refused = take(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("as process {}", std::process::id())));
        own.remove();
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_left_alone() {
        let path = place("settings.py");
        fs::write(&path, "DEBUG = True\n").unwrap();
        assert!(take(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "DEBUG = True\n");
        let link = place("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(take(&link).is_err());
        assert!(take(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_pidfile_of_another_server_is_not_removed() {
        let path = place("replaced");
        let own = take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = take(&path).unwrap();
        own.remove();
        assert!(path.exists());
        other.remove();
    }
}
