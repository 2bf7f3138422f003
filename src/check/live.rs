//! Asks the live site through its URL: whether requests reach this program, what arrives of them, and what visitors get.
//!
//! The fronts answer some of these requests by themselves (`echo`). Nothing of the site is changed.

use super::http::{Client, Response};
use super::private::{is_sent, private_files, url_of};
use super::rehearsal::Pages;
use super::url::Url;
use super::{Report, Site};
use crate::bytes::percent_decode;
use crate::codes::{self, url as code};
use crate::config::{Config, Finding, ScriptName};
use crate::echo::{self, KEY, Key};
use crate::rundir::{self, Entry, RuntimeDir, replace};
use crate::status::collect::RuntimeDirs;
use crate::status::command::site_name;
use crate::workers::spawn;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The sizes of the uploads, in KiB. mod_fcgid's limit is 128 KiB.
const UPLOADS: [usize; 5] = [1, 100, 200, 1 << 10, 16 << 10];
/// The most redirects to follow.
const REDIRECTS: usize = 8;
/// A path and a query that a wrong rule changes.
const ODD: &str = "a%20b/%C3%A9;c?d=%20e";

/// The site at its URL.
struct Live<'a> {
    site: &'a Site<'a>,
    config: &'a Config,
    /// The URL of the executable's directory.
    url: Url,
    client: Client,
    keys: Keys,
    /// The number of the last request for an echo.
    asked: u64,
}

/// The key of the echo, and the runtime directories in which it is. They do not outlive each other.
struct Keys {
    key: Key,
    /// The one that fronts use which the web server starts. It may be another user's.
    own: Option<RuntimeDir>,
    dirs: Vec<RuntimeDir>,
    /// Another user with processes of this site.
    foreign: Option<u32>,
}

/// What arrived of a request, one fact a line.
struct Facts(String);

/// Asks the site at `url`, and reports what is found.
pub(super) fn ask(
    url: &Url,
    site: &Site,
    config: &Config,
    pages: &Pages,
    report: &mut Report,
) -> io::Result<()> {
    let python = pages.python.as_ref().map(|path| {
        let environment = spawn::environment(config, false);
        Client::Python(path.clone(), environment)
    });
    let Some(client) = Client::curl().or(python) else {
        let what = "there is neither curl nor Python to send requests with";
        return report.add(Finding::error(code::UNREACHED, url.to_string(), what, ""));
    };
    let keys = match Keys::write(site, config) {
        Ok(keys) => keys,
        Err(error) => {
            let code = codes::upkeep::NO_RUNTIME_DIR;
            return report.add(Finding::error(code, url.to_string(), error.to_string(), ""));
        }
    };
    let mut live = Live {
        site,
        config,
        url: url.as_directory(),
        client,
        keys,
        asked: 0,
    };
    let Some(reached) = live.reach(report)? else {
        return Ok(());
    };
    if reached {
        report.add(live.path())?;
        report.add(live.authorization())?;
        live.uploads(report)?;
    }
    let is_site = reached || live.keys.foreign.is_some();
    if is_site {
        live.redirects(report)?;
        live.visit(pages, report)?;
    }
    live.private(is_site, report)
}

impl Live<'_> {
    /// Sends a request for the echo. Without facts, the response is not from a front of this account.
    fn echo(
        &mut self,
        method: &str,
        url: &Url,
        headers: &[(&str, String)],
        size: usize,
    ) -> Result<(Response, Option<Facts>), String> {
        self.asked += 1;
        let key = &self.keys.key;
        let mut headers = headers.to_vec();
        headers.push((echo::HEADER, key.ask(self.asked)));
        let response = self.client.send(method, url, &headers, size)?;
        let facts = key.told(self.asked, &response.body);
        let facts = facts.map(|facts| Facts(facts.to_owned()));
        Ok((response, facts))
    }

    /// Whether a request reaches this program; None: no server answers. Follows redirects of the web server, and stays at
    /// the URL to which they lead.
    fn reach(&mut self, report: &mut Report) -> io::Result<Option<bool>> {
        for _ in 0..REDIRECTS {
            let (url, place) = (self.url.clone(), self.url.to_string());
            let (response, facts) = match self.echo("GET", &url, &[], 0) {
                Ok(response) => response,
                Err(why) => {
                    report.add(Finding::error(code::UNREACHED, place, why, ""))?;
                    return Ok(None);
                }
            };
            if let Some(facts) = facts {
                return self.reached(&facts, report).map(Some);
            }
            let Some(next) = response.location().and_then(|to| url.join(to)) else {
                report.add(self.not_reached(&response))?;
                return Ok(Some(false));
            };
            report.add(Finding::good(place, format!("redirects to {next}")))?;
            self.url = next.as_directory();
        }
        let what = "the web server redirects it in a circle";
        let place = self.url.to_string();
        report.add(Finding::error(code::BAD_REDIRECT, place, what, ""))?;
        Ok(None)
    }

    fn reached(&self, facts: &Facts, report: &mut Report) -> io::Result<bool> {
        let place = self.url.to_string();
        let name = site_name(&self.site.candidates.nearest());
        if facts.get("site") != rundir::site(name.as_bytes()) {
            let what = "it reaches another site of this account";
            report.add(Finding::error(code::ANOTHER_PROGRAM, place, what, ""))?;
            return Ok(false);
        }
        let what = format!(
            "requests reach this program (process {}, {}, {})",
            facts.get("pid"),
            facts.get("role"),
            facts.get("software"),
        );
        report.add(Finding::good(&place, what))?;
        if self.url.https && facts.get("https") != "yes" && facts.get("forwarded") != "yes" {
            let what = "requests come over https, but arrive as if they came over http";
            report.add(Finding::warning(code::NO_HTTPS, place, what, ""))?;
        }
        Ok(true)
    }

    /// The finding for a response that is not from this program.
    fn not_reached(&self, response: &Response) -> Finding {
        let (place, code) = (self.url.to_string(), code::ANOTHER_PROGRAM);
        if let Some(uid) = self.keys.foreign {
            let what = format!(
                "whether it reaches this program cannot be told: processes of this site run as user {uid}"
            );
            return Finding::warning(code, place, what, "run check as that user");
        }
        let (what, fix) = match response.status {
            _ if response.body.starts_with("\x7fELF") => (
                String::from("the web server sends the executable instead of running it"),
                "use htaccess-templates/site.htaccess, and ask the host whether it allows CGI or FastCGI",
            ),
            401 => (
                String::from("the web server asks for a password before it passes requests on"),
                "",
            ),
            status => (
                format!(
                    "{status} comes from {}, not from this program",
                    response.field("Server").unwrap_or("another program")
                ),
                "see whether .htaccess is in effect there, and look into the web server's log",
            ),
        };
        Finding::error(code, place, what, fix)
    }

    /// Whether the path and the query of a URL arrive as they were sent.
    fn path(&mut self) -> Finding {
        let url = self.url.at(&format!("{}{ODD}", self.url.path));
        let (path, query) = ODD.split_once('?').unwrap_or_default();
        let sent =
            |text: &str| String::from_utf8_lossy(&percent_decode(text.as_bytes())).into_owned();
        let script_name = sent(self.url.path.trim_end_matches('/'));
        let path_info = sent(&format!("/{path}"));
        let what = match self.echo("GET", &url, &[], 0) {
            Err(why) => why,
            Ok((response, None)) => {
                format!("it does not reach this program: {}", response.status)
            }
            Ok((_, Some(facts))) => {
                let forced = matches!(self.config.app.script_name, ScriptName::Forced(_));
                let arrived = ["script_name", "path_info", "query"].map(|name| facts.get(name));
                if forced || arrived == [&*script_name, &*path_info, query] {
                    return Finding::good(url.to_string(), "its path and query arrive as sent");
                }
                let [script_name, path_info, query] = arrived;
                format!(
                    "SCRIPT_NAME is \"{script_name}\", PATH_INFO \"{path_info}\", QUERY_STRING \"{query}\""
                )
            }
        };
        Finding::error(code::WRONG_PATH, url.to_string(), what, "")
    }

    fn authorization(&mut self) -> Finding {
        let (url, place) = (self.url.clone(), self.url.to_string());
        let header = ("Authorization", String::from("Bearer runfcgi-check"));
        let arrived = match self.echo("GET", &url, &[header], 0) {
            Ok((_, Some(facts))) if facts.get("authorization") == "yes" => {
                return Finding::good(place, "the Authorization header arrives");
            }
            Ok((response, None)) => {
                format!("a request with Authorization gets {}", response.status)
            }
            Ok(_) => String::from("the Authorization header does not arrive"),
            Err(why) => format!("a request with Authorization fails: {why}"),
        };
        let fix = "add the lines of htaccess-templates/authorization.htaccess to .htaccess";
        Finding::warning(code::NO_AUTHORIZATION, place, arrived, fix)
    }

    /// Uploads more and more, until an upload is refused.
    fn uploads(&mut self, report: &mut Report) -> io::Result<()> {
        let (url, place) = (self.url.clone(), self.url.to_string());
        let mut arrived: Vec<(String, String)> = Vec::new();
        for kib in UPLOADS {
            let (size, name) = (kib << 10, in_words(kib));
            if size as u64 > self.config.limits.max_body {
                break;
            }
            let why = match self.echo("POST", &url, &[], size) {
                Ok((_, Some(facts))) if facts.get("body") == size.to_string() => {
                    let role = facts.get("role").to_owned();
                    if arrived.last().is_none_or(|(_, before)| *before != role) {
                        arrived.push((name.clone(), role));
                    }
                    if let Some((upto, _)) = arrived.last_mut() {
                        *upto = name;
                    }
                    continue;
                }
                Ok((_, Some(facts))) => format!("{} of {size} bytes arrive", facts.get("body")),
                Ok((response, None)) => format!("the web server answers with {}", response.status),
                Err(why) => why,
            };
            let what = format!("an upload of {name} is refused: {why}");
            report.add(Finding::warning(code::UPLOADS_REFUSED, &place, what, ""))?;
            break;
        }
        let ways = arrived
            .iter()
            .map(|(upto, role)| format!("up to {upto} by {role}"));
        let ways: Vec<String> = ways.collect();
        match ways.is_empty() {
            true => Ok(()),
            false => report.add(Finding::good(
                place,
                format!("uploads arrive: {}", ways.join(", ")),
            )),
        }
    }

    /// Whether http and an address without its slash are redirected.
    fn redirects(&mut self, report: &mut Report) -> io::Result<()> {
        let url = self.url.clone();
        if url.https && !url.authority.contains(':') {
            let http = Url {
                https: false,
                ..url.clone()
            };
            // No answer over http is fine, too.
            if let Ok(response) = self.client.send("GET", &http, &[], 0) {
                report.add(assess_http(&http, &response))?;
            }
        }
        let bare = url.at(url.path.trim_end_matches('/'));
        if bare.path.is_empty() {
            return Ok(());
        }
        let place = bare.to_string();
        report.add(match self.client.send("GET", &bare, &[], 0) {
            Ok(response) if response.location().and_then(|to| bare.join(to)) == Some(url) => {
                Finding::good(place, "redirects to the address with a slash")
            }
            Ok(response) if response.status < 400 => Finding::good(place, "is answered"),
            Ok(response) => {
                let what = format!("without its slash the address gets {}", response.status);
                Finding::warning(code::BAD_REDIRECT, place, what, "")
            }
            Err(why) => Finding::warning(code::BAD_REDIRECT, place, why, ""),
        })
    }

    /// Opens the front page and the login page, with the first style sheet or script of each.
    fn visit(&self, pages: &Pages, report: &mut Report) -> io::Result<()> {
        let login = pages.login.as_ref().map(|login| {
            let base = self.url.path.trim_end_matches('/');
            self.url.at(&format!("{base}{login}"))
        });
        for url in [Some(self.url.clone()), login].into_iter().flatten() {
            let place = url.to_string();
            let (end, response) = match self.follow(&url) {
                Ok(end) => end,
                Err(why) => {
                    report.add(Finding::error(code::BAD_REDIRECT, place, why, ""))?;
                    continue;
                }
            };
            let redirected = match end == url {
                true => String::new(),
                false => format!(", after a redirect to {end}"),
            };
            let what = format!("a visitor gets {}{redirected}", response.status);
            report.add(match response.status {
                400 | 500.. => Finding::error(code::VISITORS_FAIL, place, what, ""),
                _ => Finding::good(place, what),
            })?;
            let file = first_file(&response.body).and_then(|file| end.join(file));
            if let Some(file) = file.filter(|file| file.authority == end.authority) {
                report.add(match self.follow(&file) {
                    Ok((_, response)) if response.status == 200 => {
                        Finding::good(file.to_string(), "the file is there")
                    }
                    Ok((_, response)) => {
                        let what =
                            format!("{url} needs it, and a visitor gets {}", response.status);
                        Finding::warning(code::NO_STATIC_FILE, file.to_string(), what, "")
                    }
                    Err(why) => Finding::warning(code::NO_STATIC_FILE, file.to_string(), why, ""),
                })?;
            }
        }
        Ok(())
    }

    /// The response to a visitor whose browser follows redirects, and its URL.
    fn follow(&self, from: &Url) -> Result<(Url, Response), String> {
        let mut url = from.clone();
        for _ in 0..REDIRECTS {
            let response = self.client.send("GET", &url, &[], 0);
            let response = response.map_err(|why| format!("{url} cannot be reached: {why}"))?;
            match response.location().and_then(|to| url.join(to)) {
                Some(next) => url = next,
                None => return Ok((url, response)),
            }
        }
        Err(format!(
            "there are more than {REDIRECTS} redirects, the last one to {url}"
        ))
    }

    /// Whether visitors can read private files. `is_site`: the URL is the one of the site, so it counts if they cannot.
    fn private(&self, is_site: bool, report: &mut Report) -> io::Result<()> {
        let mut hidden = Vec::new();
        for path in private_files(self.site.exe, self.config) {
            let Some(url) = url_of(&path, self.site.exe, &self.url) else {
                continue;
            };
            match self.client.send("GET", &url, &[], 0) {
                Ok(response) if response.status == 200 && is_sent(&path, &response.body) => {
                    let what = format!("visitors can read {}", path.display());
                    report.add(Finding::error(code::PUBLIC_FILE, url.to_string(), what, ""))?;
                }
                Ok(_) => hidden.extend(
                    path.file_name()
                        .map(|name| name.to_string_lossy().into_owned()),
                ),
                Err(why) => {
                    return report.add(Finding::error(code::UNREACHED, url.to_string(), why, ""));
                }
            }
        }
        if is_site && !hidden.is_empty() {
            let what = format!("visitors cannot read {}", hidden.join(", "));
            report.add(Finding::good(self.url.to_string(), what))?;
        }
        Ok(())
    }
}

impl Keys {
    /// Writes a new key into each runtime directory in which a front of this site may look.
    fn write(site: &Site, config: &Config) -> io::Result<Keys> {
        let (name, named) = (site.candidates.name(), config.server.runtime_dir.as_deref());
        let own = RuntimeDir::open(named, site.dir(), name.as_os_str().as_encoded_bytes());
        let found = RuntimeDirs::find(name, named, site.dir());
        let own = match own {
            Err(error) if found.foreign.is_empty() => return Err(error),
            own => own.ok(),
        };
        let mut key = [0; KEY];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let us = nix::unistd::geteuid().as_raw();
        let ours = |dir: &&PathBuf| fs::metadata(dir).is_ok_and(|meta| meta.uid() == us);
        let keys = Keys {
            key: Key(key),
            dirs: found
                .readable
                .iter()
                .filter(ours)
                .map(|dir| RuntimeDir::of(dir))
                .collect(),
            own,
            foreign: found.foreign.first().map(|(_, uid)| *uid),
        };
        for dir in &keys.dirs {
            let written = replace(&dir.file(Entry::Echo), &key);
            // One of another site may be full.
            if keys
                .own
                .as_ref()
                .is_some_and(|own| own.path() == dir.path())
            {
                written?;
            }
        }
        Ok(keys)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = fs::remove_file(dir.file(Entry::Echo));
        }
        if let Some(own) = &self.own {
            own.leave();
        }
    }
}

impl Facts {
    fn get(&self, name: &str) -> &str {
        let mut facts = self.0.lines().filter_map(|line| line.split_once(' '));
        facts.find(|fact| fact.0 == name).map_or("", |fact| fact.1)
    }
}

/// The finding for the answer over http to a site with https.
fn assess_http(http: &Url, response: &Response) -> Finding {
    let place = http.to_string();
    match response.location().and_then(|to| http.join(to)) {
        Some(next) if next.https => Finding::good(place, format!("redirects to {next}")),
        None if response.status >= 400 => Finding::good(place, "is refused without https"),
        _ => Finding::warning(
            code::BAD_REDIRECT,
            place,
            "http is answered without a redirect to https",
            "SECURE_SSL_REDIRECT = True in Django, or a rule in .htaccess",
        ),
    }
}

/// The first style sheet or script that a page names.
fn first_file(html: &str) -> Option<&str> {
    let is_file = |text: &&str| {
        let path = text.split('?').next().unwrap_or_default();
        (path.ends_with(".css") || path.ends_with(".js")) && !path.contains(char::is_whitespace)
    };
    html.split(['"', '\'']).find(is_file)
}

fn in_words(kib: usize) -> String {
    match kib >> 10 {
        0 => format!("{kib} KiB"),
        mib => format!("{mib} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_redirected_to_https() {
        let http = Url::parse("http://a/").unwrap();
        for (head, code) in [
            ("301 x\r\nLocation: https://a/", "ok"),
            ("302 x\r\nLocation: http://a/b", "RF0905"),
            ("200 OK", "RF0905"),
            ("403 Forbidden", "ok"),
        ] {
            let response = Response::parse(&format!("HTTP/1.1 {head}\r\n\r\n")).unwrap();
            let found = crate::config::findings::codes(&[assess_http(&http, &response)]);
            assert_eq!(found, [code], "{head}");
        }
    }

    #[test]
    fn pages_name_files() {
        for (html, file) in [
            (
                "<link href='/a.html'><link href=\"/s/b.css?v=1\">",
                Some("/s/b.css?v=1"),
            ),
            ("<script src=\"c.js\"></script>", Some("c.js")),
            ("<p>'see the file d.css'", None),
        ] {
            assert_eq!(first_file(html), file, "{html}");
        }
    }
}
