//! Parses the options of `runfcgi key=value …`: those of Django's old command, and all keys of `[app]` and `[server]`.
//!
//! `value.rs` checks the values, as it does for the file. Unlike in Django's command, `debug=false` means false, an
//! unknown option is an error, and `maxrequests` counts requests.

use super::checks::{HOST_FIX, ip};
use super::findings::{Finding, did_you_mean};
use super::row::{Kind, Opt};
use super::table::{self, OPTIONS};
use super::value::{Base, Raw, field};
use super::{Address, Config, Endpoint, Server};
use crate::codes;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The parsed options of a command line.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--config FILE` or `config=FILE`.
    pub config: Option<PathBuf>,
    /// `help` was given.
    pub help: bool,
    settings: Vec<(&'static Opt, String)>,
    listeners: Vec<Listener>,
    /// The base of relative paths; None: the current directory.
    pub directory: Option<PathBuf>,
    /// The user id of the owner of the executable, who may own the settings file too.
    pub owner: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    /// The last `protocol=` before it. None: the first `protocol=` of all, or the file's.
    protocol: Option<String>,
    address: RawAddress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RawAddress {
    Socket(String),
    Tcp { host: String, port: String },
}

impl Options {
    /// No options, for an executable that this user owns.
    pub fn of_owner(owner: Option<u32>) -> Options {
        Options {
            owner,
            ..Options::default()
        }
    }

    /// Parses the arguments. The error lists everything that is wrong.
    pub fn parse<S: AsRef<str>>(args: &[S]) -> Result<Options, Vec<Finding>> {
        let mut parser = Parser::default();
        let mut args = args.iter().map(AsRef::as_ref);
        while let Some(arg) = args.next() {
            match arg {
                "--config" | "-c" => match args.next() {
                    Some(file) => parser.options.config = Some(PathBuf::from(file)),
                    None => parser.error(arg, "--config needs a file", "--config FILE"),
                },
                "--help" | "-h" => parser.options.help = true,
                _ => parser.argument(arg),
            }
        }
        parser.finish()
    }

    /// Whether the command line has endpoints, which replace those of the file.
    pub(crate) fn listens(&self) -> bool {
        !self.listeners.is_empty()
    }

    pub(crate) fn settings(&self) -> impl Iterator<Item = (&'static Opt, &str)> {
        self.settings.iter().map(|(o, v)| (*o, v.as_str()))
    }

    /// The endpoints of the command line. Those without a protocol use that of `server`.
    pub(crate) fn endpoints(
        &self,
        server: &Server,
        base: &Base,
    ) -> Result<Vec<Endpoint>, Vec<Finding>> {
        let mut good = Vec::new();
        let mut findings = Vec::new();
        for l in &self.listeners {
            let protocol = match l.protocol.as_deref() {
                None => Ok(server.protocol),
                Some(name) => checked("protocol", name, base),
            };
            match (protocol, address(&l.address, base)) {
                (Ok(protocol), Ok(address)) => good.push(Endpoint { protocol, address }),
                (p, a) => findings.extend(p.err().into_iter().chain(a.err().into_iter().flatten())),
            }
        }
        match findings.is_empty() {
            true => Ok(good),
            false => Err(findings),
        }
    }

    /// Warns where options mean something else than with flup, and of a secret on the command line.
    pub(crate) fn warnings(&self, config: &Config) -> Vec<Finding> {
        let given = |key: &str| self.settings.iter().any(|(o, _)| o.key == key);
        let mut out = Vec::new();
        if given("debug") && !config.server.debug {
            out.push(Finding::warning(
                codes::settings::DEBUG_OFF,
                "option debug",
                "debug=false turns it off; with flup any value turned it on",
                "",
            ));
        }
        if given("secret") {
            out.push(Finding::warning(
                codes::settings::SECRET_ON_COMMAND_LINE,
                "option secret",
                "all users of this machine can see the command line",
                "put secret into the settings file, below [server]",
            ));
        }
        let relative = |path: &str| !path.starts_with(['/', '~']);
        let paths = self.settings.iter().filter_map(|(o, v)| {
            (o.kind == Kind::Path && o.key != "workdir" && relative(v)).then_some(o.key)
        });
        let mut names: Vec<&str> = paths.collect();
        let socket =
            |l: &Listener| matches!(&l.address, RawAddress::Socket(path) if relative(path));
        if self.listeners.iter().any(socket) {
            names.push("socket");
        }
        if given("workdir") && !names.is_empty() {
            out.push(Finding::warning(
                codes::settings::RELATIVE_TO_WORKDIR,
                "option workdir",
                format!(
                    "the relative path of {} is resolved against the current directory; with flup it was resolved against workdir",
                    names.join(", ")
                ),
                "write absolute paths to be safe",
            ));
        }
        out
    }
}

#[derive(Default)]
struct Parser {
    options: Options,
    findings: Vec<Finding>,
    protocols: Vec<String>,
    host: Option<String>,
    port: Option<String>,
}

impl Parser {
    fn argument(&mut self, arg: &str) {
        let (key, value) = match arg.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (arg, None),
        };
        let key = key
            .trim_start_matches("--")
            .to_ascii_lowercase()
            .replace('-', "_");
        match (key.as_str(), value) {
            ("help", _) => self.options.help = true,
            ("config", Some(file)) => self.options.config = Some(PathBuf::from(file)),
            _ => match (table::find_cli(&key), value) {
                (Some(opt), Some(value)) => self.option(opt, value),
                (Some(opt), None) if opt.kind == Kind::Bool => self.option(opt, "true"),
                (Some(opt), None) => self.error(arg, "the option needs a value", &opt.as_option()),
                (None, _) => self.unknown(arg, &key),
            },
        }
    }

    fn option(&mut self, opt: &'static Opt, value: &str) {
        match opt.key {
            "socket" => self.listen(RawAddress::Socket(value.to_string())),
            "host" | "port" => {
                let slot = match opt.key {
                    "host" => &mut self.host,
                    _ => &mut self.port,
                };
                if slot.replace(value.to_string()).is_some() {
                    let other = if opt.key == "host" { "port" } else { "host" };
                    self.error(
                        &format!("{}={value}", opt.key),
                        &format!("the previous {} has no {other}", opt.key),
                        "give host= and port= in pairs",
                    );
                }
                if let (Some(host), Some(port)) = (&self.host, &self.port) {
                    let address = RawAddress::Tcp {
                        host: host.clone(),
                        port: port.clone(),
                    };
                    self.listen(address);
                    self.host = None;
                    self.port = None;
                }
            }
            key => {
                if key == "protocol" {
                    self.protocols.push(value.to_string());
                }
                self.options.settings.retain(|(o, _)| o.key != key);
                self.options.settings.push((opt, value.to_string()));
            }
        }
    }

    fn listen(&mut self, address: RawAddress) {
        self.options.listeners.push(Listener {
            protocol: self.protocols.last().cloned(),
            address,
        });
    }

    fn unknown(&mut self, arg: &str, key: &str) {
        let fix = match OPTIONS.iter().find(|o| o.key == key) {
            Some(o) => format!("set it in the settings file, below [{}]", o.section),
            None => {
                let known = OPTIONS.iter().filter(|o| o.cli).map(|o| o.key);
                let known = known.chain(["config", "help"]);
                did_you_mean(key, known, "`runfcgi help` lists all options")
            }
        };
        self.error(arg, "unknown option", &fix);
    }

    fn error(&mut self, arg: &str, what: &str, fix: &str) {
        let place = format!("option {arg}");
        self.findings.push(Finding::error(
            codes::settings::BAD_OPTION,
            place,
            what,
            fix,
        ));
    }

    fn finish(mut self) -> Result<Options, Vec<Finding>> {
        // The first protocol= also applies to the endpoints before it, as it did with Django's runfcgi.
        if let Some(first) = self.protocols.first() {
            for l in &mut self.options.listeners {
                l.protocol.get_or_insert_with(|| first.clone());
            }
        }
        // A lone host= or port= overrides the file's, unless the command line has endpoints.
        let halves = [("host", self.host.take()), ("port", self.port.take())];
        for (key, half) in halves {
            let Some(value) = half else { continue };
            if self.options.listeners.is_empty() {
                if let Some(opt) = table::find_cli(key) {
                    self.options.settings.push((opt, value));
                }
            } else {
                let other = if key == "host" { "port" } else { "host" };
                self.error(
                    &format!("{key}={value}"),
                    &format!("{key} is given without {other}"),
                    "give host= and port= in pairs",
                );
            }
        }
        if self.findings.is_empty() {
            Ok(self.options)
        } else {
            Err(self.findings)
        }
    }
}

/// The value of the option `key`, checked and converted to the type of its field.
fn checked<T: DeserializeOwned>(key: &str, value: &str, base: &Base) -> Result<T, Finding> {
    let opt = table::find_cli(key).expect("an option");
    field(opt, Raw::text(value), base).map_err(|p| p.of_option(opt))
}

fn address(raw: &RawAddress, base: &Base) -> Result<Address, Vec<Finding>> {
    match raw {
        RawAddress::Socket(path) => match checked("socket", path, base) {
            Ok(path) => Ok(Address::Unix(path)),
            Err(finding) => Err(vec![finding]),
        },
        RawAddress::Tcp { host, port } => {
            let ip = ip(host).map_err(|what| {
                Finding::error(codes::settings::BAD_OPTION, "option host", what, HOST_FIX)
            });
            match (ip, checked("port", port, base)) {
                (Ok(ip), Ok(port)) => Ok(Address::Tcp(SocketAddr::new(ip, port))),
                (ip, port) => Err([ip.err(), port.err()].into_iter().flatten().collect()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Method, Protocol};
    use super::*;

    fn config(args: &str) -> Result<Config, Vec<Finding>> {
        let args: Vec<&str> = args.split_whitespace().collect();
        let options = Options::parse(&args)?;
        Config::load_with(None, &options)
    }

    fn errors(args: &str) -> String {
        match config(args) {
            Ok(_) => panic!("{args} was accepted"),
            Err(findings) => findings.iter().map(|f| f.one_line() + "\n").collect(),
        }
    }

    #[test]
    fn djangos_command_lines_still_work() {
        let c = config("wsgi=a:b method=threaded host=127.0.0.1 port=3033").unwrap();
        assert_eq!(c.server.method, Method::Threaded);
        assert_eq!(
            c.server.endpoints,
            [Endpoint {
                protocol: Protocol::Fcgi,
                address: Address::Tcp("127.0.0.1:3033".parse().unwrap())
            }]
        );
        assert!(c.server.daemonizes());
        let c = config(
            "settings=s METHOD=fork socket=/x/my.sock pidfile=/x/p maxrequests=1 daemonize=FALSE umask=0002",
        )
        .unwrap();
        assert!(!c.server.daemonizes());
        assert_eq!(c.server.umask, Some(2));
        assert_eq!(c.server.maxrequests, 1);
        assert!(
            !config("settings=s protocol=scgi")
                .unwrap()
                .server
                .daemonizes()
        );
        assert!(config("settings=s daemonize").unwrap().server.daemonizes());
    }

    #[test]
    fn paths_are_relative_to_the_current_directory() {
        let c = config("settings=s socket=my.sock workdir=/tmp pidfile=p").unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            c.server.endpoints[0].address,
            Address::Unix(here.join("my.sock"))
        );
        assert_eq!(c.server.pidfile, Some(here.join("p")));
        assert_eq!(c.warnings.len(), 1);
        assert!(c.warnings[0].one_line().starts_with("RF0131 option "));
        assert!(c.warnings[0].what.contains("pidfile, socket"));
    }

    #[test]
    fn several_endpoints() {
        let c = config(
            "settings=s protocol=scgi socket=/a host=localhost port=1 protocol=ajp port=2 host=[::1] socket=/b",
        )
        .unwrap();
        let got: Vec<String> = c
            .server
            .endpoints
            .iter()
            .map(|e| format!("{:?} {:?}", e.protocol, e.address))
            .collect();
        assert_eq!(
            got,
            [
                "Scgi Unix(\"/a\")",
                "Scgi Tcp(127.0.0.1:1)",
                "Ajp Tcp([::1]:2)",
                "Ajp Unix(\"/b\")"
            ]
        );
        let c = config("settings=s socket=/a protocol=scgi").unwrap();
        assert_eq!(c.server.endpoints[0].protocol, Protocol::Scgi);
    }

    #[test]
    fn debug_false_is_false_with_a_warning() {
        let c = config("settings=s debug=false").unwrap();
        assert!(!c.server.debug);
        assert!(c.warnings[0].one_line().starts_with("RF0130 option "));
        assert!(config("settings=s debug").unwrap().server.debug);
    }

    #[test]
    fn all_wrong_options_are_reported() {
        for (args, wants) in [
            (
                "settings=s maxrequest=5 bogus methd=fork",
                &["did you mean maxrequests", "bogus", "did you mean method"][..],
            ),
            ("settings=s method=forked", &["prefork, threaded"]),
            ("settings=s port=3033", &["port is given without host"]),
            ("settings=s host=1.2.3.4", &["host is given without port"]),
            ("settings=s host=1.2.3.4 host=::1 port=1", &["in pairs"]),
            (
                "settings=s host=example.org port=x",
                &["names are not looked up", "port=\"x\""],
            ),
            ("settings=s host=::1 port=x", &["port=\"x\""]),
            ("settings=s socket=", &["is empty"]),
            ("settings=s socket", &["needs a value"]),
            (
                "settings=s umask=9 daemonize=perhaps",
                &["umask", "daemonize"],
            ),
            ("socket=/x", &["neither settings nor wsgi"]),
            (
                "settings=s protocol=ajp host=0.0.0.0 port=8009",
                &["secret"],
            ),
            ("settings=s queue=5", &["settings file, below [limits]"]),
            ("settings=s minspare=5 maxspare=2", &["minspare = 5"]),
        ] {
            let got = errors(args);
            for want in wants {
                assert!(got.contains(want), "{args}: {want} is missing in {got}");
            }
        }
        assert!(config("settings=s protocol=ajp host=0.0.0.0 port=8009 secret=x").is_ok());
    }

    #[test]
    fn a_secret_on_the_command_line_is_a_warning() {
        let c = config("settings=s protocol=ajp host=0.0.0.0 port=8009 secret=x").unwrap();
        assert_eq!(c.server.secret.as_deref(), Some("x"));
        assert!(c.warnings[0].one_line().starts_with("RF0132 option "));
    }
}
