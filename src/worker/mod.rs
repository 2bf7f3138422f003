//! The Python side: workers, the preloader, and the wire to them. Knows no protocol of web servers.

pub mod channel;
mod election;
pub mod import;
pub mod pool;
pub mod preloader;
pub mod spawn;
pub mod wire;

use crate::config::{Config, Method};

/// How many requests a worker process of this site serves at a time.
pub fn threads(config: &Config) -> u32 {
    match config.server.method {
        Method::Prefork => 1,
        Method::Threaded => config
            .server
            .maxchildren
            .unwrap_or(config.server.threads)
            .clamp(1, 64),
    }
}
