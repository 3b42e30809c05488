//! Reports of made-up experiments with made-up records: no number here was measured.

use std::collections::BTreeMap;

use deepzero::experiment::{
    At, Borrowed, BorrowedAt, Cell, Check, Comparison, Expected, Experiment, Figure, Layers, Panel,
    ProfileFigure, Quoted, Scale, ScalePlan, Series, TensorMeasure, Trace, TraceAxis, Trend, Trial, settings,
};
use deepzero::metric::{
    COSINE, GRADIENT_NORM, INFERENCE_S, LEARNING_RATE, Metric, N_ACTIVE, QUERIES, QUERIES_NON_FINITE, RADIUS,
    Row, TEST_ACCURACY, TEST_LOSS, TRAIN_ACCURACY, TRAIN_LOSS, VAL_ACCURACY, WALL_H, WALL_S,
};
use deepzero::profile::Profile;
use deepzero::report::chart::{Chart, Curve, traces};
use deepzero::report::check::{CheckResult, Outlook, evaluate_checks, needed};
use deepzero::report::measured::Measured;
use deepzero::report::position::{Positions, best};
use deepzero::report::verdict::{Outcome, PointVerdict, Verdict, judge, judge_points};
use deepzero::report::{Run, html, markdown, plot, write_reports};
use deepzero::results::{Provenance, TrialRecord};
use deepzero::rng::{Purpose, Stream};
use deepzero::train::Status;

const SPARSITIES: [(f64, &str); 4] = [(0.80, "80 %"), (0.90, "90 %"), (0.95, "95 %"), (0.99, "99 %")];

fn series(id: &str, label: &str, constant: bool) -> Series {
    Series { id: id.into(), label: label.into(), constant, has_trials: true }
}

fn expected(series: &str, x: Option<f64>, value: f64) -> Expected {
    let panel = String::new();
    let source = "made up".into();
    Expected { panel, series: series.into(), x, value, unit: "%".into(), tolerance: Some(1.0), source }
}

fn cells(series: &[Series], xs: &[(f64, &str)]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (series_idx, series) in series.iter().enumerate() {
        let settings = settings::from_pairs([]).unwrap();
        let assigned = Vec::new();
        if series.constant {
            let (x_text, tuned) = (String::new(), String::new());
            cells.push(Cell { series_idx, x: None, x_text, tuned, settings, assigned });
            continue;
        }
        for (x, text) in xs {
            let (settings, assigned) = (settings.clone(), assigned.clone());
            let (x_text, tuned) = ((*text).into(), String::new());
            cells.push(Cell { series_idx, x: Some(*x), x_text, tuned, settings, assigned });
        }
    }
    cells
}

fn check(text: &str, comparison: Comparison) -> Check {
    Check { text: text.into(), panel: String::new(), at_best: false, of_layout: false, comparison }
}

fn above(left: &str, right: &str, min_x: f64) -> Check {
    let comparison = Comparison::Above {
        left: left.into(),
        right: right.into(),
        margin: 0.0,
        min_x,
        max_x: f64::INFINITY,
    };
    check(&format!("`{left}` beats `{right}`."), comparison)
}

fn close(left: &str, right: &str, margin: f64) -> Comparison {
    let (left, right) = (left.into(), right.into());
    Comparison::Close { left, right, margin, min_x: f64::NEG_INFINITY, max_x: f64::INFINITY }
}

fn widens(left: &str, right: &str) -> Comparison {
    Comparison::Widens { left: left.into(), right: right.into() }
}

fn within(series: &str, low: f64, high: f64) -> Comparison {
    Comparison::Within { series: series.into(), low, high, min_x: f64::NEG_INFINITY, max_x: f64::INFINITY }
}

fn trend(series: &str, trend: Trend, margin: f64) -> Comparison {
    Comparison::Trend { series: series.into(), trend, margin, min_x: f64::NEG_INFINITY, max_x: f64::INFINITY }
}

/// Checks and verdict of the main figure alone.
fn judged(measured: &Measured) -> (Verdict, Vec<CheckResult>) {
    let checks = evaluate_checks(std::slice::from_ref(measured));
    (judge(std::slice::from_ref(measured), &checks).0, checks)
}

/// The figure over epochs.
fn of_epochs(measured: &Measured) -> Option<Chart> {
    Some(Chart::of_trace(measured, &traces(measured)[0]).unwrap()?.0)
}

/// A made-up comparison over sparsity with a constant series.
fn made_up_experiment() -> Experiment {
    let series = vec![
        series("deepzero", "DeepZero", false),
        series("fo-weights", "FO, sparse weights", false),
        series("fo-dense", "FO, dense", true),
    ];
    let plan = |n_seeds, xs: &[(f64, &str)], deviations: &[&str]| ScalePlan {
        n_seeds,
        deviations: deviations.iter().map(|d| (*d).to_owned()).collect(),
        finding: String::new(),
        cells: cells(&series, xs),
    };
    Experiment {
        id: "made-up".into(),
        title: "Made-up accuracy over sparsity".into(),
        paper: "Fig. 0".into(),
        panels: Vec::new(),
        traces: Vec::new(),
        layers: Vec::new(),
        profiles: Vec::new(),
        claim: "DeepZero beats sparse-weight training from 90 % up; dense training stays ahead.".into(),
        checks: vec![
            above("deepzero", "fo-weights", 0.9),
            above("fo-dense", "deepzero", 0.0),
            check("The lead over sparse weights grows with sparsity.", widens("deepzero", "fo-weights")),
        ],
        notes: "A note with `code` and a list:\n\n- one\n- two".into(),
        figure: Figure {
            x: "sparsity".into(),
            x_label: "Sparsity".into(),
            y: "test-accuracy".into(),
            y_label: "Test accuracy (%)".into(),
            categorical: true,
            relative_to: None,
            log_x: false,
            log_y: false,
            has_ideal: false,
            lead: None,
        },
        tuned: None,
        borrowed: Vec::new(),
        quoted: Vec::new(),
        expected: vec![
            expected("deepzero", Some(0.8), 70.0),
            expected("deepzero", Some(0.9), 68.0),
            expected("deepzero", Some(0.95), 64.0),
            expected("deepzero", Some(0.99), 55.0),
            expected("fo-weights", Some(0.8), 71.0),
            expected("fo-weights", Some(0.9), 67.0),
            expected("fo-weights", Some(0.95), 61.0),
            expected("fo-weights", Some(0.99), 48.0),
            expected("fo-dense", None, 80.0),
        ],
        scales: BTreeMap::from([
            (Scale::Paper, plan(3, &SPARSITIES, &[])),
            (
                Scale::Laptop,
                plan(2, &SPARSITIES, &["Half the width | a quarter of the images.", "Two seeds."]),
            ),
            (Scale::Smoke, plan(1, &SPARSITIES[..1], &["Synthetic images."])),
        ]),
        series,
    }
}

/// A made-up record whose accuracies rise towards `accuracy` (a fraction) over `n_epochs`.
fn record(
    scale: Scale,
    (series, x): (&str, Option<(f64, &str)>),
    seed: u64,
    accuracy: f64,
    n_epochs: u32,
) -> TrialRecord {
    let epochs = (1..=n_epochs).map(|epoch| {
        let share = f64::from(epoch) / f64::from(n_epochs);
        Row::new(epoch)
            .with(&TRAIN_LOSS, 2.3 * (1.0 - 0.7 * share))
            .with(&TRAIN_ACCURACY, accuracy * share.sqrt())
            .with(&TEST_LOSS, 2.3 * (1.0 - 0.6 * share))
            .with(&TEST_ACCURACY, accuracy * share.powf(0.4))
            .with(&LEARNING_RATE, 0.1)
            .with(&N_ACTIVE, 27_000.0)
            .with(&QUERIES, 1e6 * f64::from(epoch))
            .with(&QUERIES_NON_FINITE, 0.0)
            .with(&GRADIENT_NORM, 1.0)
            .with(&WALL_S, 60.0 * f64::from(epoch))
    });
    TrialRecord {
        trial: Trial {
            experiment: "made-up".into(),
            scale,
            series: series.into(),
            x: x.map(|(x, _)| x),
            x_text: x.map_or(String::new(), |(_, text)| text.into()),
            tuned: String::new(),
            seed,
            settings: settings::from_pairs([("learning-rate", if seed == 0 { "0.1" } else { "0.05" })])
                .unwrap(),
        },
        n_params: 269_722,
        status: Status::Done,
        error: String::new(),
        epochs: epochs.collect(),
        best_epoch: None,
        profiles: Vec::new(),
        provenance: Provenance {
            version: "0.1.0".into(),
            commit: "0123456789abcdef0123-dirty".into(),
            crates: "candle-core 0.0.0".into(),
            cpu: "Made-up CPU".into(),
            device: "cpu".into(),
            kernels: "made-up".into(),
            threads: 2,
            data_checksum: "fedcba9876543210".repeat(4),
            finished_at: "2001-02-03T04:05:06Z".into(),
        },
    }
}

/// Made-up records of all cells of the made-up experiment.
fn made_up_records(scale: Scale, n_seeds: u64) -> Vec<TrialRecord> {
    let ours = [[0.70, 0.685, 0.642, 0.551], [0.712, 0.668, 0.604, 0.471]];
    let mut records = Vec::new();
    for seed in 0..n_seeds {
        let noise = 0.004 * (seed as f64 - 0.5 * (n_seeds as f64 - 1.0));
        for (name, row) in ["deepzero", "fo-weights"].iter().zip(ours) {
            for (idx, (place, accuracy)) in SPARSITIES.iter().zip(row).enumerate() {
                let wobble = 0.001 * ((seed + 2 * idx as u64 + name.len() as u64 * seed) % 5) as f64;
                records.push(record(scale, (name, Some(*place)), seed, accuracy + noise + wobble, 10));
            }
        }
        records.push(record(scale, ("fo-dense", None), seed, 0.805 + noise, 10));
    }
    records
}

fn at_scale(scale: Scale, records: Vec<TrialRecord>) -> BTreeMap<Scale, Vec<TrialRecord>> {
    BTreeMap::from([(scale, records)])
}

/// The lines of a page from the one that starts with `heading` to the next heading.
fn part<'p>(page: &'p str, heading: &str) -> &'p str {
    let start = page.find(heading).expect("the heading is there");
    let end = page[start + 1..].find("\n#").map_or(page.len(), |at| start + 1 + at);
    page[start..end].trim_end()
}

#[test]
fn table_at_paper_scale_judges_every_point() {
    let page =
        markdown(&made_up_experiment(), &at_scale(Scale::Paper, made_up_records(Scale::Paper, 3))).unwrap();
    insta::assert_snapshot!(part(&page, "### Values"), @r#"
    ### Values, 3 seeds each

    | series | Sparsity | ours, mean ± std (%) | 95 % interval | paper (%) | difference | verdict |
    |---|---:|---:|---:|---:|---:|---:|
    | DeepZero | 80 % | 70.23 ± 0.57 | 68.80 to 71.63 | 70.00 | +0.23 | undecided |
    | DeepZero | 90 % | 68.60 ± 0.30 | 67.85 to 69.34 | 68.00 | +0.60 | undecided |
    | DeepZero | 95 % | 64.50 ± 0.30 | 63.75 to 65.24 | 64.00 | +0.50 | undecided |
    | DeepZero | 99 % | 55.27 ± 0.57 | 53.85 to 56.67 | 55.00 | +0.27 | undecided |
    | FO, sparse weights | 80 % | 71.30 ± 0.50 | 70.04 to 72.53 | 71.00 | +0.30 | undecided |
    | FO, sparse weights | 90 % | 67.10 ± 0.50 | 65.85 to 68.33 | 67.00 | +0.10 | reproduced (± 1.00) |
    | FO, sparse weights | 95 % | 60.57 ± 0.29 | 59.85 to 61.28 | 61.00 | −0.43 | reproduced (± 1.00) |
    | FO, sparse weights | 99 % | 47.30 ± 0.50 | 46.06 to 48.54 | 48.00 | −0.70 | undecided |
    | FO, dense | all | 80.50 ± 0.40 | 79.49 to 81.47 | 80.00 | +0.50 | undecided |
    "#);
}

#[test]
fn verdict_sentences_spell_the_numbers_out() {
    let page =
        markdown(&made_up_experiment(), &at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 3))).unwrap();
    insta::assert_snapshot!(part(&page, "### Checks"), @r#"
    ### Checks

    - **confirmed at this scale**: `deepzero` beats `fo-weights`. The difference is above zero at all 3 positions, by more than its uncertainty.
      - At Sparsity = 90 %: DeepZero 68.60 % (n = 3); FO, sparse weights 67.10 % (n = 3); difference +1.50 points (over 3 common seeds: +1.50, 95 % interval +1.00 to +2.00 points). Confirmed.
      - At Sparsity = 95 %: DeepZero 64.50 % (n = 3); FO, sparse weights 60.57 % (n = 3); difference +3.93 points (over 3 common seeds: +3.93, 95 % interval +3.55 to +4.31 points). Confirmed.
      - At Sparsity = 99 %: DeepZero 55.27 % (n = 3); FO, sparse weights 47.30 % (n = 3); difference +7.97 points (over 3 common seeds: +7.97, 95 % interval +7.59 to +8.35 points). Confirmed.
    - **confirmed at this scale**: `fo-dense` beats `deepzero`. The difference is above zero at all 4 positions, by more than its uncertainty.
      - At Sparsity = 80 %: FO, dense 80.50 % (n = 3); DeepZero 70.23 % (n = 3); difference +10.27 points (over 3 common seeds: +10.27, 95 % interval +9.75 to +10.78 points). Confirmed.
      - At Sparsity = 90 %: FO, dense 80.50 % (n = 3); DeepZero 68.60 % (n = 3); difference +11.90 points (over 3 common seeds: +11.90, 95 % interval +11.65 to +12.15 points). Confirmed.
      - At Sparsity = 95 %: FO, dense 80.50 % (n = 3); DeepZero 64.50 % (n = 3); difference +16.00 points (over 3 common seeds: +16.00, 95 % interval +15.75 to +16.25 points). Confirmed.
      - At Sparsity = 99 %: FO, dense 80.50 % (n = 3); DeepZero 55.27 % (n = 3); difference +25.23 points (over 3 common seeds: +25.23, 95 % interval +24.72 to +25.75 points). Confirmed.
    - **confirmed at this scale**: The lead over sparse weights grows with sparsity. The growth of the difference along Sparsity is above zero, by more than its uncertainty.
      - At Sparsity = 80 %: DeepZero 70.23 % (n = 3); FO, sparse weights 71.30 % (n = 3); difference −1.07 points.
      - At Sparsity = 99 %: DeepZero 55.27 % (n = 3); FO, sparse weights 47.30 % (n = 3); difference +7.97 points.
      - Along Sparsity, by the least-squares line of each seed (over 3 common seeds: +8.86, 95 % interval +8.29 to +9.43 points). Confirmed.
    "#);
}

#[test]
fn one_seed_has_no_uncertainty() {
    let page =
        markdown(&made_up_experiment(), &at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 1))).unwrap();
    insta::assert_snapshot!(part(&page, "### Values"), @r#"
    ### Values, 1 seed each

    | series | Sparsity | ours, mean ± std (%) | paper (%) |
    |---|---:|---:|---:|
    | DeepZero | 80 % | 70.00 | 70.00 |
    | DeepZero | 90 % | 68.70 | 68.00 |
    | DeepZero | 95 % | 64.60 | 64.00 |
    | DeepZero | 99 % | 55.20 | 55.00 |
    | FO, sparse weights | 80 % | 71.20 | 71.00 |
    | FO, sparse weights | 90 % | 67.00 | 67.00 |
    | FO, sparse weights | 95 % | 60.80 | 61.00 |
    | FO, sparse weights | 99 % | 47.20 | 48.00 |
    | FO, dense | all | 80.50 | 80.00 |
    "#);
    assert!(page.contains("fewer than two common seeds: its uncertainty is unknown"));
}

#[test]
fn reduced_scale_has_no_point_verdicts() {
    let experiment = made_up_experiment();
    let records = made_up_records(Scale::Laptop, 3);
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    assert!(judge_points(&measured).iter().all(|(verdict, _)| *verdict == PointVerdict::None));
    let (verdict, _) = judged(&measured);
    assert_eq!(verdict, Verdict::Confirmed);
    // Further seeds make up for none that is missing, however clear the rest is.
    let records = made_up_records(Scale::Laptop, 4);
    let missing = records.iter().position(|record| record.trial.seed == 1).unwrap();
    let records: Vec<TrialRecord> = [&records[..missing], &records[missing + 1..]].concat();
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let (verdict, checks) = judged(&measured);
    assert_eq!(verdict, Verdict::NotRun);
    assert!(checks.iter().all(|check| check.outcome == Outcome::Confirmed));
}

/// Oracle: definition; three seeds that are alike tell nothing of a fourth.
#[test]
fn seeds_that_are_alike_do_not_say_how_many_are_needed() {
    let mut experiment = made_up_experiment();
    experiment.checks = vec![check("Close.", close("deepzero", "fo-weights", 2.0))];
    let mut records = Vec::new();
    for (seed, place) in (0..3).flat_map(|seed| SPARSITIES.map(|place| (seed, place))) {
        records.push(record(Scale::Laptop, ("deepzero", Some(place)), seed, 0.5, 1));
        records.push(record(Scale::Laptop, ("fo-weights", Some(place)), seed, 0.5, 1));
    }
    let panels = Measured::gather_all(&experiment, Scale::Laptop, &records).unwrap();
    let needed = needed(&panels);
    assert!(matches!(&needed[0].seeds, Outlook::Unknown(reason) if reason.contains("alike")), "{needed:?}");
}

/// Oracle, by hand: four values around a mean with spread 0.26 points have a standard error of 0.13, and so 90 % intervals of
/// ± 0.30 and 95 % intervals of ± 0.41 (t = 2.353 and 3.182 at three degrees), hardly other on the logit.
#[test]
fn a_published_value_is_met_missed_or_neither() {
    let experiment = made_up_experiment();
    let dense = |mean: f64, n: u64| -> Vec<TrialRecord> {
        let noise = [-0.3, -0.1, 0.1, 0.3];
        let value = |seed: u64| (mean + noise[seed as usize]) / 100.0;
        (0..n).map(|seed| record(Scale::Paper, ("fo-dense", None), seed, value(seed), 2)).collect()
    };
    for (mean, n, verdict) in [
        (80.6, 4, PointVerdict::Reproduced),
        (79.4, 4, PointVerdict::Reproduced),
        (80.8, 4, PointVerdict::Undecided),
        (81.3, 4, PointVerdict::Undecided),
        (81.5, 4, PointVerdict::NotReproduced),
        (78.5, 4, PointVerdict::NotReproduced),
        (80.3, 2, PointVerdict::Undecided),
    ] {
        let records = dense(mean, n);
        let measured = Measured::gather(&experiment, Scale::Paper, &records).unwrap();
        let idx = measured.points.iter().position(|p| p.x.is_none()).unwrap();
        assert_eq!(judge_points(&measured)[idx].0, verdict, "{mean}");
        let (overall, _) = judged(&measured);
        assert_ne!(overall, Verdict::Reproduced, "most trials are missing");
    }
}

#[test]
fn failing_checks_say_where() {
    let mut experiment = made_up_experiment();
    experiment.checks = vec![
        above("deepzero", "fo-weights", 0.0),
        check("Close.", close("deepzero", "fo-weights", 2.0)),
        check("The other way round.", widens("fo-weights", "deepzero")),
    ];
    let records = made_up_records(Scale::Laptop, 4);
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let checks = judged(&measured).1;
    let reasons: Vec<String> = checks.iter().map(|c| format!("{:?}: {}", c.outcome, c.reason)).collect();
    insta::assert_snapshot!(reasons.join("\n"), @r#"
    Contradicted: The difference is not above zero at Sparsity = 80 %, by more than its uncertainty.
    Contradicted: The difference is not within ±2.00 points at Sparsity = 95 %, Sparsity = 99 %, by more than its uncertainty.
    Contradicted: The growth of the difference along Sparsity is not above zero, by more than its uncertainty.
    "#);
    let (verdict, counts) = judge(std::slice::from_ref(&measured), &checks);
    assert_eq!(verdict, Verdict::Contradicted);
    insta::assert_snapshot!(counts, @"0 of 3 checks confirmed, 3 contradicted");
}

/// Oracle: means of validation accuracies, made up so that the first rate wins by them although its test accuracy is lower.
#[test]
fn the_value_that_validation_images_choose_stands_for_a_point() {
    let mut experiment = made_up_experiment();
    experiment.tuned = Some("learning-rate");
    experiment.checks.clear();
    let tried = |rate: &str, seed: u64, test: f64, val: f64| {
        let mut record = record(Scale::Laptop, ("deepzero", Some(SPARSITIES[0])), seed, test, 1);
        rate.clone_into(&mut record.trial.tuned);
        record.trial.settings = settings::from_pairs([("learning-rate", rate)]).unwrap();
        record.epochs[0].set(&VAL_ACCURACY, val);
        record
    };
    // The second rate is best at one seed, and diverges at the other; the third has the best test accuracy.
    let mut records = vec![
        tried("0.03", 0, 0.60, 0.61),
        tried("0.03", 1, 0.62, 0.59),
        tried("0.1", 0, 0.70, 0.90),
        tried("0.1", 1, 0.70, 0.90),
        tried("0.3", 0, 0.99, 0.50),
        tried("0.3", 1, 0.99, 0.50),
    ];
    records[3].status = Status::Diverged;
    records[3].epochs.clear();
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let point = measured.points.iter().find(|point| point.was_tried()).unwrap();
    let choice = measured.choice(point).unwrap();
    assert_eq!((choice.value.as_str(), choice.edge), ("0.03", Some("smallest")));
    assert_eq!(point.values.values().map(|value| value.round()).collect::<Vec<_>>(), [60.0, 62.0]);
    assert_eq!((measured.records.len(), measured.candidates.len(), point.n_lost()), (2, 6, 0));
    let page = markdown(&experiment, &at_scale(Scale::Laptop, records.clone())).unwrap();
    insta::assert_snapshot!(page.lines().filter(|line| line.contains("0.03 (smallest)")).collect::<Vec<_>>().join("\n"), @"| DeepZero | 80 % | 0.03 (smallest) | 61.00 ± 1.41 | 47.83 to 72.74 | 2 | 70.00 |");
    insta::assert_snapshot!(page.lines().filter(|line| line.contains("diverged")).collect::<Vec<_>>().join("\n"), @r#"
5 of 18 planned trials finished (seeds 0, 1); 1 diverged.
- DeepZero, Sparsity = 80 %, learning-rate = 0.1, seed 1: diverged after 0 epochs.
"#);

    // With both seeds of the second it wins, and has others on both sides.
    records[3] = tried("0.1", 1, 0.70, 0.90);
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    assert_eq!((measured.choices[0].value.as_str(), measured.choices[0].edge), ("0.1", None));
    // On ties the smallest.
    records.iter_mut().for_each(|record| record.epochs[0].set(&VAL_ACCURACY, 0.5));
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    assert_eq!(measured.choices[0].value, "0.03");
}

/// Oracle: the same records with another accuracy at one seed, where the rule of Student's t decides.
#[test]
fn accuracies_that_are_alike_at_every_seed_decide_nothing() {
    let mut experiment = made_up_experiment();
    experiment.checks = vec![above("deepzero", "fo-weights", 0.0)];
    let judged_of = |experiment: &Experiment, accuracies: [f64; 3]| {
        let mut records = Vec::new();
        for (seed, accuracy) in (0..).zip(accuracies) {
            for place in SPARSITIES {
                records.push(record(Scale::Laptop, ("deepzero", Some(place)), seed, accuracy, 1));
                records.push(record(Scale::Laptop, ("fo-weights", Some(place)), seed, 0.5, 1));
            }
        }
        let measured = Measured::gather(experiment, Scale::Laptop, &records).unwrap();
        let check = judged(&measured).1.remove(0);
        format!("{:?}: {}", check.outcome, check.reason)
    };
    insta::assert_snapshot!(judged_of(&experiment, [0.75, 0.75, 0.76]), @"Confirmed: The difference is above zero at all 4 positions, by more than its uncertainty.");
    insta::assert_snapshot!(judged_of(&experiment, [0.75, 0.75, 0.75]), @"Undecided: The difference is above zero by more than its uncertainty at 0 of 4 positions; the seeds leave the rest open. Published: −1.00 to +7.00 points. Shares that are alike at every seed do not tell what their spread is.");
}

#[test]
fn an_undecided_check_says_what_would_decide_it() {
    let mut experiment = made_up_experiment();
    experiment.checks.truncate(1);
    let mut records = made_up_records(Scale::Laptop, 3);
    let noisy = records.iter_mut().find(|r| r.trial.x == Some(0.9) && r.trial.seed == 1).unwrap();
    let last = noisy.epochs.last_mut().unwrap();
    last.set(&TEST_ACCURACY, last.get(&TEST_ACCURACY) + 0.02);
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let check = &judged(&measured).1[0];
    assert_eq!(check.outcome, Outcome::Undecided);
    insta::assert_snapshot!(check.reason, @"The difference is above zero by more than its uncertainty at 2 of 3 positions; the seeds leave the rest open. Published: +1.00 to +7.00 points. 3 seeds would show with 80 % probability what lies 3.83 points beyond the limit. To confirm it with that probability takes 13 seeds if what was published is true.");
    insta::assert_snapshot!(check.details[0], @"At Sparsity = 90 %: DeepZero 69.27 % (n = 3); FO, sparse weights 67.10 % (n = 3); difference +2.17 points (over 3 common seeds: +2.17, 95 % interval −0.74 to +5.08 points). Undecided.");
    // Without published values, by what was measured; with two seeds, nothing.
    experiment.expected.clear();
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    insta::assert_snapshot!(judged(&measured).1[0].reason, @"The difference is above zero by more than its uncertainty at 2 of 3 positions; the seeds leave the rest open. 3 seeds would show with 80 % probability what lies 3.83 points beyond the limit. To confirm it with that probability takes 5 seeds if what was measured here is true.");
    records.retain(|record| record.trial.seed < 2);
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    insta::assert_snapshot!(judged(&measured).1[0].reason, @"The difference is above zero by more than its uncertainty at 0 of 3 positions; the seeds leave the rest open. Fewer than three common seeds decide nothing.");
    // What the other series say of the noise, if the file wants to hear it.
    experiment.checks[0].of_layout = true;
    let records = made_up_records(Scale::Laptop, 3);
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    insta::assert_snapshot!(judged(&measured).1[0].details[0], @"At Sparsity = 90 %: DeepZero 68.60 % (n = 3); FO, sparse weights 67.10 % (n = 3); difference +1.50 points (over 3 common seeds: +1.50, 95 % interval +1.27 to +1.73 points; spread 0.14 from all series by seeds in place of the pair's own 0.20). Confirmed.");
}

#[test]
fn missing_series_are_not_run() {
    let experiment = made_up_experiment();
    let mut records = made_up_records(Scale::Laptop, 3);
    records.retain(|r| r.trial.series != "fo-weights");
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let checks = judged(&measured).1;
    let outcomes: Vec<Outcome> = checks.iter().map(|c| c.outcome).collect();
    assert_eq!(outcomes, [Outcome::NotRun, Outcome::Confirmed, Outcome::NotRun]);
    insta::assert_snapshot!(checks[2].reason, @"No finished trial of FO, sparse weights at Sparsity = 80 %; FO, sparse weights at Sparsity = 90 %; FO, sparse weights at Sparsity = 95 %; FO, sparse weights at Sparsity = 99 %.");
    assert_eq!(judged(&measured).0, Verdict::NotRun);
}

#[test]
fn trials_that_did_not_finish_are_listed_and_left_out() {
    let experiment = made_up_experiment();
    let mut records = made_up_records(Scale::Laptop, 2);
    records[0].status = Status::Diverged;
    records[0].error = "the loss is NaN at epoch 10, step 3 | <b>stop</b>\nsecond line".into();
    records[1].epochs.last_mut().unwrap().set(&TEST_ACCURACY, f64::NAN);
    records[2].status = Status::Failed;
    records[2].error = "out of memory".into();
    records[2].epochs.clear();
    let page = markdown(&experiment, &at_scale(Scale::Laptop, records)).unwrap();
    insta::assert_snapshot!(part(&page, "### Trials without a value"), @r#"
    ### Trials without a value

    - DeepZero, Sparsity = 80 %, seed 0: diverged after 10 epochs: the loss is NaN at epoch 10, step 3 | &lt;b>stop&lt;/b> second line
    - DeepZero, Sparsity = 90 %, seed 0: finished without a finite value after 10 epochs.
    - DeepZero, Sparsity = 95 %, seed 0: failed after 0 epochs: out of memory
    "#);
    assert!(page.contains("| DeepZero | 80 % | 70.60 | — | 1 (1 diverged) | 70.00 |"), "{page}");
    assert!(page.contains("16 of 18 planned trials finished (seeds 0, 1); 1 diverged; 1 failed."), "{page}");
    for text in ["NaN ±", "NaN |"] {
        assert!(!page.contains(text), "{text} in a table");
    }
}

#[test]
fn all_trials_failed() {
    let experiment = made_up_experiment();
    let mut records = made_up_records(Scale::Paper, 1);
    for record in &mut records {
        record.status = Status::Failed;
        record.error = "made-up failure".into();
        record.epochs.clear();
    }
    let scales = at_scale(Scale::Paper, records);
    let measured = Measured::gather(&experiment, Scale::Paper, &scales[&Scale::Paper]).unwrap();
    assert!(Chart::of(&measured, false).is_none());
    assert!(of_epochs(&measured).is_none());
    assert_eq!(judged(&measured).0, Verdict::NotRun);
    let page = markdown(&experiment, &scales).unwrap();
    assert!(page.contains("## Scale `paper`: not run"));
    assert!(page.contains("made-up failure"));
    html(&[(experiment, scales)]).unwrap();
}

#[test]
fn no_records_at_all() {
    let experiment = made_up_experiment();
    let page = markdown(&experiment, &BTreeMap::new()).unwrap();
    assert!(page.contains("**Not run** at any scale."));
    let page = html(&[(experiment, at_scale(Scale::Smoke, Vec::new()))]).unwrap();
    assert!(page.contains("at any scale."));
    // On the contact sheet and in the table.
    assert_eq!(page.matches("not yet built").count(), 2 * 16, "none of the paper's exhibits is among them");
    let sheet = contact_sheet(&page);
    assert_eq!(sheet.matches("<li class=\"absent\">").count(), 16 + 1, "{sheet}");
    assert!(sheet.contains("<a href=\"#made-up\">") && !sheet.contains("<svg"), "{sheet}");
}

/// The part of an index with a card for each experiment.
fn contact_sheet(page: &str) -> &str {
    let (_, from) = page.split_once("<section aria-label=\"Contact sheet\">").unwrap();
    from.split_once("</section>").unwrap().0
}

#[test]
fn the_contact_sheet_shows_the_first_figure_of_the_highest_scale() {
    let mut scales = at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 3));
    scales.extend(at_scale(Scale::Smoke, made_up_records(Scale::Smoke, 2)));
    let experiment = made_up_experiment();
    let page = html(&[(experiment.clone(), scales)]).unwrap();
    let (_, card) = contact_sheet(&page).split_once("<a href=\"#made-up\">").unwrap();
    let (card, _) = card.split_once("</li>").unwrap();
    assert_eq!(card.matches("<svg").count(), 1, "{card}");
    let svg = &card[card.find("<svg").unwrap()..card.find("</svg>").unwrap()];
    assert!(svg.contains("width=\"360\"") && !svg.contains("FO, dense"), "small, without a legend: {svg}");
    let text = card.split_once("</svg>").unwrap().1;
    for shown in ["made-up</span>", &experiment.title, "Fig. 0, laptop scale", "checks confirmed"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let smoke = html(&[(experiment, at_scale(Scale::Smoke, made_up_records(Scale::Smoke, 2)))]).unwrap();
    let sheet = contact_sheet(&smoke);
    assert!(sheet.contains("smoke only") && !sheet.contains("checks confirmed"), "{sheet}");
}

#[test]
fn best_validation_epoch_gets_a_column() {
    let mut records = made_up_records(Scale::Laptop, 2);
    for record in &mut records {
        record.best_epoch = Some(5);
    }
    let page = markdown(&made_up_experiment(), &at_scale(Scale::Laptop, records)).unwrap();
    assert!(page.contains("| test accuracy at best validation epoch (%) |"));
}

#[test]
fn highest_scale_comes_first() {
    let scales = BTreeMap::from([
        (Scale::Smoke, made_up_records(Scale::Smoke, 1)),
        (Scale::Paper, made_up_records(Scale::Paper, 1)),
        (Scale::Laptop, made_up_records(Scale::Laptop, 1)),
    ]);
    let page = markdown(&made_up_experiment(), &scales).unwrap();
    let at: Vec<usize> =
        ["paper", "laptop", "smoke"].iter().map(|s| page.find(&format!("## Scale `{s}`")).unwrap()).collect();
    assert!(at.is_sorted());
    assert!(page.starts_with(
        "<!-- Generated file, do not edit. Made by: deepzero reproduce made-up --scale paper; \
         deepzero reproduce made-up --scale laptop; deepzero reproduce made-up --scale smoke -->"
    ));
}

#[test]
fn a_repeated_trial_counts_once_and_the_last_one_counts() {
    let experiment = made_up_experiment();
    let place = ("deepzero", Some(SPARSITIES[0]));
    let mut first = record(Scale::Laptop, place, 0, 0.5, 2);
    first.status = Status::Diverged;
    let mut last = record(Scale::Laptop, place, 0, 0.6, 2);
    last.provenance.finished_at = "2001-02-04T00:00:00Z".into();
    let records = [last, first];
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    assert_eq!(measured.records.len(), 1);
    let point = measured.finished().next().unwrap();
    assert_eq!((point.values.len(), point.n_lost()), (1, 0));
    assert!((point.values[&0] - 60.0).abs() < 1e-9);
}

#[test]
fn order_of_records_changes_nothing() {
    let experiment = made_up_experiment();
    let records = made_up_records(Scale::Paper, 3);
    let mut reversed = records.clone();
    reversed.reverse();
    let run = |records| -> [Run; 1] { [(experiment.clone(), at_scale(Scale::Paper, records))] };
    let (one, other) = (run(records), run(reversed));
    assert_eq!(html(&one).unwrap(), html(&other).unwrap());
    assert_eq!(markdown(&one[0].0, &one[0].1).unwrap(), markdown(&other[0].0, &other[0].1).unwrap());
}

#[test]
fn svg_names_every_series_and_leaves_the_ink_to_the_page() {
    let experiment = made_up_experiment();
    let records = made_up_records(Scale::Paper, 3);
    let measured = Measured::gather(&experiment, Scale::Paper, &records).unwrap();
    for chart in [Chart::of(&measured, false).unwrap(), of_epochs(&measured).unwrap()] {
        let svg = plot::svg(&chart);
        for series in &experiment.series {
            assert!(svg.contains(&format!(">{}</text>", series.label)));
        }
        assert!(svg.contains("\"currentColor\""));
        assert_eq!(svg, plot::svg(&chart));
    }
}

#[test]
fn png_decodes_at_two_pixels_per_point() {
    let experiment = made_up_experiment();
    let records = made_up_records(Scale::Paper, 2);
    let measured = Measured::gather(&experiment, Scale::Paper, &records).unwrap();
    let chart = Chart::of(&measured, false).unwrap();
    let file = plot::png(&chart);
    let image = image::load_from_memory(&file).unwrap().to_rgb8();
    assert_eq!(image.width(), 1440);
    assert!((700..1100).contains(&image.height()), "{}", image.height());
    assert_eq!(image.get_pixel(0, 0).0, [255, 255, 255]);
    assert!(image.pixels().any(|p| p.0 == [0x00, 0x72, 0xb2]), "the first series' color is there");
    assert_eq!(file, plot::png(&chart));
}

/// Shapes that layouts trip over: one x, all values equal, one epoch, huge and tiny values.
#[test]
fn odd_charts_can_be_drawn() {
    let mut experiment = made_up_experiment();
    experiment.expected.clear();
    for categorical in [false, true] {
        experiment.figure.categorical = categorical;
        let records = vec![record(Scale::Smoke, ("deepzero", Some(SPARSITIES[0])), 0, 0.5, 1)];
        let measured = Measured::gather(&experiment, Scale::Smoke, &records).unwrap();
        assert!(of_epochs(&measured).is_none(), "one epoch makes no curve");
        assert!(!plot::png(&Chart::of(&measured, false).unwrap()).is_empty());
        for (y, wall_s) in [("test-loss", 1.0), ("wall-s", 0.0), ("wall-s", 1e9), ("queries", 1e-9)] {
            experiment.figure.y = y.into();
            let mut records = made_up_records(Scale::Laptop, 1);
            records.iter_mut().flat_map(|r| &mut r.epochs).for_each(|e| e.set(&WALL_S, wall_s));
            let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
            assert!(!plot::svg(&Chart::of(&measured, false).unwrap()).contains("NaN"));
        }
        experiment.figure.y = "test-accuracy".into();
    }
}

#[test]
fn network_sizes_as_x_come_from_the_records() {
    let mut experiment = made_up_experiment();
    experiment.figure.x = "n-params".into();
    experiment.figure.categorical = false;
    experiment.expected = vec![expected("deepzero", Some(269_722.0), 70.0)];
    let plan = experiment.scales.get_mut(&Scale::Smoke).unwrap();
    plan.cells.truncate(1);
    let records = vec![record(Scale::Smoke, ("deepzero", Some(SPARSITIES[0])), 0, 0.5, 2)];
    let measured = Measured::gather(&experiment, Scale::Smoke, &records).unwrap();
    assert_eq!(measured.points.len(), 1);
    assert_eq!(measured.points[0].x, Some(269_722.0));
    assert_eq!(measured.points[0].x_text, "269,722");
    assert!(measured.points[0].planned && measured.points[0].published.is_some());
    // What failed before its network was built stands where the others do.
    let mut failed = record(Scale::Smoke, ("deepzero", Some(SPARSITIES[0])), 1, 0.5, 1);
    (failed.n_params, failed.status) = (0, Status::Failed);
    failed.epochs.clear();
    let records = vec![failed, records[0].clone()];
    let measured = Measured::gather(&experiment, Scale::Smoke, &records).unwrap();
    assert_eq!((measured.points.len(), measured.points[0].x), (1, Some(269_722.0)));
    assert_eq!((measured.points[0].n_failed, measured.points[0].values.len()), (1, 1));
}

#[test]
fn unknown_metrics_are_refused() {
    let mut experiment = made_up_experiment();
    experiment.figure.y = "beauty".into();
    let error = markdown(&experiment, &at_scale(Scale::Smoke, made_up_records(Scale::Smoke, 1))).unwrap_err();
    assert!(
        error.to_string().starts_with("setting `y`: no metric `beauty`; there are train-loss,"),
        "{error}"
    );
    assert_eq!(Metric::parse("wall-h").unwrap(), &WALL_H);
}

#[test]
fn page_loads_nothing_and_escapes_everything() {
    let mut experiment = made_up_experiment();
    experiment.title = "A <script>alert(1)</script> & title".into();
    experiment.series[0].label = "<i>DeepZero</i>".into();
    let page = html(&[(experiment, at_scale(Scale::Paper, made_up_records(Scale::Paper, 2)))]).unwrap();
    assert!(!page.contains("<script"));
    assert!(!page.contains("<i>"));
    for load in ["src=", "<link", "@import", "url(", "xlink"] {
        assert!(!page.contains(load), "{load}");
    }
    let n_links = page.matches("href=\"http").count();
    assert_eq!(page.matches("http://").count() + page.matches("https://").count(), n_links);
    assert!(page.contains("name=\"viewport\""));
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn files_are_written_whole_and_alike() {
    let runs: [Run; 1] = [(made_up_experiment(), at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 2)))];
    let read = |dir: &std::path::Path| -> Vec<(String, Vec<u8>)> {
        let paths = write_reports(&runs, dir).unwrap().paths;
        let name = |p: &std::path::PathBuf| p.file_name().unwrap().to_str().unwrap().to_owned();
        paths.iter().map(|p| (name(p), std::fs::read(p).unwrap())).collect()
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = read(&one.path().join("reports"));
    assert_eq!(files, read(other.path()));
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "made-up.md",
            "made-up-laptop.svg",
            "made-up-laptop.png",
            "made-up-laptop-differences.svg",
            "made-up-laptop-differences.png",
            "made-up-laptop-epochs.svg",
            "made-up-laptop-epochs.png",
            "index.html"
        ]
    );
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), names.len(), "no temporary file stays");
}

/// A made-up comparison over network sizes, on a numeric axis.
fn made_up_sizes() -> Run {
    const SIZES: [(f64, &str); 5] =
        [(730.0, "730"), (3700.0, "3,700"), (6670.0, "6,670"), (9640.0, "9,640"), (12610.0, "12,610")];
    let mut experiment = made_up_experiment();
    experiment.id = "made-up-sizes".into();
    experiment.title = "Made-up accuracy over the number of parameters".into();
    experiment.figure.x = "depth".into();
    experiment.figure.x_label = "Number of parameters d".into();
    experiment.figure.categorical = false;
    experiment.series =
        vec![series("fo", "FO", false), series("cge", "CGE", false), series("rge", "RGE", false)];
    let ours =
        [[41.5, 60.0, 71.0, 76.0, 77.2], [41.2, 59.0, 70.1, 75.0, 76.1], [36.0, 49.0, 63.0, 68.0, 66.0]];
    let mut records = Vec::new();
    experiment.expected.clear();
    for (series, row) in experiment.series.iter().zip(ours) {
        for (place, accuracy) in SIZES.iter().zip(row) {
            experiment.expected.push(expected(&series.id, Some(place.0), accuracy + 1.5));
            for seed in 0..3 {
                let value = (accuracy + 1.3 * (seed as f64 - 1.0)) / 100.0;
                records.push(record(Scale::Laptop, (&series.id, Some(*place)), seed, value, 30));
            }
        }
    }
    experiment.checks = vec![
        check("CGE is close to FO.", close("cge", "fo", 2.0)),
        above("cge", "rge", 0.0),
        check("The gap to RGE widens.", widens("cge", "rge")),
    ];
    experiment.scales = BTreeMap::from([(
        Scale::Laptop,
        ScalePlan {
            n_seeds: 3,
            deviations: vec![],
            finding: String::new(),
            cells: cells(&experiment.series, &SIZES),
        },
    )]);
    (experiment, at_scale(Scale::Laptop, records))
}

/// A made-up experiment over three widths, on a numeric axis: seconds of "slow" and "fast" and of "one",
/// which is constant; validation accuracy highest at width 16 for "slow" and at 8 for "fast".
fn made_up_times() -> Experiment {
    let mut experiment = made_up_experiment();
    experiment.id = "made-up-times".into();
    experiment.title = "Made-up times over width".into();
    experiment.series =
        vec![series("slow", "Slow", false), series("fast", "Fast", false), series("one", "One", true)];
    experiment.figure.x = "width".into();
    experiment.figure.x_label = "Width".into();
    experiment.figure.categorical = false;
    experiment.expected.clear();
    experiment.checks.clear();
    experiment.panels = vec![Panel {
        id: "time".into(),
        y: "wall-s".into(),
        y_label: "Time relative to slow".into(),
        relative_to: Some("slow".into()),
        series: vec!["fast".into(), "one".into()],
        log_x: true,
        log_y: true,
        has_ideal: false,
    }];
    experiment.scales = BTreeMap::from([(
        Scale::Paper,
        ScalePlan {
            n_seeds: 2,
            deviations: vec![],
            finding: String::new(),
            cells: cells(&experiment.series, &WIDTHS),
        },
    )]);
    experiment
}

const WIDTHS: [(f64, &str); 3] = [(4.0, "4"), (8.0, "8"), (16.0, "16")];

fn timed(series: &str, x: Option<(f64, &str)>, seed: u64, wall_s: f64, val_accuracy: f64) -> TrialRecord {
    let mut record = record(Scale::Paper, (series, x), seed, 0.5, 2);
    record.trial.experiment = "made-up-times".into();
    let last = record.epochs.last_mut().unwrap();
    *last = last.with(&WALL_S, wall_s).with(&VAL_ACCURACY, val_accuracy);
    record
}

/// By width and seed: slow 10, 20, 40 and twice that; fast 5, 5, 5 and 8, 8, 8; one 20 and 40.
fn times() -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for (idx, place) in WIDTHS.into_iter().enumerate() {
        let slow = 10.0 * f64::from(1 << idx);
        records.push(timed("slow", Some(place), 0, slow, [0.5, 0.6, 0.7][idx]));
        records.push(timed("slow", Some(place), 1, 2.0 * slow, [0.5, 0.6, 0.7][idx]));
        records.push(timed("fast", Some(place), 0, 5.0, [0.4, 0.65, 0.6][idx]));
        records.push(timed("fast", Some(place), 1, 8.0, [0.4, 0.55, 0.6][idx]));
    }
    records.push(timed("one", None, 0, 20.0, 0.5));
    records.push(timed("one", None, 1, 40.0, 0.5));
    records
}

/// Published hours of "slow" and "fast".
fn published_hours(experiment: &mut Experiment) {
    for (series, hours) in [("slow", [2.0, 4.0, 0.0]), ("fast", [1.0, 1.0, 1.0])] {
        for (place, value) in WIDTHS.iter().zip(hours) {
            experiment.expected.push(Expected {
                panel: "time".into(),
                unit: "h".into(),
                tolerance: Some(0.2),
                ..expected(series, Some(place.0), value)
            });
        }
    }
}

/// Oracle, by hand: fast/slow = 5/10 and 8/20 at width 4, 5/20 and 8/40 at 8, 5/40 and 8/80 at 16;
/// one/slow = 20/10 and 40/20 at 4 and so on; published 1/2, 1/4, and none, since 0 divides nothing.
#[test]
fn relative_values_are_ratios_at_the_same_x_and_seed() {
    let mut experiment = made_up_times();
    published_hours(&mut experiment);
    let records = times();
    let all = Measured::gather_all(&experiment, Scale::Paper, &records).unwrap();
    let time = &all[1];
    let values: Vec<Vec<f64>> = time.points.iter().map(|p| p.values.values().copied().collect()).collect();
    assert_eq!(
        values,
        [[0.5, 0.4], [0.25, 0.2], [0.125, 0.1], [2.0, 2.0], [1.0, 1.0], [0.5, 0.5]].map(Vec::from)
    );
    let published: Vec<Option<f64>> =
        time.points[..3].iter().map(|p| p.published.as_ref().map(|e| e.value)).collect();
    assert_eq!(published, [Some(0.5), Some(0.25), None]);
    // Two seeds decide nothing.
    let verdicts: Vec<PointVerdict> = judge_points(time).into_iter().map(|(verdict, _)| verdict).collect();
    assert_eq!(verdicts[..3], [PointVerdict::Undecided, PointVerdict::Undecided, PointVerdict::None]);
    assert_eq!(
        judge(&all, &[]),
        (Verdict::Undecided, "0 of 2 published values reproduced, 2 undecided".into())
    );
    let page = markdown(&experiment, &at_scale(Scale::Paper, records)).unwrap();
    insta::assert_snapshot!(part(&page, "### Values: Time"), @r#"
    ### Values: Time relative to slow, divided by Slow, 2 seeds each

    | series | Width | ours, mean ± std (ratio) | 95 % interval | paper (ratio) | difference | verdict |
    |---|---:|---:|---:|---:|---:|---:|
    | Fast | 4 | 0.4500 ± 0.07071 | 0.1097 to 1.847 | 0.5000 | −0.05000 | undecided |
    | Fast | 8 | 0.2250 ± 0.03536 | 0.05483 to 0.9233 | 0.2500 | −0.02500 | undecided |
    | Fast | 16 | 0.1125 ± 0.01768 | 0.02742 to 0.4616 | — | — | — |
    | One | 4 | 2.000 ± 0 | 2.000 to 2.000 | — | — | — |
    | One | 8 | 1.000 ± 0 | 1.000 to 1.000 | — | — | — |
    | One | 16 | 0.5000 ± 0 | 0.5000 to 0.5000 | — | — | — |
    "#);
}

#[test]
fn a_reference_that_is_missing_or_zero_leaves_no_ratio() {
    let experiment = made_up_times();
    let mut records = times();
    records.retain(|r| !(r.trial.series == "slow" && r.trial.x == Some(4.0)));
    let zero = records.iter_mut().find(|r| r.trial.series == "slow" && r.trial.seed == 0).unwrap();
    zero.epochs.last_mut().unwrap().set(&WALL_S, 0.0);
    let all = Measured::gather_all(&experiment, Scale::Paper, &records).unwrap();
    let n: Vec<usize> = all[1].points[..3].iter().map(|p| p.values.len()).collect();
    assert_eq!(n, [0, 1, 2]);
    let page = markdown(&experiment, &at_scale(Scale::Paper, records)).unwrap();
    assert!(page.contains("| Fast | 4 | — | — | 0 |\n"), "{page}");
    assert!(!page.contains("NaN") && !page.contains("inf "), "{page}");
}

/// Slow 10, 20, 40 at the three widths; fast 4.5 and one 20, but for 5 % up and down in two of four seeds.
fn four_times() -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for (seed, factor) in [0.95, 1.0, 1.0, 1.05].into_iter().enumerate() {
        for (idx, place) in WIDTHS.into_iter().enumerate() {
            records.push(timed("slow", Some(place), seed as u64, 10.0 * f64::from(1 << idx), 0.5));
            records.push(timed("fast", Some(place), seed as u64, 4.5 * factor, 0.5));
        }
        records.push(timed("one", None, seed as u64, 20.0 * factor, 0.5));
    }
    records
}

/// Oracle, by hand: fast/slow is 0.45, 0.225, 0.1125 with a spread of 4.1 %, so that it falls by 0.3375 ± 0.022 (95 %) over
/// the logarithm of the width, and by a factor of 4 in every seed.
#[test]
fn new_kinds_of_checks() {
    let mut experiment = made_up_times();
    let in_time = |comparison| Check { panel: "time".into(), ..check("Made up.", comparison) };
    let outcomes = |experiment: &Experiment| -> Vec<(Outcome, String)> {
        let records = four_times();
        let all = Measured::gather_all(experiment, Scale::Paper, &records).unwrap();
        evaluate_checks(&all).into_iter().map(|c| (c.outcome, c.reason)).collect()
    };
    use Outcome::{Confirmed, Contradicted, Undecided};
    for (comparison, expected) in [
        (within("fast", 0.1, 0.5), Confirmed),
        (within("fast", 0.0, 0.5), Confirmed),
        (within("fast", 0.1125, 0.5), Undecided),
        (within("fast", 0.2, 0.5), Contradicted),
        (trend("fast", Trend::Falls, 0.0), Confirmed),
        (trend("fast", Trend::Falls, 0.3), Confirmed),
        (trend("fast", Trend::Falls, 0.33), Undecided),
        (trend("fast", Trend::Falls, 0.4), Contradicted),
        (trend("fast", Trend::Rises, 0.0), Contradicted),
        (trend("fast", Trend::Flat, 0.4), Confirmed),
        (trend("fast", Trend::Flat, 0.33), Undecided),
        (trend("fast", Trend::Flat, 0.2), Contradicted),
        (trend("one", Trend::Falls, 1.3), Confirmed),
    ] {
        experiment.checks = vec![in_time(comparison.clone())];
        assert_eq!(outcomes(&experiment)[0].0, expected, "{comparison:?}");
    }
    let at_8 = |comparison| match comparison {
        Comparison::Within { series, low, high, .. } => {
            Comparison::Within { series, low, high, min_x: 8.0, max_x: 8.0 }
        }
        Comparison::Trend { series, trend, margin, .. } => {
            Comparison::Trend { series, trend, margin, min_x: 8.0, max_x: 8.0 }
        }
        other => other,
    };
    experiment.checks = vec![
        in_time(within("fast", 0.2, 0.5)),
        in_time(trend("fast", Trend::Falls, 0.0)),
        in_time(trend("fast", Trend::Flat, 0.33)),
        in_time(at_8(within("fast", 0.2, 0.3))),
        in_time(at_8(trend("fast", Trend::Falls, 0.0))),
        in_time(close("one", "fast", 1.6)),
        Check { panel: "nowhere".into(), ..check("Made up.", within("fast", 0.0, 1.0)) },
        check("Made up, on accuracy.", within("fast", 49.0, 51.0)),
    ];
    let lines: Vec<String> =
        outcomes(&experiment).into_iter().map(|(outcome, reason)| format!("{outcome:?}: {reason}")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    Contradicted: Fast is not within 0.2000 to 0.5000 at Width = 16, by more than its uncertainty.
    Confirmed: The fall of Fast along Width is above a factor of 1, by more than its uncertainty.
    Undecided: The seeds leave open whether the change of Fast along Width is within ±0.3300. 4 seeds would show with 80 % probability what lies 0.02932 beyond the limit. If what was measured here is true, no number of seeds up to 10,000 is likely to confirm it.
    Confirmed: Fast is within 0.2000 to 0.3000, by more than its uncertainty.
    NotRun: There are fewer than two positions in that range at this scale.
    Undecided: The difference is within ±1.600 by more than its uncertainty at 2 of 3 positions; the seeds leave the rest open. 4 seeds would show with 80 % probability what lies 0.1347 beyond the limit. To confirm it with that probability takes 12 seeds if what was measured here is true.
    NotRun: There is no panel `nowhere`.
    Undecided: Fast is within 49.00 to 51.00 % by more than its uncertainty at 0 of 3 positions; the seeds leave the rest open. Shares that are alike at every seed do not tell what their spread is.
    "#);
    let records = four_times();
    let all = Measured::gather_all(&experiment, Scale::Paper, &records).unwrap();
    let details: Vec<String> = evaluate_checks(&all)[..3].iter().flat_map(|c| c.details.clone()).collect();
    insta::assert_snapshot!(details.join("\n"), @r#"
    At Width = 4: Fast 0.4500 (n = 4) (90 % interval 0.4286 to 0.4719). Confirmed.
    At Width = 8: Fast 0.2250 (n = 4) (90 % interval 0.2143 to 0.2359). Confirmed.
    At Width = 16: Fast 0.1125 (n = 4) (90 % interval 0.1072 to 0.1180). Contradicted.
    At Width = 4: Fast 0.4500 (n = 4).
    At Width = 16: Fast 0.1125 (n = 4).
    Along Width, by the least-squares line of each seed (over 4 common seeds: ratio 4.000, 95 % interval 4.000 to 4.000). Confirmed.
    At Width = 4: Fast 0.4500 (n = 4).
    At Width = 16: Fast 0.1125 (n = 4).
    Along Width, by the least-squares line of each seed (over 4 common seeds: −0.3375, 90 % interval −0.3537 to −0.3213). Undecided.
    "#);
}

/// Oracle: by the validation accuracies above, "slow" is best at 16 and "fast" ties between 8
/// (0.65 and 0.55) and 16 (0.6 twice).
#[test]
fn best_x_is_that_of_the_highest_validation_accuracy() {
    let mut experiment = made_up_times();
    let mut records = times();
    let choose = |records: &[TrialRecord]| {
        let measured = Measured::gather(&experiment, Scale::Paper, records).unwrap();
        (0..3).map(|idx| best(&measured, idx).map(|position| position.x)).collect::<Vec<_>>()
    };
    assert_eq!(choose(&records), [Some(Some(16.0)), Some(Some(8.0)), Some(None)]);
    {
        let measured = Measured::gather(&experiment, Scale::Paper, &records).unwrap();
        insta::assert_snapshot!(Positions::of(&measured, Some(At::Best)).text, @", each series at the Width with its highest validation accuracy (Slow 16; Fast 8)");
        assert_eq!(Positions::of(&measured, Some(At::X(4.0))).text, " at Width = 4");
        assert_eq!(Positions::of(&measured, Some(At::X(5.0))).text, " at Width = 8", "5 is not there");
        assert_eq!(Positions::of(&measured, None).text, " at Width = 8");
    }
    let comparison = close("slow", "fast", 100.0);
    experiment.checks = vec![Check { at_best: true, ..check("Close at the best width.", comparison) }];
    let measured = Measured::gather(&experiment, Scale::Paper, &records).unwrap();
    let result = &judged(&measured).1[0];
    assert_eq!(result.outcome, Outcome::Undecided, "two seeds");
    insta::assert_snapshot!(format!("{}\n{}", result.reason, result.details.join("\n")), @r#"
    The seeds leave open whether the difference is within ±100.00 points. Fewer than three common seeds decide nothing.
    At each series' highest validation accuracy: Slow at Width = 16 50.00 % (n = 2); Fast at Width = 8 50.00 % (n = 2); difference 0.00 points (0.00 points at each of 2 seeds: its uncertainty is unknown). Undecided.
    "#);
    records.iter_mut().flat_map(|r| &mut r.epochs).for_each(|e| e.set(&VAL_ACCURACY, f64::NAN));
    let measured = Measured::gather(&experiment, Scale::Paper, &records).unwrap();
    assert_eq!(judged(&measured).1[0].outcome, Outcome::NotRun);
    insta::assert_snapshot!(judged(&measured).1[0].reason, @"No finished trial of Slow has a validation accuracy to choose x by.");
    assert_eq!(Positions::of(&measured, Some(At::Best)).of_series[0].x, Some(8.0));
}

/// Oracle: median of 3, 1, 9 is 3, of 3, 1, 9, 5 is 4; mean of 0.5 and 0.7, one epoch not measuring, 0.6.
#[test]
fn repeated_measures_are_medians_and_means() {
    let with = |times: &[f64], cosines: &[f64]| {
        let mut record = record(Scale::Smoke, ("deepzero", None), 0, 0.5, times.len() as u32);
        for ((epoch, time), cosine) in record.epochs.iter_mut().zip(times).zip(cosines) {
            *epoch = epoch.with(&INFERENCE_S, *time).with(&COSINE, *cosine).with(&RADIUS, *time);
        }
        record
    };
    let three = with(&[3.0, 1.0, 9.0], &[0.5, f64::NAN, 0.7]);
    assert_eq!(Metric::parse("inference-s").unwrap().of(&three.epochs), Some(3.0));
    assert!((COSINE.of(&three.epochs).unwrap() - 0.6).abs() < 1e-12);
    assert_eq!(RADIUS.of(&three.epochs), Some(9.0), "the last one");
    assert_eq!(INFERENCE_S.of(&with(&[3.0, 1.0, 9.0, 5.0], &[0.0; 4]).epochs), Some(4.0));
    let nothing = with(&[f64::NAN; 2], &[f64::NAN; 2]);
    assert_eq!((INFERENCE_S.of(&nothing.epochs), COSINE.of(&nothing.epochs)), (None, None));
    for name in Metric::names() {
        assert_eq!(Metric::parse(name).unwrap().name, name);
    }
}

fn trace(id: &str, x: TraceAxis, at: Option<At>) -> Trace {
    Trace {
        id: id.into(),
        x,
        x_label: "Made-up progress".into(),
        y: "test-accuracy".into(),
        y_label: "Test accuracy (%)".into(),
        at,
        series: vec!["deepzero".into(), "fo-weights".into()],
        log_x: x == TraceAxis::Queries,
        log_y: false,
    }
}

#[test]
fn traces_take_their_x_from_the_records() {
    let mut experiment = made_up_experiment();
    experiment.traces = vec![
        trace("queries", TraceAxis::Queries, Some(At::X(0.9))),
        trace("seconds", TraceAxis::WallS, None),
        trace("epochs", TraceAxis::Epoch, None),
    ];
    let mut records = made_up_records(Scale::Laptop, 2);
    // At twice the queries in one of two seeds, the mean is 1.5 times as many.
    for record in records.iter_mut().filter(|r| r.trial.seed == 1) {
        record.epochs.iter_mut().for_each(|e| e.set(&QUERIES, 2.0 * e.get(&QUERIES)));
    }
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let charts: Vec<Chart> =
        experiment.traces.iter().map(|t| Chart::of_trace(&measured, t).unwrap().unwrap().0).collect();
    let first = |chart: &Chart| chart.curves[0].points[0].x;
    assert_eq!(charts.iter().map(first).collect::<Vec<_>>(), [1.5e6, 60.0, 1.0]);
    assert!(charts.iter().all(|chart| chart.curves.len() == 2), "FO, dense was not asked for");
    let svg = plot::svg(&charts[0]);
    assert!(charts[0].log_x && svg.contains(">2,000,000</text>") && !svg.contains("NaN"));
    // With more lines than colors there are no bands, and a marker at the end of each line and in its name: here circles.
    let mut crowded = charts[0].clone();
    crowded.curves = (0..9).map(|look| Curve { look, ..crowded.curves[0].clone() }).collect();
    let looks = |chart: &Chart| {
        let svg = plot::svg(chart);
        (chart.is_crowded(), svg.matches("<polygon").count(), svg.matches("<circle").count())
    };
    let (is_crowded, n_bands, n_circles) = looks(&crowded);
    crowded.curves.pop();
    assert_eq!((is_crowded, n_circles), (true, 2 * 2), "looks 0 and 7 have the same marker");
    assert_eq!(looks(&crowded), (false, 8, 0), "{n_bands}");
    let page = markdown(&experiment, &at_scale(Scale::Laptop, records)).unwrap();
    for text in [
        "(made-up-laptop-queries.png)",
        "(made-up-laptop-seconds.png)",
        "(made-up-laptop-epochs.png)",
        "Test accuracy (%) against Made-up progress during training at Sparsity = 90 %. Bands",
    ] {
        assert!(page.contains(text), "{text} in {page}");
    }
}

/// By name: scalars, active ones, cosine.
fn tensors(rows: &[(String, u64, u64, f64)]) -> Profile {
    Profile::new(Profile::TENSORS, "tensor", rows.iter().map(|row| row.0.clone()).collect())
        .with_counts("n", rows.iter().map(|row| row.1).collect())
        .with_counts("n_active", rows.iter().map(|row| row.2).collect())
        .with("cosine", rows.iter().map(|row| row.3).collect())
        .with("relative_error", vec![f64::NAN; rows.len()])
}

fn layers(id: &str, y: TensorMeasure) -> Layers {
    Layers { id: id.into(), y, y_label: "Made up".into(), at: None, series: vec!["deepzero".into()] }
}

/// Oracle: of seeds that keep 10 and 30 of 100 scalars, the mean is 20 %.
#[test]
fn layers_show_weights_of_convolutions_and_linear_layers() {
    let mut experiment = made_up_experiment();
    experiment.layers = vec![layers("keep", TensorMeasure::Keep), layers("cosine", TensorMeasure::Cosine)];
    let mut records = made_up_records(Scale::Laptop, 2);
    for record in &mut records {
        record.profiles = vec![tensors(&[
            ("features.0.weight".into(), 100, 10 + 20 * record.trial.seed, 0.5),
            ("features.1.weight".into(), 18, 18, 0.25),
            ("features.1.bias".into(), 18, 18, f64::NAN),
            ("fc.weight".into(), 180, 90, 1.0),
            ("fc.bias".into(), 10, 10, 0.75),
        ])];
    }
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let (keep, _) = Chart::of_layers(&measured, &experiment.layers[0]).unwrap();
    let names = |chart: &Chart| chart.x_ticks.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    let ys = |chart: &Chart| chart.curves[0].points.iter().map(|m| m.y).collect::<Vec<_>>();
    assert_eq!((names(&keep), ys(&keep)), (vec!["0".to_owned(), "fc".into()], vec![20.0, 50.0]));
    let (cosine, _) = Chart::of_layers(&measured, &experiment.layers[1]).unwrap();
    assert_eq!(names(&cosine), ["0", "1", "fc", "fc.b"]);
    assert_eq!(ys(&cosine), [0.5, 0.25, 1.0, 0.75]);
    let page = markdown(&experiment, &at_scale(Scale::Laptop, records)).unwrap();
    assert!(page.contains("(made-up-laptop-keep.png)") && page.contains("(made-up-laptop-cosine.png)"));
}

/// Oracle, by hand: of two seeds with 0.5 and 0.7 at the radius 0.5, the mean is 60 %, the deviation 14.14 points.
#[test]
fn a_profile_is_drawn_over_its_own_axis() {
    let mut experiment = made_up_experiment();
    experiment.profiles = vec![ProfileFigure {
        id: "radii".into(),
        kind: "radii".into(),
        x_label: "Radius".into(),
        y: "test-accuracy".into(),
        y_label: "Certified accuracy (%)".into(),
        at: Some(At::X(0.9)),
        series: vec!["deepzero".into(), "fo-dense".into()],
        log_x: true,
        log_y: false,
    }];
    let mut records = made_up_records(Scale::Laptop, 2);
    for record in &mut records {
        let labels = ["0.5", "0.25", "1"].map(str::to_owned).to_vec();
        let at = 0.5 + 0.2 * record.trial.seed as f64;
        let profile = Profile::new("radii", "radius", labels).on_axis(vec![0.5, 0.25, 1.0]);
        record.profiles = vec![profile.with("test_accuracy", vec![at, 0.75, f64::NAN])];
    }
    let figure = &experiment.profiles[0];
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let (chart, _) = Chart::of_profile(&measured, figure).unwrap().unwrap();
    assert_eq!(chart.curves.iter().map(|c| c.label.as_str()).collect::<Vec<_>>(), ["DeepZero", "FO, dense"]);
    let marks = &chart.curves[0].points;
    assert_eq!(marks.iter().map(|m| m.x).collect::<Vec<_>>(), [0.25, 0.5], "in order, and without a NaN");
    assert!(
        (marks[1].y - 60.0).abs() < 1e-9 && (marks[1].high - 60.0 - 200f64.sqrt()).abs() < 1e-9,
        "{marks:?}"
    );
    assert_eq!((chart.log_x, chart.categorical, chart.y_bounds), (true, false, (0.0, 100.0)));
    assert!(!plot::svg(&chart).contains("NaN"));
    let page = markdown(&experiment, &at_scale(Scale::Laptop, records.clone())).unwrap();
    for text in
        ["(made-up-laptop-radii.png)", "Certified accuracy (%) against Radius at Sparsity = 90 %. Error bars"]
    {
        assert!(page.contains(text), "{text} in {page}");
    }
    let absent = Chart::of_profile(&measured, &ProfileFigure { kind: "none".into(), ..figure.clone() });
    assert_eq!(absent.unwrap(), None);
    let unknown = ProfileFigure { y: "beauty".into(), ..figure.clone() };
    let error = Chart::of_profile(&measured, &unknown).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"setting `y`: the profile radii has no column `beauty`, but test_accuracy");
    // Places on no axis stand at equal distances.
    records.iter_mut().for_each(|record| record.profiles[0].xs.clear());
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let (chart, _) = Chart::of_profile(&measured, figure).unwrap().unwrap();
    assert_eq!((chart.log_x, chart.categorical, chart.x_ticks.len()), (false, true, 2));
}

#[test]
fn index_says_what_there_is_and_what_was_found() {
    let mut exhibit = made_up_experiment();
    exhibit.id = "fig4".into();
    exhibit.scales.get_mut(&Scale::Smoke).unwrap().finding = "Use **nothing** made up.".into();
    let mut own = made_up_experiment();
    (own.id, own.paper) = ("own".into(), String::new());
    let mut sweep = own.clone();
    sweep.id = "sweep-made-up".into();
    let smoke = || at_scale(Scale::Smoke, made_up_records(Scale::Smoke, 1));
    let laptop = at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 1));
    let page = html(&[(exhibit.clone(), smoke()), (own, laptop), (sweep, smoke())]).unwrap();
    // Nine trials each of 10 million queries and 600 seconds, three times.
    let state = "1 of the 16 exhibits is built (1 at smoke scale only); all runs on this page took 270 million \
                 queries and 4 h 30 min.";
    assert!(page.contains(state), "{page}");
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
    let order = [
        at("Tables and figures of the paper"),
        at("Our own experiments"),
        at("Sweeps and variants"),
        at(">What we found</h2>"),
        at("<p>Use <strong>nothing</strong> made up.</p>"),
        at("<article id=\"fig4\">"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    // Two experiments on the contact sheet and in the table, one of them above its finding.
    assert_eq!(page.matches("<span class=\"badge faint\">smoke only</span>").count(), 2 * 2 + 1);
    let page = markdown(&exhibit, &smoke()).unwrap();
    assert!(page.contains("\n**What we found** at `smoke` scale.\n\nUse **nothing** made up.\n"), "{page}");
}

/// Oracle: the rule by hand. Two seeds are planned at laptop scale and three at paper scale.
#[test]
fn an_overview_is_of_the_highest_scale_that_is_complete() {
    let mut exhibit = made_up_experiment();
    exhibit.id = "fig4".into();
    let scales = |n_laptop, n_paper| {
        BTreeMap::from([
            (Scale::Smoke, made_up_records(Scale::Smoke, 1)),
            (Scale::Laptop, made_up_records(Scale::Laptop, n_laptop)),
            (Scale::Paper, made_up_records(Scale::Paper, n_paper)),
        ])
    };
    // Complete at paper scale; there only in part; in part at both, where smoke scale stands for nothing.
    for (n_laptop, n_paper, scale) in [(2, 3, "paper"), (2, 2, "laptop"), (1, 2, "paper")] {
        let page = html(&[(exhibit.clone(), scales(n_laptop, n_paper))]).unwrap();
        assert!(page.contains(&format!("<td class=\"tight\">{scale}</td>")), "{n_laptop} {n_paper}");
    }
    // As many trials as planned, but of a seed that was not, in the place of one that was.
    let mut other = scales(3, 2);
    other.get_mut(&Scale::Laptop).unwrap().retain(|record| record.trial.seed != 0);
    assert!(html(&[(exhibit, other)]).unwrap().contains("<td class=\"tight\">paper</td>"));
}

/// No text of an experiment or a record brings markup along, in Markdown, HTML or SVG.
#[test]
fn texts_bring_no_markup_along() {
    let nasty =
        "<script>alert(1)</script> | `a [x](javascript:alert(1)) <img src=x onerror=alert(1)> \" & ]]>";
    let mut experiment = made_up_experiment();
    // All but ids, which cannot have such characters.
    for text in [
        &mut experiment.title,
        &mut experiment.paper,
        &mut experiment.claim,
        &mut experiment.notes,
        &mut experiment.figure.x_label,
        &mut experiment.figure.y_label,
        &mut experiment.checks[0].text,
    ] {
        nasty.clone_into(text);
    }
    experiment.series.iter_mut().for_each(|series| nasty.clone_into(&mut series.label));
    experiment.expected.iter_mut().for_each(|expected| nasty.clone_into(&mut expected.source));
    for plan in experiment.scales.values_mut() {
        plan.deviations = vec![nasty.into()];
        nasty.clone_into(&mut plan.finding);
        plan.cells.iter_mut().for_each(|cell| nasty.clone_into(&mut cell.x_text));
    }
    let mut records = made_up_records(Scale::Laptop, 2);
    for record in &mut records {
        if !record.trial.x_text.is_empty() {
            nasty.clone_into(&mut record.trial.x_text);
        }
        for text in [
            &mut record.provenance.cpu,
            &mut record.provenance.version,
            &mut record.provenance.commit,
            &mut record.provenance.crates,
            &mut record.provenance.finished_at,
            &mut record.provenance.data_checksum,
        ] {
            nasty.clone_into(text);
        }
    }
    records[0].status = Status::Failed;
    nasty.clone_into(&mut records[0].error);
    let scales = at_scale(Scale::Laptop, records.clone());
    let page = markdown(&experiment, &scales).unwrap();
    let index = html(&[(experiment.clone(), scales)]).unwrap();
    let measured = Measured::gather(&experiment, Scale::Laptop, &records).unwrap();
    let svg = plot::svg(&Chart::of(&measured, false).unwrap());
    for text in [&page, &index, &svg] {
        assert!(text.contains("alert(1)") && !text.contains("<script") && !text.contains("<img"), "{text}");
    }
    assert!(!index.contains("href=\"javascript"), "{index}");
    let mut texts = page.lines().filter(|line| !line.starts_with("<!--"));
    assert!(
        texts.all(|line| line.matches("](javascript:").count() == line.matches("\\](javascript:").count())
    );
    for row in page.lines().filter(|line| line.starts_with("| &lt;")) {
        let cells = row.replace("\\|", "");
        assert_eq!(cells.matches('|').count(), 7, "{row}");
    }
}

/// Writes made-up reports to look at; run with `--ignored`.
#[test]
#[ignore = "writes a demonstration to the temporary folder"]
fn demonstration() {
    let mut exhibit = made_up_experiment();
    exhibit.id = "fig4".into();
    let mut paper = made_up_records(Scale::Paper, 3);
    paper[0].status = Status::Diverged;
    paper[0].error = "the loss is NaN at epoch 3, step 17: training diverged".into();
    let scales = BTreeMap::from([
        (Scale::Paper, paper),
        (Scale::Laptop, made_up_records(Scale::Laptop, 2)),
        (Scale::Smoke, made_up_records(Scale::Smoke, 1)[..1].to_vec()),
    ]);
    let mut names = made_up_experiment();
    names.id = "made-up-names".into();
    names.title = "Made-up names on the axis, many series".into();
    names.expected.clear();
    names.figure.x_label = "Method".into();
    let places: Vec<(f64, String)> =
        (0..7).map(|i| (f64::from(i), format!("a rather long name {i}"))).collect();
    names.series = (0..8).map(|i| series(&format!("s{i}"), &format!("Made-up series {i}"), i == 7)).collect();
    let mut records = Vec::new();
    for (s, series) in names.series.iter().enumerate() {
        for (i, (x, text)) in places.iter().enumerate() {
            for seed in 0..2 {
                let accuracy = 0.3 + 0.05 * s as f64 + 0.02 * i as f64 + 0.01 * seed as f64;
                let place = (!series.constant).then_some((*x, text.as_str()));
                records.push(record(Scale::Laptop, (&series.id, place), seed, accuracy, 6));
            }
        }
    }
    names.checks.clear();
    names.scales.clear();
    let mut times_run = made_up_times();
    published_hours(&mut times_run);
    for plan in times_run.scales.values_mut() {
        plan.finding = "All of this is *made up*.".into();
    }
    times_run.checks =
        vec![Check { panel: "time".into(), ..check("Fast is fast.", within("fast", 0.1, 0.5)) }];
    times_run.traces = vec![
        Trace {
            series: vec!["slow".into(), "fast".into()],
            ..trace("queries", TraceAxis::Queries, Some(At::Best))
        },
        Trace { series: vec!["slow".into(), "one".into()], ..trace("seconds", TraceAxis::WallS, None) },
    ];
    let series_of_layers = vec!["slow".into(), "fast".into()];
    times_run.layers = vec![
        Layers { series: series_of_layers.clone(), ..layers("keep", TensorMeasure::Keep) },
        Layers { series: series_of_layers, ..layers("cosine", TensorMeasure::Cosine) },
    ];
    let mut timed = times();
    for record in &mut timed {
        record.epochs = (1..=40)
            .map(|epoch| {
                let accuracy =
                    0.6 * (1.0 - (-f64::from(epoch) / 9.0).exp()) + 0.02 * record.trial.seed as f64;
                let queries = 3_000_000 * u64::from(epoch) / (1 + u64::from(record.trial.series == "fast"));
                let wall_s = record.epochs[1].get(&WALL_S) / 40.0 * f64::from(epoch);
                let mut row = record.epochs[1].with(&TEST_ACCURACY, accuracy).with(&WALL_S, wall_s);
                row.set_count(&QUERIES, queries);
                row.epoch = epoch;
                row
            })
            .collect();
        let mut rows = Vec::new();
        let mut add = |name: String, n: u64, share: f64| {
            let active = (n as f64 * share) as u64;
            rows.push((name, n, active, 0.5 + 0.4 * share + 0.03 * record.trial.seed as f64));
        };
        for stage in 1..=3 {
            for block in 0..3 {
                for conv in 1..=2 {
                    let n = 16_u64.pow(2) * 9 * 4_u64.pow(stage - 1);
                    let name = |layer: &str| format!("layer{stage}.{block}.{layer}{conv}");
                    let share = 1.0 / f64::from(stage * 3 + block) + 0.02 * f64::from(conv);
                    add(format!("{}.weight", name("conv")), n, share);
                    add(format!("{}.weight", name("bn")), 16, 1.0);
                    add(format!("{}.bias", name("bn")), 16, 1.0);
                }
            }
        }
        add("fc.weight".into(), 640, 0.4);
        add("fc.bias".into(), 10, 1.0);
        record.profiles = vec![tensors(&rows)];
    }
    let runs = [
        (exhibit, scales),
        made_up_sizes(),
        (names, at_scale(Scale::Laptop, records)),
        (times_run, at_scale(Scale::Paper, timed)),
    ];
    let dir = std::env::temp_dir().join("report-demo");
    let paths = write_reports(&runs, &dir).unwrap().paths;
    println!("{}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join("\n"));
}

/// The made-up experiment with two points of others: of one series of `lender`, and of one that has not been run; and
/// a published point.
fn compiled(at: BorrowedAt) -> Experiment {
    let taken = |experiment: &str, at: BorrowedAt| Borrowed {
        experiment: experiment.into(),
        source: "deepzero".into(),
        at,
        series: "taken".into(),
    };
    let mut experiment = made_up_experiment();
    experiment.id = "compiled".into();
    experiment.figure.x = Figure::N_PARAMS.into();
    experiment.figure.x_label = "Parameters".into();
    experiment.figure.categorical = false;
    experiment.figure.log_x = true;
    experiment.series = vec![Series { has_trials: false, ..series("taken", "Taken", false) }];
    (experiment.checks, experiment.expected) = (Vec::new(), Vec::new());
    experiment.borrowed = vec![taken("made-up", at), taken("absent", BorrowedAt::Named("3".into()))];
    let source = "Fig. 0 of nobody".into();
    experiment.quoted = vec![Quoted { series: "taken".into(), x: 1e6, y: 50.0, source }];
    experiment.scales.values_mut().for_each(|plan| plan.cells.clear());
    experiment
}

fn compiled_page(at: BorrowedAt) -> (tempfile::TempDir, Option<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let lender = (made_up_experiment(), at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 3)));
    let written = write_reports(&[(compiled(at), BTreeMap::new()), lender], dir.path()).unwrap();
    let page = std::fs::read_to_string(dir.path().join("compiled.md")).ok();
    let faults = written.faults.iter().map(|(id, error)| format!("{id}: {error}")).collect();
    (dir, page, faults)
}

#[test]
fn points_come_from_the_results_of_others() {
    let (dir, page, faults) = compiled_page(BorrowedAt::Named("0.9".into()));
    assert!(faults.is_empty(), "{faults:?}");
    let page = page.unwrap();
    insta::assert_snapshot!(part(&page, "### Values"), @r#"
    ### Values

    | series | Parameters | published (%) | ours, mean ± std (%) | 95 % interval | n | from |
    |---|---:|---:|---:|---:|---:|---:|
    | Taken | 269,722 | — | 68.60 ± 0.30 | 67.85 to 69.34 | 3 | made-up, DeepZero at Sparsity = 90 % |
    | Taken | 1,000,000 | 50.00 | — | — | — | published: Fig. 0 of nobody |
    | Taken | — | — | — | — | — | absent, deepzero at x = 3: no result yet |
    "#);
    insta::assert_snapshot!(part(&page, "### Where"), @r#"
    ### Where the points come from

    - Taken: made-up, DeepZero at Sparsity = 0.9; see [made-up](made-up.md).
    - Taken: absent, deepzero at x = 3; no result yet: run `deepzero reproduce absent --scale laptop`.
    "#);
    insta::assert_snapshot!(part(&page, "## Scale"), @r#"
    ## Scale `laptop`: not judged here

        deepzero reproduce compiled --scale laptop

    1 points from the results of other experiments, 1 without a result yet; 1 published ones.

    > Reduced scale: published and measured values come from different protocols, and nothing is judged here.
    "#);
    assert!(page.contains("| Trials | None of its own; see [made-up](made-up.md), [absent](absent.md). |"));
    // The same records in another order give the same page, and the index has it.
    assert_eq!(
        compiled_page(BorrowedAt::Named("90 %".into())).1.unwrap().lines().count(),
        page.lines().count()
    );
    let index = std::fs::read_to_string(dir.path().join("index.html")).unwrap();
    assert!(index.contains("no result yet: run <code>deepzero reproduce absent --scale laptop</code>"));
    let svg = std::fs::read_to_string(dir.path().join("compiled-laptop.svg")).unwrap();
    assert!(svg.contains(">published</text>") && !svg.contains(">paper</text>"));
}

#[test]
fn the_largest_x_is_taken_or_one_must_be_said() {
    let page = compiled_page(BorrowedAt::Largest).1.unwrap();
    assert!(page.contains("made-up, DeepZero at Sparsity = 99 %"), "{page}");
    let (_, page, faults) = compiled_page(BorrowedAt::All);
    assert!(page.is_none());
    insta::assert_snapshot!(faults.join("\n"), @"compiled: setting `from`: the networks of made-up deepzero at Sparsity = 80 % and 90 % have the same size; say with `at` which to take");
    // Two entries of a series may not stand at the same place either.
    let mut experiment = compiled(BorrowedAt::Largest);
    experiment.borrowed[1] =
        Borrowed { source: "fo-weights".into(), at: BorrowedAt::Largest, ..experiment.borrowed[0].clone() };
    let lender = (made_up_experiment(), at_scale(Scale::Laptop, made_up_records(Scale::Laptop, 1)));
    let error = html(&[(experiment, BTreeMap::new()), lender]).unwrap_err();
    insta::assert_snapshot!(error, @"setting `from`: made-up, DeepZero at the largest Sparsity and made-up, FO, sparse weights at the largest Sparsity would both give taken a point at 269722 parameters; take one of them, or give it a series of its own");
    // Alone, it has nothing to show.
    assert!(
        markdown(&compiled(BorrowedAt::All), &BTreeMap::new()).unwrap().contains("**Not run** at any scale.")
    );
}

/// Records of three series over two x, of `n` seeds: mean accuracies in percent, by series and x, and noise of one point
/// that is drawn anew for each `draw`; what a seed has in common moves all of its trials alike.
fn simulated(draw: u32, n: usize, means: [[f64; 2]; 3]) -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for (row, (series, means)) in ["deepzero", "fo-weights", "other"].into_iter().zip(means).enumerate() {
        for (idx, mean) in means.into_iter().enumerate() {
            let noise = Stream::new(3, Purpose::Test, draw).lane((2 * row + idx) as u32);
            let shared = Stream::new(3, Purpose::Test, draw).lane(9);
            for seed in 0..n as u64 {
                let value = mean + noise.normal_at(seed) + 5.0 * shared.normal_at(seed);
                records.push(record(Scale::Laptop, (series, Some(SPARSITIES[idx])), seed, value / 100.0, 1));
            }
        }
    }
    records
}

/// How often the only check comes out so, over simulated records.
fn shares(experiment: &Experiment, n: usize, means: [[f64; 2]; 3]) -> (f64, f64) {
    const N_DRAWS: u32 = 300;
    let outcomes: Vec<Outcome> = (0..N_DRAWS)
        .map(|draw| {
            let records = simulated(draw, n, means);
            let measured = Measured::gather(experiment, Scale::Laptop, &records).unwrap();
            evaluate_checks(std::slice::from_ref(&measured))[0].outcome
        })
        .collect();
    let share = |outcome| outcomes.iter().filter(|o| **o == outcome).count() as f64 / f64::from(N_DRAWS);
    (share(Outcome::Confirmed), share(Outcome::Contradicted))
}

/// Where there is no effect a check is confirmed in at most 5 % of cases, and where it holds by a hair it is contradicted in
/// at most 2.5 %. With effects that twelve seeds are enough for, it is confirmed in most.
#[test]
fn verdicts_on_simulated_records() {
    let mut experiment = made_up_experiment();
    experiment.series =
        vec![series("deepzero", "A", false), series("fo-weights", "B", false), series("other", "C", false)];
    experiment.expected.clear();
    experiment.scales = BTreeMap::from([(
        Scale::Laptop,
        ScalePlan {
            n_seeds: 5,
            deviations: vec![],
            finding: String::new(),
            cells: cells(&experiment.series, &SPARSITIES[..2]),
        },
    )]);
    let base = [[50.0, 50.0], [50.0, 50.0], [50.0, 50.0]];
    let with = |first: [f64; 2]| [first, base[1], base[2]];
    let layout = Check { of_layout: true, ..above("deepzero", "fo-weights", 0.0) };
    // The check, means without an effect, means with one.
    let cases = [
        (above("deepzero", "fo-weights", 0.0), base, with([52.0, 52.5])),
        (layout, base, with([52.0, 52.5])),
        (check("Close.", close("deepzero", "fo-weights", 2.0)), with([52.0, 50.0]), base),
        (check("Widens.", widens("deepzero", "fo-weights")), base, with([50.0, 53.0])),
        (check("Rises.", trend("deepzero", Trend::Rises, 0.0)), base, with([50.0, 53.0])),
        (check("Flat.", trend("deepzero", Trend::Flat, 2.0)), with([50.0, 52.0]), base),
        (check("Within.", within("deepzero", 30.0, 50.0)), base, with([40.0, 41.0])),
    ];
    for (check, without, effect) in cases {
        let text = check.text.clone();
        experiment.checks = vec![check];
        let (confirmed, contradicted) = shares(&experiment, 5, without);
        // Two standard deviations are 2.5 and 1.8 percent.
        assert!(confirmed <= 0.075 && contradicted <= 0.043, "{text} {confirmed} {contradicted}");
        let (confirmed, contradicted) = shares(&experiment, 12, effect);
        assert!(confirmed >= 0.75 && contradicted <= 0.01, "{text} {confirmed} {contradicted}");
    }
}
