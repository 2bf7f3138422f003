//! The status of a site: what its fronts report, and how that is shown.
//!
//! Each front writes a `Snapshot` into the runtime directory. Readers use these files and talk to no process, so status
//! also works when a process hangs. `Site` combines all snapshots; `figures` defines once what is shown; text, HTML,
//! JSON and Prometheus only lay it out.

pub mod collect;
pub mod command;
mod counts;
pub(crate) mod figures;
pub(crate) mod html;
mod json;
mod prometheus;
mod site_workers;
mod snapshot;
mod text;

pub use counts::{Count, Counters, History, MINUTES};
pub use snapshot::{FrontState, Note, RunningRequest, Snapshot, Worker, WorkerState, one_line};
