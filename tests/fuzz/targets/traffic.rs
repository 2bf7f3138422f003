//! Connections of all protocols together, with their limits: whatever a peer sends, requests are within the limits, and
//! nothing stays when it has gone.

use super::cut;
use runfcgi::config::{Config, Protocol};
use runfcgi::traffic::{ConnNo, Output, Settings, Traffic};
use std::rc::Rc;
use std::time::{Duration, Instant};

const MAX_BODY: u64 = 3000;
const SPOOL: u64 = 100_000;

/// The first byte says which protocol the rest is.
pub(super) fn traffic(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let protocols = [Protocol::Fcgi, Protocol::Scgi, Protocol::Ajp];
    let protocol = protocols[usize::from(*which) % 3];
    let now = Instant::now();
    let mut config = Config::default();
    config.limits.max_params = 2000;
    config.limits.max_body = MAX_BODY;
    (config.limits.spool, config.limits.spool_free) = (Some(SPOOL), 0);
    let mut traffic = Traffic::new(Settings::new(Rc::new(config), "mysite.fcgi", true), 1);
    let number = traffic.on_connection(protocol, now);
    // Every other request is never answered.
    let answers = |number: u64| number % 2 == u64::from(*which / 3 % 2);
    for piece in cut(bytes) {
        if traffic.connections().takes_input(number) {
            traffic.on_bytes(number, piece, now);
        }
        serve(&mut traffic, &answers, now);
        assert!(traffic.spooled() <= SPOOL);
    }
    traffic.on_eof(number, now);
    serve(&mut traffic, &answers, now);
    traffic.on_gone(number, now);
    serve(&mut traffic, &|_| true, now);
    traffic.on_time(now + Duration::from_secs(86_400));
    serve(&mut traffic, &|_| true, now);
    assert!(traffic.connections().is_empty());
    assert_eq!(traffic.spooled(), 0);
}

/// Does all that is to be done.
fn serve(traffic: &mut Traffic, answers: &dyn Fn(u64) -> bool, now: Instant) {
    loop {
        while let Some(output) = traffic.poll() {
            match output {
                Output::Ready(request) => {
                    assert!(request.body.length() <= MAX_BODY);
                    assert!(request.environ.as_bytes().len() < 20_000);
                    if answers(request.number.0) {
                        let responses = traffic.responses();
                        responses.head(request.number, b"200 OK\0A\0b\0", now);
                        responses.data(request.number, b"hello", now);
                        responses.end(request.number, false, now);
                    }
                }
                Output::Abandoned(number) => traffic.responses().forget(number, now),
                _ => {}
            }
        }
        let Some(number) = traffic.connections_mut().next_to_flush() else {
            return;
        };
        flush(traffic, number, now);
    }
}

/// The peer takes all.
fn flush(traffic: &mut Traffic, number: ConnNo, now: Instant) {
    while let Some(outbox) = traffic.connections_mut().outbox(number) {
        let taken = outbox.flush_by(|bytes| Ok(bytes.len()));
        if !traffic.on_sent(number, taken.expect("all is taken"), now) {
            return;
        }
    }
}
