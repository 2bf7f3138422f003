//! runfcgi runs a Django site, or any WSGI application, behind a web server that its owner does not control.
//!
//! # Bird's eye view
//! ```text
//! web server ──listening socket──▶ front (this program) ──slot socket──▶ worker (Python, forked)
//!                                    └──control socket──▶ preloader (Python, app imported) ──fork──┘
//! ```
//! The *front* is one thread with one loop. It speaks the web server's protocol, reads whole requests, hands each to a
//! worker over the private wire, and passes the response back. It never imports the app, never blocks on it and never
//! dies with it. The *preloader* imports the app once for all fronts of a site and code version, and forks *workers* from
//! itself. Forked workers would share whatever the import left open, and threads do not survive a fork. So when the
//! import leaves either behind (`bridge/opened.py` looks), each worker imports the app by itself: the *plain form*, where the
//! preloader has no app, and only forks workers and keeps them. Either way `bridge/imports.py` spares file operations while
//! the app is imported, and `bridge/store.py` keeps its bytecode in one file.
//!
//! A front that has no more use for an idle worker gives its ends of the worker's sockets and pipes to the preloader
//! (`workers/kept`), which keeps them for the next front that needs a worker: a CGI request, say. The preloader also bounds
//! the workers of the whole site (`bridge/site_pool.py`, `bridge/room.py`); fronts wait in line there.
//!
//! # One request
//! `server/sockets` accepts and reads, and feeds the bytes to `traffic`. The connection's codec (`proto`) decodes them
//! into an environment and a `body`, which is spooled to a file when it is large. When the request is complete, `environ`
//! turns the web server's variables into those that the app sees, and `traffic` puts the `request` out. `server` submits
//! it to `workers`: the `pool` finds a free slot or queues it, and `workers/sockets` sends it as one message
//! (`workers/wire`). The worker's frames come out of `workers` as parts of a response and go into `traffic`
//! (`traffic/responses`); the codec encodes them, and `server/sockets` sends them. What the web server does not take is set
//! aside on disk (`traffic/rest`, `spool`). So a slow client never holds a worker, neither while it sends nor while it
//! reads, and the web server never waits for Python to read. `failure` lists every reason why a request can fail.
//!
//! # One restart
//! `reload/watch` notices that a file's stamp has changed. `reload` asks for the settings to be read, and then for that
//! `reload/release` to be imported by a preloader of its own, while the old one keeps serving (`workers/generations`,
//! `workers/preloader`). When it is this front's turn (`reload/rollout`), either new workers take over, or the new image is
//! executed in this process (`server/rollover`, `start/handover`, `image`): same pid, same listening socket, same idle
//! connections.
//!
//! # Three machines and a switchboard
//! `traffic` handles what web servers do, `workers` what Python does, `reload` what the owner does. They do not know each
//! other. Each takes events and the time as arguments (`on_…(…, now)`), says when it next has something to do
//! (`deadline`), and puts out what others are to do (`poll`). `server` is the loop that feeds them, and the switchboard
//! between them. They are tested without sockets and without sleeping, by transcripts in `tests/machines`; of `workers`,
//! this goes for its core, the `pool`.
//!
//! # Code map (an arrow means "may use"; nothing points up)
//! ```text
//! main ─▶ start ─▶ cli, check, init, daemon, systemd, endpoints, image, status (the command)
//!            └───▶ server  ── the only code that sleeps, accepts, and asks for the time
//!                    ├────▶ traffic  ── connections, requests that come in, responses that go out
//!                    │         └──▶ proto  ── codecs: FastCGI, SCGI, AJP 1.3, CGI; pure functions of bytes
//!                    ├────▶ workers  ── processes, who serves what, how many; preloaders; the private wire
//!                    │                  (its Python side: the package bridge/, imported from memory)
//!                    ├────▶ reload   ── watched files, releases, what goes live when
//!                    ├────▶ owner    ── the owner's desk: pages that work when the app does not
//!                    └────▶ environ, response, pages, log, journal, access_log, account, status (the data), echo,
//!                           request, body, spool, failure, reason, outbox, numbered, poller  ── what more than one uses
//!                              └────▶ rundir ── each file of the runtime directory: who writes, who reads, how long
//!                                        └────▶ pairs, codes, config (plain data), trust, bytes, sys
//! ```
//! A setting is one row of `config/table`: name, type, default, accepted values, example and help. Code that uses it reads
//! its field. A kind of message is one row of `codes`: number, title, cause, consequence and cure.
//!
//! # Invariants
//! Stated as absences, and tested by `tests/tidy.rs`:
//! - `proto`, `environ`, `response`, `pages`, `pairs` and `workers/wire` name no I/O, no clock, no log.
//! - `traffic`, `workers` and `reload` never name each other; nothing names `server` but `start`. `traffic` alone names
//!   `proto`, and neither sockets nor epoll.
//! - `Instant::now()` is called in one function of `server`, and so is the call that sleeps.
//! - Only `sys` reads /proc and turns numbers into owned descriptors; `unsafe` is confined to `sys/ffi`. Only `poller` calls
//!   epoll. Only `rundir` names files of the runtime directory.
//! - No type has methods in two files, except `Server`: `rollover` holds those that replace or end the process.
//! - Only the command line prints or exits.
//!
//! # What ends what
//! A worker lives as long as somebody holds the write end of its lifeline: its front, or the preloader that keeps it. A
//! preloader lives until its last front has gone and `linger` has passed. A front lives until the web server ends it, or
//! until its executable is replaced under mod_fcgid. Processes that the import started end with the process that imported.
//! No worker, preloader or child of theirs holds a descriptor of the web server.

pub mod access_log;
pub mod account;
pub mod body;
pub mod bytes;
pub mod check;
pub mod cli;
pub mod codes;
pub mod config;
pub mod daemon;
pub mod echo;
pub mod endpoints;
pub mod environ;
pub mod failure;
pub mod image;
pub mod init;
pub mod journal;
pub mod log;
pub mod numbered;
pub mod outbox;
pub mod owner;
pub mod pages;
pub mod pairs;
pub mod poller;
pub mod proto;
pub mod python;
pub mod reason;
pub mod reload;
pub mod request;
pub mod response;
pub mod rundir;
#[cfg(test)]
mod scratch;
pub mod server;
pub mod spool;
pub mod start;
pub mod status;
pub mod sys;
pub mod systemd;
pub mod traffic;
pub mod trust;
pub mod workers;
