//! How often a request takes memory in steady state, on the side of the web servers. A program of its own, whose allocator
//! counts.

#![allow(unsafe_code)] // an allocator is unsafe

use runfcgi::config::{Config, Protocol};
use runfcgi::traffic::{ConnNo, Output, Settings, Traffic};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    [&[1, kind, 0, 1, length[0], length[1], 0, 0], content].concat()
}

/// A GET as Apache and nginx send it.
fn get(keep: bool) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", "/mysite.fcgi"),
        ("PATH_INFO", "/a/page"),
        ("REQUEST_URI", "/a/page?b=c"),
        ("QUERY_STRING", "b=c"),
        ("SERVER_NAME", "example.org"),
        ("SERVER_PORT", "80"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("HTTP_HOST", "example.org"),
        ("HTTP_COOKIE", "sessionid=0123456789"),
        ("REMOTE_ADDR", "127.0.0.1"),
    ] {
        params.extend([name.len() as u8, value.len() as u8]);
        params.extend([name.as_bytes(), value.as_bytes()].concat());
    }
    let begin = record(1, &[0, 1, keep.into(), 0, 0, 0, 0, 0]);
    [begin, record(4, &params), record(4, b""), record(5, b"")].concat()
}

fn serve(traffic: &mut Traffic, conn: ConnNo, bytes: &[u8], now: Instant) {
    traffic.on_bytes(conn, bytes, now);
    loop {
        while let Some(output) = traffic.poll() {
            if let Output::Ready(request) = output {
                let responses = traffic.responses();
                responses.head(
                    request.number,
                    b"200 OK\0Content-Type\0text/plain\0Content-Length\x005\0",
                    now,
                );
                responses.data(request.number, b"hello", now);
                responses.end(request.number, false, now);
            }
        }
        let Some(number) = traffic.connections_mut().next_to_flush() else {
            return;
        };
        while let Some(outbox) = traffic.connections_mut().outbox(number) {
            let taken = outbox
                .flush_by(|bytes| Ok(bytes.len()))
                .expect("all is taken");
            if !traffic.on_sent(number, taken, now) {
                break;
            }
        }
    }
}

fn traffic() -> Traffic {
    Traffic::new(Settings::new(Rc::new(Config::default()), "", false), 1)
}

/// Allocations of a request in steady state.
fn each(mut serve: impl FnMut()) -> f64 {
    (0..100).for_each(|_| serve());
    let before = COUNT.get();
    (0..1000).for_each(|_| serve());
    (COUNT.get() - before) as f64 / 1000.0
}

/// A lower number is welcome here; a higher one needs a reason.
#[test]
fn a_request_takes_memory_so_many_times() {
    let now = Instant::now();
    let (mut traffic, bytes) = (traffic(), get(true));
    let conn = traffic.on_connection(Protocol::Fcgi, now);
    let on_one_connection = each(|| serve(&mut traffic, conn, &bytes, now));
    let bytes = get(false);
    let on_its_own = each(|| {
        let conn = traffic.on_connection(Protocol::Fcgi, now);
        serve(&mut traffic, conn, &bytes, now);
        traffic.on_eof(conn, now);
        while traffic.poll().is_some() {}
    });
    assert_eq!((on_one_connection, on_its_own), (12.0, 18.0));
}
