//! What the account may use: processes and memory, as far as the system tells.
//!
//! Shared hosts count processes *and* threads (RLIMIT_NPROC, LVE's NPROC, a cgroup's pids.max) and memory (a cgroup's
//! memory.max). Reads files only; whatever cannot be read counts as unlimited.

use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Memory that a worker is expected to take, forked from a warmed preloader.
const WORKER: u64 = 12 << 20;
/// Memory for the front, the preloader, and what else runs in the account.
const REST: u64 = 96 << 20;
/// Processes that stay free: for other fronts, a shell, a cron job.
const SPARE: u64 = 4;

/// The bounds of the account. None: no bound that is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Processes and threads at the most.
    pub processes: Option<u64>,
    /// Processes and threads there are.
    pub processes_now: u64,
    /// Bytes of memory at the most.
    pub memory: Option<u64>,
}

impl Account {
    /// Looks.
    pub fn read() -> Account {
        let soft = getrlimit(Resource::RLIMIT_NPROC).ok().map(|(soft, _)| soft);
        // The limit does not bind root.
        let unbound = nix::unistd::geteuid().is_root();
        let by_limit = soft.filter(|n| !unbound && *n != nix::libc::RLIM_INFINITY);
        let group = own_cgroup();
        let in_group = |name: &str| number(&format!("{group}/{name}"));
        let by_group = in_group("pids.max");
        Account {
            processes: [by_limit, by_group, lve_processes()]
                .into_iter()
                .flatten()
                .min(),
            processes_now: count_processes(),
            memory: [in_group("memory.max"), in_group("memory.limit_in_bytes")]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    /// How many workers of `wanted` the account has room for; never less than one.
    pub fn fitting(&self, wanted: usize) -> usize {
        let by_processes = self
            .processes
            .map(|max| max.saturating_sub(self.processes_now + SPARE));
        let by_memory = self.memory.map(|max| max.saturating_sub(REST) / WORKER);
        let room = [by_processes, by_memory].into_iter().flatten().min();
        room.map_or(wanted, |room| {
            wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
        })
        .max(1)
    }
}

fn own_cgroup() -> String {
    let listed = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = listed
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default();
    format!("/sys/fs/cgroup{path}")
}

fn number(path: &str) -> Option<u64> {
    let value = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    // Version 1 says "no limit" with a number of almost 2^63.
    (value < 1 << 60).then_some(value)
}

/// CloudLinux: `/proc/lve/list` has a line per account; the column `lNPROC` is the limit. An account sees its own line.
fn lve_processes() -> Option<u64> {
    let list = fs::read_to_string("/proc/lve/list").ok()?;
    let mut lines = list.lines();
    let column = lines
        .next()?
        .split_whitespace()
        .position(|name| name == "lNPROC")?;
    let uid = nix::unistd::geteuid().to_string();
    let own = |line: &&str| {
        let id = line.split_whitespace().next().unwrap_or_default();
        id == uid || id.ends_with(&format!(",{uid}"))
    };
    let line = lines.find(own)?;
    line.split_whitespace()
        .nth(column)?
        .parse()
        .ok()
        .filter(|n| *n > 0)
}

fn count_processes() -> u64 {
    let us = nix::unistd::geteuid().as_raw();
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let mut count = 0;
    for entry in entries.filter_map(Result::ok) {
        let is_process = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit());
        if is_process && entry.metadata().is_ok_and(|meta| meta.uid() == us) {
            count +=
                fs::read_dir(entry.path().join("task")).map_or(1, |tasks| tasks.count() as u64);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_fit_the_account() {
        let account = |processes, processes_now, memory: Option<u64>| Account {
            processes,
            processes_now,
            memory: memory.map(|m| m << 20),
        };
        let table = [
            (account(None, 900, None), 8),
            (account(Some(30), 6, None), 8),
            (account(Some(20), 10, None), 6),
            (account(Some(20), 19, None), 1),
            (account(Some(20), 90, None), 1),
            (account(None, 0, Some(512)), 8),
            (account(None, 0, Some(144)), 4),
            (account(Some(20), 10, Some(64)), 1),
        ];
        for (account, expected) in table {
            assert_eq!(account.fitting(8), expected, "{account:?}");
        }
    }

    #[test]
    fn this_test_is_one_of_the_processes() {
        assert!(Account::read().processes_now >= 1);
    }
}
