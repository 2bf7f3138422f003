//! The files that visitors must not read, and the URLs at which they would be.

use super::url::{Url, encode};
use crate::codes::place;
use crate::config::{Config, Finding};
use crate::init::document_root;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The most files to return.
const FILES: usize = 20;
/// Bytes of a file by which it is recognized.
const BEGINNING: u64 = 256;
/// Parts of the names of private files.
const NAMES: [&str; 7] = [".toml", ".log", ".pid", ".sqlite", ".py", ".fcgi", ".cgi"];

/// The files that the server writes, as far as they are below the document root.
pub(super) fn exposed(exe: &Path, config: &Config) -> Vec<Finding> {
    let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let dir = real(exe.parent().unwrap_or(Path::new("/")));
    // Whatever its name is: a web server reads that file, and sends the others.
    let served = || dir.join(".htaccess").exists().then_some(dir.as_path());
    let Some(root) = document_root(&dir).or_else(served) else {
        return Vec::new();
    };
    let (server, log) = (&config.server, &config.log);
    let app = config.app.path.as_ref().filter(|_| config.owner.tasks);
    let output = app.map(|app| app.join("tmp/run.log"));
    let written = [
        ("log.file", &log.file),
        ("log.access", &log.access),
        ("server.errlog", &server.errlog),
        ("server.outlog", &server.outlog),
        ("server.pidfile", &server.pidfile),
        ("server.runtime_dir", &server.runtime_dir),
        ("owner.tasks", &output),
    ];
    let expose = |(name, path): (&str, &Option<PathBuf>)| {
        let path = path.as_ref()?;
        let place = real(path.parent()?).join(path.file_name()?);
        let names = place.strip_prefix(root).ok()?.iter();
        let names: Vec<String> = names.map(|name| encode(name.as_bytes())).collect();
        let what = format!(
            "{} is below the document root {}: unless a rule forbids it, visitors get it at https://www.example.com/{}",
            path.display(),
            root.display(),
            names.join("/")
        );
        let fix = format!("name a place outside {}", root.display());
        Some(Finding::warning(place::EXPOSED_FILE, name, what, fix))
    };
    written.into_iter().filter_map(expose).collect()
}

/// The private files that are there: settings, logs with those that were rotated, code, data and the executable.
pub(super) fn private_files(exe: &Path, config: &Config) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = config.file.iter().cloned().collect();
    for log in [&config.log.file, &config.log.access].into_iter().flatten() {
        paths.push(log.clone());
        for number in ["1", "2"] {
            let mut rotated = OsString::from(log);
            rotated.push(format!(".{number}"));
            paths.push(rotated.into());
        }
    }
    for dir in [exe.parent(), config.app.path.as_deref()]
        .into_iter()
        .flatten()
    {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        names.sort();
        paths.extend(names.into_iter().filter(|path| is_private(path)));
    }
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if path.is_file() && !kept.contains(&path) && kept.len() < FILES {
            kept.push(path);
        }
    }
    kept
}

fn is_private(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    name.starts_with('.') || NAMES.iter().any(|part| name.contains(part))
}

/// The URL at which a file would be, where `url` is that of the executable's directory. None: out of reach.
pub(super) fn url_of(path: &Path, exe: &Path, url: &Url) -> Option<Url> {
    let mut dir = exe.parent()?;
    let mut base = url.path.as_str();
    loop {
        if let Ok(rest) = path.strip_prefix(dir) {
            let names: Vec<String> = rest.iter().map(|name| encode(name.as_bytes())).collect();
            return Some(url.at(&format!("{base}{}", names.join("/"))));
        }
        // The directory above, if the URL has one.
        let (above, last) = base.trim_end_matches('/').rsplit_once('/')?;
        if last != encode(dir.file_name()?.as_bytes()) {
            return None;
        }
        base = &base[..above.len() + 1];
        dir = dir.parent()?;
    }
}

/// Whether the body of a response begins as the file does.
pub(super) fn is_sent(path: &Path, body: &str) -> bool {
    let mut beginning = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    let text = String::from_utf8_lossy(&beginning);
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    read.is_ok() && !text.is_empty() && body.starts_with(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_is_written_below_the_document_root_is_named_with_its_url() {
        let mut config = Config::default();
        config.log.file = Some("/srv/a/public_html/my shop/logs/x y.log".into());
        config.log.access = Some("/srv/a/access.log".into());
        config.server.pidfile = Some("/srv/a/public_html/my.pid".into());
        let urls = |exe: &str, config: &Config| -> Vec<String> {
            let findings = exposed(Path::new(exe), config);
            let url = |f: &Finding| f.what.rsplit_once(".com").unwrap().1.to_owned();
            findings.iter().map(url).collect()
        };
        let exe = "/srv/a/public_html/my shop/mysite.fcgi";
        assert_eq!(urls(exe, &config), ["/my%20shop/logs/x%20y.log", "/my.pid"]);
        for other in ["/srv/b/public_html/mysite.fcgi", "/srv/a/mysite.fcgi"] {
            assert!(urls(other, &config).is_empty(), "{other}");
        }
        // By its name it is none, but it has a .htaccess.
        let dir = Scratch::new("check-root");
        dir.write(".htaccess", "", 0o644);
        config.app.path = Some(dir.join("app"));
        config.owner.tasks = true;
        let exe = dir.join("mysite.fcgi");
        assert_eq!(urls(exe.to_str().unwrap(), &config), ["/app/tmp/run.log"]);
    }

    #[test]
    fn files_have_urls_below_the_document_root() {
        let exe = Path::new("/home/public_html/my shop/mysite.fcgi");
        for (url, path, at) in [
            (
                "http://a/",
                "/home/public_html/my shop/mysite.toml",
                Some("/mysite.toml"),
            ),
            (
                "http://a/",
                "/home/public_html/my shop/app/a b.py",
                Some("/app/a%20b.py"),
            ),
            ("http://a/", "/home/public_html/mysite.toml", None),
            (
                "http://a/my%20shop/",
                "/home/public_html/mysite.toml",
                Some("/mysite.toml"),
            ),
            ("http://a/my%20shop/", "/home/mysite.toml", None),
            ("http://a/other/", "/home/public_html/mysite.toml", None),
            (
                "http://a/my%20shop/",
                "/home/public_html/my shop/x.log",
                Some("/my%20shop/x.log"),
            ),
        ] {
            let url = Url::parse(url).unwrap();
            let found = url_of(Path::new(path), exe, &url).map(|url| url.path);
            assert_eq!(found.as_deref(), at, "{url} {path}");
        }
    }
}
