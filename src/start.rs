//! From a process to a server: what was handed to us, what we are, and executing a new image.
//!
//! A listening socket on descriptor 0: the web server spawned us. Else GATEWAY_INTERFACE: one CGI request. Else a person
//! at a shell. Nothing else is guessed from. Blocks only before serving begins.

use crate::cli::{self, Command, Serve};
use crate::config::{self, Config, Finding};
use crate::image::{self, Image};
use crate::log::{Log, LogFile};
use crate::pairs::Pairs;
use crate::runtime::RuntimeDir;
use crate::server::{HandOver, Listener, Outcome, Place, Role, Server, Stamp};
use crate::worker::preloader::{Hello, spawner, start_time};
use crate::{check, endpoints, fd, status};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{self, sockopt};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// What an image leaves to the next one: `key=value` words, all of them descriptors or plain numbers.
const HANDOVER: &str = "RUNFCGI_HANDOVER";
/// The path of the uploaded executable, beside `HANDOVER`.
const ORIGINAL: &str = "RUNFCGI_ORIGINAL";

/// Does what the command line, the environment and descriptor 0 ask for. Returns the exit status.
pub fn run() -> u8 {
    let left = Left::read();
    fd::close_all_but(&left.descriptors());
    let mut words = std::env::args_os();
    let called_as = words.next().unwrap_or_default();
    let original = left
        .original
        .clone()
        .unwrap_or_else(|| own_path(&called_as));
    let stem = original
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let listening = socket::getsockopt(&io::stdin(), sockopt::AcceptConn).unwrap_or(false);
    let cgi = !listening && std::env::var_os("GATEWAY_INTERFACE").is_some();
    let words: Vec<OsString> = if listening {
        Vec::new()
    } else {
        words.collect()
    };
    let command = match cli::parse(&stem, words, cgi) {
        Ok(command) => command,
        Err(findings) => return refuse(&findings),
    };
    match command {
        Command::Serve(serve) if listening || cgi || serve.asked => {
            let role = match (listening, cgi) {
                (true, _) => Role::Spawned {
                    mod_fcgid: spawned_by_mod_fcgid(),
                },
                (_, true) => Role::Cgi,
                _ => Role::External,
            };
            serve_site(role, original, &stem, serve, left)
        }
        Command::Serve(_) => {
            let found = locate(&stem, &original, None).ok().flatten();
            say(&cli::alone(
                &called_as.to_string_lossy(),
                &stem,
                found.as_deref(),
            ));
            0
        }
        Command::Check(common) => {
            match check::run(
                &original,
                &stem,
                common.config.as_deref(),
                &mut io::stdout(),
            ) {
                Ok(true) => 0,
                _ => cli::EXIT_FAILED,
            }
        }
        Command::Help(topic) => {
            say(&cli::help_text(topic));
            0
        }
        Command::Version => {
            say(&format!("{}\n", cli::version_text()));
            0
        }
        Command::Launch(launch) => launch.run(),
        Command::SelfTest => 0,
        Command::Status { json, common } => {
            match locate(&stem, &original, common.config.as_deref()) {
                Ok(found) => tell_status(&original, &stem, found, json),
                Err(finding) => refuse(&[finding]),
            }
        }
    }
}

fn tell_status(original: &Path, stem: &str, found: Option<PathBuf>, json: bool) -> u8 {
    let beside = original.parent().unwrap_or(Path::new("/"));
    let file = found.unwrap_or_else(|| original.with_file_name(format!("{stem}.toml")));
    let config = Config::load(&file).ok();
    let (text, alive) = status::command::report(&file, config.as_ref(), beside, json);
    say(&text);
    if alive { 0 } else { cli::EXIT_FAILED }
}

fn serve_site(role: Role, original: PathBuf, stem: &str, serve: Serve, left: Left) -> u8 {
    let located = locate(stem, &original, serve.options.config.as_deref());
    let config_file = match &located {
        Ok(Some(path)) => Some(path.clone()),
        _ => Some(original.with_file_name(format!("{stem}.toml"))),
    };
    let config = match located {
        Ok(None) if role != Role::External => Err(vec![no_settings(stem, &original)]),
        Ok(path) => Config::load_with(path.as_deref(), &serve.options),
        Err(finding) => Err(vec![finding]),
    };
    let config = match config {
        Err(findings) if role == Role::External => return refuse(&findings),
        other => other,
    };
    let name = original
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    let mut identity = config_file
        .clone()
        .unwrap_or_default()
        .into_os_string()
        .into_encoded_bytes();
    if role == Role::External {
        // Several servers may share a file and differ by their options.
        identity.extend(
            std::env::args_os()
                .skip(1)
                .flat_map(OsString::into_encoded_bytes),
        );
    }
    let beside = original.parent().unwrap_or(Path::new("/"));
    let named = config
        .as_ref()
        .ok()
        .and_then(|c| c.server.runtime_dir.clone());
    let dir = RuntimeDir::open(named.as_deref(), beside, &identity);
    let spawned_as = left
        .spawned_as
        .unwrap_or_else(|| Stamp::of(&original).inode());
    if !left.is_copy && role != Role::Cgi {
        move_to_copy(&original, dir.as_ref().ok(), spawned_as);
    }
    let log_file = config
        .as_ref()
        .ok()
        .and_then(|c| Some(LogFile::new(c.log.file.clone()?, c.log.max_size)));
    let mut log = Log::new(true, log_file);
    if let Err(error) = &dir {
        log.event(
            std::time::SystemTime::now(),
            crate::log::Level::Warning,
            &error.to_string(),
        );
    }
    let spawner = if role == Role::External { 0 } else { spawner() };
    let hello = Hello {
        spawner,
        spawner_start: start_time(spawner),
        linger: 0,
    };
    let listeners = match listeners(role, config.as_ref().ok(), left.listeners) {
        Ok(listeners) => listeners,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            return cli::EXIT_FAILED;
        }
    };
    let place = Place {
        role,
        image: own_image(&original),
        image_lock: left.lock,
        config_file,
        options: serve.options,
        spawned_as,
        python_cache: dir.as_ref().ok().map(|dir| dir.file("python")),
        dir: dir.ok(),
        hello,
        identity,
        original,
    };
    let handed = HandOver {
        control: left.control,
        version: left.version,
        connections: left.connections,
        listeners: Vec::new(),
        report: left.report,
    };
    let config = config.map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(Finding::one_line).collect();
        format!("the site is not configured\n{}", lines.join("\n"))
    });
    let original = place.original.clone();
    let outcome = Server::new(config, place, listeners, handed, log).map(|server| match role {
        Role::Cgi => serve_cgi(server),
        _ => server.run(),
    });
    match outcome {
        Ok(Outcome::Exit) => 0,
        Ok(Outcome::Exec(hand, image)) => {
            let error = execute(&original, image, *hand, spawned_as);
            let _ = writeln!(
                io::stderr(),
                "runfcgi: the new image cannot be executed: {error}"
            );
            cli::EXIT_FAILED
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "runfcgi: the server cannot start: {error}");
            cli::EXIT_FAILED
        }
    }
}

fn serve_cgi(server: Server) -> Outcome {
    let mut environ = Pairs::new();
    for (name, value) in std::env::vars_os() {
        environ.push(name.as_encoded_bytes(), value.as_encoded_bytes());
    }
    let input = io::stdin().as_fd().try_clone_to_owned();
    let output = io::stdout().as_fd().try_clone_to_owned();
    match (input, output) {
        (Ok(input), Ok(output)) => server.serve_cgi(environ, input, output),
        _ => Outcome::Exit,
    }
}

fn locate(
    stem: &str,
    original: &Path,
    explicit: Option<&Path>,
) -> Result<Option<PathBuf>, Finding> {
    let from_env = config::explicit_from_env();
    let dir = original.parent().unwrap_or(Path::new("/"));
    config::locate(stem, dir, explicit.or(from_env.as_deref()))
}

fn no_settings(stem: &str, original: &Path) -> Finding {
    Finding::error(
        "RF0100",
        original.display().to_string(),
        format!("there is no {stem}.toml beside it nor in the two directories above"),
        format!("put {stem}.toml there, with [app] path and settings"),
    )
}

/// fd 0 when we were spawned; else the sockets that were left, or that the configuration names.
fn listeners(
    role: Role,
    config: Option<&Config>,
    left: Vec<OwnedFd>,
) -> anyhow::Result<Vec<Listener>> {
    match role {
        Role::Cgi => Ok(Vec::new()),
        Role::Spawned { .. } => {
            let protocol = config.map(|c| c.server.protocol).unwrap_or_default();
            let mut listener =
                Listener::new(io::stdin().as_fd().try_clone_to_owned()?, protocol, None)?;
            listener.allowed = endpoints::allowed_clients();
            Ok(vec![listener])
        }
        Role::External => endpoints::open(&config.cloned().unwrap_or_default().server, left),
    }
}

/// The executable as uploaded. `argv[0]` counts only where /proc is missing.
fn own_path(called_as: &std::ffi::OsStr) -> PathBuf {
    if let Ok(path) = std::fs::read_link("/proc/self/exe") {
        return path;
    }
    let path = PathBuf::from(called_as);
    std::fs::canonicalize(&path).unwrap_or(path)
}

/// A path by which children execute this very image.
fn own_image(original: &Path) -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        own.to_owned()
    } else {
        original.to_owned()
    }
}

/// mod_fcgid names its sockets `<its own pid>.<number>`.
fn spawned_by_mod_fcgid() -> bool {
    let Ok(name) = socket::getsockname::<socket::UnixAddr>(0) else {
        return false;
    };
    let file = name
        .path()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let parent = format!("{}.", nix::unistd::getppid());
    file.strip_prefix(&parent)
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Goes on in a private copy of the executable. Returns when that is not possible: then it goes on in the original.
fn move_to_copy(original: &Path, dir: Option<&RuntimeDir>, spawned_as: (u64, u64)) {
    if let Ok(image) = image::stage(original, dir)
        && image.path.as_deref() != Some(original)
    {
        let _ = execute(original, image, HandOver::default(), spawned_as);
    }
}

/// Executes an image in this process and leaves it what it needs. Returns only when that fails.
fn execute(original: &Path, image: Image, hand: HandOver, spawned_as: (u64, u64)) -> io::Error {
    let image = match image.exec_path() {
        Some(_) => image,
        None => match image::stage(original, None) {
            Ok(image) => image,
            Err(error) => return error,
        },
    };
    let Some(path) = image.exec_path() else {
        return io::ErrorKind::NotFound.into();
    };
    let mut words = vec![
        format!("spawned={}.{}", spawned_as.0, spawned_as.1),
        String::from("copy=1"),
    ];
    let mut keep: Vec<RawFd> = Vec::new();
    let mut leave = |name: &str, descriptor: &OwnedFd, more: String| {
        keep.push(descriptor.as_raw_fd());
        words.push(format!("{name}={}{more}", descriptor.as_raw_fd()));
    };
    if let Some(lock) = &image.lock {
        leave("lock", lock, String::new());
    }
    if let Some(control) = &hand.control {
        leave("control", control, format!(".{}", hand.version));
    }
    if let Some(report) = &hand.report {
        leave("report", report, String::new());
    }
    for listener in &hand.listeners {
        leave("listener", listener, String::new());
    }
    for (connection, listener) in &hand.connections {
        leave("connection", connection, format!(".{listener}"));
    }
    for descriptor in keep {
        if let Some(descriptor) = borrowed(&hand, &image, descriptor) {
            let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()));
        }
    }
    let mut command = std::process::Command::new(path);
    let mut arguments = std::env::args_os();
    if let Some(first) = arguments.next() {
        command.arg0(first);
    }
    command
        .args(arguments)
        .env(ORIGINAL, original)
        .env(HANDOVER, words.join(" "));
    command.exec()
}

fn borrowed<'a>(hand: &'a HandOver, image: &'a Image, raw: RawFd) -> Option<&'a OwnedFd> {
    let all = image
        .lock
        .iter()
        .chain(&hand.control)
        .chain(&hand.report)
        .chain(&hand.listeners)
        .chain(hand.connections.iter().map(|(c, _)| c));
    all.into_iter()
        .find(|descriptor| descriptor.as_raw_fd() == raw)
}

/// What the image before this one has left.
#[derive(Default)]
struct Left {
    original: Option<PathBuf>,
    spawned_as: Option<(u64, u64)>,
    is_copy: bool,
    lock: Option<OwnedFd>,
    control: Option<OwnedFd>,
    report: Option<OwnedFd>,
    version: String,
    listeners: Vec<OwnedFd>,
    connections: Vec<(OwnedFd, usize)>,
}

impl Left {
    fn read() -> Left {
        let mut left = Left::default();
        let (Some(original), Ok(words)) = (std::env::var_os(ORIGINAL), std::env::var(HANDOVER))
        else {
            return left;
        };
        left.original = Some(PathBuf::from(original));
        for word in words.split(' ') {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            let (first, second) = value.split_once('.').unwrap_or((value, ""));
            let descriptor = || fd::adopt(first.parse().ok().filter(|n| *n > 2)?);
            match name {
                "spawned" => left.spawned_as = first.parse().ok().zip(second.parse().ok()),
                "copy" => left.is_copy = true,
                "lock" => left.lock = descriptor(),
                "control" => (left.control, left.version) = (descriptor(), second.to_owned()),
                "report" => left.report = descriptor(),
                "listener" => left.listeners.extend(descriptor()),
                "connection" => left
                    .connections
                    .extend(descriptor().zip(second.parse().ok())),
                _ => (),
            }
        }
        left
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let all = self
            .lock
            .iter()
            .chain(&self.control)
            .chain(&self.report)
            .chain(&self.listeners)
            .chain(self.connections.iter().map(|(c, _)| c));
        let raw: Vec<RawFd> = all
            .map(|descriptor| {
                let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
                descriptor.as_raw_fd()
            })
            .collect();
        raw
    }
}

fn refuse(findings: &[Finding]) -> u8 {
    let _ = io::stderr().write_all(cli::refusal(findings).as_bytes());
    cli::EXIT_USAGE
}

fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
