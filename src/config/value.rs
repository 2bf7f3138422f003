//! Parses one value of one setting and converts it to the form that a field of `Config` takes.
//!
//! The same for the file and the command line. The only file system access is to resolve `..` in paths, and names of users.

use super::findings::{Finding, nearest};
use super::row::{Kind, Opt, names};
use crate::codes;
use crate::sys::users::User;
use serde::de::{DeserializeOwned, value::UnitDeserializer};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use toml::Value;

/// A value as written in the file or on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) value: Value,
    /// Whether it is an integer in octal notation (`0o22`).
    pub(crate) octal: bool,
}

impl Raw {
    /// From a string, or from any value whose notation does not matter.
    pub(crate) fn text(value: impl Into<Value>) -> Raw {
        Raw {
            value: value.into(),
            octal: false,
        }
    }
}

/// The directories to which paths are relative: `dir`, and `home` for `~`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    pub(crate) dir: PathBuf,
    pub(crate) home: Option<PathBuf>,
}

/// What is wrong with a value, and how to fix it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) fix: String,
}

impl Problem {
    /// Converts it to a finding about a command-line option.
    pub(crate) fn of_option(self, opt: &Opt) -> Finding {
        let what = self.what.replacen(" = ", "=", 1);
        let fix = self.fix.replace(" = ", "=").replace('"', "");
        Finding::error(
            codes::settings::BAD_OPTION,
            format!("option {}", opt.key),
            what,
            fix,
        )
    }
}

/// A [`Problem`] without the name of the setting: `what` continues the phrase `key = value`.
struct Wrong {
    what: String,
    fix: Fix,
}

enum Fix {
    /// Describe the kind and give an example.
    Default,
    /// Suggest this value, in the notation of the file.
    Value(String),
    /// Use this text.
    Text(String),
}

impl From<&str> for Wrong {
    fn from(what: &str) -> Wrong {
        Wrong::with(what, Fix::Default)
    }
}

impl Wrong {
    fn with(what: impl Into<String>, fix: Fix) -> Wrong {
        let what = what.into();
        Wrong { what, fix }
    }
}

/// Checks and normalises a value: sizes, times and modes become numbers, choices get their canonical name, and paths
/// become absolute.
pub(crate) fn normalise(opt: &Opt, raw: Raw, base: &Base) -> Result<Value, Problem> {
    read(opt.kind, &raw, base).map_err(|wrong| Problem {
        what: format!("{} = {} {}", opt.key, show(&raw.value), wrong.what),
        fix: match wrong.fix {
            Fix::Default => format!("write {}, such as: {}", opt.kind, opt.example),
            Fix::Value(value) => format!("write {} = {value}", opt.key),
            Fix::Text(fix) => fix,
        },
    })
}

/// Checks a value and converts it to the type of its field.
pub(crate) fn field<T: DeserializeOwned>(opt: &Opt, raw: Raw, base: &Base) -> Result<T, Problem> {
    let value = normalise(opt, raw, base)?;
    value.try_into().map_err(|e: toml::de::Error| Problem {
        what: format!("{}: {}", opt.key, e.message()),
        fix: String::new(),
    })
}

/// The default of a field, from `text` in the table: a value, or None for a description in parentheses.
pub(super) fn default<T: DeserializeOwned>(kind: Kind, text: &str) -> T {
    let value = match text.starts_with('(') {
        true => T::deserialize(UnitDeserializer::<toml::de::Error>::new()).ok(),
        false => read(kind, &Raw::text(text), &Base::default())
            .ok()
            .and_then(|value| value.try_into().ok()),
    };
    value.unwrap_or_else(|| panic!("{text} is not a valid {kind}"))
}

fn read(kind: Kind, raw: &Raw, base: &Base) -> Result<Value, Wrong> {
    Ok(match (kind, &raw.value) {
        (_, Value::String(s)) => return read_text(kind, s, base),
        (Kind::Bool, Value::Boolean(b)) => Value::from(*b),
        (Kind::Paths, Value::Array(list)) => {
            let path = |v: &Value| v.as_str().is_some_and(|s| !s.is_empty());
            match list.iter().all(path) {
                true => raw.value.clone(),
                false => return Err("contains something other than paths".into()),
            }
        }
        (Kind::Users, Value::Array(list)) => users(list)?,
        (Kind::Users, Value::Integer(_)) => users(std::slice::from_ref(&raw.value))?,
        (
            Kind::Count(low, high) | Kind::Seconds(low, high) | Kind::Size(low, high),
            Value::Integer(n),
        ) => within(*n, low, high)?,
        (Kind::Fraction, Value::Integer(n)) if *n >= 0 => Value::from(*n as f64),
        (Kind::Fraction, Value::Float(n)) if n.is_finite() && *n >= 0.0 => Value::from(*n),
        (Kind::Mode, Value::Integer(n)) if raw.octal && (0..=0o777).contains(n) => Value::from(*n),
        (Kind::Mode, Value::Integer(n)) if !raw.octal => {
            let fix = Fix::Value(format!("\"0{n}\" or 0o{n}"));
            return Err(Wrong::with("is a decimal number, but modes are octal", fix));
        }
        (_, Value::Integer(_) | Value::Float(_)) => {
            return Err("is out of range or not expected here".into());
        }
        (_, v) => return Err(format!("is {}", type_name(v)).as_str().into()),
    })
}

fn read_text(kind: Kind, s: &str, base: &Base) -> Result<Value, Wrong> {
    Ok(match kind {
        Kind::Bool => boolean(s).ok_or("is neither true nor false")?.into(),
        Kind::Text if s.contains('\0') => return Err("contains a NUL byte".into()),
        Kind::Text => s.into(),
        Kind::Module => module(s.trim())?.into(),
        Kind::Callable => callable(s.trim())?.into(),
        Kind::Program if !s.is_empty() && !s.contains('/') && s != "~" => s.into(),
        Kind::Path | Kind::Program => path(s, base)?.into(),
        Kind::Paths => Value::Array(vec![s.into()]),
        Kind::Users => {
            let names = s.split(',').map(str::trim).filter(|name| !name.is_empty());
            users(&names.map(Value::from).collect::<Vec<_>>())?
        }
        Kind::UrlPath if s.starts_with('/') && !s.bytes().any(|b| b <= b' ' || b == b'#') => {
            s.into()
        }
        Kind::UrlPath => return Err("is not the path of a page".into()),
        Kind::ScriptName => script_name(s)?.into(),
        Kind::Count(low, high) => {
            let n = s.trim().parse().map_err(|_| "is not a whole number")?;
            within(n, low, high)?
        }
        Kind::Seconds(low, high) => match duration(s).ok_or("is not a time")? {
            d if d.fract() == 0.0 && d < 1e15 => within(d as i64, low, high)?,
            _ => return Err("is not a whole number of seconds".into()),
        },
        Kind::Fraction => duration(s).ok_or("is not a time")?.into(),
        Kind::Size(low, high) => within(size(s).ok_or("is not a size")?, low, high)?,
        Kind::Mode => mode(s.trim())
            .ok_or("is not an octal mode from 0 to 0777")?
            .into(),
        Kind::OneOf(groups) => choice(groups, s)?.into(),
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "t" | "on" | "1" => Some(true),
        "false" | "no" | "n" | "f" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn module(name: &str) -> Result<String, Wrong> {
    let path = name.trim_end_matches(".py").replace('/', ".");
    let path = path.trim_matches('.');
    match (dotted(name), dotted(path)) {
        (true, _) => Ok(name.to_string()),
        (_, true) => Err(Wrong::with(
            "is a path, not a module",
            Fix::Value(format!("\"{path}\"")),
        )),
        _ => Err("is not the name of a module".into()),
    }
}

fn callable(s: &str) -> Result<String, Wrong> {
    let write =
        |what, module, object| Wrong::with(what, Fix::Value(format!("\"{module}:{object}\"")));
    match (s.split_once(':'), s.rsplit_once('.')) {
        (Some((module, object)), _) if dotted(module) && dotted(object) => Ok(s.to_string()),
        (None, Some((module, object))) if dotted(s) => Err(write(
            "has no colon between module and callable",
            module,
            object,
        )),
        (None, None) if dotted(s) => Err(write("names no callable", s, "application")),
        _ => Err("is not module:callable".into()),
    }
}

fn choice(groups: &[&[&'static str]], s: &str) -> Result<&'static str, Wrong> {
    let given = s.trim().to_ascii_lowercase();
    let of = |name: &str| groups.iter().find(|g| g.contains(&name)).map(|g| g[0]);
    let meant = nearest(&given, groups.iter().flat_map(|g| g.iter().copied())).and_then(of);
    let meant = meant.map_or(String::new(), |name| format!("; did you mean {name}?"));
    let fix = || format!("write one of: {}{meant}", names(groups));
    of(&given).ok_or_else(|| Wrong::with("is not known", Fix::Text(fix())))
}

fn script_name(s: &str) -> Result<&str, Wrong> {
    let prefix = s.trim_end_matches('/');
    let odd = |b: u8| b <= b' ' || b == b'?' || b == b'#' || b == 0x7f;
    if s.eq_ignore_ascii_case("auto") {
        Ok("auto")
    } else if prefix.bytes().any(odd) || prefix.contains("//") {
        Err("is not the beginning of a URL's path".into())
    } else if prefix.is_empty() || prefix.starts_with('/') {
        Ok(prefix)
    } else {
        Err("does not begin with /".into())
    }
}

fn path(s: &str, base: &Base) -> Result<String, Wrong> {
    if s.is_empty() {
        return Err("is empty".into());
    }
    if s.contains('\0') {
        return Err("contains a NUL byte".into());
    }
    let unresolved = |what: &str| {
        Wrong::with(
            what,
            Fix::Text("write the whole path, beginning with /".into()),
        )
    };
    let whole = match (s.strip_prefix('~'), &base.home) {
        (None, _) => base.dir.join(s),
        (Some(rest), _) if !rest.is_empty() && !rest.starts_with('/') => {
            return Err(unresolved(
                "names another user's home, which is not looked up",
            ));
        }
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        (Some(_), None) => return Err(unresolved("needs HOME, which the web server did not set")),
    };
    let text = tidy(&whole).into_os_string().into_string();
    text.map_err(|_| "is in a directory whose name is not UTF-8".into())
}

/// The numbers of users.
fn users(list: &[Value]) -> Result<Value, Wrong> {
    let mut numbers = Vec::with_capacity(list.len());
    for user in list {
        let number = match user {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::String(name) => match User::named(name) {
                Some(user) => Some(user.uid),
                None => name.parse().ok(),
            },
            _ => None,
        };
        match number {
            Some(number) => numbers.push(Value::from(number)),
            None => {
                let what = format!("names a user who is not in /etc/passwd: {}", show(user));
                return Err(what.as_str().into());
            }
        }
    }
    Ok(Value::Array(numbers))
}

/// Removes `.`, doubled slashes and `..`. Keeps `..` after a symbolic link or a path that does not exist.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => (),
            Component::ParentDir if leads_up(&out) => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

/// Whether `..` in this directory is the parent in its path: not so behind a symbolic link.
fn leads_up(dir: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let above = dir.parent().filter(|_| dir.file_name().is_some());
    above.is_some_and(|above| {
        let up = identity(&dir.join(".."));
        up.is_some() && up == identity(above)
    })
}

fn within(n: i64, low: u64, high: u64) -> Result<Value, Wrong> {
    match u64::try_from(n) {
        Ok(u) if (low..=high).contains(&u) => Ok(Value::Integer(n)),
        _ => Err(format!("is not between {low} and {high}").as_str().into()),
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

/// Whether this is a dotted Python name, such as `a.b.c`. Python decides about letters beyond ASCII.
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
    fn bad_values_come_with_a_fix() {
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
    fn home_comes_only_from_the_variable() {
        let base = Base {
            home: None,
            ..base()
        };
        let problem = normalise(find_cli("socket").unwrap(), Raw::text("~/x"), &base).unwrap_err();
        assert!(problem.what.contains("HOME"), "{problem:?}");
    }
}
