//! Finds the site's Python, and has it import and audit the app as a worker would import it (`bridge/check.py`).

use super::Report;
use super::rehearsal::Pages;
use crate::codes::{self, Code};
use crate::config::{Config, Finding, Level};
use crate::python::{self, Found};
use crate::trust::Trust;
use crate::workers::spawn;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Stands for a newline within a finding of the bridge.
const LINE_END: char = '\x1f';
/// How the traceback begins that faulthandler prints when the import takes longer than start_timeout.
const TIMED_OUT: &str = "Timeout (";
/// How long the audit of Django may take, after the import.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The findings of `bridge/audit.py`: kind, level, code and cure.
const AUDIT_KINDS: &[(&str, Level, Code, &str)] = &[
    (
        "secret_key",
        Level::Error,
        codes::place::NO_SECRET_KEY,
        "set SECRET_KEY; if it comes from a variable, give that below [env]",
    ),
    ("check_errors", Level::Error, codes::place::CHECK_ERRORS, ""),
    (
        "check_warnings",
        Level::Warning,
        codes::place::CHECK_WARNINGS,
        "`manage.py check --deploy` tells more",
    ),
    ("database", Level::Error, codes::place::DATABASE, ""),
    (
        "migrations",
        Level::Error,
        codes::place::MIGRATIONS,
        "manage.py migrate",
    ),
    (
        "static",
        Level::Warning,
        codes::place::STATIC_FILES,
        "set STATIC_ROOT to the static/ beside the executable, and run manage.py collectstatic",
    ),
    ("unasked", Level::Warning, codes::place::UNASKED, ""),
];

/// Finds the site's Python and has it import and audit the app.
pub(super) fn app(config: &Config, report: &mut Report) -> io::Result<Pages> {
    let home = config
        .env
        .get("HOME")
        .map(std::ffi::OsString::from)
        .or_else(|| std::env::var_os("HOME"))
        .filter(|h| !h.is_empty());
    let environment = spawn::environment(config, false);
    let home = home.as_deref().map(Path::new);
    let found = match python::discover_with(
        &config.app,
        Trust::of(config.owned_by),
        home,
        Some(environment),
    ) {
        Ok(found) => found,
        Err(why) => {
            report.add(Finding::error(codes::place::NO_PYTHON, "python", why, ""))?;
            return Ok(Pages::default());
        }
    };
    let mut words = format!("{} ({})", found.path.display(), found.version);
    for refused in &found.refused {
        words.push_str(&format!("\nnot {refused}"));
    }
    report.add(Finding::good("python", words))?;
    if config.app.python.is_none()
        && !config.env.contains_key("HOME")
        && python::only_by_home(&found.path, &config.app)
    {
        report.add(Finding::warning(
            codes::place::PYTHON_BY_HOME,
            "python",
            "it was found by way of HOME, which many web servers do not set",
            format!("below [app] write python = \"{}\"", found.path.display()),
        ))?;
    }
    let place = config.app.wsgi.as_ref().or(config.app.settings.as_ref());
    let place = format!("app {}", place.map_or("", String::as_str));
    let output = match import(config, &found) {
        Ok(output) => output,
        Err(why) => {
            report.add(import_too_long(&place, &why))?;
            return Ok(Pages {
                python: Some(found.path),
                ..Pages::default()
            });
        }
    };
    report.add_all(imported(&output, &place, config))?;
    let reported = |key: &str| reported(&output, key).map(str::to_owned);
    Ok(Pages {
        host: reported("host"),
        login: reported("login"),
        imported: reported("seconds").is_some(),
        python: Some(found.path),
        failed: Vec::new(),
    })
}

/// Runs `bridge/check.py` and returns its output.
fn import(config: &Config, found: &Found) -> Result<String, String> {
    let app = &config.app;
    let limit = config.limits.start_timeout;
    let mut setup = spawn::setup(config, false, "check", 1);
    setup.push(b"start_timeout", limit.to_string().as_bytes());
    let input = spawn::input(&setup);
    let mut command = Command::new(&found.path);
    command
        .args(["-c", &spawn::program(app.path.as_deref())])
        .current_dir(app.path.as_deref().unwrap_or(Path::new("/")))
        .env_clear()
        .envs(spawn::environment(config, false))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let end = Instant::now() + Duration::from_secs(limit) + AUDIT_TIMEOUT;
    python::output(&mut command, &input, end).map(|(output, _)| output)
}

/// The text that the bridge printed for this kind of finding.
fn reported<'a>(output: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = output
        .lines()
        .filter_map(|l| l.strip_prefix("runfcgi-check "));
    lines.find_map(|line| {
        let (name, text) = line.split_once(' ').unwrap_or((line, ""));
        (name == key).then_some(text.trim())
    })
}

fn import_too_long(place: &str, why: &str) -> Finding {
    Finding::error(
        codes::place::IMPORT_TOO_LONG,
        place,
        format!("the import {why}"),
        "if the app needs so long, raise start_timeout below [limits]",
    )
}

fn imported(output: &str, place: &str, config: &Config) -> Vec<Finding> {
    let reported = |key: &str| reported(output, key);
    let Some(seconds) = reported("seconds") else {
        let rest: Vec<&str> = output
            .lines()
            .filter(|l| !l.starts_with("runfcgi-check "))
            .collect();
        let rest = rest.join("\n");
        if reported("failed").is_none() && rest.lines().any(|line| line.starts_with(TIMED_OUT)) {
            let seconds = config.limits.start_timeout;
            return vec![import_too_long(
                place,
                &format!("has not ended after {seconds} s\n{}", rest.trim()),
            )];
        }
        let why = reported("failed").unwrap_or("the process ended before the import did");
        let what = format!("the app cannot be imported: {why}\n{}", rest.trim());
        return vec![Finding::error(
            codes::place::IMPORT_FAILS,
            place,
            what.trim_end(),
            "",
        )];
    };
    let framework = reported("django").map_or(String::new(), |v| format!(", Django {v}"));
    let mut findings = vec![Finding::good(
        place,
        format!("imported in {seconds} s{framework}"),
    )];
    if reported("debug").is_some() {
        findings.push(Finding::warning(
            codes::place::DEBUG_ON,
            place,
            "settings.DEBUG is on: visitors see tracebacks and settings, and memory grows with each query",
            "set DEBUG = False, and ALLOWED_HOSTS",
        ));
    }
    if reported("hosts").is_some() {
        findings.push(Finding::warning(
            codes::place::NO_ALLOWED_HOSTS,
            place,
            "settings.ALLOWED_HOSTS is empty: Django answers each request with 400",
            "ALLOWED_HOSTS = [\"www.example.org\"]",
        ));
    }
    if let Some(names) = reported("threads")
        && config.server.preload
    {
        findings.push(Finding::warning(
            codes::place::THREADS_AFTER_IMPORT,
            place,
            format!("the import starts threads ({names}), so workers cannot be forked from it"),
            "start them with the first request, or write preload = false below [server]",
        ));
    }
    if let Some(open) = reported("open")
        && config.server.preload
    {
        findings.push(Finding::warning(
            codes::place::OPEN_AFTER_IMPORT,
            place,
            format!(
                "the import leaves open what workers must not share: {open}; so each imports the app by itself"
            ),
            "open such things with the first request, or close them at the end of the import; or write \
             preload = false below [server]",
        ));
    }
    for (kind, level, code, fix) in AUDIT_KINDS {
        if let Some(text) = reported(kind) {
            let text = text.replace(LINE_END, "\n");
            findings.push(match level {
                Level::Error => Finding::error(*code, place, text, *fix),
                _ => Finding::warning(*code, place, text, *fix),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::App;
    use crate::config::findings::codes;

    #[test]
    fn output_of_the_bridge_becomes_findings() {
        let config = Config {
            app: App::default(),
            ..Config::default()
        };
        let of = |text: &str| codes(&imported(text, "app", &config));
        let done = "\nrunfcgi-check seconds 0.10\n";
        assert_eq!(of(done), ["ok"]);
        assert_eq!(of(&format!("runfcgi-check debug{done}")), ["ok", "RF0203"]);
        assert_eq!(of(&format!("runfcgi-check hosts{done}")), ["ok", "RF0204"]);
        assert_eq!(
            of(&format!("runfcgi-check threads a, b{done}")),
            ["ok", "RF0205"]
        );
        assert_eq!(
            of(&format!("runfcgi-check open a pipe{done}")),
            ["ok", "RF0207"]
        );
        assert_eq!(of("Traceback"), ["RF0201"]);
        assert_eq!(of(""), ["RF0201"]);
    }
}
