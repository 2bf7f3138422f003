//! The table of commands and their flags. The parser, `help`, the completions and the manual are generated from it.

use crate::config::Finding;
use std::iter::Peekable;

/// A command.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// What follows the flags, as shown in the usage.
    pub(super) argument: &'static str,
    pub(super) flags: &'static [Flag],
    /// One line of help.
    pub(super) about: &'static str,
    /// Further paragraphs.
    pub(super) more: &'static [&'static str],
}

/// A flag of a command.
#[derive(Debug)]
pub(super) struct Flag {
    /// `--name`.
    pub(super) name: &'static str,
    /// Another name for it.
    pub(super) short: &'static str,
    /// The value that it takes, if any.
    pub(super) value: Option<Value>,
    pub(super) about: &'static str,
}

/// The value of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    File,
    Directory,
    /// It may be left out.
    OptionalDirectory,
    Version,
    Name,
    Url,
}

impl Value {
    /// Takes the value that follows the flag, if there is one.
    fn take<'a>(self, args: &mut Peekable<impl Iterator<Item = &'a String>>) -> Option<String> {
        match self {
            Value::OptionalDirectory => {
                let next = args.next_if(|next| !next.starts_with('-'));
                Some(next.cloned().unwrap_or_default())
            }
            _ => args.next().cloned(),
        }
    }

    /// Its name in the usage.
    pub(super) fn name(self) -> &'static str {
        match self {
            Value::File => "FILE",
            Value::Directory => "DIRECTORY",
            Value::OptionalDirectory => "[DIRECTORY]",
            Value::Version => "VERSION",
            Value::Name => "NAME",
            Value::Url => "URL",
        }
    }
}

const JSON: Flag = Flag {
    name: "--json",
    short: "",
    value: None,
    about: "print JSON, for programs",
};
const CONFIG: Flag = Flag {
    name: "--config",
    short: "-c",
    value: Some(Value::File),
    about: "the settings file, instead of the one that belongs to the executable",
};

/// All commands.
pub(super) const COMMANDS: &[Row] = &[
    Row {
        name: "runfcgi",
        argument: "[key=value ...]",
        flags: &[CONFIG],
        about: "serve the site; `runfcgi help` lists the options",
        more: &[],
    },
    Row {
        name: "init",
        argument: "",
        flags: &[
            Flag {
                name: "--yes",
                short: "-y",
                value: None,
                about: "ask nothing",
            },
            Flag {
                name: "--print",
                short: "",
                value: None,
                about: "write nothing, print the files",
            },
            Flag {
                name: "--project",
                short: "",
                value: Some(Value::Directory),
                about: "where the code is, instead of a search for it",
            },
            CONFIG,
            Flag {
                name: "--remote",
                short: "",
                value: Some(Value::OptionalDirectory),
                about: "at home: make the whole upload for the host in this directory, by default upload",
            },
            Flag {
                name: "--python",
                short: "",
                value: Some(Value::Version),
                about: "with --remote: the host's Python, such as 3.9; by default the version here",
            },
            Flag {
                name: "--platform",
                short: "",
                value: Some(Value::Name),
                about: "with --remote: the host's platform; by default manylinux2014_ and the processor here",
            },
        ],
        about: "write .htaccess and the settings for your project, or make the upload at home",
        more: &[
            "With --remote, it writes what you upload: public_html/ with this program, .htaccess and settings, the project as \
             project.zip, and in wheels/ the packages that requirements.txt names, by `pip download`. --platform, as pip \
             calls it, may be repeated. An existing directory is written into only with --yes; settings in it stay.",
        ],
    },
    Row {
        name: "check",
        argument: "",
        flags: &[
            JSON,
            CONFIG,
            Flag {
                name: "--url",
                short: "",
                value: Some(Value::Url),
                about: "ask the live site at its address, instead of acting as the web server",
            },
        ],
        about: "examine the site, act as the web server, and report problems",
        more: &[
            "It reads the settings and .htaccess, finds Python, imports the app, asks Django (`check --deploy`, migrations, \
             database, static files), and checks permissions, disk space and limits. Then it starts this program as \
             mod_fcgid does and as CGI, with a runtime directory and log of its own. It requests the front page, a page \
             that does not exist and the login page, sends a POST, an upload and an aborted request, and tries a restart. \
             The running site is not disturbed, and nothing is changed. If root runs it, it does all this as the owner of \
             the executable.",
            "With --url https://www.example.org/ it asks the live web server instead: whether requests reach this program, and \
             by which handler; whether paths, the Authorization header and uploads of up to 16 MiB arrive; where redirects \
             lead; whether style sheets are there, and whether visitors can read mysite.toml, logs or code. It sends requests \
             with curl, or with the site's Python.",
            "Exit status: 0 no errors (there may be warnings), 1 errors, 2 the command line is wrong.",
        ],
    },
    Row {
        name: "status",
        argument: "",
        flags: &[JSON, CONFIG],
        about: "show the state of the running site",
        more: &[
            "Exit status: 0 the site runs, 1 it does not, or not where it can be seen from here.",
        ],
    },
    Row {
        name: "explain",
        argument: "[code]",
        flags: &[],
        about: "explain a message code such as RF0103, and what to do about it; or list all codes",
        more: &[],
    },
    Row {
        name: "help",
        argument: "[command, option or code]",
        flags: &[],
        about: "this text, or details of one command, option, setting or code",
        more: &[],
    },
    Row {
        name: "completions",
        argument: "bash|zsh",
        flags: &[],
        about: "print a script that completes commands and options in your shell",
        more: &[
            "Load it with `source <(./mysite.fcgi completions bash)`; for zsh, after compinit.",
        ],
    },
    Row {
        name: "man",
        argument: "",
        flags: &[],
        about: "print the manual page, for `man -l -`",
        more: &[],
    },
    Row {
        name: "version",
        argument: "",
        flags: &[],
        about: "print the version",
        more: &[],
    },
];

impl Row {
    /// Name, flags and argument.
    pub(super) fn usage(&self) -> String {
        let mut out = self.name.to_owned();
        for flag in self.flags {
            out += &format!(" [{}]", flag.usage());
        }
        if !self.argument.is_empty() {
            out += &format!(" {}", self.argument);
        }
        out
    }

    /// The given flags with their values, in order.
    pub(super) fn parse(
        &self,
        args: &[String],
    ) -> Result<Vec<(&'static str, String)>, Vec<Finding>> {
        let mut given = Vec::new();
        let mut args = args.iter().peekable();
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let flag = self.flags.iter().find(|flag| flag.is(name));
            let Some(flag) = flag.filter(|flag| flag.value.is_some() || inline.is_none()) else {
                let known: Vec<String> = self.flags.iter().map(Flag::usage).collect();
                let fix = match known.as_slice() {
                    [] => format!("`{}` takes no arguments", self.name),
                    known => format!("known are: {}", known.join(", ")),
                };
                return super::usage(arg, "unknown argument", &fix);
            };
            let value = match flag.value {
                None => String::new(),
                Some(value) => match inline.or_else(|| value.take(&mut args)) {
                    Some(text) => text,
                    None => {
                        let what = format!("a {} is missing", value.name().to_lowercase());
                        return super::usage(arg, &what, &flag.usage());
                    }
                },
            };
            given.push((flag.name, value));
        }
        Ok(given)
    }
}

impl Flag {
    /// The flag and its value.
    pub(super) fn usage(&self) -> String {
        match self.value {
            Some(value) => format!("{} {}", self.name, value.name()),
            None => self.name.to_owned(),
        }
    }

    fn is(&self, name: &str) -> bool {
        // `config=FILE` is Django's form.
        name == self.name
            || !name.is_empty() && name == self.short
            || name == "config" && self.name == "--config"
    }
}

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    COMMANDS.iter().find(|row| row.name == name)
}

/// The names of all commands.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|row| row.name)
}
