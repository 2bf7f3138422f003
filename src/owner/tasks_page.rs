//! The tasks page: the task that is running or ran last, its output, and a button for each task.

use super::findings::Findings;
use super::page::{Frame, REFRESH};
use super::response::Response;
use super::task::{self, LastTask, Task};
use crate::pages::escape_html;
use crate::rundir::RuntimeDir;
use crate::status::figures::{ago, time};

/// Bytes of output shown, counted from the end.
const TAIL_BYTES: usize = 64 << 10;

/// What `migrate --plan` prints when there is nothing to apply.
const NOTHING_PLANNED: &str = "No planned migration operations";

/// Renders the page. `problem` says why the task that was just requested was not started.
pub(super) fn render(
    frame: &Frame<'_>,
    dir: Option<&RuntimeDir>,
    problem: Option<&str>,
    now: u64,
) -> Response {
    let last = dir.and_then(|dir| task::last(dir, now));
    let running = last.as_ref().is_some_and(|last| last.running);
    let mut main = String::new();
    if let Some(problem) = problem {
        main += &format!(
            "<section class=\"alarm\" role=\"alert\">\n<h2>{}</h2>\n</section>\n",
            escape_html(problem)
        );
    }
    if dir.is_none() {
        main += "<section class=\"alarm\">\n<h2>There is no runtime directory, so no task can run</h2>\n</section>\n";
    }
    if let Some(last) = &last {
        main += &last_task(frame, last, now);
    }
    let row = |title: &str, about: &str, form: &str| {
        format!(
            "<div class=\"task\">\n<div>\n<h2>{title}</h2>\n<p class=\"s\">{about}</p>\n</div>\n{form}</div>\n"
        )
    };
    let restart = row(
        "Restart",
        "Puts new code and settings live, as a touch does.",
        &button(frame, "restart", "Restart"),
    );
    let tasks = Task::ALL.iter().map(|task| match task.task {
        Task::Migrate => String::new(), // its button is below the output of the plan
        _ => {
            let fields = match task.task {
                Task::Createsuperuser => SUPERUSER_FIELDS,
                _ => "",
            };
            let form = form(frame, "quiet", task.word, task.label, fields);
            row(task.title, task.about, &form)
        }
    });
    main += &format!(
        "<section class=\"tasks\">\n{restart}{}</section>\n",
        tasks.collect::<String>()
    );
    let refresh = if running { REFRESH } else { "" };
    frame.render((200, "OK"), "Tasks", refresh, &main)
}

/// The fields of `createsuperuser`.
const SUPERUSER_FIELDS: &str = "<label>Name <input name=\"username\" autocomplete=\"off\" required></label>\n\
    <label>Email <input type=\"email\" name=\"email\" autocomplete=\"off\" required></label>\n\
    <label>Password <input type=\"password\" name=\"password\" autocomplete=\"new-password\" required></label>\n";

/// The button that starts the task named `word`.
pub(super) fn button(frame: &Frame<'_>, word: &str, label: &str) -> String {
    form(frame, "", word, label, "")
}

/// A form that starts the task named `word`; `fields` is HTML.
pub(super) fn form(
    frame: &Frame<'_>,
    class: &str,
    word: &str,
    label: &str,
    fields: &str,
) -> String {
    let disabled = match frame.busy && word != "restart" {
        true => " disabled",
        false => "",
    };
    let inner = format!(
        "<input type=\"hidden\" name=\"task\" value=\"{word}\">\n{fields}<button{disabled}>{label}</button>"
    );
    frame.form("/tasks", class, &inner)
}

/// The task that is running or ran last, and what the owner can do next.
fn last_task(frame: &Frame<'_>, last: &LastTask, now: u64) -> String {
    let word = last.state.word.as_str();
    let row = Task::ALL.iter().find(|row| row.word == word);
    let title = row.map_or(word, |row| row.title);
    let class = match (last.running, last.is_done()) {
        (true, _) => "busy",
        (_, true) => "good",
        _ => "bad",
    };
    let since = ago(now.saturating_sub(last.state.began));
    let when = match last.running {
        true => format!("for {since}"),
        false => format!("started {since} ago, {}", time(last.state.began)),
    };
    let found = match Task::named(word) {
        Some(Task::Check) => Findings::read(&last.output),
        _ => None,
    };
    let found = found.map(|found| found.verdict() + &found.rows(frame));
    let output = found.unwrap_or_else(|| {
        // Of what has gone well, the beginning is seen first; else the end.
        let end = if last.is_done() { "" } else { " end" };
        format!(
            "<div class=\"scroll{end}\" tabindex=\"0\"><pre class=\"output\">{}</pre></div>\n",
            escape_html(tail(&last.output))
        )
    });
    let next_step = match Task::named(word) {
        _ if last.running => {
            let stop = frame.form("/stop", "quiet", "<button>Stop</button>");
            format!("{stop}<p class=\"s\">Other tasks can start when it has ended.</p>\n")
        }
        Some(Task::Plan) if last.is_done() && !last.output.contains(NOTHING_PLANNED) => {
            button(frame, "migrate", "Apply these migrations")
        }
        _ => String::new(),
    };
    format!(
        "<section class=\"last\">\n<h2>{title} <span class=\"tag {class}\">{}</span> <span class=\"s\">{when}</span></h2>\n\
         {output}{next_step}</section>\n",
        escape_html(last.verdict()),
        title = escape_html(title),
    )
}

/// The last `TAIL_BYTES` of the text.
fn tail(text: &str) -> &str {
    let text = text.trim_end();
    &text[text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES))..]
}
