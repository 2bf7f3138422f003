//! `Settings`: the part of the configuration that concerns connections and requests.

use super::share::Share;
use crate::config::{Config, Limits, Protocol};
use crate::environ::{Mount, has_unchecked_user, normalise};
use crate::pairs::Pairs;
use crate::proto::{Codec, ajp13, fastcgi, scgi};
use std::rc::Rc;
use std::time::Duration;

/// The most concurrent requests on a connection. Web servers open further connections long before that.
const MAX_REQUESTS: usize = 128;

/// The configuration, and what is derived from it.
#[derive(Clone, Debug)]
pub struct Settings {
    config: Rc<Config>,
    mount: Mount,
    /// The mount for web servers that send user names without checking them.
    untrusted_mount: Option<Mount>,
    /// How many descriptors there are for connections and files, if that is known.
    pub(super) share: Option<Share>,
}

impl Settings {
    /// `file_name`: the name of the executable. `spawned`: a web server started it, and is trusted to authenticate users.
    pub fn new(config: Rc<Config>, file_name: &str, spawned: bool) -> Settings {
        let trusted = config.server.remote_user;
        let mount = |trust| Mount::new(config.app.script_name.clone(), file_name, trust);
        Settings {
            mount: mount(trusted || spawned),
            untrusted_mount: (!trusted).then(|| mount(false)),
            config,
            share: None,
        }
    }

    /// The same, with as many connections and files as there are descriptors for.
    #[must_use]
    pub fn within(mut self, share: Share) -> Settings {
        Rc::make_mut(&mut self.config).limits.max_connections = share.connections;
        self.share = Some(share);
        self
    }

    /// A codec for a new connection with this protocol.
    pub(super) fn codec(&self, protocol: Protocol) -> Box<dyn Codec> {
        let limits = self.limits();
        match protocol {
            Protocol::Fcgi => Box::new(fastcgi::FastCgi::new(
                limits.max_params,
                MAX_REQUESTS.min(limits.max_connections),
                limits.max_connections,
            )),
            Protocol::Scgi => Box::new(scgi::Scgi::new(limits.max_params)),
            Protocol::Ajp => Box::new(ajp13::Ajp13::new(ajp13::Ajp13Options {
                secret: self.config.server.secret.clone().map(String::into_bytes),
                max_params: limits.max_params,
                ..ajp13::Ajp13Options::default()
            })),
        }
    }

    /// The variables as the app sees them.
    pub(super) fn environ(&self, sent: &Pairs, body: u64) -> Pairs {
        let untrusted = self.untrusted_mount.as_ref();
        let mount = untrusted.filter(|_| has_unchecked_user(sent));
        normalise(sent, mount.unwrap_or(&self.mount), body)
    }

    /// Whether the request is for the ping path, to which we respond without the app.
    pub(super) fn is_ping(&self, environ: &Pairs) -> bool {
        let path = |name: &[u8]| environ.get(name).unwrap_or_default();
        let ping = self.config.server.ping.as_ref();
        ping.is_some_and(|ping| {
            [path(b"SCRIPT_NAME"), path(b"PATH_INFO")].concat() == ping.as_bytes()
        })
    }

    /// The name of the executable.
    pub(super) fn program(&self) -> &str {
        &self.mount.file_name
    }

    /// Whether error pages show the reason.
    pub(super) fn debug(&self) -> bool {
        self.config.server.debug
    }

    /// Whether there is an access log.
    pub(super) fn logs_access(&self) -> bool {
        self.config.log.access.is_some()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(super) fn read_timeout(&self) -> Duration {
        Duration::from_secs(self.limits().read_timeout)
    }

    pub(super) fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.limits().write_timeout)
    }
}
