//! The options of `runfcgi key=value …`, word for word as Django's command took them, and each key of `[server]`.
//!
//! Only takes the words apart; values are checked by `value.rs`, as those of the file are. Knows no output. The
//! traps of old are gone: `debug=false` is false, an unknown option is an error, `maxrequests` counts requests.

use super::checks::{HOST_FIX, ip};
use super::findings::{Finding, did_you_mean};
use super::row::{Kind, Opt};
use super::table::{self, OPTIONS};
use super::value::{Base, Raw, field};
use super::{Address, Config, Endpoint, Server};
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--config FILE` or `config=FILE`.
    pub config: Option<PathBuf>,
    /// `help` was among the words.
    pub help: bool,
    settings: Vec<(&'static Opt, String)>,
    listeners: Vec<Listener>,
    /// What relative paths are relative to; None: the current directory.
    pub directory: Option<PathBuf>,
    /// The user of the executable, who may own the settings file too.
    pub owner: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    /// As `protocol=` before it said; None: as the only one, or the file's.
    protocol: Option<String>,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Socket(String),
    Tcp { host: String, port: String },
}

impl Options {
    /// No words at all; for an executable of this user.
    pub fn of_owner(owner: Option<u32>) -> Options {
        Options {
            owner,
            ..Options::default()
        }
    }

    /// Takes the words apart; all that is wrong comes at once.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Options, Vec<Finding>> {
        let mut parser = Parser::default();
        let mut words = words.iter().map(AsRef::as_ref);
        while let Some(word) = words.next() {
            match word {
                "--config" | "-c" => match words.next() {
                    Some(file) => parser.options.config = Some(PathBuf::from(file)),
                    None => parser.error(word, "--config needs a file", "--config FILE"),
                },
                "--help" | "-h" => parser.options.help = true,
                _ => parser.word(word),
            }
        }
        parser.finish()
    }

    /// Whether the command line says where to listen, so that the file's endpoints do not count.
    pub(crate) fn listens(&self) -> bool {
        !self.listeners.is_empty()
    }

    pub(crate) fn settings(&self) -> impl Iterator<Item = (&'static Opt, &str)> {
        self.settings.iter().map(|(o, v)| (*o, v.as_str()))
    }

    /// The endpoints of the command line; a protocol that is not said is the server's.
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
            match (protocol, address(&l.place, base)) {
                (Ok(protocol), Ok(address)) => good.push(Endpoint { protocol, address }),
                (p, a) => findings.extend(p.err().into_iter().chain(a.err().into_iter().flatten())),
            }
        }
        match findings.is_empty() {
            true => Ok(good),
            false => Err(findings),
        }
    }

    /// What differs from what the words used to mean.
    pub(crate) fn warnings(&self, config: &Config) -> Vec<Finding> {
        let given = |key: &str| self.settings.iter().any(|(o, _)| o.key == key);
        let mut out = Vec::new();
        if given("debug") && !config.server.debug {
            out.push(Finding::warning(
                "RF0130",
                "option debug",
                "debug=false turns it off; under flup any value turned it on",
                "",
            ));
        }
        if given("secret") {
            out.push(Finding::warning(
                "RF0132",
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
        let socket = |l: &Listener| matches!(&l.place, Place::Socket(path) if relative(path));
        if self.listeners.iter().any(socket) {
            names.push("socket");
        }
        if given("workdir") && !names.is_empty() {
            out.push(Finding::warning(
                "RF0131",
                "option workdir",
                format!(
                    "the relative path of {} is taken from the current directory; under flup it was taken from workdir",
                    names.join(", ")
                ),
                "write whole paths to be safe",
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
    fn word(&mut self, word: &str) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
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
                (Some(opt), None) => self.error(word, "the option needs a value", &opt.word()),
                (None, _) => self.unknown(word, &key),
            },
        }
    }

    fn option(&mut self, opt: &'static Opt, value: &str) {
        match opt.key {
            "socket" => self.listen(Place::Socket(value.to_string())),
            "host" | "port" => {
                let slot = match opt.key {
                    "host" => &mut self.host,
                    _ => &mut self.port,
                };
                if slot.replace(value.to_string()).is_some() {
                    let other = if opt.key == "host" { "port" } else { "host" };
                    self.error(
                        &format!("{}={value}", opt.key),
                        &format!("the {} before has no {other}", opt.key),
                        "give host= and port= in pairs",
                    );
                }
                if let (Some(host), Some(port)) = (&self.host, &self.port) {
                    let place = Place::Tcp {
                        host: host.clone(),
                        port: port.clone(),
                    };
                    self.listen(place);
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

    fn listen(&mut self, place: Place) {
        self.options.listeners.push(Listener {
            protocol: self.protocols.last().cloned(),
            place,
        });
    }

    fn unknown(&mut self, word: &str, key: &str) {
        let fix = match OPTIONS.iter().find(|o| o.key == key) {
            Some(o) => format!("it can stand in the settings file, below [{}]", o.section),
            None => {
                let known = OPTIONS.iter().filter(|o| o.cli).map(|o| o.key);
                let known = known.chain(["config", "help"]);
                did_you_mean(key, known, "`runfcgi help` lists all options")
            }
        };
        self.error(word, "unknown option", &fix);
    }

    fn error(&mut self, word: &str, what: &str, fix: &str) {
        let place = format!("option {word}");
        self.findings
            .push(Finding::error("RF0105", place, what, fix));
    }

    fn finish(mut self) -> Result<Options, Vec<Finding>> {
        // One protocol= holds wherever it stands among the words, as it did with runfcgi.
        if let Some(first) = self.protocols.first() {
            for l in &mut self.options.listeners {
                l.protocol.get_or_insert_with(|| first.clone());
            }
        }
        // Half a pair goes over the file's half, unless whole places are named.
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

/// The value of the option `key`, as its field takes it.
fn checked<T: DeserializeOwned>(key: &str, value: &str, base: &Base) -> Result<T, Finding> {
    let opt = table::find_cli(key).expect("an option");
    field(opt, Raw::text(value), base).map_err(|p| p.of_option(opt))
}

fn address(place: &Place, base: &Base) -> Result<Address, Vec<Finding>> {
    match place {
        Place::Socket(path) => match checked("socket", path, base) {
            Ok(path) => Ok(Address::Unix(path)),
            Err(finding) => Err(vec![finding]),
        },
        Place::Tcp { host, port } => {
            let ip =
                ip(host).map_err(|what| Finding::error("RF0105", "option host", what, HOST_FIX));
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

    fn config(words: &str) -> Result<Config, Vec<Finding>> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let options = Options::parse(&words)?;
        Config::load_with(None, &options)
    }

    fn errors(words: &str) -> String {
        match config(words) {
            Ok(_) => panic!("{words} was accepted"),
            Err(findings) => findings.iter().map(|f| f.one_line() + "\n").collect(),
        }
    }

    #[test]
    fn the_old_lines_mean_what_they_meant() {
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
    fn relative_paths_are_relative_to_here() {
        let c = config("settings=s socket=my.sock workdir=/tmp pidfile=p").unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            c.server.endpoints[0].address,
            Address::Unix(here.join("my.sock"))
        );
        assert_eq!(c.server.pidfile, Some(here.join("p")));
        assert_eq!(c.warnings.len(), 1);
        assert_eq!(c.warnings[0].code, "RF0131");
        assert!(c.warnings[0].what.contains("pidfile, socket"));
    }

    #[test]
    fn several_places() {
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
    fn debug_false_is_false_and_said() {
        let c = config("settings=s debug=false").unwrap();
        assert!(!c.server.debug);
        assert_eq!(c.warnings[0].code, "RF0130");
        assert!(config("settings=s debug").unwrap().server.debug);
    }

    #[test]
    fn wrong_words_are_all_said() {
        for (words, wants) in [
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
            let got = errors(words);
            for want in wants {
                assert!(got.contains(want), "{words}: {want} is missing in {got}");
            }
        }
        assert!(config("settings=s protocol=ajp host=0.0.0.0 port=8009 secret=x").is_ok());
    }

    #[test]
    fn a_secret_among_the_words_is_seen_by_all() {
        let c = config("settings=s protocol=ajp host=0.0.0.0 port=8009 secret=x").unwrap();
        assert_eq!(c.server.secret.as_deref(), Some("x"));
        assert_eq!(c.warnings[0].code, "RF0132");
    }
}
