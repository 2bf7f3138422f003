//! Checks the `.htaccess` file beside the executable.
//!
//! Knows the directives of the templates in `htaccess-templates/`. Others are left to Apache.

use crate::codes;
use crate::config::Finding;
use crate::config::findings::nearest;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const HANDLERS: [&str; 3] = ["fcgid-script", "fastcgi-script", "cgi-script"];
/// The directives of the templates.
const DIRECTIVES: [&str; 17] = [
    "AddHandler",
    "AddOutputFilterByType",
    "AuthName",
    "AuthType",
    "AuthUserFile",
    "DirectoryIndex",
    "ErrorDocument",
    "Header",
    "Options",
    "Redirect",
    "RedirectMatch",
    "Require",
    "RewriteBase",
    "RewriteCond",
    "RewriteEngine",
    "RewriteRule",
    "SetHandler",
];
const SECTIONS: [&str; 10] = [
    "IfModule",
    "IfDefine",
    "IfVersion",
    "If",
    "ElseIf",
    "Else",
    "Files",
    "FilesMatch",
    "Limit",
    "LimitExcept",
];

/// A directive or section tag.
struct Line {
    /// The number of its first line in the file.
    number: usize,
    words: Vec<String>,
}

/// Whether `.htaccess` makes Apache run our executable, and its mistakes.
pub(super) fn htaccess(dir: &Path, stem: &str) -> Vec<Finding> {
    let path = dir.join(".htaccess");
    let place = path.display().to_string();
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return vec![Finding::warning(
                codes::place::NO_HTACCESS,
                place,
                "there is none; under Apache it tells which program answers",
                "`init` writes one; other web servers do not need it",
            )];
        }
        Err(e) => {
            let what = format!("cannot be read: {e}");
            return vec![Finding::warning(
                codes::place::UNREADABLE_HTACCESS,
                place,
                what,
                "",
            )];
        }
    };
    let lines = lines(&text);
    let mut findings = sections(&lines, &place);
    let mut handlers = Vec::new();
    for line in &lines {
        let place = format!("{place}:{}", line.number);
        findings.extend(misspelled_directive(line, &place));
        let Some(name) = handler(line) else { continue };
        let lower = name.to_ascii_lowercase();
        match HANDLERS.iter().find(|known| **known == lower) {
            Some(known) => handlers.push(*known),
            None => findings.extend(nearest(&lower, HANDLERS).map(|near| {
                Finding::error(
                    codes::place::UNKNOWN_HANDLER,
                    place,
                    format!("Apache has no handler {name}, so it sends the program as a file, or answers with 500"),
                    format!("did you mean {near}?"),
                )
            })),
        }
    }
    handlers.dedup();
    match handlers.is_empty() {
        false => findings.push(Finding::good(
            &place,
            format!("hands requests to {}", handlers.join(", else to ")),
        )),
        true => findings.push(Finding::warning(
            codes::place::NO_HANDLER,
            &place,
            "no handler is named, so Apache may send the program as a file",
            "`init` writes the lines that are needed",
        )),
    }
    let ours = format!("{stem}.").to_ascii_lowercase();
    let names_us = |line: &Line| {
        line.words
            .iter()
            .any(|word| word.to_ascii_lowercase().contains(&ours))
    };
    if !lines.iter().any(names_us) {
        findings.push(Finding::warning(
            codes::place::NO_REWRITE,
            &place,
            format!("{stem}.fcgi is not named, so only URLs with its name reach the site"),
            format!("RewriteEngine On\nRewriteCond %{{REQUEST_FILENAME}} !-f\nRewriteRule ^ {stem}.fcgi [L]"),
        ));
    }
    if fs::metadata(&path).is_ok_and(|m| m.mode() & 0o044 == 0) {
        findings.push(Finding::warning(
            codes::place::PRIVATE_HTACCESS,
            &place,
            "the web server may not be able to read it",
            format!("chmod 644 {place}"),
        ));
    }
    findings
}

/// The lines without blank ones and comments. A backslash at the end of a line joins it with the next.
fn lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut whole = String::new();
    let mut first = 0;
    for (number, line) in text.lines().enumerate() {
        if whole.is_empty() {
            first = number + 1;
        }
        whole.push_str(line.trim());
        if whole.ends_with('\\') {
            whole.pop();
            continue;
        }
        if !whole.is_empty() && !whole.starts_with('#') {
            let words = whole.split_whitespace().map(str::to_owned).collect();
            lines.push(Line {
                number: first,
                words,
            });
        }
        whole.clear();
    }
    lines
}

/// Sections that are not closed or not open: Apache then responds to every request with 500.
fn sections(lines: &[Line], place: &str) -> Vec<Finding> {
    let mut open: Vec<(&str, usize)> = Vec::new();
    let wrong = |number, what| {
        let place = format!("{place}:{number}");
        let fix = "each <Section ...> needs its </Section>";
        vec![Finding::error(
            codes::place::BROKEN_HTACCESS,
            place,
            what,
            fix,
        )]
    };
    for line in lines {
        let word = line.words.first().map_or("", String::as_str);
        if let Some(name) = word.strip_prefix("</") {
            let name = name.trim_end_matches('>');
            match open.pop() {
                Some((opened, _)) if opened.eq_ignore_ascii_case(name) => {}
                _ => return wrong(line.number, format!("</{name}> closes no section")),
            }
        } else if let Some(name) = word.strip_prefix('<') {
            open.push((name.trim_end_matches('>'), line.number));
        }
    }
    match open.pop() {
        Some((name, number)) => wrong(number, format!("<{name}> is not closed")),
        None => Vec::new(),
    }
}

/// A name that differs slightly from a directive: Apache then responds to every request with 500.
fn misspelled_directive(line: &Line, place: &str) -> Option<Finding> {
    let word = line.words.first()?;
    let (name, known): (&str, &[&str]) = match word.strip_prefix("</").or(word.strip_prefix('<')) {
        Some(name) => (name.trim_end_matches('>'), &SECTIONS),
        None => (word, &DIRECTIVES),
    };
    if known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return None;
    }
    let lower: Vec<String> = known.iter().map(|k| k.to_ascii_lowercase()).collect();
    let near = nearest(name, lower.iter().map(String::as_str))?;
    let near = known.iter().find(|k| k.eq_ignore_ascii_case(near))?;
    // It may be a directive that the templates do not use, so be strict about what is similar.
    let close = near.len().abs_diff(name.len()) <= 1 && name.len() > 4;
    close.then(|| {
        let what = format!("{name} is no directive that we know; Apache answers with 500 if it does not know it either");
        Finding::warning(codes::place::BROKEN_HTACCESS, place, what, format!("did you mean {near}?"))
    })
}

/// The handler that a line sets.
fn handler(line: &Line) -> Option<String> {
    let bare = |word: &String| word.trim_matches('"').to_owned();
    let directive = line.words.first()?.to_ascii_lowercase();
    match directive.as_str() {
        "addhandler" | "sethandler" => line.words.get(1).map(bare),
        "rewriterule" => {
            let flags = line.words.last()?.strip_prefix('[')?.strip_suffix(']')?;
            let of = |flag: &str| flag.strip_prefix("H=").map(str::to_owned);
            flags.split(',').find_map(of)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::findings::codes;
    use crate::scratch::Scratch;

    #[test]
    fn htaccess_must_name_a_handler_and_us() {
        let dir = Scratch::new("check-htaccess");
        for (text, want) in [
            (
                "AddHandler fcgid-script .fcgi\nRewriteRule ^(.*)$ mysite.fcgi/$1\n",
                &["ok"][..],
            ),
            (
                "<Files mysite.fcgi>\r\n  SetHandler cgi-script\r\n</Files>\r\n",
                &["ok"],
            ),
            (
                "# AddHandler fcgid-script .fcgi\nRewriteRule ^(.*)$ mysite.fcgi/$1\n",
                &["RF0222"],
            ),
            ("AddHandler fastcgi-script .fcgi\n", &["ok", "RF0223"]),
        ] {
            dir.write(".htaccess", text, 0o644);
            assert_eq!(codes(&htaccess(&dir, "mysite")), want, "{text}");
        }
        dir.mode(".htaccess", 0o600);
        assert!(codes(&htaccess(&dir, "mysite")).contains(&String::from("RF0224")));
    }

    #[test]
    fn mistakes_that_make_apache_respond_with_500() {
        let dir = Scratch::new("check-htaccess-mistakes");
        let good = "RewriteRule ^ mysite.fcgi [L]\n";
        for (text, code, want) in [
            (
                "AddHandler fcgi-script .fcgi\n",
                "RF0225",
                "did you mean fcgid-script?",
            ),
            (
                "RewriteRule \\.fcgi - [H=cgiscript]\n",
                "RF0225",
                "did you mean cgi-script?",
            ),
            (
                "<IfModule mod_fcgid.c>\nSetHandler fcgid-script\n",
                "RF0226",
                "<IfModule> is not closed",
            ),
            (
                "SetHandler fcgid-script\n</Files>\n",
                "RF0226",
                "</Files> closes no section",
            ),
            (
                "RewriteEngin On\nSetHandler fcgid-script\n",
                "RF0226",
                "did you mean RewriteEngine?",
            ),
        ] {
            dir.write(".htaccess", format!("{text}{good}"), 0o644);
            let found = htaccess(&dir, "mysite");
            assert_eq!(codes(&found)[0], code, "{text}: {found:?}");
            assert!(found[0].to_string().contains(want), "{text}: {}", found[0]);
        }
    }

    #[test]
    fn our_template_is_understood() {
        let dir = Scratch::new("check-htaccess-template");
        dir.write(
            ".htaccess",
            include_str!("../../htaccess-templates/site.htaccess"),
            0o644,
        );
        let found = htaccess(&dir, "mysite");
        assert_eq!(codes(&found), ["ok"], "{found:?}");
        assert!(found[0].what.contains("fcgid-script"), "{}", found[0]);
    }
}
