//! The Rust part of the Python package: a run by ask and tell, on arrays of numpy.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use deepzero::minimize::pool::Ended;
use deepzero::minimize::{
    Asked, Bounds, Files, Minimizer, Run, Start, Stopped, Summary, settings, write_report,
};
use deepzero::zo::Probe;
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray2};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rayon::prelude::*;

fn error(error: deepzero::Error) -> PyErr {
    let text = error.to_string();
    match error {
        deepzero::Error::Setting { .. } | deepzero::Error::Evaluation { .. } => PyValueError::new_err(text),
        deepzero::Error::Io { .. } | deepzero::Error::File { .. } => PyOSError::new_err(text),
        _ => PyRuntimeError::new_err(text),
    }
}

fn numbers(array: &PyReadonlyArray1<f64>) -> Vec<f64> {
    array.as_array().to_vec()
}

/// A point to evaluate, as its step from the point around which is probed.
#[pyclass(frozen, module = "deepzero")]
struct Point {
    asked: Asked,
}

#[pymethods]
impl Point {
    /// Number of the evaluation.
    #[getter]
    fn id(&self) -> u64 {
        self.asked.id
    }

    /// Which randomness it shares.
    #[getter]
    fn sample(&self) -> u64 {
        self.asked.sample
    }

    /// The coordinate that is moved, if it is one.
    #[getter]
    fn coordinate(&self) -> Option<usize> {
        match self.asked.probe {
            Some(Probe::Coordinate { coord, .. }) => Some(coord),
            _ => None,
        }
    }

    /// Number of the random direction, if the point is moved along one.
    #[getter]
    fn direction(&self) -> Option<u32> {
        match self.asked.probe {
            Some(Probe::Direction { idx, .. }) => Some(idx),
            _ => None,
        }
    }

    /// Signed length of the step, 0 for the center itself.
    #[getter]
    fn step(&self) -> f64 {
        match self.asked.probe {
            Some(Probe::Coordinate { shift, .. } | Probe::Direction { shift, .. }) => shift,
            None => 0.0,
        }
    }

    /// Point minus center at the coordinates `start..stop`.
    #[pyo3(signature = (start = 0, stop = None))]
    fn delta<'py>(
        &self,
        py: Python<'py>,
        start: usize,
        stop: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let d = self.asked.center.len();
        let stop = stop.unwrap_or(d);
        if start > stop || stop > d {
            return Err(PyValueError::new_err(format!("coordinates {start} to {stop} of {d}")));
        }
        let delta = py.detach(|| self.asked.delta(start..stop));
        Ok(PyArray1::from_vec(py, delta))
    }

    /// The point.
    fn x<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, py.detach(|| self.asked.point()))
    }

    fn __repr__(&self) -> String {
        format!("Point(id={}, sample={}, step={})", self.asked.id, self.asked.sample, self.step())
    }
}

/// Points that were asked for together.
#[pyclass(frozen, module = "deepzero")]
struct Batch {
    asked: Vec<Asked>,
}

#[pymethods]
impl Batch {
    /// Numbers of the evaluations.
    #[getter]
    fn ids(&self) -> Vec<u64> {
        self.asked.iter().map(|asked| asked.id).collect()
    }

    /// Which randomness they share; none without points.
    #[getter]
    fn sample(&self) -> Option<u64> {
        self.asked.first().map(|asked| asked.sample)
    }

    /// Writes the points into the rows of `out` (n x d).
    fn write(&self, py: Python<'_>, mut out: PyReadwriteArray2<f64>) -> PyResult<()> {
        let d = self.asked.first().map_or(0, |asked| asked.center.len());
        let rows = out.as_slice_mut().map_err(|error| PyValueError::new_err(format!("out: {error}")))?;
        if rows.len() != self.asked.len() * d {
            return Err(PyValueError::new_err(format!("out: expected shape ({}, {d})", self.asked.len())));
        }
        let asked = &self.asked;
        if rows.len() < SMALL {
            asked.iter().zip(rows.chunks_exact_mut(d.max(1))).for_each(|(asked, row)| asked.write(row));
        } else {
            py.detach(|| {
                let rows = rows.par_chunks_exact_mut(d.max(1));
                asked.par_iter().zip(rows).for_each(|(asked, row)| asked.write(row));
            });
        }
        Ok(())
    }

    /// Coordinates of a point; 0 without points.
    #[getter]
    fn dim(&self) -> usize {
        self.asked.first().map_or(0, |asked| asked.center.len())
    }

    /// The points one by one, without n x d numbers.
    #[getter]
    fn probes(&self) -> Vec<Point> {
        self.asked.iter().map(|asked| Point { asked: asked.clone() }).collect()
    }

    fn __len__(&self) -> usize {
        self.asked.len()
    }
}

/// Numbers that are written faster than threads are woken.
const SMALL: usize = 1 << 14;

/// A run by ask and tell.
#[pyclass(frozen, module = "deepzero")]
struct Core {
    run: Mutex<Run>,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start_of(
    x0: &PyReadonlyArray1<f64>,
    bounds: Option<(PyReadonlyArray1<f64>, PyReadonlyArray1<f64>)>,
    options: &str,
    seed: u64,
) -> PyResult<Start> {
    let options =
        serde_json::from_str(options).map_err(|error| PyValueError::new_err(format!("options: {error}")))?;
    let bounds = bounds.map(|(lower, upper)| Bounds::new(numbers(&lower), numbers(&upper))).transpose();
    Ok(Start {
        x0: numbers(x0),
        bounds: bounds.map_err(error)?,
        settings: settings::from_json(&options).map_err(error)?,
        seed,
    })
}

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (x0, bounds, options, seed, folder))]
    fn new(
        py: Python<'_>,
        x0: PyReadonlyArray1<f64>,
        bounds: Option<(PyReadonlyArray1<f64>, PyReadonlyArray1<f64>)>,
        options: &str,
        seed: u64,
        folder: Option<PathBuf>,
    ) -> PyResult<Self> {
        let start = start_of(&x0, bounds, options, seed)?;
        let run = py.detach(|| match folder {
            Some(folder) => Run::open(&folder, start, false),
            None => Run::new(start),
        });
        Ok(Self { run: Mutex::new(run.map_err(error)?) })
    }

    /// What `state` gave, gone on from.
    #[staticmethod]
    fn restored(
        x0: PyReadonlyArray1<f64>,
        bounds: Option<(PyReadonlyArray1<f64>, PyReadonlyArray1<f64>)>,
        options: &str,
        seed: u64,
        state: Vec<(String, PyReadonlyArray1<f64>)>,
    ) -> PyResult<Self> {
        let start = start_of(&x0, bounds, options, seed)?;
        let vectors = state.iter().map(|(name, values)| (name.clone(), numbers(values))).collect();
        let minimizer = Minimizer::restored(start, deepzero::saved::Saved::new(vectors))
            .map_err(|what| PyValueError::new_err(format!("state: {what}")))?;
        Ok(Self { run: Mutex::new(Run::of(minimizer)) })
    }

    /// Everything that the rest depends on.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = py.detach(|| self.lock().minimizer().state());
        let dict = PyDict::new(py);
        for (name, values) in state {
            dict.set_item(name, PyArray1::from_vec(py, values))?;
        }
        Ok(dict)
    }

    /// All settings that play a part, as JSON.
    #[getter]
    fn options(&self) -> String {
        settings::to_json(&self.lock().minimizer().start().settings).to_string()
    }

    fn ask(&self, py: Python<'_>, n: usize) -> PyResult<Batch> {
        let asked = py.detach(|| self.lock().ask(n)).map_err(error)?;
        Ok(Batch { asked })
    }

    /// How many points the present step still has to hand out.
    fn n_ready(&self, py: Python<'_>) -> PyResult<usize> {
        py.detach(|| self.lock().n_ready()).map_err(error)
    }

    /// Whether a step was done.
    fn tell(&self, py: Python<'_>, ids: Vec<u64>, values: PyReadonlyArray1<f64>) -> PyResult<bool> {
        let values = numbers(&values);
        if ids.len() != values.len() {
            return Err(PyValueError::new_err(format!("{} values for {} points", values.len(), ids.len())));
        }
        let told = || {
            let mut run = self.lock();
            let mut is_step = false;
            for (&id, &value) in ids.iter().zip(&values) {
                let asked = run.handed(id)?;
                is_step |= run.tell(&asked, Ok(value), None)?;
            }
            Ok(is_step)
        };
        py.detach(told).map_err(error)
    }

    /// The values of a batch; whether a step was done.
    fn tell_batch(
        &self,
        py: Python<'_>,
        batch: &Batch,
        values: PyReadonlyArray1<f64>,
        seconds: Option<f64>,
    ) -> PyResult<bool> {
        let values = numbers(&values);
        if batch.asked.len() != values.len() {
            let reason = format!("{} values for {} points", values.len(), batch.asked.len());
            return Err(PyValueError::new_err(reason));
        }
        let told = || {
            let mut run = self.lock();
            let mut is_step = false;
            for (asked, &value) in batch.asked.iter().zip(&values) {
                is_step |= run.tell(asked, Ok(value), seconds)?;
            }
            Ok(is_step)
        };
        py.detach(told).map_err(error)
    }

    /// Gives back points that will not be told.
    fn take_back(&self) {
        self.lock().take_back();
    }

    #[getter]
    fn waiting(&self) -> Vec<u64> {
        self.lock().minimizer().waiting()
    }

    #[getter]
    fn x<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_slice(py, self.lock().minimizer().x())
    }

    /// Number, value and point of the best evaluation.
    #[getter]
    fn best<'py>(&self, py: Python<'py>) -> Option<(u64, f64, Bound<'py, PyArray1<f64>>)> {
        let best = self.lock().minimizer().best().cloned()?;
        Some((best.asked.id, best.value, PyArray1::from_vec(py, best.asked.point())))
    }

    #[getter]
    fn gradient<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyArray1<f64>>> {
        self.lock().minimizer().gradient().map(|gradient| PyArray1::from_slice(py, gradient))
    }

    /// Evaluations, failures, steps.
    #[getter]
    fn counts(&self) -> (u64, u64, u64) {
        let run = self.lock();
        let minimizer = run.minimizer();
        (minimizer.n_evaluations(), minimizer.n_failed(), minimizer.n_steps())
    }

    /// Why nothing more is asked, if so: "converged", or "stuck" and the reason.
    #[getter]
    fn stopped(&self) -> Option<(&'static str, String)> {
        match self.lock().minimizer().stopped()? {
            Stopped::Converged => Some(("converged", "the method has come to its end".to_owned())),
            Stopped::Stuck(reason) => Some(("stuck", reason.clone())),
        }
    }

    /// The run's folder, if there is one.
    #[getter]
    fn folder(&self) -> Option<PathBuf> {
        self.lock().files().map(Files::folder).map(ToOwned::to_owned)
    }

    /// Leaves the folder, if there is one, to others.
    fn close(&self) {
        self.lock().close();
    }

    /// Brings what has come to the disk and writes the report; nothing without a folder. Whether the budget is spent
    /// stands there.
    fn sync(&self, py: Python<'_>, is_spent: bool) -> PyResult<()> {
        let sync = || {
            let mut run = self.lock();
            run.sync()?;
            if run.files().is_some() {
                let stopped = run.minimizer().stopped().cloned().map(Ended::Stopped);
                let ended = stopped.or(is_spent.then_some(Ended::Budget));
                write_report(&run, &Summary::of(&run, None, ended.as_ref())?)?;
            }
            Ok(())
        };
        py.detach(sync).map_err(error)
    }
}

/// The Rust part of deepzero.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Core>()?;
    module.add_class::<Batch>()?;
    module.add_class::<Point>()
}
