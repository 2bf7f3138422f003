//! `check`: checks everything that a site needs, and reports all findings in one run.
//!
//! Blocks, and runs Python and the site's executable. Changes nothing of the site. Writes the report to an `io::Write`.

mod app;
mod client;
mod failed;
mod htaccess;
mod http;
mod live;
mod place;
mod private;
mod rehearsal;
mod url;

use crate::codes;
use crate::config::{Candidates, Config, Finding, Level, Options, owner};
use crate::pages::quote_json;
use app::app;
use failed::failed_pages;
use htaccess::htaccess;
use nix::unistd::{User, geteuid, setgid, setgroups, setuid};
use place::{account, permissions, writable};
use private::exposed;
use rehearsal::{Pages, rehearse};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

pub use url::Url;

/// The site to check.
#[derive(Debug)]
pub struct Site<'a> {
    exe: &'a Path,
    stem: &'a str,
    candidates: &'a Candidates,
}

/// Checks the site: at `url` if given, otherwise by a rehearsal. Reports each finding as soon as it is known, as text or as
/// `json`: one document with a line for each. Returns whether the site can be served. Fails if `out` cannot be written.
pub fn run(site: &Site, url: Option<&Url>, json: bool, out: &mut dyn Write) -> io::Result<bool> {
    let mut report = Report {
        out,
        json,
        findings: 0,
        errors: 0,
        of_pages: 0,
        warnings: 0,
    };
    let (exe, dir) = (site.exe, site.dir());
    let options = Options::of_owner(owner(exe));
    let config = settings(site.stem, dir, site.candidates, &options, &mut report)?;
    let mut pages = Pages::default();
    if let Some(config) = &config {
        pages = app(config, &mut report)?;
        pages.failed = failed_pages(site.candidates, config, dir);
        report.add_all(writable(config))?;
        report.add_all(exposed(exe, config))?;
    }
    report.add_all(permissions(exe, dir))?;
    let external = config.as_ref().is_some_and(|c| {
        // We listen on our own sockets: no web server starts us, so no .htaccess is needed.
        !c.server.endpoints.is_empty()
    });
    if !external {
        report.add_all(htaccess(dir, site.stem))?;
    }
    report.add_all(account(config.as_ref()))?;
    match (&config, url) {
        (Some(config), Some(url)) => live::ask(url, site, config, &pages, &mut report)?,
        (Some(config), None) if pages.imported => rehearse(exe, config, &pages, &mut report)?,
        _ => {}
    }
    report.finish()
}

impl<'a> Site<'a> {
    /// The site of the executable `exe`, whose name without ending is `stem` and whose settings are in one of the
    /// `candidates`.
    pub fn new(exe: &'a Path, stem: &'a str, candidates: &'a Candidates) -> Site<'a> {
        Site {
            exe,
            stem,
            candidates,
        }
    }

    /// The directory of the executable.
    fn dir(&self) -> &Path {
        self.exe.parent().unwrap_or(Path::new("/"))
    }
}

struct Report<'a> {
    out: &'a mut dyn Write,
    /// Report as JSON, not as text.
    json: bool,
    findings: usize,
    errors: usize,
    /// Those of the errors that are failures of single pages.
    of_pages: usize,
    warnings: usize,
}

impl Report<'_> {
    fn add(&mut self, finding: Finding) -> io::Result<()> {
        match finding.level {
            Level::Error => {
                self.errors += 1;
                self.of_pages += usize::from(finding.code == Some(codes::place::REHEARSED_FAILURE));
            }
            Level::Warning => self.warnings += 1,
            Level::Good => {}
        }
        let before = match self.findings {
            0 => "{\"findings\": [\n  ",
            _ => ",\n  ",
        };
        self.findings += 1;
        match self.json {
            true => write!(self.out, "{before}{}", as_json(&finding))?,
            false => writeln!(self.out, "{finding}")?,
        }
        self.out.flush()
    }

    fn add_all(&mut self, findings: Vec<Finding>) -> io::Result<()> {
        findings.into_iter().try_for_each(|f| self.add(f))
    }

    fn finish(self) -> io::Result<bool> {
        let Report {
            errors,
            of_pages,
            warnings,
            ..
        } = self;
        let verdict = match (errors, warnings) {
            (0, 0) => "the site can be served",
            (0, _) => "the site can be served, but see the warnings",
            _ if errors == of_pages => "the site can be served, but pages of it fail",
            _ => "the site cannot be served as it is",
        };
        let count = |n: usize, name: &str| match n {
            1 => format!("1 {name}"),
            n => format!("{n} {name}s"),
        };
        match self.json {
            true => writeln!(
                self.out,
                "\n], \"errors\": {errors}, \"warnings\": {warnings}, \"verdict\": \"{verdict}\"}}"
            )?,
            false => writeln!(
                self.out,
                "\n{}, {}: {verdict}",
                count(errors, "error"),
                count(warnings, "warning")
            )?,
        }
        Ok(errors == 0)
    }
}

/// A finding as a JSON object.
fn as_json(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Good => "ok",
    };
    let code = finding.code.map_or(String::new(), |code| code.to_string());
    let fields = [
        ("level", level),
        ("code", &code),
        ("place", &finding.place),
        ("what", &finding.what),
        ("fix", &finding.fix),
    ];
    let fields = fields.map(|(name, text)| format!("\"{name}\": {}", quote_json(text)));
    format!("{{{}}}", fields.join(", "))
}

/// If run by root, becomes the user that the site runs as, and executes the program again with that user's HOME: the one
/// that the settings name, else the owner of the executable. Returns if not run by root, or if that fails.
pub fn become_owner(owner: Option<u32>, exe: &Path, candidates: &Candidates) {
    let file = candidates.find(owner).ok().flatten();
    let settings = file.and_then(|file| Config::despite_errors(&file, &Options::of_owner(owner)));
    let user = match settings.and_then(|settings| settings.server.user) {
        Some(name) => User::from_name(&name).ok().flatten(),
        None => owner.and_then(|owner| User::from_uid(owner.into()).ok()?),
    };
    let Some(user) = user.filter(|user| geteuid().is_root() && !user.uid.is_root()) else {
        return;
    };
    let changed = setgroups(&[user.gid])
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid));
    if changed.is_ok() {
        // `exec` returns only if it fails.
        let _ = Command::new(exe)
            .args(std::env::args_os().skip(1))
            .env("HOME", &user.dir)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name)
            .exec();
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
                codes::settings::NO_FILE,
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
            report.add_all(std::mem::take(&mut config.warnings))?;
            report.add_all(shared_settings(&path, dir, stem))?;
            report.add_all(home_needed(&path, options))?;
            if config.server.secret.is_some() {
                report.add_all(readable_secret(&path))?;
            }
            Ok(Some(config))
        }
        Err(findings) => {
            report.add_all(findings)?;
            Ok(None)
        }
    }
}

/// Settings that need HOME, which mod_fcgid does not set.
fn home_needed(path: &Path, options: &Options) -> Vec<Finding> {
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
            Finding::warning(codes::settings::NEEDS_HOME, f.place, what, f.fix)
        })
        .collect()
}

/// Settings in a directory above, if the executable of another site is there.
fn shared_settings(settings: &Path, dir: &Path, stem: &str) -> Vec<Finding> {
    let Some(above) = settings.parent().filter(|above| *above != dir) else {
        return Vec::new();
    };
    let other = ["fcgi", "cgi"].map(|ending| above.join(format!("{stem}.{ending}")));
    let Some(other) = other.iter().find(|other| other.is_file()) else {
        return Vec::new();
    };
    let (place, fix) = (
        settings.display().to_string(),
        dir.join(format!("{stem}.toml")),
    );
    let what = format!(
        "these are the settings of {}, so both run the same app",
        other.display()
    );
    vec![Finding::warning(
        codes::settings::PARENTS_SETTINGS,
        place,
        what,
        format!("write {}", fix.display()),
    )]
}

fn readable_secret(path: &Path) -> Vec<Finding> {
    let open = fs::metadata(path).is_ok_and(|m| m.mode() & 0o044 != 0);
    if !open {
        return Vec::new();
    }
    vec![Finding::warning(
        codes::settings::READABLE_SECRET,
        path.display().to_string(),
        "others on this machine may read the secret in it",
        format!("chmod 600 {}", path.display()),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn run_in(dir: &Scratch, explicit: Option<&Path>) -> (bool, String) {
        let mut out = Vec::new();
        let exe = dir.join("mysite.fcgi");
        let candidates = match explicit {
            Some(path) => Candidates::named(path.to_owned()),
            None => Candidates::of(&exe),
        };
        let site = Site::new(&exe, "mysite", &candidates);
        let good = run(&site, None, false, &mut out).unwrap();
        (good, String::from_utf8(out).unwrap())
    }

    fn codes(findings: &[Finding]) -> Vec<String> {
        let code = |f: &Finding| f.code.map_or(String::from("ok"), |code| code.to_string());
        findings.iter().map(code).collect()
    }

    #[test]
    fn one_run_reports_all_findings() {
        let dir = Scratch::new("check-site");
        dir.write("mysite.fcgi", "#!/bin/sh\nexit 3\n", 0o755);
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
        assert!(text.contains("app app:application: imported in"), "{text}");
        assert!(text.contains("hands requests to fcgid-script"), "{text}");
        assert!(!good, "{text}");
        assert!(
            text.contains("RF0250 FastCGI, at the end: it left with status 3"),
            "{text}"
        );

        dir.write("app.py", "import no_such_thing_at_all\n", 0o644);
        dir.mode("mysite.fcgi", 0o775);
        let (good, text) = run_in(&dir, None);
        assert!(!good, "{text}");
        for want in [
            "No module named 'no_such_thing_at_all'",
            "if it is your own, it must be in",
            "RF0211",
            "chmod 755",
            "the site cannot be served as it is",
        ] {
            assert!(text.contains(want), "{want} is missing in {text}");
        }
    }

    #[test]
    fn settings_that_need_home_are_reported() {
        let dir = Scratch::new("check-homeless");
        let toml = dir.write(
            "mysite.toml",
            "[app]\nwsgi = \"app:application\"\n[log]\nfile = \"~/x.log\"\n",
            0o644,
        );
        let findings = home_needed(&toml, &Options::default());
        assert_eq!(codes(&findings), ["RF0161"]);
        assert_eq!(findings[0].place, "mysite.toml:4:8");
    }

    #[test]
    fn missing_settings_are_an_error_that_says_where_they_belong() {
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
        assert_eq!(codes(&permissions(&exe, &dir)), ["ok"]);
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
}
