//! Runs an interpreter to learn its version and whether it can import what the app needs. Waits for it.

use crate::config::{App, limits};
use std::ffi::OsString;
use std::fs::File;
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
    /// The environment to run it with. None: ours.
    pub(super) environment: Option<Vec<(OsString, OsString)>>,
}

impl Needs {
    pub(super) fn of(app: &App) -> Needs {
        let dir = app.path.clone().unwrap_or_else(|| PathBuf::from("/"));
        let mut modules = Vec::new();
        // If only `wsgi` is set, manage.py still identifies a Django project.
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

/// Runs on any Python since 2.5, so that even an old one reports its version. The prefix separates our line from what a
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

/// The version of an interpreter that fits; the error says why it does not. Waits until `end` at most.
pub(super) fn ask(python: &Path, needs: &Needs, end: Instant) -> Result<Version, String> {
    // `Command` would run a file in an unknown format as a shell script.
    if !is_program(python) {
        return Err(String::from("cannot be executed: Exec format error"));
    }
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

/// Whether the file is a script with an interpreter, or an ELF program. One that cannot be read may be either.
fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_err() || magic.starts_with(b"#!") || magic == *b"\x7fELF"
}

/// The pause after the system refused to start a process.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Runs a command with `input` on its standard input, and kills it at `end`. Returns what it prints on standard output and
/// error together, cut to `PYTHON_PROBE_OUTPUT` bytes, and its exit status as text.
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
    // At the process limit of the account, retry: other fronts then free a process.
    while spawned
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
        && Instant::now() < end
    {
        std::thread::sleep(ROOM_PAUSE);
        spawned = command.spawn();
    }
    // `command` still holds our copies of the child's end. Close them, or the end of its output would not be seen.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = spawned.map_err(|e| format!("cannot be executed: {e}"))?;
    // Ignore errors: what a program prints that does not read all its input matters more.
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
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break None, // the child left input unread
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
