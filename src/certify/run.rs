//! Noisy copies of images, and how often each class is given to them.

use rayon::prelude::*;

use super::{Config, Decision, decide};
use crate::data::Dataset;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// A classifier that can only be asked. Functions and closures are classifiers.
pub trait Classifier {
    /// The class of each of `n` images (n, C, H, W), row by row: pixels from 0 to 1 plus noise, not cut off. It has the
    /// machine for itself. The class of an image may depend on no other one.
    ///
    /// # Errors
    /// [`Error::Classifier`] if it has no answer, such as where outputs are not numbers.
    fn classes(&self, images: &[f32], n: usize) -> Result<Vec<usize>>;
}

impl<F: Fn(&[f32], usize) -> Result<Vec<usize>>> Classifier for F {
    fn classes(&self, images: &[f32], n: usize) -> Result<Vec<usize>> {
        self(images, n)
    }
}

/// What is known of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Its row in the data set.
    pub image: usize,
    /// Its class in the data set.
    pub label: usize,
    /// How many of the n0 copies that choose were given each class: (classes).
    pub counts0: Vec<u64>,
    /// How many of the n other copies were given each class: (classes).
    pub counts: Vec<u64>,
    /// What follows.
    pub decision: Decision,
}

impl Certificate {
    /// Whether the certified class is the right one; an abstention is not.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.decision.class == Some(self.label)
    }
}

/// How far a certification is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is known so far, in the order of the rows.
    pub certificates: &'a [Certificate],
    /// Noisy copies classified, of images that were done before as well.
    pub copies: u64,
    /// All of them.
    pub n_copies: u64,
}

/// Certifies images.
#[derive(Debug, Clone)]
pub struct Certifier {
    /// Standard deviation of the noise, on pixels from 0 to 1.
    pub sigma: f64,
    /// Copies, and confidence.
    pub config: Config,
    /// Seed of the noise.
    pub seed: u64,
    /// Noisy copies that are classified together; certificates do not depend on it.
    pub batch: usize,
}

/// Images of a block of the widest registers.
const BLOCK: usize = 16;
/// Images of a batch, if they fit.
const BATCH: usize = 1_024;
/// Bytes of a batch.
const BATCH_BYTES: usize = 256 << 20;

impl Certifier {
    /// For images of `image_len` numbers, with batches that fill the threads.
    #[must_use]
    pub fn new(sigma: f64, config: Config, seed: u64, image_len: usize) -> Self {
        let round = BLOCK * rayon::current_num_threads();
        let most = (BATCH_BYTES / (size_of::<f32>() * image_len.max(1))).max(1);
        let batch = BATCH.next_multiple_of(round).min(most);
        Self { sigma, config, seed, batch }
    }

    /// Copies of one image.
    fn per_image(&self) -> usize {
        self.config.n0 + self.config.n
    }

    /// Certificates of the images at `rows` of `data`, of which those of the first rows are `done`. Copies of several
    /// images are classified together. `watch` hears of every batch, and may end it all by an error.
    ///
    /// # Errors
    /// [`Error::Classifier`] if the classifier has no answer or an impossible one, or if what is done is of other
    /// images; whatever `watch` says.
    pub fn run(
        &self,
        data: &Dataset,
        rows: &[usize],
        classifier: &dyn Classifier,
        done: Vec<Certificate>,
        watch: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<Vec<Certificate>> {
        self.check(data, rows, &done)?;
        let (per_image, len) = (self.per_image(), data.image_len());
        let n_copies = rows.len() * per_image;
        let mut copies = done.len() * per_image;
        let mut certificates = done;
        let mut buffer = vec![0.0f32; self.batch.min(n_copies - copies) * len];
        let mut counts = [vec![0; data.n_classes], vec![0; data.n_classes]];
        while copies < n_copies {
            let n = self.batch.min(n_copies - copies);
            let images = &mut buffer[..n * len];
            self.fill(data, rows, copies, images);
            let classes = classifier.classes(images, n).map_err(|error| match error {
                Error::Classifier(what) => {
                    let [first, last] = [copies, copies + n - 1].map(|copy| rows[copy / per_image]);
                    Error::Classifier(format!("{what} (noisy copies of images {first} to {last})"))
                }
                other => other,
            })?;
            if classes.len() != n {
                let what = format!("{} classes for {n} images", classes.len());
                return Err(Error::Classifier(what));
            }
            for class in classes {
                let (place, copy) = (copies / per_image, copies % per_image);
                let Some(count) = counts[usize::from(copy >= self.config.n0)].get_mut(class) else {
                    let what =
                        format!("class {class} for image {}, of {} classes", rows[place], data.n_classes);
                    return Err(Error::Classifier(what));
                };
                *count += 1;
                copies += 1;
                if copies.is_multiple_of(per_image) {
                    let [counts0, counts] =
                        std::mem::replace(&mut counts, [vec![0; data.n_classes], vec![0; data.n_classes]]);
                    certificates.push(self.certificate(data, rows[place], counts0, counts));
                }
            }
            watch(Progress {
                certificates: &certificates,
                copies: copies as u64,
                n_copies: n_copies as u64,
            })?;
        }
        Ok(certificates)
    }

    /// What counts say of an image.
    fn certificate(&self, data: &Dataset, image: usize, counts0: Vec<u64>, counts: Vec<u64>) -> Certificate {
        let decision = decide(&counts0, &counts, self.sigma, self.config.alpha);
        Certificate { image, label: usize::from(data.labels[image]), counts0, counts, decision }
    }

    /// Noisy copies number `first` and following, of all images, row by row.
    fn fill(&self, data: &Dataset, rows: &[usize], first: usize, images: &mut [f32]) {
        let (per_image, len) = (self.per_image(), data.image_len());
        images.par_chunks_mut(len.max(1)).enumerate().for_each_init(
            || vec![0.0; len],
            |noise, (idx, image)| {
                let (row, copy) = (rows[(first + idx) / per_image], (first + idx) % per_image);
                Stream::new(self.seed, Purpose::Certify, row as u32).lane(copy as u32).fill_normal(noise);
                for ((to, &pixel), &z) in image.iter_mut().zip(data.image(row)).zip(&*noise) {
                    *to = (f64::from(pixel) / 255.0 + self.sigma * z) as f32;
                }
            },
        );
    }

    fn check(&self, data: &Dataset, rows: &[usize], done: &[Certificate]) -> Result<()> {
        if let Some(row) = rows.iter().find(|&&row| row >= data.len()) {
            return Err(Error::data(
                &data.name,
                format!("image {row} asked for, but there are {}", data.len()),
            ));
        }
        if u32::try_from(data.len()).is_err() || u32::try_from(self.per_image()).is_err() {
            return Err(Error::setting("n", "more images or copies than are told apart by number"));
        }
        let is_ours = |(found, &row): (&Certificate, &usize)| {
            let Certificate { image, label, counts0, counts, .. } = found;
            let is_full = |counts: &[u64], n: usize| {
                let sum = counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count));
                counts.len() == data.n_classes && sum == n as u64
            };
            *image == row
                && *label == usize::from(data.labels[row])
                && is_full(counts0, self.config.n0)
                && is_full(counts, self.config.n)
        };
        if done.len() > rows.len() || !done.iter().zip(rows).all(is_ours) {
            return Err(Error::Classifier("what was certified before is of other images".to_owned()));
        }
        Ok(())
    }
}

/// `n` rows of `n_rows`, evenly spread, the first among them; all of them for 0.
#[must_use]
pub fn rows(n_rows: usize, n: usize) -> Vec<usize> {
    if n == 0 || n >= n_rows {
        return (0..n_rows).collect();
    }
    (0..n).map(|idx| idx * n_rows / n).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{load, save};
    use super::*;
    use crate::data::Normalization;

    /// Images of one pixel row, more or less bright.
    fn data() -> Dataset {
        let images = (0..6).flat_map(|image: u8| vec![110 + 8 * image; 12]).collect();
        let norm = Normalization::constant(&[0.0; 3], &[1.0; 3]);
        Dataset::new("grays", [3, 1, 4], 2, norm, images, vec![0, 0, 0, 1, 1, 1]).unwrap()
    }

    fn config(n: usize) -> Config {
        Config { n0: 20, n, alpha: 0.001, n_certified: 0 }
    }

    fn certifier(n: usize, batch: usize) -> Certifier {
        Certifier { sigma: 0.25, config: config(n), seed: 3, batch }
    }

    /// Class 1 where the mean pixel is 1/2 or more: a half space.
    fn is_bright(images: &[f32], n: usize) -> Result<Vec<usize>> {
        assert_eq!(images.len(), 12 * n);
        let mean = |image: &[f32]| image.iter().map(|&value| f64::from(value)).sum::<f64>() / 12.0;
        Ok(images.chunks(12).map(|image| usize::from(mean(image) >= 0.5)).collect())
    }

    fn run(certifier: &Certifier, rows: &[usize], done: Vec<Certificate>) -> Result<Vec<Certificate>> {
        certifier.run(&data(), rows, &is_bright, done, &mut |_| Ok(()))
    }

    /// Oracle: the distance to the half space, which is the radius of the smoothed classifier if its probability
    /// is known; the bound holds for all seeds with probability 0.999 each, and is not far below.
    #[test]
    fn radii_of_a_half_space_are_below_its_distance() {
        let rows = rows(6, 0);
        let config = Config { n0: 2_000, ..config(20_000) };
        for found in run(&Certifier { config, ..certifier(0, 1_000) }, &rows, Vec::new()).unwrap() {
            let mean = f64::from(110 + 8 * found.image as u8) / 255.0;
            let distance = (mean - 0.5).abs() * 12f64.sqrt();
            let Decision { class, radius, .. } = found.decision;
            assert!(radius <= distance && radius > distance - 0.02, "{radius} {distance}");
            if distance > 0.02 {
                assert_eq!(class, Some(usize::from(mean > 0.5)));
            }
        }
    }

    /// Oracle: batches of one copy, one thread, and a run that was stopped after every batch.
    #[test]
    fn certificates_do_not_depend_on_batches_threads_or_stops() {
        let rows = rows(6, 4);
        assert_eq!(rows, [0, 1, 3, 4]);
        let expected = run(&certifier(50, 1), &rows, Vec::new()).unwrap();
        assert!(expected.iter().all(|found| found.counts.iter().sum::<u64>() == 50));
        assert!(expected.iter().any(|found| !found.counts.contains(&0)));
        for batch in [7, 70, 100, 10_000] {
            assert_eq!(run(&certifier(50, batch), &rows, Vec::new()).unwrap(), expected);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| run(&certifier(50, 64), &rows, Vec::new())).unwrap(), expected);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        let ours = certifier(50, 30);
        let mut stops = 0;
        let found = loop {
            let done = load(&path, "this", ours.sigma, ours.config.alpha).unwrap().unwrap_or_default();
            let n_done = done.len();
            let mut stop = |progress: Progress| {
                assert_eq!(progress.n_copies, 280);
                save(&path, "this", progress.certificates)?;
                let is_new = progress.certificates.len() > n_done;
                if is_new && progress.copies < progress.n_copies { Err(Error::Interrupted) } else { Ok(()) }
            };
            match ours.run(&data(), &rows, &is_bright, done, &mut stop) {
                Ok(found) => break found,
                Err(Error::Interrupted) => stops += 1,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!((found, stops), (expected.clone(), 3));
        // One image alone, wherever it stands.
        assert_eq!(run(&ours, &[4], Vec::new()).unwrap()[0], expected[3]);
    }

    #[test]
    fn states_of_something_else_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        let ours = certifier(50, 64);
        let found = run(&ours, &[0, 1], Vec::new()).unwrap();
        save(&path, "this", &found).unwrap();
        let reason = |identity| load(&path, identity, 0.25, 0.001).unwrap_err().to_string();
        assert!(reason("that").contains("other settings") && reason("that").contains("delete"));
        assert_eq!(load(&path, "this", 0.25, 0.001).unwrap(), Some(found.clone()));
        let bytes = std::fs::read(&path).unwrap();
        for mutant in crate::mutants::of(&bytes, 1, 300) {
            std::fs::write(&path, &mutant).unwrap();
            match load(&path, "this", 0.25, 0.001) {
                Ok(same) => assert_eq!(same, Some(found.clone())),
                Err(error) => assert!(error.to_string().contains("x.state"), "{error}"),
            }
        }
        for rows in [&[0][..], &[1, 0], &[0, 2]] {
            assert!(run(&ours, rows, found.clone()).unwrap_err().to_string().contains("other images"));
        }
        assert!(run(&certifier(51, 64), &[0, 1], found).is_err());
    }

    #[test]
    fn impossible_answers_are_errors() {
        let ask = |answer: &dyn Classifier| {
            let run = certifier(50, 64).run(&data(), &[2, 3], answer, Vec::new(), &mut |_| Ok(()));
            run.unwrap_err().to_string()
        };
        assert_eq!(ask(&|_: &[f32], n| Ok(vec![2; n])), "classifier: class 2 for image 2, of 2 classes");
        assert_eq!(ask(&|_: &[f32], _| Ok(vec![0])), "classifier: 1 classes for 64 images");
        let silent = |_: &[f32], _| Err(Error::Classifier("says nothing".to_owned()));
        assert_eq!(ask(&silent), "classifier: says nothing (noisy copies of images 2 to 2)");
        let none = certifier(50, 64).run(&data(), &[6], &is_bright, Vec::new(), &mut |_| Ok(()));
        assert!(none.unwrap_err().to_string().contains("image 6"));
    }

    /// Oracle: moments of the normal law, five standard errors; noise of choice and of certification differ.
    #[test]
    fn noise_is_normal_and_fresh() {
        let (data, ours) = (data(), certifier(480, 1));
        let mut images = vec![0.0f32; 500 * 12];
        ours.fill(&data, &[1], 0, &mut images);
        let noise = images.iter().map(|&value| (f64::from(value) - 118.0 / 255.0) / 0.25);
        let noise: Vec<f64> = noise.collect();
        let n = noise.len() as f64;
        let (mean, square) = (noise.iter().sum::<f64>() / n, noise.iter().map(|z| z * z).sum::<f64>() / n);
        assert!(mean.abs() < 5.0 / n.sqrt() && (square - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        let mut copies: Vec<String> = images.chunks(12).map(|copy| format!("{copy:?}")).collect();
        copies.sort();
        copies.dedup();
        assert_eq!(copies.len(), 500);
    }
}
