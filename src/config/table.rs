//! The one table of all settings: what exists, of which kind, with which default, said in one line each.
//!
//! Known-key lists, `help` and the reference in the README come from here. Knows nothing of files or the command
//! line.

use std::fmt::Write;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its table in the TOML file.
    pub section: &'static str,
    /// Its name there; on the command line the same.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default, as one would write it; in brackets when it is no value but words.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
    /// A value, as one would write it in the file.
    pub example: &'static str,
    /// Whether it may stand on the command line.
    pub cli: bool,
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// Any text.
    Text,
    /// A dotted name of a Python module.
    Module,
    /// `module:callable`.
    Callable,
    /// A path, relative to the file's directory or the current one.
    Path,
    /// A program: a path, or a bare name.
    Program,
    /// Paths, relative to the app's.
    Paths,
    /// The path part of a URL.
    UrlPath,
    /// `auto`, or a prefix of URLs.
    ScriptName,
    /// A whole number from .. to.
    Count(u64, u64),
    /// Whole seconds, from .. to.
    Seconds(u64, u64),
    /// Seconds with a fraction.
    Fraction,
    /// Bytes, from .. to.
    Size(u64, u64),
    /// A file mode or mask, octal.
    Mode,
    /// One of these; the first of each group is the name, the others are also understood.
    OneOf(&'static [&'static [&'static str]]),
}

/// `[server] protocol`.
pub const PROTOCOLS: &[&[&str]] = &[&["fcgi", "fastcgi"], &["scgi"], &["ajp", "ajp13"]];
/// `[server] method`.
pub const METHODS: &[&[&str]] = &[&["prefork", "fork"], &["threaded", "thread"]];
const HOWS: &[&[&str]] = &[&["replace"], &["exit"]];

const DAY: u64 = 86_400;
const LONG: u64 = 10 * 365 * DAY;
const MANY: u64 = 1_000_000;
const HUGE: u64 = 1 << 50;

/// The sections of the file, in the order of the reference, with a line on each.
pub const SECTIONS: &[(&str, &str)] = &[
    ("app", "Which application, and the Python that runs it."),
    (
        "env",
        "Environment variables of the application: `NAME = \"value\"`.",
    ),
    (
        "server",
        "Sockets and processes. Each key is also an option of `runfcgi key=value`.",
    ),
    (
        "limits",
        "Bounds. Sizes are bytes or `\"64K\"`, `\"10M\"`, `\"1G\"`; times are seconds or `\"30s\"`, `\"5m\"`, `\"1h\"`.",
    ),
    ("restart", "When and how new code goes live."),
    ("log", "Logs."),
    (
        "status",
        "How the site does, as a page over HTTP; there is one when both are given. The secret goes into the URL \
         (`?secret=`), or into a header (`Authorization: Bearer`, `X-Runfcgi-Secret`); `format=` is html, text, json or \
         prometheus.",
    ),
];

#[rustfmt::skip]
const fn opt(section: &'static str, key: &'static str, kind: Kind, default: &'static str, example: &'static str, help: &'static str) -> Opt {
    Opt { section, key, kind, default, help, example, cli: false }
}

#[rustfmt::skip]
const fn cli(section: &'static str, key: &'static str, kind: Kind, default: &'static str, example: &'static str, help: &'static str) -> Opt {
    Opt { section, key, kind, default, help, example, cli: true }
}

/// All settings but `[env]`, whose keys are free.
#[rustfmt::skip]
pub const OPTIONS: &[Opt] = &[
    cli("app", "path", Kind::Path, "(directory of the settings file)", "\"/home/ann/myproject\"", "directory of the code: first on sys.path, and the working directory"),
    cli("app", "settings", Kind::Module, "(none)", "\"myproject.settings\"", "DJANGO_SETTINGS_MODULE; this or wsgi must be given"),
    cli("app", "wsgi", Kind::Callable, "(Django's)", "\"myproject.wsgi:application\"", "module:callable of any WSGI application"),
    cli("app", "python", Kind::Program, "(found)", "\"/home/ann/venv/bin/python\"", "the interpreter; by itself: a virtualenv beside the code, else the newest that fits"),
    cli("app", "script_name", Kind::ScriptName, "auto", "\"/shop\"", "SCRIPT_NAME: auto, or the prefix of the site's URLs (\"/\" for none)"),

    cli("server", "protocol", Kind::OneOf(PROTOCOLS), "fcgi", "\"scgi\"", "what the web server speaks"),
    cli("server", "host", Kind::Text, "(none)", "\"127.0.0.1\"", "address to listen at, with port: IPv4, IPv6 or localhost"),
    cli("server", "port", Kind::Count(1, 65_535), "(none)", "3033", "TCP port to listen at, with host"),
    cli("server", "socket", Kind::Path, "(none: the web server gives us one as descriptor 0)", "\"mysite.sock\"", "unix socket to listen at"),
    cli("server", "method", Kind::OneOf(METHODS), "prefork", "\"threaded\"", "processes, or threads in one process"),
    cli("server", "threads", Kind::Count(1, 64), "4", "8", "threads of a process when method is threaded"),
    cli("server", "maxrequests", Kind::Count(0, u32::MAX as u64), "0", "1000", "requests after which a worker is replaced; 0: never"),
    cli("server", "minspare", Kind::Count(0, 10_000), "(0; one worker is always there)", "2", "idle workers kept in readiness at the least"),
    cli("server", "maxspare", Kind::Count(0, 10_000), "(what suits the place, at most 5)", "5", "idle workers kept at the most"),
    cli("server", "maxchildren", Kind::Count(1, 10_000), "(8, or what the account has room for; 1 under mod_fcgid)", "8", "workers at the most; fewer where the account has no room for them"),
    cli("server", "daemonize", Kind::Bool, "(yes when socket or port is given)", "false", "go into the background"),
    cli("server", "pidfile", Kind::Path, "(none)", "\"mysite.pid\"", "file that holds the process id while the server runs"),
    cli("server", "workdir", Kind::Path, "(/)", "\"/tmp\"", "working directory when daemonized"),
    cli("server", "debug", Kind::Bool, "false", "true", "show tracebacks to the visitor"),
    cli("server", "outlog", Kind::Path, "(errlog)", "\"out.log\"", "when daemonized: file for what the app prints to standard output; rotated as [log] says"),
    cli("server", "errlog", Kind::Path, "(/dev/null)", "\"error.log\"", "when daemonized: file for standard error and the server's own events; rotated as [log] says"),
    cli("server", "umask", Kind::Mode, "(022 when daemonized)", "\"0002\"", "umask, octal: with 0002 a web server of our group may use the socket"),
    cli("server", "socket_mode", Kind::Mode, "(from umask)", "\"0660\"", "mode of the unix socket, octal; overrules umask"),
    cli("server", "backlog", Kind::Count(1, 65_535), "1024", "512", "connections that wait in the kernel"),
    cli("server", "secret", Kind::Text, "(none)", "\"long-random-text\"", "AJP: what each request must carry"),
    cli("server", "preload", Kind::Bool, "true", "false", "import the app once and fork workers from there"),
    cli("server", "warm", Kind::UrlPath, "(none)", "\"/\"", "path that is requested once before workers are forked"),
    cli("server", "linger", Kind::Seconds(0, 30 * DAY), "1800", "\"1h\"", "how long the imported app outlives the last process of the web server"),
    cli("server", "idle_timeout", Kind::Seconds(1, LONG), "60", "\"5m\"", "how long idle workers above the spare ones are kept"),
    cli("server", "max_lifetime", Kind::Seconds(0, LONG), "0", "\"1h\"", "age at which a worker is replaced; 0: never"),
    cli("server", "max_memory", Kind::Size(0, HUGE), "0", "\"200M\"", "memory at which a worker is replaced between two requests; 0: never"),
    cli("server", "runtime_dir", Kind::Path, "(found)", "\"/var/tmp/mysite-run\"", "directory of sockets and locks: local, ours, 0700"),
    cli("server", "remote_user", Kind::Bool, "false", "true", "believe REMOTE_USER from the web server when it did not start us"),
    cli("server", "ping", Kind::UrlPath, "(none)", "\"/runfcgi-ping\"", "path that is answered without the app"),

    opt("limits", "max_connections", Kind::Count(1, MANY), "4096", "200", "open connections from web servers"),
    opt("limits", "queue", Kind::Count(0, MANY), "100", "50", "requests that wait for a worker; above: 503"),
    opt("limits", "queue_timeout", Kind::Seconds(1, DAY), "30", "\"20s\"", "how long a request may wait for a worker; then 503"),
    opt("limits", "request_timeout", Kind::Seconds(0, 30 * DAY), "240", "\"2m\"", "how long a request may run; then its stack is logged and its worker ended; 0: no end"),
    opt("limits", "start_timeout", Kind::Seconds(1, DAY), "30", "\"1m\"", "how long the import of the app may take"),
    opt("limits", "max_params", Kind::Size(4096, 16 << 20), "256K", "\"64K\"", "size of all headers and variables of a request"),
    opt("limits", "max_body", Kind::Size(0, HUGE), "1G", "\"20M\"", "size of a request's body; above: 413"),
    opt("limits", "read_timeout", Kind::Seconds(1, DAY), "60", "30", "how long a request may stall on its way in"),
    opt("limits", "write_timeout", Kind::Seconds(1, DAY), "60", "30", "how long a response may stall on its way out"),

    opt("restart", "how", Kind::OneOf(HOWS), "replace", "\"exit\"", "replace processes without a gap, or finish and exit"),
    opt("restart", "watch", Kind::Paths, "[\"tmp/restart.txt\"]", "[\"tmp/restart.txt\", \"VERSION\"]", "files whose change puts new code live; relative to the app's path"),

    opt("log", "file", Kind::Path, "(none: the web server's log)", "\"mysite.log\"", "our own log"),
    opt("log", "max_size", Kind::Size(4096, HUGE), "10M", "\"1M\"", "size at which logs are rotated"),
    opt("log", "access", Kind::Path, "(none)", "\"access.log\"", "access log"),
    opt("log", "format", Kind::Text, "%h %l %u %t \"%r\" %>s %b %D", "\"%h %t %r %>s\"", "format of the access log, as Apache's LogFormat"),
    opt("log", "slow_log", Kind::Fraction, "10", "2.5", "seconds after which the stack of a request is logged; 0: never"),

    opt("status", "path", Kind::UrlPath, "(none)", "\"/-/status\"", "path of the page"),
    opt("status", "secret", Kind::Text, "(none)", "\"long-random-text\"", "what a request for the page must carry; any other goes to the app"),
];

/// The setting of this name in this section.
pub fn find(section: &str, key: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|o| o.section == section && o.key == key)
}

/// The setting that `key` names on the command line.
pub fn find_cli(key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.cli && o.key == key)
}

/// What a setting takes, in words.
pub fn describe(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_string(),
        Kind::Text => "text".to_string(),
        Kind::Module => "dotted module name".to_string(),
        Kind::Callable => "module:callable".to_string(),
        Kind::Path => "path".to_string(),
        Kind::Program => "path or name".to_string(),
        Kind::Paths => "list of paths".to_string(),
        Kind::UrlPath => "path that begins with /".to_string(),
        Kind::ScriptName => "auto or a prefix".to_string(),
        Kind::Count(low, high) => format!("number {low} to {high}"),
        Kind::Seconds(..) => "seconds, or 30s, 5m, 1h".to_string(),
        Kind::Fraction => "seconds, also 2.5".to_string(),
        Kind::Size(..) => "bytes, or 64K, 10M, 1G".to_string(),
        Kind::Mode => "octal".to_string(),
        Kind::OneOf(groups) => names(groups).join(", "),
    }
}

/// The first name of each group.
pub fn names(groups: &[&'static [&'static str]]) -> Vec<&'static str> {
    groups.iter().filter_map(|g| g.first().copied()).collect()
}

/// The reference that stands in the README between `<!-- options -->` and `<!-- /options -->`.
pub fn reference_markdown() -> String {
    let mut out = String::new();
    for (section, line) in SECTIONS {
        let _ = write!(out, "\n### `[{section}]`\n\n{line}\n");
        let mut head = "\n| Key | Takes | Default | Meaning | Example |\n|---|---|---|---|---|\n";
        for o in OPTIONS.iter().filter(|o| o.section == *section) {
            let default = match o.default.strip_prefix('(') {
                Some(words) => words.trim_end_matches(')').to_string(),
                None => format!("`{}`", o.default),
            };
            let _ = writeln!(
                out,
                "{head}| `{}` | {} | {default} | {} | `{}` |",
                o.key,
                describe(o.kind),
                o.help,
                o.example
            );
            head = "";
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Config, value};
    use super::*;

    fn base() -> value::Base {
        value::Base {
            dir: "/srv".into(),
            home: Some("/home/ann".into()),
        }
    }

    fn with(section: &str, key: &str, value: toml::Value) -> Result<Config, toml::de::Error> {
        let mut inner = toml::Table::new();
        inner.insert(key.to_string(), value);
        let mut outer = toml::Table::new();
        outer.insert(section.to_string(), toml::Value::Table(inner));
        serde::Deserialize::deserialize(outer)
    }

    #[test]
    fn the_table_and_the_structs_have_the_same_keys() {
        for (section, _) in SECTIONS.iter().filter(|(s, _)| *s != "env") {
            let error = with(section, "no-such", toml::Value::Boolean(true)).unwrap_err();
            let known: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
            let ours: Vec<&str> = OPTIONS
                .iter()
                .filter(|o| o.section == *section)
                .map(|o| o.key)
                .collect();
            assert!(!known.is_empty(), "{error}");
            for key in &known {
                assert!(ours.contains(key), "[{section}] {key} is not in the table");
            }
            assert_eq!(known.len(), ours.len(), "[{section}] {known:?} {ours:?}");
        }
    }

    #[test]
    fn defaults_in_words_are_the_defaults_in_code() {
        let want = format!("{:?}", Config::default());
        for o in OPTIONS.iter().filter(|o| !o.default.starts_with('(')) {
            let raw = match o.kind {
                Kind::Paths => toml::Value::Array(vec!["tmp/restart.txt".into()]),
                _ => toml::Value::String(o.default.to_string()),
            };
            let value = value::normalise(o, value::Raw::text(raw), &base())
                .unwrap_or_else(|p| panic!("{}: {p:?}", o.key));
            let got = with(o.section, o.key, value).unwrap();
            assert_eq!(format!("{got:?}"), want, "[{}] {}", o.section, o.key);
        }
    }

    #[test]
    fn examples_are_accepted_and_differ_from_the_default() {
        let plain = format!("{:?}", Config::default());
        for o in OPTIONS {
            let text = format!("{} = {}", o.key, o.example);
            let raw = text.parse::<toml::Table>().unwrap().remove(o.key).unwrap();
            let value = value::normalise(o, value::Raw::text(raw), &base())
                .unwrap_or_else(|p| panic!("{text}: {p:?}"));
            let got = with(o.section, o.key, value).unwrap();
            assert_ne!(format!("{got:?}"), plain, "[{}] {text}", o.section);
        }
    }

    #[test]
    fn the_readme_holds_the_reference() {
        let Ok(readme) = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))
        else {
            return;
        };
        let Some((_, rest)) = readme.split_once("<!-- options -->") else {
            return;
        };
        let (inside, _) = rest.split_once("<!-- /options -->").unwrap_or((rest, ""));
        assert_eq!(
            inside.trim(),
            reference_markdown().trim(),
            "README.md is behind src/config/table.rs: put in the output of `runfcgi help reference`"
        );
    }
}
