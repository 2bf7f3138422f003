//! Finds the Python interpreter that runs the app, by running each candidate, and executes it.
//!
//! Blocks, so it runs only in a short-lived child (`Launch`) or in `check`. Descriptor 0 of that child is a socket, on
//! which the child receives what to look for and reports a failure. Never looks up accounts: the home directory is
//! `$HOME`.

pub(crate) mod message;
mod places;
mod probe;

use crate::codes::place;
use crate::config::{App, findings::nearest, limits};
use crate::trust::Trust;
use crate::workers::wire;
use places::{PATH, installed, venvs};
pub(crate) use probe::output;
use probe::{Needs, Version, ask};
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::iter;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An interpreter that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The path to execute. Links are not resolved: Python finds its virtualenv through the path it is called by.
    pub path: PathBuf,
    /// As `3.11.2`.
    pub version: String,
    /// The candidates that do not fit, each with the reason.
    pub refused: Vec<String>,
    /// Those of them that were not run, because another user could have put them there.
    untrusted: Vec<String>,
    /// No other candidate comes before it, so only a new virtualenv could replace it. Only then is it cached.
    first_choice: bool,
}

impl Found {
    fn with(self, path: PathBuf, version: Version, first_choice: bool) -> Found {
        Found {
            path,
            version: format!("{}.{}.{}", version.0, version.1, version.2),
            first_choice,
            ..self
        }
    }
}

/// Finds the interpreter for `app`; `home` is `$HOME`. Runs none that an untrusted user could have put there. The error
/// lists every candidate and why it was refused.
pub fn discover(app: &App, trust: Trust, home: Option<&Path>) -> Result<Found, String> {
    discover_with(app, trust, home, None)
}

/// The same, but runs the candidates with `environment` instead of ours.
pub fn discover_with(
    app: &App,
    trust: Trust,
    home: Option<&Path>,
    environment: Option<Vec<(OsString, OsString)>>,
) -> Result<Found, String> {
    let end = Instant::now() + Duration::from_secs(limits::PYTHON_SEARCH_TIMEOUT);
    let mut needs = Needs::of(app);
    needs.environment = environment;
    if let Some(python) = &app.python {
        let path = named(python, trust)?;
        // Visitors get it too, whatever it lacks: the import then tells what that is.
        needs.modules.clear();
        return match ask(&path, &needs, end) {
            Ok(version) => Ok(Found::default().with(path, version, true)),
            Err(why) => Err(format!(
                "[app] python: {}: {why}; name another, or remove the line to have one found",
                path.display()
            )),
        };
    }
    let dir = app.path.as_deref().unwrap_or(Path::new("/"));
    let (venvs, mut untrusted) = trusted(venvs(dir, home), trust);
    let (installed, others) = trusted(installed(Path::new("/"), home), trust);
    untrusted.extend(others);
    let mut found = Found {
        refused: untrusted.clone(),
        untrusted,
        ..Found::default()
    };
    for (n, path) in venvs.iter().enumerate() {
        match ask(path, &needs, end) {
            Ok(version) => return Ok(found.with(path.clone(), version, n == 0)),
            Err(why) => found.refused.push(format!("{}: {why}", path.display())),
        }
    }
    let mut best: Option<(Version, PathBuf)> = None;
    for path in installed {
        match ask(&path, &needs, end) {
            Ok(version) if best.as_ref().is_none_or(|(b, _)| version > *b) => {
                best = Some((version, path));
            }
            Ok(_) => {}
            Err(why) => found.refused.push(format!("{}: {why}", path.display())),
        }
    }
    match best {
        Some((version, path)) => Ok(found.with(path, version, venvs.is_empty())),
        None => Err(nothing_fits(app, &needs, &found.refused)),
    }
}

/// The trusted paths, and the reason why each of the others is passed over.
fn trusted(paths: Vec<PathBuf>, trust: Trust) -> (Vec<PathBuf>, Vec<String>) {
    let mut untrusted = Vec::new();
    let mut paths = paths;
    paths.retain(|path| match trust.program(path) {
        Ok(()) => true,
        Err(why) => {
            untrusted.push(format!("{}: {why}", path.display()));
            false
        }
    });
    (paths, untrusted)
}

/// Whether `python` is found only if `$HOME` is set, which mod_fcgid does not do.
pub fn only_by_home(python: &Path, app: &App) -> bool {
    let dir = app.path.as_deref().unwrap_or(Path::new("/"));
    let without = [venvs(dir, None), installed(Path::new("/"), None)];
    !without.iter().flatten().any(|p| p == python)
}

/// What a front sends to a child process, which then finds and executes the app's interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// `[app] path`.
    pub app_path: Option<PathBuf>,
    /// `[app] settings`.
    pub settings: Option<String>,
    /// `[app] wsgi`.
    pub wsgi: Option<String>,
    /// `[app] python`.
    pub python: Option<PathBuf>,
    /// The owner of the executable, who may also own the interpreter.
    pub owner: Option<u32>,
    /// The file that caches the interpreter found.
    pub cache: Option<PathBuf>,
    /// The type letter of the wire frame that reports a failure on descriptor 0. None: no such frame.
    pub fail_frame: Option<u8>,
    /// The arguments of the interpreter.
    pub args: Vec<OsString>,
}

impl Launch {
    /// Reads a launch from the socket on descriptor 0. The caller has checked that our own user made the socket.
    pub fn receive() -> std::io::Result<Launch> {
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        message::read(&mut &socket)
    }

    /// Finds and executes the interpreter, with descriptors 0, 1 and 2 and the environment as they are. Returns only on
    /// failure, with the exit status.
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
        let why = format!("{} {why}", place::NO_PYTHON);
        self.report(&why);
        1
    }

    fn interpreter(&self, home: Option<&Path>) -> Result<PathBuf, String> {
        let trust = Trust::of(self.owner);
        if let Some(python) = &self.python {
            return named(python, trust);
        }
        let app = App {
            path: self.app_path.clone(),
            settings: self.settings.clone(),
            wsgi: self.wsgi.clone(),
            ..App::default()
        };
        if let Some(path) = self
            .cache
            .as_deref()
            .and_then(|c| read_cache(c, &app, trust, home))
        {
            return Ok(path);
        }
        let found = discover(&app, trust, home)?;
        for why in &found.untrusted {
            let _ = writeln!(
                std::io::stderr(),
                "runfcgi: {} an interpreter is passed over: {why}",
                place::UNTRUSTED_PYTHON
            );
        }
        if let Some(file) = &self.cache
            && found.first_choice
        {
            // Without a cache the next start is only slower.
            let _ = write_cache(file, &found.path, &app, trust, home);
        }
        Ok(found.path)
    }

    fn report(&self, why: &str) {
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
        // Exiting with unread bytes would reset the socket, and the front might lose the frame.
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

/// Executes the interpreter. Returns only on failure, with the reason. Not through `Command`, which would run a file in
/// an unknown format as a shell script.
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

fn nothing_fits(app: &App, needs: &Needs, refused: &[String]) -> String {
    let dir = &needs.dir;
    let mut text = match needs.modules.as_slice() {
        [] => String::from("no python found that fits"),
        modules => format!("no python found that can import {}", modules.join(", ")),
    };
    let wsgi = app.wsgi.as_deref().unwrap_or_default();
    let module = wsgi.split([':', '.']).next().unwrap_or_default();
    match similar_module(module, dir) {
        Some(near) => {
            let right = wsgi.replacen(module, &near, 1);
            let _ = write!(
                text,
                ": there is {near} in {}: write wsgi = \"{right}\" below [app]",
                dir.display()
            );
        }
        None => {
            let _ = write!(
                text,
                ": make a virtualenv: python3 -m venv {0}/venv && {0}/venv/bin/pip install {1}; \
                 or name the interpreter as python below [app]",
                dir.display(),
                match needs.modules.iter().any(|m| m == "django") {
                    true => "django",
                    false => "what the app needs",
                }
            );
        }
    }
    if refused.is_empty() {
        let _ = write!(text, "; there is none in the usual places");
    }
    for line in refused {
        let _ = write!(text, "\n  {line}");
    }
    text
}

/// A module or package in `dir` that `name`, which is not there, may be a misspelling of.
fn similar_module(name: &str, dir: &Path) -> Option<String> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let module = |path: PathBuf| {
        let is_module = path.extension().is_some_and(|ending| ending == "py");
        let stem = path.file_stem()?.to_str()?.to_owned();
        (is_module || path.join("__init__.py").is_file()).then_some(stem)
    };
    let there: Vec<String> = entries.filter_map(|entry| module(entry.path())).collect();
    if there.iter().any(|there| there == name) {
        return None;
    }
    nearest(name, there.iter().map(String::as_str)).map(str::to_owned)
}

/// The path of the interpreter set in `[app] python`, if it is trusted.
fn named(python: &Path, trust: Trust) -> Result<PathBuf, String> {
    let path = locate(python)?;
    match trust.program(&path) {
        Ok(()) => Ok(path),
        Err(why) => Err(format!(
            "[app] python: {} is not run: {why}",
            path.display()
        )),
    }
}

fn locate(python: &Path) -> Result<PathBuf, String> {
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

/// The only line of the cache file: the interpreter, and all that its choice depends on. None: it would not be one line.
fn cache_line(python: &Path, app: &App, trust: Trust, home: Option<&Path>) -> Option<String> {
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
    let (venvs, _) = trusted(venvs(dir, home), trust);
    let first = venvs.into_iter().next().unwrap_or_default();
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

fn read_cache(file: &Path, app: &App, trust: Trust, home: Option<&Path>) -> Option<PathBuf> {
    let meta = fs::symlink_metadata(file).ok()?;
    let ours = meta.is_file() && meta.uid() == nix::unistd::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let python = PathBuf::from(text.split('\t').next()?);
    trust.program(&python).ok()?;
    (cache_line(&python, app, trust, home)? == text).then_some(python)
}

fn write_cache(
    file: &Path,
    python: &Path,
    app: &App,
    trust: Trust,
    home: Option<&Path>,
) -> std::io::Result<()> {
    let Some(text) = cache_line(python, app, trust, home) else {
        return Ok(());
    };
    crate::rundir::replace(file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::process::Command;

    fn us() -> Trust {
        Trust::of(None)
    }

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

    /// An executable shell script that stands in for a Python interpreter.
    fn script(dir: &Scratch, path: &str, body: &str) -> PathBuf {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = dir.write("text", format!("#!/bin/sh\n{body}\n"), 0o644);
        // Written by another process: if another test forks meanwhile, its child would hold the file open (ETXTBSY).
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
        let got = discover(&app_in(&dir, "app:application"), us(), Some(&*dir)).unwrap();
        assert_eq!((got.path, got.version.as_str()), (venv, "3.9.1"));
    }

    #[test]
    fn every_refusal_is_listed() {
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
        let why = discover(&app, us(), Some(&*dir)).unwrap_err();
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
    fn a_silent_program_is_killed() {
        let dir = account("silent");
        let path = script(&dir, "python3", "exec sleep 60");
        let needs = Needs::of(&app_in(&dir, "a:b"));
        let begin = Instant::now();
        let why = ask(&path, &needs, begin + Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("no answer"), "{why}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_program_need_not_read_its_input() {
        let end = Instant::now() + Duration::from_secs(20);
        let said = |text: &str, input: &[u8]| {
            output(Command::new("sh").args(["-c", text]), input, end).map(|(said, _)| said)
        };
        assert_eq!(said("cat; echo .", b"words"), Ok("words.\n".to_string()));
        assert_eq!(said("echo no", &[0; 1 << 20]), Ok("no\n".to_string()));
        let end = Instant::now() + Duration::from_millis(50);
        let mut deaf = Command::new("sleep");
        let why = output(deaf.arg("60"), &[0; 1 << 20], end).unwrap_err();
        assert!(why.contains("no answer"), "{why}");
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
        assert_eq!(read_cache(&file, &app, us(), None), None);
        write_cache(&file, &python, &app, us(), None).unwrap();
        assert_eq!(read_cache(&file, &app, us(), None), Some(python.clone()));
        assert_eq!(read_cache(&file, &app_in(&dir, "c:d"), us(), None), None);
        script(&dir, "site/venv/bin/python", "");
        assert_eq!(read_cache(&file, &app, us(), None), None);
        write_cache(&file, &python, &app, us(), None).unwrap();
        script(&dir, "bin/python3", "changed");
        assert_eq!(read_cache(&file, &app, us(), None), None);
        fs::write(&file, "noise").unwrap();
        assert_eq!(read_cache(&file, &app, us(), None), None);
    }

    #[test]
    fn a_failure_is_sent_as_a_frame() {
        assert_eq!(fail_frame(b'b', "why"), b"b\0\0\0\0\0\0\x03why");
    }
}
