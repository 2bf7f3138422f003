//! HTML that the desk's pages share, the secret form and the error pages. Every value goes through `escape_html`.

use super::response::Response;
use super::task::Task;
use super::tasks_page::button;
use crate::codes::Code;
use crate::pages::{REASON_STYLE, escape_html};
use crate::status::html;

const STYLE: &str = include_str!("desk.css");

/// Makes the browser load the page again after two seconds: something on it is in progress.
pub(super) const REFRESH: &str = "<meta http-equiv=\"refresh\" content=\"2\">\n";

/// How a cure names a restart.
const TOUCH: &str = "touch mysite.fcgi";

/// Why the form asks for the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prompt {
    /// None has been given yet.
    First,
    /// The one given was wrong.
    Wrong,
    /// Too many were wrong; the next is accepted in this many seconds.
    Paused(u64),
}

/// What all pages of a session have in common: the navigation and the style.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// The desk's path, percent-encoded.
    pub(super) url: &'a str,
    /// The page: empty, or a path below the desk's that begins with `/`.
    pub(super) subpath: &'a str,
    /// The session's form token.
    pub(super) token: &'a str,
    /// A task is running, or none can run: its buttons are disabled.
    pub(super) busy: bool,
}

impl Frame<'_> {
    /// A page; `head` and `main` are HTML.
    pub(super) fn render(
        &self,
        status: (u16, &'static str),
        title: &str,
        head: &str,
        main: &str,
    ) -> Response {
        let url = escape_html(self.url);
        let close = self.form("/close", "quiet", "<button>Close</button>");
        let links: String = [
            ("", "Now"),
            ("/failures", "Failures"),
            ("/tasks", "Tasks"),
            ("/log", "Log"),
        ]
        .map(|(subpath, name)| {
            let current = if subpath == self.subpath {
                " aria-current=\"page\""
            } else {
                ""
            };
            format!("<a href=\"{url}{subpath}\"{current}>{name}</a>\n")
        })
        .concat();
        let main = format!("<nav>\n{links}{close}</nav>\n{main}");
        document(status, title, head, &main)
    }

    /// A form with the session's token that posts to `subpath`; `inner` is HTML.
    pub(super) fn form(&self, subpath: &str, class: &str, inner: &str) -> String {
        format!(
            "<form class=\"{class}\" method=\"post\" action=\"{url}{subpath}\">\n\
             <input type=\"hidden\" name=\"token\" value=\"{token}\">\n{inner}\n</form>\n",
            url = escape_html(self.url),
            token = self.token,
        )
    }
}

/// The form that asks for the secret.
pub(super) fn secret_form(url: &str, prompt: Prompt) -> Response {
    let (status, reason, problem) = match prompt {
        Prompt::First => (200, "OK", String::new()),
        Prompt::Wrong => (
            403,
            "Forbidden",
            String::from("This is not the secret below [owner] in the settings."),
        ),
        Prompt::Paused(left) => (
            429,
            "Too Many Requests",
            format!("Too many wrong secrets. Try again in {left} s."),
        ),
    };
    let problem = match problem.as_str() {
        "" => String::new(),
        problem => format!(
            "<p class=\"bad\" role=\"alert\">{}</p>\n",
            escape_html(problem)
        ),
    };
    let main = format!(
        "<section class=\"ask\">\n<h1>Owner's desk</h1>\n<form method=\"post\" action=\"{}\">\n\
         <label>Secret <input type=\"password\" name=\"secret\" autocomplete=\"current-password\" required autofocus></label>\n\
         {problem}<button>Open</button>\n</form>\n</section>\n",
        escape_html(url)
    );
    let response = document((status, reason), "Owner's desk", "", &main);
    match prompt {
        Prompt::Paused(left) => response.with_header("Retry-After", &left.to_string()),
        _ => response,
    }
}

/// The button of the task that cures what has this code, or that this cure names; empty if there is none.
pub(super) fn cure_button(frame: &Frame<'_>, code: Option<Code>, cure: &str) -> String {
    let task = code
        .and_then(Task::that_cures)
        .or_else(|| Task::named_in(cure));
    match task {
        Some(task) => button(frame, task.word, task.title),
        None if cure.contains(TOUCH) => button(frame, "restart", "Restart"),
        None => String::new(),
    }
}

/// What a code means.
pub(super) fn meaning(code: Code) -> String {
    let parts = code
        .parts()
        .map(|(name, text)| format!("<p><b>{name}:</b> {}</p>\n", escape_html(text)));
    format!(
        "<details class=\"s\">\n<summary>{code}: {}</summary>\n{}</details>\n",
        escape_html(code.title()),
        parts.concat()
    )
}

/// 404.
pub(super) fn not_found(frame: &Frame<'_>) -> Response {
    let main = "<section>\n<h1>The desk has no such page</h1>\n</section>\n";
    frame.render((404, "Not Found"), "Owner's desk", "", main)
}

/// 403: the token of the form is not the session's.
pub(super) fn wrong_token(url: &str) -> Response {
    let text =
        "This form does not belong to your session, which may have expired. Nothing was done.";
    let link = format!(
        "<p><a class=\"button\" href=\"{}\">Back to the desk</a></p>\n",
        escape_html(url)
    );
    error_page(403, "Forbidden", text, &link)
}

/// 403: over plain HTTP, others could read the secret and the cookie.
pub(super) fn https_required() -> Response {
    let text = "The owner's desk works over https:// only. Otherwise others could read the secret on the network.";
    error_page(403, "Forbidden", text, "")
}

/// 405.
pub(super) fn method_not_allowed() -> Response {
    let response = error_page(
        405,
        "Method Not Allowed",
        "The desk accepts GET and POST.",
        "",
    );
    response.with_header("Allow", "GET, HEAD, POST")
}

/// 413: larger than `form::MAX_BYTES`.
pub(super) fn content_too_large() -> Response {
    error_page(
        413,
        "Content Too Large",
        "This is larger than any form of the desk.",
        "",
    )
}

/// 500.
pub(super) fn internal_error(why: &str) -> Response {
    error_page(500, "Internal Server Error", why, "")
}

/// An error page without navigation; `more` is HTML.
fn error_page(status: u16, reason: &'static str, text: &str, more: &str) -> Response {
    let main = format!(
        "<section class=\"ask\">\n<h1>Owner's desk</h1>\n<p>{}</p>\n{more}</section>\n",
        escape_html(text)
    );
    document((status, reason), "Owner's desk", "", &main)
}

/// A document with the desk's style.
fn document(status: (u16, &'static str), title: &str, head: &str, main: &str) -> Response {
    let head = format!("{head}<style>{REASON_STYLE}{STYLE}</style>\n");
    Response::page(status.0, status.1, html::document(title, &head, main))
}
