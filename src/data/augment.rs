//! Crop and horizontal flip, as torchvision's `RandomCrop(32, padding=4)` followed by
//! `RandomHorizontalFlip()`: the image is padded with black *bytes*, cropped back to its size and
//! mirrored with probability one half, all before normalization.
//!
//! The placement of an image is a pure function of (seed, epoch, index of the image), so it does
//! not depend on the batch the image is in or on the number of threads.

use crate::rng::{Purpose, Stream};

/// Black pixels added on every side before cropping.
pub const CROP_PADDING: usize = 4;

/// The augmentation of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Augmentation {
    /// Seed of the trial.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u32,
}

/// Where an image is cut out of its padded self.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// First row of the crop in the padded image, 0 to 8; 4 keeps the image in place.
    pub top: usize,
    /// First column of the crop in the padded image, 0 to 8; 4 keeps the image in place.
    pub left: usize,
    /// Whether the crop is mirrored left to right.
    pub flipped: bool,
}

impl Placement {
    /// The placement that changes nothing.
    pub const IDENTITY: Self = Self { top: CROP_PADDING, left: CROP_PADDING, flipped: false };

    /// Writes `from`, placed, into `to`; both are (C, H, W) of `shape`.
    ///
    /// # Panics
    /// If a slice is shorter than `shape` says.
    pub fn apply(self, from: &[u8], shape: [usize; 3], to: &mut [u8]) {
        let [channels, height, width] = shape;
        for channel in 0..channels {
            let plane = channel * height * width;
            for row in 0..height {
                let target = &mut to[plane + row * width..][..width];
                target.fill(0);
                let Some(source_row) = (row + self.top).checked_sub(CROP_PADDING).filter(|&r| r < height)
                else {
                    continue;
                };
                let source = &from[plane + source_row * width..][..width];
                for (column, pixel) in target.iter_mut().enumerate() {
                    let cropped = if self.flipped { width - 1 - column } else { column };
                    if let Some(value) =
                        (cropped + self.left).checked_sub(CROP_PADDING).and_then(|c| source.get(c))
                    {
                        *pixel = *value;
                    }
                }
            }
        }
    }
}

impl Augmentation {
    /// The placement of image `image_idx` of the data set in this epoch.
    #[must_use]
    pub fn placement(&self, image_idx: usize) -> Placement {
        let words = Stream::new(self.seed, Purpose::Augment, self.epoch).block(image_idx as u64);
        let below = |word: u32, bound: usize| ((u64::from(word) * bound as u64) >> 32) as usize;
        Placement {
            top: below(words[0], 2 * CROP_PADDING + 1),
            left: below(words[1], 2 * CROP_PADDING + 1),
            flipped: words[2] >> 31 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [2, 3, 4];

    fn image() -> Vec<u8> {
        (1..=24).collect()
    }

    fn placed(placement: Placement) -> Vec<u8> {
        let mut out = vec![255; 24];
        placement.apply(&image(), SHAPE, &mut out);
        out
    }

    #[test]
    fn identity_keeps_every_pixel() {
        assert_eq!(placed(Placement::IDENTITY), image());
    }

    /// Oracle: rows written down by hand.
    #[test]
    fn flip_mirrors_columns_not_rows() {
        let out = placed(Placement { flipped: true, ..Placement::IDENTITY });
        assert_eq!(out[..12], [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9]);
        assert_eq!(out[12..16], [16, 15, 14, 13]);
    }

    /// Oracle: rows written down by hand. `top` 5 shows the image one row further down the padded
    /// image, so it moves up by one and a black row enters below.
    #[test]
    fn crop_moves_the_image_and_pads_with_black() {
        assert_eq!(
            placed(Placement { top: 5, left: 4, flipped: false })[..12],
            [5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0]
        );
        assert_eq!(
            placed(Placement { top: 4, left: 2, flipped: false })[..12],
            [0, 0, 1, 2, 0, 0, 5, 6, 0, 0, 9, 10]
        );
        assert_eq!(
            placed(Placement { top: 4, left: 2, flipped: true })[..12],
            [2, 1, 0, 0, 6, 5, 0, 0, 10, 9, 0, 0]
        );
        assert_eq!(placed(Placement { top: 0, left: 0, flipped: false }), [0; 24]);
    }

    /// Oracle: each of 9 rows, 9 columns with probability 1/9, a flip with 1/2; five standard
    /// errors for 20,000 images.
    #[test]
    fn placements_are_uniform_and_change_with_seed_and_epoch() {
        let n = 20_000;
        let epoch = Augmentation { seed: 1, epoch: 3 };
        let (mut tops, mut lefts, mut flips) = ([0f64; 9], [0f64; 9], 0f64);
        for idx in 0..n {
            let placement = epoch.placement(idx);
            tops[placement.top] += 1.0;
            lefts[placement.left] += 1.0;
            flips += f64::from(u8::from(placement.flipped));
        }
        let n = n as f64;
        let off = |count: f64, p: f64| (count - n * p).abs() / (n * p * (1.0 - p)).sqrt();
        assert!(tops.iter().chain(&lefts).all(|&count| off(count, 1.0 / 9.0) < 5.0));
        assert!(off(flips, 0.5) < 5.0);
        for other in [Augmentation { seed: 2, epoch: 3 }, Augmentation { seed: 1, epoch: 4 }] {
            assert!((0..20).any(|idx| other.placement(idx) != epoch.placement(idx)));
        }
    }
}
