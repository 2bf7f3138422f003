//! Finding the Python that runs the app, by asking each candidate; and becoming it.
//!
//! Blocks, therefore only ever runs in a short-lived child (`Launch`) or in `check`. Knows nothing of sockets but that
//! descriptor 0 of that child is one, on which it is told what to look for and tells a failure. Never looks accounts up:
//! home is `$HOME`.

pub(crate) mod message;
mod places;

use crate::config::{App, limits};
use crate::worker::wire;
use places::{PATH, installed, venvs};
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An interpreter that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What to execute. Never resolved: a virtualenv is known by the path it is called by.
    pub path: PathBuf,
    /// As `3.11.2`.
    pub version: String,
    /// Those that were asked before it or with it and do not fit, each with the reason.
    pub refused: Vec<String>,
    /// It stands where one would look first, so that no better one can appear unnoticed but by a new virtualenv.
    first_choice: bool,
}

/// Finds the interpreter for `app`; `home` is `$HOME`. The error lists every candidate and why it was refused.
pub fn discover(app: &App, home: Option<&Path>) -> Result<Found, String> {
    discover_with(app, home, None)
}

/// The same, asking with this environment instead of ours.
pub fn discover_with(
    app: &App,
    home: Option<&Path>,
    environment: Option<Vec<(OsString, OsString)>>,
) -> Result<Found, String> {
    let end = Instant::now() + Duration::from_secs(limits::PYTHON_SEARCH_TIMEOUT);
    let mut needs = Needs::of(app);
    needs.environment = environment;
    if let Some(python) = &app.python {
        let path = named(python)?;
        return match ask(&path, &needs, end) {
            Ok(version) => Ok(found(path, &version, Vec::new(), true)),
            Err(why) => Err(format!(
                "[app] python: {}: {why}; name another, or remove the line to have one found",
                path.display()
            )),
        };
    }
    let dir = app.path.as_deref().unwrap_or(Path::new("/"));
    let venvs = venvs(dir, home);
    let mut refused = Vec::new();
    for (n, path) in venvs.iter().enumerate() {
        match ask(path, &needs, end) {
            Ok(version) => return Ok(found(path.clone(), &version, refused, n == 0)),
            Err(why) => refused.push(format!("{}: {why}", path.display())),
        }
    }
    let mut best: Option<(Version, PathBuf)> = None;
    for path in installed(Path::new("/"), home) {
        match ask(&path, &needs, end) {
            Ok(version) if best.as_ref().is_none_or(|(b, _)| version > *b) => {
                best = Some((version, path));
            }
            Ok(_) => {}
            Err(why) => refused.push(format!("{}: {why}", path.display())),
        }
    }
    match best {
        Some((version, path)) => Ok(found(path, &version, refused, venvs.is_empty())),
        None => Err(nothing_fits(dir, &needs, &refused)),
    }
}

/// Whether `python` is only found when `$HOME` is set, which mod_fcgid does not do.
pub fn only_by_home(python: &Path, app: &App) -> bool {
    let dir = app.path.as_deref().unwrap_or(Path::new("/"));
    let without = [venvs(dir, None), installed(Path::new("/"), None)];
    !without.iter().flatten().any(|p| p == python)
}

/// What a front has a child of its own executable become: the interpreter of the app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// The app, as far as it matters here.
    pub app_path: Option<PathBuf>,
    /// `[app] settings`.
    pub settings: Option<String>,
    /// `[app] wsgi`.
    pub wsgi: Option<String>,
    /// `[app] python`.
    pub python: Option<PathBuf>,
    /// Where the answer is kept for the next time.
    pub cache: Option<PathBuf>,
    /// Type letter of the wire's frame in which a failure is told on descriptor 0.
    pub fail_frame: Option<u8>,
    /// The arguments of the interpreter.
    pub args: Vec<OsString>,
}

impl Launch {
    /// Takes from the socket on descriptor 0 what to launch. Whoever calls has made sure that the socket is ours.
    pub fn receive() -> std::io::Result<Launch> {
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        message::read(&mut &socket)
    }

    /// Finds the interpreter and becomes it, with descriptors 0, 1 and 2 and the environment as they are. Returns
    /// only when that failed, with the status to leave with.
    pub fn run(&self) -> u8 {
        let home = std::env::var_os("HOME")
            .filter(|h| !h.is_empty())
            .map(PathBuf::from);
        let why = match self.interpreter(home.as_deref()) {
            Ok(python) => {
                let error = execute(&python, &self.args);
                format!("{} cannot be executed: {error}", python.display())
            }
            Err(why) => why,
        };
        self.tell(&why);
        1
    }

    fn interpreter(&self, home: Option<&Path>) -> Result<PathBuf, String> {
        if let Some(python) = &self.python {
            return named(python);
        }
        let app = App {
            path: self.app_path.clone(),
            settings: self.settings.clone(),
            wsgi: self.wsgi.clone(),
            ..App::default()
        };
        if let Some(path) = self.cache.as_deref().and_then(|c| cached(c, &app, home)) {
            return Ok(path);
        }
        let found = discover(&app, home)?;
        if let Some(file) = &self.cache
            && found.first_choice
        {
            // A cache that cannot be written only costs the next start its time.
            let _ = remember(file, &found.path, &app, home);
        }
        Ok(found.path)
    }

    fn tell(&self, why: &str) {
        let line = format!("runfcgi: {why}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        let Some(letter) = self.fail_frame else {
            return;
        };
        let frame = fail_frame(letter, why);
        let stdin = std::io::stdin();
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match nix::unistd::write(stdin.as_fd(), rest) {
                Ok(n) => rest = &rest[n..],
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
        // Leaving with bytes unread would reset the socket: the reader might see that before our words.
        let wait = nix::sys::time::TimeVal::new(limits::LAST_WORDS, 0);
        let timeout = nix::sys::socket::sockopt::ReceiveTimeout;
        if nix::sys::socket::setsockopt(&stdin.as_fd(), timeout, &wait).is_err() {
            return;
        }
        let end = Instant::now() + Duration::from_secs(limits::LAST_WORDS as u64);
        let mut scratch = [0; 4096];
        while Instant::now() < end {
            match nix::unistd::read(stdin.as_fd(), &mut scratch) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Becomes the interpreter; the error says why not. Not by `Command`: that takes what is no program for a shell script.
fn execute(python: &Path, arguments: &[OsString]) -> String {
    let text = |text: &OsStr| CString::new(text.as_bytes()).ok();
    let path = text(python.as_os_str());
    let words: Option<Vec<CString>> = iter::once(python.as_os_str())
        .chain(arguments.iter().map(OsString::as_os_str))
        .map(text)
        .collect();
    let (Some(path), Some(words)) = (path, words) else {
        return String::from("there is a NUL in its path");
    };
    let error = match nix::unistd::execv(&path, &words) {
        Ok(never) => match never {},
        Err(error) => std::io::Error::from(error),
    };
    if error.kind() == std::io::ErrorKind::NotFound && python.exists() {
        return format!("{error}: what its first line (#!) or its ELF header names as interpreter");
    }
    error.to_string()
}

fn fail_frame(letter: u8, why: &str) -> Vec<u8> {
    let length = u32::try_from(why.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(wire::FRAME_HEADER + why.len());
    frame.extend([letter, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend(why.as_bytes());
    frame
}

type Version = (u32, u32, u32);

fn found(path: PathBuf, v: &Version, refused: Vec<String>, first_choice: bool) -> Found {
    Found {
        path,
        version: words(v),
        refused,
        first_choice,
    }
}

fn words(v: &Version) -> String {
    format!("{}.{}.{}", v.0, v.1, v.2)
}

fn nothing_fits(dir: &Path, needs: &Needs, refused: &[String]) -> String {
    let mut text = match needs.modules.as_slice() {
        [] => "no python found that fits".to_string(),
        modules => format!("no python found that can import {}", modules.join(", ")),
    };
    if refused.is_empty() {
        let _ = write!(text, "; there is none in the usual places");
    }
    for line in refused {
        let _ = write!(text, "\n  {line}");
    }
    let _ = write!(
        text,
        "\n  make a virtualenv: python3 -m venv {0}/venv && {0}/venv/bin/pip install {1}; \
         or name the interpreter as python below [app]",
        dir.display(),
        if needs.modules.iter().any(|m| m == "django") {
            "django"
        } else {
            "what the app needs"
        }
    );
    text
}

/// What an interpreter must be able to import.
struct Needs {
    dir: PathBuf,
    modules: Vec<String>,
    /// To ask with; None: ours.
    environment: Option<Vec<(OsString, OsString)>>,
}

impl Needs {
    fn of(app: &App) -> Needs {
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
fn ask(python: &Path, needs: &Needs, end: Instant) -> Result<Version, String> {
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
    let (output, status) = output(&mut command, end.min(own_end))?;
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

/// What a command prints until it ends or its time is up; then it is killed.
pub(crate) fn output(command: &mut Command, end: Instant) -> Result<(String, String), String> {
    let seconds = end.saturating_duration_since(Instant::now()).as_secs() + 1;
    let late = || format!("gave no answer within {seconds} s");
    let io = |e: std::io::Error| e.to_string();
    let (mut ours, theirs) = UnixStream::pair().map_err(io)?;
    let errors: OwnedFd = theirs.try_clone().map_err(io)?.into();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::from(errors));
    let mut spawned = command.spawn();
    // Where the account is at its limit of processes, another one gives up the room for it.
    while spawned
        .as_ref()
        .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
        && Instant::now() < end
    {
        std::thread::sleep(ROOM_PAUSE);
        spawned = command.spawn();
    }
    // The command holds our copies of the other end; while they are open no end would be seen.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.map_err(|e| format!("cannot be executed: {e}"))?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let failure = loop {
        let left = end.saturating_duration_since(Instant::now());
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
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break Some(late()),
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

/// A configured interpreter as a path that can be executed.
fn named(python: &Path) -> Result<PathBuf, String> {
    if python.components().count() > 1 || python.is_absolute() {
        return match fs::metadata(python) {
            Ok(_) => Ok(python.to_path_buf()),
            Err(e) => Err(format!(
                "[app] python: {} cannot be used: {e}",
                python.display()
            )),
        };
    }
    PATH.iter()
        .map(|dir| Path::new(dir).join(python))
        .find(|p| p.is_file())
        .ok_or_else(|| {
            format!(
                "[app] python: there is no {} in {}; write its whole path",
                python.display(),
                PATH.join(", ")
            )
        })
}

/// The line of the cache file that holds for this interpreter, app and place; None when it cannot be one line.
fn line(python: &Path, app: &App, home: Option<&Path>) -> Option<String> {
    let meta = fs::metadata(python).ok()?;
    let stamp = format!(
        "{}:{}:{}:{}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    let dir = app.path.as_deref().unwrap_or(Path::new("/"));
    let first = venvs(dir, home).into_iter().next().unwrap_or_default();
    let fields = [
        python.to_str()?,
        stamp.as_str(),
        first.to_str()?,
        dir.to_str()?,
        app.settings.as_deref().unwrap_or(""),
        app.wsgi.as_deref().unwrap_or(""),
    ];
    if fields.iter().any(|f| f.contains(['\t', '\n'])) {
        return None;
    }
    Some(fields.join("\t") + "\n")
}

fn cached(file: &Path, app: &App, home: Option<&Path>) -> Option<PathBuf> {
    let meta = fs::symlink_metadata(file).ok()?;
    let ours = meta.is_file() && meta.uid() == nix::unistd::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let python = PathBuf::from(text.split('\t').next()?);
    (line(&python, app, home)? == text).then_some(python)
}

fn remember(file: &Path, python: &Path, app: &App, home: Option<&Path>) -> std::io::Result<()> {
    let Some(text) = line(python, app, home) else {
        return Ok(());
    };
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let written = fs::write(&new, text)
        .and_then(|()| {
            fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        })
        .and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
impl Found {
    /// An interpreter that nobody asked.
    pub(crate) fn named_for_test(path: PathBuf) -> Found {
        found(path, &(3, 11, 2), Vec::new(), true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn account(name: &str) -> Scratch {
        let dir = Scratch::new(&format!("python-{name}"));
        fs::create_dir(dir.join("site")).unwrap();
        dir
    }

    fn app_in(dir: &Scratch, wsgi: &str) -> App {
        App {
            path: Some(dir.join("site")),
            wsgi: Some(wsgi.to_string()),
            ..App::default()
        }
    }

    /// A program that behaves at the command line like a Python of this version.
    fn script(dir: &Scratch, path: &str, body: &str) -> PathBuf {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = dir.write("text", format!("#!/bin/sh\n{body}\n"), 0o644);
        // Written by another process: a fork elsewhere in ours could hold it open, and so keep it from running.
        let mut install = Command::new("install");
        install.args(["-m", "755"]).args([&text, &path]);
        assert!(install.status().unwrap().success());
        path
    }

    #[test]
    fn a_virtualenv_beside_the_app_comes_first() {
        let dir = account("venv");
        let venv = script(
            &dir,
            "site/.venv/bin/python3",
            "echo; echo runfcgi-probe 3.9.1",
        );
        script(&dir, "venv/bin/python", "echo; echo runfcgi-probe 3.13.0");
        let got = discover(&app_in(&dir, "app:application"), Some(&*dir)).unwrap();
        assert_eq!((got.path, got.version.as_str()), (venv, "3.9.1"));
    }

    #[test]
    fn refusals_are_told_one_by_one() {
        let dir = account("refused");
        script(&dir, "site/venv/bin/python3", "echo runfcgi-probe 3.5.9");
        script(
            &dir,
            "site/.venv/bin/python",
            "echo runfcgi-probe 3.11.2 django",
        );
        script(
            &dir,
            "venv/bin/python",
            "echo no such library >&2; exit 127",
        );
        let mut app = app_in(&dir, "no_such_module_anywhere:app");
        app.settings = Some("site.settings".to_string());
        let why = discover(&app, Some(&*dir)).unwrap_err();
        for want in [
            "can import django, no_such_module_anywhere",
            "site/venv/bin/python3: version 3.5.9 is too old",
            "site/.venv/bin/python: version 3.11.2: no module named django",
            "venv/bin/python: does not run: no such library",
            "pip install django",
        ] {
            assert!(why.contains(want), "{want} is missing in {why}");
        }
    }

    #[test]
    fn a_silent_program_is_given_up() {
        let dir = account("silent");
        let path = script(&dir, "python3", "exec sleep 60");
        let needs = Needs::of(&app_in(&dir, "a:b"));
        let begin = Instant::now();
        let why = ask(&path, &needs, begin + Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("no answer"), "{why}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn the_search_stops_at_home() {
        let dir = account("home");
        fs::create_dir_all(dir.join("home/a/site")).unwrap();
        script(&dir, "venv/bin/python", "");
        let near = script(&dir, "home/env/bin/python", "");
        let panel = script(&dir, "home/virtualenv/a/site/3.9/bin/python", "");
        let newer = script(&dir, "home/virtualenv/a/site/3.11/bin/python", "");
        assert_eq!(
            venvs(&dir.join("home/a/site"), Some(&dir.join("home"))),
            [near, newer, panel]
        );
    }

    #[test]
    fn installed_ones_are_found_by_name() {
        let dir = account("installed");
        let a = script(&dir, "opt/alt/python311/bin/python3.11", "");
        std::os::unix::fs::symlink(&a, dir.join("opt/alt/python311/bin/python3")).unwrap();
        script(&dir, "opt/alt/php80/bin/python3", "");
        script(&dir, "usr/bin/python3-config", "");
        let b = script(&dir, "usr/bin/python3.9", "");
        let c = script(&dir, "usr/bin/python3.12", "");
        let d = script(&dir, "home/.pyenv/versions/3.8.1/bin/python3", "");
        assert_eq!(installed(&dir, Some(&dir.join("home"))), [d, a, c, b]);
    }

    #[test]
    fn the_cache_holds_until_something_changes() {
        let dir = account("cache");
        let app = app_in(&dir, "a:b");
        let python = script(&dir, "bin/python3", "");
        let file = dir.join("cache");
        assert_eq!(cached(&file, &app, None), None);
        remember(&file, &python, &app, None).unwrap();
        assert_eq!(cached(&file, &app, None), Some(python.clone()));
        assert_eq!(cached(&file, &app_in(&dir, "c:d"), None), None);
        script(&dir, "site/venv/bin/python", "");
        assert_eq!(cached(&file, &app, None), None);
        remember(&file, &python, &app, None).unwrap();
        script(&dir, "bin/python3", "changed");
        assert_eq!(cached(&file, &app, None), None);
        fs::write(&file, "noise").unwrap();
        assert_eq!(cached(&file, &app, None), None);
    }

    #[test]
    fn a_failure_is_a_frame() {
        assert_eq!(fail_frame(b'b', "why"), b"b\0\0\0\0\0\0\x03why");
    }
}
