//! `mysite.fcgi status`, and the page that says the same.

use super::collect::{Places, Site};
use super::{html, json, prometheus, text};
use crate::config::{Candidates, Config, Options, runtime_dir_of_broken};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How a page can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For a browser.
    Html,
    /// As `status` in a shell.
    Text,
    /// As `status --json`.
    Json,
    /// For Prometheus.
    Prometheus,
}

impl Form {
    /// What `format=` names; anything else is HTML.
    pub fn named(name: &[u8]) -> Form {
        match name {
            b"text" => Form::Text,
            b"json" => Form::Json,
            b"prometheus" => Form::Prometheus,
            _ => Form::Html,
        }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Html => "text/html; charset=utf-8",
            Form::Text => "text/plain; charset=utf-8",
            Form::Json => "application/json",
            Form::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The site in this form.
    pub fn render(self, site: &Site) -> String {
        match self {
            Form::Html => html::render(site),
            Form::Text => text::render(site, true),
            Form::Json => json::render(site),
            Form::Prometheus => prometheus::render(site),
        }
    }
}

/// What `status` says about the site whose settings may stand in `candidates`, and whether it runs. `beside`: the directory of the executable.
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
    let places = Places::find(candidates.name(), named.as_deref(), beside);
    let mut site = Site::collect(&places.dirs, &site_name(file), SystemTime::now());
    if let Some((used, beside)) = candidates.farther(Some(file)) {
        site.notes.push(format!(
            "The settings are those of {}, above the executable; {} would come first.",
            used.display(),
            beside.display()
        ));
    }
    for (dir, uid) in &places.foreign {
        site.notes.push(format!(
            "{} belongs to user {uid}: that user's processes of this site cannot be seen from here. {}",
            dir.display(),
            page(config.as_ref())
        ));
    }
    if site.fronts.is_empty() && places.foreign.is_empty() {
        site.notes.push(format!(
            "No process of user {} serves this site where it can be seen from here. One that the web server runs as \
             another user, on another machine or with a private /tmp cannot be seen. {}",
            nix::unistd::geteuid(),
            page(config.as_ref())
        ));
    }
    let out = if as_json {
        json::render(&site)
    } else {
        text::render(&site, speaks_utf8())
    };
    (out, site.runs())
}

/// By what fronts and those who ask know a site: its settings file, by its real path.
pub fn site_name(file: &Path) -> String {
    let real = std::fs::canonicalize(file).or_else(|_| std::path::absolute(file));
    real.unwrap_or_else(|_| PathBuf::from(file))
        .to_string_lossy()
        .replace('\n', "?")
}

fn page(config: Option<&Config>) -> String {
    let status = config.map(|config| &config.status);
    match status.and_then(|status| Some((status.path.as_deref()?, status.secret.as_deref()?))) {
        Some((path, _)) => format!("The site's page {path}?secret=... shows them."),
        None => String::from(
            "With [status] path and secret in the settings, the site shows them on a page.",
        ),
    }
}

fn speaks_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
