//! Every number that bounds something and that nobody can set, with its reason; those of settings stand in `table.rs`.
//!
//! No code here; sizes are bytes and times are seconds unless the name says otherwise.

/// Open descriptors of the front, as far as the hard limit allows: connections, workers' sockets, logs, spool files.
pub const DESCRIPTORS: u64 = 8192;

/// Bytes of the path of a unix socket: `sun_path` has 108, one of them for the NUL.
pub const SOCKET_PATH: usize = 107;

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

/// What a front hands to the process that looks for the interpreter: a few paths and names.
pub const LAUNCH_SIZE: usize = 64 << 10;

/// Free processes below which `check` warns: a preloader, two workers, and a shell beside them.
pub const FEW_PROCESSES: u64 = 5;

/// Address space of a worker beside its threads' stacks: Django with a database driver maps about 200 MB.
pub const APP_ADDRESSES: u64 = 200 << 20;

/// Address space below which `check` warns: little more than `APP_ADDRESSES`.
pub const LITTLE_MEMORY: u64 = 256 << 20;

/// How long a launcher that failed waits for its reader to take the reason, before it leaves.
pub const LAST_WORDS: i64 = 2;
