//! Procedural images in ten classes, built in, so that everything runs without any file.
//!
//! Five classes are gratings (horizontal, vertical, two diagonals, checkerboard) seen through a
//! window, five are figures (disc, ring, square, cross, triangle). Position, size, phase, period,
//! colours and the sign of the contrast are random and say nothing about the class; so are the
//! clutter behind and the pixel noise on top. One image in sixteen holds objects of two classes and
//! the label of either, so that no model can be always right.
//!
//! The pixels of an image are a pure function of (split, index). They use only additions,
//! multiplications, divisions and square roots, which IEEE 754 rounds in one way, so they are the
//! same bytes on every machine.

mod draw;

use rayon::prelude::*;

use super::{Dataset, Normalization, Source, Splits};
use crate::rng::{Purpose, Stream};
use draw::{Draws, SIZE};

/// The procedural images as a source.
pub(super) static SOURCE: Source = Source {
    name: "synthetic",
    shape: SHAPE,
    n_classes: N_CLASSES,
    normalization: NORMALIZATION,
    n_train: 10_000,
    n_test: 2_000,
    is_made: true,
    load: |[n_train, n_test], _, _| Ok(synthetic(n_train, n_test)),
};

/// Channels, height, width.
const SHAPE: [usize; 3] = [3, SIZE, SIZE];
/// The usual constants of CIFAR-10, whose place these images take.
const NORMALIZATION: Normalization =
    Normalization::constant(&[0.4914, 0.4822, 0.4465], &[0.2471, 0.2435, 0.2616]);

const N_CLASSES: usize = 10;
/// Fixed: the images belong to the program, not to a trial.
const SEED: u64 = 0x5EED_0F17_A6E5;
/// One image in so many is ambiguous.
const AMBIGUOUS_EVERY: u64 = 16;

/// The first `n_train` training and `n_test` test images, (N, 3, 32, 32). Classes take turns, so
/// any prefix is balanced; a larger set begins with the smaller one.
#[must_use]
pub fn synthetic(n_train: usize, n_test: usize) -> Splits {
    Splits { train: split("synthetic train", 0, n_train), test: split("synthetic test", 1, n_test) }
}

fn split(name: &str, split: u32, n: usize) -> Dataset {
    let mut images = vec![0; n * 3 * SIZE * SIZE];
    let labels = (0..n).map(|i| (i % N_CLASSES) as u8).collect();
    images.par_chunks_mut(3 * SIZE * SIZE).enumerate().for_each(|(idx, pixels)| {
        draw_image(Stream::new(SEED, Purpose::Synthetic, split).lane(idx as u32), idx % N_CLASSES, pixels)
    });
    let (shape, n_classes, normalization) = (SHAPE, N_CLASSES, NORMALIZATION);
    Dataset { name: name.into(), shape, n_classes, normalization, images, labels, is_lossy: false }
}

/// Draws image `stream` of `class` into `pixels` (3, 32, 32).
fn draw_image(stream: Stream, class: usize, pixels: &mut [u8]) {
    let mut draws = Draws::new(stream);
    let mut canvas = draw::background(&mut draws);
    draw::clutter(&mut draws, &mut canvas);
    if draws.below(AMBIGUOUS_EVERY) == 0 {
        // Another class beside the labelled one, in random order of drawing.
        let other = (class + 1 + draws.below(N_CLASSES as u64 - 1) as usize) % N_CLASSES;
        let pair = if draws.below(2) == 0 { [class, other] } else { [other, class] };
        pair.into_iter().for_each(|class| draw::object(&mut draws, class, &mut canvas));
    } else {
        draw::object(&mut draws, class, &mut canvas);
    }
    draw::finish(&mut draws, stream, &canvas, pixels);
}

#[cfg(test)]
mod tests;
