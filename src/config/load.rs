//! Combines a settings file and command-line options into a checked `Config`, or a list of everything that is wrong.
//!
//! Independent of the server, Python and output.

use super::findings::{Finding, nearest};
use super::table::{self, OPTIONS, SECTIONS};
use super::value::{Base, Raw, tidy};
use super::{Config, Options, checks, file};
use crate::codes::{self, Code};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

impl Config {
    /// Reads and checks a settings file and the command-line options, which override it. `path` may be None.
    /// The error lists everything that is wrong.
    pub fn load_with(path: Option<&Path>, options: &Options) -> Result<Config, Vec<Finding>> {
        Config::load_at_home(path, options, file::home())
    }

    /// Like `load_with`, from text that has been read already. Does not check whether the file may be used.
    pub fn from_text(path: &Path, text: &str, options: &Options) -> Result<Config, Vec<Finding>> {
        let cwd = working_directory(options);
        let mut draft = Draft::new(file::home());
        draft.file(path, text);
        draft.options(options, &cwd);
        draft.finish(options, &cwd)
    }

    /// The valid part of a settings file with errors, to help the owner fix it. None if the file cannot be read or may
    /// not be used.
    pub fn despite_errors(path: &Path, options: &Options) -> Option<Config> {
        let cwd = working_directory(options);
        let path = tidy(&cwd.join(path));
        let mut draft = Draft::new(file::home());
        draft.file(&path, &file::read(&path, options.owner).ok()?);
        Some(draft.settle(options, &cwd).0)
    }

    /// Like `load_with`, with `home` for `~`.
    pub(crate) fn load_at_home(
        path: Option<&Path>,
        options: &Options,
        home: Option<PathBuf>,
    ) -> Result<Config, Vec<Finding>> {
        let cwd = working_directory(options);
        let mut draft = Draft::new(home);
        if let Some(path) = path {
            let path = tidy(&cwd.join(path));
            match file::read(&path, options.owner) {
                Ok(text) => draft.file(&path, &text),
                Err(finding) => return Err(vec![finding]),
            }
        }
        draft.options(options, &cwd);
        draft.finish(options, &cwd)
    }
}

/// The directory to which paths on the command line are relative.
fn working_directory(options: &Options) -> PathBuf {
    match &options.directory {
        Some(directory) => directory.clone(),
        None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
    }
}

/// A configuration under construction.
struct Draft {
    config: Config,
    home: Option<PathBuf>,
    findings: Vec<Finding>,
    /// Where each setting was written, for errors that are found later.
    places: checks::Places,
}

impl Draft {
    fn new(home: Option<PathBuf>) -> Draft {
        Draft {
            config: Config::default(),
            home,
            findings: Vec::new(),
            places: checks::Places::default(),
        }
    }

    /// Applies the settings of a file.
    fn file(&mut self, path: &Path, text: &str) {
        self.config.file = Some(path.to_path_buf());
        self.config.text = text.to_owned();
        let name = path.file_name().unwrap_or(path.as_os_str());
        let source = Source {
            name: name.to_string_lossy().into_owned(),
            text,
        };
        let base = self.base(path.parent().unwrap_or(Path::new("/")));
        let (document, errors) = DeTable::parse_recoverable(text);
        for e in errors {
            self.error(
                codes::settings::SYNTAX,
                source.place(e.span().unwrap_or(0..0)),
                e.message().trim().replace('\n', ", "),
                "write strings in double quotes, one `key = value` per line, and sections in [brackets]",
            );
        }
        for (name, value) in document.get_ref() {
            let place = source.place(name.span());
            match value.get_ref() {
                DeValue::Table(inner) => self.section(name.get_ref(), place, inner, &source, &base),
                _ => self.stray_key(name.get_ref(), place),
            }
        }
        self.findings.sort_by_key(|f| line_and_column(&f.place));
    }

    fn section(&mut self, name: &str, place: String, keys: &DeTable, source: &Source, base: &Base) {
        let sections = SECTIONS.iter().map(|(section, _)| *section);
        if !sections.clone().any(|section| section == name) {
            let fix = match nearest(name, sections.clone()) {
                Some(near) => format!("did you mean [{near}]?"),
                None => format!("known are: {}", sections.collect::<Vec<_>>().join(", ")),
            };
            return self.error(
                codes::settings::UNKNOWN_KEY,
                place,
                format!("unknown section [{name}]"),
                fix,
            );
        }
        for (key, value) in keys {
            let place = source.place(key.span());
            let key = key.get_ref();
            if name == "env" {
                self.variable(key, value, place);
            } else if let Some(opt) = table::find(name, key) {
                match (opt.set)(&mut self.config, opt, without_spans(value), base) {
                    Ok(()) => self.places.set(opt.name(), place),
                    Err(p) => {
                        self.error(
                            codes::settings::BAD_VALUE,
                            source.place(value.span()),
                            p.what,
                            p.fix,
                        );
                        self.places.mark_invalid(opt.name());
                    }
                }
            } else {
                self.unknown_key(name, key, place);
            }
        }
    }

    fn variable(&mut self, name: &str, value: &Spanned<DeValue>, place: String) {
        let text = match without_spans(value).value {
            Value::String(s) => s,
            Value::Integer(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            _ => {
                let what = format!("the value of the variable {name} is not text");
                return self.error(
                    codes::settings::BAD_VALUE,
                    place,
                    what,
                    format!("write {name} = \"...\""),
                );
            }
        };
        self.places.set(format!("env.{name}"), place);
        self.config.env.insert(name.to_string(), text);
    }

    fn unknown_key(&mut self, section: &str, key: &str, place: String) {
        let here = OPTIONS
            .iter()
            .filter(|o| o.section == section)
            .map(|o| o.key);
        let fix = if let Some(o) = OPTIONS.iter().find(|o| o.key == key) {
            format!("it belongs below [{}]", o.section)
        } else if let Some(near) = nearest(key, here.clone()) {
            format!("did you mean {near}?")
        } else if let Some(near) = nearest(key, OPTIONS.iter().map(|o| o.key)) {
            format!("did you mean {near}, in another section?")
        } else {
            format!(
                "known in [{section}]: {}",
                here.collect::<Vec<_>>().join(", ")
            )
        };
        self.error(
            codes::settings::UNKNOWN_KEY,
            place,
            format!("unknown key {key} in [{section}]"),
            fix,
        );
    }

    fn stray_key(&mut self, key: &str, place: String) {
        let fix = if SECTIONS.iter().any(|(s, _)| *s == key) {
            format!("{key} is a section: write [{key}] on a line of its own")
        } else if let Some(o) = OPTIONS.iter().find(|o| o.key == key) {
            format!("put a line [{}] above it", o.section)
        } else if let Some(near) = nearest(key, OPTIONS.iter().map(|o| o.key)) {
            format!("did you mean {near}? It also needs its section above it")
        } else {
            "each key belongs below a section, such as [app]".to_string()
        };
        self.error(
            codes::settings::UNKNOWN_KEY,
            place,
            format!("{key} stands outside of any section"),
            fix,
        );
    }

    /// Applies the command-line options, which override the file.
    fn options(&mut self, options: &Options, cwd: &Path) {
        let base = self.base(cwd);
        if options.listens() {
            let server = &mut self.config.server;
            (server.host, server.port, server.socket) = (None, None, None);
        }
        for (opt, text) in options.settings() {
            match (opt.set)(&mut self.config, opt, Raw::text(text), &base) {
                Ok(()) => self
                    .places
                    .set(opt.name(), format!("option {}={text}", opt.key)),
                Err(p) => {
                    self.findings.push(p.of_option(opt));
                    self.places.mark_invalid(opt.name());
                }
            }
        }
    }

    fn finish(self, options: &Options, cwd: &Path) -> Result<Config, Vec<Finding>> {
        let (mut config, findings) = self.settle(options, cwd);
        if findings.iter().any(|f| f.level == super::Level::Error) {
            return Err(findings);
        }
        config.warnings = findings;
        Ok(config)
    }

    /// Fills in what depends on several settings, and collects everything that is wrong.
    fn settle(mut self, options: &Options, cwd: &Path) -> (Config, Vec<Finding>) {
        let base = self.base(cwd);
        let config = &mut self.config;
        let dir = config.file.as_deref().and_then(Path::parent).unwrap_or(cwd);
        let app = config.app.path.get_or_insert_with(|| dir.to_path_buf());
        for watched in &mut config.restart.watch {
            *watched = match (watched.strip_prefix("~"), &self.home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => tidy(&app.join(&watched)),
            };
        }
        let endpoints = match options.listens() {
            true => options.endpoints(&config.server, &base),
            false => checks::endpoints(&config.server, &self.places).map_err(|f| vec![f]),
        };
        match endpoints {
            Ok(endpoints) => config.server.endpoints = endpoints,
            Err(mut new) => {
                new.retain(|f| !self.findings.contains(f));
                self.findings.extend(new);
            }
        }
        self.findings.extend(options.warnings(config));
        checks::check(config, &self.places, &mut self.findings);
        config.owned_by = options.owner;
        (self.config, self.findings)
    }

    fn base(&self, dir: &Path) -> Base {
        Base {
            dir: dir.to_path_buf(),
            home: self.home.clone(),
        }
    }

    fn error(&mut self, code: Code, place: String, what: String, fix: impl Into<String>) {
        self.findings.push(Finding::error(code, place, what, fix));
    }
}

/// The text and name of a file, to turn byte offsets into `name:line:column`.
struct Source<'a> {
    name: String,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, span: Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |n| n + 1);
        let column = before[start..].chars().count() + 1;
        format!("{}:{line}:{column}", self.name)
    }
}

fn line_and_column(place: &str) -> (usize, usize) {
    let mut parts = place.rsplit(':').map(|n| n.parse().unwrap_or(0));
    let column = parts.next().unwrap_or(0);
    (parts.next().unwrap_or(0), column)
}

/// Removes the spans. Numbers that are too large become strings, so that messages show them as written.
fn without_spans(value: &Spanned<DeValue>) -> Raw {
    let mut octal = false;
    let value = match value.get_ref() {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Integer(n) => {
            octal = n.radix() == 8;
            match i64::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) => Value::Integer(n),
                Err(_) => Value::String(n.as_str().to_string()),
            }
        }
        DeValue::Float(n) => match n.as_str().parse() {
            Ok(n) => Value::Float(n),
            Err(_) => Value::String(n.as_str().to_string()),
        },
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Datetime(d) => Value::Datetime(*d),
        DeValue::Array(list) => Value::Array(list.iter().map(|v| without_spans(v).value).collect()),
        DeValue::Table(_) => Value::Table(toml::Table::new()),
    };
    Raw { value, octal }
}

#[cfg(test)]
mod tests {
    use super::super::{Address, Method, Protocol, ScriptName};
    use super::*;
    use crate::scratch::Scratch;

    fn load(dir: &Scratch, text: impl AsRef<[u8]>) -> Result<Config, Vec<Finding>> {
        let path = dir.write("mysite.toml", text, 0o644);
        Config::load_with(Some(&path), &Options::default())
    }

    #[test]
    fn a_whole_file() {
        let dir = Scratch::new("load-whole");
        std::fs::create_dir(dir.join("a")).unwrap();
        let config = load(&dir, "[app]\r\nsettings = \"mysite.settings\"\r\nscript_name = \"/shop/\"\r\npath = \"a\"\r\n\
                 [env]\r\nA = \"1\"\r\nB = 2\r\n[server]\r\nprotocol = \"ajp13\"\r\nmethod = \"thread\"\r\n\
                 host = \"localhost\"\r\nport = 8009\r\numask = 0o002\r\nsocket_mode = \"0660\"\r\n\
                 linger = \"5m\"\r\n[limits]\r\nmax_body = \"10M\"\r\n[log]\r\nslow_log = 3\r\nfile = \"x.log\"\r\n")
            .unwrap();
        assert_eq!(config.app.path, Some(dir.join("a")));
        assert_eq!(config.app.script_name, ScriptName::Forced("/shop".into()));
        assert_eq!(config.env["B"], "2");
        assert_eq!(config.server.method, Method::Threaded);
        assert_eq!(config.server.umask, Some(2));
        assert_eq!(config.server.socket_mode, Some(0o660));
        assert_eq!(config.server.linger, 300);
        assert_eq!(config.limits.max_body, 10 << 20);
        assert_eq!(config.log.slow_log, 3.0);
        assert_eq!(config.log.file, Some(dir.join("x.log")));
        assert_eq!(config.restart.watch, [dir.join("a/tmp/restart.txt")]);
        assert_eq!(config.server.endpoints.len(), 1);
        assert_eq!(config.server.endpoints[0].protocol, Protocol::Ajp);
        assert_eq!(
            config.server.endpoints[0].address,
            Address::Tcp("127.0.0.1:8009".parse().unwrap())
        );
        assert_eq!(config.file, Some(dir.join("mysite.toml")));
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        let dir = Scratch::new("load-bom");
        let config = load(&dir, "\u{feff}[app]\nwsgi = \"app:application\"\n").unwrap();
        assert_eq!(config.app.path, Some(dir.to_path_buf()));
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let dir = Scratch::new("load-wrong");
        let findings = load(&dir, "settings = \"x\"\n[app]\nsetings = \"x.settings\"\npath = \"nowhere\"\nqueue = 3\n\
                 [sever]\n[server]\nmethod = \"forked\"\nport = \"x\"\nminspare = 5\nmaxspare = 3\n\
                 umask = 22\nmaxchildren = 2\n[env]\n\"A B\" = \"x\"\nC = true\n[limits]\nqueue = -1\nqueue_timeout = 99999999\n")
            .unwrap_err();
        let text: Vec<String> = findings.iter().map(|f| f.to_string()).collect();
        let text = text.join("\n");
        for want in [
            "mysite.toml:1:1: settings stands outside",
            "put a line [app] above",
            "mysite.toml:3:1: unknown key setings",
            "did you mean settings?",
            "nowhere does not exist",
            "it belongs below [limits]",
            "did you mean [server]?",
            "mysite.toml:8:10: method = \"forked\"",
            "did you mean prefork?",
            "mysite.toml:9:8: port = \"x\"",
            "minspare = 5 is above maxspare = 3",
            "maxspare = 3 is above maxchildren = 2",
            "write umask = \"022\" or 0o22",
            "\"A B\"",
            "variable C is not text",
            "queue = -1",
            "queue_timeout = 99999999",
            "neither settings nor wsgi",
        ] {
            assert!(text.contains(want), "{want} is missing in:\n{text}");
        }
    }

    #[test]
    fn the_valid_part_of_a_wrong_file_is_loaded() {
        let dir = Scratch::new("load-despite");
        let text = "[owner]\npath = \"/-/desk\"\nsecret = \"a long random secret\"\n\
                    [app]\npath = \"nowhere\"\nsettings = mysite.settings\n[sever]\n[log\n";
        let path = dir.write("mysite.toml", text, 0o644);
        assert!(Config::load_with(Some(&path), &Options::default()).is_err());
        let config = Config::despite_errors(&path, &Options::default()).unwrap();
        assert_eq!(config.owner.path.as_deref(), Some("/-/desk"));
        assert_eq!(config.app.path, Some(dir.join("nowhere")));
        dir.mode("mysite.toml", 0o666);
        assert!(Config::despite_errors(&path, &Options::default()).is_none());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let dir = Scratch::new("load-syntax");
        let findings = load(
            &dir,
            "[app]\nsettings = mysite.settings\nwsgi = 'a:b'\n[log\nx = 1\n",
        )
        .unwrap_err();
        let places: Vec<&str> = findings.iter().map(|f| f.place.as_str()).collect();
        assert!(places[0].starts_with("mysite.toml:2:"), "{findings:?}");
        assert!(places.iter().any(|p| p.starts_with("mysite.toml:4:")));
    }

    #[test]
    fn wrong_encodings_are_reported() {
        let dir = Scratch::new("load-encoding");
        let findings = load(&dir, b"[app]\n# caf\xe9\n").unwrap_err();
        assert!(findings[0].place.ends_with("mysite.toml:2"), "{findings:?}");
        let findings = load(&dir, b"\xff\xfe[\0").unwrap_err();
        assert!(findings[0].what.contains("UTF-16"), "{findings:?}");
    }
    #[test]
    fn the_settings_in_the_documents_are_accepted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths = vec![root.join("README.md"), root.join("deploy")];
        let mut blocks = Vec::new();
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let ending = path.extension().and_then(|ending| ending.to_str());
            match (ending, std::fs::read_to_string(&path)) {
                (Some("toml"), Ok(text)) => blocks.push((path, text)),
                (Some("md"), Ok(text)) => {
                    let parts = text.split("```toml\n").skip(1);
                    let inside = parts.map(|part| part.split("```").next().unwrap_or_default());
                    blocks.extend(inside.map(|block| (path.clone(), block.to_owned())));
                }
                _ => {}
            }
        }
        assert!(blocks.len() > 25, "{}", blocks.len());
        for (path, mut block) in blocks {
            if !block.contains("[app]") {
                block.insert_str(0, "[app]\nwsgi = \"a:b\"\n");
            }
            let findings = Config::from_text(&path, &block, &Options::default()).err();
            for finding in findings.unwrap_or_default() {
                // The directories are those of the reader.
                let expected = codes::settings::NO_APP_DIRECTORY;
                assert!(
                    finding.code == Some(expected),
                    "{path:?}: {block}{finding:?}"
                );
            }
        }
    }
}
