//! What a trial leaves behind.

use serde::{Deserialize, Serialize};

use crate::metric::Row;
use crate::profile::Profile;
use crate::train::Status;

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
    /// SHA-256 of the images and labels used, and [`Provenance::LOSSY`] if pixels are not the source's own.
    pub data_checksum: String,
    /// When the trial ended, RFC 3339 in UTC (a time column).
    pub finished_at: String,
}

impl Provenance {
    /// Behind the checksum of images that were stored with loss.
    pub const LOSSY: &str = ", JPEG";

    /// Whether images were stored with loss. Results of before this was recorded do not say so.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.data_checksum.ends_with(Self::LOSSY)
    }

    /// The checksum alone.
    #[must_use]
    pub fn checksum(&self) -> &str {
        self.data_checksum.strip_suffix(Self::LOSSY).unwrap_or(&self.data_checksum)
    }
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
    pub epochs: Vec<Row>,
    /// Epoch (1-based) with the best validation accuracy, the earliest on ties; `None` without
    /// validation images. The test set plays no part in the choice.
    pub best_epoch: Option<u32>,
    /// What is known of places of one kind or another, each kind once.
    pub profiles: Vec<Profile>,
    /// Where and with what.
    pub provenance: Provenance,
}

impl TrialRecord {
    /// The profile of a kind, if the trial has one.
    #[must_use]
    pub fn profile(&self, kind: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.kind == kind)
    }
}
