//! How far a coarse flow solver gets from a fine one.

use std::sync::Mutex;
use std::time::Instant;

use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner};
use crate::data::Progress;
use crate::data::wake::{self, Simulation, TEST_RE, Wake};
use crate::method;
use crate::metric::{self, Row};
use crate::pde::{Flow, Grid, Real, Velocity, Workspace, vorticity};
use crate::problem::correct::{self, Course};
use crate::profile::Profile;
use crate::setting::{Entry, Section, Settings};
use crate::train::Observer;
use crate::{Error, Result};

/// `task = solver-alone`: the test simulations again on the coarse grid, without a corrector.
#[derive(Debug)]
pub struct SolverAlone;

impl Task for SolverAlone {
    fn name(&self) -> &'static str {
        "solver-alone"
    }

    fn sections(&self, _: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        Ok(vec![wake::Config::ENTRIES])
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        settings.read::<wake::Config>()?.check()
    }

    fn has_images(&self) -> bool {
        false
    }

    fn run(&self, settings: &Settings, _: u64, session: &Session) -> Result<Outcome> {
        let started = Instant::now();
        let config: wake::Config = settings.read()?;
        let wake = flows(&config, session)?;
        let recorder = Recorder::new(&wake);
        let courses = correct::uncorrected::<f32>(&wake, config.projection, |s, f, v| recorder.see(s, f, v))?;
        let mut row = Row::new(1);
        correct::record(&courses, &mut row);
        row.set(&metric::WALL_S, started.elapsed().as_secs_f64());
        session.observer.epoch(&row);
        let profiles = recorder.profiles(&wake, &courses);
        Ok(Outcome {
            profiles,
            data_checksum: Some(wake.checksum.clone()),
            ..Outcome::measured(0, vec![row])
        })
    }

    fn cost(&self, settings: &Settings, _: &mut Planner) -> Result<Cost> {
        let config: wake::Config = settings.read()?;
        let steps = (config.frames * TEST_RE.len()) as f64;
        Ok(Cost { queries: 0.0, flops: 0.0, wall_s: steps * step_s::<f32>(config.grid()?, &config) })
    }
}

/// The flows of these settings, the same on all ranks.
pub(super) fn flows(config: &wake::Config, session: &Session) -> Result<Wake> {
    struct Notes<'a>(&'a dyn Observer);
    impl Progress for Notes<'_> {
        fn note(&self, text: &str) {
            self.0.note(text);
        }
    }
    let wake = Wake::load(config, session.location, &Notes(session.observer))?;
    session.ranks.agree("flows", &wake.checksum)?;
    Ok(wake)
}

/// Seconds of a step of one flow, where all threads have blocks of them.
pub(super) fn step_s<T: Real>(grid: Grid, config: &wake::Config) -> f64 {
    const STEPS: usize = 5;
    let lanes = correct::lanes_per_block::<T>();
    let flow = Flow::<T>::new(grid, config.projection);
    let mut state = Velocity::start(flow.grid(), lanes);
    let alphas = vec![T::of(flow.diffusion_number(TEST_RE[0])); lanes];
    let mut workspace = Workspace::new(flow.grid(), lanes);
    flow.step(&mut state, &alphas, &mut workspace);
    let started = Instant::now();
    (0..STEPS).for_each(|_| flow.step(&mut state, &alphas, &mut workspace));
    started.elapsed().as_secs_f64() / (STEPS * lanes * rayon::current_num_threads()) as f64
}

/// Pictures of one test simulation, at some frames.
pub(super) struct Recorder {
    simulation: usize,
    every: usize,
    frames: Mutex<Vec<(usize, Vec<f64>)>>,
}

/// Pictures that are kept of a simulation.
const PICTURES: usize = 24;

/// What a picture keeps of a vorticity: steps of this many units of one over time.
const RESOLUTION: f64 = 1e-4;

impl Recorder {
    /// Of the simulation in the middle.
    pub(super) fn new(wake: &Wake) -> Self {
        let n_frames = wake.test.first().map_or(1, |simulation| simulation.frames.len());
        Self {
            simulation: wake.test.len() / 2,
            every: (n_frames - 1).div_ceil(PICTURES).max(1),
            frames: Mutex::default(),
        }
    }

    /// Keeps a frame, if it is one of those.
    pub(super) fn see(&self, simulation: usize, frame: usize, values: &[f64]) {
        if simulation == self.simulation && frame.is_multiple_of(self.every) {
            let mut frames = self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            frames.push((frame, values.to_vec()));
        }
    }

    /// The errors and the pictures as profiles.
    pub(super) fn profiles(&self, wake: &Wake, courses: &[Course]) -> Vec<Profile> {
        let errors: Vec<f64> = courses.iter().map(Course::mean_error).collect();
        let res = correct::reynolds(&wake.test);
        let names = res.iter().map(|re| format!("Re {re:.1}")).collect();
        let by_re =
            Profile::new(Profile::REYNOLDS, "simulation", names).on_axis(res).with("mae", finite(errors));
        let n_frames = courses.first().map_or(0, |course| course.errors.len());
        let mean = |frame: usize| {
            courses.iter().map(|course| course.errors[frame]).sum::<f64>() / courses.len() as f64
        };
        let names = (1..=n_frames).map(|frame| format!("frame {frame}")).collect();
        let by_frame = Profile::new(Profile::FRAMES, "frame", names)
            .on_axis((1..=n_frames).map(|frame| frame as f64).collect())
            .with("mae", finite((0..n_frames).map(mean).collect()));
        let mut profiles = vec![by_re, by_frame];
        profiles.extend(wake.test.get(self.simulation).map(|simulation| self.wake(wake, simulation)));
        profiles
    }

    fn wake(&self, wake: &Wake, simulation: &Simulation) -> Profile {
        let mut frames = self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        frames.sort_by_key(|(frame, _)| *frame);
        let columns = wake.grid.cells()[1] - 1;
        let (mut labels, mut xs, mut found, mut reference) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let rounded = |value: &f64| (value / RESOLUTION).round() * RESOLUTION;
        for (frame, values) in &*frames {
            let expected = vorticity(&wake.grid, &simulation.frames[*frame], 0);
            for corner in 0..values.len() {
                labels.push(format!("{frame}:{}:{}", corner / columns, corner % columns));
                xs.push(*frame as f64);
            }
            found.extend(values.iter().map(rounded));
            reference.extend(expected.iter().map(rounded));
        }
        Profile::new(Profile::WAKE, "corner", labels)
            .on_axis(xs)
            .with("vorticity", finite(found))
            .with("reference", reference)
    }
}

/// What is no number is none: a flow that was lost.
fn finite(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| if value.is_finite() { value } else { f64::NAN }).collect()
}

/// Refuses arithmetic that solvers have not.
pub(super) fn no_arithmetic(name: &str) -> Error {
    Error::setting(
        "precision",
        format!("{name} rounds what convolutions multiply, and a rollout amplifies it: use f32"),
    )
}
