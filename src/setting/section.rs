//! Sections: what one part of the program reads, declared once.

use toml::Value;

use super::{Domain, Entry, Settings};
use crate::Result;

/// A group of settings that one part of the program reads, as a struct. Made by [`section!`](crate::section).
pub trait Section: Sized {
    /// Its settings, in declared order.
    const ENTRIES: &'static [Entry];

    /// The section as `settings` have it.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if the trial does not declare that it reads this section.
    fn of(settings: &Settings) -> Result<Self>;
}

/// The type of a setting's field.
pub trait Plain: Sized {
    /// What a field of this type may hold unless its section says otherwise.
    const DOMAIN: Domain;

    /// As a plain value.
    fn into_value(self) -> Value;

    /// From a value that the domain admits.
    fn from_value(value: &Value) -> Option<Self>;
}

impl Plain for bool {
    const DOMAIN: Domain = Domain::Bool;

    fn into_value(self) -> Value {
        Value::Boolean(self)
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Plain for usize {
    const DOMAIN: Domain = Domain::Int(0, 1_000_000);

    fn into_value(self) -> Value {
        Value::Integer(self as i64)
    }

    fn from_value(value: &Value) -> Option<Self> {
        usize::try_from(value.as_integer()?).ok()
    }
}

impl Plain for f64 {
    const DOMAIN: Domain = Domain::From(f64::MIN, f64::INFINITY);

    fn into_value(self) -> Value {
        Value::Float(self)
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_float()
    }
}

/// An enum whose variants have names. Made by [`choice!`](crate::choice).
pub trait Choice: Copy + 'static {
    /// Every variant with its name, in declared order.
    const ALL: &'static [(&'static str, Self)];
}

/// The name of a Rust field in files: hyphens for underscores.
///
/// # Panics
/// At compile time, if `N` is not the length of the name.
#[must_use]
pub const fn kebab<const N: usize>(field: &str) -> [u8; N] {
    let bytes = field.as_bytes();
    let mut name = [0; N];
    let mut idx = 0;
    while idx < N {
        name[idx] = if bytes[idx] == b'_' { b'-' } else { bytes[idx] };
        idx += 1;
    }
    name
}

/// Declares a [`Section`](crate::setting::Section): a struct whose fields are settings. Each has a documentation
/// line, which is its help; a type; a default; and, behind `=>`, a domain, unless that of the type will do.
///
/// ```
/// use deepzero::setting::Domain::Above;
///
/// deepzero::section! {
///     /// A search.
///     pub struct Config {
///         /// Initial size of a move.
///         pub radius: f64 = 1.0 => Above(0.0, f64::INFINITY),
///         /// Whether it ends early.
///         pub stop_early: bool = false,
///     }
/// }
/// use deepzero::setting::Section;
/// assert_eq!(Config::ENTRIES[1].name, "stop-early");
/// assert_eq!(Config::default().radius, 1.0);
/// ```
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $(
                #[doc = $doc:literal]
                pub $field:ident: $type:ty = $default:expr $(=> $domain:expr)?
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone)]
        pub struct $name {
            $(
                #[doc = $doc]
                pub $field: $type,
            )+
        }

        impl $crate::setting::Section for $name {
            const ENTRIES: &'static [$crate::setting::Entry] = &[$(
                $crate::setting::Entry {
                    name: {
                        const NAME: [u8; stringify!($field).len()] = $crate::setting::kebab(stringify!($field));
                        match ::core::str::from_utf8(&NAME) {
                            Ok(name) => name,
                            Err(_) => panic!("a field's name is ASCII"),
                        }
                    },
                    doc: $doc,
                    domain: $crate::section!(@domain $type $(, $domain)?),
                    default: || <$type as $crate::setting::Plain>::into_value($default),
                }
            ),+];

            fn of(settings: &$crate::setting::Settings) -> $crate::Result<Self> {
                let mut entries = Self::ENTRIES.iter();
                Ok(Self {
                    $($field: settings.value(entries.next().expect("one entry per field"))?),+
                })
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }
    };
    (@domain $type:ty) => { <$type as $crate::setting::Plain>::DOMAIN };
    (@domain $type:ty, $domain:expr) => { $domain };
}

/// Declares an enum to choose from in files and on the command line: variants with documentation and names.
///
/// ```
/// use deepzero::setting::Choice;
///
/// deepzero::choice! {
///     /// A law.
///     pub enum Law {
///         /// Normal.
///         Gaussian = "gaussian",
///         /// Signs.
///         Signs = "signs",
///     }
/// }
/// assert_eq!(Law::ALL[1], ("signs", Law::Signs));
/// ```
#[macro_export]
macro_rules! choice {
    (
        $(#[doc = $about:literal])*
        pub enum $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $variant:ident = $text:literal
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, ::serde::Serialize, ::serde::Deserialize, ::clap::ValueEnum,
        )]
        pub enum $name {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $text)]
                #[value(name = $text)]
                $variant,
            )+
        }

        impl $crate::setting::Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
        }

        impl $name {
            /// Its name in files and on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl $crate::setting::Plain for $name {
            const DOMAIN: $crate::setting::Domain = $crate::setting::Domain::Name(|| vec![$($text),+]);

            fn into_value(self) -> ::toml::Value {
                ::toml::Value::String(self.name().to_owned())
            }

            fn from_value(value: &::toml::Value) -> Option<Self> {
                match value.as_str()? {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

/// Makes the members of a registry a setting: `registered!(Family, FAMILIES)` for `&'static Family` with a method
/// `name`, `FAMILIES` being the list of all of them.
#[macro_export]
macro_rules! registered {
    ($type:ty, $all:expr) => {
        impl $crate::setting::Plain for &'static $type {
            const DOMAIN: $crate::setting::Domain =
                $crate::setting::Domain::Name(|| $all.iter().map(|member| member.name()).collect());

            fn into_value(self) -> ::toml::Value {
                ::toml::Value::String(self.name().to_owned())
            }

            fn from_value(value: &::toml::Value) -> Option<Self> {
                $all.iter().copied().find(|member| Some(member.name()) == value.as_str())
            }
        }
    };
}
