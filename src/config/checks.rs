//! What a configuration must fulfil beyond each single value.
//!
//! Looks at the file system only to see whether the app's directory is there.

use super::findings::Finding;
use super::{Address, Config, Endpoint, Protocol, Server, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where each setting was written.
#[derive(Default)]
pub(crate) struct Places {
    known: BTreeMap<(String, String), String>,
    /// Written, but with a bad value that is already reported.
    spoilt: BTreeSet<(String, String)>,
}

impl Places {
    pub(crate) fn set(&mut self, section: &str, key: &str, place: String) {
        let name = (section.to_string(), key.to_string());
        self.known.insert(name, place);
    }

    pub(crate) fn spoil(&mut self, section: &str, key: &str) {
        let name = (section.to_string(), key.to_string());
        self.spoilt.insert(name);
    }

    fn spoilt(&self, section: &str, key: &str) -> bool {
        let name = (section.to_string(), key.to_string());
        self.spoilt.contains(&name)
    }

    fn of(&self, section: &str, key: &str) -> String {
        let name = (section.to_string(), key.to_string());
        match self.known.get(&name) {
            Some(place) => place.clone(),
            None => format!("[{section}]"),
        }
    }
}

/// Appends all that is wrong.
pub(crate) fn check(config: &Config, places: &Places, findings: &mut Vec<Finding>) {
    app(config, places, findings);
    env(config, places, findings);
    children(&config.server, places, findings);
    secret(&config.server, places, findings);
    status(&config.status, places, findings);
}

fn app(config: &Config, places: &Places, findings: &mut Vec<Finding>) {
    let app = &config.app;
    let named = app.settings.is_some() || app.wsgi.is_some();
    if !named && !places.spoilt("app", "settings") && !places.spoilt("app", "wsgi") {
        findings.push(Finding::error(
            "RF0110",
            places.of("app", "settings"),
            "neither settings nor wsgi is given, so there is no app to run",
            "below [app] write settings = \"mysite.settings\" (Django), or wsgi = \"module:callable\"",
        ));
    }
    if let Some(path) = &app.path
        && !path.is_dir()
        && !places.spoilt("app", "path")
    {
        let what = match path.symlink_metadata() {
            Ok(_) => "is not a directory that we may enter",
            Err(_) => "does not exist",
        };
        findings.push(Finding::error(
            "RF0111",
            places.of("app", "path"),
            format!("path: {} {what}", path.display()),
            "name the directory in which the package of the app lies",
        ));
    }
}

fn env(config: &Config, places: &Places, findings: &mut Vec<Finding>) {
    for (name, value) in &config.env {
        let place = places.of("env", name);
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        if !good {
            findings.push(Finding::error(
                "RF0112",
                place,
                format!("{name:?} is no name of an environment variable"),
                "use letters, digits and _",
            ));
        } else if value.contains('\0') {
            findings.push(Finding::error(
                "RF0112",
                place,
                format!("the value of {name} holds a NUL byte"),
                "remove it",
            ));
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
}

fn children(server: &Server, places: &Places, findings: &mut Vec<Finding>) {
    let ordered = [
        ("minspare", server.minspare, "maxspare", server.maxspare),
        (
            "maxspare",
            server.maxspare,
            "maxchildren",
            server.maxchildren,
        ),
        (
            "minspare",
            server.minspare,
            "maxchildren",
            server.maxchildren.filter(|_| server.maxspare.is_none()),
        ),
    ];
    for (low, a, high, b) in ordered {
        if let (Some(a), Some(b)) = (a, b)
            && a > b
        {
            findings.push(Finding::error(
                "RF0114",
                places.of("server", low),
                format!("{low} = {a} is above {high} = {b}"),
                "minspare <= maxspare <= maxchildren must hold",
            ));
        }
    }
}

/// A secret that is shorter is easily found by trying.
const SHORT_SECRET: usize = 12;

fn status(status: &Status, places: &Places, findings: &mut Vec<Finding>) {
    let secret = status.secret.as_deref().filter(|s| !s.is_empty());
    let (key, what) = match (&status.path, secret) {
        (Some(_), None) => (
            "path",
            "path is given without secret, so there is no status page",
        ),
        (None, Some(_)) => (
            "secret",
            "secret is given without path, so there is no status page",
        ),
        (Some(_), Some(secret)) if secret.len() < SHORT_SECRET => (
            "secret",
            "the secret of the status page is short enough to be guessed",
        ),
        _ => return,
    };
    if !places.spoilt("status", "path") && !places.spoilt("status", "secret") {
        findings.push(Finding::warning(
            "RF0119",
            places.of("status", key),
            what,
            "below [status] write path = \"/-/status\" and secret = a long random text",
        ));
    }
}

fn secret(server: &Server, places: &Places, findings: &mut Vec<Finding>) {
    if server.secret.as_ref().is_some_and(|s| !s.is_empty()) {
        return;
    }
    for endpoint in &server.endpoints {
        if let Address::Tcp(address) = endpoint.address
            && endpoint.protocol == Protocol::Ajp
            && !address.ip().is_loopback()
        {
            findings.push(Finding::error(
                "RF0115",
                places.of("server", "host"),
                format!("AJP at {address} without a secret would believe whoever can reach it"),
                "set secret here and in the web server, or listen at 127.0.0.1 or at a socket",
            ));
        }
    }
}

/// Where the file's `host`, `port` and `socket` say to listen.
pub(crate) fn endpoints(server: &Server, places: &Places) -> Result<Vec<Endpoint>, Finding> {
    let error = |key: &str, what: &str, fix: &str| {
        Err(Finding::error(
            "RF0116",
            places.of("server", key),
            what,
            fix,
        ))
    };
    let spoilt = |key| places.spoilt("server", key);
    let address = match (&server.socket, &server.host, server.port) {
        (None, None, None) => return Ok(Vec::new()),
        (Some(path), None, None) => Address::Unix(path.clone()),
        (None, Some(host), Some(port)) => match ip(host) {
            Ok(ip) => Address::Tcp(SocketAddr::new(ip, port)),
            Err(what) => return error("host", &what, HOST_FIX),
        },
        (Some(_), _, _) => {
            return error(
                "socket",
                "socket is given together with host or port",
                "keep socket, or host and port",
            );
        }
        (None, Some(_), None) if spoilt("port") => return Ok(Vec::new()),
        (None, Some(_), None) => {
            return error("host", "host is given without port", "add port = 3033");
        }
        (None, None, Some(_)) if spoilt("host") => return Ok(Vec::new()),
        (None, None, Some(_)) => {
            return error(
                "port",
                "port is given without host",
                "add host = \"127.0.0.1\"",
            );
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
