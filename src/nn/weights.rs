//! Weights in safetensors files with PyTorch names, both ways.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{Network, RunningStats};
use crate::{Error, Result};

/// Reads the parameters (d values in declared order) and running statistics of `network`.
/// Missing running statistics count as untrained.
///
/// # Errors
/// If the file cannot be read, or a parameter is missing or has another shape.
pub fn load(network: &Network, path: &Path) -> Result<(Vec<f64>, RunningStats)> {
    from_tensors(network, &read(path)?, path)
}

/// The same from the tensors of a file that is called `path` in errors.
///
/// # Errors
/// If a parameter is missing or has another shape.
pub fn from_tensors(
    network: &Network,
    tensors: &HashMap<String, Tensor>,
    path: &Path,
) -> Result<(Vec<f64>, RunningStats)> {
    let mut params = Vec::with_capacity(network.layout().n_coords());
    for spec in network.layout().specs() {
        let tensor = tensors.get(&spec.name).ok_or_else(|| Error::Parameter {
            name: spec.name.clone(),
            expected: format!("a tensor of shape {:?} in {}", spec.shape, path.display()),
            got: "nothing".to_owned(),
        })?;
        params.extend(values(&spec.name, tensor, &spec.shape)?);
    }
    let mut stats = network.initial_stats();
    let names: Vec<String> = network.norm_names().into_iter().map(str::to_owned).collect();
    for (name, layer) in names.iter().zip(&mut stats.layers) {
        let shape = [layer.mean.len()];
        for (suffix, target) in [("running_mean", &mut layer.mean), ("running_var", &mut layer.variance)] {
            let name = format!("{name}.{suffix}");
            if let Some(tensor) = tensors.get(&name) {
                *target = values(&name, tensor, &shape)?;
            }
        }
    }
    Ok((params, stats))
}

/// All tensors of a safetensors file, on the CPU.
///
/// # Errors
/// If the file is missing, truncated or not safetensors.
pub fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    from_bytes(&bytes, path)
}

/// The same from the content of a file that is called `path` in errors.
///
/// # Errors
/// If the content is truncated or not safetensors.
pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|error| Error::file(path, format!("not a complete safetensors file ({error})")))
}

fn values(name: &str, tensor: &Tensor, shape: &[usize]) -> Result<Vec<f64>> {
    if tensor.dims() != shape {
        return Err(Error::Parameter {
            name: name.to_owned(),
            expected: format!("shape {shape:?}"),
            got: format!("shape {:?}", tensor.dims()),
        });
    }
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
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
    for (name, layer) in network.norm_names().into_iter().zip(&stats.layers) {
        for (suffix, values) in [("running_mean", &layer.mean), ("running_var", &layer.variance)] {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_dtype(DType::F32)?;
            tensors.insert(format!("{name}.{suffix}"), tensor);
        }
    }
    let bytes =
        safetensors::serialize(&tensors, None).map_err(|error| Error::file(path, error.to_string()))?;
    crate::files::write_atomically(path, &bytes)
}
