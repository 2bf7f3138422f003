//! The manual page, generated from the tables of commands and settings, in the macros of man(7).

use super::commands::COMMANDS;
use super::help::{ABOUT, EXAMPLES, EXIT_STATUS, OPTIONS, SETTINGS_FILE};
use super::version_text;
use crate::config::table::{self, SECTIONS};
use std::fmt::Write;

/// The page as input for man or troff.
pub(super) fn page() -> String {
    let mut out = format!(".TH RUNFCGI 1 \"\" \"{}\"\n", version_text());
    section(&mut out, "NAME");
    paragraph(&mut out, &format!("runfcgi - {ABOUT}"));
    section(&mut out, "SYNOPSIS");
    for row in COMMANDS {
        let usage = row.usage();
        let _ = writeln!(out, ".B mysite.fcgi {}", text(row.name));
        let rest = usage[row.name.len()..].trim_start();
        if !rest.is_empty() {
            let _ = writeln!(out, "{}", text(rest));
        }
        let _ = writeln!(out, ".br");
    }
    section(&mut out, "DESCRIPTION");
    paragraph(
        &mut out,
        "The executable bears the name of the site, here mysite.fcgi. The web server starts it (mod_fcgid, lighttpd, CGI), \
         and then it needs no arguments. The commands are for the owner of the site.",
    );
    section(&mut out, "COMMANDS");
    for row in COMMANDS {
        let _ = writeln!(out, ".SS {}", text(row.name));
        paragraph(&mut out, &format!("{}.", capitalize(row.about)));
        for flag in row.flags {
            let short = match flag.short {
                "" => String::new(),
                short => format!("{short}, "),
            };
            item(&mut out, &format!("{short}{}", flag.usage()), flag.about);
        }
        for more in row.more {
            let _ = writeln!(out, ".PP");
            paragraph(&mut out, more);
        }
    }
    section(&mut out, "OPTIONS");
    paragraph(
        &mut out,
        &format!(
            "The options of runfcgi are the settings of [app] and [server] below, as key=value. {OPTIONS}"
        ),
    );
    section(&mut out, "SETTINGS");
    paragraph(&mut out, SETTINGS_FILE);
    for (name, about) in SECTIONS {
        let _ = writeln!(out, ".SS [{}]", text(name));
        paragraph(&mut out, about);
        for opt in table::OPTIONS.iter().filter(|opt| opt.section == *name) {
            let default = opt.default_description().unwrap_or(opt.default);
            let about = format!(
                "{}. Takes {}; default: {default}.",
                capitalize(opt.help),
                opt.kind
            );
            item(&mut out, &format!("{} = {}", opt.key, opt.example), &about);
        }
    }
    section(&mut out, "EXIT STATUS");
    paragraph(&mut out, EXIT_STATUS);
    section(&mut out, "EXAMPLES");
    for example in EXAMPLES {
        let _ = writeln!(out, ".PP\n{}", text(&format!("mysite.fcgi {example}")));
    }
    out
}

fn section(out: &mut String, title: &str) {
    let _ = writeln!(out, ".SH {title}");
}

fn item(out: &mut String, tag: &str, about: &str) {
    let _ = writeln!(out, ".TP\n.B {}", text(tag));
    paragraph(out, about);
}

/// Text, one sentence a line.
fn paragraph(out: &mut String, about: &str) {
    for sentence in about.split_inclusive(". ") {
        let _ = writeln!(out, "{}", text(sentence.trim_end()));
    }
}

/// Text without any meaning to troff: hyphens stay hyphens, so that what is copied from the page works.
fn text(plain: &str) -> String {
    let escaped = plain
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('"', "\\(dq")
        .replace('`', "\\(ga")
        .replace('\'', "\\(aq");
    match escaped.starts_with('.') {
        true => format!("\\&{escaped}"),
        false => escaped,
    }
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
