//! Parses the command line into a `Command` or a list of errors, and knows the text of each help topic.
//!
//! A pure parser: it does not print, exit or read the environment. Under CGI the arguments come from the visitor
//! (RFC 3875 section 4.4, a query without `=`), so they are ignored.

mod commands;
mod completions;
mod help;
mod man;

pub use help::alone;

use crate::check::Url;
use crate::codes::{self, Code};
use crate::config::table::{self, Kind, Opt};
use crate::config::{Finding, Options, findings::did_you_mean};
use commands::Row;
use completions::Shell;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

/// Exit status of success.
pub const EXIT_OK: u8 = 0;
/// Exit status if something failed, or `check` found an error.
pub const EXIT_FAILED: u8 = 1;
/// Exit status if the command line or the settings are wrong.
pub const EXIT_USAGE: u8 = 2;

/// A parsed command line.
#[derive(Debug)]
pub enum Command {
    /// Serve the site.
    Serve(Serve),
    /// Examine the site and report problems.
    Check(Flags),
    /// Write `.htaccess` and the settings.
    Init(Init),
    /// Show the state of the running site.
    Status(Flags),
    /// Print a help text.
    Help(Topic),
    /// Print the version.
    Version,
    /// Hidden: a new executable proves that it runs.
    SelfTest,
}

/// The arguments of `Command::Serve`.
#[derive(Debug, Default)]
pub struct Serve {
    /// The `key=value` options.
    pub options: Options,
    /// `runfcgi` or options were given, so a shell or script started this. Otherwise descriptor 0 decides what to do;
    /// if it is not a socket and this is not CGI, [`alone`] is printed.
    pub asked: bool,
}

/// The arguments of `init`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Init {
    /// `--yes`: ask nothing.
    pub yes: bool,
    /// `--print`: write nothing, print the files.
    pub print: bool,
    /// `--project DIRECTORY`: where the code is.
    pub project: Option<PathBuf>,
    /// `--config FILE`: the settings file to write, unless it is there.
    pub config: Option<PathBuf>,
    /// `--remote [DIRECTORY]`: make the whole upload in this directory.
    pub remote: Option<PathBuf>,
    /// `--python X.Y`: the version of Python on the host.
    pub python: Option<String>,
    /// `--platform NAME`, which may be repeated: the host's platform as pip calls it.
    pub platforms: Vec<String>,
}

/// The flags of `check` and `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--json`: print JSON.
    pub json: bool,
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--url URL`: check the live site at this address.
    pub url: Option<Url>,
}

/// The subject of a help text.
#[derive(Clone, Copy, Debug)]
pub enum Topic {
    /// The commands.
    General,
    /// The options of `runfcgi`.
    Options,
    /// One command, by its name.
    Command(&'static str),
    /// The completions for a shell.
    Completions(Shell),
    /// The manual page.
    Manual,
    /// One setting.
    One(&'static Opt),
    /// All settings as Markdown.
    Reference,
    /// All message codes.
    Codes,
    /// One code.
    Code(Code),
    /// All codes as Markdown.
    CodeReference,
}

/// Parses the arguments after the program's name. `stem` is that name without directory and extension. `cgi`: the
/// environment has GATEWAY_INTERFACE, so the arguments come from the visitor and are ignored.
pub fn parse(stem: &str, args: Vec<OsString>, cgi: bool) -> Result<Command, Vec<Finding>> {
    if cgi || args.is_empty() {
        return Ok(Command::Serve(Serve::default()));
    }
    let mut text = Vec::new();
    for arg in args {
        match arg.into_string() {
            Ok(arg) => text.push(arg),
            Err(arg) => return usage(&arg.to_string_lossy(), "this argument is not UTF-8", ""),
        }
    }
    let rest = &text[1..];
    match text[0].as_str() {
        // `mysite.fcgi runfcgi check` means `check`.
        "runfcgi" if rest.first().is_some_and(|w| commands::find(w).is_some()) => {
            parse("runfcgi", rest.iter().map(OsString::from).collect(), cgi)
        }
        "runfcgi" => serve(rest),
        "help" | "--help" | "-h" => help(stem, rest),
        "--version" | "-V" => Ok(Command::Version),
        "internal-self-test" => Ok(Command::SelfTest),
        // Options need no command, and the program itself may be called runfcgi.
        arg if commands::find(arg).is_none()
            && (arg.contains('=') || stem == "runfcgi" || is_flag(arg)) =>
        {
            serve(&text)
        }
        arg => match commands::find(arg) {
            Some(row) => run(row, rest),
            None => {
                let otherwise = format!("`{stem}.fcgi help` lists the commands");
                let fix = did_you_mean(arg, commands::names(), &otherwise);
                usage(arg, "unknown command", &fix)
            }
        },
    }
}

/// Parses the arguments of a command.
fn run(row: &'static Row, args: &[String]) -> Result<Command, Vec<Finding>> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(Command::Help(Topic::Command(row.name)));
    }
    match (row.name, args) {
        ("explain", _) => explain(args).map(Command::Help),
        ("completions", _) => match Shell::named(args) {
            Some(shell) => Ok(Command::Help(Topic::Completions(shell))),
            None => usage(row.name, "the name of a shell is missing", row.argument),
        },
        _ => {
            let given = row.parse(args)?;
            Ok(match row.name {
                "check" => Command::Check(flags(given)?),
                "status" => Command::Status(flags(given)?),
                "init" => Command::Init(init(given)?),
                "man" => Command::Help(Topic::Manual),
                _ => Command::Version,
            })
        }
    }
}

/// The text on a topic. `program` is the file name of the executable.
pub fn help_text(topic: Topic, program: &str) -> String {
    match topic {
        Topic::General => help::general(),
        Topic::Options => help::options(),
        Topic::Command(name) => commands::find(name).map_or(String::new(), help::command),
        Topic::Completions(shell) => shell.script(program),
        Topic::Manual => man::page(),
        Topic::One(opt) => help::setting(opt),
        Topic::Reference => table::reference_markdown(),
        Topic::Codes => codes::list(),
        Topic::Code(code) => code.explanation(),
        Topic::CodeReference => codes::markdown(),
    }
}

/// The output of `version`.
pub fn version_text() -> String {
    format!("runfcgi {}", env!("CARGO_PKG_VERSION"))
}

/// All findings, as text for standard error.
pub fn refusal(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let _ = writeln!(out, "{f}");
    }
    out
}

fn serve(args: &[String]) -> Result<Command, Vec<Finding>> {
    let options = Options::parse(args)?;
    if options.help {
        return Ok(Command::Help(Topic::Options));
    }
    Ok(Command::Serve(Serve {
        options,
        asked: true,
    }))
}

fn help(stem: &str, rest: &[String]) -> Result<Command, Vec<Finding>> {
    let topic = match rest {
        [] if stem == "runfcgi" => Topic::Options,
        [] => Topic::General,
        [arg] if arg == "runfcgi" || arg == "options" => Topic::Options,
        [arg] if arg == "reference" => Topic::Reference,
        [arg] if codes::number(arg).is_some() => explain(rest)?,
        [arg, ..] => {
            let key = arg.rsplit('.').next().unwrap_or(arg);
            match table::OPTIONS.iter().find(|o| o.key == key) {
                Some(opt) => Topic::One(opt),
                None => match commands::find(arg) {
                    Some(row) => Topic::Command(row.name),
                    None => {
                        let known = table::OPTIONS.iter().map(|o| o.key);
                        let fix = did_you_mean(key, known, "`help runfcgi` lists the options");
                        return usage(arg, "there is no such option or setting", &fix);
                    }
                },
            }
        }
    };
    Ok(Command::Help(topic))
}

fn explain(rest: &[String]) -> Result<Topic, Vec<Finding>> {
    match rest {
        [] => Ok(Topic::Codes),
        [arg] if arg == "--markdown" => Ok(Topic::CodeReference),
        [arg] => match codes::number(arg).map(codes::find) {
            Some(Ok(code)) => Ok(Topic::Code(code)),
            Some(Err(near)) => usage(
                arg,
                "there is no such code",
                &format!("nearest codes: {near}"),
            ),
            None => usage(arg, "this is not a code", "write one such as RF0103"),
        },
        [_, arg, ..] => usage(arg, "unexpected argument", "explain one code at a time"),
    }
}

fn init(given: Vec<(&'static str, String)>) -> Result<Init, Vec<Finding>> {
    let mut init = Init::default();
    for (flag, value) in given {
        match flag {
            "--yes" => init.yes = true,
            "--print" => init.print = true,
            "--config" => init.config = Some(PathBuf::from(value)),
            "--remote" if value.is_empty() => init.remote = Some(PathBuf::from("upload")),
            "--remote" => init.remote = Some(PathBuf::from(value)),
            "--python" if is_python_version(&value) => init.python = Some(value),
            "--python" => return usage(&value, "this is no version", "write one such as 3.11"),
            "--platform" => init.platforms.push(value),
            _ => init.project = Some(PathBuf::from(value)),
        }
    }
    Ok(init)
}

/// Whether this is `X.Y`.
fn is_python_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = text.split_once('.');
    parts.is_some_and(|(major, minor)| number(major) && number(minor))
}

fn flags(given: Vec<(&'static str, String)>) -> Result<Flags, Vec<Finding>> {
    let mut flags = Flags::default();
    for (flag, value) in given {
        match flag {
            "--json" => flags.json = true,
            "--url" => match Url::parse(&value) {
                Ok(url) => flags.url = Some(url),
                Err(why) => return usage(&value, why, "--url https://www.example.org/"),
            },
            _ => flags.config = Some(PathBuf::from(value)),
        }
    }
    Ok(flags)
}

fn usage<T>(arg: &str, what: &str, fix: &str) -> Result<T, Vec<Finding>> {
    Err(vec![Finding::error(
        codes::settings::BAD_WORDS,
        arg,
        what,
        fix,
    )])
}

fn is_help(arg: &str) -> bool {
    arg == "--help" || arg == "-h"
}

fn is_flag(arg: &str) -> bool {
    arg == "--config"
        || arg == "-c"
        || table::find_cli(&arg.to_ascii_lowercase()).is_some_and(|o| o.kind == Kind::Bool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stem: &str, line: &str, cgi: bool) -> Result<Command, Vec<Finding>> {
        let args = line.split_whitespace().map(OsString::from).collect();
        parse(stem, args, cgi)
    }

    #[test]
    fn arguments_become_commands() {
        for (stem, line, want) in [
            (
                "mysite",
                "",
                "Serve(Serve { options: Options { config: None, help: false, settings: [], listeners: [], directory: None, owner: None }, asked: false })",
            ),
            ("mysite", "check --help", "Help(Command(\"check\"))"),
            ("mysite", "help check", "Help(Command(\"check\"))"),
            (
                "mysite",
                "check --json",
                "Check(Flags { json: true, config: None, url: None })",
            ),
            (
                "mysite",
                "check --config a.toml",
                "Check(Flags { json: false, config: Some(\"a.toml\"), url: None })",
            ),
            (
                "mysite",
                "status --json --config=b",
                "Status(Flags { json: true, config: Some(\"b\"), url: None })",
            ),
            ("mysite", "status", "Status(Flags { json: false,"),
            ("mysite", "help", "Help(General)"),
            ("mysite", "--help", "Help(General)"),
            ("runfcgi", "help", "Help(Options)"),
            ("mysite", "runfcgi help", "Help(Options)"),
            ("mysite", "help runfcgi", "Help(Options)"),
            (
                "mysite",
                "help limits.queue",
                "Help(One(Opt { section: \"limits\", key: \"queue\"",
            ),
            ("mysite", "version", "Version"),
            ("mysite", "-V", "Version"),
            ("mysite", "runfcgi status", "Status(Flags { json: false,"),
            (
                "mysite",
                "init",
                "Init(Init { yes: false, print: false, project: None, config: None, remote: None,",
            ),
            (
                "mysite",
                "init --yes --print --project a",
                "Init(Init { yes: true, print: true, project: Some(\"a\"),",
            ),
            (
                "mysite",
                "init -y --project=b",
                "Init(Init { yes: true, print: false, project: Some(\"b\"),",
            ),
            (
                "mysite",
                "init --remote --config=c.toml --platform a --platform=b",
                "Init(Init { yes: false, print: false, project: None, config: Some(\"c.toml\"), remote: Some(\"upload\"), \
                 python: None, platforms: [\"a\", \"b\"] })",
            ),
            (
                "mysite",
                "init --remote there --python 3.9",
                "Init(Init { yes: false, print: false, project: None, config: None, remote: Some(\"there\"), \
                 python: Some(\"3.9\"), platforms: [] })",
            ),
            ("mysite", "internal-self-test", "SelfTest"),
        ] {
            let got = format!("{:?}", read(stem, line, false).unwrap());
            assert!(got.starts_with(want), "{line}: {got}");
        }
    }

    #[test]
    fn options_need_no_command() {
        for (stem, line) in [
            ("mysite", "runfcgi socket=/x"),
            ("mysite", "socket=/x"),
            ("mysite", "daemonize socket=/x"),
            ("mysite", "--config f socket=/x"),
            ("runfcgi", "socket=/x debug"),
        ] {
            match read(stem, line, false) {
                Ok(Command::Serve(serve)) => assert!(serve.asked, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn arguments_from_a_visitor_are_ignored() {
        for line in [
            "help",
            "status",
            "runfcgi errlog=/tmp/x socket=/tmp/y",
            "-V",
        ] {
            match read("mysite", line, true) {
                Ok(Command::Serve(serve)) => assert!(!serve.asked),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn wrong_arguments_are_explained() {
        for (line, want) in [
            ("chekc", "did you mean check?"),
            ("dance", "`mysite.fcgi help` lists"),
            ("internal-launch --python /bin/sh --", "unknown command"),
            ("status --xml", "known are: --json, --config FILE"),
            ("check --config", "a file is missing"),
            ("init --project", "a directory is missing"),
            ("init --force", "known are: --yes"),
            ("init --remote --python 3", "3: this is no version"),
            ("init --remote --platform", "a name is missing"),
            ("help umsk", "did you mean umask?"),
            ("runfcgi sokcet=/x", "did you mean socket?"),
        ] {
            let text = refusal(&read("mysite", line, false).unwrap_err());
            assert!(text.contains(want), "{line}: {text}");
        }
    }
}
