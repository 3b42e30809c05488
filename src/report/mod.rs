//! Reports: pure functions of an experiment and its trial records.
//!
//! Nothing here reads a clock, the environment or a result file, so the same records always give the
//! same bytes. [`write_reports`] writes what the other modules compute.

pub mod chart;
pub mod check;
pub mod decide;
mod exhibits;
mod facts;
mod fill;
mod film;
mod html;
pub mod loan;
mod markdown;
pub mod measured;
mod minimized;
pub mod plot;
pub mod position;
pub mod power;
mod prose;
pub mod stats;
mod text;
mod tuned;
pub mod verdict;
mod view;
mod write;

pub use fill::Filler;
pub use html::{Run, html};
pub use markdown::markdown;
pub use minimized::{Minimized, minimized};
pub(crate) use prose::blocks as prose_as_html;
pub use write::{Written, write_page_of, write_reports};
