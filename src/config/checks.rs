//! Checks that involve more than one setting, or more than the syntax of a value.
//!
//! The only file system access is to see whether the app's directory exists.

use super::findings::Finding;
use super::{Address, App, Config, Endpoint, Protocol, Server};
use crate::codes::{self, Code};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The place where each setting was written, by `section.key`.
#[derive(Default)]
pub(crate) struct Places {
    known: BTreeMap<String, String>,
    /// Settings with a bad value that has already been reported.
    invalid: BTreeSet<String>,
}

impl Places {
    pub(crate) fn set(&mut self, name: String, place: String) {
        self.known.insert(name, place);
    }

    pub(crate) fn mark_invalid(&mut self, name: String) {
        self.invalid.insert(name);
    }

    /// Whether any of these settings has a bad value.
    fn any_invalid(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.invalid.contains(*name))
    }

    fn of(&self, name: &str) -> String {
        let (section, _) = name.split_once('.').unwrap_or((name, ""));
        let known = self.known.get(name).cloned();
        known.unwrap_or_else(|| format!("[{section}]"))
    }

    fn error(&self, code: Code, name: &str, what: impl Into<String>, fix: &str) -> Finding {
        Finding::error(code, self.of(name), what, fix)
    }
}

/// Appends a finding for everything that is wrong.
pub(crate) fn check(config: &Config, places: &Places, findings: &mut Vec<Finding>) {
    findings.extend(app(&config.app, places));
    findings.extend(env(config, places));
    findings.extend(children(&config.server, places));
    findings.extend(secret(&config.server, places));
    let (status, owner) = (&config.status, &config.owner);
    let (path, secret) = (status.path.as_deref(), status.secret.as_deref());
    findings.extend(page(
        "status",
        codes::settings::HALF_STATUS_PAGE,
        path,
        secret,
        places,
    ));
    let (path, secret) = (owner.path.as_deref(), owner.secret.as_deref());
    findings.extend(page(
        "owner",
        codes::settings::HALF_DESK,
        path,
        secret,
        places,
    ));
}

fn app(app: &App, places: &Places) -> Vec<Finding> {
    let mut findings = Vec::new();
    let named = app.settings.is_some() || app.wsgi.is_some();
    if !named && !places.any_invalid(&["app.settings", "app.wsgi"]) {
        findings.push(places.error(
            codes::settings::NO_APP,
            "app.settings",
            "neither settings nor wsgi is given, so there is no app to run",
            "below [app] write settings = \"mysite.settings\" (Django), or wsgi = \"module:callable\"",
        ));
    }
    if let Some(path) = &app.path
        && !path.is_dir()
        && !places.any_invalid(&["app.path"])
    {
        let what = match path.symlink_metadata() {
            Ok(_) => "is not a directory that this user may enter",
            Err(_) => "does not exist",
        };
        findings.push(places.error(
            codes::settings::NO_APP_DIRECTORY,
            "app.path",
            format!("path: {} {what}", path.display()),
            "set it to the directory that contains the app's package",
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
                codes::settings::BAD_VARIABLE,
                place,
                what,
                "use letters, digits and _",
            ));
        } else if value.contains('\0') {
            let what = format!("the value of {name} contains a NUL byte");
            findings.push(Finding::error(
                codes::settings::BAD_VARIABLE,
                place,
                what,
                "remove it",
            ));
        } else if name == "DJANGO_SETTINGS_MODULE"
            && config.app.settings.as_ref().is_some_and(|s| s != value)
        {
            findings.push(Finding::warning(
                codes::settings::SETTINGS_TWICE,
                place,
                "DJANGO_SETTINGS_MODULE differs from [app] settings",
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
                codes::settings::CHILDREN_ORDER,
                &format!("server.{low}"),
                format!("{low} = {a} is above {high} = {b}"),
                "minspare <= maxspare <= maxchildren must hold",
            )
        })
        .collect()
}

/// Secrets shorter than this, in bytes, are easily guessed.
const MIN_SECRET: usize = 12;

/// Checks that a page for the owner has both a path and a secret: those of `section`.
fn page(
    section: &'static str,
    code: Code,
    path: Option<&str>,
    secret: Option<&str>,
    places: &Places,
) -> Option<Finding> {
    let secret = secret.filter(|s| !s.is_empty());
    let (key, what) = match (path, secret) {
        (Some(_), None) => ("path", "path is given without secret, so there is no page"),
        (None, Some(_)) => (
            "secret",
            "secret is given without path, so there is no page",
        ),
        (Some(_), Some(secret)) if secret.len() < MIN_SECRET => {
            ("secret", "the secret is short enough to be guessed")
        }
        _ => return None,
    };
    let [name, path, secret] = [key, "path", "secret"].map(|key| format!("{section}.{key}"));
    let fix = format!("below [{section}] set path, and set secret to a long random text");
    let new = !places.any_invalid(&[&path, &secret]);
    new.then(|| Finding::warning(code, places.of(&name), what, fix))
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
                codes::settings::OPEN_AJP,
                "server.host",
                format!("AJP at {address} without a secret would trust anyone who can reach it"),
                "set secret here and in the web server, or listen on 127.0.0.1 or a unix socket",
            )
        })
        .collect()
}

/// The endpoint that `host`, `port` and `socket` in the file define, if any.
pub(crate) fn endpoints(server: &Server, places: &Places) -> Result<Vec<Endpoint>, Finding> {
    let error =
        |name, what: &str, fix| Err(places.error(codes::settings::HALF_ADDRESS, name, what, fix));
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
        (None, _, None) if places.any_invalid(&["server.port"]) => return Ok(Vec::new()),
        (None, _, None) => {
            return error(
                "server.host",
                "host is given without port",
                "add port = 3033",
            );
        }
        (None, None, _) if places.any_invalid(&["server.host"]) => return Ok(Vec::new()),
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

/// The fix for a bad host.
pub(crate) const HOST_FIX: &str =
    "write an address such as 127.0.0.1, [::1] or 0.0.0.0, or localhost";

/// Parses a `host`: an IP address, with or without brackets, or `localhost`.
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
