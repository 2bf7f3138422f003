//! The command line: words in, a `Command` or the reasons why not out; and the texts of `help`.
//!
//! A pure parser: prints nothing, ends nothing, reads no environment. Under CGI the words come from the visitor
//! (RFC 3875 section 4.4, a query without `=`), so there none is ever heeded.

use crate::config::table::{self, Kind, Opt};
use crate::config::{Finding, Options, findings::did_you_mean};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

/// Status to leave with when all went well.
pub const EXIT_OK: u8 = 0;
/// Status when something went wrong, or `check` found an error.
pub const EXIT_FAILED: u8 = 1;
/// Status when the command line or the settings are wrong.
pub const EXIT_USAGE: u8 = 2;

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Serve the site.
    Serve(Serve),
    /// Look at everything and tell what is wrong.
    Check(Common),
    /// Tell how the running site does.
    Status {
        /// For programs.
        json: bool,
        /// What all commands take.
        common: Common,
    },
    /// Explain.
    Help(Topic),
    /// Say the version.
    Version,
    /// Hidden: a new image shows that it runs.
    SelfTest,
}

/// What `Command::Serve` needs.
#[derive(Debug, Default)]
pub struct Serve {
    /// The `key=value` words.
    pub options: Options,
    /// `runfcgi` was said, or options: somebody sits at a shell. Without, descriptor 0 says what is wanted; when it
    /// is neither a socket nor CGI, [`alone`] is the answer.
    pub asked: bool,
}

/// What all commands take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
}

/// What to explain.
#[derive(Clone, Copy, Debug)]
pub enum Topic {
    /// The commands.
    General,
    /// The options of `runfcgi`.
    Options,
    /// One setting.
    One(&'static Opt),
    /// All settings as Markdown.
    Reference,
}

const COMMANDS: &[(&str, &str)] = &[
    (
        "runfcgi [key=value ...]",
        "serve the site; `runfcgi help` lists the options",
    ),
    (
        "check",
        "look at settings, Python, app and permissions, and tell what is wrong",
    ),
    (
        "status [--json]",
        "tell how the running site does (--json: for programs)",
    ),
    (
        "help [option]",
        "this text, or more on one option or setting",
    ),
    ("version", "tell the version"),
];

/// Understands the words after the program's name. `stem` is that name without directory and extension; `cgi`: the
/// environment has GATEWAY_INTERFACE, so the words are the visitor's and are not heeded.
pub fn parse(stem: &str, words: Vec<OsString>, cgi: bool) -> Result<Command, Vec<Finding>> {
    if cgi || words.is_empty() {
        return Ok(Command::Serve(Serve::default()));
    }
    let mut text = Vec::new();
    for word in words {
        match word.into_string() {
            Ok(word) => text.push(word),
            Err(word) => return usage(&word.to_string_lossy(), "this word is not UTF-8", ""),
        }
    }
    let rest = &text[1..];
    match text[0].as_str() {
        // `mysite.fcgi runfcgi check` is meant as it sounds.
        "runfcgi" if rest.first().is_some_and(|w| is_command(w)) => {
            parse("runfcgi", rest.iter().map(OsString::from).collect(), cgi)
        }
        "runfcgi" => serve(rest),
        "check" => flags(rest, &[]).map(|f| Command::Check(f.common)),
        "status" => flags(rest, &["--json"]).map(|f| Command::Status {
            json: !f.given.is_empty(),
            common: f.common,
        }),
        "help" | "--help" | "-h" => help(stem, rest),
        "version" | "--version" | "-V" => Ok(Command::Version),
        "internal-self-test" => Ok(Command::SelfTest),
        // The program may itself be called runfcgi, and options are plain to see.
        word if word.contains('=') || stem == "runfcgi" || is_flag(word) => serve(&text),
        word => {
            let names = COMMANDS.iter().map(|(usage, _)| first_word(usage));
            let fix = did_you_mean(word, names, &format!("`{stem} help` lists the commands"));
            usage(word, "unknown command", &fix)
        }
    }
}

/// The text of a topic.
pub fn help_text(topic: Topic) -> String {
    match topic {
        Topic::General => general(),
        Topic::Options => options(),
        Topic::One(opt) => one(opt),
        Topic::Reference => table::reference_markdown(),
    }
}

/// What `version` tells.
pub fn version_text() -> String {
    format!("runfcgi {}", env!("CARGO_PKG_VERSION"))
}

/// What is told when the program was started from a shell, without a socket and without words. `config` is the
/// settings file that was found.
pub fn alone(program: &str, stem: &str, config: Option<&std::path::Path>) -> String {
    let settings = match config {
        Some(path) => format!("Its settings are in {}.", path.display()),
        None => format!(
            "It has no settings yet: it looks for {stem}.toml beside itself and in the two directories\n\
             above. The README shows one of four lines."
        ),
    };
    format!(
        "This is a program for a web server: it runs a Django site, or any WSGI app, behind FastCGI,\n\
         SCGI, AJP or CGI. It was started by hand, without a socket from a web server, so there is\n\
         nothing to serve.\n\
         \n\
         {settings}\n\
         \n\
         \x20 {program} check                         does everything fit?\n\
         \x20 {program} runfcgi socket=mysite.sock    serve at a socket, without a web server's help\n\
         \x20 {program} help                          all commands\n"
    )
}

/// All findings and a summary, as text for standard error.
pub fn refusal(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let _ = writeln!(out, "{f}");
    }
    out
}

fn serve(words: &[String]) -> Result<Command, Vec<Finding>> {
    let options = Options::parse(words)?;
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
        [word] if word == "runfcgi" || word == "options" => Topic::Options,
        [word] if word == "reference" => Topic::Reference,
        [word, ..] => {
            let key = word.rsplit('.').next().unwrap_or(word);
            match table::OPTIONS.iter().find(|o| o.key == key) {
                Some(opt) => Topic::One(opt),
                None if is_command(word) => Topic::General,
                None => {
                    let known = table::OPTIONS.iter().map(|o| o.key);
                    let fix = did_you_mean(key, known, "`help runfcgi` lists the options");
                    return usage(word, "there is no such option or setting", &fix);
                }
            }
        }
    };
    Ok(Command::Help(topic))
}

struct Flags {
    given: Vec<String>,
    common: Common,
}

fn flags(rest: &[String], known: &[&str]) -> Result<Flags, Vec<Finding>> {
    let mut given = rest.to_vec();
    let common = take_config(&mut given)?;
    if let Some(word) = given.iter().find(|w| !known.contains(&w.as_str())) {
        let mut all = known.to_vec();
        all.push("--config FILE");
        return usage(
            word,
            "unknown here",
            &format!("known are: {}", all.join(", ")),
        );
    }
    Ok(Flags { given, common })
}

fn take_config(words: &mut Vec<String>) -> Result<Common, Vec<Finding>> {
    let mut common = Common::default();
    let mut rest = Vec::new();
    let mut it = std::mem::take(words).into_iter();
    while let Some(word) = it.next() {
        if word == "--config" || word == "-c" {
            match it.next() {
                Some(file) => common.config = Some(PathBuf::from(file)),
                None => return usage(&word, "a file is missing", "--config FILE"),
            }
        } else if let Some(file) = word
            .strip_prefix("--config=")
            .or_else(|| word.strip_prefix("config="))
        {
            common.config = Some(PathBuf::from(file));
        } else {
            rest.push(word);
        }
    }
    *words = rest;
    Ok(common)
}

fn usage<T>(word: &str, what: &str, fix: &str) -> Result<T, Vec<Finding>> {
    Err(vec![Finding::error("RF0150", word, what, fix)])
}

fn is_command(word: &str) -> bool {
    COMMANDS.iter().any(|(usage, _)| first_word(usage) == word)
}

fn first_word(usage: &str) -> &str {
    usage.split(' ').next().unwrap_or(usage)
}

fn is_flag(word: &str) -> bool {
    word == "--config"
        || word == "-c"
        || table::find_cli(&word.to_ascii_lowercase()).is_some_and(|o| o.kind == Kind::Bool)
}

fn general() -> String {
    let mut out = format!(
        "{}: runs a Django site, or any WSGI app, behind a web server that you do not control.\n\n\
         The web server starts this program (mod_fcgid, lighttpd, CGI), and it needs no words then. By hand:\n\n",
        version_text()
    );
    for (usage, line) in COMMANDS {
        let _ = writeln!(out, "  {usage:<26}{line}");
    }
    out.push_str(
        "\nEach takes --config FILE. Without it the settings of mysite.fcgi are in mysite.toml, beside it or in\n\
         one of the two directories above; the variable RUNFCGI_CONFIG names another file.\n\
         Exit status: 0 well, 1 something failed, 2 the words or the settings are wrong.\n",
    );
    out
}

fn options() -> String {
    let mut out = String::from(
        "runfcgi [key=value ...]: serve the site. Give socket, or host and port; without any the web server's\n\
         socket on descriptor 0 is served. The words win over the settings file. Several socket= and host= port=\n\
         may stand there; a protocol= holds for those after it. A bare word means true.\n\n",
    );
    for o in table::OPTIONS.iter().filter(|o| o.cli) {
        let default = o.default_in_words().unwrap_or(o.default);
        let _ = writeln!(out, "  {:<13} {}", o.key, o.help);
        let _ = writeln!(out, "  {:<13} {}; default: {default}", "", o.kind);
    }
    out.push_str(
        "  config        settings file\n  help          this list\n\n\
         Examples:\n\
         \x20 runfcgi method=threaded host=127.0.0.1 port=3033\n\
         \x20 runfcgi method=prefork socket=/home/user/mysite.sock pidfile=django.pid\n\
         \x20 runfcgi daemonize=false socket=/tmp/mysite.sock maxrequests=1\n\
         \x20 runfcgi protocol=scgi socket=a.sock protocol=ajp host=127.0.0.1 port=8009\n",
    );
    out
}

fn one(o: &Opt) -> String {
    let default = o.default_in_words().unwrap_or(o.default);
    let mut out = format!(
        "{}: {}\n\n  takes    {}\n  default  {default}\n  in file  [{}]\n           {} = {}\n",
        o.key, o.help, o.kind, o.section, o.key, o.example
    );
    if o.cli {
        let _ = writeln!(out, "  as word  {}", o.word());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stem: &str, line: &str, cgi: bool) -> Result<Command, Vec<Finding>> {
        let words = line.split_whitespace().map(OsString::from).collect();
        parse(stem, words, cgi)
    }

    #[test]
    fn words_become_commands() {
        for (stem, line, want) in [
            (
                "mysite",
                "",
                "Serve(Serve { options: Options { config: None, help: false, settings: [], listeners: [], directory: None, owner: None }, asked: false })",
            ),
            ("mysite", "check", "Check(Common { config: None })"),
            (
                "mysite",
                "check --config a.toml",
                "Check(Common { config: Some(\"a.toml\") })",
            ),
            (
                "mysite",
                "status --json --config=b",
                "Status { json: true, common: Common { config: Some(\"b\") } }",
            ),
            ("mysite", "status", "Status { json: false,"),
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
            ("mysite", "runfcgi status", "Status { json: false,"),
            ("mysite", "internal-self-test", "SelfTest"),
        ] {
            let got = format!("{:?}", read(stem, line, false).unwrap());
            assert!(got.starts_with(want), "{line}: {got}");
        }
    }

    #[test]
    fn options_are_plain_to_see() {
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
    fn a_visitor_commands_nothing() {
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
    fn wrong_words_have_an_answer() {
        for (line, want) in [
            ("chekc", "did you mean check?"),
            ("dance", "`mysite help` lists"),
            ("internal-launch --python /bin/sh --", "unknown command"),
            ("status --xml", "known are: --json, --config FILE"),
            ("check --config", "a file is missing"),
            ("help umsk", "did you mean umask?"),
            ("runfcgi sokcet=/x", "did you mean socket?"),
        ] {
            let text = refusal(&read("mysite", line, false).unwrap_err());
            assert!(text.contains(want), "{line}: {text}");
        }
    }

    #[test]
    fn help_names_every_option() {
        let text = help_text(Topic::Options);
        for o in table::OPTIONS.iter().filter(|o| o.cli) {
            assert!(text.contains(&format!("\n  {:<13} ", o.key)), "{}", o.key);
            assert!(help_text(Topic::One(o)).contains(o.help));
        }
        for (usage, _) in COMMANDS {
            assert!(help_text(Topic::General).contains(usage));
        }
    }
}
