//! Which rules a probe runs through, in what order, and what must be kept in between.

use crate::kernels::Element;
use crate::nn::form::{Rule, Support};
use crate::nn::graph::Network;

/// One fused layer, or two of which the second reads only the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) first: usize,
    pub(super) second: Option<Second>,
}

/// How a second layer follows the first.
#[derive(Debug, Clone, Copy)]
pub(super) enum Second {
    /// They go through the rows together: what the first wrote is still in the cache when the second reads it.
    ByRows(usize),
    /// The second pools what only it reads, and the first has a rule for both.
    Pooled(usize),
}

impl Second {
    pub(super) fn idx(self) -> usize {
        match self {
            Self::ByRows(idx) | Self::Pooled(idx) => idx,
        }
    }
}

/// What a change of one fused layer's parameters runs through.
#[derive(Debug)]
pub(super) struct ProbePath {
    /// Steps by stage, in order; the first of the first stage is where it starts.
    pub(super) stages: Vec<Vec<Step>>,
    /// For every value that must outlive its stage: the last stage that reads it.
    pub(super) kept: Vec<Option<usize>>,
    /// Largest amount of kept numbers at any time, per image.
    pub(super) live: usize,
    /// Multiplications and additions per image.
    pub(super) flops: u64,
}

impl ProbePath {
    /// The path from fused layer `start` on; `stage_of` as [`Network::stages`] gives it.
    pub(super) fn new<T: Element>(
        network: &Network,
        stage_of: &[usize],
        rules: &[Box<dyn Rule<T>>],
        start: usize,
    ) -> Self {
        let n_values = network.n_nodes() + 1;
        let mut supports = vec![Support::None; n_values];
        let mut produced = vec![None; n_values];
        let mut kept: Vec<Option<usize>> = vec![None; n_values];
        let mut stages: Vec<Vec<Step>> = Vec::new();
        let mut flops = 0;
        let all = network.fused();
        for idx in start..all.len() {
            let fused = &all[idx];
            let inputs: Vec<Support> = fused.inputs.iter().map(|&value| supports[value]).collect();
            if idx == start {
                // Which channel changes makes no difference to the shape of the path.
                supports[fused.output] = Support::one(0);
            } else if inputs.iter().all(|&support| support == Support::None) {
                continue;
            } else {
                supports[fused.output] = rules[idx].support(&inputs);
                flops += rules[idx].flops(&inputs);
            }
            let stage = stage_of[idx] - stage_of[start];
            for &value in &fused.inputs {
                if produced[value].is_some_and(|produced| produced < stage) {
                    kept[value] = kept[value].max(Some(stage));
                }
            }
            produced[fused.output] = Some(stage);
            stages.resize_with(stages.len().max(stage + 1), Vec::new);
            let second = |step: &Step| {
                let Step { first, second: None } = *step else { return None };
                let read = all[first].output;
                if first == start || fused.inputs != [read] {
                    return None;
                }
                let is_only_reader = all.iter().filter(|other| other.inputs.contains(&read)).count() == 1;
                if rules[idx].is_max_pool2() && rules[first].pooled().is_some() && is_only_reader {
                    return Some(Second::Pooled(idx));
                }
                (rules[first].has_rows() && rules[idx].has_rows()).then_some(Second::ByRows(idx))
            };
            match stages[stage].last_mut().and_then(|step| Some((second(step)?, step))) {
                Some((second, step)) => step.second = Some(second),
                None => stages[stage].push(Step { first: idx, second: None }),
            }
        }
        let size = |value: usize| {
            let [channels, height, width] = network.shape(value);
            supports[value].planes(channels) * height * width
        };
        let live_in = |stage: usize| -> usize {
            let is_live = |&value: &usize| {
                kept[value].is_some_and(|last| last >= stage) && produced[value].is_some_and(|p| p <= stage)
            };
            (0..n_values).filter(is_live).map(size).sum()
        };
        let live = (0..stages.len()).map(live_in).max().unwrap_or(0);
        Self { stages, kept, live, flops }
    }
}
