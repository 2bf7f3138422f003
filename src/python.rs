//! Finding the Python that runs the app, by asking each candidate; and becoming it.
//!
//! Blocks, therefore only ever runs in a short-lived child (`Launch`) or in `check`. Knows nothing of sockets but that
//! descriptor 0 of that child is one, on which it is told what to look for and tells a failure. Never looks accounts up:
//! home is `$HOME`.

pub(crate) mod message;
mod places;
mod probe;

use crate::config::{App, limits};
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
    /// What to execute. Never resolved: a virtualenv is known by the path it is called by.
    pub path: PathBuf,
    /// As `3.11.2`.
    pub version: String,
    /// Those that were asked before it or with it and do not fit, each with the reason.
    pub refused: Vec<String>,
    /// Those of them that were not asked, since somebody else could have put them there.
    untrusted: Vec<String>,
    /// It stands where one would look first, so that no better one can appear unnoticed but by a new virtualenv.
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

/// Finds the interpreter for `app`; `home` is `$HOME`. None is asked that somebody else could have put there. The error
/// lists every candidate and why it was refused.
pub fn discover(app: &App, trust: Trust, home: Option<&Path>) -> Result<Found, String> {
    discover_with(app, trust, home, None)
}

/// The same, asking with this environment instead of ours.
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
        None => Err(nothing_fits(dir, &needs, &found.refused)),
    }
}

/// Those that nobody else could have put there; and why the others are passed over.
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
    /// Whose the executable is: an interpreter may be his.
    pub owner: Option<u32>,
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
            .and_then(|c| cached(c, &app, trust, home))
        {
            return Ok(path);
        }
        let found = discover(&app, trust, home)?;
        for why in &found.untrusted {
            let _ = writeln!(
                std::io::stderr(),
                "runfcgi: an interpreter is passed over: {why}"
            );
        }
        if let Some(file) = &self.cache
            && found.first_choice
        {
            // A cache that cannot be written only costs the next start its time.
            let _ = remember(file, &found.path, &app, trust, home);
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

/// A configured interpreter as a path that can be executed, if nobody else could have put it there.
fn named(python: &Path, trust: Trust) -> Result<PathBuf, String> {
    let path = by_name(python)?;
    match trust.program(&path) {
        Ok(()) => Ok(path),
        Err(why) => Err(format!(
            "[app] python: {} is not run: {why}",
            path.display()
        )),
    }
}

fn by_name(python: &Path) -> Result<PathBuf, String> {
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
fn line(python: &Path, app: &App, trust: Trust, home: Option<&Path>) -> Option<String> {
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

fn cached(file: &Path, app: &App, trust: Trust, home: Option<&Path>) -> Option<PathBuf> {
    let meta = fs::symlink_metadata(file).ok()?;
    let ours = meta.is_file() && meta.uid() == nix::unistd::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let python = PathBuf::from(text.split('\t').next()?);
    trust.program(&python).ok()?;
    (line(&python, app, trust, home)? == text).then_some(python)
}

fn remember(
    file: &Path,
    python: &Path,
    app: &App,
    trust: Trust,
    home: Option<&Path>,
) -> std::io::Result<()> {
    let Some(text) = line(python, app, trust, home) else {
        return Ok(());
    };
    crate::rundir::replace(file, text.as_bytes())
}

#[cfg(test)]
impl Found {
    /// An interpreter that nobody asked.
    pub(crate) fn named_for_test(path: PathBuf) -> Found {
        Found::default().with(path, (3, 11, 2), true)
    }
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
        let got = discover(&app_in(&dir, "app:application"), us(), Some(&*dir)).unwrap();
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
    fn a_program_need_not_take_its_input() {
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
        assert_eq!(cached(&file, &app, us(), None), None);
        remember(&file, &python, &app, us(), None).unwrap();
        assert_eq!(cached(&file, &app, us(), None), Some(python.clone()));
        assert_eq!(cached(&file, &app_in(&dir, "c:d"), us(), None), None);
        script(&dir, "site/venv/bin/python", "");
        assert_eq!(cached(&file, &app, us(), None), None);
        remember(&file, &python, &app, us(), None).unwrap();
        script(&dir, "bin/python3", "changed");
        assert_eq!(cached(&file, &app, us(), None), None);
        fs::write(&file, "noise").unwrap();
        assert_eq!(cached(&file, &app, us(), None), None);
    }

    #[test]
    fn a_failure_is_a_frame() {
        assert_eq!(fail_frame(b'b', "why"), b"b\0\0\0\0\0\0\x03why");
    }
}
