//! Renders the block of `.htaccess` that `init` manages, and merges it into an existing file.
//!
//! Pure functions of text. Lines outside the block are preserved byte for byte.

/// The block for an executable named `mysite.fcgi`.
const TEMPLATE: &str = include_str!("../../htaccess-templates/site.htaccess");
/// The `.htaccess` of a directory that Apache must not serve.
pub(super) const DENY_ALL: &str = include_str!("../../htaccess-templates/deny-all.htaccess");
/// A line of the template that is commented out. Owners enable it on hosts that need and allow it.
const EXEC_CGI: &str = "Options +ExecCGI";
/// First line of the block.
const BEGIN: &str = "# BEGIN runfcgi";
/// Last line of the block.
const END: &str = "# END runfcgi";

/// The block for an executable of this name: letters, digits, `-` and `_`, then `.fcgi`.
pub(super) fn block(executable: &str) -> String {
    let stem = executable.trim_end_matches(".fcgi");
    TEMPLATE.replace("mysite.", &format!("{stem}."))
}

/// The result of a merge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// The file already has this very block.
    Unchanged,
    /// The new text, and the directives of the old block that it no longer has.
    Changed { text: Vec<u8>, dropped: Vec<String> },
}

/// Merges the block for `executable` into `old`. Replaces the block if there is one; else appends it, so that the
/// owner's redirects come first. The error is the number of the offending line and what is wrong with it.
pub(super) fn merge(old: &[u8], executable: &str) -> Result<Merged, (usize, String)> {
    let block = block(executable);
    let lines: Vec<&[u8]> = old.split_inclusive(|b| *b == b'\n').collect();
    let is = |line: &[u8], mark: &str| line.trim_ascii() == mark.as_bytes();
    let positions = |mark: &str| -> Vec<usize> {
        let found = lines.iter().enumerate().filter(|(_, line)| is(line, mark));
        found.map(|(at, _)| at).collect()
    };
    let (begins, ends) = (positions(BEGIN), positions(END));
    let (before, inside, after) = match (begins.as_slice(), ends.as_slice()) {
        ([], []) => (&lines[..], &lines[..0], &lines[..0]),
        ([begin], [end]) if begin < end => {
            (&lines[..*begin], &lines[*begin..=*end], &lines[end + 1..])
        }
        ([_, second, ..], _) => return Err((second + 1, format!("a second `{BEGIN}`"))),
        ([begin, ..], _) => {
            return Err((begin + 1, format!("`{BEGIN}` has no `{END}` after it")));
        }
        ([], [end, ..]) => return Err((end + 1, format!("`{END}` has no `{BEGIN}` before it"))),
    };
    let names_executable = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        !line.trim_start().starts_with('#') && line.contains(executable)
    };
    let outside = [(0, before), (before.len() + inside.len(), after)];
    for (first, lines) in outside {
        if let Some(at) = lines.iter().position(|line| names_executable(line)) {
            let what = format!("it names {executable} outside the block of `init`");
            return Err((first + at + 1, what));
        }
    }
    let old_block = inside.concat();
    // Keep this line enabled if the owner has enabled it.
    let exec_cgi = inside.iter().any(|line| is(line, EXEC_CGI));
    let block = match exec_cgi {
        true => block.replace(&format!("# {EXEC_CGI}"), EXEC_CGI),
        false => block,
    };
    if old_block == block.as_bytes() {
        return Ok(Merged::Unchanged);
    }
    let mut text = before.concat();
    if inside.is_empty() && !text.is_empty() {
        let end = if text.ends_with(b"\n") { "\n" } else { "\n\n" };
        text.extend(end.as_bytes());
    }
    text.extend(block.as_bytes());
    text.extend(after.concat());
    let kept: Vec<&str> = block.lines().map(str::trim).collect();
    let dropped = String::from_utf8_lossy(&old_block)
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("# ") && !kept.contains(line))
        .map(String::from)
        .collect();
    Ok(Merged::Changed { text, dropped })
}

/// The number of the first line outside the block that is a `RewriteRule`.
pub(super) fn first_own_rule(old: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(old);
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        match line.trim() {
            BEGIN => inside = true,
            END => inside = false,
            line if !inside && line.to_ascii_lowercase().starts_with("rewriterule") => {
                return Some(at + 1);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(old: &[u8]) -> (String, Vec<String>) {
        match merge(old, "mysite.fcgi") {
            Ok(Merged::Changed { text, dropped }) => (String::from_utf8(text).unwrap(), dropped),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_is_put_in_once() {
        let block = block("mysite.fcgi");
        assert_eq!(block, TEMPLATE);
        for (old, want) in [
            ("", block.clone()),
            ("# mine\n", format!("# mine\n\n{block}")),
            (
                "ErrorDocument 404 /x",
                format!("ErrorDocument 404 /x\n\n{block}"),
            ),
            ("a\r\nb\r\n", format!("a\r\nb\r\n\n{block}")),
        ] {
            let (text, dropped) = changed(old.as_bytes());
            assert_eq!(text, want);
            assert_eq!(dropped, [""; 0]);
            assert_eq!(merge(text.as_bytes(), "mysite.fcgi"), Ok(Merged::Unchanged));
        }
    }

    #[test]
    fn what_stands_around_it_stays_where_it_is() {
        let block = block("mysite.fcgi");
        let old = "Redirect /a /b\n# BEGIN runfcgi\r\nOptions -Indexes\n# a comment\n# END runfcgi\nafter";
        let (text, dropped) = changed(old.as_bytes());
        assert_eq!(text, format!("Redirect /a /b\n{block}after"));
        assert_eq!(dropped, ["Options -Indexes"]);
        let old = b"\xff\n# BEGIN runfcgi\n# END runfcgi\n\xfe";
        let Ok(Merged::Changed { text, .. }) = merge(old, "mysite.fcgi") else {
            panic!("it is not merged");
        };
        assert_eq!(text, [b"\xff\n", block.as_bytes(), b"\xfe"].concat());
    }

    #[test]
    fn the_line_that_some_hosts_need_stays_switched_on() {
        let (text, dropped) = changed(b"# BEGIN runfcgi\n  Options +ExecCGI\n# END runfcgi\n");
        assert!(text.contains("\nOptions +ExecCGI\n"), "{text}");
        assert_eq!(dropped, [""; 0]);
        assert_eq!(merge(text.as_bytes(), "mysite.fcgi"), Ok(Merged::Unchanged));
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for (old, line) in [
            ("# BEGIN runfcgi\n", 1),
            ("x\n# END runfcgi\n", 2),
            ("# END runfcgi\n# BEGIN runfcgi\n", 2),
            (
                "# BEGIN runfcgi\n# END runfcgi\n# BEGIN runfcgi\n# END runfcgi\n",
                3,
            ),
            ("x\nRewriteRule ^(.*)$ mysite.fcgi/$1 [QSA,L]\n", 2),
            (
                "# BEGIN runfcgi\n# END runfcgi\nRewriteRule ^ mysite.fcgi\n",
                3,
            ),
        ] {
            let error = merge(old.as_bytes(), "mysite.fcgi").unwrap_err();
            assert_eq!(error.0, line, "{old}: {}", error.1);
        }
    }

    #[test]
    fn the_block_is_for_an_executable() {
        let block = block("shop-2.fcgi");
        assert!(block.contains("RewriteRule ^ shop-2.fcgi [L]"));
        assert!(!block.contains("mysite"), "{block}");
    }

    #[test]
    fn rules_of_the_owner_are_seen() {
        assert_eq!(first_own_rule(TEMPLATE.as_bytes()), None);
        assert_eq!(first_own_rule(b"a\n  rewriterule ^ x [L]\n"), Some(2));
    }
}
