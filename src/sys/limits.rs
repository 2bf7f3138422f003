//! Limits of the account and how much of them is used: RLIMIT_NPROC, RLIMIT_AS, cgroups, CloudLinux's LVE.
//!
//! They are read for a given process, not for this one: a shell's limits are not the web server's.

use super::procfs::{PAGE, tasks};
use nix::sys::signal::{SigSet, Signal};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Makes a write beyond RLIMIT_FSIZE fail instead of killing the process. SIGXFSZ is blocked, not ignored: executed
/// programs would inherit that.
pub fn let_large_writes_fail() {
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

/// Whether there are no more descriptors, or no memory for one. That passes.
pub fn is_shortage(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS))
}

/// A limited resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name for people.
    pub name: &'static str,
    /// Its name in JSON and Prometheus.
    pub key: &'static str,
    /// The system's name for the limit.
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

/// Where to read it.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// The name of its line in /proc/PID/limits.
    Rlimit(&'static str),
    /// The controller, and the files of limit and usage.
    Cgroup(&'static str, Files),
    /// The columns of usage and limit in /proc/lve/list.
    Lve(&'static str, &'static str),
}

/// The files of limit and usage in cgroup v2, and in v1.
type Files = [(&'static str, &'static str); 2];
const CGROUP_MEMORY: Files = [
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
];
const CGROUP_PIDS: Files = [("pids.max", "pids.current"), ("pids.max", "pids.current")];

/// All resources, in the order in which they are shown.
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

/// A resource and its usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub resource: &'static Resource,
    /// How much is used.
    pub used: u64,
    /// The limit; None: no limit is known.
    pub most: Option<u64>,
}

impl Limit {
    /// Usage in percent of the limit.
    pub fn percent(&self) -> Option<u64> {
        let most = self.most.filter(|most| *most > 0)?;
        Some(self.used.saturating_mul(100) / most)
    }

    /// Whether these are bytes.
    pub fn in_bytes(&self) -> bool {
        matches!(self.resource.kind, Kind::Memory | Kind::AddressSpace)
    }
}

/// The limits of the process `pid` of user `uid`. `largest`: address space of the user's largest process, in bytes.
pub fn limits(pid: u32, uid: u32, largest: u64) -> Vec<Limit> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let texts = Texts {
        own: text(&format!("/proc/{pid}/limits")),
        groups: text(&format!("/proc/{pid}/cgroup")),
        lve: text("/proc/lve/list"),
    };
    texts.limits(uid, largest)
}

/// The kernel's texts.
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
                // LVE counts memory in pages.
                let unit = if of.kind == Kind::Memory { PAGE } else { 1 };
                let most = column(&self.lve, uid, most).filter(|n| *n > 0)?;
                Some((column(&self.lve, uid, used)? * unit, Some(most * unit)))
            }
        }
    }
}

/// A soft limit in /proc/PID/limits.
fn soft(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The directories of the cgroups of a process for this controller, the innermost first, each with its place in `Files`.
/// `groups`: /proc/PID/cgroup.
fn directories(root: &Path, groups: &str, controller: &str) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (top, version) = match controllers {
            "" => (root.to_owned(), 0),
            list if list.split(',').any(|c| c == controller) => (root.join(controller), 1),
            _ => continue,
        };
        let whole = top.join(path.trim_start_matches('/'));
        let inside = whole.ancestors().take_while(|dir| dir.starts_with(&top));
        found.extend(inside.map(|dir| (dir.to_owned(), version)));
    }
    found
}

/// Usage and limit of the cgroup that is nearest to its limit, of this one and those above it.
fn tightest(root: &Path, groups: &str, controller: &str, files: Files) -> Option<(u64, u64)> {
    let mut found: Option<(u64, u64)> = None;
    for (dir, version) in directories(root, groups, controller) {
        let (limit, usage) = files[version];
        let (Some(most), Some(used)) = (limit_in(&dir.join(limit)), number_in(&dir.join(usage)))
        else {
            continue;
        };
        let nearer = |(u, m): (u64, u64)| {
            u128::from(used) * u128::from(m) > u128::from(u) * u128::from(most)
        };
        if found.is_none_or(nearer) {
            found = Some((used, most));
        }
    }
    found
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The limit in a file. In cgroup v1, a huge number means that there is none.
fn limit_in(path: &Path) -> Option<u64> {
    number_in(path).filter(|most| *most < 1 << 60)
}

/// The cgroups of this process that limit memory: for each, the files of its limit, its usage, its statistics and its kills.
pub fn memory_groups() -> Vec<[PathBuf; 4]> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let all = directories(Path::new(CGROUPS), &groups, "memory").into_iter();
    let files = all.map(|(dir, version)| {
        let (limit, usage) = CGROUP_MEMORY[version];
        let kills = ["memory.events", "memory.oom_control"][version];
        [limit, usage, "memory.stat", kills].map(|name| dir.join(name))
    });
    files
        .filter(|[limit, ..]| limit_in(limit).is_some())
        .collect()
}

/// A value from /proc/lve/list: the first line names the columns, then comes a line for each user.
fn column(list: &str, uid: u32, name: &str) -> Option<u64> {
    let mut lines = list.lines();
    let at = lines.next()?.split_whitespace().position(|n| n == name)?;
    let ours = lines.find(|line| {
        let id = line.split_whitespace().next();
        id.and_then(|id| id.rsplit(',').next()?.parse().ok()) == Some(uid)
    });
    ours?.split_whitespace().nth(at)?.parse().ok()
}

/// Raises the limit of open descriptors to `most`, or the hard limit: shells and web servers often set it to 1024. Returns
/// the limit.
pub fn raise_descriptors(most: u64) -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return most;
    };
    let wanted = hard.min(most);
    if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
        return wanted;
    }
    soft
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
    fn the_tightest_cgroup_counts() {
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
