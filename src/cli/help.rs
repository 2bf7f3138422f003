//! The texts of `help`.

use super::commands::{COMMANDS, Row};
use super::version_text;
use crate::config::table::{self, Opt};
use std::fmt::Write;
use std::path::Path;

/// Maximum width of a paragraph, in columns.
const WIDTH: usize = 120;
/// The width of the column of commands.
const USAGE: usize = 34;

pub(super) const ABOUT: &str =
    "runs a Django site, or any WSGI app, behind a web server that you do not control";
pub(super) const SETTINGS_FILE: &str = "Without --config, the settings of mysite.fcgi are in mysite.toml, beside it or in one \
    of the two directories above; the variable RUNFCGI_CONFIG names another file.";
pub(super) const EXIT_STATUS: &str =
    "0 success, 1 something failed, 2 the command line or the settings are wrong.";
pub(super) const OPTIONS: &str = "Give socket, or host and port; without them the web server's socket on descriptor 0 is \
    served. Options override the settings file. socket= and host= port= may be given several times; a protocol= applies to \
    those after it. A key without a value means true.";
/// Command lines of `runfcgi`.
pub(super) const EXAMPLES: [&str; 4] = [
    "runfcgi method=prefork socket=/home/user/mysite.sock pidfile=django.pid",
    "runfcgi daemonize=false socket=/tmp/mysite.sock maxrequests=1",
    "runfcgi method=threaded host=127.0.0.1 port=3033",
    "runfcgi protocol=scgi socket=a.sock protocol=ajp host=127.0.0.1 port=8009",
];

/// The text to print when the program was started from a shell without a socket and without arguments. `config` is the
/// settings file that was found.
pub fn alone(program: &str, stem: &str, config: Option<&Path>) -> String {
    let settings = match config {
        Some(path) => format!("Its settings are in {}.", path.display()),
        None => format!(
            "It has no settings yet: it looks for {stem}.toml beside itself and in the two directories\n\
             above. `init` writes one for your project."
        ),
    };
    format!(
        "This is a program for a web server: it runs a Django site, or any WSGI app, behind FastCGI,\n\
         SCGI, AJP or CGI. It was started by hand, without a socket from a web server, so there is\n\
         nothing to serve.\n\
         \n\
         {settings}\n\
         \n\
         \x20 {program} check                         is everything set up correctly?\n\
         \x20 {program} runfcgi socket=mysite.sock    listen on a socket, without a web server\n\
         \x20 {program} help                          all commands\n"
    )
}

/// All commands.
pub(super) fn general() -> String {
    let mut out = format!(
        "{}: {ABOUT}.\n\n\
         The web server starts this program (mod_fcgid, lighttpd, CGI), and then it needs no arguments. By hand:\n\n",
        version_text()
    );
    for row in COMMANDS {
        let name = format!("{} {}", row.name, row.argument);
        let _ = writeln!(out, "  {name:<USAGE$}{}", row.about);
    }
    out.push_str("\n`help check` shows the flags of check, and so on.\n");
    out += &wrap(SETTINGS_FILE);
    out += &wrap(&format!("Exit status: {EXIT_STATUS}"));
    out
}

/// One command.
pub(super) fn command(row: &Row) -> String {
    let mut out = format!("{}\n\n{}.\n", row.usage(), row.about);
    if !row.flags.is_empty() {
        out.push('\n');
    }
    for flag in row.flags {
        let _ = writeln!(out, "  {:<USAGE$}{}", flag.usage(), flag.about);
    }
    for text in row.more {
        let _ = write!(out, "\n{}", wrap(text));
    }
    out
}

/// The options of `runfcgi`.
pub(super) fn options() -> String {
    let mut out = wrap(&format!(
        "runfcgi [key=value ...]: serve the site. {OPTIONS}"
    ));
    out.push('\n');
    for o in table::OPTIONS.iter().filter(|o| o.cli) {
        let default = o.default_description().unwrap_or(o.default);
        let _ = writeln!(out, "  {:<13} {}", o.key, o.help);
        let _ = writeln!(out, "  {:<13} {}; default: {default}", "", o.kind);
    }
    out.push_str("  config        settings file\n  help          this list\n\nExamples:\n");
    for example in EXAMPLES {
        let _ = writeln!(out, "  {example}");
    }
    out
}

/// One setting.
pub(super) fn setting(o: &Opt) -> String {
    let default = o.default_description().unwrap_or(o.default);
    let mut out = format!(
        "{}: {}\n\n  takes    {}\n  default  {default}\n  in file  [{}]\n           {} = {}\n",
        o.key, o.help, o.kind, o.section, o.key, o.example
    );
    if o.cli {
        let _ = writeln!(out, "  option   {}", o.as_option());
    }
    out
}

/// The text in lines of at most `WIDTH` columns.
fn wrap(text: &str) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let width = word.chars().count();
        match column {
            0 => {}
            _ if column + 1 + width > WIDTH => {
                out.push('\n');
                column = 0;
            }
            _ => {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += width;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_command_and_option() {
        let text = options();
        for o in table::OPTIONS.iter().filter(|o| o.cli) {
            assert!(text.contains(&format!("\n  {:<13} ", o.key)), "{}", o.key);
            assert!(setting(o).contains(o.help));
        }
        for row in COMMANDS {
            assert!(general().contains(&format!("\n  {} ", row.name)));
            let text = command(row);
            assert!(text.starts_with(row.name));
            assert!(row.flags.iter().all(|flag| text.contains(flag.name)));
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        }
    }
}
