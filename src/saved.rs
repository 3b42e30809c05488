//! Named vectors in a checkpoint, which those who wrote them want back.
//!
//! On disk they are a safetensors file: vectors as f64 tensors, texts and a digest over everything in the header.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, View, serialize};
use sha2::{Digest, Sha256};

use crate::error::shortened;
use crate::hex::hex;

/// The header field of the digest.
pub(crate) const SHA256: &str = "sha256";

/// What a file is whose end is missing.
pub(crate) const INCOMPLETE: &str = "not a complete checkpoint";

/// A name for everything that what is saved depends on: SHA-256, in hexadecimal, of `text` and of the bits of `numbers`.
#[must_use]
pub fn identity(text: &str, numbers: &[&[f64]]) -> String {
    let mut hasher = Sha256::new();
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text);
    for numbers in numbers {
        hasher.update((numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|number| hasher.update(number.to_bits().to_le_bytes()));
    }
    hex(&hasher.finalize())
}

/// The bytes of a file with these vectors, the texts of `header` and a digest of all.
///
/// # Errors
/// Why there can be no such file, in words.
pub(crate) fn to_bytes(
    mut header: BTreeMap<String, String>,
    vectors: &[(String, Vec<f64>)],
) -> std::result::Result<Vec<u8>, String> {
    let bytes: Vec<(&str, Vec<u8>)> = vectors
        .iter()
        .map(|(name, values)| (name.as_str(), values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes);
        (*name, view.expect("eight bytes per f64"))
    });
    let views: Vec<(&str, TensorView)> = views.collect();
    header.insert(SHA256.to_owned(), digest(&header, &views));
    serialize(views, Some(header.into_iter().collect())).map_err(|error| error.to_string())
}

/// The texts in the header of a file; `None` if it is no such file.
pub(crate) fn header(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    Some(SafeTensors::read_metadata(bytes).ok()?.1.metadata().clone()?.into_iter().collect())
}

/// The vectors of a file with this `header`.
///
/// # Errors
/// What is wrong with it, in words: its end is missing, its digest is another, a tensor is no vector of f64.
pub(crate) fn from_bytes(
    header: &BTreeMap<String, String>,
    bytes: &[u8],
) -> std::result::Result<Saved, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|_| INCOMPLETE.to_owned())?.tensors();
    let views: Vec<(&str, &TensorView)> = tensors.iter().map(|(name, view)| (name.as_str(), view)).collect();
    let stored = header.get(SHA256).ok_or("a header field is missing")?;
    if *stored != digest(header, &views) {
        return Err("its contents are not those that were written".to_owned());
    }
    let mut vectors = HashMap::new();
    for (name, view) in views {
        if view.dtype() != Dtype::F64 || view.shape().len() != 1 {
            return Err(format!("`{}` is no vector of f64", shortened(name)));
        }
        let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        vectors.insert(name.to_owned(), view.data().chunks_exact(8).map(number).collect());
    }
    Ok(Saved::new(vectors))
}

/// The file with the digest that belongs to its content; `None` if it is no safetensors file.
pub(crate) fn with_digest(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut header = header(bytes)?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let views: Vec<(&str, TensorView)> = tensors.iter().collect();
    let sum = digest(&header, &views);
    header.insert(SHA256.to_owned(), sum);
    serialize(views, Some(header.into_iter().collect())).ok()
}

/// SHA-256, in hexadecimal, over the header but for the digest itself, and over names, types, shapes and contents, all in
/// the order of the names.
pub(crate) fn digest<V: View>(header: &BTreeMap<String, String>, tensors: &[(&str, V)]) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (name, value) in header.iter().filter(|(name, _)| *name != SHA256) {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    let mut sorted: Vec<&(&str, V)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    for (name, view) in sorted {
        add(name.as_bytes());
        add(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
        add(&view.data());
    }
    hex(&hash.finalize())
}

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
