//! The system: the only code that reads /proc and /sys, or turns a raw descriptor into an owned one.

pub mod fd;
pub mod ffi;
pub mod limits;
pub mod peer;
pub mod procfs;
pub mod users;
