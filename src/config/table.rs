//! The one table of all settings: name, type, default, kind of values, an example and one line of help each, below
//! its section. Whoever adds a setting adds a row here, and the code that heeds its field.
//!
//! The structs of `Config`, their defaults, the names that are known, `help` and the reference in the README come from
//! these rows. `= "(words)"`: None, which the code that heeds it makes something of.

pub use super::row::{Kind, Opt};
use super::row::{choices, settings};
use super::{Endpoint, ScriptName};
use Kind::*;
use std::fmt::Write;
use std::path::PathBuf;

const DAY: u64 = 86_400;
const LONG: u64 = 10 * 365 * DAY;
const MANY: u64 = 1_000_000;
const HUGE: u64 = 1 << 50;

settings! {
    //  key: Type = default, kind, example, help;

    app: App, cli true, "Which application, and the Python that runs it." {
        /// Absolute, and never None, after loading.
        path: Option<PathBuf> = "(directory of the settings file)", Path, "/home/ann/myproject", "directory of the code: first on sys.path, and the working directory";
        settings: Option<String> = "(none)", Module, "myproject.settings", "DJANGO_SETTINGS_MODULE; this or wsgi must be given";
        wsgi: Option<String> = "(Django's)", Callable, "myproject.wsgi:application", "module:callable of any WSGI application";
        /// Absolute after loading, unless it is a bare name.
        python: Option<PathBuf> = "(found)", Program, "/home/ann/venv/bin/python", "the interpreter; by itself: a virtualenv beside the code, else the newest that fits";
        script_name: ScriptName = "auto", ScriptName, "/shop", "SCRIPT_NAME: auto, or the prefix of the site's URLs (\"/\" for none)";
    }
    + env, "Environment variables of the application: `NAME = \"value\"`."

    server: Server, cli true, "Sockets and processes. Each key is also an option of `runfcgi key=value`." {
        protocol: Protocol = "fcgi", OneOf(Protocol::NAMES), "scgi", "what the web server speaks";
        host: Option<String> = "(none)", Text, "127.0.0.1", "address to listen at, with port: IPv4, IPv6 or localhost";
        port: Option<u16> = "(none)", Count(1, 65_535), 3033, "TCP port to listen at, with host";
        socket: Option<PathBuf> = "(none: the web server gives us one as descriptor 0)", Path, "mysite.sock", "unix socket to listen at";
        method: Method = "prefork", OneOf(Method::NAMES), "threaded", "processes, or threads in one process";
        // Hosts count threads as processes (CloudLinux: 100 for the whole account), so few.
        threads: u32 = 4, Count(1, 64), 8, "threads of a process when method is threaded";
        /// Each worker draws up to a tenth less.
        maxrequests: u64 = 0, Count(0, u32::MAX as u64), 1000, "requests after which a worker is replaced; 0: never";
        minspare: Option<u32> = "(0; one worker is always there)", Count(0, 10_000), 2, "idle workers kept in readiness at the least";
        maxspare: Option<u32> = "(what suits the place, at most 5)", Count(0, 10_000), 5, "idle workers kept at the most";
        maxchildren: Option<u32> = "(8, or what the account has room for; 1 under mod_fcgid)", Count(1, 10_000), 8, "workers at the most; fewer where the account has no room for them";
        daemonize: Option<bool> = "(yes when socket or port is given)", Bool, false, "go into the background";
        pidfile: Option<PathBuf> = "(none)", Path, "mysite.pid", "file that holds the process id while the server runs";
        workdir: Option<PathBuf> = "(/)", Path, "/tmp", "working directory when daemonized";
        debug: bool = false, Bool, true, "show tracebacks to the visitor";
        outlog: Option<PathBuf> = "(errlog)", Path, "out.log", "when daemonized: file for what the app prints to standard output; rotated as [log] says";
        errlog: Option<PathBuf> = "(/dev/null)", Path, "error.log", "when daemonized: file for standard error and the server's own events; rotated as [log] says";
        umask: Option<u32> = "(022 when daemonized)", Mode, "0002", "umask, octal: with 0002 a web server of our group may use the socket";
        socket_mode: Option<u32> = "(from umask)", Mode, "0660", "mode of the unix socket, octal; overrules umask";
        // A web server that connects to a full unix socket is refused at once, and its visitor gets a 502. The kernel
        // cuts this down to its own `somaxconn`.
        backlog: u32 = 1024, Count(1, 65_535), 512, "connections that wait in the kernel";
        secret: Option<String> = "(none)", Text, "long-random-text", "AJP: what each request must carry";
        preload: bool = true, Bool, false, "import the app once and fork workers from there";
        warm: Option<String> = "(none)", UrlPath, "/", "path that is requested once before workers are forked";
        // mod_fcgid ends idle processes after 300 s; half an hour spares most visitors of a quiet site the import, at
        // the cost of one process.
        linger: u64 = 1800, Seconds(0, 30 * DAY), "1h", "how long the imported app outlives the last process of the web server";
        // A burst of visitors is over after a minute; then the memory of its workers belongs to the account again.
        idle_timeout: u64 = 60, Seconds(1, LONG), "5m", "how long idle workers above the spare ones are kept";
        max_lifetime: u64 = 0, Seconds(0, LONG), "1h", "age at which a worker is replaced; 0: never";
        max_memory: u64 = 0, Size(0, HUGE), "200M", "memory at which a worker is replaced between two requests; 0: never";
        runtime_dir: Option<PathBuf> = "(found)", Path, "/var/tmp/mysite-run", "directory of sockets and locks: local, ours, 0700";
        /// Some web servers send names that nobody has checked.
        remote_user: bool = false, Bool, true, "believe REMOTE_USER from the web server when it did not start us";
        ping: Option<String> = "(none)", UrlPath, "/runfcgi-ping", "path that is answered without the app";
        + endpoints: Vec<Endpoint>, "Where to listen, from `host`, `port` and `socket`; empty: descriptor 0 is the listening socket";
    }

    limits: Limits, cli false, "Bounds. Sizes are bytes or `\"64K\"`, `\"10M\"`, `\"1G\"`; times are seconds or `\"30s\"`, `\"5m\"`, `\"1h\"`." {
        // Most of them are idle ones that are kept for the next request. Each needs a descriptor (the soft limit is
        // raised to `limits::DESCRIPTORS`) and some hundred bytes; running out of descriptors pauses accepting.
        max_connections: usize = 4096, Count(1, MANY), 200, "open connections from web servers";
        // At 50 ms a request and four workers the last of a hundred waits little over a second; who queues longer is
        // better told so.
        queue: usize = 100, Count(0, MANY), 50, "requests that wait for a worker; above: 503";
        // Below mod_fcgid's FcgidIOTimeout (40 s), so that our 503 arrives first.
        queue_timeout: u64 = 30, Seconds(1, DAY), "20s", "how long a request may wait for a worker; then 503";
        // Below mod_fcgid's FcgidBusyTimeout (300 s), so that we end the worker and keep the stack that it hung in,
        // before Apache ends the front.
        request_timeout: u64 = 240, Seconds(0, 30 * DAY), "2m", "how long a request may run; then its stack is logged and its worker ended; 0: no end";
        // Below FcgidIOTimeout (40 s). Django takes 0.3 s from a warm cache, and up to 18 s where the host limits
        // reading to 1 MB/s.
        start_timeout: u64 = 30, Seconds(1, DAY), "1m", "how long the import of the app may take";
        // Web servers stop at 8 to 64 KiB of headers, and the rest of the environment is seldom above 8 KiB.
        max_params: usize = "256K", Size(4096, 16 << 20), "64K", "size of all headers and variables of a request";
        // It is spooled to a file, so that only disk space is at stake. Web servers have their own, smaller bounds, and
        // Django has its own for forms.
        max_body: u64 = "1G", Size(0, HUGE), "20M", "size of a request's body; above: 413";
        // Apache's own RequestReadTimeout is 20 to 40 s, so a minute only catches the dead.
        read_timeout: u64 = 60, Seconds(1, DAY), 30, "how long a request may stall on its way in";
        // As Apache's TimeOut.
        write_timeout: u64 = 60, Seconds(1, DAY), 30, "how long a response may stall on its way out";
    }

    restart: Restart, cli false, "When and how new code goes live." {
        how: How = "replace", OneOf(How::NAMES), "exit", "replace processes without a gap, or finish and exit";
        /// Absolute after loading.
        watch: Vec<PathBuf> = "tmp/restart.txt", Paths, ["tmp/restart.txt", "VERSION"], "files whose change puts new code live; relative to the app's path";
    }

    log: Log, cli false, "Logs." {
        file: Option<PathBuf> = "(none: the web server's log)", Path, "mysite.log", "our own log";
        // Small beside any quota, and months of an ordinary site.
        max_size: u64 = "10M", Size(4096, HUGE), "1M", "size at which logs are rotated";
        access: Option<PathBuf> = "(none)", Path, "access.log", "access log";
        format: String = "%h %l %u %t \"%r\" %>s %b %D", Text, "%h %t %r %>s", "format of the access log, as Apache's LogFormat";
        // A request this slow has lost its visitor, and its stack is worth a look.
        slow_log: f64 = 10, Fraction, 2.5, "seconds after which the stack of a request is logged; 0: never";
    }

    status: Status, cli false, "How the site does, as a page over HTTP; there is one when both are given. The secret goes into the URL \
        (`?secret=`), or into a header (`Authorization: Bearer`, `X-Runfcgi-Secret`); `format=` is html, text, json or prometheus." {
        path: Option<String> = "(none)", UrlPath, "/-/status", "path of the page";
        secret: Option<String> = "(none)", Text, "long-random-text", "what a request for the page must carry; any other goes to the app";
    }
}

choices! {
    /// `[server] protocol`.
    Protocol {
        /// FastCGI 1.0.
        Fcgi = "fcgi" | "fastcgi",
        /// SCGI.
        Scgi = "scgi",
        /// AJP 1.3.
        Ajp = "ajp" | "ajp13",
    }

    /// `[server] method`.
    Method {
        /// A process for each request at a time.
        Prefork = "prefork" | "fork",
        /// One process with several threads.
        Threaded = "threaded" | "thread",
    }

    /// `[restart] how`.
    How {
        /// Replace processes without a gap.
        Replace = "replace",
        /// Finish and exit, for the web server to start anew.
        Exit = "exit",
    }
}

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

/// The reference that stands in the README between `<!-- options -->` and `<!-- /options -->`.
pub fn reference_markdown() -> String {
    let mut out = String::new();
    for (section, line) in SECTIONS {
        let _ = write!(out, "\n### `[{section}]`\n\n{line}\n");
        let mut head = "\n| Key | Takes | Default | Meaning | Example |\n|---|---|---|---|---|\n";
        for o in OPTIONS.iter().filter(|o| o.section == *section) {
            let default = match o.default_in_words() {
                Some(words) => words.to_string(),
                None => format!("`{}`", o.default),
            };
            let _ = writeln!(
                out,
                "{head}| `{}` | {} | {default} | {} | `{}` |",
                o.key, o.kind, o.help, o.example
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

    fn with(opt: &Opt, value: toml::Value) -> Result<Config, value::Problem> {
        let mut config = Config::default();
        (opt.set)(&mut config, opt, value::Raw::text(value), &base()).map(|()| config)
    }

    #[test]
    fn a_word_of_the_command_line_means_one_setting() {
        let words = OPTIONS.iter().filter(|o| o.cli);
        for o in words.clone() {
            assert_eq!(words.clone().filter(|other| other.key == o.key).count(), 1);
        }
        assert!(words.count() > 30);
    }

    #[test]
    fn defaults_in_words_are_the_defaults_in_code() {
        let want = format!("{:?}", Config::default());
        for o in OPTIONS.iter().filter(|o| !o.default.starts_with('(')) {
            let raw = match o.kind {
                Kind::Paths => toml::Value::Array(vec!["tmp/restart.txt".into()]),
                _ => toml::Value::String(o.default.to_string()),
            };
            let got = with(o, raw).unwrap_or_else(|p| panic!("{}: {p:?}", o.key));
            assert_eq!(format!("{got:?}"), want, "[{}] {}", o.section, o.key);
        }
    }

    #[test]
    fn examples_are_accepted_and_differ_from_the_default() {
        let plain = format!("{:?}", Config::default());
        for o in OPTIONS {
            let text = format!("{} = {}", o.key, o.example);
            let raw = text.parse::<toml::Table>().unwrap().remove(o.key).unwrap();
            let got = with(o, raw).unwrap_or_else(|p| panic!("{text}: {p:?}"));
            assert_ne!(format!("{got:?}"), plain, "[{}] {text}", o.section);
        }
    }

    #[test]
    fn the_fields_hold_what_the_bounds_allow() {
        for o in OPTIONS {
            if let Kind::Count(low, high) | Kind::Seconds(low, high) | Kind::Size(low, high) =
                o.kind
            {
                for n in [low, high] {
                    with(o, toml::Value::Integer(n as i64))
                        .unwrap_or_else(|p| panic!("{} = {n}: {p:?}", o.key));
                }
            }
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
