//! `Connections`: all open connections, the queue of those to flush, and their deadlines.

use super::connection::{ConnNo, Connection, Interest};
use super::settings::Settings;
use crate::numbered::Numbered;
use crate::outbox::Outbox;
use std::collections::BTreeSet;
use std::time::Instant;

/// So many bytes of free memory are worth giving back.
const WORTH: usize = 4 << 20;

/// The connections by number, their flush queue and their deadlines.
#[derive(Default)]
pub struct Connections {
    entries: Numbered<ConnNo, Box<Entry>>,
    last: u64,
    /// The connections to flush. Skip those that have been flushed or closed since.
    flush_queue: Vec<ConnNo>,
    /// The deadlines of the connections that have one.
    alarms: BTreeSet<(Instant, ConnNo)>,
    /// The memory, in bytes, that incomplete requests take; and with it, what waits to be sent.
    held: usize,
    in_memory: usize,
    /// The most of the latter since `has_released` last said yes.
    peak: usize,
    /// Idle connections are not read, so that the next process image can take them over.
    freezing: bool,
}

struct Entry {
    connection: Connection,
    /// It is queued for flushing.
    needs_flush: bool,
    /// Its entry in `alarms`.
    alarm: Option<Instant>,
    /// What it contributes to `held` and `in_memory`.
    held: usize,
    in_memory: usize,
}

impl Connections {
    /// Takes a connection from the flush queue: it may have bytes to send, or a new interest or deadline.
    pub fn next_to_flush(&mut self) -> Option<ConnNo> {
        while let Some(number) = self.flush_queue.pop() {
            let entry = self.entries.get(number);
            if entry.is_some_and(|entry| entry.needs_flush) {
                return Some(number);
            }
        }
        None
    }

    /// The bytes to send on a connection; `None` if it is closed.
    pub fn outbox(&mut self, number: ConnNo) -> Option<&mut Outbox> {
        self.get_mut(number).map(Connection::outbox)
    }

    /// The events to watch a connection's socket for.
    pub fn interest(&self, number: ConnNo) -> Interest {
        match self.get(number) {
            Some(connection) if !(self.freezing && connection.is_idle()) => connection.interest(),
            _ => Interest::default(),
        }
    }

    /// Whether a connection may be read. We stop reading from a peer that does not drain its responses.
    pub fn takes_input(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(|c| !c.is_full())
    }

    /// Whether the peer has shut down its sending side. A hang-up then means that it is gone.
    pub fn has_eof(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::has_eof)
    }

    /// Whether all requests on this connection are complete and it closes after them. That is usually soon, so it is not
    /// worth registering with epoll yet.
    pub fn only_waits(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::only_waits)
    }

    /// Whether we have shut down our sending side, and discard what the peer still sends.
    pub fn is_draining(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::is_draining)
    }

    /// The number of connections, including those that are draining.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of connections that are not draining.
    pub fn in_use(&self) -> usize {
        self.all().filter(|(_, c)| !c.is_draining()).count()
    }

    /// The idle connections, which the next process image can take over.
    pub fn idle(&self) -> impl Iterator<Item = ConnNo> {
        let idle = self.all().filter(|(_, connection)| connection.is_idle());
        idle.map(|(number, _)| number)
    }

    /// The oldest connection on which no request has begun. A web server connects only to send one at once.
    pub(super) fn oldest_new(&self) -> Option<ConnNo> {
        let found = self.all().find(|(_, connection)| connection.is_new());
        found.map(|(number, _)| number)
    }

    /// Whether no request has begun on this connection.
    pub fn is_new(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::is_new)
    }

    /// The connection is one of the previous process image. `is_new`: that has had no request on it either.
    pub fn inherit(&mut self, number: ConnNo, is_new: bool) {
        if let Some(connection) = self.get_mut(number).filter(|_| !is_new) {
            connection.set_used();
        }
    }

    /// Until when to expect the first request on connections that were accepted a moment ago.
    pub fn expected_until(&self, now: Instant) -> Option<Instant> {
        let until = self.all().filter_map(|(_, c)| c.expected_until());
        until.filter(|until| now < *until).max()
    }

    /// The next deadline of any connection. Call this only when nothing is left to flush.
    pub(super) fn deadline(&self) -> Option<Instant> {
        debug_assert!(!self.entries.values().any(|entry| entry.needs_flush));
        self.alarms.first().map(|(at, _)| *at)
    }

    /// The next connection that has passed its deadline.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<ConnNo> {
        let (at, number) = *self.alarms.first()?;
        if at > now {
            return None;
        }
        self.alarms.pop_first();
        self.entries.get_mut(number)?.alarm = None;
        Some(number)
    }

    pub(super) fn insert(&mut self, connection: Connection) -> ConnNo {
        self.last += 1;
        let number = ConnNo(self.last);
        let entry = Entry {
            connection,
            needs_flush: false,
            alarm: None,
            held: 0,
            in_memory: 0,
        };
        self.entries.insert(number, Box::new(entry));
        self.queue_flush(number);
        number
    }

    pub(super) fn remove(&mut self, number: ConnNo) -> Option<Connection> {
        let entry = self.entries.remove(number)?;
        if let Some(at) = entry.alarm {
            self.alarms.remove(&(at, number));
        }
        self.held -= entry.held;
        self.in_memory -= entry.in_memory;
        Some(entry.connection)
    }

    pub(super) fn get(&self, number: ConnNo) -> Option<&Connection> {
        self.entries.get(number).map(|entry| &entry.connection)
    }

    pub(super) fn get_mut(&mut self, number: ConnNo) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(number)?;
        Some(&mut entry.connection)
    }

    /// Queues a connection for flushing, because its bytes to send, interest or deadline may have changed.
    pub fn queue_flush(&mut self, number: ConnNo) {
        if let Some(entry) = self.entries.get_mut(number)
            && !std::mem::replace(&mut entry.needs_flush, true)
        {
            self.flush_queue.push(number);
        }
    }

    /// A connection was flushed. Updates its deadline and its memory; `begun`: of its requests that have begun.
    pub(super) fn flushed(&mut self, number: ConnNo, begun: usize, settings: &Settings) {
        let Some(entry) = self.entries.get_mut(number) else {
            return;
        };
        entry.needs_flush = false;
        let held = entry.connection.held() + begun;
        let in_memory = held + entry.connection.waiting();
        self.held = self.held - std::mem::replace(&mut entry.held, held) + held;
        let before = std::mem::replace(&mut entry.in_memory, in_memory);
        self.in_memory = self.in_memory - before + in_memory;
        self.peak = self.peak.max(self.in_memory);
        let alarm = entry.connection.deadlines(settings).first();
        let before = std::mem::replace(&mut entry.alarm, alarm);
        if alarm != before {
            before.map(|at| self.alarms.remove(&(at, number)));
            alarm.map(|at| self.alarms.insert((at, number)));
        }
    }

    /// The connection whose incomplete requests take most memory, if all together take more than this.
    pub(super) fn largest_beyond(&self, most: usize) -> Option<ConnNo> {
        let largest = || self.entries.iter().max_by_key(|(_, entry)| entry.held);
        (self.held > most).then(largest)?.map(|(number, _)| number)
    }

    /// Whether memory that was in use is free now, and worth giving back. Says so once.
    pub(super) fn has_released(&mut self) -> bool {
        let released = self.peak - self.in_memory >= WORTH;
        if released {
            self.peak = self.in_memory;
        }
        released
    }

    /// The settings have changed.
    pub(super) fn outdate(&mut self) {
        for entry in self.entries.values_mut() {
            entry.connection.outdate();
        }
        self.queue_flush_all();
    }

    /// Stops reading idle connections, or resumes it.
    pub(super) fn freeze_idle(&mut self, freezing: bool) {
        self.freezing = freezing;
        self.queue_flush_all();
    }

    fn queue_flush_all(&mut self) {
        let numbers: Vec<ConnNo> = self.entries.iter().map(|(number, _)| number).collect();
        for number in numbers {
            self.queue_flush(number);
        }
    }

    fn all(&self) -> impl Iterator<Item = (ConnNo, &Connection)> {
        let entries = self.entries.iter();
        entries.map(|(number, entry)| (number, &entry.connection))
    }
}
