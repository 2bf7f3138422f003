//! The command `mysite.fcgi status`, and the formats that the status page shares with it.

use super::collect::{RuntimeDirs, Site};
use super::{html, json, prometheus, text};
use crate::config::{Candidates, Config, Options, runtime_dir_of_broken};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The format of a status report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a browser.
    Html,
    /// What `status` prints.
    Text,
    /// What `status --json` prints.
    Json,
    /// Prometheus text format.
    Prometheus,
}

impl Format {
    /// The value of `format=` in the query; anything unknown is HTML.
    pub fn named(name: &[u8]) -> Format {
        match name {
            b"text" => Format::Text,
            b"json" => Format::Json,
            b"prometheus" => Format::Prometheus,
            _ => Format::Html,
        }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Html => "text/html; charset=utf-8",
            Format::Text => "text/plain; charset=utf-8",
            Format::Json => "application/json",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The report on `site`.
    pub fn render(self, site: &Site) -> String {
        match self {
            Format::Html => html::render(site),
            Format::Text => text::render(site, true),
            Format::Json => json::render(site),
            Format::Prometheus => prometheus::render(site),
        }
    }
}

/// The output of `status` for the site whose settings file is one of `candidates`, and whether the site is running.
/// `beside` is the directory of the executable.
pub fn report(
    candidates: &Candidates,
    options: &Options,
    beside: &Path,
    as_json: bool,
) -> (String, bool) {
    let file = &candidates.nearest();
    let config = Config::load_with(Some(file), options).ok();
    let named = match &config {
        Some(config) => config.server.runtime_dir.clone(),
        None => runtime_dir_of_broken(file, options.owner),
    };
    let dirs = RuntimeDirs::find(candidates.name(), named.as_deref(), beside);
    let mut site = Site::collect(&dirs.readable, &site_name(file), SystemTime::now());
    if let Some((used, beside)) = candidates.farther(Some(file)) {
        site.notes.push(format!(
            "The settings come from {}, above the executable; {} would take precedence.",
            used.display(),
            beside.display()
        ));
    }
    for (dir, uid) in &dirs.foreign {
        site.notes.push(format!(
            "{} belongs to user {uid}: that user's processes of this site cannot be seen from here. {}",
            dir.display(),
            page_hint(config.as_ref())
        ));
    }
    if site.fronts.is_empty() && dirs.foreign.is_empty() {
        site.notes.push(format!(
            "No process of user {} that can be seen from here serves this site. Processes that the web server runs as \
             another user, on another machine or with a private /tmp cannot be seen. {}",
            nix::unistd::geteuid(),
            page_hint(config.as_ref())
        ));
    }
    let out = if as_json {
        json::render(&site)
    } else {
        text::render(&site, is_locale_utf8())
    };
    (out, site.is_running())
}

/// The name by which fronts and readers know a site: the real path of its settings file.
pub fn site_name(file: &Path) -> String {
    let real = std::fs::canonicalize(file).or_else(|_| std::path::absolute(file));
    real.unwrap_or_else(|_| PathBuf::from(file))
        .to_string_lossy()
        .replace('\n', "?")
}

fn page_hint(config: Option<&Config>) -> String {
    let status = config.map(|config| &config.status);
    match status.and_then(|status| Some((status.path.as_deref()?, status.secret.as_deref()?))) {
        Some((path, _)) => format!("The status page {path}?secret=... shows them."),
        None => String::from("Set [status] path and secret to see them on a status page."),
    }
}

fn is_locale_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
