//! The pages that have failed for visitors, from the journal of failures. The rehearsal asks for them again.

use crate::codes::request::{
    BAD_RESPONSE, CAUGHT, EXCEPTION, NO_RESPONSE, REQUEST_TIMEOUT, UNEXPLAINED, WORKER_LOST,
};
use crate::config::{Candidates, Config};
use crate::journal::{self, Entry};
use crate::rundir;
use crate::status::collect::RuntimeDirs;
use std::path::Path;

/// Failures of the app at its work, which importing it does not show.
const AT_WORK: [crate::codes::Code; 7] = [
    REQUEST_TIMEOUT,
    WORKER_LOST,
    EXCEPTION,
    NO_RESPONSE,
    BAD_RESPONSE,
    CAUGHT,
    UNEXPLAINED,
];
/// The most pages to ask for again.
const MAX_PAGES: usize = 5;

/// The paths of the pages that failed last, newest first. `beside`: the directory of the executable.
pub(super) fn failed_pages(candidates: &Candidates, config: &Config, beside: &Path) -> Vec<String> {
    let named = config.server.runtime_dir.as_deref();
    let site = rundir::site(candidates.name().as_os_str().as_encoded_bytes());
    let mut dirs = RuntimeDirs::find(candidates.name(), named, beside).readable;
    dirs.retain(|dir| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        named.is_some() || rundir::owner_and_site(&name).is_some_and(|(_, of)| of == site)
    });
    paths(dirs.iter().flat_map(|dir| journal::read(dir)).collect())
}

fn paths(mut entries: Vec<Entry>) -> Vec<String> {
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.time));
    let mut paths: Vec<String> = Vec::new();
    for entry in entries {
        let at_work = AT_WORK.iter().any(|code| code.to_string() == entry.code);
        // Only a GET may be repeated, as it changes nothing. A path that was cut or escaped is not the visitor's.
        let path = entry.request.strip_prefix("GET /").filter(|_| at_work);
        let Some(path) = path.filter(|p| !p.contains(['\\', ' ']) && !p.ends_with("...")) else {
            continue;
        };
        let path = format!("/{path}");
        if paths.len() < MAX_PAGES && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// The prefix of the site's URLs that a path of it shows: the end of the executable's directory with which it begins.
pub(super) fn prefix(dir: &Path, path: &str) -> String {
    let mut ends: Vec<String> = Vec::new();
    for name in dir.iter().rev() {
        let below = ends.last().map_or("", String::as_str);
        ends.push(format!("/{}{below}", name.to_string_lossy()));
    }
    let begins = |end: &&String| path.starts_with(&format!("{end}/"));
    ends.iter().rev().find(begins).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_failed_at_work_are_asked_for_again() {
        let entry = |time, code: &str, request: &str| Entry {
            time,
            code: String::from(code),
            request: String::from(request),
            ..Entry::default()
        };
        let entries = vec![
            entry(1, "RF0320", "GET /a"),
            entry(2, "RF0315", "GET /b"),
            entry(3, "RF0320", "POST /c"),
            entry(4, "RF0309", "GET /d"),
            entry(5, "RF0314", "GET /a"),
            entry(6, "RF0320", "GET /caf\\xe9"),
            entry(7, "", ""),
        ];
        assert_eq!(paths(entries), ["/a", "/b"]);
        let many = (0..20).map(|n| entry(n, "RF0321", &format!("GET /{n}")));
        assert_eq!(paths(many.collect()).len(), MAX_PAGES);
    }

    #[test]
    fn the_prefix_is_the_end_of_the_directory() {
        let dir = Path::new("/home/ann/public_html/shop");
        for (path, want) in [
            ("/shop/cart/", "/shop"),
            ("/cart/", ""),
            ("/shopping/", ""),
            ("/public_html/shop/cart", "/public_html/shop"),
        ] {
            assert_eq!(prefix(dir, path), want);
        }
    }
}
