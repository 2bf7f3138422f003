//! The error pages that runfcgi sends when the application cannot respond.
//!
//! Complete, self-contained responses as HTML, or as JSON or plain text for clients that ask for those. They tell the
//! visitor what happened, and the owner where to find the reason. Knows no socket, clock or log.

use crate::pairs::Pairs;
use crate::reason::{Reason, own_frames, split_traceback};
use crate::response::{INCIDENT, ResponseHead};

/// The Retry-After of a 503, in seconds.
const RETRY_AFTER: u32 = 5;
/// Bytes of detail to show; the end of a longer text.
const LONGEST_DETAIL: usize = 64 << 10;

/// What the owner can do with the number of the incident, which follows.
const HINT: &str = "The owner of this site finds the reason in the error log under";
/// Below the reason.
const DEBUG_NOTE: &str = "Every visitor sees this, because debug is on in the settings.";

const STYLE: &str = concat!(include_str!("colours.css"), include_str!("pages.css"));
/// The style of what `what_and_cure` and `details` render, besides the colours.
pub(crate) const REASON_STYLE: &str = include_str!("reason.css");

/// Status, reason phrase, title and explanation.
#[rustfmt::skip]
const WORDS: [(u16, &str, &str, &str); 12] = [
    (400, "Bad Request", "This request was not understood",
     "Something in the address or in the data is wrong. Going back and trying again may help."),
    (403, "Forbidden", "No access",
     "You are not allowed to see this page. If you should be, please ask the owner of the site."),
    (404, "Not Found", "Page not found",
     "There is nothing at this address. The page may have moved, or the address may be mistyped."),
    (405, "Method Not Allowed", "This does not work here",
     "The page at this address does not accept this kind of request."),
    (408, "Request Timeout", "The request took too long",
     "It did not arrive in time. Please try again."),
    (411, "Length Required", "The length is missing",
     "The request did not state its length. Another browser or program may work."),
    (413, "Content Too Large", "This is too large",
     "What was sent is larger than this site accepts. Please try something smaller."),
    (431, "Request Header Fields Too Large", "The request's headers are too large",
     "The reason is often cookies: deleting those of this site may help."),
    (500, "Internal Server Error", "Something went wrong",
     "The site failed while preparing this page. It is not your fault; please try again later."),
    (502, "Bad Gateway", "The page is incomplete",
     "The program behind this site stopped before the page was complete. Please try again."),
    (503, "Service Unavailable", "The site is not available at the moment",
     "It is starting, or very busy. Please try again in a moment."),
    (504, "Gateway Timeout", "This took too long",
     "The page was not ready in time. Please try again later."),
];

/// An error page.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// The HTTP status, which decides what the page says.
    pub status: u16,
    /// The id under which the owner finds the reason in the error log.
    pub incident: Option<&'a str>,
    /// The reason: only for the owner, with `debug` on.
    pub reason: Option<&'a Reason>,
    /// The visitor may ask for the same page again: it was asked for with GET.
    pub again: bool,
}

impl Page<'_> {
    /// The page for a status, without incident and reason.
    pub fn new(status: u16) -> Page<'static> {
        Page {
            status,
            incident: None,
            reason: None,
            again: false,
        }
    }

    /// Head and body in the format that the request's Accept header names, HTML by default. A response to HEAD needs the
    /// head alone; see `ResponseHead::allows_body`.
    pub fn render(&self, accept: Option<&[u8]>) -> (ResponseHead, Vec<u8>) {
        let format = Format::wanted(accept.unwrap_or_default());
        let body = match format {
            Format::Html => self.html(),
            Format::Json => self.json(),
            Format::Text => self.text(),
        };
        let mut fields = Pairs::new();
        fields.push(b"Content-Type", format.content_type());
        fields.push(b"Content-Length", body.len().to_string().as_bytes());
        fields.push(b"Cache-Control", b"no-store");
        fields.push(b"X-Content-Type-Options", b"nosniff");
        if let Format::Html = format {
            let policy = b"default-src 'none'; style-src 'unsafe-inline'";
            fields.push(b"Content-Security-Policy", policy);
        }
        if let Some(incident) = self.incident {
            fields.push(INCIDENT, incident.as_bytes());
        }
        if self.status == 503 {
            fields.push(b"Retry-After", RETRY_AFTER.to_string().as_bytes());
        }
        let head = ResponseHead {
            status: self.status,
            reason: words(self.status).0.into(),
            fields,
        };
        (head, body.into_bytes())
    }

    fn html(&self) -> String {
        let (_, title, sentence) = words(self.status);
        let more_style = self.reason.map_or("", |_| REASON_STYLE);
        let class = match self.status {
            503 => "busy",
            500.. => "bad",
            _ => "",
        };
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex\">\n\
             <title>{title}</title>\n<style>{more_style}{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <div>\n<p class=\"s mark {class}\">Error {status}</p>\n<h1>{title}</h1>\n<p>{sentence}</p>\n",
            status = self.status,
            title = escape_html(title),
            sentence = escape_html(sentence),
        );
        if self.again && (self.status >= 500 || self.status == 408) {
            out += "<a href=\"\">Try again</a>\n";
        }
        out += "</div>\n";
        if let Some(reason) = self.reason {
            out += &format!(
                "<div class=\"why\">\n{}{}<p class=\"s\">{DEBUG_NOTE}</p>\n</div>\n",
                what_and_cure(reason),
                details(&reason.more, true)
            );
        }
        if let Some(incident) = self.incident {
            let incident = escape_html(incident);
            out += &format!("<footer class=\"s\">{HINT} <b>incident {incident}</b>.</footer>\n");
        }
        out += "</main>\n</body>\n</html>\n";
        out
    }

    fn json(&self) -> String {
        let (_, title, sentence) = words(self.status);
        let mut out = format!(
            "{{\"status\": {}, \"title\": {}, \"message\": {}",
            self.status,
            quote_json(title),
            quote_json(sentence)
        );
        let detail = self.reason.map(Reason::text);
        for (name, value) in [("incident", self.incident), ("detail", detail.as_deref())] {
            if let Some(value) = value {
                out += &format!(", \"{name}\": {}", quote_json(end_of(value)));
            }
        }
        out += "}\n";
        out
    }

    fn text(&self) -> String {
        let (_, title, sentence) = words(self.status);
        let mut out = format!("{} {title}\n\n{sentence}\n", self.status);
        if let Some(incident) = self.incident {
            out += &format!("{HINT} incident {incident}.\n");
        }
        if let Some(reason) = self.reason {
            out += &format!("\n{}\n", end_of(&reason.text()));
        }
        out
    }
}

#[derive(Clone, Copy)]
enum Format {
    Html,
    Json,
    Text,
}

impl Format {
    fn wanted(accept: &[u8]) -> Format {
        let names = |word: &[u8]| accept.windows(word.len()).any(|w| w == word);
        if names(b"html") {
            Format::Html
        } else if names(b"json") {
            Format::Json
        } else if names(b"text/plain") {
            Format::Text
        } else {
            Format::Html
        }
    }

    fn content_type(self) -> &'static [u8] {
        match self {
            Format::Html => b"text/html; charset=utf-8",
            Format::Json => b"application/json",
            Format::Text => b"text/plain; charset=utf-8",
        }
    }
}

/// What happened and what helps, as HTML.
pub(crate) fn what_and_cure(reason: &Reason) -> String {
    let cure = cure_line(&reason.cure);
    format!(
        "<p class=\"what\">{}</p>\n{cure}",
        escape_html(&reason.what)
    )
}

/// A line that says what helps; nothing if that is not known.
pub(crate) fn cure_line(cure: &str) -> String {
    match cure {
        "" => String::new(),
        cure => format!("<p class=\"cure\">{}</p>\n", escape_html(cure)),
    }
}

/// What is known besides: other findings, the lines of the owner's own code in a traceback, and the traceback, unfolded if
/// `open` is set.
pub(crate) fn details(more: &str, open: bool) -> String {
    let (before, traceback) = split_traceback(end_of(more));
    let (own, open) = (own_frames(traceback), if open { " open" } else { "" });
    let mut out = String::new();
    if !before.is_empty() {
        out += &format!("<pre>{}</pre>\n", escape_html(before.trim_end()));
    }
    if !own.is_empty() {
        let own = escape_html(own.trim_end());
        out += &format!(
            "<div class=\"own\">\n<p class=\"s\">In your own code:</p>\n<pre>{own}</pre>\n</div>\n"
        );
    }
    if !traceback.is_empty() {
        let traceback = escape_html(traceback);
        out += &format!(
            "<details{open}>\n<summary>Traceback</summary>\n<pre>{traceback}</pre>\n</details>\n"
        );
    }
    out
}

/// Reason phrase, title and explanation for a status.
fn words(status: u16) -> (&'static str, &'static str, &'static str) {
    let row = WORDS.iter().find(|(known, ..)| *known == status);
    row.map_or(
        (
            "Error",
            "This page cannot be shown",
            "Please try again later.",
        ),
        |(_, reason, title, explanation)| (*reason, *title, *explanation),
    )
}

fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(LONGEST_DETAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Escapes text for HTML, including attribute values.
pub(crate) fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Text as a JSON string.
pub(crate) fn quote_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(page: Page<'_>) -> String {
        text(&page.render(None).1)
    }

    fn text(body: &[u8]) -> String {
        String::from_utf8_lossy(body).into_owned()
    }

    #[test]
    fn each_status_has_a_complete_page_of_its_own() {
        let mut titles = std::collections::BTreeSet::new();
        for status in [400, 403, 411, 413, 431, 500, 502, 503, 504] {
            let page = Page {
                incident: Some("4f3a"),
                ..Page::new(status)
            };
            let (head, body) = page.render(None);
            assert_eq!(head.status, status);
            assert_eq!(head.content_length(), Some(body.len() as u64));
            assert_eq!(head.get(b"Cache-Control"), Some(&b"no-store"[..]));
            assert_eq!(head.get(b"Retry-After").is_some(), status == 503);
            assert!(head.warnings().is_empty());
            let body = text(&body);
            assert!(body.starts_with("<!DOCTYPE html>") && body.ends_with("</html>\n"));
            assert!(
                body.contains("error log under <b>incident 4f3a</b>."),
                "{body}"
            );
            assert!(!body.contains("<pre>") && !body.contains("http"));
            assert!(body.len() < 4096, "{status}: {}", body.len());
            assert!(titles.insert(words(status).1), "{status}");
        }
    }

    #[test]
    fn the_detail_is_escaped() {
        let page = |text| {
            html(Page {
                reason: Some(&Reason::parse(text)),
                ..Page::new(500)
            })
        };
        let body = page("<i> (a.py:1): <b> it\n<script>alert('x')</script> & \"\x1b[0m\nline 2");
        let escaped =
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;\u{fffd}[0m\nline 2";
        for part in [
            "<p class=\"what\">&lt;i&gt; (a.py:1)</p>",
            "<p class=\"cure\">&lt;b&gt; it</p>",
            &format!("<pre>{escaped}</pre>"),
            "debug is on",
        ] {
            assert!(body.contains(part), "{part} is missing:\n{body}");
        }
        assert!(!body.contains("incident"));
        let long = "a\n".to_owned() + &"é".repeat(LONGEST_DETAIL) + "the end";
        let body = page(&long);
        assert!(body.len() < LONGEST_DETAIL + 8192 && body.contains("the end</pre>"));
    }

    #[test]
    fn only_what_may_go_well_next_time_can_be_asked_for_again() {
        let asks = |status, again| {
            html(Page {
                again,
                ..Page::new(status)
            })
            .contains("Try again</a>")
        };
        assert!(asks(500, true) && asks(503, true) && asks(408, true));
        assert!(!asks(500, false) && !asks(404, true) && !asks(413, true));
    }

    #[test]
    fn clients_get_the_format_they_ask_for() {
        let reason = Reason::parse("a\n\"b\"\\\x01");
        let page = Page {
            incident: Some("7"),
            reason: Some(&reason),
            ..Page::new(500)
        };
        for (accept, kind) in [
            (None, "text/html; charset=utf-8"),
            (
                Some("text/html,application/xml;q=0.9,*/*;q=0.8"),
                "text/html; charset=utf-8",
            ),
            (Some("*/*"), "text/html; charset=utf-8"),
            (Some("application/json"), "application/json"),
            (
                Some("application/json, text/plain, */*"),
                "application/json",
            ),
            (Some("text/plain"), "text/plain; charset=utf-8"),
        ] {
            let (head, body) = page.render(accept.map(str::as_bytes));
            assert_eq!(
                head.get(b"Content-Type"),
                Some(kind.as_bytes()),
                "{accept:?}"
            );
            assert_eq!(head.content_length(), Some(body.len() as u64));
        }
        let json = text(&page.render(Some(b"application/json")).1);
        let tail = "\"incident\": \"7\", \"detail\": \"a\\n\\\"b\\\"\\\\\\u0001\"}\n";
        assert!(
            json.starts_with("{\"status\": 500, \"title\": \"") && json.ends_with(tail),
            "{json}"
        );
        let plain = text(&page.render(Some(b"text/plain")).1);
        assert!(plain.starts_with("500 Something went wrong\n\n"), "{plain}");
    }
}
