//! Starts a Python with our package in it: nothing on disk is needed, and nothing of the web server's is inherited.
//!
//! The child's fd 0 is a private socket, over which come what to launch, the package `bridge` and then one `SETUP`
//! frame with descriptors. Which interpreter it is, the child finds out by itself (`python::Launch`), so the front never
//! waits.

use super::wire;
use crate::config::{Config, ScriptName};
use crate::pairs::Pairs;
use crate::python::{self, Launch};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The modules of the Python side: name and source of each.
macro_rules! modules {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("bridge/", $name, ".py")))),*]
    };
}

/// The Python side, a package that is sent to each interpreter that is started.
const PACKAGE: &[(&str, &str)] = modules![
    "__init__" "importer" "wire" "output" "private" "processes" "head" "request" "app" "opened" "chance" "warm"
    "worker" "files" "preloader" "check" "start"
];

/// What `python -c` is given: it reads the package from fd 0 and has its module `importer` run it.
pub const LOADER: &str = include_str!("loader.py");

/// The name by which our own executable is called to find an interpreter and become it. What makes it do so is the
/// socket on descriptor 0; the name only keeps all others from looking there.
pub const LAUNCHER: &str = "runfcgi-launch";

/// Libraries that start a thread for each core unless told otherwise; an account's process limit counts those.
const THREAD_VARIABLES: [&str; 5] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
];

/// What a web server gives to a CGI program for one request must not stay in a process that outlives it; these may.
const KEPT_FROM_CGI: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TZ",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
];

/// The same for all that is started for a site.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The site.
    pub config: &'a Config,
    /// Our own executable.
    pub exe: &'a Path,
    /// Where the interpreter that was found is remembered.
    pub cache: Option<&'a Path>,
    /// The environment is that of a CGI request.
    pub cgi: bool,
    /// What the app writes to standard output is kept apart from what it writes to standard error.
    pub outlog: bool,
}

/// What a Python writes to.
#[derive(Debug)]
pub struct Outputs {
    /// Its standard output.
    pub stdout: File,
    /// Its standard error.
    pub stderr: File,
}

/// Starts Python in the mode that `setup` names, with `descriptors` for it. `fail_frame` is the frame by which the launcher tells that no interpreter fits. Returns our end of its socket, and its process id; how it ends is told to whoever waits for that.
pub fn start(
    start: Start<'_>,
    setup: &Pairs,
    descriptors: &[RawFd],
    outputs: Outputs,
    fail_frame: u8,
) -> io::Result<(OwnedFd, Pid)> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let app = start.config.app.clone();
    let mut command = Command::new(start.exe);
    command.arg0(LAUNCHER);
    command
        .env_clear()
        .envs(environment(start.config, start.cgi));
    if let Some(path) = &app.path {
        command.current_dir(path);
    }
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(outputs.stdout).stderr(outputs.stderr);
    let pid = Pid::from_raw(command.spawn()?.id() as i32);

    let launch = Launch {
        app_path: app.path,
        settings: app.settings,
        wsgi: app.wsgi,
        python: app.python,
        owner: start.config.owner,
        cache: start.cache.map(Path::to_path_buf),
        fail_frame: Some(fail_frame),
        args: vec!["-c".into(), LOADER.into()],
    };
    if let Err(error) = hand_over(&mut ours, &launch, setup, descriptors)
        // Else it has ended already, and its exit status says more.
        && !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
    {
        return Err(error);
    }
    Ok((ours.into(), pid))
}

/// All that a Python reads which gets no descriptors: the package and SETUP.
pub fn input(setup: &Pairs) -> Vec<u8> {
    [package(), setup_frame(setup)].concat()
}

/// The package as the loader reads it: eight hexadecimal digits of length, then the modules as pairs.
fn package() -> Vec<u8> {
    let mut pairs = Pairs::new();
    for (name, source) in PACKAGE {
        pairs.push(name.as_bytes(), source.as_bytes());
    }
    let length = format!("{:08x}", pairs.as_bytes().len());
    [length.as_bytes(), pairs.as_bytes()].concat()
}

fn setup_frame(setup: &Pairs) -> Vec<u8> {
    let mut frame = Vec::new();
    wire::put_frame(&mut frame, wire::SETUP, setup.as_bytes());
    frame
}

/// Sends what to launch, the package, and SETUP with its descriptors.
fn hand_over(
    ours: &mut UnixStream,
    launch: &Launch,
    setup: &Pairs,
    descriptors: &[RawFd],
) -> io::Result<()> {
    ours.write_all(&python::message::encode(launch))?;
    ours.write_all(&package())?;
    let frame = setup_frame(setup);
    let rights = [ControlMessage::ScmRights(descriptors)];
    let sent = sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(&frame)],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    ours.write_all(&frame[sent..])
}

/// The pairs of `SETUP` that say which app and how.
pub fn setup(start: Start<'_>, mode: &str, threads: u32, multiprocess: bool) -> Pairs {
    let mut pairs = Pairs::new();
    let mut put = |name: &str, value: &[u8]| {
        pairs.push(name.as_bytes(), value);
    };
    let config = start.config;
    let app = &config.app;
    put("mode", mode.as_bytes());
    if let Some(path) = &app.path {
        put("app_path", path.as_os_str().as_encoded_bytes());
    }
    put(
        "settings",
        app.settings.as_deref().unwrap_or_default().as_bytes(),
    );
    put("wsgi", app.wsgi.as_deref().unwrap_or_default().as_bytes());
    put(
        "warm",
        config.server.warm.as_deref().unwrap_or_default().as_bytes(),
    );
    if let ScriptName::Forced(prefix) = &app.script_name {
        put("script_name", format!("{prefix}/").as_bytes());
    }
    put("threads", threads.to_string().as_bytes());
    put("multiprocess", if multiprocess { b"1" } else { b"0" });
    put("pycache", if mode == "check" { b"0" } else { b"1" }); // it changes nothing
    put("outlog", if start.outlog { b"1" } else { b"0" });
    pairs
}

/// The environment of the app: ours as far as it may go on, what mod_fcgid and suexec leave out, and `[env]`.
pub fn environment(config: &Config, cgi: bool) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            !name.starts_with("RUNFCGI_")
                && !name.starts_with("LISTEN_")
                && !name.starts_with("WATCHDOG_")
                && name != "NOTIFY_SOCKET"
                && (!cgi || KEPT_FROM_CGI.contains(&&*name))
        })
        .collect();
    let mut default = |name: &str, value: &str| {
        if !variables.iter().any(|(n, _)| n == name) {
            variables.push((name.into(), value.into()));
        }
    };
    default("PATH", "/usr/local/bin:/usr/bin:/bin");
    default("LANG", "C.UTF-8");
    default("PYTHONUTF8", "1");
    for name in THREAD_VARIABLES {
        default(name, "1");
    }
    variables.extend(
        config
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn the_package_is_all_that_its_folder_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(file!())
            .with_file_name("bridge");
        let named: BTreeSet<String> = PACKAGE
            .iter()
            .map(|(name, _)| format!("{name}.py"))
            .collect();
        let there: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".py"))
            .collect();
        assert_eq!(named, there);
        let sent = package();
        let pairs = Pairs::from_bytes(sent[8..].to_vec()).unwrap();
        assert_eq!(pairs.iter().count(), PACKAGE.len());
        assert_eq!(sent[..8], *format!("{:08x}", sent.len() - 8).as_bytes());
    }
}
