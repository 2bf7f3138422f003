//! `Server`: the front. One thread, one loop, one place that sleeps.
//!
//! Each turn: `advance` does what time asks for, `wait` sleeps until something is ready, `handle` takes it in. Requests
//! that became complete are then given to workers, and only after that the answers go out: a worker that has just become
//! free is at work again before its last visitor is served. Nothing that a peer, a worker or the preloader does makes
//! `run` return; a stop, or a changed executable, does.

mod answers;
mod body;
mod connection;
mod deadlines;
mod incoming;
mod leave;
mod listener;
mod preloading;
mod processes;
mod report;
mod request;
mod restart;
mod settle;
mod sharing;
mod signals;
mod slots;
mod status_page;
mod turns;
mod watch;

pub use listener::Listener;
pub use restart::{HandOver, Outcome};
pub use watch::{Stamp, Watch};

use crate::access_log::Format;
use crate::account::Account;
use crate::config::{Config, Options, Protocol};
use crate::environ::Mount;
use crate::log::{Level, Log, LogFile};
use crate::pairs::Pairs;
use crate::proto::{Codec, ajp13, cgi, fastcgi, scgi};
use crate::runtime::RuntimeDir;
use crate::worker::pool::{Pool, ProcessNo, RequestNo, Stream};
use crate::worker::preloader::{Hello, Link};
use connection::{ConnNo, Connection};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;
use request::Request;
use restart::Restart;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The longest sleep: how often files are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Connections taken from one listener in a turn.
const ACCEPTS: usize = 32;
/// Bytes read at a time.
const SCRATCH: usize = 64 << 10;

/// What the server is in the eyes of who started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Spawned by a web server with a listening socket; `true`: by mod_fcgid, which gives one request at a time and
    /// keeps no copy of the socket.
    Spawned {
        /// By mod_fcgid.
        mod_fcgid: bool,
    },
    /// Started by a person or an init system.
    External,
    /// Started for one request.
    Cgi,
}

/// Everything that `main` has found out before the server starts.
#[derive(Debug)]
pub struct Place {
    /// What we are.
    pub role: Role,
    /// The executable as uploaded.
    pub original: PathBuf,
    /// The executable that runs: a copy of it.
    pub image: PathBuf,
    /// Keeps the copy from being swept away.
    pub image_lock: Option<OwnedFd>,
    /// The configuration file that was found, or that would be.
    pub config_file: Option<PathBuf>,
    /// What the command line said.
    pub options: Options,
    /// Inode of the executable when the web server spawned this process.
    pub spawned_as: (u64, u64),
    /// Where the processes of the site meet; None: nowhere, so each front is on its own.
    pub dir: Option<RuntimeDir>,
    /// Where the interpreter that was found is remembered.
    pub python_cache: Option<PathBuf>,
    /// What the preloader is told of us.
    pub hello: Hello,
    /// Names the site.
    pub identity: Vec<u8>,
}

/// The access log.
struct Access {
    format: Format,
    file: LogFile,
}

/// A code version of the app, and the tie to its preloader.
struct Generation {
    number: u64,
    link: Link,
    /// The app cannot be forked: each worker imports it by itself.
    plain: bool,
}

/// The front.
pub struct Server {
    config: Config,
    /// Why the site cannot be served at all, for the log and the page.
    fault: Option<String>,
    place: Place,
    mount: Mount,
    /// For web servers whose word on who the user is does not count.
    wary: Option<Mount>,
    account: Account,
    log: Log,
    access: Option<Access>,
    epoll: Epoll,
    signals: SignalFd,
    listeners: Vec<Listener>,
    /// Accepting is paused until then.
    accept_after: Option<Instant>,
    conns: HashMap<ConnNo, Connection>,
    requests: HashMap<RequestNo, Request>,
    queue: VecDeque<RequestNo>,
    pool: Pool,
    current: Generation,
    next: Option<Generation>,
    watch: Watch,
    restart: Restart,
    /// Touched while a restart is under way: another one follows.
    touched_again: bool,
    turns: turns::Turns,
    scratch: Vec<u8>,
    message: Vec<u8>,
    touched: Vec<ConnNo>,
    unwatched: Vec<ConnNo>,
    look_at: Instant,
    last_conn: u64,
    last_request: u64,
    last_generation: u64,
    /// Pause before the next fork after one was refused or a worker did not start.
    fork_after: Option<Instant>,
    /// A worker was given back, or refused: none is started before a request needs it.
    given_back: bool,
    /// When another front asked for a worker and none was idle.
    asked_back: Option<Instant>,
    /// When the log was told of the account's limits.
    limit_noted: Option<Instant>,
    boot_failures: u32,
    last_accept: Instant,
    sweep_at: Instant,
    seed: u64,
    started: Instant,
    report: report::Report,
}

/// What epoll tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Listener(usize),
    Conn(u64),
    Slot(u64),
    Stdout(u64),
    Stderr(u64),
    Control(u64),
}

impl Server {
    /// A server that is ready to run. `handed` is what the image before this one has left.
    pub fn new(
        config: Result<Config, String>,
        mut place: Place,
        listeners: Vec<Listener>,
        handed: HandOver,
        log: Log,
    ) -> io::Result<Server> {
        let (config, fault) = match config {
            Ok(config) => (config, None),
            Err(text) => (Config::default(), Some(text)),
        };
        let now = clock();
        raise_descriptor_limit();
        let access = config.log.access.as_ref().and_then(|path| {
            let format = Format::parse(&config.log.format).ok()?;
            Some(Access {
                format,
                file: LogFile::new(path.clone(), config.log.max_size),
            })
        });
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let signals = signals::open()?;
        epoll.add(
            &signals,
            EpollEvent::new(EpollFlags::EPOLLIN, Token::Signal.into()),
        )?;
        let watch = restart::watch(&config, &place);
        let version = watch.version(&place.identity);
        let link = match handed.control {
            Some(control) if handed.version == version => Link::adopted(version, control)?,
            _ => Link::new(version, now),
        };
        let plain = !config.server.preload || place.dir.is_none();
        let file_name = place
            .original
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let trust = config.server.remote_user || place.role != Role::External;
        let mount = Mount::new(config.app.script_name.clone(), &file_name, trust);
        let wary = (!config.server.remote_user)
            .then(|| Mount::new(config.app.script_name.clone(), &file_name, false));
        // A process whose parent is init was left alone by who started it: nobody will start the next one.
        if place.role != Role::External && place.hello.spawner != 1 {
            place.hello.linger = config.server.linger;
        }
        let mut server = Server {
            config,
            fault,
            mount,
            wary,
            account: Account::read(),
            report: report::Report::new(&place, handed.report),
            place,
            log,
            access,
            epoll,
            signals,
            listeners,
            accept_after: None,
            conns: HashMap::new(),
            requests: HashMap::new(),
            queue: VecDeque::new(),
            pool: Pool::default(),
            current: Generation {
                number: 1,
                link,
                plain,
            },
            next: None,
            watch,
            restart: Restart::Quiet,
            touched_again: false,
            turns: turns::Turns::adopted(handed.turn, now),
            scratch: vec![0; SCRATCH],
            message: Vec::new(),
            touched: Vec::new(),
            unwatched: Vec::new(),
            look_at: now,
            last_conn: 0,
            last_request: 0,
            last_generation: 1,
            fork_after: None,
            given_back: false,
            asked_back: None,
            limit_noted: None,
            boot_failures: 0,
            last_accept: now,
            sweep_at: now,
            seed: seed(),
            started: now,
        };
        server.given_back = server.is_of_old_class();
        server.start_from_good(now);
        server.listen()?;
        server.watch_control(1);
        for (socket, endpoint) in handed.connections {
            if let Some(codec) = server.codec(endpoint) {
                server.admit(socket, None, codec, endpoint, now);
            }
        }
        Ok(server)
    }

    /// Serves one CGI request: `environ` is the request, `input` its body, `output` takes the answer.
    pub fn serve_cgi(mut self, environ: Pairs, input: OwnedFd, output: OwnedFd) -> Outcome {
        let now = clock();
        let codec = Box::new(cgi::Cgi::new(environ));
        let number = self.admit(input, Some(output), codec, 0, now);
        self.decode(number, &[], now);
        while self
            .requests
            .values()
            .any(|request| request.phase == request::Phase::Receiving)
        {
            self.read(number, clock());
        }
        self.run()
    }

    /// Events go to these from now on, as for a daemon.
    pub fn log_to(&mut self, errors: Option<LogFile>, output: Option<LogFile>) {
        self.log.daemonize(errors, output);
    }

    /// Serves until told to stop.
    pub fn run(mut self) -> Outcome {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let now = clock();
            if now >= self.sweep_at {
                self.advance(now);
            }
            self.dispatch(now);
            self.settle_touched(now);
            if let Some(outcome) = self.outcome(now) {
                return outcome;
            }
            let ready = self.wait(&mut events);
            let now = clock();
            // What a worker wrote belongs to the request that it serves, so it is read before that request's end.
            for event in &events[..ready] {
                let (number, stream) = match Token::from(event.data()) {
                    Token::Stdout(number) => (ProcessNo(number), Stream::Stdout),
                    Token::Stderr(number) => (ProcessNo(number), Stream::Stderr),
                    _ => continue,
                };
                if self.pool.pid(number).is_some() {
                    self.on_output(number, stream, now);
                }
            }
            for event in &events[..ready] {
                self.handle(Token::from(event.data()), event.events(), now);
            }
        }
    }

    /// Does what time asks for, and sets when that is next.
    fn advance(&mut self, now: Instant) {
        self.sweep_at = now + TICK;
        if now >= self.look_at {
            self.look_at = now + TICK;
            self.look(now);
        }
        self.watch_waiting();
        self.step_links(now);
        self.step_restart(now);
        self.step_turn(now);
        self.expire(now);
        self.tend(now);
        self.write_report(now, false);
        if self.accept_after.is_some_and(|at| at <= now) {
            self.accept_after = None;
            let _ = self.listen();
        }
    }

    /// Something is due at `at`.
    fn due(&mut self, at: Instant) {
        self.sweep_at = self.sweep_at.min(at);
    }

    /// The one place that sleeps.
    fn wait(&self, events: &mut [EpollEvent]) -> usize {
        let left = self.sweep_at.saturating_duration_since(clock());
        // Rounded up: a sleep that ends too early would be followed by more of them.
        let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        self.epoll
            .wait(events, EpollTimeout::from(millis))
            .unwrap_or(0)
    }

    fn handle(&mut self, token: Token, flags: EpollFlags, now: Instant) {
        match token {
            Token::Signal => self.on_signal(now),
            Token::Listener(number) => self.on_listener(number, now),
            Token::Conn(number) => self.on_conn(ConnNo(number), flags, now),
            Token::Slot(number) => self.on_slot(crate::worker::pool::SlotNo(number), flags, now),
            Token::Stdout(number) => self.on_output(ProcessNo(number), Stream::Stdout, now),
            Token::Stderr(number) => self.on_output(ProcessNo(number), Stream::Stderr, now),
            Token::Control(number) => self.on_control(number, now),
        }
    }

    fn on_signal(&mut self, now: Instant) {
        while let Some(wish) = signals::next(&self.signals) {
            match wish {
                signals::Wish::Stop => self.stop(now),
                signals::Wish::Reload => self.reload(now),
                signals::Wish::Reap => self.reap(now),
            }
        }
    }

    /// Lets epoll watch the listeners, or not.
    fn listen(&mut self) -> io::Result<()> {
        let wanted = self.accept_after.is_none()
            && self.conns.len() < self.config.limits.max_connections
            && !self.restart.pauses_accept();
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let wanted = wanted && !listener.is_shut();
            if wanted != listener.registered {
                if wanted {
                    let event =
                        EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(number).into());
                    self.epoll.add(&*listener, event)?;
                } else {
                    self.epoll.delete(&*listener)?;
                }
                listener.registered = wanted;
            }
        }
        Ok(())
    }

    fn codec(&self, endpoint: usize) -> Option<Box<dyn Codec>> {
        let server = &self.config.server;
        let limits = &self.config.limits;
        Some(match self.listeners.get(endpoint)?.protocol {
            Protocol::Fcgi => Box::new(fastcgi::FastCgi::new(
                limits.max_params,
                connection::MAX_REQUESTS.min(limits.max_connections),
                limits.max_connections,
            )),
            Protocol::Scgi => Box::new(scgi::Scgi::new(limits.max_params)),
            Protocol::Ajp => Box::new(ajp13::Ajp13::new(ajp13::Ajp13Options {
                secret: server.secret.as_ref().map(|s| s.as_bytes().to_vec()),
                max_params: limits.max_params,
                ..ajp13::Ajp13Options::default()
            })),
        })
    }

    /// A line for the log.
    fn note(&mut self, level: Level, text: &str) {
        self.log.event(std::time::SystemTime::now(), level, text);
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        let (kind, number) = match token {
            Token::Signal => (0, 0),
            Token::Listener(number) => (1, number as u64),
            Token::Conn(number) => (2, number),
            Token::Slot(number) => (3, number),
            Token::Stdout(number) => (4, number),
            Token::Stderr(number) => (5, number),
            Token::Control(number) => (6, number),
        };
        kind << 56 | number
    }
}

impl From<u64> for Token {
    fn from(data: u64) -> Token {
        let number = data & ((1 << 56) - 1);
        match data >> 56 {
            0 => Token::Signal,
            1 => Token::Listener(number as usize),
            2 => Token::Conn(number),
            3 => Token::Slot(number),
            4 => Token::Stdout(number),
            5 => Token::Stderr(number),
            _ => Token::Control(number),
        }
    }
}

/// The one place that asks for the time.
fn clock() -> Instant {
    Instant::now()
}

/// Shells and web servers often leave us 1024.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(crate::config::limits::DESCRIPTORS);
        if wanted > soft {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}

/// A number that differs from process to process, for incident ids and jitter.
fn seed() -> u64 {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    crate::runtime::fnv_more(
        crate::runtime::fnv(&time.to_le_bytes()),
        &std::process::id().to_le_bytes(),
    )
}
