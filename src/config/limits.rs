//! Every number that bounds something, with its reason. `defaults.rs` gives them to the settings of the same name.
//!
//! No code here; sizes are bytes and times are seconds unless the name says otherwise.

/// Threads of a threaded worker. Hosts count threads as processes (CloudLinux: 100 for the whole account), so few.
pub const THREADS: u32 = 4;

/// Connections that the kernel holds while we are busy. A web server that connects to a full unix socket is refused at
/// once, and its visitor gets a 502; the kernel cuts this down to its own `somaxconn`.
pub const BACKLOG: u32 = 1024;

/// How long the imported app outlives its last front. mod_fcgid ends idle processes after 300 s; half an hour spares
/// most visitors of a quiet site the import, at the cost of one process.
pub const LINGER: u64 = 1800;

/// A burst of visitors is over after a minute; then the memory of its workers belongs to the account again.
pub const IDLE_TIMEOUT: u64 = 60;

/// Open connections from web servers, most of them idle ones that are kept for the next request. Each needs a descriptor
/// (the soft limit is raised to `DESCRIPTORS`) and some hundred bytes; running out of descriptors pauses accepting.
pub const MAX_CONNECTIONS: usize = 4096;

/// Open descriptors of the front, as far as the hard limit allows: connections, workers' sockets, logs, spool files.
pub const DESCRIPTORS: u64 = 8192;

/// Requests that wait for a worker. At 50 ms a request and four workers the last of a hundred waits little over a
/// second; who queues longer is better told so.
pub const QUEUE: usize = 100;

/// How long a request may wait for a worker: below mod_fcgid's FcgidIOTimeout (40 s), so that our 503 arrives first.
pub const QUEUE_TIMEOUT: u64 = 30;

/// How long a request may run: below mod_fcgid's FcgidBusyTimeout (300 s), so that we end the worker and keep the
/// stack that it hung in, before Apache ends the front.
pub const REQUEST_TIMEOUT: u64 = 240;

/// How long the import of the app may take: below FcgidIOTimeout (40 s). Django takes 0.3 s from a warm cache, and up to
/// 18 s where the host limits reading to 1 MB/s.
pub const START_TIMEOUT: u64 = 30;

/// All meta-variables of a request: web servers stop at 8 to 64 KiB of headers, and the rest of the environment
/// is seldom above 8 KiB.
pub const MAX_PARAMS: usize = 256 << 10;

/// A request's body: it is spooled to a file, so that only disk space is at stake. Web servers have their own, smaller
/// bounds, and Django has its own for forms.
pub const MAX_BODY: u64 = 1 << 30;

/// How long a request may stall while it comes in. Apache's own RequestReadTimeout is 20 to 40 s, so a minute only
/// catches the dead.
pub const READ_TIMEOUT: u64 = 60;

/// How long a response may stall while it is taken: Apache's TimeOut is 60 s.
pub const WRITE_TIMEOUT: u64 = 60;

/// Size at which our log is rotated: small beside any quota, and months of an ordinary site.
pub const LOG_SIZE: u64 = 10 << 20;

/// A request this slow has lost its visitor, and its stack is worth a look. In seconds.
pub const SLOW_LOG: f64 = 10.0;

/// A settings file above this is not one: the longest sensible has a few KiB.
pub const CONFIG_SIZE: u64 = 1 << 20;

/// Directories above the executable in which the settings file is looked for. Two: `public_html/cgi-bin/mysite.fcgi`
/// finds a file in the home directory, where the web server serves nothing.
pub const CONFIG_PARENTS: usize = 2;

/// Directories above the app in which a virtualenv is looked for: repository root, project, home and one to spare.
pub const VENV_PARENTS: usize = 4;

/// How long one Python may take to say its version and what it can import. On a slow disk its start takes seconds.
pub const PYTHON_PROBE_TIMEOUT: u64 = 10;

/// How long the search for a Python may take in all: it counts against `start_timeout`.
pub const PYTHON_SEARCH_TIMEOUT: u64 = 25;

/// What a probed Python may print before we stop reading: a traceback fits, a flood does not.
pub const PYTHON_PROBE_OUTPUT: usize = 64 << 10;

/// The oldest Python that the bridge runs on: 3.6 is what Enterprise Linux 8 ships.
pub const PYTHON_OLDEST: (u32, u32) = (3, 6);

/// Free processes below which `check` warns: a preloader, two workers, and a shell beside them.
pub const FEW_PROCESSES: u64 = 5;

/// Address space of a worker beside its threads' stacks: Django with a database driver maps about 200 MB.
pub const APP_ADDRESSES: u64 = 200 << 20;

/// Address space below which `check` warns: Django with a database driver maps about 200 MB.
pub const LITTLE_MEMORY: u64 = 256 << 20;

/// How long a launcher that failed waits for its reader to take the reason, before it leaves.
pub const LAST_WORDS: i64 = 2;
