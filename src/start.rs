//! From a process to a server: what was handed to us, what we are, and executing a new image.
//!
//! A listening socket on descriptor 0: the web server spawned us. Else GATEWAY_INTERFACE: one CGI request. Else a person
//! at a shell, or systemd. Nothing else is guessed from. Blocks only before serving begins.

mod begin;
mod caller;
mod handover;
mod sockets;

use crate::cli::{self, Command, Serve};
use crate::config::{self, Candidates, Config, Finding, Options};
use crate::daemon::{self, Surroundings};
use crate::log::{Level, Log, LogFile};
use crate::pairs::Pairs;
use crate::reload::{Beginning, Origin, Stamp, Watch};
use crate::rundir::{Entry, RuntimeDir};
use crate::server::{Front, HandOver, Outcome, Role, Server};
use crate::sys::procfs::{spawner, start_time};
use crate::sys::{fd, limits};
use crate::systemd::{self, Activated};
use crate::trust::Trust;
use crate::workers::LaunchContext;
use crate::workers::preloader::Hello;
use crate::workers::spawn::LAUNCHER;
use crate::{check, python, status};
use begin::{begin, identity};
use handover::{Background, Left, Own, own_image, own_path};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, sockopt};
use sockets::{can_listen, listeners, pidfile};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Does what the command line, the environment and descriptor 0 ask for. Returns the exit status.
pub fn run() -> u8 {
    limits::let_large_writes_fail();
    let mut left = Left::read();
    let activated = match left.again {
        true => Vec::new(),
        false => systemd::activated(),
    };
    fd::close_the_rest();
    let mut words = std::env::args_os();
    let called_as = words.next().unwrap_or_default();
    if called_as == LAUNCHER {
        return launch();
    }
    let here = left
        .directory
        .clone()
        .or_else(|| std::env::current_dir().ok());
    let here = here.unwrap_or_else(|| PathBuf::from("/"));
    let original = left
        .original
        .clone()
        .unwrap_or_else(|| own_path(&called_as, &here));
    let stem = original
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let candidates = |named: Option<&Path>| {
        let named = named.map(Path::to_owned).or_else(config::explicit_from_env);
        match named {
            Some(path) => Candidates::named(here.join(path)),
            None => Candidates::of(&original),
        }
    };
    // While it is being uploaded anew, it still is whose it was.
    let owner = config::owner(&original).or(left.owner);
    left.owner = owner;
    let listening = socket::getsockopt(&io::stdin(), sockopt::AcceptConn).unwrap_or(false);
    let forced = force_cgi();
    let has = |name: &str| std::env::var_os(name).is_some();
    let cgi = match listening {
        true => forced,
        false => has("GATEWAY_INTERFACE") || forced && has("REQUEST_METHOD"),
    };
    if cgi && !has("REQUEST_METHOD") && !has("GATEWAY_INTERFACE") {
        complain(
            "FCGI_FORCE_CGI asks for one CGI request, but REQUEST_METHOD and the other variables of one are missing",
        );
        return cli::EXIT_USAGE;
    }
    let judged = match words.len() == 0 || cgi || left.heeded {
        true => Ok(()),
        false => caller::words(owner, &stem).map_err(|finding| vec![finding]),
    };
    left.heeded = judged.is_ok();
    let command = match judged.and_then(|()| cli::parse(&stem, words.collect(), cgi)) {
        // A web server hears nothing from us but answers, so they tell what is wrong.
        Err(findings) if listening => {
            let site = Site {
                role: caller::spawned(),
                serve: Serve::default(),
                candidates: candidates(None),
                refused: findings,
            };
            return serve_site(site, original, left, activated);
        }
        Ok(command) if listening && !matches!(command, Command::Serve(_)) => {
            Command::Serve(Serve::default())
        }
        Ok(command) => command,
        Err(findings) => return refuse(&findings),
    };
    match command {
        Command::Serve(serve) if listening || cgi || serve.asked || !activated.is_empty() => {
            let role = match (cgi, listening && !serve.options.listens()) {
                (true, _) => Role::Cgi,
                (_, true) => caller::spawned(),
                _ => Role::External,
            };
            let site = Site {
                role,
                candidates: candidates(serve.options.config.as_deref()),
                serve,
                refused: Vec::new(),
            };
            serve_site(site, original, left, activated)
        }
        Command::Serve(_) => {
            let found = candidates(None).find(owner).ok().flatten();
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
                &candidates(common.config.as_deref()),
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
        Command::SelfTest => 0,
        Command::Status { json, common } => {
            let candidates = candidates(common.config.as_deref());
            match candidates.find(owner) {
                Ok(_) => tell_status(&original, &candidates, json),
                Err(finding) => refuse(&[finding]),
            }
        }
    }
}

/// Becomes the interpreter that a process of ours asks for.
fn launch() -> u8 {
    if !caller::is_ours() {
        return refuse(&[caller::not_ours()]);
    }
    match python::Launch::receive() {
        Ok(launch) => launch.run(),
        Err(error) => {
            complain(&format!("what to launch did not arrive: {error}"));
            cli::EXIT_FAILED
        }
    }
}

fn tell_status(original: &Path, candidates: &Candidates, json: bool) -> u8 {
    let beside = original.parent().unwrap_or(Path::new("/"));
    let options = Options::of_owner(config::owner(original));
    let (text, runs) = status::command::report(candidates, &options, beside, json);
    say(&text);
    if runs { 0 } else { cli::EXIT_FAILED }
}

/// What is to be served, and as what.
struct Site {
    role: Role,
    serve: Serve,
    /// Where its settings may stand.
    candidates: Candidates,
    /// What is wrong with the words that a web server gave.
    refused: Vec<Finding>,
}

fn serve_site(mut site: Site, original: PathBuf, mut left: Left, activated: Vec<Activated>) -> u8 {
    let here = left
        .directory
        .take()
        .or_else(|| std::env::current_dir().ok());
    let mut own = Own {
        spawned_as: left
            .spawned_as
            .unwrap_or_else(|| Stamp::of(&original).inode()),
        original,
        owner: left.owner,
        directory: here.unwrap_or_else(|| PathBuf::from("/")),
        heeded: left.heeded,
        background: left.background,
        ready: left.ready.take(),
        ..Own::default()
    };
    if own.background == Background::Leader {
        return own.lead();
    }
    let options = &mut site.serve.options;
    options.directory = Some(own.directory.clone());
    options.owner = own.owner;
    options.config = options.config.take().map(|file| own.directory.join(file));
    let external = site.role == Role::External;
    let origin = Origin {
        executable: own.original.clone(),
        settings: site.candidates,
        required: !external,
        refused: std::mem::take(&mut site.refused),
        options: site.serve.options,
        identity: Vec::new(),
        reload: None,
    };
    // Before they are read: what changes meanwhile is seen later.
    let watch = origin.watch();
    let config = origin.settings();
    if external && !left.again {
        let config = match &config {
            Ok(config) => config,
            Err(findings) => return give_up(&mut own, findings),
        };
        if let Err(finding) = can_listen(config, &activated) {
            return give_up(&mut own, &[finding]);
        }
        let first = !left.is_copy && own.background == Background::No;
        for warning in config.warnings.iter().filter(|_| first) {
            complain(&warning.one_line());
        }
        if first && config.server.daemonizes() {
            return to_background(&own, config);
        }
    }
    if external {
        daemon::hold_signals();
    }
    let disk = Disk {
        origin,
        watch,
        config,
    };
    let status = match start(site.role, &mut own, left, activated, disk) {
        Ok(status) => status,
        Err(error) => {
            complain(&format!("{error:#}"));
            cli::EXIT_FAILED
        }
    };
    if let Some(pidfile) = own.pidfile.take() {
        pidfile.remove();
    }
    if let Some(ready) = own.ready.take() {
        daemon::tell(ready, status);
    }
    status
}

/// What the disk holds.
struct Disk {
    origin: Origin,
    watch: Watch,
    config: Result<Config, Vec<Finding>>,
}

/// Opens all that is needed, serves, and returns the exit status at the end.
fn start(
    role: Role,
    own: &mut Own,
    mut left: Left,
    activated: Vec<Activated>,
    disk: Disk,
) -> anyhow::Result<u8> {
    let Disk {
        mut origin,
        watch,
        config,
    } = disk;
    let name = own.original.file_name().unwrap_or_default();
    if let Ok(name) = std::ffi::CString::new(name.to_string_lossy().into_owned()) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    origin.identity = identity(role, origin.settings.name(), &own.directory);
    let named = match &config {
        Ok(config) => config.server.runtime_dir.clone(),
        Err(_) => config::runtime_dir_of_broken(&origin.settings.nearest(), own.owner),
    };
    let dir = RuntimeDir::open(
        named.as_deref(),
        own.original.parent().unwrap_or(Path::new("/")),
        &origin.identity,
    );
    origin.reload = dir.as_ref().ok().map(|dir| dir.file(Entry::Reload));
    let begin = begin(role, left.again, origin, watch, config, dir.as_ref().ok());
    let known = (begin.beginning != Beginning::Broken).then(|| begin.live.config.clone());
    let known = known.as_deref();
    if !left.is_copy && role != Role::Cgi {
        own.move_to_copy(dir.as_ref().ok(), &activated);
    }
    let log_file = known.and_then(|c| Some(LogFile::new(c.log.file.clone()?, c.log.max_size)));
    let mut log = Log::new(true, log_file);
    if let Err(error) = &dir {
        log.event(SystemTime::now(), Level::Warning, &error.to_string());
    }
    let mut note = |text: &str| log.event(SystemTime::now(), Level::Warning, text);
    if let Some(why) = left.refused.take() {
        note(&format!(
            "restart: the new image cannot be executed, the old one goes on: {why}"
        ));
    }
    let again = left.again;
    // A server that has been serving goes on without what it cannot get.
    let mut or_go_on = |error: anyhow::Error| match again {
        true => {
            note(&format!("restart: {error:#}"));
            Ok(())
        }
        false => Err(error),
    };
    let surroundings = match (known, own.background) {
        (Some(config), Background::Daemon) => match Surroundings::open(&config.server) {
            Ok(surroundings) => Some(surroundings),
            Err(error) => or_go_on(error).map(|()| None)?,
        },
        _ => None,
    };
    own.pidfile = match pidfile(role, known, left.pidfile.take()) {
        Ok(pidfile) => pidfile,
        Err(error) => or_go_on(error).map(|()| None)?,
    };
    if let Some(pidfile) = &mut own.pidfile {
        pidfile.write()?;
    }
    let image_lock = left.lock.take();
    let mut handed = HandOver {
        control: left.control.take(),
        version: std::mem::take(&mut left.version),
        connections: std::mem::take(&mut left.connections),
        listeners: Vec::new(),
        report: left.report.take(),
        turn: left.turn.take(),
    };
    let opened = listeners(role, known, left, activated)?;
    opened.warnings.iter().for_each(|warning| note(warning));
    if role == Role::External {
        handed.connections = std::mem::take(&mut handed.connections)
            .into_iter()
            .filter_map(|(socket, at)| Some((socket, (*opened.moved.get(at)?)?)))
            .collect();
    }
    own.listening = opened
        .listeners
        .iter()
        .map(|l| (l.as_fd().as_raw_fd(), (l.protocol, !l.ours)))
        .collect();
    let spawner = match role {
        Role::External => 0,
        _ => spawner(),
    };
    let launch = LaunchContext {
        image: own_image(&own.original),
        python_cache: dir.as_ref().ok().map(|dir| dir.file(Entry::Python)),
        dir: dir.ok(),
        hello: Hello {
            spawner,
            spawner_start: start_time(spawner),
            linger: 0,
        },
        // A process whose parent is init was left alone by who started it: nobody will start the next one.
        lingers: role != Role::External && spawner != 1,
        cgi: role == Role::Cgi,
        alone: matches!(role, Role::Spawned { mod_fcgid: true } | Role::Cgi),
        outlog: false,
    };
    let front = Front {
        role,
        image_lock,
        spawned_as: own.spawned_as,
        launch,
    };
    let mut server = Server::new(begin, front, opened.listeners, handed, log)
        .map_err(|error| anyhow::anyhow!("the server cannot start: {error}"))?;
    if let (Some(surroundings), Some(settled)) = (surroundings, known) {
        let [errors, output] = Surroundings::logs(settled);
        surroundings.enter(&settled.server)?;
        server.log_to(errors, output);
    }
    if let Some(ready) = own.ready.take() {
        daemon::tell(ready, 0);
    }
    // After a restart the old words still hold.
    systemd::notify(match again {
        true => "READY=1",
        false => "READY=1\nSTATUS=listening",
    });
    let outcome = match role {
        Role::Cgi => serve_cgi(server),
        _ => server.run(),
    };
    match outcome {
        Outcome::Exit => Ok(0),
        Outcome::Exec(hand, image) => {
            let error = own.execute(image, Some(*hand));
            anyhow::bail!("the new image cannot be executed: {error}");
        }
    }
}

fn serve_cgi(server: Server) -> Outcome {
    let mut environ = Pairs::new();
    for (name, value) in std::env::vars_os() {
        environ.push(name.as_encoded_bytes(), value.as_encoded_bytes());
    }
    let listening = socket::getsockopt(&io::stdin(), sockopt::AcceptConn).unwrap_or(false);
    let input = match listening {
        true => std::fs::File::open("/dev/null").map(OwnedFd::from),
        false => io::stdin().as_fd().try_clone_to_owned(),
    };
    let output = io::stdout().as_fd().try_clone_to_owned();
    match (input, output) {
        (Ok(input), Ok(output)) => server.serve_cgi(environ, input, output),
        _ => Outcome::Exit,
    }
}

/// `FCGI_FORCE_CGI=Y`: the socket on descriptor 0 does not count.
fn force_cgi() -> bool {
    std::env::var("FCGI_FORCE_CGI").is_ok_and(|value| value.starts_with(['Y', 'y']))
}

/// Returns the exit status for the shell. It listens first: those who wait for it do not wait for the search.
fn to_background(own: &Own, config: &Config) -> u8 {
    let daemon = match own.go_to_background() {
        Ok(daemon) => daemon,
        Err(status) => return status,
    };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match python::discover(&config.app, Trust::of(config.owner), home.as_deref()) {
        Ok(_) => cli::EXIT_OK,
        Err(why) => {
            complain(&why);
            let _ = kill(daemon, Signal::SIGTERM);
            cli::EXIT_FAILED
        }
    }
}

fn give_up(own: &mut Own, findings: &[Finding]) -> u8 {
    let status = refuse(findings);
    if let Some(ready) = own.ready.take() {
        daemon::tell(ready, status);
    }
    status
}

/// A line for each that is wrong.
fn refuse(findings: &[Finding]) -> u8 {
    for finding in findings {
        complain(&finding.one_line());
    }
    cli::EXIT_USAGE
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "runfcgi: {text}");
}

fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
