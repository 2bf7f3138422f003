//! The rehearsal: starts the program as mod_fcgid does and as CGI, sends requests like visitors', and reports the
//! outcome.
//!
//! It does not disturb the running site: it uses a copy of the settings with another runtime directory and other logs, in
//! a temporary directory that it removes at the end.

use super::Report;
use super::client::{TestRequest, TestResponse};
use super::failed::prefix;
use crate::codes;
use crate::config::table::{self, Kind};
use crate::config::{Config, Finding};
use crate::failure::first_line;
use crate::python;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// The umask of Apache's children.
const APACHE_UMASK: u32 = 0o022;
/// The PATH that suexec sets. mod_fcgid passes hardly anything else.
const SUEXEC_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// How long to wait between SIGTERM and SIGKILL, as mod_fcgid does.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The size of the test upload in bytes: more than is buffered in memory and sockets, but little for any quota.
const UPLOAD_SIZE: usize = 1 << 20;
/// The most lines of the program's log to show for a failure.
const MAX_LINES: usize = 40;

/// What is known of the app and its pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// A host name that it accepts.
    pub(super) host: Option<String>,
    /// The path of a login page.
    pub(super) login: Option<String>,
    /// The app can be imported.
    pub(super) imported: bool,
    /// The site's interpreter.
    pub(super) python: Option<PathBuf>,
    /// The paths of pages that have failed for visitors.
    pub(super) failed: Vec<String>,
}

/// The temporary directory of a rehearsal, and what is in it.
struct Stage<'a> {
    exe: &'a Path,
    dir: PathBuf,
    settings: PathBuf,
    socket: PathBuf,
    /// How long a response may take.
    timeout: Duration,
}

/// Rehearses the site of `exe`, step by step.
pub(super) fn rehearse(
    exe: &Path,
    config: &Config,
    pages: &Pages,
    report: &mut Report,
) -> io::Result<()> {
    let stage = match Stage::new(exe, config) {
        Ok(stage) => stage,
        Err(error) => {
            let what = format!("nothing can be rehearsed: {error}");
            return report.add(Finding::warning(
                codes::place::LITTLE_DISK,
                "rehearsal",
                what,
                "",
            ));
        }
    };
    let done = stage
        .as_fastcgi(pages, report)
        .and_then(|()| stage.as_cgi(pages, report));
    stage.remove();
    done
}

impl Stage<'_> {
    fn new<'a>(exe: &'a Path, config: &Config) -> io::Result<Stage<'a>> {
        let us = std::process::id();
        let dir = std::env::temp_dir().join(format!("runfcgi-check-{us}"));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let stem = exe.with_extension("toml");
        let stage = Stage {
            exe,
            settings: dir.join(stem.file_name().unwrap_or_default()),
            // mod_fcgid names its sockets so.
            socket: dir.join(format!("{us}.0")),
            timeout: Duration::from_secs(config.limits.start_timeout + 10),
            dir,
        };
        let text = stage.settings_for(config);
        fs::write(&stage.settings, text).inspect_err(|_| stage.remove())?;
        Ok(stage)
    }

    /// The owner's settings, with absolute paths, and without the files that the running site writes.
    fn settings_for(&self, config: &Config) -> String {
        let mut settings: toml::Table = toml::from_str(&config.text).unwrap_or_default();
        let base = config.file.as_deref().and_then(Path::parent);
        for opt in table::OPTIONS.iter().filter(|opt| opt.kind == Kind::Path) {
            let section = settings.get_mut(opt.section).and_then(|s| s.as_table_mut());
            if let Some(toml::Value::String(path)) = section.and_then(|s| s.get_mut(opt.key))
                && let Some(base) = base
                && !path.starts_with('~')
                && (path.contains('/') || opt.key != "python")
            {
                *path = base.join(&*path).to_string_lossy().into_owned();
            }
        }
        let mut set = |section: &str, key: &str, value: toml::Value| {
            let table = settings.entry(section).or_insert(toml::Table::new().into());
            if let Some(table) = table.as_table_mut() {
                table.insert(key.to_owned(), value);
            }
        };
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        if let Some(app) = &config.app.path {
            set("app", "path", app.to_string_lossy().into_owned().into());
        }
        set("server", "runtime_dir", path("run").into());
        set("server", "linger", 0.into());
        set("env", "PYTHONDONTWRITEBYTECODE", "1".into());
        set("log", "file", path("log").into());
        if config.log.access.is_some() {
            set("log", "access", path("access").into());
        }
        settings.to_string()
    }

    fn command(&self) -> Command {
        umask(Mode::from_bits_truncate(APACHE_UMASK));
        let mut command = Command::new(self.exe);
        command
            .current_dir(self.exe.parent().unwrap_or(Path::new("/")))
            .env_clear()
            .env("PATH", SUEXEC_PATH)
            .env("RUNFCGI_CONFIG", &self.settings);
        command
    }

    fn start(&self) -> io::Result<Child> {
        let listener = UnixListener::bind(&self.socket)?;
        let errors = File::create(self.dir.join("errors"))?;
        self.command()
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
    }

    fn as_fastcgi(&self, pages: &Pages, report: &mut Report) -> io::Result<()> {
        let mut child = match self.start() {
            Ok(child) => child,
            Err(error) => {
                let what = format!("it cannot be started: {error}");
                return report.add(Finding::error(
                    codes::place::NOT_REHEARSED,
                    self.exe.display().to_string(),
                    what,
                    "upload it again, in binary mode",
                ));
            }
        };
        let result = self.send_requests(&child, pages, report);
        let status = self.end(&mut child);
        result?;
        report.add(match status {
            Some(0) => Finding::good(
                "FastCGI, at the end",
                "left with status 0 when it was told to",
            ),
            status => {
                let how = status.map_or(String::from("did not leave in time"), |status| {
                    format!("left with status {status}")
                });
                let what = format!("it {how}\n{}", shortened(&self.read("errors")));
                let place = "FastCGI, at the end";
                Finding::error(codes::place::NOT_REHEARSED, place, what.trim_end(), "")
            }
        })
    }

    /// Sends the requests one after the other.
    fn send_requests(&self, child: &Child, pages: &Pages, report: &mut Report) -> io::Result<()> {
        let get = |path: &str| self.request("GET", path, pages);
        let missing = format!("/no-such-page-{}", std::process::id());
        let first = self.fastcgi("GET /", &get("/"));
        let unimportable = first.code == Some(codes::place::IMPORT_FAILS);
        report.add(first)?;
        if unimportable {
            return Ok(()); // every request would fail
        }
        report.add(self.fastcgi("a page that does not exist", &get(&missing)))?;
        if let Some(login) = &pages.login {
            report.add(self.fastcgi(&format!("GET {login}"), &get(login)))?;
        }
        for path in &pages.failed {
            let mut again = get(path);
            again.prefix = prefix(self.exe.parent().unwrap_or(Path::new("/")), path);
            report.add(self.fastcgi(&format!("GET {path}, which failed for a visitor"), &again))?;
        }
        let mut post = self.request("POST", &missing, pages);
        post.body = b"a=1".to_vec();
        report.add(self.fastcgi("POST", &post))?;
        post.body = vec![b'x'; UPLOAD_SIZE];
        report.add(self.fastcgi("an upload of 1 MB", &post))?;
        let mut authorized = get("/");
        let value = String::from("Basic cnVuZmNnaTpjaGVjaw==");
        authorized.extra.push(("HTTP_AUTHORIZATION", value));
        report.add(self.fastcgi("GET / with Authorization", &authorized))?;
        post.body = Vec::new();
        post.extra.push(("CONTENT_LENGTH", String::from("100")));
        report.add(match post.abort(&self.socket) {
            Ok(()) => self.fastcgi("GET / after a request that was aborted", &get("/")),
            Err(error) => failed("a request that is aborted", &error.to_string()),
        })?;
        report.add(self.restart(child, &get("/")))
    }

    fn request(&self, method: &'static str, path: &str, pages: &Pages) -> TestRequest {
        TestRequest {
            method,
            path: path.to_owned(),
            host: pages.host.clone().unwrap_or(String::from("localhost")),
            ..TestRequest::default()
        }
    }

    fn fastcgi(&self, name: &str, request: &TestRequest) -> Finding {
        let place = format!("FastCGI, {name}");
        match request.send(&self.socket, self.timeout) {
            Ok(response) => assess(&place, &response),
            Err(error) => failed(
                &place,
                &format!("{error}\n{}", shortened(&self.read("errors"))),
            ),
        }
    }

    /// Restarts it as the owner does, by touching the settings. They are a copy, so the running site does not restart.
    fn restart(&self, child: &Child, request: &TestRequest) -> Finding {
        let place = "FastCGI, a restart";
        let began = Instant::now();
        let touched = File::options().append(true).open(&self.settings);
        let touched = touched.and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            return failed(place, &error.to_string());
        }
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGHUP);
        while began.elapsed() < self.timeout {
            match request.send(&self.socket, self.timeout) {
                Ok(response) if response.status().is_some_and(|status| status < 500) => {}
                Ok(response) => return assess(place, &response),
                Err(error) => return failed(place, &error.to_string()),
            }
            let log = self.read("log");
            if log.contains("goes live") {
                let took = began.elapsed().as_secs_f64();
                let what =
                    format!("new code went live in {took:.1} s, and each request was answered");
                return Finding::good(place, what);
            }
            if log.contains("cannot be imported") {
                return failed(place, &shortened(&log));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        failed(place, "the new code did not go live in time")
    }

    /// Ends it as mod_fcgid does. Returns the exit status, or `None` if it did not exit in time or died from a signal.
    fn end(&self, child: &mut Child) -> Option<i32> {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < EXIT_TIMEOUT {
            match child.try_wait() {
                Ok(Some(status)) => return status.code(),
                _ => std::thread::sleep(POLL_INTERVAL),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    fn as_cgi(&self, pages: &Pages, report: &mut Report) -> io::Result<()> {
        let began = Instant::now();
        let mut command = self.command();
        command.env("GATEWAY_INTERFACE", "CGI/1.1");
        command.envs(self.request("GET", "/", pages).variables());
        let place = "CGI, GET /";
        report.add(
            match python::output(&mut command, b"", began + self.timeout) {
                Ok((output, _)) => assess(
                    place,
                    &TestResponse::of_cgi(output.into_bytes(), began.elapsed()),
                ),
                Err(why) => failed(place, &format!("it {why}")),
            },
        )
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Removes the directory. Retries, as processes that are exiting may still write to it.
    fn remove(&self) {
        let began = Instant::now();
        while fs::remove_dir_all(&self.dir).is_err() && began.elapsed() < EXIT_TIMEOUT {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

fn assess(place: &str, response: &TestResponse) -> Finding {
    let took = response.took.as_secs_f64();
    match response.status() {
        None => failed(place, "what came back is no response"),
        Some(status) if status >= 500 => {
            let errors = response.errors();
            failed(
                place,
                &format!("{status} in {took:.2} s\n{}", shortened(&errors)),
            )
        }
        Some(400) if place.ends_with('/') => Finding::error(
            codes::place::REHEARSED_FAILURE,
            place,
            "answered with 400: the app does not accept the host",
            "set ALLOWED_HOSTS",
        ),
        // By our own limit, and not by the app's.
        Some(413)
            if response
                .errors()
                .contains(&codes::request::LONG_BODY.to_string()) =>
        {
            let what = format!("413 in {took:.2} s\n{}", shortened(&response.errors()));
            let fix = "if visitors may send as much, raise max_body below [limits]";
            Finding::warning(codes::request::LONG_BODY, place, what, fix)
        }
        Some(status) => {
            let to = response
                .field("Location")
                .map_or(String::new(), |to| format!(" to {to}"));
            Finding::good(place, format!("{status}{to} in {took:.2} s"))
        }
    }
}

fn failed(place: &str, why: &str) -> Finding {
    let what = format!("answered with an error: {}", why.trim_end());
    let code = match what.contains("the app cannot be imported") {
        true => codes::place::IMPORT_FAILS,
        false => codes::place::REHEARSED_FAILURE,
    };
    Finding::error(code, place, what, "")
}

/// The first line of a text, which names the failure, and the last ones, about `MAX_LINES` at most.
fn shortened(text: &str) -> String {
    let text = text.trim_end();
    match text.rmatch_indices('\n').nth(MAX_LINES) {
        Some((at, _)) => [first_line(text), &text[at..]].concat(),
        None => text.to_owned(),
    }
}
