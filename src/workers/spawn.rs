//! Starts a Python process with our package: it needs no file of ours, and inherits nothing from the web server.
//!
//! The child's descriptor 0 is a private socket. It brings what to launch, the package `bridge`, and a `SETUP` frame with
//! descriptors. The child looks for the interpreter itself (`python::Launch`), so the front never waits.

use super::context::LaunchContext;
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

/// The package `bridge`, which is sent to each interpreter.
const PACKAGE: &[(&str, &str)] = modules![
    "__init__" "importer" "wire" "output" "private" "processes" "head" "app" "packages" "hints" "failures" "request"
    "opened" "chance" "store" "imports" "warm" "frameworks" "kept" "room" "control" "site_pool" "report"
    "audit" "worker" "plain" "files" "preloader" "check" "start"
];

/// Reads the package from descriptor 0 and runs its module `importer`.
const LOADER: &str = include_str!("loader.py");

/// `argv[0]` of our own executable when it is to find an interpreter and execute it. What decides is the socket on
/// descriptor 0; the name only keeps other processes from looking there.
pub const LAUNCHER: &str = "runfcgi-launch";

/// Some libraries start a thread per core unless these say otherwise, and threads count for the account's process limit.
const THREAD_VARIABLES: [&str; 5] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
];

/// Variables of a CGI environment that may stay in a process which outlives the request.
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

/// Where a Python process writes.
#[derive(Debug)]
pub struct Outputs {
    /// Its standard output.
    pub stdout: File,
    /// Its standard error.
    pub stderr: File,
}

/// Starts Python with this SETUP and its descriptors. `fail_frame`: the frame that the launcher sends if it finds no
/// interpreter. Returns our end of its socket, and its pid, for which the caller must wait.
pub(super) fn start(
    context: &LaunchContext,
    config: &Config,
    setup: &Pairs,
    descriptors: &[RawFd],
    outputs: Outputs,
    fail_frame: u8,
) -> io::Result<(OwnedFd, Pid)> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let app = config.app.clone();
    let mut command = Command::new(&context.image);
    command.arg0(LAUNCHER);
    command.env_clear().envs(environment(config, context.cgi));
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
        owner: config.owned_by,
        cache: context.python_cache.clone(),
        fail_frame: Some(fail_frame),
        args: vec!["-c".into(), program(config.app.path.as_deref()).into()],
    };
    if let Err(error) = hand_over(&mut ours, &launch, setup, descriptors)
        // These mean that it has ended; its exit status says more.
        && !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
    {
        return Err(error);
    }
    Ok((ours.into(), pid))
}

/// The argument of `python -c`. Its first line tells whoever looks at the account's processes whose app this one runs;
/// interpreters in the C locale refuse other characters than ASCII there.
pub fn program(app_path: Option<&Path>) -> String {
    let path = app_path.unwrap_or(Path::new("")).to_string_lossy();
    let path = path.replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
    format!("# runfcgi runs the app in {path}\n{LOADER}")
}

/// The package and SETUP, for a Python process that gets no descriptors.
pub fn input(setup: &Pairs) -> Vec<u8> {
    [package(), setup_frame(setup)].concat()
}

/// The package as the loader reads it: its length in eight hexadecimal digits, then the modules as pairs.
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

/// The pairs of `SETUP`. `outlog`: standard output is kept apart from standard error.
pub fn setup(config: &Config, outlog: bool, mode: &str, threads: u32) -> Pairs {
    let mut pairs = Pairs::new();
    let mut put = |name: &str, value: &[u8]| {
        pairs.push(name.as_bytes(), value);
    };
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
    put("multiprocess", b"1");
    put("pycache", if mode == "check" { b"0" } else { b"1" }); // a check writes nothing
    put("outlog", if outlog { b"1" } else { b"0" });
    pairs
}

/// The environment of the app: ours without what is not for it, defaults for what mod_fcgid and suexec omit, and `[env]`.
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
    use std::path::Path;

    #[test]
    fn the_package_has_all_modules_of_its_folder() {
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
