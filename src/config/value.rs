//! One value of one setting: from what somebody wrote to the plain form that `Config` is read from.
//!
//! A pure function; knows no file and no command line, only the directories that paths are relative to.

use super::findings::nearest;
use super::table::{Kind, Opt, describe, names};
use std::path::{Component, Path, PathBuf};
use toml::Value;

/// A value as written.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) value: Value,
    /// A whole number that was written octal (`0o22`).
    pub(crate) octal: bool,
}

impl Raw {
    /// Of text, or of a value whose spelling does not matter.
    pub(crate) fn text(value: impl Into<Value>) -> Raw {
        Raw {
            value: value.into(),
            octal: false,
        }
    }
}

/// What paths are relative to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    pub(crate) dir: PathBuf,
    pub(crate) home: Option<PathBuf>,
}

/// What is wrong with a value, and the cure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) fix: String,
}

/// The plain form: numbers for sizes, times and modes, the first name of a choice, absolute paths.
pub(crate) fn normalise(opt: &Opt, raw: Raw, base: &Base) -> Result<Value, Problem> {
    let bad = |what: &str| {
        Err(Problem {
            what: format!("{} = {} {what}", opt.key, show(&raw.value)),
            fix: format!("write {}, such as: {}", describe(opt.kind), opt.example),
        })
    };
    match (opt.kind, &raw.value) {
        (Kind::Bool, Value::Boolean(b)) => Ok(Value::Boolean(*b)),
        (Kind::Bool, Value::String(s)) => match boolean(s) {
            Some(b) => Ok(Value::Boolean(b)),
            None => bad("is neither true nor false"),
        },
        (Kind::Text, Value::String(s)) => {
            if s.contains('\0') {
                bad("holds a NUL byte")
            } else {
                Ok(Value::String(s.clone()))
            }
        }
        (Kind::Module, Value::String(s)) => {
            let name = s.trim();
            if dotted(name) {
                return Ok(Value::String(name.to_string()));
            }
            let path = name.trim_end_matches(".py").replace('/', ".");
            match dotted(path.trim_matches('.')) {
                true => Err(Problem {
                    what: format!("{} = {} is a path, not a module", opt.key, show(&raw.value)),
                    fix: format!("write {} = \"{}\"", opt.key, path.trim_matches('.')),
                }),
                false => bad("is not the name of a module"),
            }
        }
        (Kind::Callable, Value::String(s)) => callable(s.trim(), bad),
        (Kind::Path, Value::String(s)) => path(s, base, bad),
        (Kind::Program, Value::String(s)) => {
            if s.contains('/') || s == "~" {
                path(s, base, bad)
            } else if s.is_empty() {
                bad("is empty")
            } else {
                Ok(Value::String(s.clone()))
            }
        }
        (Kind::Paths, Value::String(s)) => Ok(Value::Array(vec![Value::String(s.clone())])),
        (Kind::Paths, Value::Array(list)) => {
            if list
                .iter()
                .all(|v| v.as_str().is_some_and(|s| !s.is_empty()))
            {
                Ok(raw.value.clone())
            } else {
                bad("holds something else than paths")
            }
        }
        (Kind::UrlPath, Value::String(s)) => {
            if s.starts_with('/') && !s.bytes().any(|b| b <= b' ' || b == b'#') {
                Ok(Value::String(s.clone()))
            } else {
                bad("is not the path of a page")
            }
        }
        (Kind::ScriptName, Value::String(s)) => script_name(s, bad),
        (Kind::Count(low, high), Value::Integer(n)) => within(*n, low, high, bad),
        (Kind::Count(low, high), Value::String(s)) => match s.trim().parse() {
            Ok(n) => within(n, low, high, bad),
            Err(_) => bad("is not a whole number"),
        },
        (Kind::Seconds(low, high), Value::Integer(n)) => within(*n, low, high, bad),
        (Kind::Seconds(low, high), Value::String(s)) => match duration(s) {
            Some(d) if d.fract() == 0.0 && d < 1e15 => within(d as i64, low, high, bad),
            Some(_) => bad("is not a whole number of seconds"),
            None => bad("is not a time"),
        },
        (Kind::Fraction, Value::Integer(n)) if *n >= 0 => Ok(Value::Float(*n as f64)),
        (Kind::Fraction, Value::Float(n)) if n.is_finite() && *n >= 0.0 => Ok(Value::Float(*n)),
        (Kind::Fraction, Value::String(s)) => match duration(s) {
            Some(d) => Ok(Value::Float(d)),
            None => bad("is not a time"),
        },
        (Kind::Size(low, high), Value::Integer(n)) => within(*n, low, high, bad),
        (Kind::Size(low, high), Value::String(s)) => match size(s) {
            Some(n) => within(n, low, high, bad),
            None => bad("is not a size"),
        },
        (Kind::Mode, Value::String(s)) => match mode(s.trim()) {
            Some(m) => Ok(Value::Integer(m)),
            None => bad("is not an octal mode from 0 to 0777"),
        },
        (Kind::Mode, Value::Integer(n)) if raw.octal && (0..=0o777).contains(n) => {
            Ok(Value::Integer(*n))
        }
        (Kind::Mode, Value::Integer(n)) if !raw.octal => Err(Problem {
            what: format!("{} = {n} is a decimal number, but modes are octal", opt.key),
            fix: format!("write {} = \"0{n}\" or 0o{n}", opt.key),
        }),
        (Kind::OneOf(groups), Value::String(s)) => choice(opt, groups, s),
        (_, Value::Integer(_) | Value::Float(_)) => bad("is out of range or not expected here"),
        (_, v) => bad(&format!("is {}", type_name(v))),
    }
}

/// true/yes/t/on/1 and their opposites, in any case.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "t" | "on" | "1" => Some(true),
        "false" | "no" | "n" | "f" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn choice(
    opt: &Opt,
    groups: &'static [&'static [&'static str]],
    s: &str,
) -> Result<Value, Problem> {
    let given = s.trim().to_ascii_lowercase();
    let group = groups.iter().find(|g| g.contains(&given.as_str()));
    if let Some(name) = group.and_then(|g| g.first()) {
        return Ok(Value::String(name.to_string()));
    }
    let all = names(groups);
    let every = groups.iter().flat_map(|g| g.iter().copied());
    let meant = nearest(&given, every)
        .and_then(|near| groups.iter().find(|g| g.contains(&near)))
        .and_then(|g| g.first())
        .map_or(String::new(), |name| format!("; did you mean {name}?"));
    Err(Problem {
        what: format!("{} = \"{s}\" is not known", opt.key),
        fix: format!("write one of: {}{meant}", all.join(", ")),
    })
}

fn callable<F: Fn(&str) -> Result<Value, Problem>>(s: &str, bad: F) -> Result<Value, Problem> {
    match s.split_once(':') {
        Some((module, object)) if dotted(module) && dotted(object) => {
            Ok(Value::String(s.to_string()))
        }
        None if dotted(s) && s.contains('.') => {
            let (module, object) = s.rsplit_once('.').unwrap_or((s, "application"));
            Err(Problem {
                what: format!("wsgi = \"{s}\" has no colon between module and callable"),
                fix: format!("write wsgi = \"{module}:{object}\""),
            })
        }
        None if dotted(s) => Err(Problem {
            what: format!("wsgi = \"{s}\" names no callable"),
            fix: format!("write wsgi = \"{s}:application\""),
        }),
        _ => bad("is not module:callable"),
    }
}

fn script_name<F: Fn(&str) -> Result<Value, Problem>>(s: &str, bad: F) -> Result<Value, Problem> {
    let prefix = s.trim_end_matches('/');
    if s.eq_ignore_ascii_case("auto") {
        return Ok(Value::String("auto".to_string()));
    }
    let odd = |b: u8| b <= b' ' || b == b'?' || b == b'#' || b == 0x7f;
    if prefix.bytes().any(odd) || prefix.contains("//") {
        return bad("is not the beginning of a URL's path");
    }
    if prefix.is_empty() || prefix.starts_with('/') {
        return Ok(Value::String(prefix.to_string()));
    }
    bad("does not begin with /")
}

fn path<F: Fn(&str) -> Result<Value, Problem>>(
    s: &str,
    base: &Base,
    bad: F,
) -> Result<Value, Problem> {
    if s.is_empty() {
        return bad("is empty");
    }
    if s.contains('\0') {
        return bad("holds a NUL byte");
    }
    let whole = match s.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match &base.home {
            Some(home) => home.join(rest.trim_start_matches('/')),
            None => {
                return Err(Problem {
                    what: format!("\"{s}\" needs HOME, which the web server did not set"),
                    fix: "write the whole path, beginning with /".to_string(),
                });
            }
        },
        Some(_) if !s.contains('/') || s.find('/') > Some(1) => {
            return Err(Problem {
                what: format!("\"{s}\" names another user's home, which is not looked up"),
                fix: "write the whole path, beginning with /".to_string(),
            });
        }
        _ => base.dir.join(s),
    };
    match tidy(&whole).into_os_string().into_string() {
        Ok(text) => Ok(Value::String(text)),
        Err(_) => bad("lies in a directory whose name is not UTF-8"),
    }
}

/// Without `.` and doubled slashes; `..` stays, as it may lead through a symbolic link.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    path.components()
        .filter(|c| !matches!(c, Component::CurDir))
        .collect()
}

fn within<F: Fn(&str) -> Result<Value, Problem>>(
    n: i64,
    low: u64,
    high: u64,
    bad: F,
) -> Result<Value, Problem> {
    match u64::try_from(n) {
        Ok(u) if (low..=high).contains(&u) => Ok(Value::Integer(n)),
        _ => bad(&format!("is not between {low} and {high}")),
    }
}

fn mode(s: &str) -> Option<i64> {
    let digits = s.strip_prefix("0o").unwrap_or(s);
    if digits.is_empty() || !digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return None;
    }
    i64::from_str_radix(digits, 8)
        .ok()
        .filter(|m| (0..=0o777).contains(m))
}

fn size(s: &str) -> Option<i64> {
    let s = s.trim().to_ascii_uppercase();
    let s = s
        .strip_suffix("IB")
        .or_else(|| s.strip_suffix('B'))
        .unwrap_or(&s);
    let (digits, shift) = match s.as_bytes().last()? {
        b'K' => (&s[..s.len() - 1], 10),
        b'M' => (&s[..s.len() - 1], 20),
        b'G' => (&s[..s.len() - 1], 30),
        b'T' => (&s[..s.len() - 1], 40),
        _ => (s, 0),
    };
    let n: i64 = digits.trim().parse().ok().filter(|n| *n >= 0)?;
    n.checked_mul(1 << shift)
}

fn duration(s: &str) -> Option<f64> {
    let s = s.trim().to_ascii_lowercase();
    let units = [
        ("ms", 0.001),
        ("min", 60.0),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86_400.0),
    ];
    let unit = units.iter().find(|(u, _)| s.ends_with(u));
    let (digits, factor) = match unit {
        Some((u, factor)) => (&s[..s.len() - u.len()], *factor),
        None => (s.as_str(), 1.0),
    };
    let digits = digits.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    digits.parse::<f64>().ok().map(|n| n * factor)
}

/// Whether this is `a.b.c` of Python names; letters beyond ASCII are left to Python.
fn dotted(name: &str) -> bool {
    name.split('.').all(|part| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
            && chars.all(|c| c == '_' || c.is_alphanumeric())
    })
}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) if s.chars().count() > 80 => {
            format!("\"{}...\"", s.chars().take(77).collect::<String>())
        }
        Value::String(s) => format!("{s:?}"),
        Value::Integer(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Datetime(d) => d.to_string(),
        Value::Array(_) => "[...]".to_string(),
        Value::Table(_) => "{...}".to_string(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false, which is not expected here",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::find_cli;
    use super::*;

    fn base() -> Base {
        Base {
            dir: PathBuf::from("/srv/site"),
            home: Some(PathBuf::from("/home/ann")),
        }
    }

    #[test]
    fn good_values() {
        let int = Value::Integer;
        let text = |s: &str| Value::String(s.to_string());
        for (key, given, want) in [
            ("method", "FORK", text("prefork")),
            ("method", "thread", text("threaded")),
            ("protocol", "ajp13", text("ajp")),
            ("protocol", "fastcgi", text("fcgi")),
            ("umask", "0002", int(0o2)),
            ("umask", "022", int(0o22)),
            ("umask", "0o27", int(0o27)),
            ("max_memory", "64K", int(64 << 10)),
            ("max_memory", "10 MB", int(10 << 20)),
            ("max_memory", "1GiB", int(1 << 30)),
            ("max_memory", "123", int(123)),
            ("linger", "5m", int(300)),
            ("linger", "1h", int(3600)),
            ("linger", "30", int(30)),
            ("linger", "0.5h", int(1800)),
            ("debug", "F", Value::Boolean(false)),
            ("debug", "On", Value::Boolean(true)),
            ("socket", "run/./my.sock", text("/srv/site/run/my.sock")),
            ("socket", "~/my.sock", text("/home/ann/my.sock")),
            ("socket", "/x//y", text("/x/y")),
            ("python", "python3.11", text("python3.11")),
            (
                "python",
                "venv/bin/python",
                text("/srv/site/venv/bin/python"),
            ),
            ("script_name", "/", text("")),
            ("script_name", "/shop/", text("/shop")),
            ("script_name", "auto", text("auto")),
            ("wsgi", "a.b:make.app", text("a.b:make.app")),
        ] {
            let opt = find_cli(key).unwrap();
            assert_eq!(
                normalise(opt, Raw::text(given), &base()).as_ref(),
                Ok(&want),
                "{key}={given}"
            );
        }
    }

    #[test]
    fn bad_values_say_the_cure() {
        for (key, given, cure) in [
            (
                "method",
                "forked",
                "prefork, threaded; did you mean prefork?",
            ),
            ("umask", "0o999", "octal"),
            ("umask", "1777", "octal"),
            ("port", "0", "number 1 to 65535"),
            ("port", "70000", "number 1 to 65535"),
            ("port", "http", "number 1 to 65535"),
            ("max_memory", "-1", "64K"),
            ("linger", "soon", "5m"),
            ("linger", "1.5", "5m"),
            (
                "wsgi",
                "mysite.wsgi.application",
                "\"mysite.wsgi:application\"",
            ),
            ("wsgi", "app", "\"app:application\""),
            ("settings", "mysite/settings.py", "\"mysite.settings\""),
            ("script_name", "shop", "prefix"),
            ("socket", "~bob/x.sock", "whole path"),
            ("debug", "maybe", "true or false"),
            ("ping", "ping", "begins with /"),
        ] {
            let opt = find_cli(key).unwrap();
            let problem = normalise(opt, Raw::text(given), &base()).unwrap_err();
            assert!(problem.fix.contains(cure), "{key}={given}: {problem:?}");
        }
    }

    #[test]
    fn modes_written_as_numbers() {
        let opt = find_cli("umask").unwrap();
        let number = |n, octal| Raw {
            value: Value::Integer(n),
            octal,
        };
        assert_eq!(
            normalise(opt, number(0o22, true), &base()),
            Ok(Value::Integer(0o22))
        );
        let problem = normalise(opt, number(22, false), &base()).unwrap_err();
        assert_eq!(problem.fix, "write umask = \"022\" or 0o22");
    }

    #[test]
    fn home_is_only_the_variable() {
        let base = Base {
            home: None,
            ..base()
        };
        let problem = normalise(find_cli("socket").unwrap(), Raw::text("~/x"), &base).unwrap_err();
        assert!(problem.what.contains("HOME"), "{problem:?}");
    }
}
