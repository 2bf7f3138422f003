//! `SiteWorkers`: what a preloader reports of the workers of its site.
//!
//! It is TOML in the lock file of its code version, below the line that says who holds the lock. The other side is
//! `bridge/report.py`. Plain data: no file, no clock.

use super::figures::plural;
use super::snapshot::line;
use serde::Deserialize;

/// Ends the report.
const END: &str = "\n# end\n";

/// The workers of the site that one preloader has forked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SiteWorkers {
    /// Workers that serve fronts.
    pub serving: u64,
    /// Fronts that wait in line for a worker.
    pub waiting: u64,
    /// The most workers that there may be now. None: nothing bounds them.
    pub most: Option<u64>,
    /// Why there may not be more.
    #[serde(deserialize_with = "line")]
    pub why: String,
    /// Idle workers that no front holds.
    pub kept: Vec<KeptWorker>,
}

/// An idle worker that no front holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KeptWorker {
    /// Its pid.
    pub pid: u32,
    /// Requests served so far.
    pub served: u64,
    /// Since when it is kept, in milliseconds since 1970.
    pub since: u64,
}

impl SiteWorkers {
    /// Reads the text of a lock file. None: there is no report in it, or it is torn.
    pub fn decode(lock: &str) -> Option<SiteWorkers> {
        let (_, report) = lock.split_once('\n')?;
        let (report, _) = report.split_once(END)?;
        report.parse::<toml::Table>().ok()?.try_into().ok()
    }

    /// The bound and the reason for it, in words. None: nothing bounds them.
    pub fn bound(&self) -> Option<String> {
        let most = plural(self.most?, "worker");
        Some(format!("at most {most}: {}", self.why))
    }

    /// Adds the workers of another preloader. `current`: its bound is that of the site.
    pub fn merge(&mut self, other: &SiteWorkers, current: bool) {
        if current || self.most.is_none() {
            (self.most, self.why) = (other.most, other.why.clone());
        }
        self.serving += other.serving;
        self.waiting += other.waiting;
        self.kept.extend_from_slice(&other.kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_whole_or_not_at_all() {
        let text = "7 ready\nserving = 2\nwaiting = 1\nmost = 3\nwhy = \"[server] maxchildren\"\nmood = 1\n\
                    [[kept]]\npid = 9\nserved = 4\nsince = 5\n# end\n";
        let kept = KeptWorker {
            pid: 9,
            served: 4,
            since: 5,
        };
        let workers = SiteWorkers {
            serving: 2,
            waiting: 1,
            most: Some(3),
            why: String::from("[server] maxchildren"),
            kept: vec![kept],
        };
        assert_eq!(SiteWorkers::decode(text), Some(workers.clone()));
        assert_eq!(
            SiteWorkers::decode(&format!("{text}5\n# end\n")),
            Some(workers)
        );
        for end in 0..text.len() {
            assert_eq!(SiteWorkers::decode(&text[..end]), None, "cut at {end}");
        }
        for other in [
            "failed\nwhy\n",
            "7\nserving = -1\n# end\n",
            "7\nkept = 1\n# end\n",
        ] {
            assert_eq!(SiteWorkers::decode(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_text_contains_is_harmless() {
        let workers = SiteWorkers::decode("7\nwhy = \"a\\u001b[31m\\nb\"\n# end\n").unwrap();
        assert_eq!(workers.why, "a [31m b");
    }
}
