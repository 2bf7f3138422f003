//! Leaving: finishing what is in hand, then ending this process or executing a new image in it.

use super::connection::Stage;
use super::listener::Accepted;
use super::{Role, Server};
use crate::image::{self, Image};
use crate::log::Level;
use crate::reload::Stamp;
use crate::worker::pool::SlotState;
use crate::worker::preloader::{Link, State};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A process of an old inode ends its worker after this time without a connection.
const UNUSED: Duration = Duration::from_secs(3);
/// A process of an old inode leaves after this time without a connection.
const STRAGGLERS: Duration = Duration::from_secs(60);

/// How `run` ends.
#[derive(Debug)]
pub enum Outcome {
    /// Leave with status 0.
    Exit,
    /// Execute the new image and hand all this over to it.
    Exec(Box<HandOver>, Image),
}

/// What one image leaves to the next.
#[derive(Debug, Default)]
pub struct HandOver {
    /// The control socket of the preloader that has the new code.
    pub control: Option<OwnedFd>,
    /// The version of that code.
    pub version: String,
    /// Idle connections, each with the number of its listener.
    pub connections: Vec<(OwnedFd, usize)>,
    /// The listening sockets, in order.
    pub listeners: Vec<OwnedFd>,
    /// The file in which this process tells of itself, locked.
    pub report: Option<OwnedFd>,
    /// The file whose lock is this front's turn to change over.
    pub turn: Option<OwnedFd>,
}

/// What this process does now that all is finished.
#[derive(Debug)]
pub(super) enum Ending {
    Exit,
    Exec(Option<Image>),
}

impl Server {
    /// Begins to finish what is in hand.
    pub(super) fn drain(&mut self, now: Instant) {
        if self.reload.leaves_for_exec() {
            let _ = self.listen();
            self.touched.extend(self.conns.keys());
            return;
        }
        self.turns.take();
        crate::systemd::notify("STOPPING=1");
        // Of a TCP socket that is shut, nothing can be accepted any more; of a unix socket, what waits.
        self.accept_rest(now);
        for listener in &mut self.listeners {
            if listener.ours {
                listener.withdraw();
            } else if self.place.role == (Role::Spawned { mod_fcgid: true }) {
                listener.shut();
            }
        }
        let _ = self.listen();
        self.accept_rest(now);
    }

    /// Takes what waits in the backlog: whoever has connected gets an answer.
    pub(super) fn accept_rest(&mut self, now: Instant) -> bool {
        let mut any = false;
        for number in 0..self.listeners.len() {
            while let Some(Accepted::Connection(socket)) =
                self.listeners.get(number).map(|l| l.accept())
            {
                let Some(codec) = self.codec(number) else {
                    break;
                };
                let conn = self.admit(socket, None, codec, number, now);
                self.read(conn, now);
                any = true;
            }
        }
        any
    }

    /// mod_fcgid tells programs apart by inode: a process of an old one gets no more requests and is never ended.
    /// Until it leaves it keeps no worker that has nothing to do.
    pub(super) fn look_for_old_class(&mut self, now: Instant) {
        if !self.is_of_old_class() || !self.requests.is_empty() {
            return;
        }
        let unused = now.saturating_duration_since(self.last_accept);
        if unused >= STRAGGLERS {
            self.note(Level::Info, "leaving: the web server has newer processes");
            self.reload.stop(now);
            self.run_reload(now);
        } else if unused >= UNUSED && !self.reload.is_importing() {
            for process in self.pool.idle_since(now) {
                self.pool.retire(process, now);
            }
            self.given_back = true;
        }
    }

    pub(super) fn is_of_old_class(&self) -> bool {
        self.place.role == (Role::Spawned { mod_fcgid: true })
            && self.watch.executable() != Stamp::default()
            && self.watch.executable().inode() != self.place.spawned_as
    }

    /// Whether, and how, it is time to return from `run`.
    pub(super) fn outcome(&mut self, now: Instant) -> Option<Outcome> {
        if self.place.role == Role::Cgi && self.conns.is_empty() {
            return Some(Outcome::Exit);
        }
        let until = self.reload.drains_until()?;
        let exits = !self.reload.leaves_for_exec();
        self.look_at_answered(now);
        let late = until <= now;
        if !late {
            // Said again in each turn: what is due is forgotten once a second.
            self.due(until);
        }
        if !late && exits {
            let conns = self.conns.values();
            if let Some(at) = conns.filter_map(|conn| conn.expected(now)).max() {
                self.due(at);
                return None;
            }
        }
        let busy = |conn: &super::Connection| {
            !conn.requests.is_empty()
                || conn.waiting() > 0
                || conn.stage != Stage::Open
                || !conn.codec.is_idle()
        };
        if !late
            && (self.conns.values().any(busy) || !self.requests.is_empty() || self.has_busy_slots())
        {
            return None;
        }
        if exits && !late && self.accept_rest(now) {
            return None;
        }
        self.reload.on_drained();
        self.run_reload(now);
        match self.ends.take()? {
            Ending::Exit => {
                self.leave();
                Some(Outcome::Exit)
            }
            Ending::Exec(image) => {
                let staged = || image::stage(&self.origin.executable, self.place.dir.as_ref()).ok();
                let image = image.or_else(staged).unwrap_or_default();
                self.write_report(now, true);
                Some(Outcome::Exec(Box::new(self.hand_over_all()), image))
            }
        }
    }

    pub(super) fn has_busy_slots(&self) -> bool {
        self.pool
            .slots
            .values()
            .any(|slot| matches!(slot.state, SlotState::Busy(_)))
    }

    pub(super) fn leave(&mut self) {
        self.pool = crate::worker::pool::Pool::default();
        self.current.link = Link::idle();
        self.next = None;
        self.place.image_lock = None;
        self.report.close();
        if let Some(dir) = &self.place.dir {
            dir.leave();
        }
    }

    pub(super) fn hand_over_all(&mut self) -> HandOver {
        let next = self.next.take();
        if let (Some(dir), Some(next)) = (&self.place.dir, &next) {
            // The next image takes it from there: the disk may hold another one by then.
            next.release.keep(dir);
        }
        let (control, version) = match next {
            Some(next) if next.link.state == State::Ready => {
                (next.link.channel.map(OwnedFd::from), next.link.version)
            }
            _ => (None, String::new()),
        };
        if control.is_some() {
            let old = std::mem::replace(
                &mut self.current.link,
                Link::new(String::new(), self.started),
            );
            self.dismiss(old);
        }
        let idle = |conn: &super::Connection| {
            conn.requests.is_empty() && conn.waiting() == 0 && conn.codec.is_idle()
        };
        let connections = self
            .conns
            .drain()
            .filter(|(_, conn)| idle(conn))
            .map(|(_, conn)| (conn.endpoint, conn.into_socket()))
            .map(|(endpoint, socket)| (socket, endpoint))
            .collect();
        let listeners = self
            .listeners
            .drain(..)
            .map(|listener| listener.into_socket())
            .collect();
        self.pool = crate::worker::pool::Pool::default();
        HandOver {
            control,
            version,
            connections,
            listeners,
            report: self.report.hand_over(),
            turn: self.turns.take(),
        }
    }
}
