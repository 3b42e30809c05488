//! Settings: named values with a domain, a default and a line of help, declared in sections by the parts of the
//! program that read them.
//!
//! This is the ground that everything configurable stands on; it knows no key. A part declares its [`Section`] with
//! [`section!`](crate::section), an enum to choose from with [`choice!`](crate::choice), and reads the section from
//! [`Settings`]. Which sections a trial reads follows from its task and method; see `experiment::settings`.

mod entry;
mod section;
mod settings;
mod suggest;
mod text;

pub use entry::{Domain, Entry};
pub use section::{Choice, Plain, Section, kebab};
pub use settings::{Settings, Values};
pub use suggest::did_you_mean;
pub use text::{text_of, value_of};
