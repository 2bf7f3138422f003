//! The private wire between front, preloader and workers: frames, as pure functions of bytes.
//!
//! Made for pure Python to decode at C speed: fixed headers, NUL-separated pairs. `bridge.py` is the other side. All
//! integers are big-endian. Descriptors travel beside the first byte of a frame (SCM_RIGHTS); this module only says
//! how many a frame carries.
//!
//! Three channels use it:
//! - *slot* (front <-> worker): one request at a time. Down: `REQUEST`, `ABORT`. Up: `STARTED` or `BOOT_FAILED` once,
//!   then for each request `LOG*`, then `HEAD (DATA | FILE | LOG)* END` or `EXCEPTION END`.
//! - *control* (front <-> preloader): up `READY` or `FAILED` once; down `HELLO` once, `FORK`; up `FORKED` or `REFUSED`
//!   for each `FORK`, in order; `RELEASE` at any time.
//! - *setup* (front -> a Python just started, once): `SETUP`.

/// Front to worker: 16 bytes: type, flags, two zero bytes, length of the environment (u32), length of the body (u64);
/// then the environment as pairs, then the body unless `BODY_FD`.
pub const REQUEST: u8 = b'R';
/// Front to worker: the visitor has gone; 16 bytes, all but the type zero. A worker between requests ignores it.
pub const ABORT: u8 = b'A';
/// Flag of `REQUEST`: the body is a file, whose descriptor comes along, at offset 0.
pub const BODY_FD: u8 = 1;

/// Length of the header of `REQUEST` and `ABORT`.
pub const REQUEST_HEADER: usize = 16;
/// Length of the header of all other frames: type, flags, two zero bytes, length of the payload (u32).
pub const FRAME_HEADER: usize = 8;

/// Worker to front, first: payload pid (u32). From here on a request handed over can no longer be taken back.
pub const STARTED: u8 = b'W';
/// Worker to front, first, when the app could not be imported (only without preloader): payload text.
pub const BOOT_FAILED: u8 = b'B';
/// Worker to front: payload `status line NUL (name NUL value NUL)*`.
pub const HEAD: u8 = b'H';
/// Worker to front: a piece of the body.
pub const DATA: u8 = b'D';
/// Worker to front: a piece of a file as body: payload offset (u64), length (u64); its descriptor comes along.
pub const FILE: u8 = b'F';
/// Worker to front: text of the app for its log (wsgi.errors, sys.stdout, sys.stderr during a request).
pub const LOG: u8 = b'L';
/// Worker to front: the app raised before its head was sent; payload the traceback. `END` follows.
pub const EXCEPTION: u8 = b'X';
/// Worker to front: the request is over, also when it failed; the worker waits for the next one.
pub const END: u8 = b'E';
/// Flag of `END`: the body is not complete (the app raised after the head, or was cut short).
pub const TRUNCATED: u8 = 1;

/// Front to Python, once: payload pairs, see `bridge.py`; descriptors as the mode demands.
pub const SETUP: u8 = b'S';
/// Front to preloader: payload pairs `pid`, `spawner` (pid), `spawner_start` (clock ticks since boot, as in
/// /proc/PID/stat), `linger` (seconds).
pub const HELLO: u8 = b'h';
/// Front to preloader: fork a worker. Descriptors: lifeline (read end), stderr (write end), then one slot socket for
/// each thread that the worker shall have.
pub const FORK: u8 = b'f';
/// Preloader to front: the app is imported; payload pairs (`python`, `threads`, `seconds`).
pub const READY: u8 = b'r';
/// Preloader to front: the app could not be imported; payload text, the last lines of the log.
pub const FAILED: u8 = b'b';
/// Preloader to front: answer to `FORK`; payload pid (u32).
pub const FORKED: u8 = b'k';
/// Preloader to front: answer to `FORK` when the system refused; payload text.
pub const REFUSED: u8 = b'n';
/// Preloader to front: another front is in need of a process: give an idle worker back.
pub const RELEASE: u8 = b'l';
