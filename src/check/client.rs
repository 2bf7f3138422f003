//! A FastCGI client that behaves like mod_fcgid: one connection per request, without FCGI_KEEP_CONN (FastCGI 1.0
//! section 3). And the response, of CGI too (RFC 3875 section 6).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const BEGIN_REQUEST: u8 = 1;
const ABORT_REQUEST: u8 = 2;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
/// Bytes of content in a STDIN record, as mod_fcgid sends it.
const STDIN_CHUNK: usize = 8000;
/// Stop keeping a response or its errors after this many bytes.
const MAX_OUTPUT: usize = 64 << 10;

/// A request like a visitor's.
#[derive(Default)]
pub(super) struct TestRequest {
    pub(super) method: &'static str,
    pub(super) path: String,
    /// The beginning of `path` that is the site's directory.
    pub(super) prefix: String,
    pub(super) host: String,
    /// Further variables.
    pub(super) extra: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// The response to a `TestRequest`.
#[derive(Debug, Default)]
pub(super) struct TestResponse {
    output: Vec<u8>,
    errors: Vec<u8>,
    /// END_REQUEST was received, or the CGI program has ended.
    ended: bool,
    pub(super) took: Duration,
}

impl TestRequest {
    /// The CGI variables that a web server would send.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("REQUEST_METHOD", self.method.to_owned()),
            ("REQUEST_URI", self.path.clone()),
            ("SCRIPT_NAME", format!("{}/mysite.fcgi", self.prefix)),
            ("PATH_INFO", self.path[self.prefix.len()..].to_owned()),
            ("QUERY_STRING", String::new()),
            ("SERVER_NAME", self.host.clone()),
            ("SERVER_PORT", String::from("443")),
            ("SERVER_PROTOCOL", String::from("HTTP/1.1")),
            ("SERVER_SOFTWARE", String::from("runfcgi-check")),
            ("REMOTE_ADDR", String::from("127.0.0.1")),
            ("HTTP_HOST", self.host.clone()),
            ("HTTPS", String::from("on")),
        ];
        if !self.body.is_empty() {
            variables.push(("CONTENT_LENGTH", self.body.len().to_string()));
            variables.push(("CONTENT_TYPE", String::from("application/octet-stream")));
        }
        variables.extend(self.extra.iter().cloned());
        variables
    }

    fn records(&self) -> Vec<u8> {
        let mut pairs = Vec::new();
        for (name, value) in self.variables() {
            for part in [name, &value] {
                pairs.extend((part.len() as u32 | 1 << 31).to_be_bytes());
            }
            pairs.extend(name.as_bytes());
            pairs.extend(value.as_bytes());
        }
        let mut out = Vec::new();
        record(&mut out, BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
        record(&mut out, PARAMS, &pairs);
        record(&mut out, PARAMS, &[]);
        out
    }

    /// Sends the request and reads the whole response. Fails with `TimedOut` after `timeout`.
    pub(super) fn send(&self, socket: &Path, timeout: Duration) -> io::Result<TestResponse> {
        let began = Instant::now();
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(timeout))?;
        let mut records = self.records();
        for chunk in self.body.chunks(STDIN_CHUNK) {
            record(&mut records, STDIN, chunk);
        }
        record(&mut records, STDIN, &[]);
        stream.write_all(&records)?;
        let mut response = TestResponse::default();
        while !response.ended {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            response.read_record(&mut stream)?;
        }
        response.took = began.elapsed();
        Ok(response)
    }

    /// Sends a part of the request and aborts it, like a visitor who closes the window.
    pub(super) fn abort(&self, socket: &Path) -> io::Result<()> {
        let mut stream = UnixStream::connect(socket)?;
        let mut records = self.records();
        record(&mut records, STDIN, b"the beginning");
        record(&mut records, ABORT_REQUEST, &[]);
        stream.write_all(&records)
    }
}

impl TestResponse {
    /// The response of a CGI program.
    pub(super) fn of_cgi(output: Vec<u8>, took: Duration) -> TestResponse {
        TestResponse {
            output,
            ended: true,
            took,
            ..TestResponse::default()
        }
    }

    fn read_record(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        let mut header = [0; 8];
        stream.read_exact(&mut header)?;
        let [_, kind, _, _, high, low, padding, _] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let mut content = vec![0; length + usize::from(padding)];
        stream.read_exact(&mut content)?;
        content.truncate(length);
        match kind {
            STDOUT if self.output.len() < MAX_OUTPUT => self.output.extend(content),
            STDERR if self.errors.len() < MAX_OUTPUT => self.errors.extend(content),
            END_REQUEST => self.ended = true,
            _ => {}
        }
        Ok(())
    }

    /// The value of a header field. The status is in the field Status.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.output).into_owned();
        let lines = text.lines().take_while(|line| !line.is_empty());
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    }

    /// The HTTP status. `None` if the output is not a response.
    pub(super) fn status(&self) -> Option<u16> {
        match self.field("Status") {
            Some(status) => status.split(' ').next()?.parse().ok(),
            None => self.field("Content-Type").map(|_| 200),
        }
    }

    /// What the program wrote to the STDERR stream, for the web server's log.
    pub(super) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors).trim().to_owned()
    }
}

fn record(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let [high, low] = (content.len() as u16).to_be_bytes();
    out.extend([1, kind, 0, 1, high, low, 0, 0]);
    out.extend(content);
}
