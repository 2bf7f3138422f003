//! Requests and connections that take too long.

use super::Server;
use super::connection::Stage;
use super::request::{Answer, Phase};
use super::settle::DRAIN;
use crate::environ::describe;
use crate::failure::Failure;
use crate::log::Level;
use crate::request::RequestNo;
use crate::worker::pool::{SlotNo, SlotState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A worker that ran too long has this much time to write its stack.
const LAST_WORDS: Duration = Duration::from_millis(300);

impl Server {
    /// Requests that wait or run for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let limits = &self.config.limits;
        let seconds = Duration::from_secs;
        let (queue, run) = (
            seconds(limits.queue_timeout),
            seconds(limits.request_timeout),
        );
        let (read, write) = (seconds(limits.read_timeout), seconds(limits.write_timeout));
        let slow = Duration::try_from_secs_f64(self.config.log.slow_log).unwrap_or_default();
        let mut late = Vec::new();
        let mut slow_ones = Vec::new();
        let mut stopped = HashSet::new();
        let since = |at| now.saturating_duration_since(at);
        for (number, request) in &self.requests {
            let waited = now.saturating_duration_since(request.since);
            match request.phase {
                Phase::Queued if waited >= queue => late.push(*number),
                Phase::Running(_) if !run.is_zero() && waited >= run => late.push(*number),
                Phase::Running(slot)
                    if !slow.is_zero() && waited >= slow && !request.slow_logged =>
                {
                    slow_ones.push((*number, slot));
                }
                Phase::Receiving => {
                    let conn = request.conn.and_then(|conn| self.conns.get(&conn));
                    let read_since = conn.filter(|c| !c.is_full()).map(|c| c.read_since);
                    if read_since.is_some_and(|at| since(request.last_in.max(at)) >= read) {
                        stopped.insert(*number);
                    }
                }
                _ => (),
            }
        }
        for (number, slot) in slow_ones {
            self.log_stack(number, slot, now);
        }
        for number in late {
            self.time_out(number, now);
        }
        let stalled = |conn: &super::Connection| {
            let still = since(conn.last_in.max(conn.read_since));
            let sending = conn.stuck.is_some_and(|at| since(at) >= write);
            let receiving = still >= read
                && !conn.requests.is_empty()
                && conn.requests.iter().all(|(_, r)| stopped.contains(r));
            let half_begun = conn.requests.is_empty()
                && !conn.is_full()
                && !conn.codec.is_idle()
                && still >= read;
            sending || receiving || half_begun
        };
        let drained = |conn: &super::Connection| {
            conn.stage == Stage::Draining && since(conn.last_in.max(conn.read_since)) >= DRAIN
        };
        let over: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, conn)| drained(conn) || stalled(conn))
            .map(|(number, conn)| (*number, drained(conn)))
            .collect();
        for (number, drained) in over {
            if !drained {
                self.note(
                    Level::Warning,
                    "a connection is closed: its peer has stalled",
                );
            }
            self.drop_conn(number, now);
        }
        for number in stopped {
            self.time_out_body(number, read.as_secs(), now);
        }
    }

    /// The rest of a request does not come, while other things on its connection go on.
    fn time_out_body(&mut self, number: RequestNo, seconds: u64, now: Instant) {
        if self.requests.get(&number).is_none_or(|r| r.conn.is_none()) {
            return;
        }
        self.fail(number, Failure::StalledBody(seconds), now);
        self.forget(number);
    }

    pub(super) fn time_out(&mut self, number: RequestNo, now: Instant) {
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        let seconds = now.saturating_duration_since(request.since).as_secs();
        let Phase::Running(slot) = request.phase else {
            self.fail(number, Failure::QueueTimeout(seconds), now);
            return self.forget(number);
        };
        let Some(process_no) = self.pool.slots.get(&slot).map(|s| s.process) else {
            return;
        };
        let already = self
            .pool
            .processes
            .get(&process_no)
            .is_some_and(|p| p.ended_for.is_some());
        if request.answer != Answer::Done {
            self.fail(number, Failure::RequestTimeout(seconds), now);
        }
        if already {
            return;
        }
        self.ask_for_stack(slot);
        let others_busy = self.pool.processes.get(&process_no).is_some_and(|p| {
            p.slots.iter().any(|s| {
                *s != slot
                    && matches!(
                        self.pool.slots.get(s).map(|s| s.state),
                        Some(SlotState::Busy(_))
                    )
            })
        });
        self.pool.retire(process_no, now);
        if let Some(process) = self.pool.processes.get_mut(&process_no) {
            process.ended_for = Some("its worker had to be ended for a request that ran too long");
            // Other requests in the same process get a chance to finish.
            let grace = if others_busy {
                Duration::from_secs(5)
            } else {
                LAST_WORDS
            };
            process.cut_at = Some(now + grace);
            self.due(now + grace);
        }
    }

    /// Has the worker write its Python stack to the log, without disturbing it.
    pub(super) fn log_stack(&mut self, number: RequestNo, slot: SlotNo, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.slow_logged = true;
        let seconds = now.saturating_duration_since(request.since).as_secs_f64();
        let text = format!(
            "slow: {} has run for {seconds:.1} s; its stack follows",
            describe(&request.environ)
        );
        self.note(Level::Warning, &text);
        self.ask_for_stack(slot);
    }

    pub(super) fn ask_for_stack(&self, slot: SlotNo) {
        let process = self
            .pool
            .slots
            .get(&slot)
            .and_then(|slot| self.pool.processes.get(&slot.process));
        // The pid is the worker's: its socket is open, so it has not been reaped.
        if let Some(pid) = process.and_then(|p| p.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGUSR2);
        }
    }
}
