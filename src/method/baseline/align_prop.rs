//! Align-prop (Boopathy and Fiete, ICML 2022): feedback alignment whose fixed feedback weights are the network's initial
//! ones, B_l = W_l(0).

use std::sync::Arc;

use super::super::GradientSource;
use super::fa::Feedback;
use super::{Rule, row};
use crate::Result;
use crate::nn;
use crate::nn::model::Family;
use crate::params::Layout;
use crate::setting::Settings;

/// `method = align-prop`.
#[derive(Debug)]
pub struct AlignProp;

impl Rule for AlignProp {
    fn name(&self) -> &'static str {
        "align-prop"
    }

    fn families(&self) -> &'static [&'static Family] {
        row::ROWS
    }

    fn relative_time(&self) -> f64 {
        // As for FA, which does the same work.
        0.8
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        let nn::Config { init, .. } = settings.read()?;
        Ok(Box::new(Feedback { weights: layout.initial(init, seed) }))
    }
}
