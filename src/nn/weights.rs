//! Weights in safetensors files with PyTorch names, both ways.
//!
//! Some public files have a prefix before every name (`module.`, from training on several GPUs) or call the last layer
//! `linear`; these are read too.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors};

use super::{Network, RunningStats};
use crate::error::shortened;
use crate::{Error, Result, files};

/// Reads the parameters (d values in declared order) and running statistics of `network`.
/// Missing running statistics count as untrained.
///
/// # Errors
/// If the file cannot be read, or a parameter is missing, has another shape or is not finite.
pub fn load(network: &Network, path: &Path) -> Result<(Vec<f64>, RunningStats)> {
    from_tensors(network, &read(path)?, path)
}

/// The same of a file that has all running statistics, without which a trained network cannot be evaluated.
///
/// # Errors
/// As [`load`], and if one is missing.
pub fn load_trained(network: &Network, path: &Path) -> Result<(Vec<f64>, RunningStats)> {
    let tensors = read(path)?;
    let loaded = from_tensors(network, &tensors, path)?;
    let known = by_our_names(network, &tensors);
    for (name, layer) in network.norm_names().into_iter().zip(&loaded.1.layers) {
        let names = ["running_mean", "running_var"].map(|suffix| format!("{name}.{suffix}"));
        let missing = names.iter().find(|name| !layer.mean.is_empty() && !known.contains_key(*name));
        if let Some(missing) = missing {
            let reason =
                format!("no tensor `{missing}`: without running statistics the network cannot be evaluated");
            return Err(Error::file(path, reason));
        }
    }
    Ok(loaded)
}

/// The same from the tensors of a file that is called `path` in errors.
///
/// # Errors
/// If a parameter is missing, has another shape or is not finite.
pub fn from_tensors(
    network: &Network,
    tensors: &HashMap<String, Tensor>,
    path: &Path,
) -> Result<(Vec<f64>, RunningStats)> {
    let known = by_our_names(network, tensors);
    let mut params = Vec::with_capacity(network.layout().n_coords());
    for spec in network.layout().specs() {
        let Some(tensor) = known.get(&spec.name) else {
            return Err(Error::file(path, missing(network, tensors, &spec.name, &spec.shape)));
        };
        params.extend(values(&spec.name, tensor, &spec.shape, path)?);
    }
    let mut stats = network.initial_stats();
    let names: Vec<String> = network.norm_names().into_iter().map(str::to_owned).collect();
    for (name, layer) in names.iter().zip(&mut stats.layers) {
        let shape = [layer.mean.len()];
        for (suffix, target) in [("running_mean", &mut layer.mean), ("running_var", &mut layer.variance)] {
            let name = format!("{name}.{suffix}");
            if let Some(tensor) = known.get(&name) {
                *target = values(&name, tensor, &shape, path)?;
            }
        }
    }
    Ok((params, stats))
}

/// All tensors of a safetensors file, on the CPU.
///
/// # Errors
/// If the file is missing, truncated or not safetensors, or has numbers of a type that is not read.
pub fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    from_bytes(&bytes, path)
}

/// The same from the content of a file that is called `path` in errors.
///
/// # Errors
/// If the content is truncated or not safetensors, or has numbers of a type that is not read.
pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<HashMap<String, Tensor>> {
    let incomplete = |error: &dyn std::fmt::Display| {
        Error::file(path, format!("not a complete safetensors file ({})", shortened(&error.to_string())))
    };
    let views = SafeTensors::deserialize(bytes).map_err(|error| incomplete(&error))?;
    for (name, view) in views.tensors() {
        if !TYPES.contains(&view.dtype()) {
            let types: Vec<String> = TYPES.iter().map(|dtype| format!("{dtype:?}")).collect();
            let (name, dtype) = (shortened(&name), view.dtype());
            let reason = format!(
                "tensor `{name}` has numbers of type {dtype:?}; convert it to one of {}",
                types.join(", ")
            );
            return Err(Error::file(path, reason));
        }
    }
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|error| incomplete(&error))
}

/// The largest file that is read: the largest network in f64, with its statistics, and more.
const MAX_BYTES: u64 = 4 << 30;

/// Types of numbers that are read.
const TYPES: [Dtype; 9] = [
    Dtype::U8,
    Dtype::U32,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F32,
    Dtype::F64,
];

/// The tensors by the names that `network` has for them; of several with one name that of the file's own, else the first.
fn by_our_names<'t>(network: &Network, tensors: &'t HashMap<String, Tensor>) -> HashMap<String, &'t Tensor> {
    let is_classifier = |name: &str| network.layout().specs().iter().any(|spec| spec.name == name);
    let ours = |name: &str| {
        let name = name.strip_prefix("module.").unwrap_or(name);
        match name.strip_prefix("linear.").map(|rest| format!("fc.{rest}")) {
            Some(classifier) if is_classifier(&classifier) => classifier,
            _ => name.to_owned(),
        }
    };
    let mut sorted: Vec<(&String, &Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| (ours(name) != **name, *name));
    let mut known = HashMap::new();
    for (name, tensor) in sorted {
        known.entry(ours(name)).or_insert(tensor);
    }
    known
}

/// What to say of a file without the tensor `name`: which of its own names mean nothing here.
fn missing(network: &Network, tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize]) -> String {
    const MOST: usize = 5;
    let norms = network.norm_names();
    let is_used = |name: &str| {
        let is_statistic = |norm: &&str| name.strip_prefix(*norm).is_some_and(|rest| rest.starts_with('.'));
        network.layout().specs().iter().any(|spec| spec.name == name) || norms.iter().any(is_statistic)
    };
    let known = by_our_names(network, tensors);
    let mut unused: Vec<&str> = known.keys().map(String::as_str).filter(|name| !is_used(name)).collect();
    unused.sort_unstable();
    let listed: Vec<String> = unused.iter().take(MOST).map(|name| format!("`{}`", shortened(name))).collect();
    let rest = match unused.len() {
        0 => "it has no other tensors".to_owned(),
        n if n > MOST => {
            format!("of its names {} and {} more mean nothing to this network", listed.join(", "), n - MOST)
        }
        _ => format!("of its names {} mean nothing to this network", listed.join(", ")),
    };
    format!("no tensor `{name}` of shape {shape:?}; {rest}")
}

/// The finite values of a tensor of this shape.
fn values(name: &str, tensor: &Tensor, shape: &[usize], path: &Path) -> Result<Vec<f64>> {
    if tensor.dims() != shape {
        let reason = format!("`{name}` has shape {:?}; the network has {shape:?}", tensor.dims());
        return Err(Error::file(path, reason));
    }
    if !tensor.dtype().is_float() {
        return Err(Error::file(
            path,
            format!("`{name}` has integers, not numbers of a floating-point type"),
        ));
    }
    let values: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(idx) => Err(Error::file(path, format!("`{name}` is {} at flat index {idx}", values[idx]))),
        None => Ok(values),
    }
}

/// Writes parameters and running statistics in f32 under PyTorch names, atomically.
///
/// # Errors
/// If the file cannot be written.
pub fn save(network: &Network, params: &[f64], stats: &RunningStats, path: &Path) -> Result<()> {
    let mut tensors = HashMap::new();
    for (spec, tensor) in
        network.layout().specs().iter().zip(network.tensors(params, DType::F32, &Device::Cpu)?)
    {
        tensors.insert(spec.name.clone(), tensor);
    }
    let running =
        network.norm_names().into_iter().zip(&stats.layers).filter(|(_, layer)| !layer.mean.is_empty());
    for (name, layer) in running {
        for (suffix, values) in [("running_mean", &layer.mean), ("running_var", &layer.variance)] {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_dtype(DType::F32)?;
            tensors.insert(format!("{name}.{suffix}"), tensor);
        }
    }
    let bytes =
        safetensors::serialize(&tensors, None).map_err(|error| Error::file(path, error.to_string()))?;
    files::write_atomically(path, &bytes)
}
