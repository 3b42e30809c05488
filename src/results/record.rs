//! What a trial leaves behind.

use serde::{Deserialize, Serialize};

/// Version of the Parquet columns; raised whenever one is removed or changes meaning. A column that was
/// added later is read as its setting's default, or as null, from files that lack it.
pub const SCHEMA_VERSION: u32 = 1;

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It ran to the end.
    Done,
    /// Its loss became NaN or infinite.
    Diverged,
    /// It stopped with an error.
    Failed,
}

/// What only some tasks measure, epoch by epoch; NaN (null in files) elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Cosine of the angle between an estimate and back-propagation, on the active coordinates.
    pub cosine: f64,
    /// ‖estimate − gradient‖ / ‖gradient‖ on the active coordinates.
    pub relative_error: f64,
    /// Norm of the gradient on the active coordinates over its whole norm.
    pub gradient_share: f64,
    /// Seconds to draw the directions of one estimate (a time column, as are the next three).
    pub directions_s: f64,
    /// Seconds to perturb the parameters, for all queries of one estimate.
    pub perturbation_s: f64,
    /// Seconds of all forward passes of one estimate.
    pub inference_s: f64,
    /// Seconds to form one estimate from its losses.
    pub arithmetic_s: f64,
    /// Radius of Pattern Search at the end of the epoch.
    pub radius: f64,
    /// Steps per hour of a job of processes.
    pub steps_per_hour: f64,
    /// The same over that of one process, measured right before.
    pub speed_up: f64,
    /// Seconds that one of its steps spends exchanging results, waiting included.
    pub exchange_s: f64,
    /// Bytes that the first process receives from others in a step.
    pub exchange_bytes: f64,
}

impl Measures {
    /// Column names, in declared order.
    pub const NAMES: [&'static str; 12] = [
        "cosine",
        "relative_error",
        "gradient_share",
        "directions_s",
        "perturbation_s",
        "inference_s",
        "arithmetic_s",
        "radius",
        "steps_per_hour",
        "speed_up",
        "exchange_s",
        "exchange_bytes",
    ];

    /// The values in the order of [`Measures::NAMES`].
    #[must_use]
    pub fn values(&self) -> [f64; Self::NAMES.len()] {
        let Self {
            cosine,
            relative_error,
            gradient_share,
            directions_s,
            perturbation_s,
            inference_s,
            arithmetic_s,
            radius,
            steps_per_hour,
            speed_up,
            exchange_s,
            exchange_bytes,
        } = *self;
        [
            cosine,
            relative_error,
            gradient_share,
            directions_s,
            perturbation_s,
            inference_s,
            arithmetic_s,
            radius,
            steps_per_hour,
            speed_up,
            exchange_s,
            exchange_bytes,
        ]
    }

    /// The inverse of [`Measures::values`].
    #[must_use]
    pub fn from_values(values: [f64; Self::NAMES.len()]) -> Self {
        let [
            cosine,
            relative_error,
            gradient_share,
            directions_s,
            perturbation_s,
            inference_s,
            arithmetic_s,
            radius,
            steps_per_hour,
            speed_up,
            exchange_s,
            exchange_bytes,
        ] = values;
        Self {
            cosine,
            relative_error,
            gradient_share,
            directions_s,
            perturbation_s,
            inference_s,
            arithmetic_s,
            radius,
            steps_per_hour,
            speed_up,
            exchange_s,
            exchange_bytes,
        }
    }

    /// Whether a column holds a time.
    #[must_use]
    pub fn is_time(name: &str) -> bool {
        name.ends_with("_s") || matches!(name, "steps_per_hour" | "speed_up")
    }
}

impl Default for Measures {
    fn default() -> Self {
        Self::from_values([f64::NAN; Self::NAMES.len()])
    }
}

/// Metrics at the end of one epoch. Accuracies are fractions in [0, 1], losses mean cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// 1-based epoch.
    pub epoch: u32,
    /// Mean training loss over the epoch's steps (of the parameters before each step).
    pub train_loss: f64,
    /// Training accuracy over the epoch's steps (of the parameters before each step).
    pub train_accuracy: f64,
    /// Validation loss; NaN without validation images.
    pub val_loss: f64,
    /// Validation accuracy; NaN without validation images.
    pub val_accuracy: f64,
    /// Test loss.
    pub test_loss: f64,
    /// Test accuracy.
    pub test_accuracy: f64,
    /// Learning rate of the epoch's last step.
    pub learning_rate: f64,
    /// Coordinates in the active set.
    pub n_active: u64,
    /// Queries (evaluations of the objective) since the trial began, GraSP's included.
    pub queries: u64,
    /// Queries that returned NaN or infinity since the trial began.
    pub queries_non_finite: u64,
    /// Norm of the epoch's last gradient estimate.
    pub gradient_norm: f64,
    /// Seconds spent since the trial began, interruptions not counted (a time column).
    pub wall_s: f64,
    /// What only some tasks measure.
    pub measures: Measures,
}

impl EpochRecord {
    /// A record that says nothing but its number: metrics NaN, counts zero.
    #[must_use]
    pub fn blank(epoch: u32) -> Self {
        Self {
            epoch,
            train_loss: f64::NAN,
            train_accuracy: f64::NAN,
            val_loss: f64::NAN,
            val_accuracy: f64::NAN,
            test_loss: f64::NAN,
            test_accuracy: f64::NAN,
            learning_rate: f64::NAN,
            n_active: 0,
            queries: 0,
            queries_non_finite: 0,
            gradient_norm: f64::NAN,
            wall_s: f64::NAN,
            measures: Measures::default(),
        }
    }
}

/// Where and with what a trial ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// This program's version.
    pub version: String,
    /// Commit it was built from, with `-dirty` if the tree had changes; `unknown` outside git.
    pub commit: String,
    /// Versions of the crates that compute, such as `candle-core 0.11.1, rayon 1.12.0`.
    pub crates: String,
    /// CPU name as the system reports it.
    pub cpu: String,
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// Instruction set that the kernels chose.
    pub kernels: String,
    /// Threads used.
    pub threads: u32,
    /// SHA-256 of the images and labels used.
    pub data_checksum: String,
    /// When the trial ended, RFC 3339 in UTC (a time column).
    pub finished_at: String,
}

/// What is known of one parameter tensor after a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorRecord {
    /// PyTorch-style name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// Scalars in the tensor.
    pub n: u64,
    /// Those in the active set.
    pub n_active: u64,
    /// As [`Measures::cosine`], for this tensor alone, averaged over epochs; NaN unless measured.
    pub cosine: f64,
    /// As [`Measures::relative_error`], likewise.
    pub relative_error: f64,
}

/// A finished trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialRecord {
    /// What was run.
    pub trial: crate::experiment::Trial,
    /// Network parameters (d).
    pub n_params: u64,
    /// How it ended.
    pub status: Status,
    /// The error if it did not end well, else empty.
    pub error: String,
    /// One entry per finished epoch, in order.
    pub epochs: Vec<EpochRecord>,
    /// Epoch (1-based) with the best validation accuracy, the earliest on ties; `None` without
    /// validation images. The test set plays no part in the choice.
    pub best_epoch: Option<u32>,
    /// Parameter tensors in declared order; empty where nothing is known of them beyond their size.
    pub tensors: Vec<TensorRecord>,
    /// Where and with what.
    pub provenance: Provenance,
}
