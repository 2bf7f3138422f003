//! Process start: works out how we were started, opens what the server needs, runs it, and executes a new image.
//!
//! A listening socket on descriptor 0 means that a web server spawned us. Otherwise GATEWAY_INTERFACE means one CGI
//! request. Otherwise a person at a shell or systemd started us. Nothing else is considered. Blocks only before serving.

mod begin;
mod caller;
mod handover;
mod sockets;
mod tell;
mod user;

use crate::cli::{self, Command, Serve};
use crate::codes::{self, Code};
use crate::config::{self, Candidates, Config, Finding, Options};
use crate::daemon::{self, Surroundings};
use crate::log::{Level, Log, LogFile};
use crate::pairs::Pairs;
use crate::reload::{Beginning, Origin, Stamp, Watch};
use crate::rundir::{Entry, RuntimeDir};
use crate::server::{Front, HandOver, Outcome, Role, Server, warn};
use crate::sys::procfs::{spawner, start_time};
use crate::sys::{fd, limits};
use crate::systemd::{self, Activated};
use crate::workers::LaunchContext;
use crate::workers::spawn::LAUNCHER;
use crate::{check, init, owner, python, status};
use anyhow::Context;
use begin::{begin, identity};
use handover::{Background, Inherited, ProcessState, own_image, own_path, to_background};
use nix::sys::socket::{self, sockopt};
use sockets::{can_listen, listeners, pidfile};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tell::{cgi_streams, complain, give_up, leave, refuse, say};

/// Runs the program as the command line, the environment and descriptor 0 say. Returns the exit status.
pub fn run() -> u8 {
    limits::let_large_writes_fail();
    let mut inherited = Inherited::read();
    let activated = match inherited.restarted {
        true => Vec::new(),
        false => systemd::activated(),
    };
    fd::close_the_rest();
    let mut words = std::env::args_os();
    let called_as = words.next().unwrap_or_default();
    let internal = [
        (LAUNCHER, launch as fn() -> u8),
        (owner::RUNNER, owner::run_task),
    ];
    if let Some((_, run)) = internal.iter().find(|(name, _)| called_as == *name) {
        return match caller::has_launch_socket() {
            true => run(),
            false => refuse(&[caller::foreign_launch()]),
        };
    }
    let here = inherited
        .directory
        .clone()
        .or_else(|| std::env::current_dir().ok());
    let here = here.unwrap_or_else(|| PathBuf::from("/"));
    let original = inherited
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
    // The file may be missing while it is being uploaded: the owner stays the same.
    let owner = config::owner(&original).or(inherited.owner);
    inherited.owner = owner;
    let listening = socket::getsockopt(&io::stdin(), sockopt::AcceptConn).unwrap_or(false);
    let forced = force_cgi();
    let has = |name: &str| std::env::var_os(name).is_some();
    let cgi = match listening {
        true => forced,
        false => has("GATEWAY_INTERFACE") || forced && has("REQUEST_METHOD"),
    };
    if cgi && !has("REQUEST_METHOD") && !has("GATEWAY_INTERFACE") {
        return refuse(&[caller::no_cgi_request()]);
    }
    let accepted = match words.len() == 0 || cgi || inherited.arguments_accepted {
        true => Ok(()),
        false => caller::check_arguments(owner, &stem).map_err(|finding| vec![finding]),
    };
    inherited.arguments_accepted = accepted.is_ok();
    let command = match accepted.and_then(|()| cli::parse(&stem, words.collect(), cgi)) {
        // A web server shows nothing from us but responses, so the responses say what is wrong.
        Err(findings) if listening => {
            let site = Site {
                role: caller::spawned_role(),
                serve: Serve::default(),
                candidates: candidates(None),
                refused: findings,
            };
            return serve_site(site, original, inherited, activated);
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
                (_, true) => caller::spawned_role(),
                _ => Role::External,
            };
            let site = Site {
                role,
                candidates: candidates(serve.options.config.as_deref()),
                serve,
                refused: Vec::new(),
            };
            serve_site(site, original, inherited, activated)
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
        Command::Check(flags) => {
            let candidates = candidates(flags.config.as_deref());
            check::become_owner(owner, &original, &candidates);
            let site = check::Site::new(&original, &stem, &candidates);
            match check::run(&site, flags.url.as_ref(), flags.json, &mut io::stdout()) {
                Ok(true) => 0,
                _ => cli::EXIT_FAILED,
            }
        }
        Command::Init(asked) => {
            let config = asked.config.as_deref().map(|file| here.join(file));
            let site = init::Site::new(&original, owner, candidates(config.as_deref()));
            let mut answers = io::stdin().lock();
            let there = io::stdin().is_terminal() && io::stdout().is_terminal();
            let answers = there.then_some(&mut answers as &mut dyn io::BufRead);
            match init::run(&site, &asked, answers, &mut io::stdout()) {
                Ok(()) => cli::EXIT_OK,
                Err(finding) => refuse(&[finding]),
            }
        }
        Command::Help(topic) => {
            let program = original.file_name().unwrap_or_default();
            say(&cli::help_text(topic, &program.to_string_lossy()));
            0
        }
        Command::Version => {
            say(&format!("{}\n", cli::version_text()));
            0
        }
        Command::SelfTest => 0,
        Command::Status(flags) => {
            let candidates = candidates(flags.config.as_deref());
            match candidates.find(owner) {
                Ok(_) => print_status(&original, &candidates, flags.json),
                Err(finding) => refuse(&[finding]),
            }
        }
    }
}

/// Executes the interpreter that one of our own processes requests.
fn launch() -> u8 {
    match python::Launch::receive() {
        Ok(launch) => launch.run(),
        Err(error) => {
            let code = codes::settings::FOREIGN_LAUNCH;
            complain(&format!("{code} what to launch did not arrive: {error}"));
            cli::EXIT_FAILED
        }
    }
}

fn print_status(original: &Path, candidates: &Candidates, json: bool) -> u8 {
    let beside = original.parent().unwrap_or(Path::new("/"));
    let options = Options::of_owner(config::owner(original));
    let (text, runs) = status::command::report(candidates, &options, beside, json);
    say(&text);
    if runs { 0 } else { cli::EXIT_FAILED }
}

/// The site to serve, and how this process was started.
struct Site {
    role: Role,
    serve: Serve,
    /// The places where its settings file may be.
    candidates: Candidates,
    /// Errors in the command-line arguments that a web server passed.
    refused: Vec<Finding>,
}

fn serve_site(
    mut site: Site,
    original: PathBuf,
    mut inherited: Inherited,
    activated: Vec<Activated>,
) -> u8 {
    let here = inherited
        .directory
        .take()
        .or_else(|| std::env::current_dir().ok());
    let mut state = ProcessState {
        spawned_as: inherited
            .spawned_as
            .unwrap_or_else(|| Stamp::of(&original).inode()),
        original,
        owner: inherited.owner,
        directory: here.unwrap_or_else(|| PathBuf::from("/")),
        arguments_accepted: inherited.arguments_accepted,
        background: inherited.background,
        ready: inherited.ready.take(),
        ..ProcessState::default()
    };
    if state.background == Background::Leader {
        return state.lead();
    }
    let options = &mut site.serve.options;
    options.directory = Some(state.directory.clone());
    options.owner = state.owner;
    options.config = options.config.take().map(|file| state.directory.join(file));
    let external = site.role == Role::External;
    let origin = Origin {
        executable: state.original.clone(),
        settings: site.candidates,
        required: !external,
        refused: std::mem::take(&mut site.refused),
        options: site.serve.options,
        identity: Vec::new(),
        reload: None,
    };
    // Start watching before the settings are read, so that a change in between is noticed later.
    let watch = origin.watch();
    let config = origin.settings();
    if external && !inherited.restarted {
        let config = match &config {
            Ok(config) => config,
            Err(findings) => return give_up(&mut state, findings),
        };
        if let Err(finding) = can_listen(config, &activated) {
            return give_up(&mut state, &[finding]);
        }
        let first =
            !inherited.is_copy && !inherited.changed_user && state.background == Background::No;
        for warning in config.warnings.iter().filter(|_| first) {
            complain(&warning.one_line());
        }
        if first && config.server.daemonizes() {
            return to_background(&state, config);
        }
    }
    if external {
        daemon::block_signals();
    }
    if !inherited.restarted
        && let Err(status) = user::settle(site.role, &config, &origin, &mut state, &activated)
    {
        return status;
    }
    let disk = Disk {
        origin,
        watch,
        config,
    };
    let status = match start(site.role, &mut state, inherited, activated, disk) {
        Ok(status) => status,
        Err(error) => {
            complain(&format!("{error:#}"));
            cli::EXIT_FAILED
        }
    };
    leave(&mut state, status)
}

/// The settings on disk, and the state of the watched files before they were read.
struct Disk {
    origin: Origin,
    watch: Watch,
    config: Result<Config, Vec<Finding>>,
}

/// Opens what the server needs, serves, and returns the exit status.
fn start(
    role: Role,
    state: &mut ProcessState,
    mut inherited: Inherited,
    activated: Vec<Activated>,
    disk: Disk,
) -> anyhow::Result<u8> {
    let Disk {
        mut origin,
        watch,
        config,
    } = disk;
    let name = state.original.file_name().unwrap_or_default();
    if let Ok(name) = std::ffi::CString::new(name.to_string_lossy().into_owned()) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    origin.identity = identity(role, origin.settings.name(), &state.directory);
    let named = match &config {
        Ok(config) => config.server.runtime_dir.clone(),
        Err(_) => config::runtime_dir_of_broken(&origin.settings.nearest(), state.owner),
    };
    let dir = RuntimeDir::open(
        named.as_deref(),
        state.original.parent().unwrap_or(Path::new("/")),
        &origin.identity,
    );
    origin.reload = dir.as_ref().ok().map(|dir| dir.file(Entry::Reload));
    let begin = begin(
        role,
        inherited.restarted,
        origin,
        watch,
        config,
        dir.as_ref().ok(),
    );
    let known = (begin.beginning != Beginning::Broken).then(|| begin.live.config.clone());
    let known = known.as_deref();
    let private_copy = match known {
        Some(config) => config.server.private_copy,
        None => {
            let valid = begin.origin.despite_errors().unwrap_or_default();
            valid.server.private_copy
        }
    };
    if private_copy && !inherited.is_copy && role != Role::Cgi {
        state.move_to_copy(dir.as_ref().ok(), &activated, &inherited);
    }
    let log_file = known.and_then(|config| LogFile::of(config, &config.log.file));
    let mut log = Log::new(true, log_file);
    let mut note =
        |code: Code, text: &str| log.event(SystemTime::now(), Level::Warning(code), text);
    if let Err(error) = &dir {
        note(codes::upkeep::NO_RUNTIME_DIR, &error.to_string());
    }
    if let Some(why) = inherited.refused.take() {
        let text = format!("restart: the new image cannot be executed, the old one goes on: {why}");
        note(codes::restart::NOT_EXECUTED, &text);
    }
    let restarted = inherited.restarted;
    // After a restart, a missing resource is only a warning: the site keeps running.
    let mut or_warn = |code: Code, error: anyhow::Error| match restarted {
        true => {
            note(code, &format!("restart: {error:#}"));
            Ok(())
        }
        false => Err(error.context(code)),
    };
    let surroundings = match (known, state.background) {
        (Some(config), Background::Daemon) => match Surroundings::open(config) {
            Ok(surroundings) => Some(surroundings),
            Err(error) => or_warn(codes::place::BAD_SURROUNDINGS, error).map(|()| None)?,
        },
        _ => None,
    };
    state.pidfile = match pidfile(role, known, inherited.pidfile.take()) {
        Ok(pidfile) => pidfile,
        Err(error) => or_warn(codes::place::BAD_PIDFILE, error).map(|()| None)?,
    };
    if let Some(pidfile) = &mut state.pidfile {
        pidfile.write().context(codes::place::BAD_PIDFILE)?;
    }
    let squatted = dir.as_ref().ok().and_then(RuntimeDir::squatted);
    let image_lock = inherited.lock.take();
    let mut handed = HandOver {
        control: inherited.control.take(),
        connections: std::mem::take(&mut inherited.connections),
        listeners: Vec::new(),
        report: inherited.report.take(),
        turn: inherited.turn.take(),
    };
    let opened =
        listeners(role, known, inherited, activated).context(codes::place::NOT_LISTENING)?;
    for (code, text) in &opened.warnings {
        note(*code, text);
    }
    if role == Role::External {
        handed.connections = std::mem::take(&mut handed.connections)
            .into_iter()
            .filter_map(|(socket, at, new)| Some((socket, (*opened.moved.get(at)?)?, new)))
            .collect();
    }
    state.listening = opened
        .listeners
        .iter()
        .map(|l| (l.as_fd().as_raw_fd(), (l.protocol, !l.ours)))
        .collect();
    let spawner = match role {
        Role::External => 0,
        _ => spawner(),
    };
    let launch = LaunchContext {
        image: own_image(&state.original),
        python_cache: dir.as_ref().ok().map(|dir| dir.file(Entry::Python)),
        dir: dir.ok(),
        spawner,
        spawner_start: start_time(spawner),
        // If init is the parent, the web server has gone and will not spawn another process.
        lingers: role != Role::External && spawner != 1,
        cgi: role == Role::Cgi,
        alone: matches!(role, Role::Spawned { mod_fcgid: true } | Role::Cgi),
        outlog: false,
    };
    let front = Front {
        role,
        image_lock,
        spawned_as: state.spawned_as,
        launch,
    };
    let mut server = Server::new(begin, front, opened.listeners, handed, log)
        .map_err(|error| anyhow::anyhow!("the server cannot start: {error}"))
        .context(codes::place::NOT_SERVING)?;
    if let (Some(surroundings), Some(settled)) = (surroundings, known) {
        let [errors, output] = Surroundings::logs(settled);
        surroundings
            .enter(&settled.server)
            .context(codes::place::BAD_SURROUNDINGS)?;
        server.log_to(errors, output);
    }
    if user::is_root(role, known) && !restarted {
        warn(&mut server, codes::place::AS_ROOT, user::AS_ROOT, false);
    }
    if let Some(text) = squatted {
        warn(&mut server, codes::upkeep::TAKEN_NAME, &text, true);
    }
    let on_command_line = codes::settings::SECRET_ON_COMMAND_LINE;
    let mut warnings = known.iter().flat_map(|config| &config.warnings);
    // A foreground server has said so on standard error.
    if state.background == Background::Daemon
        && !restarted
        && let Some(told) = warnings.find(|warning| warning.code == Some(on_command_line))
    {
        warn(&mut server, on_command_line, &told.what, false);
    }
    if let Some(ready) = state.ready.take() {
        daemon::report(ready, 0);
    }
    // After a restart, keep the STATUS= that systemd already has.
    systemd::notify(match restarted {
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
            let error = state.execute(image, &hand);
            let error = anyhow::anyhow!("the new image cannot be executed: {error}");
            Err(error.context(codes::restart::NOT_EXECUTED))
        }
    }
}

fn serve_cgi(server: Server) -> Outcome {
    let mut environ = Pairs::new();
    for (name, value) in std::env::vars_os() {
        environ.push(name.as_encoded_bytes(), value.as_encoded_bytes());
    }
    match cgi_streams() {
        Ok((input, output)) => server.serve_cgi(environ, input, output),
        Err(_) => Outcome::Exit,
    }
}

/// `FCGI_FORCE_CGI=Y`: serve one CGI request even if descriptor 0 is a listening socket.
fn force_cgi() -> bool {
    std::env::var("FCGI_FORCE_CGI").is_ok_and(|value| value.starts_with(['Y', 'y']))
}
