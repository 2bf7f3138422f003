//! `Opt`: a row of `table.rs`; and `settings!`, which generates the structs, their defaults and the list of rows from
//! the table.
//!
//! No setting is mentioned by name here.

use super::Config;
use super::value::{Base, Problem, Raw};
use std::fmt;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// The section of the TOML file.
    pub section: &'static str,
    /// The name, in the file and on the command line.
    pub key: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// The default, as written in the file; in parentheses if it is a description.
    pub default: &'static str,
    /// A description in one line.
    pub help: &'static str,
    /// An example value, as written in the file.
    pub example: &'static str,
    /// Whether it is also an option on the command line.
    pub cli: bool,
    /// Checks a value and stores it in its field.
    pub(crate) set: fn(&mut Config, &Opt, Raw, &Base) -> Result<(), Problem>,
}

impl Opt {
    /// `section.key`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The description of the default, if the default is not a value.
    pub fn default_description(&self) -> Option<&'static str> {
        self.default.strip_prefix('(')?.strip_suffix(')')
    }

    /// The example, as written on the command line.
    pub fn as_option(&self) -> String {
        format!("{}={}", self.key, self.example.trim_matches('"'))
    }
}

/// The kind of values that a setting takes.
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
    /// A path, relative to the directory of the file; on the command line, to the current directory.
    Path,
    /// A program: a path, or a bare name.
    Program,
    /// Paths, relative to the directory of the app.
    Paths,
    /// Users, by name or number; after loading, by number.
    Users,
    /// The path part of a URL.
    UrlPath,
    /// `auto`, or a URL prefix.
    ScriptName,
    /// A whole number between these limits, both included.
    Count(u64, u64),
    /// Whole seconds between these limits, both included.
    Seconds(u64, u64),
    /// Seconds with a fraction.
    Fraction,
    /// Bytes between these limits, both included.
    Size(u64, u64),
    /// An octal file mode or mask.
    Mode,
    /// One of these choices. The first name of each group is canonical, the others are aliases.
    OneOf(&'static [&'static [&'static str]]),
}

/// Describes the values, for `help` and the reference.
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
            Kind::Users => "list of users, by name or number",
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

/// Generates a struct for each section, its `Default`, `OPTIONS` and `SECTIONS` from rows of
/// `key: Type = default, kind, example, help;`. A `+` marks fields that cannot be set, which come last in their
/// section, and a section with arbitrary keys, which follows another section.
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

        /// The sections of the file, in the order of the reference, each with a description.
        pub const SECTIONS: &[(&str, &str)] = &[$(
            (stringify!($section), $about),
            $((stringify!($free), $free_about),)?
        )*];

        /// All settings, except those in sections with arbitrary keys.
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

/// Generates enums whose values have names. The first name of each value is canonical, the others are aliases.
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
                /// The names of all values: the canonical name first, then the aliases.
                pub const NAMES: &[&[&str]] = &[$(&[$name $(, $alias)*],)*];

                /// The value with this name or alias.
                pub fn named(name: &str) -> Option<$Choice> {
                    match name {
                        $($name $(| $alias)* => Some($Choice::$Value),)*
                        _ => None,
                    }
                }

                /// Its canonical name.
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
