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
//! `server` accepts and reads (`server/sockets`), and tells `traffic` what came. There the connection's codec (`proto`)
//! decodes it: an environment and a `body`, spooled to a file when it is large. When it is complete, `environ` makes of
//! what the web server sent what the app shall see, and `traffic` puts the `request` out. `server` passes it to `workers`:
//! the `pool` finds a free slot or has it wait, and `workers/sockets` sends it as one message (`workers/wire`). The
//! worker's frames come out of `workers` as parts of a response, go into `traffic` (`traffic/responses`), the codec encodes
//! them, and `server/sockets` sends. So no slow client ever holds a worker, and no web server ever waits for Python to
//! read. Why a request fails is a `failure`, whoever found out.
//!
//! # One restart
//! `reload/watch` sees a file's stamp change. `reload` asks for the settings to be read, for the `reload/release` that was
//! read to be imported by a preloader of its own while the old one goes on serving (`workers/generations`,
//! `workers/preloader`), and then, when it is this front's turn (`reload/rollout`), either for the workers to change over,
//! or for the new image to be executed in this process (`server/rollover`, `start/handover`, `image`): same pid, same
//! listening socket, same idle connections.
//!
//! # Three machines and a switchboard
//! `traffic` is what web servers do, `workers` what Python does, `reload` what the owner does. They do not know each other.
//! Each takes events and the time as arguments (`on_…(…, now)`), says when it has something to do (`deadline`), and puts
//! out what it wants done by others (`poll`). `server` is the loop that feeds them and the switchboard between them. Each
//! is tested without sockets and sleeping, by transcripts in `tests/machines`; of `workers` that is its heart, the `pool`.
//!
//! # Code map (an arrow means "may use"; nothing points up)
//! ```text
//! main ─▶ start ─▶ cli, check, daemon, systemd, endpoints, image, status (the command)
//!            └───▶ server  ── the only code that sleeps, accepts, and asks for the time
//!                    ├────▶ traffic  ── connections, requests that come in, responses that go out
//!                    │         └──▶ proto  ── codecs: FastCGI, SCGI, AJP 1.3, CGI; pure functions of bytes
//!                    ├────▶ workers  ── processes, who serves what, how many; preloaders; the private wire
//!                    │                  (its Python side: the package bridge/, imported from memory)
//!                    ├────▶ reload   ── watched files, releases, what goes live when
//!                    └────▶ environ, response, pages, log, access_log, account, status (the data),
//!                           request, body, failure, outbox, poller  ── what more than one of them uses
//!                              └────▶ rundir ── each file of the runtime directory: who writes, who reads, how long
//!                                        └────▶ pairs, config (plain data), trust, bytes, sys
//! ```
//! A setting is a row of `config/table`: name, type, default, what it takes, example and help; whoever heeds it reads its
//! field.
//!
//! # Invariants
//! Stated as absences, and tested by `tests/tidy.rs`:
//! - `proto`, `environ`, `response`, `pages`, `pairs` and `workers/wire` name no I/O, no clock, no log.
//! - `traffic`, `workers` and `reload` never name each other; nothing names `server` but `start`. `traffic` alone names
//!   `proto`, and neither sockets nor epoll.
//! - `Instant::now()` stands in one function of `server`, and so does the call that sleeps.
//! - `sys` alone reads /proc and makes owned descriptors of numbers; `unsafe` stands in `sys/fd`; `poller` alone speaks to
//!   epoll; `rundir` alone names files of the runtime directory.
//! - No type's methods stand in two files, but for `Server`: its `rollover` is what changes the process itself.
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
pub mod workers;
