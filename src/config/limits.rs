//! Fixed limits, each with its reason. Limits that owners can set are in `table.rs`.
//!
//! Sizes are in bytes and times in seconds, unless stated otherwise.

/// Soft limit of open descriptors for the front, if the hard limit allows it: connections, workers' sockets, logs and
/// spool files.
pub const DESCRIPTORS: u64 = 8192;

/// With fewer descriptors no request can be served: the front has about ten open, and starting a preloader or a worker
/// takes as many again.
pub const LEAST: u64 = 24;

/// Fewer descriptors than this are worth a line in the log: it is the usual soft limit.
pub const FEW: u64 = 1024;

/// Maximum length of a unix socket's path: `sun_path` has 108 bytes, one of them for the NUL.
pub const SOCKET_PATH: usize = 107;

/// Maximum size of a settings file. Sensible ones have a few KiB.
pub const CONFIG_SIZE: u64 = 1 << 20;

/// Number of directories above the executable that are searched for the settings file. With two,
/// `public_html/cgi-bin/mysite.fcgi` finds a file in the home directory, which the web server does not serve.
pub const CONFIG_PARENTS: usize = 2;

/// Number of directories above the app that are searched for a virtualenv: repository root, project, home and one to
/// spare.
pub const VENV_PARENTS: usize = 4;

/// Time limit for one Python to report its version and what it can import. On a slow disk it takes seconds to start.
pub const PYTHON_PROBE_TIMEOUT: u64 = 10;

/// Time limit for the whole search for a Python, which counts against `start_timeout`.
pub const PYTHON_SEARCH_TIMEOUT: u64 = 25;

/// Maximum output of a probed Python: enough for a traceback.
pub const PYTHON_PROBE_OUTPUT: usize = 64 << 10;

/// The oldest Python that the bridge supports: 3.6, which Enterprise Linux 8 ships.
pub const PYTHON_OLDEST: (u32, u32) = (3, 6);

/// Maximum size of the message from a front to the process that looks for the interpreter: a few paths and names.
pub const LAUNCH_SIZE: usize = 64 << 10;

/// `check` warns if fewer processes are free: a preloader, two workers, and a shell with one command.
pub const FEW_PROCESSES: u64 = 5;

/// Address space of a worker without its threads' stacks: Django with a database driver maps about 200 MB.
pub const APP_ADDRESSES: u64 = 200 << 20;

/// `check` warns if the limit on address space is lower: this is little more than `APP_ADDRESSES`.
pub const LITTLE_MEMORY: u64 = 256 << 20;

/// How long a failed launcher waits for its reader to read the reason before it exits.
pub const LAST_WORDS: i64 = 2;
