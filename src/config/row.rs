//! What a setting is: a row of `table.rs`, and `settings!`, which makes the structs, their defaults and the list of
//! rows from there.
//!
//! Knows no setting by name.

use super::Config;
use super::value::{Base, Problem, Raw};
use std::fmt;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its table in the TOML file.
    pub section: &'static str,
    /// Its name there; on the command line the same.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default, as one would write it; in brackets when it is no value but words.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
    /// A value, as one would write it in the file.
    pub example: &'static str,
    /// Whether it may stand on the command line.
    pub cli: bool,
    /// Puts a value into its field.
    pub(crate) set: fn(&mut Config, &Opt, Raw, &Base) -> Result<(), Problem>,
}

impl Opt {
    /// `section.key`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The words that stand for the default when there is no value.
    pub fn default_in_words(&self) -> Option<&'static str> {
        self.default.strip_prefix('(')?.strip_suffix(')')
    }

    /// The example, as one would write it on the command line.
    pub fn word(&self) -> String {
        format!("{}={}", self.key, self.example.trim_matches('"'))
    }
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// Any text.
    Text,
    /// A dotted name of a Python module.
    Module,
    /// `module:callable`.
    Callable,
    /// A path, relative to the file's directory or the current one.
    Path,
    /// A program: a path, or a bare name.
    Program,
    /// Paths, relative to the app's.
    Paths,
    /// The path part of a URL.
    UrlPath,
    /// `auto`, or a prefix of URLs.
    ScriptName,
    /// A whole number from .. to.
    Count(u64, u64),
    /// Whole seconds, from .. to.
    Seconds(u64, u64),
    /// Seconds with a fraction.
    Fraction,
    /// Bytes, from .. to.
    Size(u64, u64),
    /// A file mode or mask, octal.
    Mode,
    /// One of these; the first of each group is the name, the others are also understood.
    OneOf(&'static [&'static [&'static str]]),
}

/// In words.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Kind::Bool => "true or false",
            Kind::Text => "text",
            Kind::Module => "dotted module name",
            Kind::Callable => "module:callable",
            Kind::Path => "path",
            Kind::Program => "path or name",
            Kind::Paths => "list of paths",
            Kind::UrlPath => "path that begins with /",
            Kind::ScriptName => "auto or a prefix",
            Kind::Count(low, high) => return write!(f, "number {low} to {high}"),
            Kind::Seconds(..) => "seconds, or 30s, 5m, 1h",
            Kind::Fraction => "seconds, also 2.5",
            Kind::Size(..) => "bytes, or 64K, 10M, 1G",
            Kind::Mode => "octal",
            Kind::OneOf(groups) => return f.write_str(&names(groups)),
        })
    }
}

/// The first name of each group.
pub(crate) fn names(groups: &[&[&'static str]]) -> String {
    let firsts: Vec<&str> = groups.iter().map(|group| group[0]).collect();
    firsts.join(", ")
}

/// From rows of `key: Type = default, kind, example, help;` below their sections: a struct of each section, its
/// `Default`, `OPTIONS` and `SECTIONS`. Fields that no one can set stand last, with a `+`; after a section may come,
/// with a `+`, one whose keys are free.
macro_rules! settings {
    ($(
        $section:ident: $Section:ident, cli $cli:literal, $about:literal {
            $($(#[$note:meta])* $key:ident: $type:ty = $default:literal, $kind:expr, $example:tt, $help:literal;)*
            $(+ $extra:ident: $extra_type:ty, $extra_help:literal;)*
        }
        $(+ $free:ident, $free_about:literal)?
    )*) => {
        $(
            #[doc = concat!("`[", stringify!($section), "]`: ", $about)]
            #[derive(Clone, Debug)]
            pub struct $Section {
                $(
                    #[doc = concat!($help, ".")]
                    $(#[$note])*
                    pub $key: $type,
                )*
                $(#[doc = concat!($extra_help, ".")] pub $extra: $extra_type,)*
            }

            impl Default for $Section {
                fn default() -> $Section {
                    $Section {
                        $($key: $crate::config::value::default($kind, concat!($default)),)*
                        $($extra: Default::default(),)*
                    }
                }
            }
        )*

        /// The sections of the file, in the order of the reference, with a line on each.
        pub const SECTIONS: &[(&str, &str)] = &[$(
            (stringify!($section), $about),
            $((stringify!($free), $free_about),)?
        )*];

        /// All settings but those whose keys are free.
        pub const OPTIONS: &[Opt] = &[$($(
            Opt {
                section: stringify!($section),
                key: stringify!($key),
                kind: $kind,
                default: concat!($default),
                help: $help,
                example: stringify!($example),
                cli: $cli,
                set: |config, opt, raw, base| {
                    config.$section.$key = $crate::config::value::field(opt, raw, base)?;
                    Ok(())
                },
            },
        )*)*];
    };
}

/// Enums whose values have names: the first of each is its own, the others are also understood.
macro_rules! choices {
    ($(
        $(#[$about:meta])*
        $Choice:ident { $($(#[$note:meta])* $Value:ident = $name:literal $(| $alias:literal)*,)* }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
            pub enum $Choice {
                $($(#[$note])* #[serde(rename = $name)] $Value,)*
            }

            impl $Choice {
                /// The names of all values.
                pub const NAMES: &[&[&str]] = &[$(&[$name $(, $alias)*],)*];

                /// The value of this name.
                pub fn named(name: &str) -> Option<$Choice> {
                    match name {
                        $($name $(| $alias)* => Some($Choice::$Value),)*
                        _ => None,
                    }
                }

                /// Its name.
                pub fn name(self) -> &'static str {
                    match self {
                        $($Choice::$Value => $name,)*
                    }
                }
            }
        )*
    };
}

pub(super) use {choices, settings};
