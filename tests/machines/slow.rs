//! Readers that take a response bit by bit: each gets every byte in order, and a worker pauses only when there is no room on
//! disk for what its reader does not take.

use super::peer::{Peer, request, scgi};
use runfcgi::config::{Config, Protocol};
use runfcgi::request::RequestNo;
use runfcgi::traffic::{ConnNo, Interest, Output, Settings, Traffic};
use std::rc::Rc;
use std::time::Instant;

/// A response of sequence numbers on its way to a reader.
struct Download {
    traffic: Traffic,
    peer: Peer,
    conn: ConnNo,
    number: RequestNo,
    now: Instant,
    /// Bytes that the worker has sent.
    made: Vec<u8>,
    held: bool,
    holds: u32,
    most_spooled: u64,
    closed: bool,
}

impl Download {
    fn begin(spool: u64) -> Download {
        let now = Instant::now();
        let mut config = Config::default();
        (config.limits.spool, config.limits.spool_free) = (Some(spool), 0);
        let settings = Settings::new(Rc::new(config), "site.fcgi", true);
        let mut traffic = Traffic::new(settings, 7);
        let conn = traffic.on_connection(Protocol::Scgi, now);
        let (environ, body) = request("GET /a");
        traffic.on_bytes(conn, &scgi(&environ, &body), now);
        let Some(Output::Ready(ready)) = traffic.poll() else {
            panic!("no request")
        };
        let peer = Peer {
            protocol: Some(Protocol::Scgi),
            takes: Some(0),
            taken: Vec::new(),
            interest: Interest::default(),
        };
        traffic
            .responses()
            .head(ready.number, b"200 OK\0A\0b\0", now);
        Download {
            traffic,
            peer,
            conn,
            number: ready.number,
            now,
            made: Vec::new(),
            held: false,
            holds: 0,
            most_spooled: 0,
            closed: false,
        }
    }

    /// The worker sends so many bytes.
    fn make(&mut self, count: usize) {
        let from = self.made.len();
        let numbers = (from / 4..).flat_map(|number| (number as u32).to_be_bytes());
        self.made.extend(numbers.take(count / 4 * 4));
        let piece = &self.made[from..];
        self.traffic.responses().data(self.number, piece, self.now);
        self.settle();
    }

    /// The reader takes so many bytes.
    fn take(&mut self, count: usize) {
        self.peer.takes = Some(count);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.traffic.poll() {
            match output {
                Output::Hold(_, held) => {
                    self.holds += u32::from(held && !self.held);
                    self.held = held;
                }
                Output::Close(..) | Output::ShutDown(_) => self.closed = true,
                _ => (),
            }
        }
        self.most_spooled = self.most_spooled.max(self.traffic.spooled());
        while let Some(outbox) = self.traffic.connections_mut().outbox(self.conn) {
            assert!(outbox.waiting() < 400_000, "in memory");
            let taken = self.peer.take(outbox);
            if !self.traffic.on_sent(self.conn, taken, self.now) {
                break;
            }
        }
        while let Some(output) = self.traffic.poll() {
            match output {
                Output::Hold(_, held) => self.held = held,
                Output::Close(..) | Output::ShutDown(_) => self.closed = true,
                _ => (),
            }
        }
    }

    /// The reader takes the rest. It must have got all that was made.
    fn end(mut self) {
        self.traffic.responses().end(self.number, false, self.now);
        for _ in 0..1000 {
            self.take(1 << 20);
        }
        assert!(self.closed && self.traffic.has_no_requests());
        let head = b"Status: 200 OK\r\nA: b\r\n\r\n";
        assert!(self.peer.taken.starts_with(head));
        assert!(self.peer.taken[head.len()..] == self.made, "torn");
        assert_eq!(self.traffic.spooled(), 0);
    }
}

#[test]
fn each_gets_every_byte_in_order() {
    for seed in 1..=120_u64 {
        let mut random = crate::random(seed);
        let spool = [0, 600_000, 1 << 30][seed as usize % 3];
        let mut download = Download::begin(spool);
        for _ in 0..100 {
            match random(3) {
                0 => download.take(random(100_000)),
                _ if download.held => (),
                _ => download.make(random(128 << 10)),
            }
        }
        match spool {
            0 => assert!(download.most_spooled == 0 && download.holds > 0),
            600_000 => assert!(download.most_spooled <= 300_000 && download.holds > 0),
            _ => assert!(download.most_spooled > 0 && download.holds == 0),
        }
        download.end();
    }
}

#[test]
fn a_fast_reader_costs_no_disk() {
    let mut download = Download::begin(1 << 30);
    download.peer.takes = None;
    for _ in 0..50 {
        download.make(128 << 10);
    }
    assert_eq!((download.most_spooled, download.holds), (0, 0));
    assert_eq!(download.peer.taken.len(), 24 + 50 * (128 << 10));
    download.end();
}
