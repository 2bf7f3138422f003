//! Facts about processes from /proc; see proc_pid_stat(5) and its neighbours. Without /proc, nothing is known.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it is mounted.
pub const ROOT: &str = "/proc";
/// Clock ticks per second in /proc, the same on every Linux.
const TICKS: u64 = 100;
/// Bytes in a page.
pub(super) const PAGE: u64 = 4096;

/// What `/proc/PID/stat` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stat {
    name: String,
    letter: char,
    parent: i32,
    cpu_ms: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident: u64,
}

/// The resources that a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its state as in `ps`: R, S, D, T and so on.
    pub letter: char,
    /// CPU time.
    pub cpu_ms: u64,
    /// Time since its start.
    pub age_ms: u64,
    /// Threads.
    pub threads: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Memory: its proportional share (PSS) if that can be read, else its resident set (RSS).
    pub bytes: u64,
    /// Whether `bytes` is PSS.
    pub is_pss: bool,
}

/// A TCP socket of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpSocket {
    /// Its state, as the kernel numbers them.
    pub(super) state: u8,
    /// Who has opened it.
    pub(super) user: u32,
    /// 0: nobody has it open.
    pub(super) inode: u32,
}

/// The TCP socket with this address that is connected to that one.
pub(super) fn tcp_socket(local: SocketAddr, remote: SocketAddr) -> Option<TcpSocket> {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    tcp_line("/proc/net/tcp", local, remote)
        .or_else(|| tcp_line("/proc/net/tcp6", mapped(local), mapped(remote)))
}

fn tcp_line(list: &str, local: SocketAddr, remote: SocketAddr) -> Option<TcpSocket> {
    let wanted = format!(" {} {} ", tcp_address(local), tcp_address(remote));
    let lines = BufReader::new(File::open(list).ok()?).lines();
    let line = lines
        .map_while(Result::ok)
        .find(|line| line.contains(&wanted))?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some(TcpSocket {
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        user: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// As the kernel's list has it: words in the byte order of the processor.
fn tcp_address(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let words = octets.chunks_exact(4);
    let words = words.map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let words: String = words.map(|word| format!("{word:08X}")).collect();
    format!("{words}:{:04X}", address.port())
}

impl Stat {
    fn read(pid: impl std::fmt::Display) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field may contain spaces and brackets, so fields are counted from its last bracket.
    fn parse(line: &str) -> Option<Stat> {
        let (name, rest) = line.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            name: name.to_owned(),
            letter: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ms: (number(14)? + number(15)?) * 1000 / TICKS,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident: number(24)? * PAGE,
        })
    }

    fn age_ms(&self, uptime: u64) -> u64 {
        uptime.saturating_sub(self.start_ticks) * 1000 / TICKS
    }

    fn is_alive(&self) -> bool {
        !matches!(self.letter, 'Z' | 'X')
    }
}

/// The effective user of a process; None: unknown.
pub fn user(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What a process uses now; None: it has ended.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = Stat::read(pid).filter(Stat::is_alive)?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let pss = rollup.as_deref().and_then(pss);
    Some(Usage {
        letter: stat.letter,
        cpu_ms: stat.cpu_ms,
        age_ms: stat.age_ms(uptime_ticks()),
        threads: stat.threads,
        virtual_bytes: stat.virtual_bytes,
        bytes: pss.unwrap_or(stat.resident),
        is_pss: pss.is_some(),
    })
}

/// The resident set size of a process, in bytes.
pub fn resident(pid: i32) -> Option<u64> {
    Some(Stat::read(pid)?.resident)
}

/// When a process started, in clock ticks since boot; 0: unknown.
pub fn start_time(pid: i32) -> u64 {
    Stat::read(pid).map_or(0, |stat| stat.start_ticks)
}

/// Whether the process with this pid and start time is running.
pub fn is_running(pid: u32, start_ticks: u64) -> bool {
    let same = |stat: Stat| stat.is_alive() && stat.start_ticks == start_ticks;
    start_ticks != 0 && Stat::read(pid).is_some_and(same)
}

/// The user of a process.
pub fn owner(pid: u32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// The process that spawns fronts: our parent, or its topmost ancestor of the same name, since the children of a web server
/// come and go.
pub fn spawner() -> i32 {
    let mut found = nix::unistd::getppid().as_raw();
    let Some(Stat {
        name, mut parent, ..
    }) = Stat::read(found)
    else {
        return found;
    };
    while parent > 1
        && let Some(above) = Stat::read(parent)
        && above.name == name
    {
        (found, parent) = (parent, above.parent);
    }
    found
}

/// Processes and threads of a user, as far as we can see them.
pub(super) fn tasks(uid: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| owner(*pid) == Some(uid))
        .filter_map(|pid| Some(Stat::read(pid)?.threads))
        .sum()
}

/// The open descriptors of this process.
pub fn descriptors() -> Option<Vec<RawFd>> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    Some(
        entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
    )
}

/// A path by which this process, or a child of it, can open the file of a descriptor.
pub fn path_through(descriptor: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// The path of a descriptor's file.
pub fn path_of(descriptor: &impl AsRawFd) -> io::Result<PathBuf> {
    fs::read_link(path_through(descriptor))
}

/// The path of the running image's file.
pub fn executable() -> Option<PathBuf> {
    fs::read_link("/proc/self/exe").ok()
}

/// A path by which children can execute the running image, wherever its file is.
pub fn own_image() -> Option<PathBuf> {
    let own = Path::new("/proc/self/exe");
    own.exists().then(|| own.to_owned())
}

fn uptime_ticks() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    seconds.map_or(0, |s| (s * TICKS as f64) as u64)
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
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent), ("a) b (c", 1));
        assert_eq!((stat.letter, stat.cpu_ms, stat.threads), ('S', 2000, 3));
        assert_eq!(
            (stat.age_ms(3000), stat.virtual_bytes, stat.resident),
            (20_000, 8192, 8192)
        );
        assert_eq!(Stat::parse("12 (x) S 1"), None);
    }

    #[test]
    fn we_are_running_ourselves() {
        let us = std::process::id();
        let usage = usage(us).unwrap();
        assert!(usage.bytes > 100_000 && usage.threads >= 1 && usage.virtual_bytes > usage.bytes);
        assert!(usage.age_ms < 60_000, "{usage:?}");
        assert!(is_running(us, start_time(us as i32)));
        assert!(!is_running(us, start_time(us as i32) + 1));
        assert!(tasks(nix::unistd::geteuid().as_raw()) >= 1);
        assert!(resident(us as i32).unwrap() > 100_000);
    }

    #[test]
    fn descriptors_have_paths() {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(descriptors().unwrap().contains(&file.as_raw_fd()));
        assert_eq!(path_of(&file).unwrap(), Path::new("/dev/null"));
        assert_eq!(executable().unwrap(), std::env::current_exe().unwrap());
        assert!(own_image().is_some());
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
