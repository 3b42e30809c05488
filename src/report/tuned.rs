//! Which value of a tuned setting stands for a point.

use crate::experiment::Experiment;
use crate::metric::VAL_ACCURACY;
use crate::results::TrialRecord;
use crate::train::Status;

use super::measured::{same_x, x_of};
use super::position::ROUNDING;

/// The value of the tuned setting at one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Series.
    pub series: String,
    /// Position; `None` for a constant series.
    pub x: Option<f64>,
    /// The value as text.
    pub value: String,
    /// Whether it is the smallest or the largest of several that were tried, in words, so that a better one may lie beyond.
    pub edge: Option<&'static str>,
}

/// Of the records of a point, which stand side by side, those with the value that has the highest mean validation accuracy,
/// and the choices made. A trial that diverged counts as an accuracy of 0, one that failed not at all; on ties the smallest
/// value counts.
pub(super) fn choose<'a>(
    experiment: &Experiment,
    sorted: &[&'a TrialRecord],
) -> (Vec<&'a TrialRecord>, Vec<Choice>) {
    let is_same = |a: &&TrialRecord, b: &&TrialRecord| {
        a.trial.series == b.trial.series && same_x(x_of(experiment, sorted, a), x_of(experiment, sorted, b))
    };
    let (mut kept, mut choices) = (Vec::new(), Vec::new());
    for point in sorted.chunk_by(is_same) {
        let mut candidates: Vec<Candidate> = Vec::new();
        for record in point {
            let text = record.trial.tuned.as_str();
            let idx = candidates.iter().position(|known| known.text == text).unwrap_or_else(|| {
                candidates.push(Candidate { text, sum: 0.0, n: 0 });
                candidates.len() - 1
            });
            candidates[idx].add(record);
        }
        candidates.sort_by(|a, b| a.number().total_cmp(&b.number()));
        let first = Candidate { text: candidates[0].text, sum: 0.0, n: 0 };
        let best = candidates.iter().fold(&first, |best, one| {
            let is_better = one.n > 0 && (best.n == 0 || one.mean() > best.mean() + ROUNDING);
            if is_better { one } else { best }
        });
        kept.extend(point.iter().filter(|record| record.trial.tuned == best.text));
        // Without a single accuracy nothing was chosen.
        if best.text.is_empty() || best.n == 0 {
            continue;
        }
        let edge = match candidates.as_slice() {
            [_] => None,
            [smallest, ..] if smallest.text == best.text => Some("smallest"),
            [.., largest] if largest.text == best.text => Some("largest"),
            _ => None,
        };
        choices.push(Choice {
            series: point[0].trial.series.clone(),
            x: x_of(experiment, sorted, point[0]),
            value: best.text.to_owned(),
            edge: edge.filter(|_| !candidates[0].number().is_nan()),
        });
    }
    (kept, choices)
}

/// A value that was tried at a point.
struct Candidate<'a> {
    text: &'a str,
    /// Of validation accuracies, in percent.
    sum: f64,
    /// How many there are.
    n: usize,
}

impl Candidate<'_> {
    fn add(&mut self, record: &TrialRecord) {
        match (record.status, VAL_ACCURACY.of(&record.epochs)) {
            (Status::Done, Some(accuracy)) => (self.sum, self.n) = (self.sum + accuracy, self.n + 1),
            (Status::Diverged, _) => self.n += 1,
            (Status::Done | Status::Failed, _) => {}
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    /// The value as a number; NaN for a name.
    fn number(&self) -> f64 {
        self.text.parse().unwrap_or(f64::NAN)
    }
}
