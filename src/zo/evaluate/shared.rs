//! Probes shared among the ranks of a job.

use std::sync::atomic::AtomicBool;

use super::Evaluator;
use crate::Result;
use crate::params::Layout;
use crate::ranks::Ranks;
use crate::zo::{Probe, QueryCount};

/// Evaluates a part of the probes on each rank of a job, and gives all results to all of them. The base is evaluated
/// by every rank, and counts once.
pub struct Shared<'a> {
    inner: &'a dyn Evaluator,
    ranks: &'a Ranks,
    /// Tells the layer of a probe: probes of one layer cost about the same.
    layout: Option<&'a Layout>,
    /// Where queries of other ranks are counted.
    count: &'a QueryCount,
    interrupt: &'a AtomicBool,
}

impl<'a> Shared<'a> {
    /// Shares the probes of `inner`, whose objective counts in `count`. When `interrupt` is set on one rank, all
    /// ranks learn of it.
    #[must_use]
    pub fn new(
        inner: &'a dyn Evaluator,
        ranks: &'a Ranks,
        layout: Option<&'a Layout>,
        count: &'a QueryCount,
        interrupt: &'a AtomicBool,
    ) -> Self {
        Self { inner, ranks, layout, count, interrupt }
    }

    fn group(&self, probe: &Probe) -> usize {
        match (probe, self.layout) {
            (Probe::Coordinate { coord, .. }, Some(layout)) => layout.param_of(*coord),
            _ => usize::MAX,
        }
    }
}

impl Evaluator for Shared<'_> {
    fn base_loss(&self) -> f64 {
        self.inner.base_loss()
    }

    fn differences(&self, probes: &[Probe]) -> Result<Vec<f64>> {
        if self.ranks.is_alone() {
            return self.inner.differences(probes);
        }
        let groups: Vec<usize> = probes.iter().map(|probe| self.group(probe)).collect();
        let shared = self.ranks.share(&groups, self.interrupt, |positions| {
            let own: Vec<Probe> = positions.iter().map(|&position| probes[position].clone()).collect();
            self.inner.differences(&own)
        })?;
        shared.foreign().for_each(|difference| self.count.record(difference));
        Ok(shared.results)
    }
}
