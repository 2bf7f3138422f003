//! The desk's tasks, and the state of the one that is running or ran last.
//!
//! A task runs in a process of its own, so it survives the request, the front and the web server's timeouts. It shares
//! four files in the runtime directory with the fronts: a lock, its state, its output, and a request to stop.

use crate::codes::{self, Code};
use crate::rundir::{Entry, RuntimeDir, is_at, replace};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Bytes of a task's output that are kept; the rest is dropped.
pub(super) const MAX_OUTPUT: u64 = 1 << 20;
/// Milliseconds that a new task process has to take the lock; until then the task counts as running.
const STARTUP_TIME: u64 = 10_000;
/// Bytes read of the file of a task's state.
const MAX_STATE_BYTES: u64 = 4 << 10;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Check,
    CheckDeploy,
    Plan,
    Migrate,
    Collectstatic,
    Createsuperuser,
    Install,
    Unpack,
}

/// A task, for its owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    pub(super) task: Task,
    /// Names it in `run.txt` and in forms.
    pub(super) word: &'static str,
    pub(super) title: &'static str,
    /// On its button.
    pub(super) label: &'static str,
    /// What it does.
    pub(super) about: &'static str,
}

impl Task {
    /// All tasks, in the order of the page, which is that of a first start.
    pub(super) const ALL: [Description; 8] = [
        Description {
            task: Task::Check,
            word: "check",
            title: "Check the site",
            label: "Check",
            about: "Checks settings, Python, app, permissions and limits, plays the web server, and says what to fix.",
        },
        Description {
            task: Task::Unpack,
            word: "unpack",
            title: "Unpack project.zip",
            label: "Unpack",
            about: "Unpacks an uploaded project.zip into the project. What it replaces is kept in a separate directory.",
        },
        Description {
            task: Task::Install,
            word: "install",
            title: "Install packages",
            label: "Install",
            about: "Creates a virtual environment in the project, unless there is one, and installs requirements.txt: from a \
             directory wheels beside the project if there is one, else from the network.",
        },
        Description {
            task: Task::Plan,
            word: "plan",
            title: "Show the migrations",
            label: "Show the plan",
            about: "Shows which database migrations would be applied, and changes nothing. Then you can apply them.",
        },
        Description {
            task: Task::Migrate,
            word: "migrate",
            title: "Migrate the database",
            label: "Apply these migrations",
            about: "Applies the migrations that the plan shows.",
        },
        Description {
            task: Task::Collectstatic,
            word: "collectstatic",
            title: "Collect static files",
            label: "Collect",
            about: "Copies the static files of all apps to STATIC_ROOT.",
        },
        Description {
            task: Task::Createsuperuser,
            word: "createsuperuser",
            title: "Create a superuser",
            label: "Create",
            about: "Creates a user who may do everything in the admin.",
        },
        Description {
            task: Task::CheckDeploy,
            word: "check-deploy",
            title: "Ask Django about security",
            label: "Ask",
            about: "Runs Django's own check --deploy.",
        },
    ];

    /// The task that this word names.
    pub(super) fn named(word: &str) -> Option<Task> {
        let row = Task::ALL.iter().find(|row| row.word == word);
        row.map(|row| row.task)
    }

    /// The task that most often cures what a message with this code reports.
    pub(super) fn that_cures(code: Code) -> Option<&'static Description> {
        let cured_by = [
            (codes::settings::NO_APP_DIRECTORY, Task::Unpack),
            (codes::place::NO_PYTHON, Task::Install),
            (codes::place::MIGRATIONS, Task::Plan),
            (codes::place::STATIC_FILES, Task::Collectstatic),
            (codes::place::CHECK_ERRORS, Task::CheckDeploy),
            (codes::place::CHECK_WARNINGS, Task::CheckDeploy),
        ];
        let (_, task) = cured_by.iter().find(|(its_code, _)| *its_code == code)?;
        Task::ALL.iter().find(|row| row.task == *task)
    }

    /// The task whose command a cure names.
    pub(super) fn named_in(cure: &str) -> Option<&'static Description> {
        let commands = [
            ("manage.py migrate", Task::Plan),
            ("collectstatic", Task::Collectstatic),
            (" pip ", Task::Install),
        ];
        let (_, task) = commands
            .iter()
            .find(|(command, _)| cure.contains(command))?;
        Task::ALL.iter().find(|row| row.task == *task)
    }

    /// The words that `run.txt` may hold, for messages.
    pub(super) fn words() -> String {
        let words = Task::ALL.map(|row| row.word);
        format!("restart, {}", words.join(", "))
    }
}

/// The state of a task, as the task process and the fronts keep it in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// Names the task: a word of `Task::ALL`.
    pub(super) word: String,
    /// When it was started, in milliseconds since 1970.
    pub(super) began: u64,
    /// When it ended, in milliseconds since 1970; 0 while it runs, or if its process was killed.
    pub(super) ended: u64,
    /// Why it failed; empty if it did not.
    pub(super) trouble: String,
}

impl State {
    /// The state of a task that starts now; `now` is in milliseconds since 1970.
    pub(super) fn started(word: &str, now: u64) -> State {
        State {
            word: word.to_owned(),
            began: now,
            ..State::default()
        }
    }

    /// Replaces the file of the task's state.
    pub(super) fn save(&self, dir: &RuntimeDir) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        replace(&dir.file(Entry::Task), text.as_bytes())
    }
}

/// The task that is running, or ran last.
#[derive(Clone, Debug)]
pub(super) struct LastTask {
    pub(super) state: State,
    pub(super) running: bool,
    /// Its output so far.
    pub(super) output: String,
}

impl LastTask {
    /// Its outcome, in words for the owner.
    pub(super) fn verdict(&self) -> &str {
        match (self.running, self.state.ended, self.state.trouble.as_str()) {
            (true, ..) => "running",
            (false, 0, _) => "its process was killed",
            (false, _, "") => "done",
            (false, _, trouble) => trouble,
        }
    }

    /// Whether it has ended without an error.
    pub(super) fn is_done(&self) -> bool {
        self.verdict() == "done"
    }
}

/// The task that is running or ran last, if any. `now` is in milliseconds since 1970.
pub(super) fn last(dir: &RuntimeDir, now: u64) -> Option<LastTask> {
    let locked = is_locked(dir);
    let state: State = toml::from_str(&read(dir, Entry::Task, MAX_STATE_BYTES)?).ok()?;
    let starting = state.ended == 0 && now.abs_diff(state.began) < STARTUP_TIME;
    Some(LastTask {
        output: read(dir, Entry::TaskOutput, MAX_OUTPUT + 200).unwrap_or_default(),
        running: locked || starting,
        state,
    })
}

/// Whether no task can be started: one is running, or there is no runtime directory. `now` is in milliseconds since 1970.
pub(super) fn is_busy(dir: Option<&RuntimeDir>, now: u64) -> bool {
    dir.is_none_or(|dir| last(dir, now).is_some_and(|last| last.running))
}

/// Whether a task process holds the lock.
fn is_locked(dir: &RuntimeDir) -> bool {
    let file = File::open(dir.file(Entry::TaskLock));
    file.is_ok_and(|file| file.try_lock_shared().is_err())
}

/// At most `limit` bytes of a file in the runtime directory; what is not UTF-8 is replaced.
pub(super) fn read(dir: &RuntimeDir, entry: Entry<'_>, limit: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = file.open(dir.file(entry)).ok()?;
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes the lock that only one task process of the site can hold, until the file is closed. None: another holds it.
pub(super) fn lock(dir: &RuntimeDir) -> io::Result<Option<File>> {
    let path = dir.file(Entry::TaskLock);
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(&path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // A sweep may have removed the file between the open and the lock. Then try again.
        if is_at(&file, &path) {
            return Ok(Some(file));
        }
    }
}

/// Asks the running task to stop.
pub(super) fn stop(dir: &RuntimeDir) -> io::Result<()> {
    fs::write(dir.file(Entry::TaskStop), b"")
}
