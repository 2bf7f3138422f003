//! `init`: writes `.htaccess` and `mysite.toml` for the project that it finds near the executable.
//!
//! In `.htaccess` it changes only the block between its markers, and backs the old file up first. It never changes an
//! existing settings file. On a terminal it asks before it writes. With `--remote` it makes an upload instead. It reads and writes through the streams it is given,
//! never through standard input or output.

mod files;
mod find;
mod htaccess;
mod plan;
mod remote;

use crate::cli::Init;
use crate::codes::init as codes;
use crate::config::{Candidates, Finding};
use find::Project;
use plan::Plan;
pub(crate) use plan::document_root;
use std::io::{self, BufRead, Write};
use std::path::Path;

/// Projects that a message lists.
const MAX_NAMED: usize = 8;

/// The site to set up.
pub struct Site<'a> {
    /// Absolute path of the executable.
    executable: &'a Path,
    /// User id of the executable's owner, if known.
    owner: Option<u32>,
    /// Where its settings file may already be.
    settings: Candidates,
}

impl<'a> Site<'a> {
    /// `executable` is an absolute path, `owner` its user id, and `settings` the places where a settings file may be.
    pub fn new(executable: &'a Path, owner: Option<u32>, settings: Candidates) -> Site<'a> {
        Site {
            executable,
            owner,
            settings,
        }
    }
}

/// Where questions and messages go, and where answers come from.
struct Console<'a> {
    /// The terminal's input. None: there is no terminal.
    answers: Option<&'a mut dyn BufRead>,
    output: &'a mut dyn Write,
}

/// Runs `init` with the given options, and writes its messages to `output`. `answers` is the terminal's input; without
/// a terminal, nothing is written except with `--yes`. The error says why nothing, or not everything, was written.
pub fn run<'a>(
    site: &Site,
    options: &Init,
    answers: Option<&'a mut dyn BufRead>,
    output: &'a mut dyn Write,
) -> Result<(), Finding> {
    let console = &mut Console { answers, output };
    let project = match choose(site, options, console) {
        Ok(project) => project?,
        Err(error) => return Err(console_error(&error)),
    };
    if options.print {
        let printed = plan::print(site.executable, &project, console.output);
        return printed.map_err(|error| console_error(&error));
    }
    if let Some(directory) = &options.remote {
        return remote::make(site, options, &project, directory, console.output);
    }
    let plan = Plan::new(site, &project)?;
    plan.describe(console.output)
        .map_err(|error| console_error(&error))?;
    if plan.is_empty() {
        return Ok(());
    }
    let agreed = match (options.yes, &mut console.answers) {
        (true, _) => true,
        (false, None) => false,
        (false, Some(answers)) => {
            let question = "\nWrite this? [Y/n] ";
            let answer =
                ask(*answers, console.output, question).map_err(|error| console_error(&error))?;
            answer.is_some_and(|answer| ["", "y", "yes"].contains(&answer.as_str()))
        }
    };
    match agreed {
        true => plan.write(console.output),
        false => Err(Finding::error(
            codes::NOT_AGREED,
            "init",
            "nothing was written",
            "`init --yes` writes without asking",
        )),
    }
}

/// The project that `--project` names, else with `--remote` the one in this directory, else the only one found, else the one that the owner chooses on the terminal.
fn choose(
    site: &Site,
    options: &Init,
    console: &mut Console,
) -> io::Result<Result<Project, Finding>> {
    if let Some(directory) = &options.project {
        return Ok(Project::in_directory(directory).ok_or_else(|| no_project(directory)));
    }
    // At home the executable may be anywhere.
    if options.remote.is_some()
        && let Some(project) = Project::in_directory(Path::new("."))
    {
        return Ok(Ok(project));
    }
    let beside = site.executable.parent().unwrap_or(Path::new("/"));
    let mut found = find::projects(beside);
    match (found.len(), &mut console.answers) {
        (1, _) => Ok(Ok(found.remove(0))),
        (0, Some(answers)) if !options.yes => {
            let question = "The directory of your project (that of manage.py): ";
            let answer = ask(*answers, console.output, question)?.unwrap_or_default();
            // Expand `~/` as a shell does.
            let home = std::env::var("HOME").unwrap_or_default();
            let answer = match answer.strip_prefix("~/") {
                Some(rest) => format!("{home}/{rest}"),
                None => answer,
            };
            Ok(Project::in_directory(Path::new(&answer))
                .ok_or_else(|| no_project(Path::new(&answer))))
        }
        (0, _) => Ok(Err(no_project(beside))),
        (count, Some(answers)) if !options.yes => {
            for (number, project) in found.iter().enumerate() {
                writeln!(console.output, "{:>3}  {project}", number + 1)?;
            }
            let answer = ask(
                *answers,
                console.output,
                &format!("Which one? [1-{count}] "),
            )?;
            let number = answer.and_then(|answer| answer.parse::<usize>().ok());
            let index = number.and_then(|number| number.checked_sub(1));
            Ok(index
                .and_then(|index| found.into_iter().nth(index))
                .ok_or_else(|| several(&[])))
        }
        _ => Ok(Err(several(&found))),
    }
}

/// Prints the question and reads one line, which is returned without surrounding whitespace. None at the end of input.
fn ask(
    answers: &mut dyn BufRead,
    output: &mut dyn Write,
    question: &str,
) -> io::Result<Option<String>> {
    output.write_all(question.as_bytes())?;
    output.flush()?;
    let mut line = String::new();
    match answers.read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(line.trim().to_owned())),
    }
}

fn no_project(place: &Path) -> Finding {
    Finding::error(
        codes::NO_PROJECT,
        place.display().to_string(),
        "no project here: no manage.py, and no module with a WSGI application (wsgi.py, app.py, passenger_wsgi.py)",
        "name its directory: `init --project DIRECTORY`",
    )
}

fn several(found: &[Project]) -> Finding {
    let names = found.iter().take(MAX_NAMED).map(Project::to_string);
    let mut what = match found.is_empty() {
        true => String::from("none of them was chosen"),
        false => format!(
            "more than one project: {}",
            names.collect::<Vec<_>>().join("; ")
        ),
    };
    if found.len() > MAX_NAMED {
        what += &format!("; and {} more", found.len() - MAX_NAMED);
    }
    let fix = "name the directory of one: `init --project DIRECTORY`";
    Finding::error(codes::SEVERAL_PROJECTS, "init", what, fix)
}

fn console_error(error: &io::Error) -> Finding {
    let what = format!("the terminal cannot be used: {error}");
    Finding::error(codes::CANNOT_USE, "init", what, "`init --yes` asks nothing")
}
