//! The owner's desk: pages that show the state of the site and run tasks on it, for an owner who has only FTP and a
//! browser.
//!
//! The front serves these pages by itself, so they work even when the app, its settings or Python are broken. Without a
//! session, the desk's path shows a form that asks for the secret, and requests below that path go to the app.
//! ```text
//! request ─▶ visit ─▶ session ─▶ page or action ─▶ Reply
//!                        └─▶ secret form (tries)
//! ```

mod failures_page;
mod findings;
mod form;
mod job;
mod log_page;
mod overview;
mod page;
mod response;
mod run_file;
mod runner;
mod session;
mod task;
mod tasks_page;
mod tries;
mod visit;
mod work;

pub use job::RUNNER;
pub use runner::run as run_task;

use crate::body::Body;
use crate::codes::desk;
use crate::config::Config;
use crate::log::Level;
use crate::pairs::Pairs;
use crate::reload::Origin;
use crate::request::Request;
use crate::response::ResponseHead;
use crate::rundir::RuntimeDir;
use crate::status::collect::millis;
use form::Form;
use job::Job;
use response::Response;
use session::Session;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::SystemTime;
use tries::{Outcome, Tries};
use visit::Visit;

pub use visit::redact;

/// The state of the site, as this front sees it now.
#[derive(Debug)]
pub struct SiteView<'a> {
    /// The site's runtime directory, if there is one.
    pub dir: Option<&'a RuntimeDir>,
    /// Where the executable and the settings come from.
    pub origin: &'a Origin,
    /// The front runs as CGI: one process per request.
    pub cgi: bool,
    /// The name under which fronts report the site's status.
    pub name: &'a str,
    /// Why the settings on disk were refused.
    pub refused_settings: Option<&'a str>,
    /// Why the newest code was refused; an older version still serves.
    pub refused_code: Option<&'a str>,
    /// New code or settings are on trial.
    pub reloading: bool,
    /// Why the app cannot serve at all.
    pub unavailable: Option<String>,
}

/// The response to a request for the desk or the status page, and what else the front must do.
#[derive(Debug)]
pub struct Reply {
    /// Status line and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: Vec<u8>,
    /// Sent in place of `body`: this many bytes of this file.
    pub file: Option<(File, u64)>,
    /// The variables of the request, without secrets, for the logs.
    pub redacted: Rc<Pairs>,
    /// A line for the log.
    pub note: Option<(Level, String)>,
    /// Restart the site.
    pub restart: bool,
}

/// The owner's desk, as this front serves it.
#[derive(Debug, Default)]
pub struct Desk {
    config: Rc<Config>,
    /// The count of wrong secrets, for when there is no file in which the fronts share it.
    tries: Cell<Tries>,
}

impl Desk {
    /// Uses these settings from now on.
    pub fn set_config(&mut self, config: Rc<Config>) {
        self.config = config;
    }

    /// Whether the request's path is the desk's or below it.
    pub fn is_for(&self, request: &Request) -> bool {
        place(&self.config).is_some_and(|(path, _)| Visit::at(path, &request.environ).is_some())
    }

    /// Handles a request for the desk. None: the request is for the app.
    pub fn reply(&self, request: &Request, site: &SiteView<'_>, now: SystemTime) -> Option<Reply> {
        let config = self.config.clone();
        let (path, secret) = place(&config)?;
        let visit = Visit::at(path, &request.environ)?;
        let seconds = millis(now) / 1000;
        let session = Session::find(visit.cookies(), secret, seconds);
        if session.is_none() && !visit.subpath.is_empty() {
            return None;
        }
        let mut response = match session {
            _ if !visit.is_secure() => page::https_required(),
            None => self.log_in(&visit, &request.body, site, secret, seconds),
            Some(session) => match visit.method {
                b"GET" | b"HEAD" => self.show(&visit, &session, site, now),
                b"POST" => self.act(&visit, &session, &request.body, site, now),
                _ => page::method_not_allowed(),
            },
        };
        let head = response.head();
        Some(Reply {
            head,
            note: response.note.take(),
            file: response.file.take(),
            restart: response.restart,
            body: response.body,
            redacted: Rc::new(redact(&request.environ, secret)),
        })
    }

    /// Starts the task that the owner has requested by a file, if any. Returns a line for the log, and whether to
    /// restart the site.
    pub fn poll_run_file(
        &self,
        site: &SiteView<'_>,
        now: SystemTime,
    ) -> Option<((Level, String), bool)> {
        match self.config.owner.tasks {
            true => run_file::poll(site, &self.config, now),
            false => None,
        }
    }

    /// The page for a GET request with a session.
    fn show(
        &self,
        visit: &Visit<'_>,
        session: &Session,
        site: &SiteView<'_>,
        now: SystemTime,
    ) -> Response {
        let config = &self.config;
        let secret = config.owner.secret.as_deref().unwrap_or_default();
        let (dir, log) = (site.dir, config.log.file.as_deref());
        let token = session.token(secret);
        let frame = frame(visit, &token, site, now);
        match visit.subpath {
            "" => overview::render(&frame, site, now),
            "/failures" => failures_page::render(&frame, dir, &visit.query("number"), millis(now)),
            "/tasks" => tasks_page::render(&frame, dir, None, millis(now)),
            "/log" => log_page::render(&frame, log, secret),
            "/log/download" => match log.map(log_page::open) {
                Some(Ok((file, length))) => {
                    let name = [site.origin.stem(), String::from("log")].join(".");
                    let text = format!("desk: log downloaded from {}", visit.client());
                    Response::download(file, length, &name).with_note(Level::Info, text)
                }
                _ => page::not_found(&frame),
            },
            _ => page::not_found(&frame),
        }
    }

    /// Carries out a form submitted within a session.
    fn act(
        &self,
        visit: &Visit<'_>,
        session: &Session,
        body: &Body,
        site: &SiteView<'_>,
        now: SystemTime,
    ) -> Response {
        let Some(form) = parse_form(body) else {
            return page::content_too_large();
        };
        let secret = self.config.owner.secret.as_deref().unwrap_or_default();
        if !session.accepts(form.get("token"), secret) {
            let text = format!(
                "desk: a form that is not of its session, from {}",
                visit.client()
            );
            return page::wrong_token(&visit.url)
                .with_note(Level::Warning(desk::FOREIGN_FORM), text);
        }
        let token = session.token(secret);
        let frame = frame(visit, &token, site, now);
        match visit.subpath {
            "/close" => Response::redirect(&visit.url)
                .with_header(
                    "Set-Cookie",
                    &session::expired_cookie(&visit.url, visit.https),
                )
                .with_note(Level::Info, format!("desk: closed from {}", visit.client())),
            "/tasks" => start_task(visit, &form, site, &self.config, now).unwrap_or_else(|why| {
                tasks_page::render(&frame, site.dir, Some(&why), millis(now))
            }),
            "/stop" => {
                let stopped = site.dir.is_some_and(|dir| task::stop(dir).is_ok());
                let text = match stopped {
                    true => format!("desk: the task is stopped from {}", visit.client()),
                    false => String::from("desk: cannot stop the task"),
                };
                Response::redirect(&format!("{}/tasks", visit.url)).with_note(Level::Info, text)
            }
            _ => page::not_found(&frame),
        }
    }

    /// Asks for the secret, and opens a session for whoever sends the right one. `now` is in seconds since 1970.
    fn log_in(
        &self,
        visit: &Visit<'_>,
        body: &Body,
        site: &SiteView<'_>,
        secret: &str,
        now: u64,
    ) -> Response {
        if matches!(visit.method, b"GET" | b"HEAD") {
            return page::secret_form(&visit.url, page::Prompt::First);
        }
        if visit.method != b"POST" {
            return page::method_not_allowed();
        }
        let Some(form) = parse_form(body) else {
            return page::content_too_large();
        };
        let given = form.get("secret").as_bytes().to_vec();
        let is_right = || crate::bytes::is_secret(&given, secret.as_bytes());
        match tries::check(site.dir, &self.tries, now, is_right) {
            Outcome::Paused(left) => page::secret_form(&visit.url, page::Prompt::Paused(left)),
            Outcome::Wrong => {
                let text = format!("desk: a wrong secret from {}", visit.client());
                page::secret_form(&visit.url, page::Prompt::Wrong)
                    .with_note(Level::Warning(desk::WRONG_SECRET), text)
            }
            Outcome::Right => match random_bytes() {
                Ok(random) => {
                    let cookie =
                        Session::start(now, random).cookie(&visit.url, secret, visit.https);
                    Response::redirect(&visit.url)
                        .with_header("Set-Cookie", &cookie)
                        .with_note(Level::Info, format!("desk: opened from {}", visit.client()))
                }
                Err(error) => page::internal_error(&format!("Cannot read /dev/urandom: {error}")),
            },
        }
    }
}

/// The desk's path and secret. None if the settings lack either: there is no desk then.
pub fn place(config: &Config) -> Option<(&str, &str)> {
    let owner = &config.owner;
    let secret = owner
        .secret
        .as_deref()
        .filter(|secret| !secret.is_empty())?;
    Some((owner.path.as_deref()?, secret))
}

/// What all pages of a session have in common.
fn frame<'a>(
    visit: &'a Visit<'_>,
    token: &'a str,
    site: &SiteView<'_>,
    now: SystemTime,
) -> page::Frame<'a> {
    page::Frame {
        url: &visit.url,
        subpath: visit.subpath,
        token,
        busy: task::is_busy(site.dir, millis(now)),
    }
}

/// Starts the task that the form names. The error is shown to the owner.
fn start_task(
    visit: &Visit<'_>,
    form: &Form,
    site: &SiteView<'_>,
    config: &Config,
    now: SystemTime,
) -> Result<Response, String> {
    let word = form.get("task");
    let text = format!("desk: {word} from {}", visit.client());
    if word == "restart" {
        let response = Response::redirect(&visit.url).with_restart();
        return Ok(response.with_note(Level::Info, text));
    }
    if task::Task::named(word).is_none() {
        return Err(String::from("There is no such task"));
    }
    let mut job = Job::new(word, site, config).ok_or("There is no runtime directory")?;
    job.fields = ["username", "email", "password"]
        .map(|name| (name.to_owned(), form.get(name).to_owned()))
        .into();
    job.start(now)?;
    let response = Response::redirect(&format!("{}/tasks", visit.url));
    Ok(response.with_note(Level::Info, text))
}

/// The form in a request body. None if the body is larger than `form::MAX_BYTES`.
fn parse_form(body: &Body) -> Option<Form> {
    match body {
        Body::Memory(bytes) if bytes.len() as u64 <= form::MAX_BYTES => Some(Form::parse(bytes)),
        _ => None,
    }
}

/// 16 bytes from the kernel's random number generator.
pub(crate) fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
