//! A `Site` as JSON for programs (RFC 8259).

use super::collect::{Front, Site};
use super::{COUNTS, Counters, Note};
use crate::pages::quote_json;
use crate::sys::procfs::Usage;
use std::fmt::Display;

/// One object, and a line end.
pub(super) fn render(site: &Site) -> String {
    let mut out = Writer::default();
    out.object(|o| {
        o.text("site", &site.name());
        o.text("config", &site.config);
        o.text("state", site.state());
        o.bool("alive", !site.fronts.is_empty());
        o.text("time", &super::text::time(site.now).to_string());
        counters(o, &site.counters());
        let history = site.history();
        o.key("minutes").object(|o| {
            for (key, row) in [("requests", &history.requests), ("failed", &history.failed)] {
                o.key(key).array(row, |o, n| o.raw(n));
            }
        });
        o.key("fronts")
            .array(&site.fronts, |o, f| front(o, site, f));
        o.key("preloaders").array(&site.preloaders, |o, p| {
            o.object(|o| {
                o.pid(p.pid);
                o.text("code", &p.code);
                o.bool("current", p.current);
                usage(o, p.usage.as_ref());
            });
        });
        o.key("limits").array(&site.limits, |o, limit| {
            o.object(|o| {
                o.text("name", limit.resource.key);
                o.number("used", limit.used);
                match limit.most {
                    Some(most) => o.number("limit", most),
                    None => o.number("limit", "null"),
                }
                o.text("unit", if limit.in_bytes() { "bytes" } else { "count" });
            });
        });
        o.key("notes")
            .array(&site.notes, |o, note| o.raw(quote_json(note)));
    });
    out.out.push('\n');
    out.out
}

fn front(o: &mut Writer, site: &Site, front: &Front) {
    let s = &front.snapshot;
    let since = |ms: u64| seconds(site.now.saturating_sub(ms));
    o.object(|o| {
        o.pid(s.pid);
        o.text("role", &s.role);
        o.text("version", &s.version);
        o.text("code", &s.code);
        o.text("state", s.state.name());
        o.text("trouble", &s.trouble);
        o.bool("responding", front.silent.is_none());
        o.number("age_seconds", since(s.started));
        o.number("written_seconds_ago", since(s.written));
        o.number("connections", s.connections);
        o.number("queued", s.queued);
        let waits = if s.queued_since == 0 {
            seconds(0)
        } else {
            since(s.queued_since)
        };
        o.number("queued_seconds", waits);
        o.number("max_workers", s.max_workers);
        counters(o, &s.counters);
        note(o, "last_failure", s.last_failure.as_ref());
        note(o, "last_death", s.last_death.as_ref());
        usage(o, front.usage.as_ref());
        let workers: Vec<_> = s.workers.iter().zip(&front.workers).collect();
        o.key("workers").array(&workers, |o, (worker, used)| {
            o.object(|o| {
                o.pid(worker.pid);
                o.text("state", worker.doing.name());
                o.number("served", worker.served);
                o.number("age_seconds", since(worker.born));
                o.bool("old_code", worker.old);
                o.text("last_failure", &worker.failure);
                o.key("requests").array(&worker.requests, |o, request| {
                    o.object(|o| {
                        o.text("what", &request.what);
                        o.number("seconds", since(request.since));
                    });
                });
                usage(o, used.as_ref());
            });
        });
    });
}

fn counters(o: &mut Writer, counters: &Counters) {
    o.key("counters").object(|o| {
        for (count, name, _) in COUNTS {
            o.number(name, counters.get(count));
        }
    });
}

fn note(o: &mut Writer, key: &str, note: Option<&Note>) {
    match note {
        Some(note) => o.key(key).object(|o| {
            o.text("time", &super::text::time(note.at).to_string());
            o.text("text", &note.text);
        }),
        None => o.number(key, "null"),
    }
}

fn usage(o: &mut Writer, usage: Option<&Usage>) {
    let Some(usage) = usage else {
        return o.number("usage", "null");
    };
    o.key("usage").object(|o| {
        o.text("process_state", &usage.letter.to_string());
        o.number("cpu_seconds", seconds(usage.cpu_ms));
        o.number("memory_bytes", usage.bytes);
        o.text("memory_kind", if usage.is_pss { "pss" } else { "rss" });
        o.number("threads", usage.threads);
    });
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Puts commas where they belong.
#[derive(Default)]
struct Writer {
    out: String,
    more: bool,
}

impl Writer {
    fn object(&mut self, inner: impl FnOnce(&mut Writer)) {
        self.separate();
        self.out.push('{');
        inner(self);
        self.out.push('}');
        self.more = true;
    }

    fn array<T>(&mut self, items: &[T], each: impl Fn(&mut Writer, &T)) {
        self.separate();
        self.out.push('[');
        for item in items {
            each(self, item);
        }
        self.out.push(']');
        self.more = true;
    }

    /// The next value belongs to this name.
    fn key(&mut self, name: &str) -> &mut Writer {
        self.separate();
        self.out += &quote_json(name);
        self.out.push(':');
        self
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key).raw(quote_json(value));
    }

    fn number(&mut self, key: &str, value: impl Display) {
        self.key(key).raw(value);
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key).raw(value);
    }

    fn pid(&mut self, pid: u32) {
        match pid {
            0 => self.number("pid", "null"),
            pid => self.number("pid", pid),
        }
    }

    fn raw(&mut self, value: impl Display) {
        self.separate();
        self.out += &value.to_string();
        self.more = true;
    }

    /// A comma, unless a value, an object or an array has just begun.
    fn separate(&mut self) {
        if self.more {
            self.out.push(',');
        }
        self.more = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::collect::tests::example;

    #[test]
    fn commas_and_quotes_are_in_their_places() {
        let text = render(&example());
        for part in [
            "{\"site\":\"my site\",\"config\":\"/home/ann/my site.toml\",\"state\":\"hanging\",\"alive\":true,",
            "\"trouble\":\"a \\\"quoted\\\" <trouble>\"",
            "\"requests\":[{\"what\":\"GET /a b/\\\"<c>\",\"seconds\":11.000}]",
            "{\"name\":\"cgroup_memory\",\"used\":104857600,\"limit\":null,\"unit\":\"bytes\"}",
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
