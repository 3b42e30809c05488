//! Black boxes: a function of which only values are known is minimized by asking for points and being told values.
//!
//! A [`Minimizer`] is the ask-and-tell form of the engine's methods that need function values alone: estimators with an
//! optimizer, and Pattern Search. It evaluates nothing. A [`Run`] keeps one in a folder, with a log of every value, so
//! that nothing is evaluated twice. A [`pool`] has the points evaluated by processes of a user's command, over the
//! protocols of [`worker`].
//!
//! ```
//! use deepzero::minimize::{Minimizer, Start, settings};
//!
//! let settings = settings::from_pairs([("method", "cge"), ("difference", "central")])?;
//! let mut minimizer = Minimizer::new(Start { x0: vec![1.0, -2.0], bounds: None, settings, seed: 0 })?;
//! for _ in 0..200 {
//!     for asked in minimizer.ask(usize::MAX)? {
//!         let x = asked.point();
//!         minimizer.tell(asked.id, (x[0] - 0.5).powi(2) + x[1].powi(2))?;
//!     }
//! }
//! assert!(minimizer.best().unwrap().value < 1e-3);
//! # Ok::<(), deepzero::Error>(())
//! ```

mod bounds;
mod descent;
mod log;
mod minimizer;
pub mod pool;
mod run;
mod search;
pub mod settings;
mod summary;
pub mod worker;

pub use bounds::Bounds;
pub use log::Entry;
pub use minimizer::{Asked, Best, Minimizer, Start, Stopped};
pub use run::{Files, Run};
pub use summary::{Summary, write_report};

use crate::Result;
use crate::zo::Probe;

/// What a step wants to know: values around one point.
struct Wanted {
    /// Which randomness the values share.
    sample: u64,
    /// Whether the value at the point itself is wanted.
    base: bool,
    /// Points around it.
    probes: Vec<Probe>,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
enum Moved {
    /// The point may have moved.
    On,
    /// The values did not say where to go; the reason, in words.
    Stuck(String),
    /// There is nothing left to do.
    Done,
}

/// A method, one step after the other.
trait Mover: Send {
    /// What the next step around `x` (d) wants to know.
    fn ask(&mut self, x: &[f64]) -> Wanted;

    /// Moves `x` (d), given the value there (NaN if it failed, or was not wanted) and those of the probes, NaN where
    /// they failed.
    fn tell(&mut self, x: &mut [f64], base: f64, probes: &[Probe], values: &[f64]) -> Moved;

    /// The last estimate of the gradient (d), if the method makes any.
    fn gradient(&self) -> Option<&[f64]>;

    /// Everything that later steps depend on, as it was before the last [`Mover::ask`] without an answer.
    fn state(&self) -> Vec<(&'static str, Vec<f64>)>;

    /// Goes on from a stored state.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn restore(&mut self, saved: &mut crate::saved::Saved) -> std::result::Result<(), String>;
}

/// The method that the settings name, for d = `n_coords`.
fn mover(start: &Start) -> Result<Box<dyn Mover>> {
    Ok(match settings::method(&start.settings)? {
        settings::Kind::Estimating(kind) => Box::new(descent::Descent::new(*kind, start)?),
        settings::Kind::Searching => Box::new(search::Search::new(start)?),
    })
}
