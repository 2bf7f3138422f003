//! An HTTP client: the system's curl, or the site's Python where there is no curl. It follows no redirects.

use super::url::Url;
use crate::python;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a response may take. Longer than mod_fcgid waits for a process (40 s).
const TIMEOUT: Duration = Duration::from_secs(60);
/// Sends a request where there is no curl.
const FETCH: &str = include_str!("fetch.py");

/// The program that sends requests.
#[derive(Debug)]
pub(super) enum Client {
    /// curl, at this path.
    Curl(PathBuf),
    /// An interpreter, and its environment.
    Python(PathBuf, Vec<(OsString, OsString)>),
}

/// A response. Only the first 64 KiB are kept.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    head: String,
    /// Bytes that are not UTF-8 are replaced.
    pub(super) body: String,
}

impl Client {
    /// curl, if there is one.
    pub(super) fn curl() -> Option<Client> {
        let path = std::env::var_os("PATH")?;
        let mut places = std::env::split_paths(&path).map(|dir| dir.join("curl"));
        places.find(|place| place.is_file()).map(Client::Curl)
    }

    /// Sends a request with `size` bytes of body. The error says why there is no response.
    pub(super) fn send(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&str, String)],
        size: usize,
    ) -> Result<Response, String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        if size > 0 {
            lines.push(String::from("Content-Type: application/octet-stream"));
        }
        let (url, seconds) = (url.to_string(), TIMEOUT.as_secs().to_string());
        let mut command = match self {
            Client::Curl(path) => {
                let mut command = Command::new(path);
                command
                    .args(["--disable", "--silent", "--show-error", "--include"])
                    .args(["--globoff", "--proto", "=http,https"])
                    .args(["--max-time", &seconds, "--request", method, "--url", &url])
                    .args(["--header", "Expect:"]);
                if size > 0 {
                    command.args(["--data-binary", "@-"]);
                }
                for line in &lines {
                    command.args(["--header", line]);
                }
                command
            }
            Client::Python(path, environment) => {
                let mut command = Command::new(path);
                command
                    .env_clear()
                    .envs(environment.iter().cloned())
                    .args(["-I", "-c", FETCH, method, &url, &seconds])
                    .args(&lines);
                command
            }
        };
        command.current_dir(Path::new("/"));
        let end = Instant::now() + TIMEOUT + Duration::from_secs(5);
        let (output, status) = python::output(&mut command, &vec![b'x'; size], end)?;
        Response::parse(&output).ok_or_else(|| match output.lines().find(|l| !l.is_empty()) {
            Some(line) => line.trim().to_owned(),
            None => status,
        })
    }
}

impl Response {
    /// The last response in the output of a client: interim responses, and that of a proxy, come before it.
    pub(super) fn parse(output: &str) -> Option<Response> {
        let mut rest = output;
        loop {
            let (head, body) = rest.split_once("\r\n\r\n")?;
            let status = head.strip_prefix("HTTP/")?.split(' ').nth(1)?;
            let status = status.parse().ok()?;
            if status >= 200 && !body.starts_with("HTTP/") {
                return Some(Response {
                    status,
                    head: head.to_owned(),
                    body: body.to_owned(),
                });
            }
            rest = body;
        }
    }

    /// The value of a header field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    /// Where it redirects to, if it does.
    pub(super) fn location(&self) -> Option<&str> {
        let redirects = matches!(self.status, 301 | 302 | 303 | 307 | 308);
        self.field("Location").filter(|_| redirects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_response_counts() {
        let output = "HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                      HTTP/2 302 \r\nlocation: /a\r\n\r\nx\r\n\r\ny";
        let response = Response::parse(output).unwrap();
        assert_eq!((response.status, response.location()), (302, Some("/a")));
        assert_eq!(response.body, "x\r\n\r\ny");
        for none in [
            "",
            "curl: (7) refused",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ] {
            assert!(Response::parse(none).is_none(), "{none}");
        }
    }
}
