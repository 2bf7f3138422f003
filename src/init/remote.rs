//! `init --remote`: makes the whole upload in a directory, on the owner's own computer.
//!
//! The layout is that of the owner's desk: `public_html/`, and beside it `project.zip` and `wheels/`, which its tasks
//! `unpack` and `install` take. Python packs the project, and pip downloads the packages.

use super::find::{Application, Project};
use super::{Site, files, htaccess, plan};
use crate::cli::Init;
use crate::codes::init as codes;
use crate::config::{App, Finding};
use crate::trust::Trust;
use crate::{owner, python};
use std::env::consts::ARCH;
use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACK_PROGRAM: &str = include_str!("pack.py");
const DOWNLOAD_PROGRAM: &str = include_str!("download.py");
const REQUIREMENTS_FILE: &str = "requirements.txt";
/// Where the desk is, in the settings that are written.
const DESK: &str = "/-/runfcgi";

/// Makes the upload in `directory`. The error says why it was not begun, or why it is not complete.
pub(super) fn make(
    site: &Site,
    options: &Init,
    project: &Project,
    directory: &Path,
    output: &mut dyn Write,
) -> Result<(), Finding> {
    let place = directory.display().to_string();
    if directory.symlink_metadata().is_ok() && !options.yes {
        return Err(Finding::error(
            codes::UPLOAD_EXISTS,
            place,
            "it exists: nothing was written",
            "name another, `init --remote DIRECTORY`, or add `--yes`, which replaces the files in it but the settings",
        ));
    }
    let cannot = |error: io::Error| {
        Finding::error(
            codes::CANNOT_USE,
            place.clone(),
            format!("cannot be written: {error}"),
            "",
        )
    };
    fs::create_dir_all(directory.join("public_html")).map_err(cannot)?;
    let upload = Upload {
        directory: directory.canonicalize().map_err(cannot)?,
        project,
        name: plan::usable_name(site.executable).unwrap_or_else(|| "mysite.fcgi".into()),
    };
    let _ = writeln!(output, "project  {project}");
    upload.write_public(site, options).map_err(cannot)?;
    let home = Home::find(site, project)?;
    upload.pack(site, &home, output)?;
    upload.download(&home, options, output)?;
    let _ = output.write_all(upload.next_steps(&place).as_bytes());
    Ok(())
}

struct Upload<'a> {
    /// Absolute path.
    directory: PathBuf,
    project: &'a Project,
    /// File name of the executable on the host.
    name: String,
}

impl Upload<'_> {
    /// Writes `public_html/`: the executable, `.htaccess`, and the settings unless they are there.
    fn write_public(&self, site: &Site, options: &Init) -> io::Result<()> {
        let public = self.directory.join("public_html");
        let executable = public.join(&self.name);
        files::write(&executable, &fs::read(site.executable)?)?;
        fs::set_permissions(&executable, Permissions::from_mode(0o755))?;
        files::write(
            &public.join(".htaccess"),
            htaccess::block(&self.name).as_bytes(),
        )?;
        let settings = public.join(Path::new(&self.name).with_extension("toml"));
        if settings.exists() {
            return Ok(());
        }
        let text = match &options.config {
            Some(_) => fs::read_to_string(site.settings.name())?,
            None => self.settings()?,
        };
        files::write(&settings, text.as_bytes())?;
        fs::set_permissions(&settings, Permissions::from_mode(0o600))
    }

    /// The settings: the project beside the document root, and a desk with a secret of its own.
    fn settings(&self) -> io::Result<String> {
        let folder = self.project.directory.file_name().unwrap_or_default();
        let path = format!("../{}", folder.to_string_lossy());
        let text = plan::settings_text(&self.name, &path, &self.project.app, None);
        let secret = u128::from_ne_bytes(owner::random_bytes()?);
        Ok(format!(
            "{text}\n[owner]\npath = \"{DESK}\"\nsecret = \"{secret:032x}\"\n"
        ))
    }

    fn pack(&self, site: &Site, home: &Home, output: &mut dyn Write) -> Result<(), Finding> {
        let mut command = Command::new(&home.python);
        command.args(["-I", "-c", PACK_PROGRAM]);
        command.arg(self.directory.join("project.zip"));
        command
            .args([&self.project.directory, &self.directory])
            .arg(site.executable);
        run(command, output).map_err(|why| not_packed(self.project.directory.display(), why))
    }

    /// Downloads the packages that the project requires, and pip itself: not every host's Python has it.
    fn download(&self, home: &Home, options: &Init, output: &mut dyn Write) -> Result<(), Finding> {
        let project = &self.project.directory;
        let near = [Some(project.as_path()), project.parent()];
        let mut near = near
            .into_iter()
            .flatten()
            .map(|dir| dir.join(REQUIREMENTS_FILE));
        let Some(requirements) = near.find(|path| path.is_file()) else {
            let _ = writeln!(
                output,
                "packages none: there is no {REQUIREMENTS_FILE} in {} or beside it; `python -m pip freeze` prints one",
                project.display()
            );
            return Ok(());
        };
        let cannot = |error: io::Error| not_packed(requirements.display(), error.to_string());
        if requirements.parent() != Some(project) {
            let copy = self.directory.join(REQUIREMENTS_FILE);
            fs::copy(&requirements, copy).map_err(cannot)?;
        }
        let wheels = self.directory.join("wheels");
        if wheels.exists() {
            fs::remove_dir_all(&wheels).map_err(cannot)?;
        }
        let version = options.python.as_ref().unwrap_or(&home.version);
        let platforms = match options.platforms.as_slice() {
            [] => vec![format!("manylinux2014_{ARCH}")],
            named => named.to_vec(),
        };
        let _ = writeln!(
            output,
            "packages {} for Python {version} on {}: if the host has another, use --python X.Y and --platform NAME",
            requirements.display(),
            platforms.join(", ")
        );
        let mut command = Command::new(&home.python);
        command.args(["-c", DOWNLOAD_PROGRAM, version, "download", "--quiet"]);
        command.args([
            "--disable-pip-version-check",
            "--no-input",
            "--only-binary=:all:",
        ]);
        command.args(["--implementation", "cp", "--python-version", version]);
        for platform in &platforms {
            command.args(["--platform", platform]);
        }
        command.arg("--dest").arg(&wheels);
        command.arg("-r").arg(&requirements).arg("pip");
        // In the directory of a project, `python -c` would import its modules.
        command.current_dir(&self.directory);
        run(command, output).map_err(|why| not_packed(requirements.display(), why))
    }

    fn next_steps(&self, place: &str) -> String {
        let (name, stem) = (&self.name, self.name.trim_end_matches(".fcgi"));
        let (before, tasks) = match &self.project.app {
            Application::Django(settings) => (
                format!(
                    "next     in {settings}: DEBUG = False, ALLOWED_HOSTS = [\"www.example.com\"], STATIC_URL = \"static/\",\n\
                     \x20        STATIC_ROOT = BASE_DIR.parent / \"public_html\" / \"static\"; after a change run this again with --yes\n"
                ),
                "unpack project.zip, install the packages, migrate, collect the static files, create a superuser",
            ),
            Application::Wsgi(_) => (String::new(), "unpack project.zip, install the packages"),
        };
        format!(
            "made     {place}\n\
             {before}\
             next     with FTP: the contents of {place}/public_html into the host's document root, all else in {place} beside it;\n\
             \x20        {name} in binary mode, with the permissions 755; .htaccess too, which FTP programs may hide\n\
             next     open https://www.example.com{DESK} (the secret is in {place}/public_html/{stem}.toml) and there:\n\
             \x20        {tasks}\n"
        )
    }
}

/// The Python of this computer.
struct Home {
    python: PathBuf,
    /// As `3.11`.
    version: String,
}

impl Home {
    /// One that has pip: that of the project, else another.
    fn find(site: &Site, project: &Project) -> Result<Home, Finding> {
        let variable = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let home = variable.as_deref().map(Path::new);
        let discover = |app: &App| python::discover(app, Trust::of(site.owner), home);
        // Below the project there is no manage.py, so that one will do which has no Django.
        let any = App {
            path: Some(project.directory.join("venv")),
            ..App::default()
        };
        let found = discover(&project.settings()).or_else(|_| discover(&any));
        let found = found.map_err(|why| not_packed("python", why))?;
        let has_pip = |python: &Path| {
            let done = Command::new(python).args(["-c", "import pip"]).output();
            done.is_ok_and(|done| done.status.success())
        };
        let pythons = [found.path, PathBuf::from("python3")];
        let python = pythons.into_iter().find(|python| has_pip(python));
        let python = python.ok_or_else(|| not_packed("python", "no Python here has pip"))?;
        let mut version = found.version.split('.');
        let (major, minor) = (version.next(), version.next());
        Ok(Home {
            python,
            version: format!("{}.{}", major.unwrap_or("3"), minor.unwrap_or_default()),
        })
    }
}

/// Runs a program to its end and passes on what it prints. The error is the last line of that.
fn run(mut command: Command, output: &mut dyn Write) -> Result<(), String> {
    let done = command.output().map_err(|error| error.to_string())?;
    let _ = output.write_all(&done.stdout);
    if done.status.success() {
        return Ok(());
    }
    let _ = output.write_all(&done.stderr);
    let errors = String::from_utf8_lossy(&done.stderr);
    let last = errors.lines().rfind(|line| !line.trim().is_empty());
    Err(last.unwrap_or("it failed without a message").to_owned())
}

fn not_packed(place: impl Display, why: impl Into<String>) -> Finding {
    let fix = "the upload is not complete: after a change, run this again with `--yes`";
    Finding::error(codes::NOT_PACKED, place.to_string(), why, fix)
}
