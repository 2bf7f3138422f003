//! `check`: looks at everything a site needs, before a visitor does, and tells all findings at once.
//!
//! Blocks and runs Python; serves nothing and changes nothing. Writes to what it is given.

mod place;

use crate::config::{Candidates, Config, Finding, Level, Options, owner};
use crate::python::{self, Found};
use crate::trust::Trust;
use crate::workers::spawn::{self, Start};
use place::{account, htaccess, permissions};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Checks the site of the executable `exe` called `stem`, whose settings may stand in `candidates`. Returns whether it
/// can be served.
pub fn run(
    exe: &Path,
    stem: &str,
    candidates: &Candidates,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let mut report = Report {
        out,
        errors: 0,
        warnings: 0,
    };
    let dir = exe.parent().unwrap_or(Path::new("/"));
    let options = Options::of_owner(owner(exe));
    let config = settings(stem, dir, candidates, &options, &mut report)?;
    if let Some(config) = &config {
        app(exe, config, &mut report)?;
    }
    report.all(permissions(exe, dir))?;
    let external = config.as_ref().is_some_and(|c| {
        // Sockets of our own: no web server starts us, so no .htaccess is needed.
        !c.server.endpoints.is_empty()
    });
    if !external {
        report.all(htaccess(dir, stem))?;
    }
    report.all(account(config.as_ref()))?;
    report.end()
}

struct Report<'a> {
    out: &'a mut dyn Write,
    errors: usize,
    warnings: usize,
}

impl Report<'_> {
    fn add(&mut self, finding: Finding) -> io::Result<()> {
        match finding.level {
            Level::Error => self.errors += 1,
            Level::Warning => self.warnings += 1,
            Level::Good => {}
        }
        writeln!(self.out, "{finding}")
    }

    fn all(&mut self, findings: Vec<Finding>) -> io::Result<()> {
        findings.into_iter().try_for_each(|f| self.add(f))
    }

    fn end(self) -> io::Result<bool> {
        let count = |n: usize, name: &str| match n {
            1 => format!("1 {name}"),
            n => format!("{n} {name}s"),
        };
        let verdict = match self.errors {
            0 => "the site can be served",
            _ => "the site cannot be served as it is",
        };
        writeln!(
            self.out,
            "\n{}, {}: {verdict}",
            count(self.errors, "error"),
            count(self.warnings, "warning")
        )?;
        Ok(self.errors == 0)
    }
}

fn settings(
    stem: &str,
    dir: &Path,
    candidates: &Candidates,
    options: &Options,
    report: &mut Report,
) -> io::Result<Option<Config>> {
    let path = match candidates.find(options.owner) {
        Ok(Some(path)) => path,
        Ok(None) => {
            report.add(Finding::error(
                "RF0100",
                "settings",
                format!(
                    "there is no {stem}.toml in {} nor in the two directories above",
                    dir.display()
                ),
                "create it (the README shows one of four lines), or name another with --config FILE",
            ))?;
            return Ok(None);
        }
        Err(finding) => {
            report.add(finding)?;
            return Ok(None);
        }
    };
    match Config::load_with(Some(&path), options) {
        Ok(mut config) => {
            let above = match candidates.farther(Some(&path)) {
                Some((_, beside)) => format!(
                    " (above the executable; {} would come first)",
                    beside.display()
                ),
                None => String::new(),
            };
            report.add(Finding::good(
                "settings",
                format!("{}{above}", path.display()),
            ))?;
            report.all(std::mem::take(&mut config.warnings))?;
            report.all(homeless(&path, options))?;
            if config.server.secret.is_some() {
                report.all(secrecy(&path))?;
            }
            Ok(Some(config))
        }
        Err(findings) => {
            report.all(findings)?;
            Ok(None)
        }
    }
}

/// What would be wrong if HOME were not set, as it is not under mod_fcgid.
fn homeless(path: &Path, options: &Options) -> Vec<Finding> {
    let findings = match Config::load_at_home(Some(path), options, None) {
        Ok(_) => return Vec::new(),
        Err(findings) => findings,
    };
    let of_home = findings
        .into_iter()
        .filter(|f| f.level == Level::Error && f.what.contains("HOME"));
    of_home
        .map(|f| {
            let what = "~ needs HOME, which this shell sets, but many web servers do not";
            Finding::warning("RF0161", f.place, what, f.fix)
        })
        .collect()
}

fn secrecy(path: &Path) -> Vec<Finding> {
    let open = fs::metadata(path).is_ok_and(|m| m.mode() & 0o044 != 0);
    if !open {
        return Vec::new();
    }
    vec![Finding::warning(
        "RF0160",
        path.display().to_string(),
        "others on this machine may read the secret in it",
        format!("chmod 600 {}", path.display()),
    )]
}

fn app(exe: &Path, config: &Config, report: &mut Report) -> io::Result<()> {
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
        Trust::of(config.owner),
        home,
        Some(environment),
    ) {
        Ok(found) => found,
        Err(why) => {
            return report.add(Finding::error("RF0200", "python", why, ""));
        }
    };
    let mut said = format!("{} ({})", found.path.display(), found.version);
    for refused in &found.refused {
        said.push_str(&format!("\nnot {refused}"));
    }
    report.add(Finding::good("python", said))?;
    if config.app.python.is_none()
        && !config.env.contains_key("HOME")
        && python::only_by_home(&found.path, &config.app)
    {
        report.add(Finding::warning(
            "RF0206",
            "python",
            "it was found by way of HOME, which many web servers do not set",
            format!("below [app] write python = \"{}\"", found.path.display()),
        ))?;
    }
    report.all(import(exe, config, &found))
}

fn import(exe: &Path, config: &Config, found: &Found) -> Vec<Finding> {
    let app = &config.app;
    let start = Start {
        config,
        exe,
        cache: None,
        cgi: false,
        outlog: false,
    };
    let input = spawn::input(&spawn::setup(start, "check", 1, true));
    let mut command = Command::new(&found.path);
    command
        .args(["-c", spawn::LOADER])
        .current_dir(app.path.as_deref().unwrap_or(Path::new("/")))
        .env_clear()
        .envs(spawn::environment(config, false));
    let end = Instant::now() + Duration::from_secs(config.limits.start_timeout);
    let place = app.wsgi.as_ref().or(app.settings.as_ref());
    let place = format!("app {}", place.map_or("", String::as_str));
    let output = match python::output(&mut command, &input, end) {
        Ok((output, _)) => output,
        Err(why) => {
            return vec![Finding::error(
                "RF0202",
                place,
                format!("the import {why}"),
                "if the app needs so long, raise start_timeout below [limits]",
            )];
        }
    };
    imported(&output, &place, found, config)
}

fn imported(output: &str, place: &str, found: &Found, config: &Config) -> Vec<Finding> {
    let said = |key: &str| {
        output
            .lines()
            .filter_map(|l| l.strip_prefix("runfcgi-check "))
            .find_map(|l| l.strip_prefix(key))
            .map(str::trim)
    };
    let Some(seconds) = said("seconds") else {
        let text = output.trim();
        let text = match text.is_empty() {
            true => "it ended without a word",
            false => text,
        };
        return vec![Finding::error(
            "RF0201",
            place,
            format!("the app cannot be imported:\n{text}"),
            cure(text, found),
        )];
    };
    let framework = said("django").map_or(String::new(), |v| format!(", Django {v}"));
    let mut findings = vec![Finding::good(
        place,
        format!("imported in {seconds} s{framework}"),
    )];
    if said("debug").is_some() {
        findings.push(Finding::warning(
            "RF0203",
            place,
            "settings.DEBUG is on: visitors see tracebacks and settings, and memory grows with each query",
            "set DEBUG = False, and ALLOWED_HOSTS",
        ));
    }
    if said("hosts").is_some() {
        findings.push(Finding::warning(
            "RF0204",
            place,
            "settings.ALLOWED_HOSTS is empty: Django answers each request with 400",
            "ALLOWED_HOSTS = [\"www.example.org\"]",
        ));
    }
    if let Some(names) = said("threads")
        && config.server.preload
    {
        findings.push(Finding::warning(
            "RF0205",
            place,
            format!("the import starts threads ({names}), so workers cannot be forked from it"),
            "start them with the first request, or write preload = false below [server]",
        ));
    }
    if let Some(open) = said("open")
        && config.server.preload
    {
        findings.push(Finding::warning(
            "RF0207",
            place,
            format!(
                "the import leaves open what workers must not share: {open}; so each imports the app by itself"
            ),
            "open such things with the first request, or close them at the end of the import; or write \
             preload = false below [server]",
        ));
    }
    findings
}

/// What usually helps against an error in Python; empty when we do not know.
fn cure(text: &str, found: &Found) -> String {
    let pip = |package: &str| format!("{} -m pip install {package}", found.path.display());
    let last = text.lines().last().unwrap_or_default();
    let module = last
        .split_once("No module named ")
        .map(|(_, m)| m.trim_matches(['\'', '"', ' ']));
    if let Some(module) = module {
        let package = match module.split('.').next().unwrap_or(module) {
            "MySQLdb" => "mysqlclient",
            "PIL" => "pillow",
            "yaml" => "pyyaml",
            "psycopg2" => "psycopg2-binary",
            "rest_framework" => "djangorestframework",
            other => other,
        };
        return format!(
            "if {module} is your own: is path below [app] the directory above it? Otherwise: {}",
            pip(package)
        );
    }
    for (sign, help) in [
        (
            "SQLite 3",
            "the system's SQLite is too old for this Django: install pysqlite3-binary and put it in place of sqlite3 \
             in settings.py",
        ),
        (
            "Error loading MySQLdb",
            "install mysqlclient, or pymysql and call pymysql.install_as_MySQLdb() in settings.py",
        ),
        (
            "Error loading psycopg",
            "install psycopg2-binary with the pip of this Python",
        ),
        (
            "SECRET_KEY setting must not be empty",
            "set SECRET_KEY; if it comes from a variable, give that below [env]",
        ),
        (
            "KeyError: '",
            "if this is a variable of the environment, give it below [env]: the web server passes none",
        ),
        (
            "can't start new thread",
            "the host's limit of processes is reached, and threads count: end other processes of the account",
        ),
        (
            "SyntaxError",
            "is the code made for another version of Python?",
        ),
        (
            "PermissionError",
            "the file must be readable by the user that the site runs as",
        ),
    ] {
        if text.contains(sign) {
            return help.to_string();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::App;
    use crate::scratch::Scratch;

    fn run_in(dir: &Scratch, explicit: Option<&Path>) -> (bool, String) {
        let mut out = Vec::new();
        let exe = dir.join("mysite.fcgi");
        let candidates = match explicit {
            Some(path) => Candidates::named(path.to_owned()),
            None => Candidates::of(&exe),
        };
        let good = run(&exe, "mysite", &candidates, &mut out).unwrap();
        (good, String::from_utf8(out).unwrap())
    }

    fn codes(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(|f| f.code).collect()
    }

    #[test]
    fn a_good_site_and_then_a_broken_one() {
        let dir = Scratch::new("check-site");
        dir.write("mysite.fcgi", "", 0o755);
        dir.write(
            "mysite.toml",
            "[app]\nwsgi = \"app:application\"\n[env]\nHOME = \"/nowhere\"\n",
            0o644,
        );
        dir.write(
            ".htaccess",
            "AddHandler fcgid-script .fcgi\nRewriteRule ^(.*)$ mysite.fcgi/$1 [QSA,L]\n",
            0o644,
        );
        dir.write("app.py", "print('noise')\napplication = print\n", 0o644);
        let (good, text) = run_in(&dir, None);
        assert!(good, "{text}");
        assert!(text.contains("app app:application: imported in"), "{text}");
        assert!(text.contains("hands requests to fcgid-script"), "{text}");
        assert!(text.contains("0 errors, 0 warnings"), "{text}");

        dir.write("app.py", "import no_such_thing_at_all\n", 0o644);
        dir.mode("mysite.fcgi", 0o775);
        let (good, text) = run_in(&dir, None);
        assert!(!good, "{text}");
        for want in [
            "No module named 'no_such_thing_at_all'",
            "-m pip install no_such_thing_at_all",
            "RF0211",
            "chmod 755",
            "2 errors",
        ] {
            assert!(text.contains(want), "{want} is missing in {text}");
        }
    }

    #[test]
    fn a_home_that_the_web_server_lacks_is_told() {
        let dir = Scratch::new("check-homeless");
        let toml = dir.write(
            "mysite.toml",
            "[app]\nwsgi = \"app:application\"\n[log]\nfile = \"~/x.log\"\n",
            0o644,
        );
        let findings = homeless(&toml, &Options::default());
        assert_eq!(codes(&findings), ["RF0161"]);
        assert_eq!(findings[0].place, "mysite.toml:4:8");
    }

    #[test]
    fn no_settings_is_an_error_that_says_where() {
        let dir = Scratch::new("check-none");
        dir.write("mysite.fcgi", "", 0o755);
        let (good, text) = run_in(&dir, None);
        assert!(!good);
        assert!(text.contains("there is no mysite.toml in"), "{text}");
        assert!(text.contains("RF0220"), "{text}");
    }

    #[test]
    fn permissions_that_suexec_refuses() {
        let dir = Scratch::new("check-modes");
        let exe = dir.write("mysite.fcgi", "", 0o755);
        assert_eq!(codes(&permissions(&exe, &dir)), ["RF0000"]);
        dir.mode("mysite.fcgi", 0o644);
        assert_eq!(codes(&permissions(&exe, &dir)), ["RF0213"]);
        dir.mode("mysite.fcgi", 0o777);
        dir.mode("", 0o775);
        assert_eq!(codes(&permissions(&exe, &dir)), ["RF0211", "RF0211"]);
        dir.mode("", 0o755);
        dir.mode("mysite.fcgi", 0o4755);
        assert_eq!(codes(&permissions(&exe, &dir)), ["RF0215"]);
        assert_eq!(codes(&permissions(&dir.join("gone"), &dir)), ["RF0210"]);
    }

    #[test]
    fn htaccess_must_name_a_handler_and_us() {
        let dir = Scratch::new("check-htaccess");
        for (text, want) in [
            (
                "AddHandler fcgid-script .fcgi\nRewriteRule ^(.*)$ mysite.fcgi/$1\n",
                &["RF0000"][..],
            ),
            (
                "<Files mysite.fcgi>\r\n  SetHandler cgi-script\r\n</Files>\r\n",
                &["RF0000"],
            ),
            (
                "# AddHandler fcgid-script .fcgi\nRewriteRule ^(.*)$ mysite.fcgi/$1\n",
                &["RF0222"],
            ),
            ("AddHandler fastcgi-script .fcgi\n", &["RF0000", "RF0223"]),
        ] {
            dir.write(".htaccess", text, 0o644);
            assert_eq!(codes(&htaccess(&dir, "mysite")), want, "{text}");
        }
        dir.mode(".htaccess", 0o600);
        assert!(codes(&htaccess(&dir, "mysite")).contains(&"RF0224"));
    }

    #[test]
    fn what_the_import_says_becomes_findings() {
        let dir = Scratch::new("check-said");
        let python = dir.write("python3", "", 0o644);
        let found = python::Found::named_for_test(python);
        let config = Config {
            app: App::default(),
            ..Config::default()
        };
        let of = |text: &str| codes(&imported(text, "app", &found, &config));
        let done = "\nrunfcgi-check seconds 0.10\n";
        assert_eq!(of(done), ["RF0000"]);
        assert_eq!(
            of(&format!("runfcgi-check debug{done}")),
            ["RF0000", "RF0203"]
        );
        assert_eq!(
            of(&format!("runfcgi-check hosts{done}")),
            ["RF0000", "RF0204"]
        );
        assert_eq!(
            of(&format!("runfcgi-check threads a, b{done}")),
            ["RF0000", "RF0205"]
        );
        assert_eq!(
            of(&format!("runfcgi-check open a pipe{done}")),
            ["RF0000", "RF0207"]
        );
        assert_eq!(of("Traceback"), ["RF0201"]);
        assert_eq!(of(""), ["RF0201"]);
    }

    #[test]
    fn known_errors_have_a_cure() {
        let found = python::Found::named_for_test("/v/bin/python".into());
        for (text, want) in [
            (
                "ModuleNotFoundError: No module named 'MySQLdb'",
                "/v/bin/python -m pip install mysqlclient",
            ),
            (
                "django...: SQLite 3.31 or later is required (found 3.7.17).",
                "pysqlite3",
            ),
            ("KeyError: 'SECRET'", "[env]"),
            ("RuntimeError: can't start new thread", "threads count"),
            ("ValueError: x", ""),
        ] {
            let got = cure(text, &found);
            assert!(
                got.contains(want) && got.is_empty() == want.is_empty(),
                "{text}: {got}"
            );
        }
    }
}
