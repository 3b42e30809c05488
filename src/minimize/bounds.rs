//! A box that points stay in.

use std::sync::Arc;

use crate::{Error, Result};

/// Lower and upper bounds of every coordinate; infinite where there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    lower: Arc<[f64]>,
    upper: Arc<[f64]>,
}

impl Bounds {
    /// Bounds of d coordinates.
    ///
    /// # Errors
    /// If the two differ in length, a bound is NaN, or a lower bound is not below its upper one.
    pub fn new(lower: Vec<f64>, upper: Vec<f64>) -> Result<Self> {
        if lower.len() != upper.len() {
            let reason = format!("{} lower bounds, but {} upper ones", lower.len(), upper.len());
            return Err(Error::setting("bounds", reason));
        }
        let is_sound = |low: f64, high: f64| low < high && low < f64::INFINITY && high > f64::NEG_INFINITY;
        for (coord, (&low, &high)) in lower.iter().zip(&upper).enumerate() {
            if !is_sound(low, high) {
                let reason = format!(
                    "coordinate {coord}: expected a lower bound below the upper one; got {low} and {high}"
                );
                return Err(Error::setting("bounds", reason));
            }
        }
        Ok(Self { lower: lower.into(), upper: upper.into() })
    }

    /// From JSON: a list of `[low, high]`, one for each of `n_coords` coordinates, or one `[low, high]` for all; null
    /// where there is no bound.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_json(value: &serde_json::Value, n_coords: usize) -> std::result::Result<Self, String> {
        let expected =
            "expected [low, high] for every coordinate, or one [low, high] for all, with null for no bound";
        let pair = |value: &serde_json::Value| -> Option<(f64, f64)> {
            let [low, high] = value.as_array()?.as_slice() else { return None };
            let bound = |value: &serde_json::Value, none: f64| match value {
                serde_json::Value::Null => Some(none),
                other => other.as_f64(),
            };
            Some((bound(low, f64::NEG_INFINITY)?, bound(high, f64::INFINITY)?))
        };
        let (lower, upper) = if let Some((low, high)) = pair(value) {
            (vec![low; n_coords], vec![high; n_coords])
        } else {
            let pairs = value.as_array().ok_or(expected)?;
            if pairs.len() != n_coords {
                return Err(format!("{} pairs for {n_coords} coordinates; {expected}", pairs.len()));
            }
            let pairs: Option<Vec<(f64, f64)>> = pairs.iter().map(pair).collect();
            pairs.ok_or(expected)?.into_iter().unzip()
        };
        Self::new(lower, upper).map_err(|error| match error {
            Error::Setting { reason, .. } => reason,
            other => other.to_string(),
        })
    }

    /// Lower bounds (d).
    #[must_use]
    pub fn lower(&self) -> &[f64] {
        &self.lower
    }

    /// Upper bounds (d).
    #[must_use]
    pub fn upper(&self) -> &[f64] {
        &self.upper
    }

    /// The bounds moved in by `margin` on every side, so that probes of that length stay within them.
    ///
    /// # Errors
    /// [`Error::Setting`] of `mu` if they are not that far apart.
    pub fn moved_in(&self, margin: f64) -> Result<Self> {
        let lower: Vec<f64> = self.lower.iter().map(|low| low + margin).collect();
        let upper: Vec<f64> = self.upper.iter().map(|high| high - margin).collect();
        if let Some(coord) = lower.iter().zip(&upper).position(|(low, high)| low > high) {
            let (low, high) = (self.lower[coord], self.upper[coord]);
            let reason = format!(
                "the bounds of coordinate {coord}, {low} and {high}, are less than 2 mu = {} apart; use a smaller mu, or \
                 scale the coordinates",
                2.0 * margin
            );
            return Err(Error::setting("mu", reason));
        }
        Ok(Self { lower: lower.into(), upper: upper.into() })
    }

    /// The nearest point of the box.
    pub fn project(&self, x: &mut [f64]) {
        for ((x, &low), &high) in x.iter_mut().zip(&*self.lower).zip(&*self.upper) {
            *x = x.clamp(low, high);
        }
    }

    /// The nearest value of one coordinate.
    pub(super) fn clamp(&self, coord: usize, x: f64) -> f64 {
        x.clamp(self.lower[coord], self.upper[coord])
    }

    /// The first coordinate of `x` that lies outside.
    #[must_use]
    pub fn violated(&self, x: &[f64]) -> Option<usize> {
        let mut all = x.iter().zip(&*self.lower).zip(&*self.upper);
        all.position(|((x, low), high)| x < low || x > high)
    }
}
