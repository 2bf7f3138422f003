//! `Server`: the front. One thread, one loop, one place that sleeps.
//!
//! Each turn: `advance` does what time asks for, `wait` sleeps until something is ready, `handle` takes it in. Requests
//! that became complete are then given to workers, and only after that the answers go out: a worker that has just become
//! free is at work again before its last visitor is served. Nothing that a peer, a worker or the preloader does makes
//! `run` return; a stop, or a changed executable, does.

mod answers;
mod connection;
mod deadlines;
mod incoming;
mod leave;
mod listener;
mod place;
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

pub use leave::{HandOver, Outcome};
pub use listener::Listener;
pub use place::{Begin, Place, Role};

use crate::access_log::Format;
use crate::account::Account;
use crate::config::{Config, Protocol};
use crate::environ::Mount;
use crate::log::{Level, Log, LogFile};
use crate::pairs::Pairs;
use crate::poller::{Events, Poller, Token, Watched};
use crate::proto::{Codec, ajp13, cgi, fastcgi, scgi};
use crate::reload::{Beginning, Origin, Release, Reload, Watch};
use crate::request::RequestNo;
use crate::worker::pool::{Pool, ProcessNo, Stream};
use crate::worker::preloader::{Link, State};
use connection::{ConnNo, Connection};
use nix::sys::epoll::EpollFlags;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use request::Request;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The longest sleep: how often files are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Who reads the log is given so much time to make room for more.
const READ_SOON: Duration = Duration::from_millis(50);
/// Connections taken from one listener in a turn.
const ACCEPTS: usize = 32;
/// Bytes read at a time.
const SCRATCH: usize = 64 << 10;

/// The access log.
struct Access {
    format: Format,
    file: LogFile,
}

/// A release that is served or tried, and the tie to its preloader.
struct Generation {
    number: u64,
    release: Release,
    link: Link,
    /// The app cannot be forked: each worker imports it by itself.
    plain: bool,
    /// In the plain form: the worker that shows whether the app can be imported was asked for.
    tried: bool,
}

/// The front.
pub struct Server {
    /// The settings of the live release.
    config: Rc<Config>,
    origin: Origin,
    place: Place,
    mount: Mount,
    /// For web servers whose word on who the user is does not count.
    wary: Option<Mount>,
    account: Account,
    log: Log,
    access: Option<Access>,
    poller: Poller,
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
    reload: Reload,
    /// The process in which a new executable shows that it runs.
    testing: Option<Pid>,
    /// A release went live, and none of its workers has started yet.
    reloading: bool,
    /// All is finished, and this comes now.
    ends: Option<leave::Ending>,
    turns: turns::Turns,
    scratch: Vec<u8>,
    message: Vec<u8>,
    touched: Vec<ConnNo>,
    unwatched: Vec<ConnNo>,
    answered: Vec<ConnNo>,
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

impl Server {
    /// A server that is ready to run. `handed` is what the image before this one has left.
    pub fn new(
        begin: Begin,
        place: Place,
        listeners: Vec<Listener>,
        handed: HandOver,
        log: Log,
    ) -> io::Result<Server> {
        let Begin {
            origin,
            watch,
            live,
            beginning,
            refused,
        } = begin;
        let config = live.config.clone();
        let now = clock();
        raise_descriptor_limit();
        let poller = Poller::new()?;
        let signals = signals::open()?;
        let mut watched = Watched::default();
        poller.watch(&signals, Token::Signal, EpollFlags::EPOLLIN, &mut watched)?;
        let plain = !config.server.preload || place.dir.is_none();
        let version = live.version.clone();
        let link = match (handed.control, beginning) {
            (Some(control), _) if handed.version == version => Link::adopted(version, control)?,
            (_, Beginning::Fresh) => Link::new(version, now),
            (_, Beginning::Behind) if plain => Link::new(version, now),
            (_, Beginning::Behind) => Link {
                connect_only: Some(match &refused {
                    Some(why) => unconfigured(why),
                    None => String::from("the code that worked is gone"),
                }),
                ..Link::new(version, now)
            },
            (_, Beginning::Broken) => {
                let mut link = Link::new(version, now);
                link.fail(unconfigured(refused.as_deref().unwrap_or_default()));
                link
            }
        };
        let mut server = Server {
            mount: Mount::new(config.app.script_name.clone(), "", false),
            wary: None,
            account: Account::read(),
            report: report::Report::new(&origin.settings.nearest(), handed.report),
            reload: Reload::new(live.clone(), beginning, refused),
            origin,
            config,
            place,
            log,
            access: None,
            poller,
            signals,
            listeners,
            accept_after: None,
            conns: HashMap::new(),
            requests: HashMap::new(),
            queue: VecDeque::new(),
            pool: Pool::default(),
            current: Generation {
                number: 1,
                release: live,
                link,
                plain,
                tried: true,
            },
            next: None,
            watch,
            testing: None,
            reloading: false,
            ends: None,
            turns: turns::Turns::adopted(handed.turn, now),
            scratch: vec![0; SCRATCH],
            message: Vec::new(),
            touched: Vec::new(),
            unwatched: Vec::new(),
            answered: Vec::new(),
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
        server.apply();
        server.given_back = server.is_of_old_class();
        if server.current.link.state == State::Ready {
            // The image before this one has seen it imported.
            server.remember_good();
        }
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
        let mut events = Events::default();
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
            self.wait(&mut events);
            let now = clock();
            // What a worker wrote belongs to the request that it serves, so it is read before that request's end.
            for (token, _) in events.iter() {
                let (number, stream) = match token {
                    Token::Stdout(number) => (ProcessNo(number), Stream::Stdout),
                    Token::Stderr(number) => (ProcessNo(number), Stream::Stderr),
                    _ => continue,
                };
                if self.pool.pid(number).is_some() {
                    self.on_output(number, stream, now);
                }
            }
            for (token, flags) in events.iter() {
                self.handle(token, flags, now);
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
        self.watch_waiting(now);
        self.step_links(now);
        self.step_reload(now);
        self.step_turn(now);
        self.expire(now);
        self.tend(now);
        self.write_report(now, false);
        if self.log.go_on(std::time::SystemTime::now()) {
            self.due(now + READ_SOON);
        }
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
    fn wait(&self, events: &mut Events) {
        let left = self.sweep_at.saturating_duration_since(clock());
        self.poller.wait(left, events);
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
                signals::Wish::Stop => {
                    self.reload.stop(now);
                    self.run_reload(now);
                }
                signals::Wish::Reload => self.reload_all(now),
                signals::Wish::Reap => self.reap(now),
            }
        }
    }

    /// Lets epoll watch the listeners, or not.
    fn listen(&mut self) -> io::Result<()> {
        let wanted = self.accept_after.is_none()
            && self.conns.len() < self.config.limits.max_connections
            && !self.reload.leaves_for_exec();
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let wanted = wanted && !listener.is_shut();
            listener.watch(&self.poller, number, wanted)?;
        }
        Ok(())
    }

    /// Takes on what the live settings say, as far as it is not taken on when a process starts.
    fn apply(&mut self) {
        let config = self.current.release.config.clone();
        let name = self.origin.executable.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let trust = config.server.remote_user || self.place.role != Role::External;
        self.mount = Mount::new(config.app.script_name.clone(), &name, trust);
        self.wary = (!config.server.remote_user)
            .then(|| Mount::new(config.app.script_name.clone(), &name, false));
        self.access = config.log.access.as_ref().and_then(|path| {
            let format = Format::parse(&config.log.format).ok()?;
            Some(Access {
                format,
                file: LogFile::new(path.clone(), config.log.max_size),
            })
        });
        let file = config.log.file.clone();
        let file = file.map(|path| LogFile::new(path, config.log.max_size));
        self.log.set_file(file);
        self.place.hello = self.place.hello_with(&config);
        let farther = self.origin.settings.farther(config.file.as_deref());
        if let Some((used, beside)) = farther.filter(|_| self.place.role != Role::Cgi) {
            let text = format!(
                "the settings are those of {}, above the executable; {} would come first",
                used.display(),
                beside.display()
            );
            self.note(Level::Info, &text);
        }
        self.config = config;
    }

    /// Connections that wait for their next request take it with the limits and the secret that hold now.
    fn renew_codecs(&mut self) {
        let numbers: Vec<ConnNo> = self.conns.keys().copied().collect();
        for number in numbers {
            if let Some(conn) = self.conns.get_mut(&number) {
                conn.outdated = true;
            }
            self.renew_codec(number);
        }
    }

    /// A codec between two requests holds nothing: another one can go on.
    fn renew_codec(&mut self, number: ConnNo) {
        let Some(conn) = self.conns.get(&number) else {
            return;
        };
        if !conn.outdated || !conn.requests.is_empty() || !conn.codec.is_idle() || conn.is_cgi() {
            return;
        }
        let codec = self.codec(conn.endpoint);
        if let (Some(codec), Some(conn)) = (codec, self.conns.get_mut(&number)) {
            conn.codec = codec;
            conn.outdated = false;
        }
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

/// What a visitor's page and the log say when the settings are of no use.
fn unconfigured(why: &str) -> String {
    format!("the site is not configured\n{why}")
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
    crate::bytes::fnv_more(
        crate::bytes::fnv(&time.to_le_bytes()),
        &std::process::id().to_le_bytes(),
    )
}
