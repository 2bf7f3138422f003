//! What a configuration must fulfil beyond each single value.
//!
//! Looks at the file system only to see whether the app's directory is there.

use super::findings::Finding;
use super::{Address, App, Config, Endpoint, Protocol, Server, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where each setting was written, by `section.key`.
#[derive(Default)]
pub(crate) struct Places {
    known: BTreeMap<String, String>,
    /// Written, but with a bad value that is already reported.
    spoilt: BTreeSet<String>,
}

impl Places {
    pub(crate) fn set(&mut self, name: String, place: String) {
        self.known.insert(name, place);
    }

    pub(crate) fn spoil(&mut self, name: String) {
        self.spoilt.insert(name);
    }

    /// Whether one of them is.
    fn spoilt(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.spoilt.contains(*name))
    }

    fn of(&self, name: &str) -> String {
        let (section, _) = name.split_once('.').unwrap_or((name, ""));
        let known = self.known.get(name).cloned();
        known.unwrap_or_else(|| format!("[{section}]"))
    }

    fn error(&self, code: &'static str, name: &str, what: impl Into<String>, fix: &str) -> Finding {
        Finding::error(code, self.of(name), what, fix)
    }
}

/// Appends all that is wrong.
pub(crate) fn check(config: &Config, places: &Places, findings: &mut Vec<Finding>) {
    findings.extend(app(&config.app, places));
    findings.extend(env(config, places));
    findings.extend(children(&config.server, places));
    findings.extend(secret(&config.server, places));
    findings.extend(status(&config.status, places));
}

fn app(app: &App, places: &Places) -> Vec<Finding> {
    let mut findings = Vec::new();
    let named = app.settings.is_some() || app.wsgi.is_some();
    if !named && !places.spoilt(&["app.settings", "app.wsgi"]) {
        findings.push(places.error(
            "RF0110",
            "app.settings",
            "neither settings nor wsgi is given, so there is no app to run",
            "below [app] write settings = \"mysite.settings\" (Django), or wsgi = \"module:callable\"",
        ));
    }
    if let Some(path) = &app.path
        && !path.is_dir()
        && !places.spoilt(&["app.path"])
    {
        let what = match path.symlink_metadata() {
            Ok(_) => "is not a directory that we may enter",
            Err(_) => "does not exist",
        };
        findings.push(places.error(
            "RF0111",
            "app.path",
            format!("path: {} {what}", path.display()),
            "name the directory in which the package of the app lies",
        ));
    }
    findings
}

fn env(config: &Config, places: &Places) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, value) in &config.env {
        let place = places.of(&format!("env.{name}"));
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        if !good {
            let what = format!("{name:?} is no name of an environment variable");
            findings.push(Finding::error(
                "RF0112",
                place,
                what,
                "use letters, digits and _",
            ));
        } else if value.contains('\0') {
            let what = format!("the value of {name} holds a NUL byte");
            findings.push(Finding::error("RF0112", place, what, "remove it"));
        } else if name == "DJANGO_SETTINGS_MODULE"
            && config.app.settings.as_ref().is_some_and(|s| s != value)
        {
            findings.push(Finding::warning(
                "RF0113",
                place,
                "DJANGO_SETTINGS_MODULE is given here and, otherwise, as [app] settings",
                "keep [app] settings, which wins",
            ));
        }
    }
    findings
}

fn children(server: &Server, places: &Places) -> Vec<Finding> {
    let given = [
        ("minspare", server.minspare),
        ("maxspare", server.maxspare),
        ("maxchildren", server.maxchildren),
    ];
    let given: Vec<_> = given
        .iter()
        .filter_map(|(key, n)| Some((key, (*n)?)))
        .collect();
    let wrong = given.windows(2).filter(|pair| pair[0].1 > pair[1].1);
    wrong
        .map(|pair| {
            let ((low, a), (high, b)) = (pair[0], pair[1]);
            places.error(
                "RF0114",
                &format!("server.{low}"),
                format!("{low} = {a} is above {high} = {b}"),
                "minspare <= maxspare <= maxchildren must hold",
            )
        })
        .collect()
}

/// A secret that is shorter is easily found by trying.
const SHORT_SECRET: usize = 12;

fn status(status: &Status, places: &Places) -> Option<Finding> {
    let secret = status.secret.as_deref().filter(|s| !s.is_empty());
    let (name, what) = match (&status.path, secret) {
        (Some(_), None) => (
            "status.path",
            "path is given without secret, so there is no status page",
        ),
        (None, Some(_)) => (
            "status.secret",
            "secret is given without path, so there is no status page",
        ),
        (Some(_), Some(secret)) if secret.len() < SHORT_SECRET => (
            "status.secret",
            "the secret of the status page is short enough to be guessed",
        ),
        _ => return None,
    };
    let fix = "below [status] write path = \"/-/status\" and secret = a long random text";
    let new = !places.spoilt(&["status.path", "status.secret"]);
    new.then(|| Finding::warning("RF0120", places.of(name), what, fix))
}

fn secret(server: &Server, places: &Places) -> Vec<Finding> {
    let exposed = server
        .endpoints
        .iter()
        .filter_map(|endpoint| match endpoint.address {
            Address::Tcp(address) if endpoint.protocol == Protocol::Ajp => Some(address),
            _ => None,
        });
    let exposed = exposed.filter(|address| {
        !address.ip().is_loopback() && server.secret.as_deref().is_none_or(str::is_empty)
    });
    exposed
        .map(|address| {
            places.error(
                "RF0115",
                "server.host",
                format!("AJP at {address} without a secret would believe whoever can reach it"),
                "set secret here and in the web server, or listen at 127.0.0.1 or at a socket",
            )
        })
        .collect()
}

/// Where the file's `host`, `port` and `socket` say to listen.
pub(crate) fn endpoints(server: &Server, places: &Places) -> Result<Vec<Endpoint>, Finding> {
    let error = |name, what: &str, fix| Err(places.error("RF0116", name, what, fix));
    let address = match (&server.socket, &server.host, server.port) {
        (None, None, None) => return Ok(Vec::new()),
        (Some(path), None, None) => Address::Unix(path.clone()),
        (None, Some(host), Some(port)) => match ip(host) {
            Ok(ip) => Address::Tcp(SocketAddr::new(ip, port)),
            Err(what) => return error("server.host", &what, HOST_FIX),
        },
        (Some(_), _, _) => {
            let what = "socket is given together with host or port";
            return error("server.socket", what, "keep socket, or host and port");
        }
        (None, _, None) if places.spoilt(&["server.port"]) => return Ok(Vec::new()),
        (None, _, None) => {
            return error(
                "server.host",
                "host is given without port",
                "add port = 3033",
            );
        }
        (None, None, _) if places.spoilt(&["server.host"]) => return Ok(Vec::new()),
        (None, None, _) => {
            let fix = "add host = \"127.0.0.1\"";
            return error("server.port", "port is given without host", fix);
        }
    };
    Ok(vec![Endpoint {
        protocol: server.protocol,
        address,
    }])
}

/// The cure for a bad host.
pub(crate) const HOST_FIX: &str =
    "write an address such as 127.0.0.1, [::1] or 0.0.0.0, or localhost";

/// The address that a `host` names.
pub(crate) fn ip(host: &str) -> Result<IpAddr, String> {
    let bare = host.trim();
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let inner = bare
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(bare);
    inner.parse().map_err(|_| match host {
        "" => "host is empty".to_string(),
        _ => format!("host {host:?} is no IP address, and names are not looked up"),
    })
}
