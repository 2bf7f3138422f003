//! Limits of the account, and how near it is to them: RLIMIT_NPROC, RLIMIT_AS, cgroups, CloudLinux's LVE.
//!
//! Of the process that is asked about, not of the one that asks: a shell's limits are not the web server's.

use super::procfs::{PAGE, tasks};
use nix::sys::signal::{SigSet, Signal};
use std::fs;
use std::path::Path;

const CGROUPS: &str = "/sys/fs/cgroup";

/// From here on a write beyond RLIMIT_FSIZE fails, and ends no process. Blocked and not ignored, for programs that are
/// executed later inherit what is ignored.
pub fn let_large_writes_fail() {
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

/// What can be limited.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// For people.
    pub name: &'static str,
    /// For programs.
    pub key: &'static str,
    /// What the system calls its limit.
    pub source: &'static str,
    /// What is counted.
    pub kind: Kind,
    reading: Reading,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Processes and threads of the account.
    Tasks,
    /// Bytes of memory of the account.
    Memory,
    /// Bytes that one process may map.
    AddressSpace,
    /// Requests that are being served.
    Entries,
}

/// Where it is read.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// Its line in /proc/PID/limits.
    Rlimit(&'static str),
    /// The controller, and its files of limit and use.
    Cgroup(&'static str, Files),
    /// Columns of use and limit in /proc/lve/list.
    Lve(&'static str, &'static str),
}

/// Files of limit and use: in cgroup v2, in v1.
type Files = [(&'static str, &'static str); 2];
const CGROUP_MEMORY: Files = [
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
];
const CGROUP_PIDS: Files = [("pids.max", "pids.current"), ("pids.max", "pids.current")];

/// Every resource that is looked at, in the order in which it is shown.
#[rustfmt::skip]
pub static RESOURCES: [Resource; 7] = [
    Resource { name: "processes and threads", key: "processes", source: "RLIMIT_NPROC",
               kind: Kind::Tasks, reading: Reading::Rlimit("Max processes") },
    Resource { name: "address space of a process", key: "address_space", source: "RLIMIT_AS",
               kind: Kind::AddressSpace, reading: Reading::Rlimit("Max address space") },
    Resource { name: "memory (cgroup)", key: "cgroup_memory", source: "the cgroup's memory limit",
               kind: Kind::Memory, reading: Reading::Cgroup("memory", CGROUP_MEMORY) },
    Resource { name: "tasks (cgroup)", key: "cgroup_pids", source: "the cgroup's pids.max",
               kind: Kind::Tasks, reading: Reading::Cgroup("pids", CGROUP_PIDS) },
    Resource { name: "processes (LVE)", key: "lve_processes", source: "LVE's NPROC",
               kind: Kind::Tasks, reading: Reading::Lve("NPROC", "lNPROC") },
    Resource { name: "entry processes (LVE)", key: "lve_entries", source: "LVE's EP",
               kind: Kind::Entries, reading: Reading::Lve("EP", "lEP") },
    Resource { name: "memory (LVE)", key: "lve_memory", source: "LVE's PMEM",
               kind: Kind::Memory, reading: Reading::Lve("MEMPHY", "lMEMPHY") },
];

/// A resource, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub resource: &'static Resource,
    /// What is used.
    pub used: u64,
    /// What may be used; None: no limit is known.
    pub most: Option<u64>,
}

impl Limit {
    /// Used, in percent of the limit.
    pub fn percent(&self) -> Option<u64> {
        let most = self.most.filter(|most| *most > 0)?;
        Some(self.used.saturating_mul(100) / most)
    }

    /// Whether these are bytes.
    pub fn in_bytes(&self) -> bool {
        matches!(self.resource.kind, Kind::Memory | Kind::AddressSpace)
    }
}

/// The limits that hold for the process `pid` of user `uid`. `largest`: address space of its largest process.
pub fn limits(pid: u32, uid: u32, largest: u64) -> Vec<Limit> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let texts = Texts {
        own: text(&format!("/proc/{pid}/limits")),
        groups: text(&format!("/proc/{pid}/cgroup")),
        lve: text("/proc/lve/list"),
    };
    texts.limits(uid, largest)
}

/// What the kernel says.
#[derive(Default)]
struct Texts {
    own: String,
    groups: String,
    lve: String,
}

impl Texts {
    fn limits(&self, uid: u32, largest: u64) -> Vec<Limit> {
        let limit = |resource| {
            let (used, most) = self.read(resource, uid, largest)?;
            Some(Limit {
                resource,
                used,
                most,
            })
        };
        RESOURCES.iter().filter_map(limit).collect()
    }

    fn read(&self, of: &Resource, uid: u32, largest: u64) -> Option<(u64, Option<u64>)> {
        match of.reading {
            Reading::Rlimit(name) if of.kind == Kind::Tasks => {
                let most = soft(&self.own, name).filter(|_| uid != 0);
                Some((tasks(uid), most))
            }
            Reading::Rlimit(name) => Some((largest, Some(soft(&self.own, name)?))),
            Reading::Cgroup(controller, files) => {
                let (used, most) = tightest(Path::new(CGROUPS), &self.groups, controller, files)?;
                Some((used, Some(most)))
            }
            Reading::Lve(used, most) => {
                // It counts memory in pages.
                let unit = if of.kind == Kind::Memory { PAGE } else { 1 };
                let most = column(&self.lve, uid, most).filter(|n| *n > 0)?;
                Some((column(&self.lve, uid, used)? * unit, Some(most * unit)))
            }
        }
    }
}

/// The soft limit of that name in /proc/PID/limits.
fn soft(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The group, or the group above it, that is nearest to its limit: what it uses and may use.
fn tightest(root: &Path, groups: &str, controller: &str, files: Files) -> Option<(u64, u64)> {
    let mut found: Option<(u64, u64)> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (top, files) = match controllers {
            "" => (root.to_owned(), files[0]),
            list if list.split(',').any(|c| c == controller) => (root.join(controller), files[1]),
            _ => continue,
        };
        let whole = top.join(path.trim_start_matches('/'));
        for dir in whole.ancestors().take_while(|dir| dir.starts_with(&top)) {
            let number = |name: &str| {
                fs::read_to_string(dir.join(name))
                    .ok()?
                    .trim()
                    .parse::<u64>()
                    .ok()
            };
            // v1 says "no limit" with a huge number.
            let Some(most) = number(files.0).filter(|n| *n < 1 << 60) else {
                continue;
            };
            let Some(used) = number(files.1) else {
                continue;
            };
            let nearer = |(u, m): (u64, u64)| {
                u128::from(used) * u128::from(m) > u128::from(u) * u128::from(most)
            };
            if found.is_none_or(nearer) {
                found = Some((used, most));
            }
        }
    }
    found
}

/// A value from /proc/lve/list: a first line with the columns' names, then a line for each user.
fn column(list: &str, uid: u32, name: &str) -> Option<u64> {
    let mut lines = list.lines();
    let at = lines.next()?.split_whitespace().position(|n| n == name)?;
    let ours = lines.find(|line| {
        let id = line.split_whitespace().next();
        id.and_then(|id| id.rsplit(',').next()?.parse().ok()) == Some(uid)
    });
    ours?.split_whitespace().nth(at)?.parse().ok()
}

/// Lets this process have so many descriptors, as far as it may: shells and web servers often leave it 1024.
pub fn raise_descriptors(most: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(most);
        if wanted > soft {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_process() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             100                  unlimited            processes\n\
                    Max address space         unlimited            unlimited            bytes\n";
        assert_eq!(soft(text, "Max processes"), Some(100));
        assert_eq!(soft(text, "Max address space"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = std::env::temp_dir().join(format!("runfcgi-cgroups-{}", std::process::id()));
        let inner = root.join("user/ann");
        fs::create_dir_all(&inner).unwrap();
        for (dir, max, current) in [
            (&root, "max", "9"),
            (&root.join("user"), "1000", "900"),
            (&inner, "200", "20"),
        ] {
            fs::write(dir.join("memory.max"), format!("{max}\n")).unwrap();
            fs::write(dir.join("memory.current"), format!("{current}\n")).unwrap();
        }
        assert_eq!(
            tightest(&root, "0::/user/ann\n", "memory", CGROUP_MEMORY),
            Some((900, 1000))
        );
        assert_eq!(tightest(&root, "0::/user/ann\n", "pids", CGROUP_PIDS), None);
        assert_eq!(tightest(&root, "4:cpu:/x\n", "memory", CGROUP_MEMORY), None);
        let old = root.join("memory/ann");
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("memory.limit_in_bytes"), "50").unwrap();
        fs::write(old.join("memory.usage_in_bytes"), "7").unwrap();
        assert_eq!(
            tightest(&root, "4:cpu,memory:/ann\n", "memory", CGROUP_MEMORY),
            Some((7, 50))
        );
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_line_of_our_user() {
        let list = "8:LVE\tEP\tlCPU\tlEP\tlMEMPHY\tMEMPHY\tNPROC\tlNPROC\n\
                    0,1000\t1\t100\t20\t1000\t10\t1\t50\n\
                    0,1001\t2\t100\t20\t262144\t25600\t12\t100\n";
        let limits = |uid| {
            let texts = Texts {
                lve: String::from(list),
                ..Texts::default()
            };
            let mut limits = texts.limits(uid, 0);
            limits.retain(|l| l.resource.key.starts_with("lve"));
            limits
        };
        let found: Vec<_> = limits(1001)
            .iter()
            .map(|l| (l.resource.key, l.used, l.most, l.percent()))
            .collect();
        assert_eq!(
            found,
            [
                ("lve_processes", 12, Some(100), Some(12)),
                ("lve_entries", 2, Some(20), Some(10)),
                ("lve_memory", 25600 * 4096, Some(262_144 * 4096), Some(9)),
            ]
        );
        assert_eq!(limits(7), []);
    }
}
