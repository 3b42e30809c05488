//! Points of a figure that are results of other experiments.

use crate::experiment::{Borrowed, BorrowedAt, Experiment, Scale};
use crate::results::TrialRecord;
use crate::train::Status;
use crate::{Error, Result};

use super::html::Run;
use super::measured::same_x;

/// What one entry of [`Experiment::borrowed`] finds at a scale.
#[derive(Debug, Clone)]
pub struct Loan<'a> {
    /// The entry.
    pub borrowed: &'a Borrowed,
    /// The other experiment; `None` if it is not among those reported on.
    pub lender: Option<&'a Experiment>,
    /// Its trials that were asked for.
    pub records: Vec<&'a TrialRecord>,
}

impl<'a> Loan<'a> {
    /// What every entry of the experiment finds at a scale among `runs`.
    ///
    /// # Errors
    /// [`Error::Setting`] if an entry finds trials at several x whose networks are of one size, or two entries of a
    /// series do, so that they would stand at the same place.
    pub fn all(experiment: &'a Experiment, scale: Scale, runs: &'a [Run]) -> Result<Vec<Self>> {
        let mut loans: Vec<Self> = Vec::new();
        for borrowed in &experiment.borrowed {
            let loan = Self::of(borrowed, scale, runs)?;
            let has_size = |other: &&Self, n_params| other.records.iter().any(|one| one.n_params == n_params);
            let same_series = loans.iter().filter(|other| other.borrowed.series == borrowed.series);
            for other in same_series {
                if let Some(record) = loan.records.iter().find(|record| has_size(&other, record.n_params)) {
                    let reason = format!(
                        "{} and {} would both give {} a point at {} parameters; take one of them, or give it a series of \
                         its own",
                        other.origin(None),
                        loan.origin(None),
                        borrowed.series,
                        record.n_params,
                    );
                    return Err(Error::setting("from", reason));
                }
            }
            loans.push(loan);
        }
        Ok(loans)
    }

    fn of(borrowed: &'a Borrowed, scale: Scale, runs: &'a [Run]) -> Result<Self> {
        let Some((lender, scales)) = runs.iter().find(|(one, _)| one.id == borrowed.experiment) else {
            return Ok(Self { borrowed, lender: None, records: Vec::new() });
        };
        // What failed before its network was built has no size to stand at.
        let is_of_series = |record: &&TrialRecord| {
            record.n_params > 0
                && record.trial.series == borrowed.source
                && borrowed.at.is_at(record.trial.x, &record.trial.x_text)
        };
        let mut records: Vec<&TrialRecord> =
            scales.get(&scale).into_iter().flatten().filter(is_of_series).collect();
        if borrowed.at == BorrowedAt::Largest {
            let done = records.iter().filter(|record| record.status == Status::Done);
            let largest = done.filter_map(|record| record.trial.x).max_by(f64::total_cmp);
            records.retain(|record| same_x(record.trial.x, largest));
        }
        for (idx, record) in records.iter().enumerate() {
            let is_in_the_way = |other: &&&TrialRecord| {
                other.n_params == record.n_params && !same_x(other.trial.x, record.trial.x)
            };
            if let Some(other) = records[..idx].iter().find(is_in_the_way) {
                let reason = format!(
                    "the networks of {} {} at {} = {} and {} have the same size; say with `at` which to take",
                    borrowed.experiment,
                    borrowed.source,
                    lender.figure.x_label,
                    other.trial.x_text,
                    record.trial.x_text,
                );
                return Err(Error::setting("from", reason));
            }
        }
        Ok(Self { borrowed, lender: Some(lender), records })
    }

    /// Whether there is a trial that was finished.
    #[must_use]
    pub fn has_result(&self) -> bool {
        self.records.iter().any(|record| record.status == Status::Done)
    }

    /// What is asked for, or for a trial found where it comes from: `fig4, DeepZero at Sparsity = 0.9`.
    #[must_use]
    pub fn origin(&self, found: Option<&TrialRecord>) -> String {
        let Borrowed { experiment, source, at, .. } = self.borrowed;
        let series = self.lender.and_then(|lender| lender.series.iter().find(|series| series.id == *source));
        let label = series.map_or(source, |series| &series.label);
        let x_label = self.lender.map_or("x", |lender| &lender.figure.x_label);
        let at = match (found, at) {
            (Some(record), _) if record.trial.x_text.is_empty() => String::new(),
            (Some(record), _) => format!(" at {x_label} = {}", record.trial.x_text),
            (None, BorrowedAt::All) => String::new(),
            (None, BorrowedAt::Largest) => format!(" at the largest {x_label}"),
            (None, BorrowedAt::Named(at)) => format!(" at {x_label} = {at}"),
        };
        format!("{experiment}, {label}{at}")
    }
}
