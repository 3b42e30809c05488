//! Which rules a probe runs through, in what order, and what must be kept in between.

use super::super::graph::Network;
use super::super::layer::Mode;
use super::{Epilogue, Role, Rule, Support};
use crate::kernels::Element;

/// A layer, or several fused ones, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The layer that owns the rule.
    pub(super) node: usize,
    /// Values read: those of the layer, and the shortcut of a fused addition.
    pub(super) inputs: Vec<usize>,
    /// Value produced.
    pub(super) output: usize,
    pub(super) epilogue: Epilogue,
    /// Number of train-mode batch norms that its output depends on in a row.
    stage: usize,
}

/// The layers of `network` in order, with batch norms that swallow what follows them.
pub(super) fn groups(network: &Network, mode: Mode) -> Vec<Group> {
    let readers = |value: usize| -> Vec<usize> {
        (0..network.n_nodes()).filter(|&node| network.inputs(node).contains(&value)).collect()
    };
    let only_reader = |node: usize, role: Role| match readers(node + 1)[..] {
        [reader] if network.layer(reader).role() == role => Some(reader),
        _ => None,
    };
    let mut fused = vec![false; network.n_nodes()];
    let mut groups = Vec::new();
    for node in 0..network.n_nodes() {
        if fused[node] {
            continue;
        }
        let mut group = Group {
            node,
            inputs: network.inputs(node).to_vec(),
            output: node + 1,
            epilogue: Epilogue::None,
            stage: 0,
        };
        if network.layer(node).role() == Role::Norm {
            if let Some(relu) = only_reader(node, Role::Relu) {
                group.epilogue = Epilogue::Relu;
                group.output = relu + 1;
                fused[relu] = true;
            } else if let Some((add, relu)) =
                only_reader(node, Role::Add).and_then(|add| Some((add, only_reader(add, Role::Relu)?)))
            {
                let other = network.inputs(add).iter().copied().find(|&value| value != node + 1);
                // Something added to itself has no other term, and one batch norm of two that meet
                // takes the addition.
                if let Some(other) = other.filter(|_| !fused[add]) {
                    group.inputs.push(other);
                    group.epilogue = Epilogue::AddRelu { sum: add + 1 };
                    group.output = relu + 1;
                    fused[add] = true;
                    fused[relu] = true;
                }
            }
        }
        groups.push(group);
    }
    // A fused addition needs its other term first.
    groups.sort_by_key(|group| group.output);
    let mut stage_of = vec![0; network.n_nodes() + 1];
    for group in &mut groups {
        let is_coupled = network.layer(group.node).role() == Role::Norm && matches!(mode, Mode::Train);
        let first = stage_of[group.inputs[0]] + usize::from(is_coupled);
        group.stage = group.inputs[1..].iter().fold(first, |stage, &value| stage.max(stage_of[value]));
        stage_of[group.output] = group.stage;
    }
    groups
}

/// What a change of one group's parameters runs through.
#[derive(Debug)]
pub(super) struct Path {
    /// Groups by stage, in order; the first group of the first stage is where it starts.
    pub(super) stages: Vec<Vec<usize>>,
    /// For every value that must outlive its stage: the last stage that reads it.
    pub(super) kept: Vec<Option<usize>>,
    /// Largest amount of kept numbers at any time, per image.
    pub(super) live: usize,
    /// Multiplications and additions per image.
    pub(super) flops: u64,
}

impl Path {
    /// The path from group `start` on.
    pub(super) fn new<T: Element>(
        network: &Network,
        groups: &[Group],
        rules: &[Box<dyn Rule<T>>],
        start: usize,
    ) -> Self {
        let n_values = network.n_nodes() + 1;
        let mut supports = vec![Support::None; n_values];
        let mut produced = vec![None; n_values];
        let mut kept: Vec<Option<usize>> = vec![None; n_values];
        let mut stages: Vec<Vec<usize>> = Vec::new();
        let mut flops = 0;
        let first_stage = groups[start].stage;
        for idx in start..groups.len() {
            let group = &groups[idx];
            let inputs: Vec<Support> = group.inputs.iter().map(|&value| supports[value]).collect();
            if idx == start {
                // Which channel changes makes no difference to the shape of the path.
                supports[group.output] = Support::Channel(0);
            } else if inputs.iter().all(|&support| support == Support::None) {
                continue;
            } else {
                supports[group.output] = rules[idx].support(&inputs);
                flops += rules[idx].flops(&inputs);
            }
            let stage = group.stage - first_stage;
            for &value in &group.inputs {
                if produced[value].is_some_and(|produced| produced < stage) {
                    kept[value] = kept[value].max(Some(stage));
                }
            }
            produced[group.output] = Some(stage);
            stages.resize_with(stages.len().max(stage + 1), Vec::new);
            stages[stage].push(idx);
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
