//! The private wire between front, preloader and workers: frames, as pure functions of bytes.
//!
//! Designed for Python to decode at C speed: fixed headers, NUL-separated pairs. `bridge/` is the other side. All integers
//! are big-endian. Descriptors are attached to the first byte of a frame (SCM_RIGHTS); this module only documents them.
//!
//! Three channels use it:
//! - *slot* (front <-> worker): one request at a time. Down: `REQUEST`, `ABORT`. Up: `STARTED` or `BOOT_FAILED` once,
//!   then for each request `HEAD (DATA | FILE)* END`, broken off anywhere by `EXCEPTION END`; `CAUGHT` may come before
//!   `HEAD`, and `LOG` and `OUTPUT` anywhere before `END`.
//! - *control* (front <-> preloader): down `HELLO`, and up `READY` or `FAILED` for each; down `FORK`, and up `FORKED`, `GIVEN`
//!   or `REFUSED` for each, in order; up `WAITING`, `RELEASE` and `EXITED` at any time; down `KEEP` at any time, and it or
//!   `BUSY` for `RELEASE`; down `GONE` and `MAKE_ROOM`.
//! - *setup* (front -> a new Python process, once): `SETUP`.

use crate::pairs::Pairs;
use std::borrow::Cow;

/// Front to worker: 16 bytes: type, flags, serial number (u16), length of the environment (u32), length of the body (u64);
/// then the environment as pairs, then the body unless `BODY_FD`.
pub const REQUEST: u8 = b'R';
/// Front to worker: the visitor has gone; 16 bytes, all but the type zero. A worker between requests ignores it.
pub const ABORT: u8 = b'A';
/// Flag of `REQUEST`: the body is a file; its descriptor is attached, at offset 0.
pub const BODY_FD: u8 = 1;

/// Length of the header of `REQUEST` and `ABORT`.
pub const REQUEST_HEADER: usize = 16;
/// Length of the header of all other frames: type, flags, two zero bytes, length of the payload (u32).
pub const FRAME_HEADER: usize = 8;

/// Worker to front, first: payload pid (u32). From here on, a request that was sent cannot be taken back.
pub const STARTED: u8 = b'W';
/// Worker to front, first: it could not import the app (only in the plain form); payload text.
pub const BOOT_FAILED: u8 = b'B';
/// Worker to front: payload `status line NUL (name NUL value NUL)*`. The third and fourth byte of its header, and of that of
/// `END`, are the serial number of the request.
pub const HEAD: u8 = b'H';
/// Worker to front: a piece of the body.
pub const DATA: u8 = b'D';
/// Worker to front: a piece of a file as body: payload offset (u64), length (u64); its descriptor is attached.
pub const FILE: u8 = b'F';
/// Worker to front: text of the app for its log (wsgi.errors, sys.stderr during a request; sys.stdout unless `outlog`).
pub const LOG: u8 = b'L';
/// Worker to front: what the app wrote to sys.stdout during a request, when `SETUP` said `outlog`.
pub const OUTPUT: u8 = b'O';
/// Worker to front: the app raised; payload pairs: `kind`, `summary`, `place`, `hint`, `traceback`. `END` follows.
pub const EXCEPTION: u8 = b'X';
/// Worker to front: the app caught an exception, and answers for it itself; payload as of `EXCEPTION`.
pub const CAUGHT: u8 = b'C';
/// Worker to front: the request is over, also when it failed; the worker waits for the next one.
pub const END: u8 = b'E';
/// Flag of `END`: the body is not complete (the app raised after the head, or was cut short).
pub const TRUNCATED: u8 = 1;

/// Front to Python, once: payload pairs, see `bridge/start.py`; descriptors as the mode requires.
pub const SETUP: u8 = b'S';
/// Front to preloader: payload pairs `pid`, `spawner` (pid), `spawner_start` (clock ticks since boot, as in
/// /proc/PID/stat), `linger` (seconds).
pub const HELLO: u8 = b'h';
/// Front to preloader: a worker is needed. Payload: its shape, see `kept`, NUL, how many others of this front serve or are
/// to. Descriptors for a new one: lifeline (read end), stdout and stderr (write ends, or the same one twice), then a slot
/// socket for each thread of the worker.
pub const FORK: u8 = b'f';
/// Front to preloader: keep this idle worker for the next front that needs one. Payload pairs: see `kept`. Descriptors:
/// lifeline (write end), stdout if that is kept apart, stderr (read ends), then the slots.
pub const KEEP: u8 = b'p';
/// Front to preloader: answer to `RELEASE`: no worker of this front is idle.
pub const BUSY: u8 = b'y';
/// Front to preloader: the system has refused a process for newer code: end a kept worker, or ask other fronts for one.
pub const MAKE_ROOM: u8 = b'm';
/// Front to preloader: this worker is to be gone, since its lifeline is cut; payload pid (u32).
pub const GONE: u8 = b'x';
/// Preloader to front: the app is imported; payload pairs (`python`, `threads`, `seconds`, `pid`; `open`: what the import
/// left open; `plain`: the app is not imported here, since workers must not share it or `preload` is off; `errors`, `output`:
/// what the import wrote to standard error, and to standard output if that is kept apart).
pub const READY: u8 = b'r';
/// Preloader to front: the app could not be imported; payload text, the last lines of the log.
pub const FAILED: u8 = b'b';
/// Preloader to front: answer to `FORK`; payload pid (u32).
pub const FORKED: u8 = b'k';
/// Preloader to front: answer to `FORK` when the system refused; payload text.
pub const REFUSED: u8 = b'n';
/// Preloader to front: there is no room for a further worker now; whoever has sent `FORK` waits in line for the answer.
/// Payload text: why.
pub const WAITING: u8 = b'w';
/// Preloader to front: answer to `FORK`: a kept worker; payload and descriptors as of `KEEP`.
pub const GIVEN: u8 = b'g';
/// Preloader to front: another front needs a worker: `KEEP` an idle one, or say `BUSY`.
pub const RELEASE: u8 = b'l';
/// Flag of `RELEASE`: there is no room for a new one, so give the next one that becomes idle, too.
pub const URGENT: u8 = 1;
/// Preloader to front: a worker of this front has ended: in an unusual way, or it had to import the app; payload pid and
/// exit status as of waitpid (u32 each), then a description of an unusual end.
pub const EXITED: u8 = b'q';
/// Flag of `EXITED`: no front had this worker; only one is told.
pub const KEPT: u8 = 1;

/// Limit for the payload of all frames but `DATA`, `LOG` and `OUTPUT`, which come in pieces; in bytes.
pub const MAX_WHOLE: usize = 1 << 20;

/// A frame from Python.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The worker runs.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// The worker could not import the app.
    BootFailed(Cow<'a, [u8]>),
    /// Status and fields, for `ResponseHead::from_wire`.
    Head(Cow<'a, [u8]>),
    /// A piece of the body.
    Data(&'a [u8]),
    /// A piece of a file; its descriptor is the next one received.
    File {
        /// Where it starts.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// A piece of text for the log.
    Log(&'a [u8]),
    /// A piece of text that was written to standard output.
    Output(&'a [u8]),
    /// The app raised; pairs of what is known of the exception.
    Exception(Pairs),
    /// The app caught an exception; pairs of what is known of it.
    Caught(Pairs),
    /// The request is over.
    End {
        /// The body is incomplete.
        truncated: bool,
    },
    /// The preloader has the app; pairs of facts.
    Ready(Pairs),
    /// The preloader could not import the app; the reason.
    Failed(Cow<'a, [u8]>),
    /// A worker was forked.
    Forked {
        /// Its process id.
        pid: i32,
    },
    /// The system refused a fork; its reason.
    Refused(Cow<'a, [u8]>),
    /// There is no room for the worker yet; why.
    Waiting(Cow<'a, [u8]>),
    /// A worker that was kept, in place of a new one; pairs of facts about it. Its descriptors are the next ones received.
    Given(Pairs),
    /// Give an idle worker back.
    Release {
        /// Or the next one that becomes idle.
        urgent: bool,
    },
    /// A worker has ended.
    Exited(Exited),
}

/// The end of a worker: `EXITED`.
#[derive(Debug, PartialEq, Eq)]
pub struct Exited {
    /// Its process id.
    pub pid: i32,
    /// As of waitpid.
    pub status: i32,
    /// How, in words; empty: in a usual way.
    pub how: String,
    /// No front had it.
    pub kept: bool,
}

/// Bytes that are not of this wire; closes the connection to the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError(pub String);

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WireError {}

/// Splits a stream of bytes into frames. Buffers at most one frame. A response to another request than the last one that was
/// sent is an error.
#[derive(Default, Debug)]
pub struct FrameDecoder {
    serial: u16,
    kept: Vec<u8>,
    streaming: Option<(u8, usize)>,
}

impl FrameDecoder {
    /// The request with this serial number is sent.
    pub fn expect(&mut self, serial: u16) {
        self.serial = serial;
    }

    /// Consumes `input` up to the end of the next frame, or of the next piece of a `DATA`, `LOG` or `OUTPUT` frame.
    /// `Ok(None)`: all is consumed.
    pub fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, WireError> {
        loop {
            if let Some((kind, left)) = self.streaming {
                if left == 0 {
                    self.streaming = None;
                    continue;
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let (piece, rest) = input.split_at(left.min(input.len()));
                *input = rest;
                self.streaming = (left > piece.len()).then(|| (kind, left - piece.len()));
                return Ok(Some(match kind {
                    DATA => Frame::Data(piece),
                    LOG => Frame::Log(piece),
                    _ => Frame::Output(piece),
                }));
            }
            let Some(header) = self.header(input)? else {
                return Ok(None);
            };
            let (kind, flags, length) = header;
            if comes_in_pieces(kind) {
                self.skip_header(input);
                self.streaming = Some((kind, length));
                continue;
            }
            let total = FRAME_HEADER + length;
            let payload = if self.kept.is_empty() {
                if input.len() < total {
                    self.kept.extend_from_slice(input);
                    *input = &[];
                    return Ok(None);
                }
                let (frame, rest) = input.split_at(total);
                *input = rest;
                Cow::Borrowed(&frame[FRAME_HEADER..])
            } else {
                let take = (total - self.kept.len()).min(input.len());
                self.kept.extend_from_slice(&input[..take]);
                *input = &input[take..];
                if self.kept.len() < total {
                    return Ok(None);
                }
                let frame = std::mem::take(&mut self.kept);
                Cow::Owned(frame[FRAME_HEADER..].to_vec())
            };
            return whole(kind, flags, payload).map(Some);
        }
    }

    /// Whether no frame is incomplete.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.streaming.is_none()
    }

    /// Type, flags and length of the next frame. An incomplete header is buffered.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<(u8, u8, usize)>, WireError> {
        if !self.kept.is_empty() && self.kept.len() < FRAME_HEADER {
            let take = (FRAME_HEADER - self.kept.len()).min(input.len());
            self.kept.extend_from_slice(&input[..take]);
            *input = &input[take..];
        }
        let bytes: &[u8] = if self.kept.is_empty() {
            input
        } else {
            &self.kept
        };
        if bytes.len() < FRAME_HEADER {
            if self.kept.is_empty() {
                self.kept.extend_from_slice(input);
                *input = &[];
            }
            return Ok(None);
        }
        let length = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        if !comes_in_pieces(bytes[0]) && length > MAX_WHOLE {
            return Err(WireError(format!(
                "a frame of type {:?} with {length} bytes",
                bytes[0] as char
            )));
        }
        let serial = u16::from_be_bytes([bytes[2], bytes[3]]);
        if matches!(bytes[0], HEAD | END) && serial != self.serial {
            return Err(WireError("a response to another request".into()));
        }
        Ok(Some((bytes[0], bytes[1], length)))
    }

    fn skip_header(&mut self, input: &mut &[u8]) {
        if self.kept.is_empty() {
            *input = &input[FRAME_HEADER..];
        } else {
            self.kept.clear();
        }
    }
}

fn comes_in_pieces(kind: u8) -> bool {
    matches!(kind, DATA | LOG | OUTPUT)
}

fn whole(kind: u8, flags: u8, payload: Cow<'_, [u8]>) -> Result<Frame<'_>, WireError> {
    let bad = || WireError(format!("a malformed frame of type {:?}", kind as char));
    Ok(match kind {
        STARTED => Frame::Started {
            pid: pid(&payload).ok_or_else(bad)?,
        },
        BOOT_FAILED => Frame::BootFailed(payload),
        HEAD => Frame::Head(payload),
        FILE => {
            let bytes: &[u8; 16] = payload[..].try_into().map_err(|_| bad())?;
            let (offset, length) = bytes.split_at(8);
            Frame::File {
                offset: u64::from_be_bytes(offset.try_into().map_err(|_| bad())?),
                length: u64::from_be_bytes(length.try_into().map_err(|_| bad())?),
            }
        }
        EXCEPTION => Frame::Exception(Pairs::from_bytes(payload.into_owned()).ok_or_else(bad)?),
        CAUGHT => Frame::Caught(Pairs::from_bytes(payload.into_owned()).ok_or_else(bad)?),
        END => Frame::End {
            truncated: flags & TRUNCATED != 0,
        },
        READY => Frame::Ready(Pairs::from_bytes(payload.into_owned()).ok_or_else(bad)?),
        FAILED => Frame::Failed(payload),
        FORKED => Frame::Forked {
            pid: pid(&payload).ok_or_else(bad)?,
        },
        REFUSED => Frame::Refused(payload),
        WAITING => Frame::Waiting(payload),
        GIVEN => Frame::Given(Pairs::from_bytes(payload.into_owned()).ok_or_else(bad)?),
        RELEASE => Frame::Release {
            urgent: flags & URGENT != 0,
        },
        EXITED => {
            let (number, rest) = payload.split_at_checked(4).ok_or_else(bad)?;
            let (status, how) = rest.split_first_chunk().ok_or_else(bad)?;
            Frame::Exited(Exited {
                pid: pid(number).ok_or_else(bad)?,
                status: i32::from_be_bytes(*status),
                how: String::from_utf8_lossy(how).into_owned(),
                kept: flags & KEPT != 0,
            })
        }
        _ => {
            return Err(WireError(format!(
                "a frame of unknown type {:?}",
                kind as char
            )));
        }
    })
}

fn pid(payload: &[u8]) -> Option<i32> {
    i32::try_from(u32::from_be_bytes(payload.try_into().ok()?))
        .ok()
        .filter(|pid| *pid > 0)
}

/// Appends the header of a `REQUEST` and its environment. A body of `body` bytes must follow, unless it is sent
/// `as_descriptor`.
pub fn put_request(
    out: &mut Vec<u8>,
    serial: u16,
    environ: &Pairs,
    body: u64,
    as_descriptor: bool,
) {
    let environ = environ.as_bytes();
    out.reserve(REQUEST_HEADER + environ.len());
    out.extend_from_slice(&[REQUEST, if as_descriptor { BODY_FD } else { 0 }]);
    out.extend_from_slice(&serial.to_be_bytes());
    out.extend_from_slice(&(environ.len() as u32).to_be_bytes());
    out.extend_from_slice(&body.to_be_bytes());
    out.extend_from_slice(environ);
}

/// Appends an `ABORT`.
pub fn put_abort(out: &mut Vec<u8>) {
    out.push(ABORT);
    out.resize(out.len() + REQUEST_HEADER - 1, 0);
}

/// Appends a frame with `payload`.
pub fn put_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, STARTED, &7u32.to_be_bytes());
        put_frame(&mut bytes, LOG, b"note\n");
        put_frame(&mut bytes, HEAD, b"200 OK\0A\0b\0");
        put_frame(&mut bytes, OUTPUT, b"printed\n");
        put_frame(&mut bytes, DATA, b"body");
        put_frame(&mut bytes, DATA, b"");
        put_frame(
            &mut bytes,
            FILE,
            &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2],
        );
        put_frame(&mut bytes, RELEASE, b"");
        put_frame(&mut bytes, END, b"");
        bytes
    }

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let mut decoder = FrameDecoder::default();
        let mut seen: Vec<String> = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(frame) = decoder.decode(&mut input).unwrap() {
                let word = match frame {
                    Frame::Data(b) => format!("data {}", String::from_utf8_lossy(b)),
                    Frame::Log(b) => format!("log {}", String::from_utf8_lossy(b)),
                    Frame::Output(b) => format!("output {}", String::from_utf8_lossy(b)),
                    Frame::Head(b) => format!("head {}", String::from_utf8_lossy(&b)),
                    other => format!("{other:?}"),
                };
                match (seen.last_mut(), word.split_once(' ')) {
                    (Some(last), Some((kind @ ("data" | "log" | "output"), more)))
                        if last.starts_with(kind) =>
                    {
                        last.push_str(more)
                    }
                    _ => seen.push(word),
                }
            }
            assert!(input.is_empty());
        }
        seen
    }

    #[test]
    fn a_response_to_another_request_is_an_error() {
        for kind in [HEAD, END] {
            let mut bytes = Vec::new();
            put_frame(&mut bytes, kind, b"");
            bytes[3] = 7;
            let decode = |serial| {
                let mut decoder = FrameDecoder::default();
                decoder.expect(serial);
                decoder.decode(&mut &bytes[..]).map(|frame| frame.is_some())
            };
            assert_eq!(decode(7), Ok(true));
            assert_eq!(decode(8).unwrap_err().0, "a response to another request");
        }
    }

    #[test]
    fn frames_come_out_whatever_the_split() {
        let bytes = stream();
        let expected = [
            "Started { pid: 7 }",
            "log note\n",
            "head 200 OK\0A\0b\0",
            "output printed\n",
            "data body",
            "File { offset: 1, length: 2 }",
            "Release { urgent: false }",
            "End { truncated: false }",
        ];
        assert_eq!(read(&[&bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single), expected);
        for at in 0..bytes.len() {
            assert_eq!(
                read(&[&bytes[..at], &bytes[at..]]),
                expected,
                "split at {at}"
            );
        }
    }

    #[test]
    fn invalid_frames_are_refused() {
        let refused = |bytes: &[u8]| {
            FrameDecoder::default()
                .decode(&mut &bytes[..])
                .unwrap_err()
                .0
        };
        assert!(refused(b"?\0\0\0\0\0\0\0").contains("unknown type"));
        assert!(refused(b"W\0\0\0\0\0\0\x01x").contains("malformed"));
        assert!(refused(b"H\0\0\0\xff\0\0\0").contains("bytes"));
    }
}
