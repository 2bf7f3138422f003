//! Asking an interpreter: its version, and whether it can import what the app needs. Runs it, and waits for its answer.

use crate::config::{App, limits};
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As in `sys.version_info`.
pub(super) type Version = (u32, u32, u32);

/// What an interpreter must be able to import.
pub(super) struct Needs {
    pub(super) dir: PathBuf,
    pub(super) modules: Vec<String>,
    /// To ask with; None: ours.
    pub(super) environment: Option<Vec<(OsString, OsString)>>,
}

impl Needs {
    pub(super) fn of(app: &App) -> Needs {
        let dir = app.path.clone().unwrap_or_else(|| PathBuf::from("/"));
        let mut modules = Vec::new();
        // With only `wsgi` given, a Django project still shows itself by its manage.py.
        if app.settings.is_some() || dir.join("manage.py").is_file() {
            modules.push("django".to_string());
        }
        if let Some(wsgi) = &app.wsgi {
            let top = wsgi.split([':', '.']).next().unwrap_or_default();
            if !top.is_empty() && top != "django" {
                modules.push(top.to_string());
            }
        }
        Needs {
            dir,
            modules,
            environment: None,
        }
    }
}

/// Runs on any Python since 2.5, to have even an old one say its version. The mark tells our line from what a
/// sitecustomize prints.
const PROBE: &str = r#"
import sys
out = ["%d.%d.%d" % sys.version_info[:3]]
if sys.version_info >= (3, 4):
    sys.path[0] = sys.argv[1]
    from importlib.util import find_spec
    for name in sys.argv[2:]:
        try:
            if find_spec(name) is None:
                out.append(name)
        except Exception:
            out.append(name)
sys.stdout.write("\nrunfcgi-probe " + " ".join(out) + "\n")
"#;

/// The version of an interpreter that fits, or why it does not.
pub(super) fn ask(python: &Path, needs: &Needs, end: Instant) -> Result<Version, String> {
    let own_end = Instant::now() + Duration::from_secs(limits::PYTHON_PROBE_TIMEOUT);
    let mut command = Command::new(python);
    command
        .arg("-c")
        .arg(PROBE)
        .arg(&needs.dir)
        .args(&needs.modules)
        .current_dir("/");
    if let Some(environment) = &needs.environment {
        command.env_clear().envs(environment.iter().cloned());
    }
    let (output, status) = output(&mut command, b"", end.min(own_end))?;
    let Some(line) = output
        .lines()
        .find_map(|l| l.strip_prefix("runfcgi-probe "))
    else {
        let last = output.lines().rev().find(|l| !l.trim().is_empty());
        return Err(match last {
            Some(last) => format!("does not run: {}", last.trim()),
            None => format!("does not run: {status}"),
        });
    };
    let mut parts = line.split(' ');
    let numbers = parts.next().unwrap_or_default();
    let mut n = numbers.split('.').map(|n| n.parse().unwrap_or(0));
    let mut next = || n.next().unwrap_or(0);
    let version: Version = (next(), next(), next());
    let (major, minor) = limits::PYTHON_OLDEST;
    if (version.0, version.1) < (major, minor) {
        return Err(format!(
            "version {numbers} is too old, {major}.{minor} is the oldest that works"
        ));
    }
    let missing: Vec<&str> = parts.collect();
    if !missing.is_empty() {
        return Err(format!(
            "version {numbers}: no module named {}",
            missing.join(", ")
        ));
    }
    Ok(version)
}

/// Pause after a process was refused.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// What a command prints, with `input` on a socket, until it ends or its time is up; then it is killed.
pub(crate) fn output(
    command: &mut Command,
    input: &[u8],
    end: Instant,
) -> Result<(String, String), String> {
    let left = || end.saturating_duration_since(Instant::now());
    let seconds = left().as_secs() + 1;
    let late = || format!("gave no answer within {seconds} s");
    let io = |e: std::io::Error| e.to_string();
    let (mut ours, theirs) = UnixStream::pair().map_err(io)?;
    let stdin: OwnedFd = theirs.try_clone().map_err(io)?.into();
    let errors: OwnedFd = theirs.try_clone().map_err(io)?.into();
    command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::from(errors));
    let mut spawned = command.spawn();
    // Where the account is at its limit of processes, another one gives up the room for it.
    while spawned
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
        && Instant::now() < end
    {
        std::thread::sleep(ROOM_PAUSE);
        spawned = command.spawn();
    }
    // The command holds our copies of the other end; while they are open no end would be seen.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = spawned.map_err(|e| format!("cannot be executed: {e}"))?;
    // A program that does not take it all has something else to say.
    let _ = ours
        .set_write_timeout(Some(left()))
        .and_then(|()| ours.write_all(input))
        .and_then(|()| ours.shutdown(Shutdown::Write));
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let failure = loop {
        let left = left();
        if left.is_zero() {
            break Some(late());
        }
        if let Err(e) = ours.set_read_timeout(Some(left)) {
            break Some(e.to_string());
        }
        match ours.read(&mut chunk) {
            Ok(0) => break None,
            Ok(n) if bytes.len() + n <= limits::PYTHON_PROBE_OUTPUT => {
                bytes.extend_from_slice(&chunk[..n]);
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break Some(late()),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break None, // it has not read all
            Err(e) => break Some(e.to_string()),
        }
    };
    if failure.is_some() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(io)?;
    match failure {
        Some(why) => Err(why),
        None => Ok((
            String::from_utf8_lossy(&bytes).into_owned(),
            status.to_string(),
        )),
    }
}
