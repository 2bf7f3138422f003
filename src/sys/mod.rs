//! The system underneath: the only code that reads /proc and /sys, or makes an owned descriptor of a number.

pub mod fd;
pub mod limits;
pub mod procfs;
