//! The listening sockets: from the web server, the settings, systemd, or the previous image. Also the pidfile.

use super::force_cgi;
use super::handover::Inherited;
use crate::codes;
use crate::config::{Config, Finding, Protocol};
use crate::daemon::Pidfile;
use crate::endpoints::{self, Handed, Opened};
use crate::server::{Listener, Role};
use crate::systemd::Activated;
use crate::trust::Trust;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Descriptor 0 if a web server spawned us. Otherwise the sockets of the previous image, of systemd and of the settings.
pub(super) fn listeners(
    role: Role,
    config: Option<&Config>,
    inherited: Inherited,
    activated: Vec<Activated>,
) -> anyhow::Result<Opened> {
    let config = config.cloned().unwrap_or_default();
    let protocol = config.server.protocol;
    match role {
        Role::Cgi => Ok(Opened::default()),
        Role::Spawned { .. } => {
            let mut opened = Opened::default();
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            let mut listener = Listener::new(socket, protocol, None)?;
            listener.allowed = endpoints::allowed_clients().unwrap_or_else(|error| {
                let text = format!("{error:#}; no client may connect over TCP");
                let code = codes::settings::BAD_WEB_SERVER_ADDRS;
                opened.warnings.push((code, text));
                Some(Vec::new())
            });
            opened.listeners.push(listener);
            Ok(opened)
        }
        Role::External => {
            let mut handed = inherited.listeners;
            handed.extend(activated.into_iter().map(|a| Handed {
                protocol: protocol_of(&a, protocol),
                socket: a.socket,
                activated: true,
            }));
            endpoints::open(&config, handed, inherited.restarted)
        }
    }
}

/// The protocol of a socket from systemd: the one it is named after, otherwise `usual`.
fn protocol_of(activated: &Activated, usual: Protocol) -> Protocol {
    Protocol::named(&activated.name).unwrap_or(usual)
}

/// Checks, before anything is opened, that there is somewhere to listen and that it is safe.
pub(super) fn can_listen(config: &Config, activated: &[Activated]) -> Result<(), Finding> {
    let error =
        |code, place: &str, what: String, fix: &str| Err(Finding::error(code, place, what, fix));
    let server = &config.server;
    if server.endpoints.is_empty() && activated.is_empty() {
        let what = match force_cgi() {
            true => "nowhere to listen, and the variables of a CGI request are missing",
            false => "nowhere to listen, and no web server gave us a socket",
        };
        let fix = "add socket=PATH, or host=ADDRESS and port=NUMBER";
        return error(
            codes::settings::NOWHERE_TO_LISTEN,
            "runfcgi",
            what.to_owned(),
            fix,
        );
    }
    if let Err(wrong) = endpoints::allowed_clients() {
        return error(
            codes::settings::BAD_WEB_SERVER_ADDRS,
            "environment",
            wrong.to_string(),
            "",
        );
    }
    if server.daemonize == Some(true) && !activated.is_empty() {
        let what = "a service whose sockets systemd opens cannot go into the background";
        return error(
            codes::settings::UNFIT_SYSTEMD_SOCKET,
            "option daemonize",
            what.to_owned(),
            "leave it out",
        );
    }
    for socket in activated {
        let place = format!("socket {:?} of systemd", socket.name);
        if !socket.listens() {
            let what = "no connections can be accepted from it".to_owned();
            return error(
                codes::settings::UNFIT_SYSTEMD_SOCKET,
                &place,
                what,
                "ListenStream= and Accept=no are needed",
            );
        }
        let secret = server.secret.as_ref().is_some_and(|s| !s.is_empty());
        if protocol_of(socket, server.protocol) == Protocol::Ajp
            && !secret
            && endpoints::tcp_address(&socket.socket).is_some_and(|a| !a.ip().is_loopback())
        {
            let what = "AJP without a secret would believe whoever can reach it".to_owned();
            return error(
                codes::settings::OPEN_AJP,
                &place,
                what,
                "set [server] secret",
            );
        }
    }
    Ok(())
}

pub(super) fn pidfile(
    role: Role,
    config: Option<&Config>,
    inherited: Option<OwnedFd>,
) -> anyhow::Result<Option<Pidfile>> {
    let path = match (role, config) {
        (Role::External, Some(config)) => config.server.pidfile.as_deref(),
        _ => None,
    };
    let trust = Trust::of(config.and_then(|config| config.owned_by));
    match inherited {
        Some(inherited) if config.is_some() => Pidfile::inherit(inherited, path, trust),
        Some(inherited) => Ok(Pidfile::keep(inherited)),
        None => path.map(|path| Pidfile::take(path, trust)).transpose(),
    }
}
