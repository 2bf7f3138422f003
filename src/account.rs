//! What the account may use, and how many workers and threads that leaves for one front.
//!
//! Shared hosts count processes *and* threads (RLIMIT_NPROC, LVE's NPROC, a cgroup's pids.max) and memory (a cgroup's,
//! LVE's); RLIMIT_AS bounds the threads of a process. The limits are those that `status` shows. What others use changes
//! from minute to minute, so a front looks again when it grows. Takes the time as an argument.

use crate::config::{Config, Method, limits as reasons};
use crate::sys::limits::{Kind, Limit, limits};
use std::time::{Duration, Instant};

/// Memory that a worker is expected to take, forked from a warmed preloader.
const WORKER: u64 = 12 << 20;
/// Memory for the front, the preloader, and what else runs in the account.
const REST: u64 = 96 << 20;
/// Processes that stay free: for other fronts, a shell, a cron job.
const SPARE: u64 = 4;
/// Addresses that a thread takes: its stack.
const STACK: u64 = 8 << 20;
/// How often a front looks again while visitors wait.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it does for idle workers that are to be kept in readiness.
const SELDOM: Duration = Duration::from_secs(10);

/// What a front knows of the account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    limits: Vec<Limit>,
    /// Processes and threads of the front's own workers among those that were in use.
    ours: u64,
    looked: Option<Instant>,
    /// The log knows what is cut.
    told: bool,
}

/// The least of several limits.
struct Bound<'a> {
    most: usize,
    limit: &'a Limit,
}

impl Account {
    /// Looks, before there is any worker.
    pub fn read() -> Account {
        Account {
            limits: limits(
                std::process::id(),
                nix::unistd::geteuid().as_raw(),
                0, // of no process: what others map is no matter
            ),
            ..Account::default()
        }
    }

    /// Looks again, unless that was just done. `ours`: processes and threads of the front's workers; `urgent`: somebody
    /// waits for one more.
    pub fn look(&mut self, ours: usize, urgent: bool, now: Instant) {
        let pause = if urgent { AGAIN } else { SELDOM };
        if self
            .looked
            .is_some_and(|at| now.saturating_duration_since(at) < pause)
        {
            return;
        }
        *self = Account {
            ours: ours as u64,
            looked: Some(now),
            told: self.told,
            ..Account::read()
        };
    }

    /// The limits, as if nobody used anything: what can never be had.
    pub fn unused(mut self) -> Account {
        for limit in &mut self.limits {
            limit.used = 0;
        }
        self
    }

    /// Its limits, and what is used.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Processes and threads that the front's workers may be in all. None: no bound that is told.
    pub fn tasks(&self) -> Option<usize> {
        least(self.task_bounds()).map(|bound| bound.most)
    }

    /// How many workers of `wanted` the account has room for; never less than one.
    pub fn fitting(&self, wanted: usize) -> usize {
        self.workers()
            .map_or(wanted, |bound| wanted.min(bound.most))
            .max(1)
    }

    /// How many threads of `wanted` a worker may have; never less than one.
    pub fn fitting_threads(&self, wanted: usize) -> usize {
        self.threads()
            .map_or(wanted, |bound| wanted.min(bound.most))
            .max(1)
    }

    /// The same as `cut`, once.
    pub fn tell_cut(&mut self, config: &Config) -> Option<String> {
        let text = self.cut(config).filter(|_| !self.told);
        self.told |= text.is_some();
        text
    }

    /// What is set and is more than there is room for, with the reason.
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

    /// What is in use beside the front's own workers.
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

    /// What the limits of this kind leave, by `room`.
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
    fn threads_fit_it_too() {
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
    fn what_is_cut_names_the_limit() {
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
        assert!(front.tell_cut(&config).is_some());
        assert_eq!(front.tell_cut(&config), None, "once is enough");
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
    fn it_is_looked_at_again_after_a_while() {
        let now = Instant::now();
        let mut account = Account::read();
        account.look(1, false, now);
        account.look(2, false, now + SELDOM / 2);
        assert_eq!(account.ours, 1);
        account.look(2, true, now + AGAIN);
        assert_eq!(account.ours, 2);
        account.look(3, true, now + AGAIN + AGAIN / 2);
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
