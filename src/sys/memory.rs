//! Gives memory that was freed back to the system.
#![allow(unsafe_code)]

/// After many requests at once, glibc would keep what they had, in pieces between what is still in use. musl gives it back by
/// itself.
pub fn give_back() {
    // SAFETY: the call takes no pointer, and nothing that is in use moves.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
