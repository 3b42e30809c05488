//! A labelled set of images in memory, and the choice of rows from it.

use std::borrow::Cow;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::hex::hex;
use crate::rng::Stream;

/// Per-channel mean and standard deviation of pixels scaled to [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// Mean by channel.
    pub mean: Cow<'static, [f64]>,
    /// Standard deviation by channel.
    pub std: Cow<'static, [f64]>,
}

impl Normalization {
    /// Of constants, one per channel.
    #[must_use]
    pub const fn constant(mean: &'static [f64], std: &'static [f64]) -> Self {
        Self { mean: Cow::Borrowed(mean), std: Cow::Borrowed(std) }
    }

    /// That of as many channels which leaves pixels between 0 and 1.
    #[must_use]
    pub fn unit(&self) -> Self {
        let n = self.mean.len();
        Self { mean: vec![0.0; n].into(), std: vec![1.0; n].into() }
    }

    /// What byte `value` of `channel` becomes: (value / 255 − mean) / std.
    #[must_use]
    pub fn apply(&self, channel: usize, value: u8) -> f64 {
        (f64::from(value) / 255.0 - self.mean[channel]) / self.std[channel]
    }
}

/// Labelled images of one size, pixels as bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What the images are, such as `cifar10 train`.
    pub name: String,
    /// Channels, height, width of every image.
    pub shape: [usize; 3],
    /// Number of classes; every label is below it.
    pub n_classes: usize,
    /// What pixels are normalized with.
    pub normalization: Normalization,
    /// Pixels: (N, C, H, W), row-major, 0 to 255.
    pub images: Vec<u8>,
    /// Labels: (N).
    pub labels: Vec<u8>,
    /// Whether pixels are no longer those of the source, since a copy was stored with loss (JPEG).
    pub is_lossy: bool,
}

/// The two halves of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// Images to learn from.
    pub train: Dataset,
    /// Images to measure accuracy on.
    pub test: Dataset,
}

impl Dataset {
    /// Checks that `images` (N, C, H, W) and `labels` (N) fit together.
    ///
    /// # Errors
    /// [`Error::Data`] if the sizes disagree, a label is not below `n_classes`, or the normalization is not one of
    /// as many channels.
    pub fn new(
        name: impl Into<String>,
        shape: [usize; 3],
        n_classes: usize,
        normalization: Normalization,
        images: Vec<u8>,
        labels: Vec<u8>,
    ) -> Result<Self> {
        let name = name.into();
        let expected = labels.len() * shape.iter().product::<usize>();
        if images.len() != expected {
            let reason = format!(
                "{} pixels for {} images of {shape:?}: {expected} needed",
                images.len(),
                labels.len()
            );
            return Err(Error::data(name, reason));
        }
        if let Some(row) = labels.iter().position(|&label| usize::from(label) >= n_classes) {
            let reason = format!("row {row}: label {} is not below {n_classes}", labels[row]);
            return Err(Error::data(name, reason));
        }
        let n_channels = [normalization.mean.len(), normalization.std.len()];
        if n_channels != [shape[0]; 2] || normalization.std.iter().any(|&std| std.is_nan() || std <= 0.0) {
            let reason = format!("{normalization:?} does not fit images of {} channels", shape[0]);
            return Err(Error::data(name, reason));
        }
        Ok(Self { name, shape, n_classes, normalization, images, labels, is_lossy: false })
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image, C·H·W.
    #[must_use]
    pub fn image_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Pixels of image `idx`: (C, H, W), row-major.
    ///
    /// # Panics
    /// If `idx` is not below [`len`](Self::len).
    #[must_use]
    pub fn image(&self, idx: usize) -> &[u8] {
        &self.images[idx * self.image_len()..][..self.image_len()]
    }

    /// SHA-256, in hexadecimal, of all pixels followed by all labels: the identity of the data,
    /// whatever file format it came from.
    #[must_use]
    pub fn checksum(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(&self.images);
        hasher.update(&self.labels);
        hex(&hasher.finalize())
    }

    /// Number of images of every class: (`n_classes`).
    #[must_use]
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.n_classes];
        self.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
        counts
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut images = vec![0; indices.len() * self.image_len()];
        images
            .par_chunks_mut(self.image_len().max(1))
            .zip(indices)
            .for_each(|(to, &idx)| to.copy_from_slice(self.image(idx)));
        let labels = indices.iter().map(|&idx| self.labels[idx]).collect();
        Self { name: self.name.clone(), normalization: self.normalization.clone(), images, labels, ..*self }
    }

    /// `n` distinct rows in increasing order, as class-balanced as the data allow: class counts
    /// differ by at most one unless a class has too few images. Which images, and which classes
    /// get one more, depends on `stream` alone; all its lanes are used.
    ///
    /// # Errors
    /// [`Error::Data`] if there are fewer than `n` images.
    pub fn balanced_subset(&self, n: usize, stream: Stream) -> Result<Vec<usize>> {
        if n > self.len() {
            return Err(Error::data(
                &self.name,
                format!("{n} images asked for, but there are {}", self.len()),
            ));
        }
        let available = self.class_counts();
        let class_order = stream.lane(0).permutation(self.n_classes);
        let mut quotas = vec![0; self.n_classes];
        let mut remaining = n;
        while remaining > 0 {
            for &class in &class_order {
                if remaining > 0 && quotas[class] < available[class] {
                    quotas[class] += 1;
                    remaining -= 1;
                }
            }
        }
        let mut chosen = Vec::with_capacity(n);
        for (class, &quota) in quotas.iter().enumerate() {
            let rows: Vec<usize> =
                (0..self.len()).filter(|&i| usize::from(self.labels[i]) == class).collect();
            let picks = stream.lane(1 + class as u32).subset(rows.len(), quota);
            chosen.extend(picks.into_iter().map(|i| rows[i]));
        }
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// The rows that are not in `chosen`, in increasing order: what is left to train on once a
    /// validation set is set aside.
    #[must_use]
    pub fn complement(&self, chosen: &[usize]) -> Vec<usize> {
        let mut is_chosen = vec![false; self.len()];
        chosen.iter().filter(|&&i| i < self.len()).for_each(|&i| is_chosen[i] = true);
        (0..self.len()).filter(|&i| !is_chosen[i]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    const NORM: Normalization = Normalization::constant(&[0.5], &[0.25]);

    /// Ten 1x1x1 images per class, labels interleaved, pixel = row number.
    fn small(n: usize, n_classes: usize) -> Dataset {
        let labels = (0..n).map(|i| (i % n_classes) as u8).collect();
        Dataset::new("small", [1, 1, 1], n_classes, NORM, (0..n).map(|i| i as u8).collect(), labels).unwrap()
    }

    /// Oracle: `printf '\x00\x01\x02\x00\x01\x00' | sha256sum`.
    #[test]
    fn checksum_is_sha256_of_images_then_labels() {
        let data = Dataset::new("x", [1, 1, 1], 2, NORM, vec![0, 1, 2], vec![0, 1, 0]).unwrap();
        assert_eq!(data.checksum(), "30d3a50ec181813aaf656a53b2ce275d01929acb24223b571be569a1a2591ba5");
    }

    #[test]
    fn balanced_subset_is_balanced_sorted_distinct_and_seeded() {
        let data = small(100, 10);
        for n in [0, 1, 9, 10, 37, 99, 100] {
            let stream = |seed| Stream::new(seed, Purpose::Subset, 0);
            let rows = data.balanced_subset(n, stream(1)).unwrap();
            assert_eq!(rows.len(), n);
            assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
            let counts = data.select(&rows).class_counts();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            assert_eq!(rows, data.balanced_subset(n, stream(1)).unwrap());
            if (10..90).contains(&n) {
                assert_ne!(rows, data.balanced_subset(n, stream(2)).unwrap());
            }
        }
        assert!(data.balanced_subset(101, Stream::new(1, Purpose::Subset, 0)).is_err());
    }

    #[test]
    fn a_rare_class_gives_all_it_has() {
        let labels = vec![0, 0, 0, 0, 0, 0, 1];
        let data = Dataset::new("rare", [1, 1, 1], 2, NORM, vec![0; 7], labels).unwrap();
        let rows = data.balanced_subset(5, Stream::new(3, Purpose::Subset, 0)).unwrap();
        assert_eq!(data.select(&rows).class_counts(), [4, 1]);
    }

    #[test]
    fn complement_and_chosen_partition_the_rows() {
        let data = small(20, 4);
        let chosen = data.balanced_subset(7, Stream::new(5, Purpose::Subset, 0)).unwrap();
        let mut all = [data.complement(&chosen), chosen].concat();
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn select_takes_rows_in_the_order_given() {
        let picked = small(20, 4).select(&[7, 2, 7]);
        assert_eq!((picked.images, picked.labels), (vec![7, 2, 7], vec![3, 2, 3]));
    }

    #[test]
    fn sizes_and_labels_are_checked() {
        assert!(Dataset::new("x", [1, 2, 2], 2, NORM, vec![0; 7], vec![0, 1]).is_err());
        let error = Dataset::new("x", [1, 1, 1], 2, NORM, vec![0; 2], vec![0, 2]).unwrap_err();
        assert!(error.to_string().contains("row 1: label 2"), "{error}");
    }
}
