//! A pass over one block of inputs, of which each, in its lane, may see one parameter shifted.
//!
//! Probes of single coordinates at inputs that differ from probe to probe, as in the steps of a rollout, fill the lanes of a
//! block together: all share the weights, and a lane's own shift adds one weight times one plane to one channel.

use super::super::form::{ActivationShape, Blockwise, BlockwiseBoth, Mode, StreamSetup, Streamed};
use super::super::graph::Network;
use crate::kernels::lanes::{Blocks, Buffer, Scratch};
use crate::kernels::{Element, Isa};
use crate::{Error, Result};

/// A number of one parameter that a lane sees shifted: its coordinate, and by how much.
pub type Shift = (usize, f64);

/// A network in a row, ready for passes with the same parameters.
pub struct ShiftedPass<T> {
    links: Vec<Link<T>>,
    lanes: usize,
    input_len: usize,
}

struct Link<T> {
    layer: Box<dyn Streamed<T>>,
    /// Coordinates of its parameters.
    coords: std::ops::Range<usize>,
    /// Numbers of its output, for all lanes.
    len: usize,
}

/// Memory that passes use again.
#[derive(Debug)]
pub struct Memory<T> {
    values: [Buffer<T>; 2],
    scratch: Scratch<T>,
}

impl<T: Element> Default for Memory<T> {
    fn default() -> Self {
        Self { values: [Buffer::default(), Buffer::default()], scratch: Scratch::default() }
    }
}

/// Inputs in a block: one a lane of the registers in use.
#[must_use]
pub fn lanes<T: Element>() -> usize {
    Blocks::new::<T>(Isa::current(), 1).lanes
}

impl<T: Element> ShiftedPass<T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    /// The network at `params` (d).
    ///
    /// # Errors
    /// [`Error::Setting`] if its layers do not stand in a row, one couples the inputs of a batch, or one has no streamed
    /// form; [`Error::Parameter`] if the length is not d.
    pub fn new(network: &Network, params: &[f64]) -> Result<Self> {
        let refuse =
            |why: &str| Error::setting("model", format!("this network cannot correct a flow: {why}"));
        let fused = network.fused();
        let is_row = |idx: usize| fused[idx].inputs == [if idx == 0 { 0 } else { fused[idx - 1].output }];
        if !(0..fused.len()).all(is_row) {
            return Err(refuse("its layers do not stand in a row"));
        }
        if fused.iter().any(|one| network.norm_of(one).is_some()) {
            return Err(refuse("it normalizes by the batch"));
        }
        let layout = network.layout();
        if params.len() != layout.n_coords() {
            return Err(Error::Parameter {
                name: "all".to_owned(),
                expected: format!("{} values", layout.n_coords()),
                got: params.len().to_string(),
            });
        }
        let forms =
            network.all_have(|forms| forms.streamed).ok_or_else(|| refuse("a layer has no streamed form"))?;
        let isa = Isa::current();
        let lanes = lanes::<T>();
        let blocks = Blocks { images: lanes, lanes };
        let mut links = Vec::new();
        for (one, form) in fused.iter().zip(forms) {
            let shapes: Vec<ActivationShape> = one.inputs.iter().map(|&value| network.shape(value)).collect();
            let own = network.params_of(one.node);
            let values: Vec<Vec<f64>> = own.clone().map(|idx| params[layout.range(idx)].to_vec()).collect();
            let (mode, epilogue) = (Mode::Train, one.epilogue);
            let setup = StreamSetup { isa, blocks, mode, shapes: &shapes, params: &values, epilogue };
            let coords = match (own.clone().next(), own.last()) {
                (Some(first), Some(last)) => layout.range(first).start..layout.range(last).end,
                _ => 0..0,
            };
            let layer = Blockwise::<T>::streamed(form, &setup)?;
            links.push(Link {
                layer,
                coords,
                len: network.shape(one.output).iter().product::<usize>() * lanes,
            });
        }
        let input_len = network.input().iter().product::<usize>() * lanes;
        Ok(Self { links, lanes, input_len })
    }

    /// Inputs of a block.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Outputs (numbers, lane) of `input` (C, H, W, lane), where each lane sees its own one of `shifts`; they stay in the
    /// memory.
    ///
    /// # Errors
    /// If a shifted coordinate is of a layer that knows no shifts, or of none.
    ///
    /// # Panics
    /// If there are not as many numbers and shifts as the block has.
    pub fn run<'m>(
        &self,
        input: &[T],
        shifts: &[Option<Shift>],
        memory: &'m mut Memory<T>,
    ) -> Result<&'m [T]> {
        assert_eq!((input.len(), shifts.len()), (self.input_len, self.lanes));
        for &(coord, _) in shifts.iter().flatten() {
            let owner = self.links.iter().find(|link| link.coords.contains(&coord));
            if owner.is_none_or(|link| link.layer.lane_shift().is_none()) {
                return Err(Error::Objective(format!("coordinate {coord} cannot be shifted in a lane")));
            }
        }
        let Memory { values: [ours, theirs], scratch } = memory;
        let (mut from, mut to) = (ours, theirs);
        for (idx, link) in self.links.iter().enumerate() {
            // The outputs of the one before, or what comes in.
            let input = if idx == 0 { input } else { &from[..self.links[idx - 1].len] };
            let out = to.reserve(link.len);
            link.layer.run(&[input], &[], out, scratch);
            if let Some(layer) = link.layer.lane_shift() {
                for (lane, shift) in shifts.iter().enumerate() {
                    if let Some((coord, shift)) = shift.filter(|(coord, _)| link.coords.contains(coord)) {
                        layer.shift(input, coord - link.coords.start, T::of(shift), lane, out);
                    }
                }
            }
            std::mem::swap(&mut from, &mut to);
        }
        let len = self.links.last().map_or(0, |link| link.len);
        Ok(&from[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Split;
    use crate::nn::form::Context;
    use crate::nn::model::{self, Io};
    use crate::rng::{Purpose, Stream};
    use candle_core::{Device, Tensor};

    /// Oracle: a pass of the network with the parameter changed, alone, for a coordinate of every tensor; f64.
    #[test]
    fn a_lane_sees_its_shift() -> Result<()> {
        let io = Io { input: [3, 6, 5], n_outputs: 2 * 6 * 5 };
        let network = model::from_name("corrector-d2-w3", &io)?;
        let layout = network.layout();
        let params = layout.initial_values(2);
        let pass = ShiftedPass::<f64>::new(&network, &params)?;
        let lanes = pass.lanes();
        let mut values = vec![0.0; lanes * 3 * 6 * 5];
        Stream::new(3, Purpose::Test, 0).fill_normal(&mut values);
        let images = Tensor::from_vec(values.clone(), (lanes, 3, 6, 5), &Device::Cpu)?;
        let input = Blocks { images: lanes, lanes }.rearrange(Split::Serial, &values, 3 * 6 * 5);
        let mut memory = Memory::default();
        let n_tensors = layout.specs().len();
        for first in 0..n_tensors {
            let shift_of = |lane: usize| {
                let range = layout.range((first + lane) % n_tensors);
                (lane % 3 < 2).then(|| (range.start + 7 * lane % range.len(), 0.1 * (lane as f64 + 1.0)))
            };
            let shifts: Vec<Option<Shift>> = (0..lanes).map(shift_of).collect();
            let found = pass.run(&input, &shifts, &mut memory)?.to_vec();
            for (lane, shift) in shifts.iter().enumerate() {
                let mut moved = params.clone();
                if let Some((coord, shift)) = shift {
                    moved[*coord] += shift;
                }
                let tensors = network.tensors(&moved, candle_core::DType::F64, &Device::Cpu)?;
                let context = Context { mode: Mode::Train, split: Split::Serial };
                let expected = network.forward(&context, &tensors, &images.narrow(0, lane, 1)?)?;
                let expected: Vec<f64> = expected.flatten_all()?.to_vec1()?;
                for (position, expected) in expected.iter().enumerate() {
                    let found = found[position * lanes + lane];
                    assert!((found - expected).abs() < 1e-13, "{shift:?} {position}: {found} {expected}");
                }
            }
        }
        let mut shifts = vec![None; lanes];
        shifts[0] = Some((layout.n_coords(), 1.0));
        assert!(pass.run(&input, &shifts, &mut memory).is_err());
        Ok(())
    }

    #[test]
    fn other_networks_are_refused() {
        for (name, why) in [("resnet8-w4", "in a row"), ("cnn-d2-w3", "normalizes")] {
            let network = model::from_name(name, &Io::CIFAR).unwrap();
            let params = network.layout().initial_values(1);
            let refused = ShiftedPass::<f32>::new(&network, &params).err().unwrap().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
