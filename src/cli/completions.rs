//! The completion scripts for bash and zsh, generated from the tables of commands and settings.

use super::commands::{COMMANDS, Flag, Row, Value};
use crate::codes::Code;
use crate::config::table::{self, Kind, Opt};
use std::fmt::Write;

/// A shell with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// bash 4 or later.
    Bash,
    /// zsh with compinit.
    Zsh,
}

impl Shell {
    /// The shell in these arguments.
    pub(super) fn named(args: &[String]) -> Option<Shell> {
        match args {
            [name] if name == "bash" => Some(Shell::Bash),
            [name] if name == "zsh" => Some(Shell::Zsh),
            _ => None,
        }
    }

    /// A script that defines the completions of `program`, the file name of the executable.
    pub(super) fn script(self, program: &str) -> String {
        // Each site has a function of its own: another site may have another version of the program.
        let function: String = program
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let script = match self {
            Shell::Bash => bash(),
            Shell::Zsh => zsh(),
        };
        script
            .replace("FUNCTION", &format!("_runfcgi_{function}"))
            .replace("PROGRAM", &quote(program))
    }
}

/// What can follow a flag or `key=`.
enum Follows {
    Words(String),
    Files,
    Directories,
    Nothing,
}

impl Follows {
    fn flag(flag: &Flag) -> Follows {
        match flag.value {
            Some(Value::File) => Follows::Files,
            Some(Value::Directory | Value::OptionalDirectory) => Follows::Directories,
            Some(Value::Version | Value::Name | Value::Url) | None => Follows::Nothing,
        }
    }

    fn option(opt: &Opt) -> Follows {
        match opt.kind {
            Kind::Bool => Follows::Words(String::from("true false")),
            Kind::OneOf(_) => Follows::Words(opt.kind.to_string().replace(',', "")),
            Kind::Path | Kind::Program => Follows::Files,
            _ => Follows::Nothing,
        }
    }
}

fn options() -> impl Iterator<Item = &'static Opt> {
    table::OPTIONS.iter().filter(|opt| opt.cli)
}

/// All flags that take a value, once each.
fn flags_with_values() -> Vec<&'static Flag> {
    let mut found: Vec<&Flag> = Vec::new();
    for flag in COMMANDS.iter().flat_map(|row| row.flags) {
        if flag.value.is_some() && found.iter().all(|other| other.name != flag.name) {
            found.push(flag);
        }
    }
    found
}

/// The words that can follow a command, separated by spaces.
fn words(row: &Row) -> String {
    let mut words: Vec<String> = row.flags.iter().map(|flag| flag.name.to_owned()).collect();
    words.push(String::from("--help"));
    let codes = || Code::all().map(|code| code.to_string());
    let commands = || COMMANDS.iter().map(|row| row.name.to_owned());
    match row.name {
        "runfcgi" => words.extend(options().map(|opt| format!("{}=", opt.key))),
        "explain" => words.extend(codes()),
        "completions" => words.extend(["bash", "zsh"].map(String::from)),
        "help" => {
            words.extend(commands());
            words.extend(table::OPTIONS.iter().map(|opt| opt.key.to_owned()));
            words.extend(codes());
        }
        _ => {}
    }
    words.dedup();
    words.join(" ")
}

fn bash() -> String {
    let mut values = String::new();
    let mut put = |pattern: &str, follows: Follows| {
        let action = match follows {
            Follows::Words(words) => format!("words='{words}'"),
            Follows::Files => String::from("files=-f"),
            Follows::Directories => String::from("files=-d"),
            Follows::Nothing => return,
        };
        let _ = writeln!(values, "        {pattern}) {action} ;;");
    };
    for flag in flags_with_values() {
        let short = match flag.short {
            "" => String::new(),
            short => format!(" | {short}"),
        };
        put(&format!("{}{short}", flag.name), Follows::flag(flag));
    }
    for opt in options() {
        put(&format!("{}=", opt.key), Follows::option(opt));
    }
    let mut commands = String::new();
    for row in COMMANDS {
        let _ = writeln!(commands, "        {}) words='{}' ;;", row.name, words(row));
    }
    let names: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
    BASH.replace("    VALUES\n", &values)
        .replace("    COMMANDS\n", &commands)
        .replace("NAMES", &names.join(" "))
}

fn zsh() -> String {
    let (mut commands, mut describe) = (String::new(), String::new());
    for row in COMMANDS {
        let _ = writeln!(
            describe,
            "            {}",
            quote(&format!("{}:{}", row.name, row.about.replace(':', "\\:")))
        );
        let mut specs = Vec::new();
        for flag in row.flags {
            let about = flag.about.replace(['[', ']'], "");
            let (equals, after) = match Follows::flag(flag) {
                Follows::Files => ("=", ":file:_files"),
                Follows::Directories => ("=", ":directory:_files -/"),
                _ if flag.value.is_some() => ("=", ":value:"),
                _ => ("", ""),
            };
            specs.push(quote(&format!("{}{equals}[{about}]{after}", flag.name)));
        }
        specs.push(quote("(- *)--help[show help]"));
        specs.push(match row.name {
            "runfcgi" => quote("*:option:FUNCTION_options"),
            "explain" | "help" | "completions" => {
                let all = words(row);
                let words: Vec<&str> = all.split(' ').filter(|word| *word != "--help").collect();
                quote(&format!("1:argument:({})", words.join(" ")))
            }
            _ => String::new(),
        });
        let _ = writeln!(
            commands,
            "        {}) _arguments {} ;;",
            row.name,
            specs.join(" ").trim_end()
        );
    }
    let (mut values, mut keys) = (String::new(), String::new());
    for opt in options() {
        let _ = write!(keys, " {}=", opt.key);
        let action = match Follows::option(opt) {
            Follows::Words(words) => format!("compadd -- {words}"),
            Follows::Files | Follows::Directories => String::from("_files"),
            Follows::Nothing => continue,
        };
        let _ = writeln!(values, "            {}=) {action} ;;", opt.key);
    }
    ZSH.replace("        VALUES\n", &values)
        .replace("    COMMANDS\n", &commands)
        .replace("            DESCRIBE\n", &describe)
        .replace(" KEYS", &keys)
}

/// A word for a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// `=` separates words in bash, so the value of `key=value` is a word of its own, after the word `=`.
const BASH: &str = r#"# bash completion, printed by `completions bash`.
FUNCTION() {
    local cur=${COMP_WORDS[COMP_CWORD]} key=${COMP_WORDS[COMP_CWORD-1]} words= files=
    if [[ $cur == = ]]; then
        key+== cur=
    elif [[ $key == = ]]; then
        key=${COMP_WORDS[COMP_CWORD-2]}=
    fi
    [[ $key != --*= ]] || key=${key%=}
    case $key in
    VALUES
        *=) ;;
        *) if (( COMP_CWORD == 1 )); then words='NAMES --config --help --version'; else case ${COMP_WORDS[1]} in
    COMMANDS
        esac; fi ;;
    esac
    COMPREPLY=()
    if [[ $files ]]; then
        mapfile -t COMPREPLY < <(compgen "$files" -- "$cur")
        compopt -o filenames
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
    fi
}
complete -F FUNCTION PROGRAM
"#;

const ZSH: &str = r#"# zsh completion, printed by `completions zsh`. It needs compinit.
FUNCTION_options() {
    if compset -P '*='; then
        case ${IPREFIX##* } in
        VALUES
        esac
    else
        compadd -S '' -- KEYS
    fi
}
FUNCTION() {
    if (( CURRENT == 2 )); then
        local -a commands=(
            DESCRIBE
        )
        _describe command commands
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
    COMMANDS
    esac
}
compdef FUNCTION PROGRAM
"#;
