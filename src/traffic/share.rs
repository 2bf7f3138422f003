//! `Share`: how the descriptors that the process may have are divided, so that what serves a request always finds some.

use crate::codes::place::FEW_DESCRIPTORS;
use crate::config::limits::{DESCRIPTORS, FEW, LEAST};
use crate::failure::Failure;
use crate::log::Level;
use crate::sys::limits::raise_descriptors;

/// Those of the front itself: standard streams, listeners, epoll, signals, logs, the preloader; and for a moment a status
/// file, the journal, what starts a preloader.
const OWN: u64 = 20;
/// Those of a worker besides its sockets: its lifeline, and the pipes of its output.
const PIPES: u64 = 3;

/// How many descriptors are for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    all: u64,
    /// For connections from web servers.
    pub(super) connections: usize,
    /// For bodies and responses that wait on disk.
    pub(super) files: usize,
}

impl Share {
    /// Raises the limit as far as possible and useful, and divides what there is: the front and so many workers with so
    /// many slots come first, then `connections` with half of the rest, then files.
    pub fn take(workers: usize, slots: usize, connections: usize) -> Share {
        let wanted = DESCRIPTORS.max(2 * connections as u64);
        Share::of(raise_descriptors(wanted), workers, slots, connections)
    }

    fn of(all: u64, workers: usize, slots: usize, connections: usize) -> Share {
        // A worker that starts needs both ends.
        let ends = (workers as u64 + 1) * (PIPES + slots as u64);
        // Where there are few, there are fewer workers: each is started when there is room for it.
        let kept = (OWN + ends).min((all / 2).max(LEAST - 2));
        let rest = usize::try_from(all.saturating_sub(kept)).unwrap_or(usize::MAX);
        let connections = connections.min(rest / 2).max(1);
        Share {
            all,
            connections,
            files: rest.saturating_sub(connections),
        }
    }

    /// If no request can be served: how many descriptors there are.
    pub fn too_few(&self) -> Option<u64> {
        (self.all < LEAST).then_some(self.all)
    }

    /// What the log is told.
    pub fn warning(&self) -> Option<(Level, String)> {
        let Share {
            all,
            connections,
            files,
        } = self;
        if self.too_few().is_some() {
            let failure = Failure::FewDescriptors(*all);
            return Some((Level::Error(failure.code()), failure.headline()));
        }
        let text = format!(
            "RLIMIT_NOFILE allows {all} open files: of these, connections may take {connections}, and bodies and \
             responses that wait on disk {files}"
        );
        (*all < FEW).then_some((Level::Warning(FEW_DESCRIPTORS), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_files_leave_descriptors_to_workers() {
        let share = |all, workers, connections| {
            let share = Share::of(all, workers, 1, connections);
            (share.connections, share.files)
        };
        assert_eq!(share(8192, 8, 4096), (4068, 4068));
        assert_eq!(share(16384, 8, 8000), (8000, 8328));
        assert_eq!(share(1024, 8, 100), (100, 868));
        assert_eq!(share(40, 8, 4096), (9, 9));
        assert_eq!(share(LEAST, 8, 4096), (1, 1));
        assert_eq!(share(3, 1, 4096), (1, 0));
        assert_eq!(share(u64::MAX, 1, 7).0, 7);
    }

    #[test]
    fn the_log_is_told_when_there_are_few() {
        let warning = |all| Share::of(all, 8, 1, 4096).warning().map(|(level, _)| level);
        assert_eq!(warning(LEAST - 1), Some(Level::Error(FEW_DESCRIPTORS)));
        assert_eq!(warning(LEAST), Some(Level::Warning(FEW_DESCRIPTORS)));
        assert_eq!(warning(FEW), None);
    }
}
