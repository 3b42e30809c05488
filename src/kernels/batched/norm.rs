//! Batch normalization: moments, the map itself, and its difference rule.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Arg, Call, Change, Element, Operation, Stored, THREADS, by_type, channel_of, from_fn, grid_of, numbers,
    planes, run, stride_of,
};

/// Numbers (`dims`) in the number type and on the device of `like`.
pub(super) fn reals(values: &[f64], dims: impl Into<candle_core::Shape>, like: &Tensor) -> Result<Tensor> {
    match like.dtype() {
        DType::F64 => Tensor::from_slice(values, dims, like.device()),
        _ => {
            let rounded: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            Tensor::from_vec(rounded, dims, like.device())
        }
    }
}

/// Mean and biased variance (P, C, 2), in f64, of every channel of x (P, B, C, H, W).
///
/// # Errors
/// If the number type does not fit or the device fails.
pub fn moments(x: &Tensor) -> Result<Tensor> {
    run(&MomentsOf { x: &x.contiguous()?, sizes: planes(x)? })
}

struct MomentsOf<'a> {
    x: &'a Tensor,
    sizes: [usize; 4],
}

impl MomentsOf<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let [probes, images, channels, plane] = self.sizes;
        let x: Vec<T> = numbers(self.x)?;
        let mut out = Vec::with_capacity(2 * probes * channels);
        for (probe, channel) in (0..probes).flat_map(|p| (0..channels).map(move |c| (p, c))) {
            let values = || {
                (0..images).flat_map(|image| {
                    let first = ((probe * images + image) * channels + channel) * plane;
                    x[first..first + plane].iter().map(|value| value.wide())
                })
            };
            let n = (images * plane) as f64;
            let mean = values().sum::<f64>() / n;
            out.extend([mean, values().map(|value| (value - mean).powi(2)).sum::<f64>() / n]);
        }
        Tensor::from_vec(out, self.dims(), self.x.device())
    }
}

impl Operation for MomentsOf<'_> {
    fn dims(&self) -> Vec<usize> {
        vec![self.sizes[0], self.sizes[2], 2]
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn place(&self) -> &Tensor {
        self.x
    }

    fn call(&self) -> Call<'_> {
        let [probes, images, channels, plane] = self.sizes;
        let mut args = vec![Arg::In(self.x), Arg::Out];
        args.extend([images, channels, plane].map(Arg::Int));
        per_channel("moments", self.x, [probes * channels, images * plane], args)
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.x.dtype(), self.values)
    }
}

/// A call with one block of threads per channel, which add up.
fn per_channel<'a>(
    kernel: &'static str,
    x: &Tensor,
    [n, numbers]: [usize; 2],
    args: Vec<Arg<'a>>,
) -> Call<'a> {
    // Few probes leave most of a GPU idle, the more so the fewer threads a channel has.
    let threads = if numbers >= MANY_NUMBERS { MANY_THREADS } else { THREADS };
    Call { kernel, real: x.dtype(), grid: [n, 1, 1], threads, shared: threads * size_of::<f64>(), args }
}

/// Numbers of a channel from which on it has more threads, and how many.
const MANY_NUMBERS: usize = 8192;
const MANY_THREADS: usize = 1024;

/// (x − mean) · scale / sqrt(variance + ε) + shift of x (P or 1, B, C, H, W), plus `other` of the same sizes, and
/// a ReLU; `moments` (P or 1, C, 2) in f64, `scale` and `shift` (P or 1, C).
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn normalize(
    x: &Tensor,
    moments: &Tensor,
    [scale, shift]: [&Tensor; 2],
    epsilon: f64,
    other: Option<&Tensor>,
    is_relu: bool,
) -> Result<Tensor> {
    let of = |x: &Tensor| x.dim(0);
    let mut probes = of(x)?.max(of(moments)?).max(of(scale)?).max(of(shift)?);
    if let Some(other) = other {
        probes = probes.max(of(other)?);
    }
    let fits = |n: usize| n == 1 || n == probes;
    if ![of(x)?, of(moments)?, of(scale)?, of(shift)?].into_iter().all(fits) {
        bail!("batch norm of {:?} with moments {:?} and scales {:?}", x.dims(), moments.dims(), scale.dims());
    }
    let other = other.map(Tensor::contiguous).transpose()?;
    let (x, scale, shift) = (&x.contiguous()?, &scale.contiguous()?, &shift.contiguous()?);
    run(&Normalize { x, moments, scale, shift, epsilon, other: other.as_ref(), is_relu, probes })
}

struct Normalize<'a> {
    x: &'a Tensor,
    moments: &'a Tensor,
    scale: &'a Tensor,
    shift: &'a Tensor,
    epsilon: f64,
    other: Option<&'a Tensor>,
    is_relu: bool,
    probes: usize,
}

impl Normalize<'_> {
    fn strides(&self) -> Result<[usize; 5]> {
        let other = self.other.map_or(Ok(0), stride_of)?;
        let [scale, shift] = [stride_of(self.scale)?, stride_of(self.shift)?];
        Ok([stride_of(self.x)?, stride_of(self.moments)?, scale, shift, other])
    }

    fn values<T: Element>(&self) -> Result<Tensor> {
        let [_, _, channels, plane] = planes(self.x)?;
        let [x_stride, moments_stride, scale_stride, shift_stride, other_stride] = self.strides()?;
        let (x, scale, shift): (Vec<T>, Vec<T>, Vec<T>) =
            (numbers(self.x)?, numbers(self.scale)?, numbers(self.shift)?);
        let moments: Vec<f64> = numbers(self.moments)?;
        let other: Option<Vec<T>> = self.other.map(numbers).transpose()?;
        from_fn(&self.dims(), |probe, image, channel, pixel| {
            let at = (image * channels + channel) * plane + pixel;
            let of = &moments[probe * moments_stride + 2 * channel..];
            let scale = scale[probe * scale_stride + channel].wide();
            let factor = T::of(scale / (of[1] + self.epsilon).sqrt());
            let shift = shift[probe * shift_stride + channel];
            let mut value = (x[probe * x_stride + at] - T::of(of[0])) * factor + shift;
            if let Some(other) = &other {
                value += other[probe * other_stride + at];
            }
            if self.is_relu && value < T::ZERO { T::ZERO } else { value }
        })
    }
}

impl Operation for Normalize<'_> {
    fn dims(&self) -> Vec<usize> {
        let mut dims = self.x.dims().to_vec();
        dims[0] = self.probes;
        dims
    }

    fn dtype(&self) -> DType {
        self.x.dtype()
    }

    fn place(&self) -> &Tensor {
        self.x
    }

    fn call(&self) -> Call<'_> {
        let [x_stride, moments_stride, scale_stride, shift_stride, other_stride] =
            self.strides().unwrap_or_default();
        let dims = self.x.dims();
        let (images, channels, plane) = (dims[1], dims[2], dims[3] * dims[4]);
        let mut args = vec![
            Arg::In(self.x),
            Arg::In(self.moments),
            Arg::In(self.scale),
            Arg::In(self.shift),
            Arg::maybe(self.other),
            Arg::Out,
            Arg::Wide(x_stride),
            Arg::Int(moments_stride),
            Arg::Wide(scale_stride),
            Arg::Wide(shift_stride),
            Arg::Wide(other_stride),
        ];
        args.extend([images, channels, plane].map(Arg::Int));
        args.extend([Arg::Double(self.epsilon), Arg::Int(usize::from(self.is_relu))]);
        let grid = grid_of(images * channels * plane, self.probes);
        Call { kernel: "normalize", real: self.dtype(), grid, threads: THREADS, shared: 0, args }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}

/// A batch norm at the base point.
#[derive(Debug)]
pub struct NormBase {
    /// Its input (1, B, C, H, W).
    pub z: Tensor,
    /// Mean and biased variance per channel (C, 2), in f64.
    pub moments: Tensor,
    /// γ (C), in f64.
    pub scales: Tensor,
    /// Per channel (C, 3), in the number type of the activations: mean, γ / sqrt(v + ε), β.
    pub table: Tensor,
    /// ε.
    pub epsilon: f64,
}

/// With batch statistics: the map (P, channels stored, 4) of [`NormChange::affine`] that a change of the input
/// leads to.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn norm_affine(delta: &Change, base: &NormBase) -> Result<Tensor> {
    run(&AffineOf { delta, base, sizes: planes(&delta.data)? })
}

struct AffineOf<'a> {
    delta: &'a Change,
    base: &'a NormBase,
    sizes: [usize; 4],
}

impl AffineOf<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let [probes, images, n_stored, plane] = self.sizes;
        let delta: Vec<T> = numbers(&self.delta.data)?;
        let channels: Option<Vec<u32>> = self.delta.channels.as_ref().map(numbers).transpose()?;
        let z: Vec<T> = numbers(&self.base.z)?;
        let n_channels = self.base.z.dim(2)?;
        let (moments, scales): (Vec<f64>, Vec<f64>) =
            (numbers(&self.base.moments)?, numbers(&self.base.scales)?);
        let mut out = Vec::new();
        for (probe, slot) in (0..probes).flat_map(|p| (0..n_stored).map(move |s| (p, s))) {
            let channel = channel_of(&channels, probe, slot);
            let change = |image: usize, pixel: usize| {
                delta[((probe * images + image) * n_stored + slot) * plane + pixel]
            };
            let pivot = change(0, 0);
            let center = T::of(moments[2 * channel]);
            let (mut sum, mut sum_square) = (0.0, 0.0);
            for (image, pixel) in (0..images).flat_map(|i| (0..plane).map(move |at| (i, at))) {
                let d = change(image, pixel) - pivot;
                let centered = z[(image * n_channels + channel) * plane + pixel] - center;
                sum += d.wide();
                sum_square += (d * (centered + centered + d)).wide();
            }
            let n = (images * plane) as f64;
            let mean = sum / n;
            let change = sum_square / n - mean * mean;
            let (variance, scale) = (moments[2 * channel + 1], scales[channel]);
            let r = (variance + self.base.epsilon).sqrt().recip();
            // A variance is not negative; rounding may say otherwise where it vanishes.
            let moved = match variance + change {
                sum if sum.is_nan() => f64::NAN,
                sum => (sum.max(0.0) + self.base.epsilon).sqrt().recip(),
            };
            let growth = -change * r * moved / (r.recip() + moved.recip());
            out.extend([T::of(scale * moved), pivot, T::of(scale * growth), T::of(-scale * moved * mean)]);
        }
        Tensor::from_vec(out, self.dims(), self.base.z.device())
    }
}

impl Operation for AffineOf<'_> {
    fn dims(&self) -> Vec<usize> {
        vec![self.sizes[0], self.sizes[2], 4]
    }

    fn dtype(&self) -> DType {
        self.base.z.dtype()
    }

    fn place(&self) -> &Tensor {
        &self.base.z
    }

    fn call(&self) -> Call<'_> {
        let [probes, images, n_stored, plane] = self.sizes;
        let mut args = vec![
            Arg::In(&self.delta.data),
            Arg::maybe(self.delta.channels.as_ref()),
            Arg::In(&self.base.z),
            Arg::In(&self.base.moments),
            Arg::In(&self.base.scales),
            Arg::Out,
        ];
        args.extend([images, n_stored, self.base.z.dims()[2], plane].map(Arg::Int));
        args.push(Arg::Double(self.base.epsilon));
        per_channel("norm_affine", &self.base.z, [probes * n_stored, images * plane], args)
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}

/// What changes around a batch norm.
#[derive(Debug)]
pub struct NormChange<'a> {
    /// Change of the input, if it changes.
    pub delta: Option<&'a Change>,
    /// The map delta · (δ − pivot) + base · (z − mean) + constant: four numbers per stored channel of δ (P,
    /// channels stored, 4), or per channel of the network (1, C, 4). None if the input does not change.
    pub affine: Option<&'a Tensor>,
    /// Whether the map is that of a step of the batch norm's own parameter, and there is no δ.
    pub is_seed: bool,
    /// Change of the other term of the addition after the batch norm, if it changes.
    pub added: Option<&'a Change>,
    /// Base value of that term (1, B, C, H, W), if a ReLU follows.
    pub other: Option<&'a Tensor>,
    /// Whether a ReLU follows.
    pub is_relu: bool,
    /// The channel that the output touches (P); none: all.
    pub channels: Option<&'a Tensor>,
    /// Probes.
    pub probes: usize,
}

/// Change (P, B, channels stored, H, W) of the output of a batch norm, of the addition and of the ReLU after it.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn norm_change(change: &NormChange, base: &NormBase) -> Result<Tensor> {
    run(&ChangeOf { change, base })
}

struct ChangeOf<'a> {
    change: &'a NormChange<'a>,
    base: &'a NormBase,
}

impl ChangeOf<'_> {
    /// Distance between the maps of probes: 4 where there is one each, 0 where probes share those of all channels.
    fn affine_stride(&self) -> Result<usize> {
        let Some(affine) = self.change.affine else { return Ok(0) };
        let (maps, per_probe, _) = affine.dims3()?;
        Ok(if maps == 1 && self.change.probes > 1 { 0 } else { 4 * per_probe })
    }

    fn values<T: Element>(&self) -> Result<Tensor> {
        let NormChange { delta, affine, is_seed, added, other, is_relu, channels, .. } = *self.change;
        let [_, _, n_channels, plane] = planes(&self.base.z)?;
        let (z, table): (Vec<T>, Vec<T>) = (numbers(&self.base.z)?, numbers(&self.base.table)?);
        let affine_stride = self.affine_stride()?;
        let affine: Vec<T> = affine.map(numbers).transpose()?.unwrap_or_default();
        let other: Option<Vec<T>> = other.map(numbers).transpose()?;
        let channels: Option<Vec<u32>> = channels.map(numbers).transpose()?;
        let (delta, added) = (delta.map(Stored::new).transpose()?, added.map(Stored::new).transpose()?);
        let at = |stored: &Option<Stored<T>>, probe, image, channel, pixel| {
            stored.as_ref().and_then(|stored| stored.at(probe, image, channel, pixel))
        };
        from_fn(&self.dims(), |probe, image, slot, pixel| {
            let channel = channel_of(&channels, probe, slot);
            let here = (image * n_channels + channel) * plane + pixel;
            let [mean, scale, shift] = [0, 1, 2].map(|column| table[3 * channel + column]);
            let centered = z[here] - mean;
            let moved = at(&delta, probe, image, channel, pixel);
            let mut change = T::ZERO;
            if is_seed || moved.is_some() {
                let first = probe * affine_stride + if affine_stride == 4 { 0 } else { 4 * channel };
                let of = &affine[first..first + 4];
                change = of[0] * (moved.unwrap_or(T::ZERO) - of[1]) + (of[2] * centered + of[3]);
            }
            change += at(&added, probe, image, channel, pixel).unwrap_or(T::ZERO);
            if !is_relu {
                return change;
            }
            let mut value = scale * centered + shift;
            if let Some(other) = &other {
                value += other[here];
            }
            super::relu_change_at(value, change)
        })
    }
}

impl Operation for ChangeOf<'_> {
    fn dims(&self) -> Vec<usize> {
        let mut dims = self.base.z.dims().to_vec();
        dims[0] = self.change.probes;
        if self.change.channels.is_some() {
            dims[2] = 1;
        }
        dims
    }

    fn dtype(&self) -> DType {
        self.base.z.dtype()
    }

    fn place(&self) -> &Tensor {
        &self.base.z
    }

    fn call(&self) -> Call<'_> {
        let NormChange { delta, affine, is_seed, added, other, is_relu, channels, probes } = *self.change;
        let dims = self.dims();
        let (images, n_stored, plane) = (dims[1], dims[2], dims[3] * dims[4]);
        let mut args = vec![
            Arg::maybe(delta.map(|change| &change.data)),
            Arg::maybe(delta.and_then(|change| change.channels.as_ref())),
            Arg::maybe(affine),
            Arg::maybe(added.map(|change| &change.data)),
            Arg::maybe(added.and_then(|change| change.channels.as_ref())),
            Arg::In(&self.base.z),
            Arg::In(&self.base.table),
            Arg::maybe(other),
            Arg::maybe(channels),
            Arg::Out,
            Arg::Int(self.affine_stride().unwrap_or(0)),
        ];
        args.extend([images, n_stored, self.base.z.dims()[2], plane].map(Arg::Int));
        args.extend([is_seed, is_relu].map(|flag| Arg::Int(usize::from(flag))));
        let grid = grid_of(images * n_stored * plane, probes);
        Call { kernel: "norm_change", real: self.dtype(), grid, threads: THREADS, shared: 0, args }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}
