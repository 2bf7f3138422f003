//! Finds the project: its directory, and the application in it.
//!
//! Reads a few small files near the executable, and runs none of them.

use crate::config::App;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many levels above the executable's directory to search.
const MAX_PARENTS: usize = 2;
/// Entries of a directory after this many are ignored.
const MAX_ENTRIES: usize = 1000;
/// Bytes read of a file, from its beginning.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Modules that may define a WSGI application, the likeliest first. They are searched if there is no Django project.
const WSGI_MODULES: [&str; 5] = ["passenger_wsgi", "wsgi", "app", "main", "application"];
/// Common names of a WSGI callable.
const WSGI_CALLABLES: [&str; 2] = ["application", "app"];
/// Directories that are not searched, since they hold no project.
const SKIPPED_DIRECTORIES: [&str; 6] =
    ["static", "media", "node_modules", "cgi-bin", "logs", "tmp"];

/// A project, and the application in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Project {
    /// Absolute path of its code.
    pub(super) directory: PathBuf,
    pub(super) app: Application,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Application {
    /// A Django site, by its settings module.
    Django(String),
    /// Any other WSGI application, as `module:callable`.
    Wsgi(String),
}

impl Project {
    /// The project in exactly this directory, if there is one.
    pub(super) fn in_directory(directory: &Path) -> Option<Project> {
        let directory = directory.canonicalize().ok()?;
        let app = match django(&directory) {
            Some(settings) => Application::Django(settings),
            None => Application::Wsgi(wsgi(&directory)?),
        };
        Some(Project { directory, app })
    }

    /// The settings below `[app]` for it.
    pub(super) fn settings(&self) -> App {
        let mut app = App {
            path: Some(self.directory.clone()),
            ..App::default()
        };
        match &self.app {
            Application::Django(settings) => app.settings = Some(settings.clone()),
            Application::Wsgi(target) => app.wsgi = Some(target.clone()),
        }
        app
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.directory.display();
        match &self.app {
            Application::Django(settings) => write!(f, "{place} (Django, {settings})"),
            Application::Wsgi(target) => write!(f, "{place} (WSGI, {target})"),
        }
    }
}

/// Searches `start`, `MAX_PARENTS` directories above it, and the subdirectories of all these. If there is a Django
/// project, other WSGI applications are left out.
pub(super) fn projects(start: &Path) -> Vec<Project> {
    let owner = fs::metadata(start).map(|meta| meta.uid()).ok();
    // In a directory like /tmp, other users may have projects too.
    let is_ours = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| Some(meta.uid()) == owner);
    let mut places: Vec<PathBuf> = Vec::new();
    for directory in start.ancestors().take(1 + MAX_PARENTS) {
        let mut inside = subdirectories(directory);
        inside.insert(0, directory.to_path_buf());
        for place in inside.into_iter().filter(is_ours) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    let mut found: Vec<Project> = Vec::new();
    for project in places
        .iter()
        .filter_map(|place| Project::in_directory(place))
    {
        if !found.contains(&project) {
            found.push(project);
        }
    }
    let is_django = |project: &Project| matches!(project.app, Application::Django(_));
    if found.iter().any(is_django) {
        found.retain(is_django);
    }
    found
}

/// Subdirectories that may hold a project: not hidden ones, nor virtual environments. Sorted.
fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = list
        .flatten()
        .take(MAX_ENTRIES)
        .filter(|entry| {
            let name = entry.file_name();
            !name.as_encoded_bytes().starts_with(b".")
                && !SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped)
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.join("pyvenv.cfg").exists())
        .collect();
    found.sort();
    found
}

/// The settings module of the Django project in `directory`, from its wsgi.py, else from its manage.py. Where the two
/// differ, manage.py names the settings for development.
fn django(directory: &Path) -> Option<String> {
    let from_manage = settings_module(&text(&directory.join("manage.py"))?)?;
    let package = from_manage.split('.').next().unwrap_or_default();
    let wsgi = text(&directory.join(package).join("wsgi.py"));
    let from_wsgi = wsgi.and_then(|text| settings_module(&text));
    Some(from_wsgi.unwrap_or(from_manage))
}

/// The quoted module name that follows `DJANGO_SETTINGS_MODULE`, ignoring comments.
fn settings_module(text: &str) -> Option<String> {
    let code = |line: &&str| !line.trim_start().starts_with('#');
    let code: Vec<&str> = text.lines().filter(code).collect();
    let code = code.join("\n");
    let after = code.split_once("DJANGO_SETTINGS_MODULE")?.1;
    // Skip the quote that closes 'DJANGO_SETTINGS_MODULE'.
    let rest = after.get(1..)?;
    let begin = rest.find(['"', '\''])?;
    let value = rest.get(begin + 1..)?;
    let name = &value[..value.find(['"', '\''])?];
    is_dotted(name).then(|| name.to_owned())
}

fn is_dotted(name: &str) -> bool {
    let word = |part: &str| {
        let mut bytes = part.bytes();
        bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    name.split('.').all(word)
}

/// The WSGI application in `directory`, as `module:callable`.
fn wsgi(directory: &Path) -> Option<String> {
    WSGI_MODULES.iter().find_map(|module| {
        let text = text(&directory.join(module).with_extension("py"))?;
        let name = WSGI_CALLABLES.iter().find(|name| defines(&text, name))?;
        Some(format!("{module}:{name}"))
    })
}

/// Whether a module with this text defines `name` at its top level: `name = …`, `def name(`, `import … as name` or
/// `from … import name`.
fn defines(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        if let Some(rest) = line.strip_prefix(name) {
            let rest = rest.trim_start();
            return rest.starts_with('=') && !rest.starts_with("==") || rest.starts_with(':');
        }
        if let Some(rest) = line.strip_prefix("def ") {
            return rest
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('('));
        }
        let imports = line.starts_with("from ") || line.starts_with("import ");
        imports && line.ends_with(name) && line[..line.len() - name.len()].ends_with(' ')
    })
}

/// The first `MAX_FILE_BYTES` of a regular file. None if it cannot be read.
fn text(path: &Path) -> Option<String> {
    // Opening a named pipe would block until somebody writes to it.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_settings_are_those_that_are_served() {
        let dir = Scratch::new("init-django");
        let manage = "import os\n# DJANGO_SETTINGS_MODULE is set here\ndef main():\n    \
                      os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"shop.settings.dev\")\n";
        dir.write("manage.py", manage, 0o644);
        let found = |want: &str| {
            let project = Project::in_directory(&dir).unwrap();
            assert_eq!(project.app, Application::Django(want.to_owned()));
        };
        found("shop.settings.dev");
        let served = "os.environ['DJANGO_SETTINGS_MODULE'] = 'shop.settings.live'\n";
        dir.write("shop/wsgi.py", served, 0o644);
        found("shop.settings.live");
        dir.write("shop/wsgi.py", "import nothing\n", 0o644);
        found("shop.settings.dev");
    }

    #[test]
    fn what_names_no_module_is_no_project() {
        let dir = Scratch::new("init-none");
        for text in [
            "",
            "DJANGO_SETTINGS_MODULE",
            "DJANGO_SETTINGS_MODULE é",
            "'DJANGO_SETTINGS_MODULE', '",
            "'DJANGO_SETTINGS_MODULE', 'a b; rm'",
            "'DJANGO_SETTINGS_MODULE', '../x'",
        ] {
            dir.write("manage.py", text, 0o644);
            assert_eq!(Project::in_directory(&dir), None, "{text}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = Scratch::new("init-pipe");
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(&dir.join("manage.py"), mode).unwrap();
        assert_eq!(Project::in_directory(&dir), None);
    }

    #[test]
    fn a_wsgi_application_has_a_name() {
        for (module, text, want) in [
            ("app", "app = Flask(__name__)\n", Some("app:app")),
            (
                "wsgi",
                "from shop import create\napplication=create()\n",
                Some("wsgi:application"),
            ),
            (
                "app",
                "def application(environ, start_response):\n",
                Some("app:application"),
            ),
            (
                "passenger_wsgi",
                "from shop.wsgi import application\n",
                Some("passenger_wsgi:application"),
            ),
            (
                "main",
                "from shop import site as app  # here\n",
                Some("main:app"),
            ),
            (
                "app",
                "application: object = make()\n",
                Some("app:application"),
            ),
            ("app", "app == 1\napplet = 2\n    app = 3\n", None),
            ("other", "app = 1\n", None),
        ] {
            let dir = Scratch::new("init-wsgi");
            dir.write(&format!("{module}.py"), text, 0o644);
            let found = Project::in_directory(&dir).map(|project| project.app);
            let want = want.map(|target| Application::Wsgi(target.to_owned()));
            assert_eq!(found, want, "{text}");
        }
    }

    #[test]
    fn projects_lie_beside_and_above() {
        let dir = Scratch::new("init-near");
        let manage = "'DJANGO_SETTINGS_MODULE', 'shop.settings'";
        dir.write("home/public_html/shop/x", "", 0o644);
        dir.write("home/venv/pyvenv.cfg", "", 0o644);
        dir.write("home/venv/app.py", "app = 1", 0o644);
        dir.write("home/other/app.py", "app = 1", 0o644);
        let site = dir.join("home/public_html/shop");
        let found: Vec<_> = projects(&site).into_iter().map(|p| p.directory).collect();
        assert_eq!(found, [dir.join("home/other")]);
        dir.write("home/myproject/manage.py", manage, 0o644);
        dir.write("home/public_html/myproject/manage.py", manage, 0o644);
        let found: Vec<_> = projects(&site).into_iter().map(|p| p.directory).collect();
        let want = ["home/public_html/myproject", "home/myproject"];
        assert_eq!(found, want.map(|place| dir.join(place)));
    }
}
