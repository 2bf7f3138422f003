//! How a site does: what its fronts tell of themselves, and how that is shown.
//!
//! A front writes a `Snapshot` into the runtime directory. Whoever wants to know how the site does reads these files
//! and talks to no process, so that it also works when one hangs. `Site` is what they say together; `figures` says,
//! once for all forms, what of it is shown; text, page, JSON and Prometheus only lay it out.

pub mod collect;
pub mod command;
mod counts;
mod figures;
mod html;
mod json;
mod prometheus;
mod snapshot;
mod text;

pub use counts::{Count, Counters, History, MINUTES};
pub use snapshot::{Doing, Note, Serving, Snapshot, State, Worker, one_line};
