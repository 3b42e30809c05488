//! Coherent coordinate descent (CoCD, arXiv 2605.14373): coordinate-wise estimates of a block of
//! coordinates that goes round a cycle, stale estimates elsewhere.
//!
//! ĝ_i = (l(θ + μ e_i) − l(θ)) / μ for i in the block, γ ĝ_i of the step before for the other active
//! coordinates. γ = 0 is block-cyclic coordinate descent; a block of all coordinates is CGE. Cost: as
//! many queries as the block has coordinates, beside the base (twice as many for central differences).
//!
//! The step follows ĝ, the buffer. Its authors take central differences with μ from 0.1 to 1, γ = 1, coordinates in
//! the order of the parameters ([`Order::Parameters`]) and neither momentum nor weight decay; the buffer starts at zero.

use std::sync::Arc;

use super::{Budget, Cge, Config, Estimate, Estimator, Kind, Place, Run, Space};
use crate::Result;
use crate::rng::{Purpose, Stream};
use crate::setting::Domain::Within;
use crate::setting::{Entry, Section, Settings};
use crate::zo::Scheme;
use crate::zo::{Probe, Smoothing};

/// The order in which coordinates are refreshed.
#[derive(Debug, Clone)]
pub struct Cycle {
    order: Vec<usize>,
}

impl Cycle {
    /// A cycle over the coordinates `active`, shuffled by `seed` and the number `draw` of the active set.
    #[must_use]
    pub fn new(active: &[usize], seed: u64, draw: u32) -> Self {
        let order = Stream::new(seed, Purpose::Cycle, draw).permutation(active.len());
        Self { order: order.into_iter().map(|position| active[position]).collect() }
    }

    /// A cycle over the coordinates `active` as they stand.
    #[must_use]
    pub fn in_order(active: &[usize]) -> Self {
        Self { order: active.to_vec() }
    }

    /// The `n` coordinates that step number `step` (from 0) refreshes, sorted; all for `n` = 0 or more than
    /// there are.
    #[must_use]
    pub fn block(&self, step: u64, n: usize) -> Arc<[usize]> {
        let len = self.order.len();
        if n == 0 || n >= len {
            let mut all = self.order.clone();
            all.sort_unstable();
            return all.into();
        }
        let first = (u128::from(step) * n as u128 % len as u128) as usize;
        let mut block: Vec<usize> = (first..first + n).map(|position| self.order[position % len]).collect();
        block.sort_unstable();
        block.into()
    }
}

/// One step of CoCD.
#[derive(Debug, Clone)]
pub struct Cocd<'a> {
    block: Cge,
    active: Arc<[usize]>,
    stale: &'a [f64],
    decay: f64,
}

impl<'a> Cocd<'a> {
    /// Refreshes the coordinates `block` of the set `active`; `stale` (d) is the estimate of the step
    /// before, of which `decay` remains elsewhere in the set.
    #[must_use]
    pub fn new(
        active: Arc<[usize]>,
        block: Arc<[usize]>,
        stale: &'a [f64],
        decay: f64,
        mu: f64,
        scheme: Scheme,
    ) -> Self {
        Self { block: Cge::new(stale.len(), block, mu, scheme), active, stale, decay }
    }
}

impl Estimator for Cocd<'_> {
    fn ask(&self) -> Vec<Probe> {
        self.block.ask()
    }

    /// A coordinate whose probe failed stays stale.
    fn tell(&self, differences: &[f64]) -> Estimate {
        let fresh = self.block.tell(differences);
        let mut gradient = vec![0.0; self.stale.len()];
        self.active.iter().for_each(|&coord| gradient[coord] = self.decay * self.stale[coord]);
        for (&coord, is_refreshed) in self.block.active().iter().zip(self.block.answered(differences)) {
            if is_refreshed {
                gradient[coord] = fresh.gradient[coord];
            }
        }
        Estimate::new(gradient, fresh.n_left_out)
    }
}

crate::choice! {
    /// The order of a cycle over coordinates.
    pub enum Order {
        /// Shuffled once for every active set.
        Shuffled = "shuffled",
        /// That of the parameters.
        Parameters = "parameters",
    }
}

crate::section! {
    /// Coherent coordinate descent.
    pub struct Stale {
        /// Factor on stale estimates per step, in [0, 1]; 0 is block-cyclic coordinate descent (CoCD).
        pub decay: f64 = 0.0 => Within(0.0, 1.0),
        /// Order in which coordinates are refreshed (CoCD).
        pub order: Order = Order::Shuffled,
    }
}

/// `method = cocd`.
#[derive(Debug)]
pub struct Coherent;

impl Kind for Coherent {
    fn name(&self) -> &'static str {
        "cocd"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Stale::ENTRIES]
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let (Smoothing { mu }, Config { difference }) = (settings.read()?, settings.read()?);
        let (Budget { queries }, Stale { decay, order }) = (settings.read()?, settings.read()?);
        let stale = vec![0.0; space.n_coords];
        Ok(Box::new(Steps { stale, decay, order, queries, seed: space.seed, mu, scheme: difference }))
    }

    fn moves_coordinates(&self) -> bool {
        true
    }

    fn slopes(&self, settings: &Settings, n_active: f64) -> Result<f64> {
        let Budget { queries } = settings.read()?;
        Ok(if queries == 0 { n_active } else { n_active.min(queries as f64) })
    }
}

/// The last estimate goes into the next.
struct Steps {
    /// The last estimate (d).
    stale: Vec<f64>,
    decay: f64,
    order: Order,
    queries: usize,
    seed: u64,
    mu: f64,
    scheme: Scheme,
}

impl Run for Steps {
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Place { step, active, draw, .. } = *place;
        let cycle = match self.order {
            Order::Shuffled => Cycle::new(active, self.seed, draw),
            Order::Parameters => Cycle::in_order(active),
        };
        let block = cycle.block(u64::from(step), self.queries);
        Box::new(Cocd::new(active.clone(), block, &self.stale, self.decay, self.mu, self.scheme))
    }

    fn note(&mut self, estimate: &Estimate) {
        self.stale.copy_from_slice(&estimate.gradient);
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        vec![("stale", self.stale.clone())]
    }

    fn restore(&mut self, _: &str, values: Vec<f64>) {
        self.stale = values;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// l(x) = Σ k x_k²/2 at x = 1, whose gradient is k; forward differences are off by k μ / 2.
    fn differences(probes: &[Probe]) -> Vec<f64> {
        let loss = |probe: &Probe| match probe {
            Probe::Coordinate { coord, shift } => *coord as f64 * (shift + shift * shift / 2.0),
            Probe::Direction { .. } => unreachable!("coordinates only"),
        };
        probes.iter().map(loss).collect()
    }

    const MU: f64 = 1e-6;

    fn step(active: &Arc<[usize]>, block: Arc<[usize]>, stale: &[f64], decay: f64) -> Vec<f64> {
        let cocd = Cocd::new(active.clone(), block, stale, decay, MU, Scheme::Forward);
        cocd.tell(&differences(&cocd.ask())).gradient
    }

    /// Oracle: the definition. Blocks of a cycle are disjoint until all have had their turn.
    #[test]
    fn a_cycle_visits_every_coordinate_once() {
        let active = [3, 5, 6, 8, 9, 11, 20, 21, 22, 40];
        let cycle = Cycle::new(&active, 7, 1);
        let mut seen: Vec<usize> = (0..5).flat_map(|step| cycle.block(step, 2).to_vec()).collect();
        seen.sort_unstable();
        assert_eq!(seen, active);
        assert_eq!(cycle.block(5, 2), cycle.block(0, 2));
        assert_eq!(*cycle.block(3, 0), active);
        assert_eq!(*cycle.block(3, 99), active);
        // Blocks that do not divide the cycle run over its end.
        let mut counts = [0; 41];
        (0..10).for_each(|step| cycle.block(step, 3).iter().for_each(|&coord| counts[coord] += 1));
        assert!(active.iter().all(|&coord| counts[coord] == 3));
        assert_ne!(cycle.block(0, 4), Cycle::new(&active, 8, 1).block(0, 4));
        // In order, and on over the end.
        let cycle = Cycle::in_order(&active);
        assert_eq!((&*cycle.block(1, 4), &*cycle.block(2, 4)), (&active[4..8], &[3, 5, 22, 40][..]));
    }

    /// Oracle: the gradient k. Without movement and with γ = 1 a full cycle gives all of it; with γ = 0 only
    /// the block; stale values outside the active set are forgotten.
    #[test]
    fn blocks_refresh_and_the_rest_decays() {
        let active: Arc<[usize]> = [1, 2, 3, 4, 6, 7].into();
        let cycle = Cycle::new(&active, 1, 0);
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-5;
        let mut stale = vec![0.0; 8];
        for number in 0..3 {
            stale = step(&active, cycle.block(number, 2), &stale, 1.0);
        }
        for (coord, &found) in stale.iter().enumerate() {
            let expected = if active.contains(&coord) { coord as f64 } else { 0.0 };
            assert!(near(found, expected), "{coord}: {found}");
        }
        let block = cycle.block(0, 2);
        for decay in [0.0, 0.5] {
            let found = step(&active, block.clone(), &[10.0; 8], decay);
            for (coord, &found) in found.iter().enumerate() {
                let expected = match () {
                    () if block.contains(&coord) => coord as f64,
                    () if active.contains(&coord) => 10.0 * decay,
                    () => 0.0,
                };
                assert!(near(found, expected), "{coord}: {found}");
            }
        }
    }

    /// Oracle: CGE itself, bit for bit; and a failed probe leaves the stale value.
    #[test]
    fn a_block_of_all_is_cge() {
        let active: Arc<[usize]> = (0..6).collect();
        let stale = [9.0; 6];
        let cocd = Cocd::new(active.clone(), active.clone(), &stale, 0.9, MU, Scheme::Forward);
        let cge = Cge::new(6, active, MU, Scheme::Forward);
        let mut differences = differences(&cge.ask());
        assert_eq!(cocd.tell(&differences), cge.tell(&differences));
        differences[4] = f64::NAN;
        let found = cocd.tell(&differences);
        assert_eq!((found.gradient[4], found.n_left_out), (0.9 * 9.0, 1));
    }
}
