//! The limits of the hosting account, and how many workers and threads of one front they leave room for.
//!
//! Shared hosts limit processes *and* threads (RLIMIT_NPROC, LVE's NPROC, a cgroup's pids.max) and memory (a cgroup's,
//! LVE's); RLIMIT_AS limits the threads of a process. `status` shows the same limits. Usage by other processes changes
//! from minute to minute, so a front reads it again before it grows. Takes the time as an argument.

use crate::config::{Config, Method, limits as reasons};
use crate::sys::limits::{Kind, Limit, limits};
use std::time::{Duration, Instant};

/// Estimated memory in bytes of a worker that is forked from a warm preloader.
const WORKER: u64 = 12 << 20;
/// Memory in bytes for the front, the preloader and everything else in the account.
const REST: u64 = 96 << 20;
/// Processes kept free for other fronts, a shell, a cron job.
const SPARE: u64 = 4;
/// Address space in bytes of a thread: its stack.
const STACK: u64 = 8 << 20;
/// The shortest time between two readings while requests wait.
const URGENT_PAUSE: Duration = Duration::from_secs(1);
/// The same when only spare workers would be started.
const IDLE_PAUSE: Duration = Duration::from_secs(10);

/// The limits and usage of the account, as a front last read them.
#[derive(Clone, Debug, Default)]
pub struct Account {
    limits: Vec<Limit>,
    /// How many of the used processes and threads are this front's workers.
    ours: u64,
    read_at: Option<Instant>,
    /// The log already says what was cut.
    noted: bool,
}

/// How many workers or threads one limit has room for.
struct Bound<'a> {
    most: usize,
    limit: &'a Limit,
}

impl Account {
    /// Reads the limits, before there are any workers.
    pub fn read() -> Account {
        Account {
            limits: limits(
                std::process::id(),
                nix::unistd::geteuid().as_raw(),
                0, // no process: the address space that others use does not count
            ),
            ..Account::default()
        }
    }

    /// Reads the limits again, at most every 10 s, or every second if `urgent`: a request waits for a worker. `ours`: the
    /// processes and threads of this front's workers.
    pub fn refresh(&mut self, ours: usize, urgent: bool, now: Instant) {
        let pause = if urgent { URGENT_PAUSE } else { IDLE_PAUSE };
        if self
            .read_at
            .is_some_and(|at| now.saturating_duration_since(at) < pause)
        {
            return;
        }
        *self = Account {
            ours: ours as u64,
            read_at: Some(now),
            noted: self.noted,
            ..Account::read()
        };
    }

    /// The limits with nothing in use: what is cut then can never fit.
    pub fn unused(mut self) -> Account {
        for limit in &mut self.limits {
            limit.used = 0;
        }
        self
    }

    /// Describes a limit of processes or memory that is nearly reached. None: there is none, or it is not known.
    pub fn reached(&self) -> Option<String> {
        let now = Account::read();
        let limit = now.limits.iter().find(|limit| {
            let most = limit.most.unwrap_or(u64::MAX);
            let left = most.saturating_sub(limit.used);
            match limit.resource.kind {
                Kind::Tasks => left <= reasons::FEW_PROCESSES,
                Kind::Memory | Kind::AddressSpace => limit.percent().is_some_and(|p| p >= 90),
                Kind::Entries => false,
            }
        })?;
        let (most, used) = match limit.in_bytes() {
            true => (limit.most? >> 20, limit.used >> 20),
            false => (limit.most?, limit.used),
        };
        let unit = if limit.in_bytes() { " MB" } else { "" };
        Some(format!(
            "the account may have {most}{unit} {}, {used} are in use ({})",
            limit.resource.name, limit.resource.source
        ))
    }

    /// The limits, with their usage.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The most processes and threads that all workers of the front may have together. None: no known limit.
    pub fn tasks(&self) -> Option<usize> {
        least(self.task_bounds()).map(|bound| bound.most)
    }

    /// How many of the `wanted` workers the account has room for; at least one.
    pub fn fitting(&self, wanted: usize) -> usize {
        self.workers()
            .map_or(wanted, |bound| wanted.min(bound.most))
            .max(1)
    }

    /// How many of the `wanted` threads a worker may have; at least one.
    pub fn fitting_threads(&self, wanted: usize) -> usize {
        self.threads()
            .map_or(wanted, |bound| wanted.min(bound.most))
            .max(1)
    }

    /// The text of `cut`, the first time only.
    pub fn cut_once(&mut self, config: &Config) -> Option<String> {
        let text = self.cut(config).filter(|_| !self.noted);
        self.noted |= text.is_some();
        text
    }

    /// Describes a setting that asks for more than there is room for, and the limit that cuts it.
    pub fn cut(&self, config: &Config) -> Option<String> {
        let server = &config.server;
        let (name, wanted, bound, unit) = match server.method {
            Method::Prefork => {
                let wanted = server.maxchildren?;
                ("maxchildren", wanted, self.workers()?, "a worker")
            }
            Method::Threaded => {
                let name = server.maxchildren.map_or("threads", |_| "maxchildren");
                let wanted = crate::workers::threads(config);
                (name, wanted, self.threads()?, "a thread")
            }
        };
        let most = bound.most.max(1);
        if wanted as usize <= most {
            return None;
        }
        let limit = bound.limit;
        let allowed = limit.most.unwrap_or(0);
        let why = if limit.in_bytes() {
            let (each, rest) = match limit.resource.kind {
                Kind::AddressSpace => (STACK, reasons::APP_ADDRESSES),
                _ => (WORKER, REST),
            };
            let (allowed, each, rest) = (allowed >> 20, each >> 20, rest >> 20);
            format!("{allowed} MB, of which {unit} is taken to need {each} and the rest {rest}")
        } else {
            let others = self.others(limit);
            format!(
                "{allowed} processes and threads, of which {others} are in use otherwise and {SPARE} stay free"
            )
        };
        let source = limit.resource.source;
        Some(format!(
            "{name} = {wanted} is cut to {most}: {source} allows {why}"
        ))
    }

    /// Usage by everything but this front's workers.
    fn others(&self, limit: &Limit) -> u64 {
        limit.used.saturating_sub(self.ours)
    }

    fn task_bounds(&self) -> impl Iterator<Item = Bound<'_>> {
        self.bounds(Kind::Tasks, move |limit, most| {
            most.saturating_sub(self.others(limit) + SPARE)
        })
    }

    fn workers(&self) -> Option<Bound<'_>> {
        let memory = self.bounds(Kind::Memory, |_, most| most.saturating_sub(REST) / WORKER);
        least(self.task_bounds().chain(memory))
    }

    fn threads(&self) -> Option<Bound<'_>> {
        let addresses = self.bounds(Kind::AddressSpace, |_, most| {
            most.saturating_sub(reasons::APP_ADDRESSES) / STACK
        });
        least(self.task_bounds().chain(addresses))
    }

    /// The bound that each limit of this kind sets; `room` computes it from the limit and its maximum.
    fn bounds<'a>(
        &'a self,
        kind: Kind,
        room: impl Fn(&Limit, u64) -> u64 + 'a,
    ) -> impl Iterator<Item = Bound<'a>> {
        let known = self.limits.iter().filter(move |l| l.resource.kind == kind);
        known.filter_map(move |limit| {
            let most = usize::try_from(room(limit, limit.most?)).unwrap_or(usize::MAX);
            Some(Bound { most, limit })
        })
    }
}

fn least<'a>(bounds: impl Iterator<Item = Bound<'a>>) -> Option<Bound<'a>> {
    bounds.min_by_key(|bound| bound.most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::limits::RESOURCES;

    fn account(limits: &[(&'static str, u64, u64)], ours: u64) -> Account {
        let limit = |&(key, used, most): &(&'static str, u64, u64)| Limit {
            resource: RESOURCES.iter().find(|r| r.key == key).unwrap(),
            used,
            most: Some(most),
        };
        Account {
            limits: limits.iter().map(limit).collect(),
            ours,
            ..Account::default()
        }
    }

    const MB: u64 = 1 << 20;

    #[test]
    fn workers_fit_the_account() {
        let table = [
            (account(&[], 0), 8),
            (account(&[("processes", 6, 30)], 0), 8),
            (account(&[("processes", 10, 20)], 0), 6),
            (account(&[("processes", 10, 20)], 2), 8),
            (account(&[("processes", 19, 20)], 0), 1),
            (account(&[("processes", 90, 20)], 0), 1),
            (
                account(&[("processes", 9, 100), ("lve_processes", 9, 16)], 0),
                3,
            ),
            (
                account(&[("cgroup_pids", 9, 15), ("processes", 9, 20)], 0),
                2,
            ),
            (account(&[("cgroup_memory", 0, 512 * MB)], 0), 8),
            (account(&[("cgroup_memory", 0, 144 * MB)], 0), 4),
            (
                account(&[("processes", 10, 20), ("lve_memory", 0, 64 * MB)], 0),
                1,
            ),
            (account(&[("address_space", 0, 64 * MB)], 0), 8),
        ];
        for (account, expected) in table {
            assert_eq!(account.fitting(8), expected, "{account:?}");
        }
    }

    #[test]
    fn threads_fit_the_account() {
        let table = [
            (account(&[], 0), 64),
            (account(&[("processes", 6, 30)], 0), 20),
            (account(&[("processes", 26, 30)], 20), 20),
            (account(&[("processes", 29, 30)], 0), 1),
            (account(&[("address_space", 0, 256 * MB)], 0), 7),
            (account(&[("cgroup_memory", 0, 128 * MB)], 0), 64),
        ];
        for (account, expected) in table {
            assert_eq!(account.fitting_threads(64), expected, "{account:?}");
        }
        assert_eq!(account(&[("processes", 6, 30)], 0).tasks(), Some(20));
        assert_eq!(account(&[("lve_memory", 6, 30)], 0).tasks(), None);
    }

    #[test]
    fn a_cut_setting_names_the_limit() {
        let mut config = Config::default();
        let known = account(&[("processes", 9, 20), ("cgroup_pids", 9, 900)], 4);
        assert_eq!(known.cut(&config), None, "nobody has set anything");
        config.server.maxchildren = Some(11);
        assert_eq!(known.cut(&config), None);
        config.server.maxchildren = Some(50);
        assert_eq!(
            known.cut(&config).unwrap(),
            "maxchildren = 50 is cut to 11: RLIMIT_NPROC allows 20 processes and threads, of which 5 are in use \
             otherwise and 4 stay free"
        );
        assert!(
            known
                .clone()
                .unused()
                .cut(&config)
                .unwrap()
                .contains("cut to 16:")
        );
        let mut front = known.clone();
        assert!(front.cut_once(&config).is_some());
        assert_eq!(front.cut_once(&config), None, "once is enough");
        let small = account(
            &[("lve_memory", 0, 120 * MB), ("address_space", 0, 240 * MB)],
            0,
        );
        assert!(
            small
                .cut(&config)
                .unwrap()
                .contains("to 2: LVE's PMEM allows 120 MB")
        );
        config.server.method = Method::Threaded;
        assert!(
            small
                .cut(&config)
                .unwrap()
                .contains("to 5: RLIMIT_AS allows 240 MB")
        );
        config.server.maxchildren = None;
        assert_eq!(small.cut(&config), None, "four threads have room");
        config.server.threads = 9;
        assert!(
            small
                .cut(&config)
                .unwrap()
                .starts_with("threads = 9 is cut to 5")
        );
    }

    #[test]
    fn the_limits_are_read_again_after_a_while() {
        let now = Instant::now();
        let mut account = Account::read();
        account.refresh(1, false, now);
        account.refresh(2, false, now + IDLE_PAUSE / 2);
        assert_eq!(account.ours, 1);
        account.refresh(2, true, now + URGENT_PAUSE);
        assert_eq!(account.ours, 2);
        account.refresh(3, true, now + URGENT_PAUSE + URGENT_PAUSE / 2);
        assert_eq!(account.ours, 2);
        let used = account
            .limits()
            .iter()
            .find(|l| l.resource.key == "processes");
        assert!(
            used.is_some_and(|l| l.used >= 1),
            "this test is one of them"
        );
    }
}
