//! Limits of the account, and how near it is to them: RLIMIT_NPROC, RLIMIT_AS, cgroups, CloudLinux's LVE.
//!
//! Of the process that is asked about, not of the one that asks: a shell's limits are not the web server's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";
/// LVE counts memory in pages.
const PAGE: u64 = 4096;

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, in words.
    pub name: &'static str,
    /// The same for programs.
    pub key: &'static str,
    /// What is used.
    pub used: u64,
    /// What may be used; None: no limit is known.
    pub most: Option<u64>,
    /// Whether these are bytes.
    pub bytes: bool,
}

impl Limit {
    fn new(
        name: &'static str,
        key: &'static str,
        used: u64,
        most: Option<u64>,
        bytes: bool,
    ) -> Limit {
        Limit {
            name,
            key,
            used,
            most,
            bytes,
        }
    }

    /// Used, in percent of the limit.
    pub fn percent(&self) -> Option<u64> {
        let most = self.most.filter(|most| *most > 0)?;
        Some(self.used.saturating_mul(100) / most)
    }
}

/// The limits that hold for the process `pid` of user `uid`. `largest`: address space of its largest process.
pub fn limits(pid: u32, uid: u32, largest: u64) -> Vec<Limit> {
    let text = |path: &Path| fs::read_to_string(path).ok();
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let own = text(&proc.join("limits")).unwrap_or_default();
    let mut found = vec![Limit::new(
        "processes and threads",
        "processes",
        tasks(uid),
        soft(&own, "Max processes").filter(|_| uid != 0),
        false,
    )];
    if let Some(most) = soft(&own, "Max address space") {
        found.push(Limit::new(
            "address space of a process",
            "address_space",
            largest,
            Some(most),
            true,
        ));
    }
    let groups = text(&proc.join("cgroup")).unwrap_or_default();
    for (name, key, controller, files, bytes) in [
        (
            "memory (cgroup)",
            "cgroup_memory",
            "memory",
            CGROUP_MEMORY,
            true,
        ),
        ("tasks (cgroup)", "cgroup_pids", "pids", CGROUP_PIDS, false),
    ] {
        if let Some((used, most)) = tightest(Path::new(CGROUPS), &groups, controller, files) {
            found.push(Limit::new(name, key, used, Some(most), bytes));
        }
    }
    found.extend(text(Path::new("/proc/lve/list")).map_or(Vec::new(), |list| lve(&list, uid)));
    found
}

/// Files of limit and use: in cgroup v2, in v1.
type Files = [(&'static str, &'static str); 2];
const CGROUP_MEMORY: Files = [
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
];
const CGROUP_PIDS: Files = [("pids.max", "pids.current"), ("pids.max", "pids.current")];

/// Processes and threads of a user, as far as they can be seen.
fn tasks(uid: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let threads = |path: PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        stat.get(stat.rfind(')')? + 1..)?
            .split_whitespace()
            .nth(17)?
            .parse::<u64>()
            .ok()
    };
    entries
        .filter_map(Result::ok)
        .filter(|e| {
            e.file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .filter(|e| e.metadata().is_ok_and(|m| m.uid() == uid))
        .filter_map(|e| threads(e.path()))
        .sum()
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

/// /proc/lve/list: a first line with the columns' names, then a line for each user; `l` before a name is the limit.
fn lve(list: &str, uid: u32) -> Vec<Limit> {
    let mut lines = list.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ours = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| {
            let id = words.first().and_then(|word| word.rsplit(',').next());
            id.and_then(|id| id.parse().ok()) == Some(uid)
        });
    let Some(ours) = ours else { return Vec::new() };
    let value = |name: &str| {
        let at = names.iter().position(|n| *n == name)?;
        ours.get(at)?.parse::<u64>().ok()
    };
    [
        ("processes (LVE)", "lve_processes", "NPROC", "lNPROC", 1),
        ("entry processes (LVE)", "lve_entries", "EP", "lEP", 1),
        ("memory (LVE)", "lve_memory", "MEMPHY", "lMEMPHY", PAGE),
    ]
    .into_iter()
    .filter_map(|(name, key, used, most, unit)| {
        let most = value(most).filter(|n| *n > 0)?;
        Some(Limit::new(
            name,
            key,
            value(used)? * unit,
            Some(most * unit),
            unit > 1,
        ))
    })
    .collect()
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
        assert!(tasks(nix::unistd::geteuid().as_raw()) >= 1);
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
        let found: Vec<_> = lve(list, 1001)
            .iter()
            .map(|l| (l.key, l.used, l.most, l.percent()))
            .collect();
        assert_eq!(
            found,
            [
                ("lve_processes", 12, Some(100), Some(12)),
                ("lve_entries", 2, Some(20), Some(10)),
                ("lve_memory", 25600 * 4096, Some(262_144 * 4096), Some(9)),
            ]
        );
        assert_eq!(lve(list, 7), []);
    }
}
