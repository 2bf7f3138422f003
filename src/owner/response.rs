//! `Response`: a response of the desk, with the security headers that all of them carry.

use crate::log::Level;
use crate::pairs::Pairs;
use crate::response::ResponseHead;
use std::fs::File;

/// Loads nothing from elsewhere, runs no script, cannot be framed, and submits forms only to the site itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; \
                                       base-uri 'none'; frame-ancestors 'none'";

/// A response, and what the front does besides sending it.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    reason: &'static str,
    fields: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Sent in place of `body`: this many bytes of this file.
    pub(super) file: Option<(File, u64)>,
    /// A line for the log.
    pub(super) note: Option<(Level, String)>,
    /// Restart the site.
    pub(super) restart: bool,
}

impl Response {
    /// An HTML document.
    pub(super) fn page(status: u16, reason: &'static str, html: String) -> Response {
        Response {
            status,
            reason,
            fields: vec![("Content-Type", String::from("text/html; charset=utf-8"))],
            body: html.into_bytes(),
            file: None,
            note: None,
            restart: false,
        }
    }

    /// The first `length` bytes of a text file, which the browser saves as `name`.
    pub(super) fn download(file: File, length: u64, name: &str) -> Response {
        Response {
            fields: vec![
                ("Content-Type", String::from("text/plain; charset=utf-8")),
                (
                    "Content-Disposition",
                    format!("attachment; filename=\"{name}\""),
                ),
            ],
            file: Some((file, length)),
            ..Response::page(200, "OK", String::new())
        }
    }

    /// Redirects the browser to `url` with a GET (303).
    pub(super) fn redirect(url: &str) -> Response {
        Response::page(303, "See Other", String::new()).with_header("Location", url)
    }

    /// Adds a header.
    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Response {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// Sets the line for the log.
    pub(super) fn with_note(mut self, level: Level, text: String) -> Response {
        self.note = Some((level, text));
        self
    }

    /// Restarts the site as well.
    pub(super) fn with_restart(mut self) -> Response {
        self.restart = true;
        self
    }

    /// The status line and all headers.
    pub(super) fn head(&self) -> ResponseHead {
        let mut fields = Pairs::new();
        for (name, value) in &self.fields {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        let length = self
            .file
            .as_ref()
            .map_or(self.body.len() as u64, |(_, length)| *length);
        let length = length.to_string();
        for (name, value) in [
            ("Content-Length", length.as_str()),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("X-Robots-Tag", "noindex"),
        ] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        ResponseHead {
            status: self.status,
            reason: self.reason.into(),
            fields,
        }
    }
}
