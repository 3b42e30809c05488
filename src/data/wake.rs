//! Simulated flows: the wake of a disc at several Reynolds numbers, computed on a fine grid and restricted to a coarse one.
//!
//! They are computed once and kept in a file with their checksum below the folder of data. The solver gives the same bits
//! on every machine, and so does this.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Location, Progress};
use crate::hex::hex;
use crate::pde::{Component, Disc, Flow, Grid, Variant, Velocity, Workspace, restrict};
use crate::setting::Domain::Int;
use crate::{Error, Result, files};

/// Configured Reynolds numbers to train on, and to test on.
pub const TRAIN_RE: [f64; 6] = [160e3, 320e3, 640e3, 1280e3, 2560e3, 5120e3];
/// See [`TRAIN_RE`].
pub const TEST_RE: [f64; 5] = [240e3, 480e3, 960e3, 1920e3, 3840e3];

/// A configured Reynolds number over that of publications: 128²/10.
const PER_PUBLISHED: f64 = 1638.4;

crate::section! {
    /// Simulated flows.
    pub struct Config {
        /// Cells across the coarse grid.
        pub resolution: usize = 32 => Int(4, 128),
        /// Cells of the fine grid for one of the coarse grid, along each axis.
        pub refinement: usize = 2 => Int(1, 16),
        /// Frames of every simulation.
        pub frames: usize = 500 => Int(3, 100_000),
        /// Steps of a simulation before its first frame.
        pub warm_up_steps: usize = 1000,
        /// Projection of the flow at the edge of its domain.
        pub projection: Variant = Variant::Consistent,
        /// Radius of the obstacle, in hundredths of the domain's width; 0 for none.
        pub obstacle_radius: f64 = 10.0 => crate::setting::Domain::From(0.0, 100.0),
    }
}

impl Config {
    /// The coarse grid.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is none.
    pub fn grid(&self) -> Result<Grid> {
        Grid::new(self.resolution, self.disc())
    }

    fn disc(&self) -> Disc {
        Disc { radius: self.obstacle_radius, ..Disc::default() }
    }

    fn fine_grid(&self) -> Result<Grid> {
        Grid::new(self.resolution * self.refinement, self.disc()).map_err(|error| match error {
            Error::Setting { key, reason } if key == "resolution" => {
                Error::setting("refinement", format!("the fine grid: {reason}"))
            }
            other => other,
        })
    }

    /// Checks that both grids exist, and that explicit diffusion is stable on them.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    pub fn check(&self) -> Result<()> {
        self.grid()?;
        if !self.refinement.is_power_of_two() {
            let reason = format!("grids are halved: expected 1, 2, 4, 8 or 16; got {}", self.refinement);
            return Err(Error::setting("refinement", reason));
        }
        let fine = self.fine_grid()?.resolution() as f64;
        let (alpha, most) = (fine * fine / TRAIN_RE[0], crate::pde::MAX_NUMBER);
        if alpha > most {
            let reason = format!(
                "{fine} cells across the fine grid make a diffusion number of {alpha:.3}, where explicit steps need {most} \
                 or less: take fewer"
            );
            return Err(Error::setting("refinement", reason));
        }
        Ok(())
    }

    /// What the numbers depend on, as text.
    fn identity(&self) -> String {
        let Self { resolution, refinement, frames, warm_up_steps, projection, obstacle_radius } = self;
        json!({
            "resolution": resolution, "refinement": refinement, "frames": frames, "warm-up-steps": warm_up_steps,
            "projection": projection.name(), "obstacle-radius": obstacle_radius, "train": TRAIN_RE, "test": TEST_RE,
        })
        .to_string()
    }

    /// Name of the file.
    fn file_name(&self) -> String {
        let Self { resolution, refinement, frames, .. } = self;
        let digest = hex(&Sha256::digest(self.identity().as_bytes()));
        format!("wake-r{resolution}-x{refinement}-f{frames}-{}.safetensors", &digest[..8])
    }
}

/// One simulation at one Reynolds number.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// Configured Reynolds number.
    pub re: f64,
    /// States at consecutive times on the coarse grid, each a flow that is alone.
    pub frames: Vec<Velocity<f32>>,
}

impl Simulation {
    /// The Reynolds number as publications have it.
    #[must_use]
    pub fn published_re(&self) -> f64 {
        self.re / PER_PUBLISHED
    }
}

/// All simulations.
#[derive(Debug, Clone, PartialEq)]
pub struct Wake {
    /// The coarse grid.
    pub grid: Grid,
    /// To train on.
    pub train: Vec<Simulation>,
    /// To test on.
    pub test: Vec<Simulation>,
    /// SHA-256 of all numbers.
    pub checksum: String,
}

/// Folder below that of data.
const FOLDER: &str = "flow";

/// Where the file of these settings is, if it is anywhere, and else where it would be written.
#[must_use]
pub fn path(config: &Config, location: &Location) -> PathBuf {
    let folders: Vec<&Path> = match &location.data_dir {
        Some(folder) => vec![folder],
        None => location.dirs.iter().map(PathBuf::as_path).collect(),
    };
    let at = |folder: &Path| folder.join(FOLDER).join(config.file_name());
    let found = folders.iter().map(|folder| at(folder)).find(|path| path.exists());
    found.unwrap_or_else(|| at(folders.first().copied().unwrap_or(Path::new("data"))))
}

impl Wake {
    /// The flows of these settings, from their file or else computed and written there.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are no such flows, [`Error::Data`] if the file is damaged, [`Error::Io`] if it cannot
    /// be written.
    pub fn load(config: &Config, location: &Location, progress: &dyn Progress) -> Result<Self> {
        config.check()?;
        let path = path(config, location);
        if path.exists() {
            return Self::read(config, &path);
        }
        // Better before than after minutes of computing.
        files::check_writable(&path)?;
        let wake = Self::compute(config, progress)?;
        wake.write(config, &path)?;
        Ok(wake)
    }

    /// Computes them.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are no such flows, [`Error::Objective`] if one is lost.
    pub fn compute(config: &Config, progress: &dyn Progress) -> Result<Self> {
        config.check()?;
        let flow = Flow::<f64>::new(config.fine_grid()?, config.projection);
        let all: Vec<f64> = TRAIN_RE.into_iter().chain(TEST_RE).collect();
        let n_steps = config.warm_up_steps + config.frames - 1;
        progress.note(&format!(
            "computing {} flows of {n_steps} steps on {} cells across",
            all.len(),
            flow.grid().resolution()
        ));
        // As many side by side as give every thread a part; the numbers do not depend on it.
        let per_part = all.len().div_ceil(rayon::current_num_threads());
        let parts: Vec<Vec<Simulation>> =
            all.par_chunks(per_part).map(|part| simulate(config, &flow, part)).collect::<Result<_>>()?;
        let mut train: Vec<Simulation> = parts.into_iter().flatten().collect();
        let test = train.split_off(TRAIN_RE.len());
        let checksum = checksum(&train, &test);
        Ok(Self { grid: config.grid()?, train, test, checksum })
    }

    /// Writes them, with their checksum and where they are from.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails.
    fn write(&self, config: &Config, path: &Path) -> Result<()> {
        let mut parts = Vec::new();
        for (split, simulations) in [("train", &self.train), ("test", &self.test)] {
            for (name, component) in [("v", Component::V), ("u", Component::U)] {
                let [rows, columns] = self.grid.faces(component);
                let bytes = bytes_of(simulations, component);
                parts.push((
                    format!("{split}.{name}"),
                    vec![simulations.len(), config.frames, rows, columns],
                    bytes,
                ));
            }
        }
        let views = parts.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            view.map(|view| (name.clone(), view)).map_err(|error| Error::file(path, error.to_string()))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([
            ("sha256".to_owned(), self.checksum.clone()),
            ("settings".to_owned(), config.identity()),
            ("program".to_owned(), format!("deepzero {}", env!("CARGO_PKG_VERSION"))),
            ("commit".to_owned(), env!("DEEPZERO_COMMIT").to_owned()),
        ]);
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|error| Error::file(path, error.to_string()))?;
        files::write_atomically(path, &bytes)
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`Error::Data`] if the file is damaged or not of these settings.
    pub fn read(config: &Config, path: &Path) -> Result<Self> {
        let again = "move it away, and the flows are computed again";
        let damaged = |reason: &str| Error::data(path, format!("{reason}; {again}"));
        let grid = config.grid()?;
        let n_numbers: usize = [Component::V, Component::U]
            .map(|component| grid.faces(component).iter().product::<usize>())
            .iter()
            .sum();
        let n_bytes = 4 * n_numbers * config.frames * (TRAIN_RE.len() + TEST_RE.len());
        let bytes = files::read_bounded(path, n_bytes as u64 + (1 << 16))?;
        let no_file = |_| damaged("not a complete safetensors file");
        let tensors = SafeTensors::deserialize(&bytes).map_err(no_file)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(no_file)?;
        let stated = |key: &str| header.metadata().as_ref().and_then(|texts| texts.get(key)).cloned();
        if stated("settings") != Some(config.identity()) {
            return Err(damaged("holds flows of other settings"));
        }
        let simulations = |split: &str, res: &[f64]| -> Result<Vec<Simulation>> {
            let mut parts = Vec::new();
            for (name, component) in [("v", Component::V), ("u", Component::U)] {
                let [rows, columns] = grid.faces(component);
                let name = format!("{split}.{name}");
                let tensor =
                    tensors.tensor(&name).map_err(|_| damaged(&format!("has no tensor `{name}`")))?;
                if tensor.dtype() != Dtype::F32 || tensor.shape() != [res.len(), config.frames, rows, columns]
                {
                    return Err(damaged(&format!("`{name}` has another shape or type")));
                }
                let numbers = tensor.data().chunks_exact(4);
                let numbers = numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                parts.push((numbers.collect::<Vec<f32>>(), rows * columns));
            }
            let of = |(numbers, n): &(Vec<f32>, usize), at: usize| numbers[at * n..][..*n].to_vec();
            let simulation = |(idx, &re): (usize, &f64)| {
                let at = |frame: usize| idx * config.frames + frame;
                let frame =
                    |frame| Velocity { lanes: 1, v: of(&parts[0], at(frame)), u: of(&parts[1], at(frame)) };
                Simulation { re, frames: (0..config.frames).map(frame).collect() }
            };
            Ok(res.iter().enumerate().map(simulation).collect())
        };
        let (train, test) = (simulations("train", &TRAIN_RE)?, simulations("test", &TEST_RE)?);
        let checksum = checksum(&train, &test);
        if stated("sha256").as_ref() != Some(&checksum) {
            return Err(damaged("is damaged: its numbers do not have the checksum that it says"));
        }
        Ok(Self { grid, train, test, checksum })
    }
}

/// The simulations at the Reynolds numbers `res`, side by side.
fn simulate(config: &Config, flow: &Flow<f64>, res: &[f64]) -> Result<Vec<Simulation>> {
    let alphas: Vec<f64> = res.iter().map(|&re| flow.diffusion_number(re)).collect();
    let mut state = Velocity::start(flow.grid(), res.len());
    let mut workspace = Workspace::new(flow.grid(), res.len());
    let mut simulations: Vec<Simulation> =
        res.iter().map(|&re| Simulation { re, frames: Vec::new() }).collect();
    for step in 0..config.warm_up_steps + config.frames {
        if step > 0 {
            flow.step(&mut state, &alphas, &mut workspace);
        }
        if step < config.warm_up_steps {
            continue;
        }
        state.check(flow.grid())?;
        let (mut coarse, mut resolution) = (state.clone(), flow.grid().resolution());
        while resolution > config.resolution {
            coarse = restrict(resolution, &coarse);
            resolution /= 2;
        }
        let coarse = coarse.cast::<f32>();
        simulations.iter_mut().enumerate().for_each(|(lane, to)| to.frames.push(coarse.lane(lane)));
    }
    Ok(simulations)
}

/// One component of all frames, as it stands in files.
fn bytes_of(simulations: &[Simulation], component: Component) -> Vec<u8> {
    let frames = simulations.iter().flat_map(|simulation| &simulation.frames);
    let numbers = frames.flat_map(|frame| match component {
        Component::V => &frame.v,
        Component::U => &frame.u,
    });
    numbers.flat_map(|number| number.to_le_bytes()).collect()
}

fn checksum(train: &[Simulation], test: &[Simulation]) -> String {
    let mut hash = Sha256::new();
    for simulations in [train, test] {
        hash.update(bytes_of(simulations, Component::V));
        hash.update(bytes_of(simulations, Component::U));
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Silent;

    fn small() -> Config {
        Config { resolution: 8, frames: 4, warm_up_steps: 3, ..Config::default() }
    }

    /// Oracle: one flow at a time, step by step, bit for bit; and the file gives back what was written.
    #[test]
    fn flows_are_computed_once() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location { data_dir: Some(folder.path().to_owned()), ..Location::default() };
        let config = small();
        let made = Wake::load(&config, &location, &Silent).unwrap();
        let flow = Flow::<f64>::new(config.fine_grid().unwrap(), config.projection);
        let mut state = Velocity::start(flow.grid(), 1);
        let mut workspace = Workspace::new(flow.grid(), 1);
        for _ in 0..3 + 2 {
            flow.step(&mut state, &[flow.diffusion_number(TEST_RE[1])], &mut workspace);
        }
        assert_eq!(made.test[1].frames[2], restrict(16, &state).cast::<f32>());
        let path = path(&config, &location);
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(Wake::load(&config, &location, &Silent).unwrap(), made);
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written);
        // Damage is told, and nothing is lost.
        let sound = std::fs::read(&path).unwrap();
        let message = || Wake::load(&config, &location, &Silent).unwrap_err().to_string();
        let mut bytes = sound.clone();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(message().contains("checksum that it says; move it away"), "{}", message());
        std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
        assert!(message().contains("not a complete safetensors file"), "{}", message());
        assert!(path.exists());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let message = |config: Config| config.check().unwrap_err().to_string();
        assert!(message(Config { resolution: 9, ..small() }).contains("an even number of cells"));
        assert!(message(Config { refinement: 3, ..small() }).contains("expected 1, 2, 4"));
        assert!(message(Config { obstacle_radius: 60.0, ..small() }).contains("does not lie in the domain"));
        let unstable = message(Config { resolution: 128, ..small() });
        assert!(
            unstable.contains("diffusion number of 0.410") && unstable.contains("refinement"),
            "{unstable}"
        );
    }
}
