//! runfcgi runs a Django site, or any WSGI application, behind a web server that its owner does not control.
//!
//! # Bird's eye view
//! ```text
//! web server ──listening socket──▶ front (this program) ──slot socket──▶ worker (Python, forked)
//!                                    └──control socket──▶ preloader (Python, app imported) ──fork──┘
//! ```
//! The *front* is one thread with one loop. It speaks the web server's protocol, takes in whole requests, hands each
//! to a worker over the private wire, and passes the answer back. It never imports the app, never waits for it and
//! never dies of it. The *preloader* imports the app once for all fronts of a site and code version; *workers* are
//! forked from it. What the import has left open would be shared by them, so then, as with threads, there is no fork:
//! each worker imports the app by itself, which is the *plain form* (`bridge/opened.py` looks).
//!
//! # One request
//! `server/listener` accepts, `server/incoming` reads and has the connection's codec (`proto`) decode: an environment
//! and a `body`, spooled to a file when it is large. When it is complete, `environ` makes of what the web server sent what the app
//! shall see, and `server/slots` hands it to a free worker as one message (`worker/wire`). The worker's frames become
//! parts of an answer in `server/answers`, the codec encodes them, and `server/settle` sends. So no slow client ever
//! holds a worker, and no web server ever waits for Python to read.
//!
//! # One restart
//! `reload/watch` sees a file's stamp change. `reload` (a machine without I/O: events in, outputs out) asks for the
//! settings to be read, for the `reload/release` that was read to be imported by a preloader of its own while the old
//! one goes on serving (`server/restart`, `server/preloading`, `worker/preloader`), and then, when it is this front's turn
//! (`server/turns`), either for the workers to change over, or for the new image to be executed in this process
//! (`server/leave`, `start/handover`, `image`): same pid, same listening socket, same idle connections.
//!
//! # Code map (an arrow means "may use"; nothing points up)
//! ```text
//! main ─▶ start ─▶ cli, check, daemon, systemd, endpoints, image, status (the command)
//!            └───▶ server  ── the only code that sleeps, accepts, and asks for the time
//!                    ├────▶ proto    ── codecs: FastCGI, SCGI, AJP 1.3, CGI; pure functions of bytes
//!                    ├────▶ reload   ── what the owner changes: watched files, releases, what goes live when
//!                    ├────▶ worker   ── pool, preloader election, starting Python, the private wire
//!                    │                  (its Python side: the package bridge/, imported from memory)
//!                    ├────▶ environ, response, pages, log, access_log, account, status (the data)
//!                    │           └────▶ rundir ── each file of the runtime directory: who writes, who reads, how long
//!                    │                     └────▶ pairs, config (plain data), trust, bytes, sys
//!                    └────▶ request, body, failure, outbox, poller  ── what more than one of them uses
//! ```
//! A setting is a row of `config/table`: name, type, default, what it takes, example and help; whoever heeds it reads its
//! field.
//!
//! # Invariants
//! Stated as absences, and tested by `tests/tidy.rs`:
//! - `proto`, `environ`, `response`, `pages`, `pairs` and `worker/wire` name no I/O, no clock, no log.
//! - `worker`, `proto` and `reload` never name each other; nothing names `server` but `start`.
//! - `Instant::now()` stands in one function of `server`, and so does the call that sleeps.
//! - `sys` alone reads /proc and makes owned descriptors of numbers; `unsafe` stands in `sys/fd`.
//! - `rundir` alone names the files of the runtime directory; its table says who writes and reads each.
//! - Only the command line prints or exits.
//!
//! # What ends what
//! A worker lives as long as its front holds the write end of its lifeline; a preloader as long as its lock is held, and
//! no longer than its fronts and `linger`; a front until its web server ends it, or its executable is replaced under
//! mod_fcgid. What the import has started ends with the process that imported. No worker, preloader or child of them
//! holds a descriptor of the web server.

pub mod access_log;
pub mod account;
pub mod body;
pub mod bytes;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod endpoints;
pub mod environ;
pub mod failure;
pub mod image;
pub mod log;
pub mod outbox;
pub mod pages;
pub mod pairs;
pub mod poller;
pub mod proto;
pub mod python;
pub mod reload;
pub mod request;
pub mod response;
pub mod rundir;
#[cfg(test)]
mod scratch;
pub mod server;
pub mod start;
pub mod status;
pub mod sys;
pub mod systemd;
pub mod traffic;
pub mod trust;
pub mod worker;
