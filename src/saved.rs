//! Named vectors in a checkpoint, which those who wrote them want back.

use std::collections::HashMap;

/// Named vectors that a method wants back when a run goes on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    vectors: HashMap<String, Vec<f64>>,
}

impl Saved {
    /// These vectors.
    #[must_use]
    pub fn new(vectors: HashMap<String, Vec<f64>>) -> Self {
        Self { vectors }
    }

    /// Takes out all vectors whose names begin with `prefix`, by the rest of their names.
    pub fn below(&mut self, prefix: &str) -> HashMap<String, Vec<f64>> {
        let own: Vec<String> = self.vectors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let take = |name: String| {
            let values = self.vectors.remove(&name).unwrap_or_default();
            (name[prefix.len()..].to_owned(), values)
        };
        own.into_iter().map(take).collect()
    }

    /// Takes out the vector `name`, of length `len` if that is known.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn take(&mut self, name: &str, len: Option<usize>) -> std::result::Result<Vec<f64>, String> {
        let values = self.vectors.remove(name).ok_or_else(|| format!("`{name}` is missing"))?;
        if len.is_some_and(|len| len != values.len()) {
            return Err(format!("`{name}` has the wrong length"));
        }
        Ok(values)
    }
}

/// A stored number that must be an integer in `0..=most`; `what` it is stands in the error.
///
/// # Errors
/// That it is not, in words.
pub fn integer(what: &str, value: f64, most: usize) -> std::result::Result<usize, String> {
    let is_sound = value.fract() == 0.0 && value >= 0.0 && value <= most as f64;
    if is_sound {
        Ok(value as usize)
    } else {
        Err(format!("{what} is {value}, not an integer of at most {most}"))
    }
}
