//! What each task does, within the task process.

use super::job::Job;
use super::runner::Runner;
use super::task::Task;
use crate::config::App;
use crate::python::{self, Found};
use crate::trust::Trust;
use crate::workers::spawn;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python program that unpacks the archive.
const UNPACK_PROGRAM: &str = include_str!("unpack.py");
/// Directory of wheels, in the project or beside it. If it is there, pip installs from it and not from the network.
const WHEELS_DIR: &str = "wheels";
/// pip's requirements file, in the project or beside it.
const REQUIREMENTS_FILE: &str = "requirements.txt";
/// The archive with a new version of the project.
const ARCHIVE_FILE: &str = "project.zip";

/// Runs the task that the job names. The error says briefly why it failed; the output has the details.
pub(super) fn perform(job: &Job, runner: &mut Runner<'_>) -> Result<(), String> {
    let work = Work { job };
    match Task::named(&job.word) {
        Some(Task::Check) => work.check(runner),
        Some(Task::CheckDeploy) => work.django(runner, &["check", "--deploy"], &[]),
        Some(Task::Plan) => work.django(runner, &["migrate", "--plan"], &[]),
        Some(Task::Migrate) => work.django(runner, &["migrate", "--noinput"], &[]),
        Some(Task::Collectstatic) => work.django(runner, &["collectstatic", "--noinput"], &[]),
        Some(Task::Createsuperuser) => work.superuser(runner),
        Some(Task::Install) => work.install(runner),
        Some(Task::Unpack) => work.unpack(runner),
        None => Err(format!(
            "there is no task {}; there are {}",
            job.word,
            Task::words()
        )),
    }
}

struct Work<'a> {
    job: &'a Job,
}

impl Work<'_> {
    /// Runs `mysite.fcgi check`, as in a shell. The desk shows its JSON; a file is to be read as it is.
    fn check(&self, runner: &mut Runner<'_>) -> Result<(), String> {
        let mut command = Command::new(&self.job.executable);
        // An environment that looks like suexec's would make the program ignore its arguments; suexec always sets PATH.
        command.arg("check").env_remove("PATH");
        if self.job.output_copy.is_none() {
            command.arg("--json");
        }
        if let Some(file) = &self.job.config_option {
            command.arg("--config").arg(file);
        }
        command.current_dir(self.job.executable.parent().unwrap_or(Path::new("/")));
        runner.run(command, "").map_err(|why| match why.as_str() {
            "failed with status 1" => String::from("it found errors"),
            _ => why,
        })
    }

    /// Runs a Django management command, with these variables added to the site's environment.
    fn django(
        &self,
        runner: &mut Runner<'_>,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(), String> {
        let job = self.job;
        let found = self.discover(&job.config().app)?;
        runner.report(&format!(
            "{} {}\n\n",
            found.path.display(),
            arguments.join(" ")
        ));
        let mut command = self.python(&found.path);
        match &job.settings {
            Some(settings) => {
                command.env("DJANGO_SETTINGS_MODULE", settings);
                command.args(["-m", "django"])
            }
            None => command.arg("manage.py"),
        };
        command.args(arguments).envs(variables.iter().copied());
        runner.run(command, "")
    }

    /// Runs `createsuperuser`, which takes what the owner filled in from the environment.
    fn superuser(&self, runner: &mut Runner<'_>) -> Result<(), String> {
        let field = |name: &str| self.job.fields.get(name).map_or("", String::as_str);
        let variables = [
            ("DJANGO_SUPERUSER_USERNAME", field("username")),
            ("DJANGO_SUPERUSER_EMAIL", field("email")),
            ("DJANGO_SUPERUSER_PASSWORD", field("password")),
        ];
        if let Some((name, _)) = variables
            .iter()
            .find(|(_, value)| value.is_empty() || value.contains('\0'))
        {
            let name = name.rsplit('_').next().unwrap_or_default();
            return Err(format!("the {} is missing", name.to_lowercase()));
        }
        self.django(runner, &["createsuperuser", "--noinput"], &variables)
    }

    /// Creates the virtual environment if there is none, and installs packages into it.
    fn install(&self, runner: &mut Runner<'_>) -> Result<(), String> {
        let wheels = self.near_project(WHEELS_DIR);
        let requirements = self.near_project(REQUIREMENTS_FILE);
        if wheels.is_none() && requirements.is_none() {
            return Err(format!(
                "there is neither {REQUIREMENTS_FILE} nor a directory {WHEELS_DIR} in {} or beside it",
                self.job.path.display()
            ));
        }
        let files = wheels.as_deref().map(wheels_in).unwrap_or_default();
        let pip_wheel = files.iter().find(|file| name_starts_with(file, "pip-"));
        let python = self.environment(runner, pip_wheel.is_some())?;
        let mut command = self.python(&python);
        match (self.has_pip(&python), pip_wheel) {
            (true, _) => command.args(["-m", "pip"]),
            (false, Some(wheel)) => command.arg(wheel.join("pip")),
            (false, None) => {
                return Err(format!(
                    "{} has no pip; put pip's own wheel (pip-….whl) into {WHEELS_DIR}",
                    python.display()
                ));
            }
        };
        command.args([
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--progress-bar=off",
        ]);
        if let Some(wheels) = &wheels {
            command.arg("--no-index").arg("--find-links").arg(wheels);
        }
        match &requirements {
            Some(file) => command.arg("-r").arg(file),
            None => command.args(&files),
        };
        runner.run(command, "")?;
        runner.report("\nTo use the packages, restart the site.\n");
        Ok(())
    }

    /// The interpreter of the site's virtual environment. Creates the environment if there is none; without pip, if
    /// `pip_optional` and it cannot be created with pip.
    fn environment(&self, runner: &mut Runner<'_>, pip_optional: bool) -> Result<PathBuf, String> {
        let named = self
            .job
            .python
            .as_deref()
            .filter(|named| named.is_absolute());
        let missing = named.filter(|named| !named.exists());
        let base = self.base_python(missing.is_some())?;
        let is_environment = |python: &Path| {
            let prefix = python.parent().and_then(Path::parent);
            prefix.is_some_and(|prefix| prefix.join("pyvenv.cfg").is_file())
        };
        if is_environment(&base.path) {
            return Ok(base.path);
        }
        let target = match missing.and_then(|named| named.parent()?.parent()) {
            Some(target) => target.to_owned(),
            None => self.job.path.join("venv"),
        };
        runner.report(&format!(
            "creating {} with {} ({})\n",
            target.display(),
            base.path.display(),
            base.version
        ));
        let venv = |options: &[&str]| {
            let mut command = self.python(&base.path);
            command.args(["-m", "venv"]).args(options).arg(&target);
            command
        };
        if runner.run(venv(&[]), "").is_err() {
            // Debian ships ensurepip in a separate package, which may be missing.
            if !pip_optional {
                return Err(format!(
                    "{} cannot create a virtual environment with pip; put pip's own wheel (pip-….whl) into a directory \
                     {WHEELS_DIR} beside the project",
                    base.path.display()
                ));
            }
            runner.run(venv(&["--without-pip", "--clear"]), "")?;
        }
        if named.is_some() && missing.is_none() {
            runner.report(
                "python below [app] names another interpreter: remove that line to use this one\n",
            );
        }
        Ok(target.join("bin/python"))
    }

    /// Whether this interpreter can import pip.
    fn has_pip(&self, python: &Path) -> bool {
        let mut command = self.python(python);
        command.args(["-c", "import pip"]);
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Unpacks an uploaded archive into the project's directory.
    fn unpack(&self, runner: &mut Runner<'_>) -> Result<(), String> {
        let job = self.job;
        let beside_settings = job.settings_file.as_deref().and_then(Path::parent);
        let places = [job.path.parent(), Some(job.path.as_path()), beside_settings];
        let archives = places
            .into_iter()
            .flatten()
            .map(|dir| dir.join(ARCHIVE_FILE));
        let Some(archive) = archives.clone().find(|archive| archive.is_file()) else {
            let places: Vec<_> = archives.map(|path| path.display().to_string()).collect();
            return Err(format!("there is no {}", places.join(" nor ")));
        };
        let base = self.base_python(true)?;
        runner.report(&format!(
            "unpacking {} into {}\n",
            archive.display(),
            job.path.display()
        ));
        let mut command = self.python(&base.path);
        command
            .args(["-I", "-"])
            .arg(&archive)
            .arg(&job.path)
            .args(self.project_files());
        if !job.path.is_dir() {
            command.current_dir("/");
        }
        runner.run(command, UNPACK_PROGRAM)?;
        runner.report("\nTo put the new code live, restart the site.\n");
        Ok(())
    }

    /// Relative paths of the settings or WSGI module: a directory that has one of them is the project.
    fn project_files(&self) -> Vec<String> {
        let wsgi = self
            .job
            .wsgi
            .as_deref()
            .and_then(|wsgi| wsgi.split(':').next());
        let modules = [self.job.settings.as_deref(), wsgi];
        let files = modules.into_iter().flatten().flat_map(|module| {
            let path = module.replace('.', "/");
            [format!("{path}.py"), format!("{path}/__init__.py")]
        });
        files.collect()
    }

    /// The path of this file or directory in the project's directory, else beside it.
    fn near_project(&self, name: &str) -> Option<PathBuf> {
        let path = &self.job.path;
        let places = [Some(path.as_path()), path.parent()];
        let mut paths = places.into_iter().flatten().map(|dir| dir.join(name));
        paths.find(|path| path.exists())
    }

    /// An interpreter with the standard library, with or without packages. Ignores `[app] python` if `ignore_setting`.
    fn base_python(&self, ignore_setting: bool) -> Result<Found, String> {
        self.discover(&App {
            // Below the project: no manage.py is there, so the interpreter need not have Django.
            path: Some(self.job.path.join("venv")),
            python: self.job.python.clone().filter(|_| !ignore_setting),
            ..App::default()
        })
    }

    /// Finds an interpreter for `app` as the site itself does.
    fn discover(&self, app: &App) -> Result<Found, String> {
        let variables = self.variables();
        let home = variables.iter().find(|(name, _)| name == "HOME");
        let home = home.map(|(_, value)| PathBuf::from(value));
        let trust = Trust::of(self.job.owned_by);
        python::discover_with(app, trust, home.as_deref(), Some(variables.clone()))
    }

    /// The environment of the site's Python processes.
    fn variables(&self) -> Vec<(OsString, OsString)> {
        spawn::environment(&self.job.config(), self.job.cgi)
    }

    /// A command that runs this interpreter with the site's environment, in the project's directory.
    fn python(&self, python: &Path) -> Command {
        let mut command = Command::new(python);
        command.env_clear().envs(self.variables());
        for (name, value) in [
            ("PYTHONUNBUFFERED", "1"),
            ("NO_COLOR", "1"),
            ("DJANGO_COLORS", "nocolor"),
        ] {
            command.env(name, value);
        }
        command.current_dir(&self.job.path);
        command
    }
}

/// The wheels in a directory, sorted.
fn wheels_in(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut wheels: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension() == Some(OsStr::new("whl")))
        .collect();
    wheels.sort();
    wheels
}

fn name_starts_with(file: &Path, prefix: &str) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(prefix)
}
