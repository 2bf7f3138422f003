//! `Connections`: all open connections; which of them have to be flushed, and which has a deadline next.

use super::connection::{ConnNo, Connection, Interest};
use super::settings::Settings;
use crate::outbox::Outbox;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// See above.
#[derive(Default)]
pub struct Connections {
    entries: BTreeMap<ConnNo, Entry>,
    last: u64,
    /// Those that were touched; some may have been flushed since.
    touched: Vec<ConnNo>,
    /// The deadline of each that has one.
    alarms: BTreeSet<(Instant, ConnNo)>,
    /// Idle ones are not read: the next process image takes them over.
    freezing: bool,
}

struct Entry {
    connection: Connection,
    /// Something has happened to it since it was flushed.
    touched: bool,
    /// Under which time it stands among the alarms.
    alarm: Option<Instant>,
}

impl Connections {
    /// A connection to which something has happened: it may have something to send, or wait for something else than
    /// before.
    pub fn next_to_flush(&mut self) -> Option<ConnNo> {
        while let Some(number) = self.touched.pop() {
            let entry = self.entries.get(&number);
            if entry.is_some_and(|entry| entry.touched) {
                return Some(number);
            }
        }
        None
    }

    /// What is to be sent on a connection; None: it is gone.
    pub fn outbox(&mut self, number: ConnNo) -> Option<&mut Outbox> {
        self.get_mut(number).map(Connection::outbox)
    }

    /// What to watch a connection's socket for.
    pub fn interest(&self, number: ConnNo) -> Interest {
        match self.get(number) {
            Some(connection) if !(self.freezing && connection.is_idle()) => connection.interest(),
            _ => Interest::default(),
        }
    }

    /// Whether a connection may be read: not while too much waits to be sent on it.
    pub fn takes_input(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(|c| !c.is_full())
    }

    /// The peer sends nothing more: should it hang up, it has gone.
    pub fn has_eof(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::has_eof)
    }

    /// All requests of this connection are complete and it closes after them, which is mostly soon: not worth a
    /// registration with epoll yet.
    pub fn only_waits(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::only_waits)
    }

    /// Our side is shut, and what the peer still sends is dropped.
    pub fn is_draining(&self, number: ConnNo) -> bool {
        self.get(number).is_some_and(Connection::is_draining)
    }

    /// How many, those included that drain.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many, beside those that drain.
    pub fn in_use(&self) -> usize {
        self.all().filter(|(_, c)| !c.is_draining()).count()
    }

    /// Those on which nothing is going on: the next process image can take them over.
    pub fn idle(&self) -> impl Iterator<Item = ConnNo> {
        let idle = self.all().filter(|(_, connection)| connection.is_idle());
        idle.map(|(number, _)| number)
    }

    /// A connection came a moment ago and has not sent anything yet: until when its request can be expected.
    pub fn expected_until(&self, now: Instant) -> Option<Instant> {
        let until = self.all().filter_map(|(_, c)| c.expected_until());
        until.filter(|until| now < *until).max()
    }

    /// When one of them has taken too long. To be asked when nothing is left to flush.
    pub(super) fn deadline(&self) -> Option<Instant> {
        debug_assert!(!self.entries.values().any(|entry| entry.touched));
        self.alarms.first().map(|(at, _)| *at)
    }

    /// The next one that has taken too long.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<ConnNo> {
        let (at, number) = *self.alarms.first()?;
        if at > now {
            return None;
        }
        self.alarms.pop_first();
        self.entries.get_mut(&number)?.alarm = None;
        Some(number)
    }

    pub(super) fn insert(&mut self, connection: Connection) -> ConnNo {
        self.last += 1;
        let number = ConnNo(self.last);
        let entry = Entry {
            connection,
            touched: false,
            alarm: None,
        };
        self.entries.insert(number, entry);
        self.touch(number);
        number
    }

    pub(super) fn remove(&mut self, number: ConnNo) -> Option<Connection> {
        let entry = self.entries.remove(&number)?;
        if let Some(at) = entry.alarm {
            self.alarms.remove(&(at, number));
        }
        Some(entry.connection)
    }

    pub(super) fn get(&self, number: ConnNo) -> Option<&Connection> {
        self.entries.get(&number).map(|entry| &entry.connection)
    }

    pub(super) fn get_mut(&mut self, number: ConnNo) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(&number)?;
        Some(&mut entry.connection)
    }

    /// Something has happened to a connection.
    pub fn touch(&mut self, number: ConnNo) {
        if let Some(entry) = self.entries.get_mut(&number)
            && !std::mem::replace(&mut entry.touched, true)
        {
            self.touched.push(number);
        }
    }

    /// A connection was flushed: when it has taken too long is worked out anew.
    pub(super) fn flushed(&mut self, number: ConnNo, settings: &Settings) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        entry.touched = false;
        let alarm = entry.connection.deadlines(settings).first();
        let before = std::mem::replace(&mut entry.alarm, alarm);
        if alarm != before {
            before.map(|at| self.alarms.remove(&(at, number)));
            alarm.map(|at| self.alarms.insert((at, number)));
        }
    }

    /// The settings have changed.
    pub(super) fn outdate(&mut self) {
        for entry in self.entries.values_mut() {
            entry.connection.outdate();
        }
        self.touch_all();
    }

    /// Idle ones are read no more; or they are again.
    pub(super) fn freeze_idle(&mut self, freezing: bool) {
        self.freezing = freezing;
        self.touch_all();
    }

    fn touch_all(&mut self) {
        let numbers: Vec<ConnNo> = self.entries.keys().copied().collect();
        for number in numbers {
            self.touch(number);
        }
    }

    fn all(&self) -> impl Iterator<Item = (ConnNo, &Connection)> {
        let entries = self.entries.iter();
        entries.map(|(number, entry)| (*number, &entry.connection))
    }
}
