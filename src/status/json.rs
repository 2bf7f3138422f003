//! A `Site` as JSON (RFC 8259). All helpers return JSON text.

use super::collect::{Front, Preloader, Site};
use super::counts::COUNTS;
use super::figures::{FRONT, SITE, USAGE, Unit, time};
use super::site_workers::SiteWorkers;
use super::{Counters, Note, Worker};
use crate::pages::quote_json as text;
use crate::sys::limits::Limit;
use crate::sys::procfs::Usage;

/// One object and a newline.
pub(super) fn render(site: &Site) -> String {
    let history = site.history();
    let minutes = [("requests", &history.requests), ("failed", &history.failed)];
    let minutes = minutes.map(|(key, row)| (key, list(row, u32::to_string)));
    let whole = object([
        ("site", text(&site.name())),
        ("config", text(&site.config)),
        ("state", text(site.state())),
        ("alive", (!site.fronts.is_empty()).to_string()),
        ("time", text(&time(site.now))),
        ("counters", counters(&site.counters())),
        ("minutes", object(minutes)),
        ("workers", workers(&site.site_workers())),
        ("fronts", list(&site.fronts, |f| front(site, f))),
        ("preloaders", list(&site.preloaders, |p| preloader(site, p))),
        ("limits", list(&site.limits, limit)),
        ("notes", list(&site.notes, |note| text(note))),
    ]);
    whole + "\n"
}

fn workers(workers: &SiteWorkers) -> String {
    let figures = SITE.iter().map(|f| (f.key, f.unit.exact((f.of)(workers))));
    let bound = [
        ("most", or_null(&workers.most, u64::to_string)),
        ("why", text(&workers.why)),
    ];
    object(figures.chain(bound))
}

fn preloader(site: &Site, preloader: &Preloader) -> String {
    let kept: Vec<_> = preloader.workers.kept.iter().zip(&preloader.kept).collect();
    let kept = list(&kept, |(worker, used)| {
        object([
            ("pid", pid(worker.pid)),
            ("served", worker.served.to_string()),
            ("kept_seconds", Unit::Millis.exact(site.since(worker.since))),
            ("usage", or_null(used, usage)),
        ])
    });
    object([
        ("pid", pid(preloader.pid)),
        ("kept_workers", kept),
        ("code", text(&preloader.code)),
        ("current", preloader.current.to_string()),
        ("usage", or_null(&preloader.usage, usage)),
    ])
}

fn limit(limit: &Limit) -> String {
    let unit = if limit.in_bytes() { "bytes" } else { "count" };
    object([
        ("name", text(limit.resource.key)),
        ("used", limit.used.to_string()),
        ("limit", or_null(&limit.most, u64::to_string)),
        ("unit", text(unit)),
    ])
}

fn front(site: &Site, front: &Front) -> String {
    let s = &front.snapshot;
    let workers: Vec<_> = s.workers.iter().zip(&front.workers).collect();
    let workers = list(&workers, |(w, used)| worker(site, w, used));
    let figures = FRONT.iter().map(|f| (f.key, f.unit.exact((f.of)(site, s))));
    let own = [
        ("pid", pid(s.pid)),
        ("role", text(&s.role)),
        ("version", text(&s.version)),
        ("code", text(&s.code)),
        ("state", text(s.state.name())),
        ("trouble", text(&s.trouble)),
        ("responding", front.silent.is_none().to_string()),
        ("counters", counters(&s.counters)),
        ("last_failure", or_null(&s.last_failure, note)),
        ("last_death", or_null(&s.last_death, note)),
        ("usage", or_null(&front.usage, usage)),
        ("workers", workers),
    ];
    object(own.into_iter().chain(figures))
}

fn worker(site: &Site, worker: &Worker, used: &Option<Usage>) -> String {
    let since = |then| Unit::Millis.exact(site.since(then));
    let requests = list(&worker.requests, |request| {
        object([
            ("what", text(&request.summary)),
            ("seconds", since(request.since)),
        ])
    });
    object([
        ("pid", pid(worker.pid)),
        ("state", text(worker.state.name())),
        ("served", worker.served.to_string()),
        ("age_seconds", since(worker.started)),
        ("old_code", worker.outdated.to_string()),
        ("last_failure", text(&worker.failure)),
        ("requests", requests),
        ("usage", or_null(used, usage)),
    ])
}

fn counters(counters: &Counters) -> String {
    object(COUNTS.map(|figure| (figure.key, counters.get(figure.of).to_string())))
}

fn note(note: &Note) -> String {
    object([("time", text(&time(note.at))), ("text", text(&note.text))])
}

fn usage(usage: &Usage) -> String {
    let kind = if usage.is_pss { "pss" } else { "rss" };
    let own = [
        ("process_state", text(&usage.letter.to_string())),
        ("memory_kind", text(kind)),
    ];
    let figures = USAGE.iter().map(|f| (f.key, f.unit.exact((f.of)(usage))));
    object(own.into_iter().chain(figures))
}

fn pid(pid: u32) -> String {
    or_null(&Some(pid).filter(|pid| *pid != 0), u32::to_string)
}

fn or_null<T>(value: &Option<T>, json: impl Fn(&T) -> String) -> String {
    value.as_ref().map_or_else(|| String::from("null"), json)
}

fn object(fields: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let fields = fields
        .into_iter()
        .map(|(key, value)| format!("{}:{value}", text(key)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn list<T>(items: &[T], json: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::collect::tests::example;

    #[test]
    fn the_output_is_well_formed() {
        let text = render(&example());
        for part in [
            "{\"site\":\"my site\",\"config\":\"/home/ann/my site.toml\",\"state\":\"hanging\",\"alive\":true,",
            "\"trouble\":\"a \\\"quoted\\\" <trouble>\"",
            "\"requests\":[{\"what\":\"GET /a b/\\\"<c>\",\"seconds\":11.000}]",
            "{\"name\":\"cgroup_memory\",\"used\":104857600,\"limit\":null,\"unit\":\"bytes\"}",
            "\"workers\":{\"serving\":2,\"kept\":1,\"waiting\":1,\"most\":3,\"why\":\"a <reason>\"},",
            "\"kept_workers\":[{\"pid\":102,\"served\":5,\"kept_seconds\":10.000,\"usage\":{",
            "\"last_failure\":null,\"last_death\":{\"time\":\"1970-01-01T00:00:00Z\",\"text\":\"killed\"}",
            "\"notes\":[\"a <note> & \\\"more\\\"\"]}\n",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        for wrong in [",,", "{,", "[,", ",}", ",]", "}{", "]["] {
            assert!(!text.contains(wrong), "{wrong}:\n{text}");
        }
        assert!(render(&Site::default()).contains("\"fronts\":[],"));
    }
}
