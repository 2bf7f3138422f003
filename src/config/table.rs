//! The table of all settings, by section: name, type, default, kind of values, example and one line of help.
//!
//! The structs of `Config`, their defaults, the known names, `help` and the reference in the README are generated from
//! these rows. To add a setting, add a row and the code that uses its field. A default in parentheses is a description:
//! the field is None, and the code that uses it works out the value.

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

    app: App, cli true, "The application, and the Python that runs it." {
        /// After loading: absolute, and never None.
        path: Option<PathBuf> = "(directory of the settings file)", Path, "/home/ann/myproject", "directory of the code: first on sys.path, and the working directory";
        settings: Option<String> = "(none)", Module, "myproject.settings", "DJANGO_SETTINGS_MODULE; this or wsgi must be given";
        wsgi: Option<String> = "(Django's)", Callable, "myproject.wsgi:application", "module:callable of any WSGI application";
        /// After loading: absolute, unless it is a bare name.
        python: Option<PathBuf> = "(found)", Program, "/home/ann/venv/bin/python", "the interpreter; by default, a virtualenv beside the code, otherwise the newest suitable one";
        script_name: ScriptName = "auto", ScriptName, "/shop", "SCRIPT_NAME: auto, or the prefix of the site's URLs (\"/\" for none)";
    }
    + env, "Environment variables of the application: `NAME = \"value\"`."

    server: Server, cli true, "Sockets and processes. Each key is also an option of `runfcgi key=value`." {
        protocol: Protocol = "fcgi", OneOf(Protocol::NAMES), "scgi", "what the web server speaks";
        host: Option<String> = "(none)", Text, "127.0.0.1", "address to listen on, with port: IPv4, IPv6 or localhost";
        port: Option<u16> = "(none)", Count(1, 65_535), 3033, "TCP port to listen on, with host";
        socket: Option<PathBuf> = "(none: the web server passes one as descriptor 0)", Path, "mysite.sock", "unix socket to listen on";
        method: Method = "prefork", OneOf(Method::NAMES), "threaded", "processes, or threads in one process";
        // Few, because hosts count threads as processes (CloudLinux: 100 for the whole account).
        threads: u32 = 4, Count(1, 64), 8, "threads per process if method is threaded";
        /// Each worker subtracts a random amount of up to a tenth.
        maxrequests: u64 = 0, Count(0, u32::MAX as u64), 1000, "requests after which a worker is replaced; 0: never";
        minspare: Option<u32> = "(0; one worker is always there)", Count(0, 10_000), 2, "minimum number of idle workers";
        maxspare: Option<u32> = "(depends on the host and the account, at most 5)", Count(0, 10_000), 5, "maximum number of idle workers";
        maxchildren: Option<u32> = "(8, or what the account has room for; that alone under mod_fcgid and CGI)", Count(1, 10_000), 8, "maximum number of workers of the site, over all processes that the web server starts; further requests wait in line";
        daemonize: Option<bool> = "(yes when socket or port is given)", Bool, false, "go into the background";
        pidfile: Option<PathBuf> = "(none)", Path, "mysite.pid", "file that holds the process id while the server runs";
        workdir: Option<PathBuf> = "(/)", Path, "/tmp", "working directory when daemonized";
        debug: bool = false, Bool, true, "show tracebacks to the visitor";
        user: Option<String> = "(whoever starts it)", Text, "ann", "when started by root: user to become before any Python runs, with all groups; files and sockets are opened before";
        outlog: Option<PathBuf> = "(errlog)", Path, "out.log", "when daemonized: file for what the app prints to standard output; rotated as [log] says";
        errlog: Option<PathBuf> = "(/dev/null)", Path, "error.log", "when daemonized: file for standard error and the server's own events; rotated as [log] says";
        umask: Option<u32> = "(022 when daemonized)", Mode, "0002", "umask, octal: with 0002, a web server in the process's group may use the socket";
        socket_mode: Option<u32> = "(from umask)", Mode, "0660", "mode of the unix socket, octal; overrides umask";
        // When the backlog of a unix socket is full, connecting fails at once and the visitor gets a 502. The kernel
        // caps this at `somaxconn`.
        backlog: u32 = 1024, Count(1, 65_535), 512, "maximum number of connections that wait in the kernel";
        secret: Option<String> = "(none)", Text, "long-random-text", "AJP: the secret that each request must carry";
        preload: bool = true, Bool, false, "import the app once and fork the workers from that process";
        warm: Option<String> = "(none)", UrlPath, "/", "path that is requested once before the workers are forked";
        // mod_fcgid ends idle processes after 300 s. Half an hour saves most visitors of a quiet site from waiting for
        // the import, at the cost of one process.
        linger: u64 = 1800, Seconds(0, 30 * DAY), "1h", "how long the imported app is kept after the web server ends its last process";
        // A burst of visitors is over after a minute. Then its workers exit and free their memory.
        idle_timeout: u64 = 60, Seconds(1, LONG), "5m", "how long idle workers beyond the spare ones are kept";
        max_lifetime: u64 = 0, Seconds(0, LONG), "1h", "age at which a worker is replaced; 0: never";
        max_memory: u64 = 0, Size(0, HUGE), "200M", "memory at which a worker is replaced between two requests; 0: never";
        runtime_dir: Option<PathBuf> = "(found)", Path, "/var/tmp/mysite-run", "directory for sockets and locks: local, owned by this user, mode 0700";
        private_copy: bool = true, Bool, false, "run from a private copy of the executable, so that it can be overwritten; false: run the uploaded file itself";
        /// Off, because some web servers pass on names that they have not authenticated.
        remote_user: bool = false, Bool, true, "trust REMOTE_USER from a web server that did not start this program; see allowed_users";
        /// For unix sockets and TCP, but not under mod_fcgid.
        allowed_users: Option<Vec<u32>> = "(anybody)", Users, [33], "users of this machine who may connect to the server, besides root and its own; others, and other machines, are refused";
        ping: Option<String> = "(none)", UrlPath, "/runfcgi-ping", "path that is answered without the app";
        + endpoints: Vec<Endpoint>, "Where to listen, from `host`, `port` and `socket`; empty: descriptor 0 is the listening socket";
    }

    limits: Limits, cli false, "Limits. Sizes are bytes or `\"64K\"`, `\"10M\"`, `\"1G\"`; times are seconds or `\"30s\"`, `\"5m\"`, `\"1h\"`." {
        // Most connections are idle, kept open for the next request. Each takes a descriptor (the soft limit is raised
        // to `limits::DESCRIPTORS`) and a few hundred bytes. Out of descriptors, the server stops accepting for a while.
        max_connections: usize = 4096, Count(1, MANY), 200, "maximum number of open connections from web servers";
        // At 50 ms per request and with four workers, the last of a hundred waits just over a second. A visitor who
        // would wait longer is better served by a 503.
        queue: usize = 100, Count(0, MANY), 50, "maximum number of requests that wait for a worker; others get a 503";
        // Below mod_fcgid's FcgidIOTimeout (40 s), so that our 503 arrives first.
        queue_timeout: u64 = 30, Seconds(1, DAY), "20s", "how long a request may wait for a worker; then 503";
        // Below mod_fcgid's FcgidBusyTimeout (300 s), so that we log the stack and end the worker before Apache ends
        // the front.
        request_timeout: u64 = 240, Seconds(0, 30 * DAY), "2m", "how long a request may run; then its stack is logged and its worker is ended; 0: no limit";
        // Below FcgidIOTimeout (40 s). Importing Django takes 0.3 s from a warm cache, and up to 18 s where the host
        // limits reads to 1 MB/s.
        start_timeout: u64 = 30, Seconds(1, DAY), "1m", "how long the import of the app may take";
        // Web servers accept at most 8 to 64 KiB of headers, and the other variables seldom exceed 8 KiB.
        max_params: usize = "256K", Size(4096, 16 << 20), "64K", "maximum size of a request's headers and variables";
        // Large bodies are spooled to a file, so the only cost is disk space. Web servers have their own, smaller
        // limits, and Django has one for forms.
        max_body: u64 = "1G", Size(0, HUGE), "20M", "maximum size of a request's body; a larger one gets a 413";
        // Room for two hundred of the largest, and for thousands as they are. Web servers send a request in one go.
        memory: usize = "64M", Size(1 << 20, 1 << 40), "16M", "maximum memory for requests that are still coming in; beyond it, the connection that takes most is closed";
        /// See `Limits::spool`.
        // At least the largest body has room. Each process that the web server starts has its own.
        spool: Option<u64> = "(1G, or max_body if that is larger)", Size(0, HUGE), "200M", "maximum size of all that waits on disk: large bodies of requests, and responses that are read slowly (half of it at most)";
        // The disk of temporary files is everybody's. Of a small one, a tenth is enough.
        spool_free: u64 = "100M", Size(0, HUGE), "1G", "free space to leave on the disk of temporary files, but at most a tenth of it; uploads that need it get a 503";
        // Apache's own RequestReadTimeout is 20 to 40 s, so a minute only catches dead clients.
        read_timeout: u64 = 60, Seconds(1, DAY), 30, "how long to wait for more of a request";
        // The default of Apache's TimeOut.
        write_timeout: u64 = 60, Seconds(1, DAY), 30, "how long to wait until the web server reads more of a response";
        // As in Apache's RequestReadTimeout. Who sends or reads a byte a second would otherwise hold his place for ever.
        min_rate: u64 = 500, Count(0, MANY), 100, "bytes a second at which a request must come in, and a response be read, on average, once read_timeout or write_timeout has passed; 0: any";
    }

    restart: Restart, cli false, "When and how new code goes live." {
        how: How = "replace", OneOf(How::NAMES), "exit", "replace processes without a gap, or finish and exit";
        /// After loading: absolute.
        watch: Vec<PathBuf> = "tmp/restart.txt", Paths, ["tmp/restart.txt", "VERSION"], "files that put new code live when they change; relative to the app's path";
    }

    log: Log, cli false, "Logs." {
        file: Option<PathBuf> = "(none: the web server's log)", Path, "mysite.log", "the server's own log";
        // Small compared with any quota, and enough for months of an ordinary site.
        max_size: u64 = "10M", Size(4096, HUGE), "1M", "size at which logs are rotated";
        access: Option<PathBuf> = "(none)", Path, "access.log", "access log";
        format: String = "%h %l %u %t \"%r\" %>s %b %D %{X-Incident}o", Text, "%h %t %r %>s", "format of the access log, as in Apache's LogFormat";
        // After this long the visitor has given up, and the stack is worth a look.
        slow_log: f64 = 10, Fraction, 2.5, "seconds after which the stack of a request is logged; 0: never";
    }

    status: Status, cli false, "The status page: the state of the site over HTTP. It exists if path and secret are set. The secret goes into the URL \
        (`?secret=`), or into a header (`Authorization: Bearer`, `X-Runfcgi-Secret`); `format=` is html, text, json or prometheus." {
        path: Option<String> = "(none)", UrlPath, "/-/status", "path of the page";
        secret: Option<String> = "(none)", Text, "long-random-text", "the secret that a request for the page must carry; others go to the app";
    }

    owner: Owner, cli false, "The owner's desk: a page over HTTPS that shows the state of the site and its log, and runs tasks. It exists \
        if path and secret are set." {
        path: Option<String> = "(none)", UrlPath, "/-/runfcgi", "path of the desk";
        secret: Option<String> = "(none)", Text, "long-random-text", "the secret that the desk asks for; anyone who knows it can run tasks as you";
        tasks: bool = false, Bool, true, "also take tasks from a file: a task name in `tmp/run.txt` below the app's path; the output goes to `tmp/run.log`";
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
        /// Several processes, each with one request at a time.
        Prefork = "prefork" | "fork",
        /// One process with several threads.
        Threaded = "threaded" | "thread",
    }

    /// `[restart] how`.
    How {
        /// Replace processes without a gap.
        Replace = "replace",
        /// Finish and exit; the web server starts a new process.
        Exit = "exit",
    }
}

/// Finds a setting by its section and key.
pub fn find(section: &str, key: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|o| o.section == section && o.key == key)
}

/// Finds the setting that is the option `key` on the command line.
pub fn find_cli(key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.cli && o.key == key)
}

/// The reference between `<!-- options -->` and `<!-- /options -->` in the README.
pub fn reference_markdown() -> String {
    let mut out = String::new();
    for (section, line) in SECTIONS {
        let _ = write!(out, "\n### `[{section}]`\n\n{line}\n");
        let mut head = "\n| Key | Takes | Default | Meaning | Example |\n|---|---|---|---|---|\n";
        for o in OPTIONS.iter().filter(|o| o.section == *section) {
            let default = match o.default_description() {
                Some(text) => text.to_string(),
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
    fn an_option_names_one_setting() {
        let options = OPTIONS.iter().filter(|o| o.cli);
        for o in options.clone() {
            assert_eq!(
                options.clone().filter(|other| other.key == o.key).count(),
                1
            );
        }
        assert!(options.count() > 30);
    }

    #[test]
    fn defaults_in_the_table_are_the_defaults_in_code() {
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
    fn the_fields_hold_the_limits() {
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
    fn the_readme_matches_the_table() {
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
