//! Numbers of a process, from /proc. Knows nothing of sites.

use crate::worker::preloader::start_time;
use std::fs;

/// Ticks of a second in /proc, the same on every Linux.
const TICKS: u64 = 100;
/// Size of a page where it matters: only where PSS cannot be read.
const PAGE: u64 = 4096;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// R, S, D, T and so on, as in `ps`.
    pub letter: char,
    /// Processor time.
    pub cpu_ms: u64,
    /// How long it has lived.
    pub age_ms: u64,
    /// Threads.
    pub threads: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Its share of memory (PSS), or all that it maps (RSS).
    pub bytes: u64,
    /// Whether `bytes` is PSS.
    pub is_pss: bool,
}

/// What a process uses now; None when it has ended.
pub(super) fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut usage = parse(&stat, uptime_ticks())?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    if let Some(bytes) = rollup.as_deref().and_then(pss) {
        (usage.bytes, usage.is_pss) = (bytes, true);
    }
    (!matches!(usage.letter, 'Z' | 'X')).then_some(usage)
}

/// Whether the process of that pid is the one that started then.
pub(super) fn is_running(pid: u32, start_ticks: u64) -> bool {
    let Ok(number) = i32::try_from(pid) else {
        return false;
    };
    let letter = fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(parse(&stat, 0)?.letter));
    start_ticks != 0
        && start_time(number) == start_ticks
        && !matches!(letter, None | Some('Z' | 'X'))
}

fn uptime_ticks() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    seconds.map_or(0, |s| (s * TICKS as f64) as u64)
}

/// proc_pid_stat(5): the second field may hold spaces and brackets, so all are counted from its last bracket.
fn parse(stat: &str, uptime: u64) -> Option<Usage> {
    let fields: Vec<&str> = stat
        .get(stat.rfind(')')? + 1..)?
        .split_whitespace()
        .collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Usage {
        letter: fields.first()?.chars().next()?,
        cpu_ms: (number(14)? + number(15)?) * 1000 / TICKS,
        age_ms: uptime.saturating_sub(number(22)?) * 1000 / TICKS,
        threads: number(20)?,
        virtual_bytes: number(23)?,
        bytes: number(24)? * PAGE,
        is_pss: false,
    })
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 1000 8192 2 18446744073709551615 0";
        let usage = parse(stat, 3000).unwrap();
        assert_eq!((usage.letter, usage.cpu_ms, usage.threads), ('S', 2000, 3));
        assert_eq!(
            (usage.age_ms, usage.virtual_bytes, usage.bytes),
            (20_000, 8192, 8192)
        );
        assert_eq!(parse("12 (x) S 1", 0), None);
    }

    #[test]
    fn we_are_running_ourselves() {
        let us = std::process::id();
        let usage = usage(us).unwrap();
        assert!(usage.bytes > 100_000 && usage.threads >= 1 && usage.virtual_bytes > usage.bytes);
        assert!(is_running(us, start_time(us as i32)));
        assert!(!is_running(us, start_time(us as i32) + 1));
    }

    #[test]
    fn pss_is_read() {
        assert_eq!(
            pss("00400000-7fff [rollup]\nRss:  900 kB\nPss:      12 kB\nPss_Dirty: 7 kB\n"),
            Some(12 << 10)
        );
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }
}
