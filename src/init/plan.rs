//! Plans what `init` writes, describes it, and writes it.
//!
//! Planning reads the disk and runs Python to learn its version. Only `Plan::write` changes anything.

use super::Site;
use super::files;
use super::find::{Application, Project};
use super::htaccess::{self, Merged};
use crate::codes::init as codes;
use crate::config::Finding;
use crate::python;
use crate::trust::Trust;
use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

/// Names of the document root at most hosts.
const DOCUMENT_ROOTS: [&str; 8] = [
    "public_html",
    "httpdocs",
    "htdocs",
    "html",
    "www",
    "web",
    "webroot",
    "public",
];
/// With more `..` than this, an absolute path is easier to read than a relative one.
const MAX_CLIMB: usize = 3;

/// What `init` has found and would write.
pub(super) struct Plan {
    /// File name of the executable, for `.htaccess` and the settings.
    name: String,
    /// Directory of the executable, canonical.
    directory: PathBuf,
    project: Project,
    changes: Vec<Change>,
    /// What was found and what is left alone, one line each.
    notes: Vec<String>,
}

/// A file to write.
struct Change {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The file exists, and is backed up first.
    replaces: bool,
    /// Why it is written, for the owner.
    reason: String,
}

/// The document root in whose tree `dir` is, guessed from its name.
pub(crate) fn document_root(dir: &Path) -> Option<&Path> {
    dir.ancestors().find(|path| {
        let name = path.file_name().unwrap_or_default();
        DOCUMENT_ROOTS.iter().any(|root| name == *root)
    })
}

impl Plan {
    /// Plans without writing. The error says what must be fixed first.
    pub(super) fn new(site: &Site, project: &Project) -> Result<Plan, Finding> {
        let directory = site.executable.parent().unwrap_or(Path::new("/"));
        let directory = directory
            .canonicalize()
            .unwrap_or_else(|_| directory.to_owned());
        let Some(name) = usable_name(site.executable) else {
            return Err(Finding::error(
                codes::UNFIT_NAME,
                site.executable.display().to_string(),
                "Apache runs it by its name, which must end with `.fcgi` and have letters, digits, `-` and `_` before that",
                "rename it, for example to mysite.fcgi",
            ));
        };
        let mut plan = Plan {
            name,
            directory,
            project: project.clone(),
            changes: Vec::new(),
            notes: vec![format!("project  {project}")],
        };
        let python = plan.python(site);
        plan.address();
        plan.settings(site, python.as_deref());
        plan.htaccess()?;
        plan.protect_project();
        Ok(plan)
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Prints what was found and what would be written.
    pub(super) fn describe(&self, output: &mut dyn Write) -> io::Result<()> {
        for note in &self.notes {
            writeln!(output, "{note}")?;
        }
        for change in &self.changes {
            writeln!(
                output,
                "write    {}: {}",
                change.path.display(),
                change.reason
            )?;
        }
        match self.is_empty() {
            true => writeln!(output, "everything is up to date; nothing is written"),
            false => Ok(()),
        }
    }

    /// Writes all files in order. Stops at the first error, which names the file; the files before it are written.
    pub(super) fn write(&self, output: &mut dyn Write) -> Result<(), Finding> {
        for change in &self.changes {
            let failed = |error: io::Error| {
                let place = change.path.display().to_string();
                Finding::error(
                    codes::CANNOT_USE,
                    place,
                    format!("cannot be written: {error}"),
                    "",
                )
            };
            if change.replaces {
                let copy = files::back_up(&change.path).map_err(failed)?;
                let _ = writeln!(output, "copied   {}", copy.display());
            }
            files::write(&change.path, &change.bytes).map_err(failed)?;
            let _ = writeln!(output, "wrote    {}", change.path.display());
        }
        let _ = output.write_all(self.next_steps().as_bytes());
        Ok(())
    }

    /// What the owner must do next.
    fn next_steps(&self) -> String {
        let check = format!("./{} check", self.name);
        match &self.project.app {
            Application::Wsgi(_) => format!("next     {check}\n"),
            Application::Django(settings) => format!(
                "next     in {settings}: DEBUG = False, ALLOWED_HOSTS = [\"www.example.com\"], STATIC_URL = \"static/\",\n\
                 \x20        STATIC_ROOT = \"{}\"\n\
                 \x20        then `manage.py collectstatic`, and {check}\n",
                self.directory.join("static").display()
            ),
        }
    }

    /// The interpreter to name in the settings, if it must be named: it belongs to a virtual environment, or the site
    /// would not find it without the `HOME` of this shell.
    fn python(&mut self, site: &Site) -> Option<PathBuf> {
        let app = self.project.settings();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let found = python::discover(&app, Trust::of(site.owner), home.as_deref().map(Path::new));
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                self.notes
                    .push(format!("python   {}", why.replace('\n', "\n         ")));
                return None;
            }
        };
        let path = &found.path;
        self.notes
            .push(format!("python   {} ({})", path.display(), found.version));
        let prefix = path.parent().and_then(Path::parent);
        let is_virtual = prefix.is_some_and(|prefix| prefix.join("pyvenv.cfg").exists());
        (is_virtual || python::only_by_home(path, &app)).then(|| path.clone())
    }

    /// Notes the URL of the directory, guessed from the name of the document root.
    fn address(&mut self) {
        let place = self.directory.display();
        self.notes.push(match document_root(&self.directory) {
            Some(root) if root == self.directory => {
                format!("address  https://www.example.com/ ({place} is a document root)")
            }
            Some(root) => {
                let below = self.directory.strip_prefix(root).unwrap_or(root).display();
                format!("address  https://www.example.com/{below}/")
            }
            None => format!("address  that of {place}"),
        });
    }

    /// Plans a settings file, unless there is one.
    fn settings(&mut self, site: &Site, python: Option<&Path>) {
        let path = site.settings.name();
        let found = match site.settings.nearest().symlink_metadata() {
            Ok(_) => site.settings.find(site.owner),
            Err(_) => Ok(None),
        };
        match found {
            Ok(Some(path)) => {
                let path = path.display();
                self.notes
                    .push(format!("keep     {path}: existing settings"));
            }
            Ok(None) => {
                let from = path.parent().unwrap_or(Path::new("/"));
                let from = from.canonicalize().unwrap_or_else(|_| from.to_owned());
                let app = relative(&from, &self.project.directory);
                let python = python.map(|python| relative(&from, python));
                let text = settings_text(&self.name, &app, &self.project.app, python.as_deref());
                self.changes.push(Change {
                    path: path.to_owned(),
                    bytes: text.into_bytes(),
                    replaces: false,
                    reason: String::from("new settings"),
                });
            }
            Err(finding) => self.notes.push(format!("keep     {}", finding.one_line())),
        }
    }

    /// Plans the block of `.htaccess`, unless it is up to date.
    fn htaccess(&mut self) -> Result<(), Finding> {
        let path = self.directory.join(".htaccess");
        let place = path.display().to_string();
        let old = match fs::read(&path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let what = format!("cannot be read: {error}");
                return Err(Finding::error(codes::CANNOT_USE, place, what, ""));
            }
        };
        let text = old.as_deref().unwrap_or_default();
        match htaccess::merge(text, &self.name) {
            Ok(Merged::Unchanged) => self
                .notes
                .push(format!("keep     {place}: its block is up to date")),
            Ok(Merged::Changed {
                text: bytes,
                dropped,
            }) => {
                let mut reason = match (&old, dropped.is_empty()) {
                    (None, _) => String::from("new"),
                    (Some(_), true) => {
                        String::from("your lines stay; the block of `init` is written")
                    }
                    (Some(_), false) => {
                        let dropped = dropped.join("\n           - ");
                        format!(
                            "your lines stay; the block of `init` is rewritten without these lines:\n           - {dropped}"
                        )
                    }
                };
                if let Some(line) = htaccess::first_own_rule(text) {
                    reason.push_str(&format!(
                        "\n         (line {line} has a RewriteRule of yours: make sure that it does not match every URL)"
                    ));
                }
                self.changes.push(Change {
                    path,
                    bytes,
                    replaces: old.is_some(),
                    reason,
                });
            }
            Err((line, what)) => {
                return Err(Finding::error(
                    codes::BLOCK_UNCLEAR,
                    format!("{place}:{line}"),
                    what,
                    "remove these lines, or put `# BEGIN runfcgi` above and `# END runfcgi` below them, and `init` \
                     replaces them",
                ));
            }
        }
        Ok(())
    }

    /// Denies access to a project inside the document root, where Apache would serve its files to visitors.
    fn protect_project(&mut self) {
        let project = &self.project.directory;
        if *project == self.directory {
            self.notes.push(format!(
                "caution  visitors can read what is in {}, except *.py and the like: better keep the project beside it",
                project.display()
            ));
            return;
        }
        let path = project.join(".htaccess");
        if !project.starts_with(&self.directory) || path.symlink_metadata().is_ok() {
            return;
        }
        self.changes.push(Change {
            path,
            bytes: htaccess::DENY_ALL.as_bytes().to_vec(),
            replaces: false,
            reason: String::from("visitors could read the project there; this keeps them out"),
        });
    }
}

/// Prints the two files for an owner who uploads them by FTP.
pub(super) fn print(
    executable: &Path,
    project: &Project,
    output: &mut dyn Write,
) -> io::Result<()> {
    let name = usable_name(executable).unwrap_or_else(|| String::from("mysite.fcgi"));
    let stem = name.trim_end_matches(".fcgi");
    // Wherever the project is on this computer, on the host it is beside the document root.
    let folder = project.directory.file_name().unwrap_or_default();
    let path = format!("../{}", folder.to_string_lossy());
    write!(
        output,
        "Upload {name}, with the permissions 755, and these two files into the document root (public_html), and the\n\
         project beside it, not into it. In a directory below the document root the path is \"../{path}\".\n\n\
         --- {stem}.toml\n{}\n--- .htaccess\n{}",
        settings_text(&name, &path, &project.app, None),
        htaccess::block(&name)
    )
}

/// The file name of the executable, if the handler and the rules in `.htaccess` work with it.
pub(super) fn usable_name(executable: &Path) -> Option<String> {
    let name = executable.file_name()?.to_str()?;
    let stem = name.strip_suffix(".fcgi")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (!stem.is_empty() && stem.bytes().all(plain)).then(|| name.to_owned())
}

/// The text of `mysite.toml`.
pub(super) fn settings_text(
    name: &str,
    path: &str,
    app: &Application,
    python: Option<&str>,
) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = format!(
        "# Settings of {name}. The paths are relative to this file. `./{name} help reference` lists all settings.\n\
         [app]\npath = {}\n",
        quoted(path)
    );
    let (key, value) = match app {
        Application::Django(settings) => ("settings", settings),
        Application::Wsgi(target) => ("wsgi", target),
    };
    text.push_str(&format!("{key} = {}\n", quoted(value)));
    if let Some(python) = python {
        text.push_str(&format!("python = {}\n", quoted(python)));
    }
    text
}

/// The path `to`, relative to the directory `from`; both are absolute. Stays absolute if they have only `/` in common,
/// or with more than `MAX_CLIMB` times `..`.
fn relative(from: &Path, to: &Path) -> String {
    let (from_parts, to_parts): (Vec<_>, Vec<_>) =
        (from.components().collect(), to.components().collect());
    let common = from_parts
        .iter()
        .zip(&to_parts)
        .take_while(|(a, b)| a == b)
        .count();
    let climb = from_parts.len() - common;
    if climb > MAX_CLIMB || common <= 1 {
        return to.to_string_lossy().into_owned();
    }
    let up = std::iter::repeat_n(Component::ParentDir, climb);
    let path: PathBuf = up.chain(to_parts[common..].iter().copied()).collect();
    match path.as_os_str().is_empty() {
        true => String::from("."),
        false => path.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_where_that_is_shorter() {
        for (from, to, want) in [
            ("/home/a/public_html", "/home/a/myproject", "../myproject"),
            ("/home/a/public_html/shop", "/home/a/shop", "../../shop"),
            ("/home/a/public_html", "/home/a/public_html/app", "app"),
            ("/home/a/public_html", "/home/a/public_html", "."),
            ("/home/a/public_html", "/home/a", ".."),
            ("/home/a/public_html", "/srv/app", "/srv/app"),
            ("/home/a/b/c/d/e", "/home/a/x", "/home/a/x"),
        ] {
            assert_eq!(relative(Path::new(from), Path::new(to)), want);
        }
    }

    #[test]
    fn settings_are_toml() {
        let text = settings_text(
            "mysite.fcgi",
            "../my \"project\"\\",
            &Application::Django(String::from("a.b")),
            Some("../venv/bin/python"),
        );
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["app"]["path"].as_str(), Some("../my \"project\"\\"));
        assert_eq!(table["app"]["settings"].as_str(), Some("a.b"));
        assert_eq!(table["app"]["python"].as_str(), Some("../venv/bin/python"));
    }
}
