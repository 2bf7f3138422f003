//! The Python side: workers, the preloader, and the wire to them.

pub mod wire;
