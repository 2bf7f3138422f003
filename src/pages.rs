//! Pages that runfcgi answers by itself when the application cannot.
//!
//! Whole responses: head and body, as HTML, or as JSON or plain text for clients that ask for those. They need nothing
//! from elsewhere, say to the visitor what happened and to the owner where the reason stands. Knows no socket, clock
//! or log.

use crate::pairs::Pairs;
use crate::response::ResponseHead;

/// Seconds after which a visitor of a 503 may try again.
const RETRY_AFTER: u32 = 5;
/// Bytes of detail that are shown; of a longer text, the end.
const LONGEST_DETAIL: usize = 64 << 10;

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;color:#222;background:#f6f6f4;margin:0}\
main{max-width:40rem;margin:12vh auto;padding:2rem;background:#fff;border:1px solid #ddd;border-radius:.5rem}\
h1{font-size:1.4rem;margin:0 0 1rem}p{margin:.5rem 0}.s{color:#666;font-size:.9rem}\
pre{overflow:auto;padding:1rem;background:#f6f6f4;font-size:.8rem;line-height:1.4}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}main{background:#262626;border-color:#444}\
.s{color:#aaa}pre{background:#1b1b1b}}";

/// A page that can be given out. `Page::new` fills in the usual words; the fields may be changed.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Its HTTP status.
    pub status: u16,
    /// Its heading.
    pub title: &'a str,
    /// What the visitor should know.
    pub sentence: &'a str,
    /// What the owner finds in the error log.
    pub incident: Option<&'a str>,
    /// The reason, such as a traceback: only for the owner's eyes, with `debug` on.
    pub detail: Option<&'a str>,
}

impl<'a> Page<'a> {
    /// The page for a status, in the usual words.
    pub fn new(status: u16) -> Page<'a> {
        let (_, title, sentence) = words(status);
        Page {
            status,
            title,
            sentence,
            incident: None,
            detail: None,
        }
    }

    /// Head and body, in a form that the request's Accept header names; HTML when it says nothing.
    /// To HEAD the body is not sent; see `ResponseHead::allows_body`.
    pub fn render(&self, accept: Option<&[u8]>) -> (ResponseHead, Vec<u8>) {
        let form = Form::wanted(accept.unwrap_or_default());
        let body = match form {
            Form::Html => self.html(),
            Form::Json => self.json(),
            Form::Text => self.text(),
        };
        let mut fields = Pairs::new();
        fields.push(b"Content-Type", form.content_type());
        fields.push(b"Content-Length", body.len().to_string().as_bytes());
        fields.push(b"Cache-Control", b"no-store");
        fields.push(b"X-Content-Type-Options", b"nosniff");
        if let Form::Html = form {
            let policy = b"default-src 'none'; style-src 'unsafe-inline'";
            fields.push(b"Content-Security-Policy", policy);
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
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <h1>{title}</h1>\n<p>{sentence}</p>\n",
            title = escape_html(self.title),
            sentence = escape_html(self.sentence),
        );
        if let Some(hint) = self.hint() {
            out += &format!("<p class=\"s\">{}</p>\n", escape_html(&hint));
        }
        if let Some(detail) = self.detail {
            out += &format!("<pre>{}</pre>\n", escape_html(end_of(detail)));
        }
        out += &format!(
            "<p class=\"s\">Error {}</p>\n</main>\n</body>\n</html>\n",
            self.status
        );
        out
    }

    fn json(&self) -> String {
        let mut out = format!(
            "{{\"status\": {}, \"title\": {}, \"message\": {}",
            self.status,
            quote_json(self.title),
            quote_json(self.sentence)
        );
        for (name, value) in [("incident", self.incident), ("detail", self.detail)] {
            if let Some(value) = value {
                out += &format!(", \"{name}\": {}", quote_json(end_of(value)));
            }
        }
        out += "}\n";
        out
    }

    fn text(&self) -> String {
        let mut out = format!("{} {}\n\n{}\n", self.status, self.title, self.sentence);
        if let Some(hint) = self.hint() {
            out += &format!("{hint}\n");
        }
        if let Some(detail) = self.detail {
            out += &format!("\n{}\n", end_of(detail));
        }
        out
    }

    fn hint(&self) -> Option<String> {
        let incident = self.incident?;
        Some(format!(
            "The owner of this site finds the reason in the error log under incident {incident}."
        ))
    }
}

/// The page for a status in the usual words, as HTML.
pub fn page(status: u16, incident: Option<&str>, detail: Option<&str>) -> (ResponseHead, Vec<u8>) {
    let page = Page {
        incident,
        detail,
        ..Page::new(status)
    };
    page.render(None)
}

#[derive(Clone, Copy)]
enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    fn wanted(accept: &[u8]) -> Form {
        let names = |word: &[u8]| accept.windows(word.len()).any(|w| w == word);
        if names(b"html") {
            Form::Html
        } else if names(b"json") {
            Form::Json
        } else if names(b"text/plain") {
            Form::Text
        } else {
            Form::Html
        }
    }

    fn content_type(self) -> &'static [u8] {
        match self {
            Form::Html => b"text/html; charset=utf-8",
            Form::Json => b"application/json",
            Form::Text => b"text/plain; charset=utf-8",
        }
    }
}

/// Reason phrase, title and sentence.
fn words(status: u16) -> (&'static str, &'static str, &'static str) {
    match status {
        400 => (
            "Bad Request",
            "This request was not understood",
            "Something in the address or in what was sent is not as it should be. Going back and trying again may help.",
        ),
        403 => (
            "Forbidden",
            "No access",
            "This page is not for everyone. If you should see it, please ask the owner of the site.",
        ),
        404 => (
            "Not Found",
            "Page not found",
            "There is nothing at this address. It may have been moved, or the address may be mistyped.",
        ),
        405 => (
            "Method Not Allowed",
            "This does not work here",
            "The page at this address does not take this kind of request.",
        ),
        408 => (
            "Request Timeout",
            "The request took too long",
            "It did not arrive in time. Please try again.",
        ),
        411 => (
            "Length Required",
            "The length is missing",
            "The request did not say how long it is. Another browser or program may help.",
        ),
        413 => (
            "Content Too Large",
            "This is too large",
            "What was sent is larger than this site accepts. Please try something smaller.",
        ),
        431 => (
            "Request Header Fields Too Large",
            "The request's headers are too large",
            "Often cookies are the reason: deleting those of this site may help.",
        ),
        500 => (
            "Internal Server Error",
            "Something went wrong",
            "This site made an error while it prepared the page. It is not your fault; please try again later.",
        ),
        502 => (
            "Bad Gateway",
            "The answer broke off",
            "The program behind this site ended before the page was complete. Please try again.",
        ),
        503 => (
            "Service Unavailable",
            "The site is not available at the moment",
            "It is starting, or very busy. Please try again in a moment.",
        ),
        504 => (
            "Gateway Timeout",
            "This took too long",
            "The page was not ready in time. Please try again later.",
        ),
        _ => (
            "Error",
            "This page cannot be shown",
            "Please try again later.",
        ),
    }
}

fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(LONGEST_DETAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Text that may stand in HTML, also in an attribute.
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

/// A JSON string.
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

    fn text(body: &[u8]) -> String {
        String::from_utf8_lossy(body).into_owned()
    }

    #[test]
    fn each_status_has_a_whole_page_of_its_own() {
        let mut titles = std::collections::BTreeSet::new();
        for status in [400, 403, 411, 413, 431, 500, 502, 503, 504] {
            let (head, body) = page(status, Some("4f3a"), None);
            assert_eq!(head.status, status);
            assert_eq!(head.content_length(), Some(body.len() as u64));
            assert_eq!(head.get(b"Cache-Control"), Some(&b"no-store"[..]));
            assert_eq!(head.get(b"Retry-After").is_some(), status == 503);
            assert!(head.warnings().is_empty());
            let body = text(&body);
            assert!(body.starts_with("<!DOCTYPE html>") && body.ends_with("</html>\n"));
            assert!(body.contains("error log under incident 4f3a"), "{body}");
            assert!(!body.contains("<pre>") && !body.contains("http"));
            assert!(body.len() < 4096, "{status}: {}", body.len());
            assert!(titles.insert(Page::new(status).title), "{status}");
        }
    }

    #[test]
    fn nothing_of_the_detail_is_markup() {
        let detail = "<script>alert('x')</script> & \"\x1b[0m\nline 2";
        let body = text(&page(500, None, Some(detail)).1);
        let want = "<pre>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;\u{fffd}[0m\nline 2</pre>";
        assert!(body.contains(want), "{body}");
        assert!(!body.contains("incident"));
        let long = "é".repeat(LONGEST_DETAIL) + "the end";
        let body = text(&page(500, None, Some(&long)).1);
        assert!(body.len() < LONGEST_DETAIL + 4096 && body.contains("the end</pre>"));
    }

    #[test]
    fn clients_get_the_form_they_ask_for() {
        let page = Page {
            incident: Some("7"),
            detail: Some("a\n\"b\"\\\x01"),
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
