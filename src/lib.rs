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
//! forked from it.
//!
//! # Code map (an arrow means "may use"; nothing points up)
//! ```text
//! main ─▶ cli ─▶ server ─▶ proto, worker ─▶ pairs, response, config
//! ```
//! `status` is what fronts tell of themselves in files: `server` writes them, the command and the page read them.

pub mod access_log;
pub mod account;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod endpoints;
pub mod environ;
pub mod fd;
pub mod image;
pub mod log;
pub mod pages;
pub mod pairs;
pub mod proto;
pub mod python;
pub mod response;
pub mod runtime;
pub mod server;
pub mod start;
pub mod status;
pub mod systemd;
pub mod worker;
