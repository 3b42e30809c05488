//! Experiment files, settings by name, trials and their hashes.

use std::path::Path;

use deepzero::Error;
use deepzero::experiment::{
    At, BorrowedAt, Comparison, Experiment, Library, Scale, TensorMeasure, TraceAxis, Trend, settings,
};
use deepzero::setting::{Settings, Values, text_of, value_of};
use deepzero::zo::{optimizer, sparsity};
use deepzero::{data, task};
use insta::assert_snapshot;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// A small sound experiment; tests replace parts of it.
const SOUND: &str = r#"id = "demo"
title = "Demonstration"

[figure]
x = "sparsity"
x-label = "Sparsity"
y = "test-accuracy"
values = [0.8, 0.9]

[base]
epochs = 10

[[series]]
id = "zo"
label = "ZO"

[[series]]
id = "dense"
label = "Dense"
constant = true
set = { method = "fo", sparsity = 0.0 }

[[expected]]
series = "zo"
values = [86.94, 86.46]
tolerance = 1.0
source = "nowhere"

[[check]]
text = "dense is above"
above = ["dense", "zo"]

[scale.smoke]
seeds = 2
set = { epochs = 5, mu = 0.02 }
series.zo = { mu = 0.03 }

[scale.paper]
seeds = 3
values = [0.9]
"#;

fn parse(text: &str) -> Result<Experiment, Error> {
    Experiment::parse("demo.toml", text)
}

/// The error of the sound experiment with `from` replaced by `to`.
fn broken(from: &str, to: &str) -> String {
    assert!(SOUND.contains(from), "{from} is not in the text");
    parse(&SOUND.replacen(from, to, 1)).expect_err("it is broken").to_string()
}

fn set(key: &str, text: &str) -> String {
    settings::set(&mut Values::new(), key, &value_of(text)).expect_err("it is impossible").to_string()
}

/// Values as a trial reads them, as text.
fn read<const N: usize>(settings: &Settings, names: [&str; N]) -> [String; N] {
    names.map(|name| settings.get(name).as_ref().map(text_of).expect("it is read"))
}

#[test]
fn values_are_laid_over_each_other_in_order() {
    let demo = parse(SOUND).unwrap();
    let smoke = &demo.scales[&Scale::Smoke].cells;
    assert_eq!(smoke.len(), 3);
    let names = ["method", "epochs", "mu", "sparsity"];
    assert_eq!(read(&smoke[0].settings, names), ["cge", "5", "0.03", "0.8"]);
    assert_eq!((smoke[0].x, smoke[0].x_text.as_str()), (Some(0.8), "0.8"));
    assert_eq!(read(&smoke[2].settings, names), ["fo", "5", "0.02", "0"]);
    assert_eq!((smoke[2].x, smoke[2].x_text.as_str()), (None, ""));
    let paper = &demo.scales[&Scale::Paper].cells;
    assert_eq!(paper.len(), 2);
    assert_eq!(read(&paper[0].settings, names), ["cge", "10", "0.005", "0.9"]);
    assert_eq!(paper[0].x, Some(0.9));
}

#[test]
fn trials_put_seeds_outermost_and_overrides_last() {
    let demo = parse(SOUND).unwrap();
    let set = [("mu".to_owned(), "0.5".to_owned())];
    let trials = demo.trials(Scale::Smoke, None, &set).unwrap();
    let seeds: Vec<u64> = trials.iter().map(|trial| trial.seed).collect();
    assert_eq!(seeds, [0, 0, 0, 1, 1, 1]);
    assert!(trials.iter().all(|trial| trial.settings.get("mu").unwrap().as_float() == Some(0.5)));
    let plain = demo.trials(Scale::Smoke, Some(1), &[]).unwrap();
    assert_eq!(plain.len(), 3);
    assert_ne!(plain[0].hash(), trials[0].hash());
    assert_eq!(plain[0].title(), "demo/smoke zo at 0.8, seed 0");
    assert_eq!(plain[2].title(), "demo/smoke dense, seed 0");
}

#[test]
fn impossible_requests_for_trials() {
    let demo = parse(SOUND).unwrap();
    let error = |scale, seeds, key: &str, text: &str| {
        demo.trials(scale, seeds, &[(key.to_owned(), text.to_owned())]).unwrap_err().to_string()
    };
    assert_snapshot!(error(Scale::Laptop, None, "mu", "1"), @"setting `scale`: demo has no scale laptop, only smoke, paper");
    assert_snapshot!(error(Scale::Smoke, Some(0), "mu", "1"), @"setting `seeds`: expected an integer from 1 to 10000; got 0");
    assert_snapshot!(error(Scale::Smoke, None, "sparsity", "0.5"), @"setting `sparsity`: it is what the x axis of demo varies, so it cannot be set for all trials");
    assert_snapshot!(error(Scale::Smoke, None, "queries", "5"), @"setting `queries`: it plays no part with task = train, method = cge; it is read with method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge");
    assert_snapshot!(error(Scale::Smoke, None, "warmup", "5"), @"setting `warmup`: no such setting; did you mean `warmup-epochs`?");
}

#[test]
fn settings_errors_name_what_is_possible() {
    assert_snapshot!(set("batch-sise", "3"), @"setting `batch-sise`: no such setting; did you mean `batch-size`?");
    assert_snapshot!(set("zzz", "3"), @"setting `zzz`: no such setting; the settings are task, method, data, n-train, n-val, n-test, augment, pixels, jpeg-quality, model, depth, width, precision, init, loss, epochs, batch-size, query-budget, mu, difference, evaluator, sparsity, layer-ratios, mask, redraw-every, sparse-target, always-active, grasp-queries, grasp-images-per-class, optimizer, learning-rate, momentum, weight-decay, warmup-epochs, schedule, decay-epochs, decay-factor, queries, directions, step-scale, deviation, decay, order, large-weights, rank, subspace-steps, vector-scale, curvature-rate, search, radius, population, search-steps, normalize-logits, stop-when-fitted, step-size, last-layer-rate, bias-twice, pretrain-epochs, workers, defense, tune, denoiser-depth, denoiser-width, classifier-epochs, classifier-noise, denoiser-epochs, autoencoder-epochs, foundation-batch, n-tune, sigma, n0, n, alpha, n-certified, resolution, refinement, frames, warm-up-steps, projection, obstacle-radius, unroll, start-frames, simulations, start-gain");
    assert_snapshot!(set("batch-size", "0"), @"setting `batch-size`: expected an integer from 1 to 1000000; got 0");
    assert_snapshot!(set("batch_size", "many"), @"setting `batch_size`: expected an integer from 1 to 1000000; got many");
    assert_snapshot!(set("sparsity", "1"), @"setting `sparsity`: expected a number in [0, 1); got 1");
    assert_snapshot!(set("mu", "nan"), @"setting `mu`: expected a finite number above 0; got NaN");
    assert_snapshot!(set("learning-rate", "inf"), @"setting `learning-rate`: expected a finite number above 0; got inf");
    assert_snapshot!(set("augment", "1"), @"setting `augment`: expected true or false; got 1");
    assert_snapshot!(set("layer-ratios", "grasp"), @"setting `layer-ratios`: expected one of uniform, zo-grasp, zo-grasp-released, fo-grasp, snip, magnitude, smart-ratio; got grasp; did you mean `fo-grasp` or `zo-grasp` or `zo-grasp-released`?");
    assert_snapshot!(set("estimator", "zo"), @"setting `estimator`: expected one of cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model, pattern-search, cma-es, output-cge, output-rge, fa, dfa, align-ada, align-zero, align-prop, last-layer, fg-w, fg-a, lg-fg-a, lg-bp; got zo; did you mean `fo`?");
}

#[test]
fn contradictory_settings() {
    let with = |pairs: &[(&str, &str)]| settings::from_pairs(pairs.iter().copied()).unwrap_err().to_string();
    assert_snapshot!(with(&[("depth", "21")]), @"setting `depth`: a resnet has depth 6n+2 (8, 14, 20, 32, …); got 21");
    assert_snapshot!(with(&[("depth", "2")]), @"setting `depth`: a resnet has depth 6n+2 (8, 14, 20, 32, …); got 2");
    assert_snapshot!(with(&[("width", "3")]), @"setting `width`: a resnet needs an even width, since its shortcuts pad half of it on each side; got 3");
    assert_snapshot!(with(&[("model", "cnn"), ("depth", "6")]), @"setting `depth`: a cnn has 1 to 5 blocks, each halving the 32 pixel image; got 6");
    assert_snapshot!(with(&[("sparse-target", "weights")]), @"setting `sparse-target`: `weights` works with method = fo only: zeroth-order training keeps the model dense and makes its gradient sparse; use `gradient`");
    assert_snapshot!(with(&[("sparse-target", "weights"), ("method", "fo")]), @"setting `mask`: sparse-target = weights needs mask = fixed, as pruned weights stay zero; got redraw");
    assert_snapshot!(with(&[("n-train", "200"), ("batch-size", "100")]), @"setting `grasp-images-per-class`: 25 of each of 10 classes are more than the 200 training images; at most 20");
    assert_snapshot!(with(&[("queries", "7")]), @"setting `queries`: it plays no part with task = train, method = cge; it is read with method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge");
    assert_snapshot!(with(&[("epochs", "2")]), @"setting `warmup-epochs`: at most epochs = 2; got 3");
    for (pairs, expected) in [
        (
            &[("method", "rge"), ("step-scale", "loss-spread"), ("queries", "1")][..],
            "needs at least 2; got 1",
        ),
        (
            &[("method", "zo-muon")],
            "`sparsity`: zo-muon makes singular values of whole matrices alike; set sparsity = 0",
        ),
        (
            &[("method", "rge"), ("deviation", "population")],
            "`deviation`: it divides the step with step-scale = loss-spread alone",
        ),
        (&[("method", "eggroll")], "`queries`: eggroll needs a number of pairs, such as 16; got 0"),
        (
            &[("method", "cma-es"), ("queries", "1")],
            "`queries`: a population of cma-es has at least 2 points",
        ),
        (
            &[("method", "pattern-search"), ("evaluator", "full"), ("normalize-logits", "true")],
            "`evaluator`: normalize-logits = true needs difference; got full",
        ),
        (
            &[("method", "pattern-search"), ("search", "best"), ("queries", "3")],
            "`queries`: a number of moves per batch goes with search = first",
        ),
        (&[("task", "quality"), ("method", "fo")], "`method`: fo makes no estimates of gradients"),
        (&[("task", "stages"), ("method", "cocd")], "`task`: stages needs method = cge or rge; got cocd"),
        (&[("task", "workers"), ("method", "fo")], "`method`: first-order steps have no probes to share"),
        (&[("task", "workers-model"), ("method", "pattern-search")], "`method`: pattern-search makes no"),
        (&[("mask", "rescore"), ("layer-ratios", "smart-ratio")], "`mask`: rescore needs scores"),
        (&[("model", "resnet-b"), ("depth", "20")], "`depth`: a resnet-b has depth 8n+2"),
        (
            &[("task", "defend"), ("tune", "all")],
            "`evaluator`: difference takes a denoiser whose statistics stay",
        ),
        (
            &[("task", "defend"), ("layer-ratios", "snip")],
            "`layer-ratios`: these scores look inside the network",
        ),
        (
            &[("task", "defend"), ("method", "fa"), ("model", "cnn"), ("depth", "2")],
            "`method`: this rule looks into a network",
        ),
        (&[("task", "defend"), ("epochs", "2")], "`warmup-epochs`: at most epochs = 2; got 3"),
        (&[("precision", "bf16"), ("method", "fo")], "`precision`: bf16 rounds what convolutions multiply"),
        (&[("precision", "bf16"), ("task", "stages")], "`precision`: bf16 rounds what convolutions multiply"),
    ] {
        let error = with(pairs);
        assert!(error.contains(expected), "{error}");
    }
    assert_snapshot!(with(&[("mu", "nan")]), @"setting `mu`: expected a finite number above 0; got NaN");
}

/// Oracle: who reads what, as the documentation of methods and tasks says.
#[test]
fn settings_that_play_no_part() {
    for (pairs, key, choice, readers) in [
        ("decay=0.5", "decay", "train, method = cge", "method = cocd"),
        ("step-scale=loss-spread", "step-scale", "train, method = cge", "method = rge"),
        (
            "method=fo evaluator=full",
            "evaluator",
            "train, method = fo",
            "method = cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, pattern-search",
        ),
        (
            "method=fo q=5",
            "q",
            "train, method = fo",
            "method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge",
        ),
        ("search=best", "search", "train, method = cge", "method = pattern-search"),
        (
            "method=fo normalize-logits=true",
            "normalize-logits",
            "train, method = fo",
            "method = pattern-search",
        ),
        (
            "method=pattern-search sparsity=0.5",
            "sparsity",
            "train, method = pattern-search",
            "method = cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model",
        ),
        // Also what a method implies.
        (
            "method=pattern-search sparsity=0",
            "sparsity",
            "train, method = pattern-search",
            "method = cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model",
        ),
        ("pretrain-epochs=3", "pretrain-epochs", "train, method = cge", "task = quality"),
        ("workers=2", "workers", "train, method = cge", "task = workers, workers-model"),
        // A value that is the default, too.
        ("workers=1", "workers", "train, method = cge", "task = workers, workers-model"),
        (
            "task=stages warmup_epochs=0",
            "warmup_epochs",
            "stages, method = cge",
            "task = train, quality, defend, correct",
        ),
        (
            "task=stages evaluator=full",
            "evaluator",
            "stages, method = cge",
            "task = train, quality, workers, workers-model, defend, correct",
        ),
        (
            "task=workers data=synthetic",
            "data",
            "workers, method = cge",
            "task = train, stages, quality, defend",
        ),
        (
            "task=workers-model warmup-epochs=0",
            "warmup-epochs",
            "workers-model, method = cge",
            "task = train, quality, defend, correct",
        ),
    ] {
        let pairs = pairs.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        assert_eq!(
            settings::from_pairs(pairs).unwrap_err().to_string(),
            format!("setting `{key}`: it plays no part with task = {choice}; it is read with {readers}")
        );
    }
}

/// What is implied stands in a trial's name, as in that of trials to which it was assigned.
#[test]
fn implied_values_name_a_trial() {
    let search = settings::from_pairs([("method", "pattern-search")]).unwrap();
    assert_eq!(search.get("sparsity"), None);
    assert!(settings::canonical_json(&search).contains("\"sparsity\":0.0,"));
    let stages = settings::from_pairs([("task", "stages")]).unwrap();
    let named = settings::canonical_json(&stages);
    assert!(stages.get("evaluator").is_none() && stages.get("warmup-epochs").is_none());
    assert!(named.contains("\"evaluator\":\"full\"") && named.contains("\"warmup-epochs\":0"), "{named}");
}

#[test]
fn sound_settings() {
    settings::from_pairs([]).unwrap();
    settings::from_pairs([("method", "fo"), ("sparse-target", "weights"), ("mask", "fixed")]).unwrap();
}

#[test]
fn file_errors_name_file_line_and_key() {
    assert_snapshot!(broken("epochs = 10", "epoch = 10"), @"demo.toml:11: base.epoch: no such setting; did you mean `epochs` or `decay-epochs` or `warmup-epochs`?");
    assert_snapshot!(broken("epochs = 10", "epochs = \"ten\""), @"demo.toml:11: base.epochs: expected an integer from 1 to 1000000; got ten");
    assert_snapshot!(broken("epochs = 5,", "epochs = 2,"), @"demo.toml:35: scale.smoke.set.epochs: warmup-epochs: at most epochs = 2; got 3 (series `zo` at sparsity = 0.8, scale smoke)");
    assert_snapshot!(broken("series.zo =", "series.fo ="), @"demo.toml:36: scale.smoke.series.fo: no series `fo`; expected one of zo, dense");
    assert_snapshot!(broken("[0.8, 0.9]", "[0.8, 1.5]"), @"demo.toml:8: figure.values[1]: expected a number in [0, 1); got 1.5");
    assert_snapshot!(broken("[0.8, 0.9]", "[0.8, 0.8]"), @"demo.toml:8: figure.values[1]: 0.8 occurs twice");
    assert_snapshot!(broken("x = \"sparsity\"", "x = \"sparsness\""), @"demo.toml:5: figure.x: no such setting; did you mean `sparsity`?");
    assert_snapshot!(broken("y = \"test-accuracy\"", "y = \"accuracy\""), @"demo.toml:7: figure.y: expected one of train-loss, train-accuracy, val-loss, val-accuracy, test-loss, test-accuracy, mae, mae-variance, mae-std, learning-rate, n-active, queries, queries-non-finite, gradient-norm, norm-scale, norm-pull, wall-s, wall-h, epoch-s, cosine, relative-error, gradient-share, directions-s, perturbation-s, inference-s, arithmetic-s, radius, steps-per-hour, speed-up, exchange-s, exchange-bytes, cores, certified-0, certified-25, certified-50, certified-75, abstained, certification-s; got accuracy");
    assert_snapshot!(broken("y = \"test-accuracy\"\n", ""), @"demo.toml:4: figure.y: missing; one of train-loss, train-accuracy, val-loss, val-accuracy, test-loss, test-accuracy, mae, mae-variance, mae-std, learning-rate, n-active, queries, queries-non-finite, gradient-norm, norm-scale, norm-pull, wall-s, wall-h, epoch-s, cosine, relative-error, gradient-share, directions-s, perturbation-s, inference-s, arithmetic-s, radius, steps-per-hour, speed-up, exchange-s, exchange-bytes, cores, certified-0, certified-25, certified-50, certified-75, abstained, certification-s");
    assert_snapshot!(broken("title =", "titel ="), @"demo.toml:2: titel: unknown field `titel`, expected one of `id`, `title`, `paper`, `claim`, `notes`, `extends`, `figure`, `panel`, `trace`, `layers`, `profile`, `tune`, `base`, `series`, `from`, `quoted`, `expected`, `check`, `scale`");
    assert_snapshot!(broken("title = \"Demonstration\"", ""), @"demo.toml:1: title: missing field `title`");
    assert_snapshot!(broken("label = \"ZO\"", "lable = \"ZO\""), @"demo.toml:15: series[0].lable: unknown field `lable`, expected one of `id`, `label`, `constant`, `trials`, `min-x`, `max-x`, `tune`, `set`");
    assert_snapshot!(broken("label = \"ZO\"", "label = \"ZO\"\nset = { sparsity = 0.5 }"), @"demo.toml:16: series[0].set.sparsity: this is the x axis; only a constant series sets it");
    assert_snapshot!(broken("id = \"dense\"", "id = \"zo\""), @"demo.toml:18: series[1].id: `zo` occurs twice");
    assert_snapshot!(broken("values = [86.94, 86.46]", "values = [86.94]"), @"demo.toml:25: expected[0].values: expected 2, one per x; got 1");
    assert_snapshot!(broken("[\"dense\", \"zo\"]", "[\"dense\", \"oz\"]"), @"demo.toml:31: check[0].above: no series `oz`; expected one of zo, dense");
    assert_snapshot!(broken("above = [\"dense\", \"zo\"]", "close = [\"dense\", \"zo\"]"), @"demo.toml:29: check[0]: close needs a margin");
    assert_snapshot!(broken("above = [\"dense\", \"zo\"]", "margin = 1"), @"demo.toml:29: check[0]: expected exactly one of above, close, widens, within, falls, rises, flat");
    assert_snapshot!(broken("above = [\"dense\", \"zo\"]", "above = [\"dense\", \"zo\"]\nspread = \"layout\""), @"demo.toml:32: check[0].spread: a layout needs three series at least");
    assert_snapshot!(broken("above = [\"dense\", \"zo\"]", "above = [\"dense\", \"zo\"]\nspread = \"pair\""), @"demo.toml:32: check[0].spread: expected layout; got pair");
    assert_snapshot!(broken("above = [\"dense\", \"zo\"]", "widens = [\"dense\", \"zo\"]\nspread = \"layout\""), @"demo.toml:32: check[0].spread: has no meaning beside widens");
    assert_snapshot!(broken("seeds = 2", "seeds = -2"), @"demo.toml:34: scale.smoke.seeds: invalid value: integer `-2`, expected usize");
    assert_snapshot!(broken("seeds = 2\n", ""), @"demo.toml:33: scale.smoke.seeds: missing");
    assert_snapshot!(broken("[scale.smoke]", "[scale.tiny]"), @"demo.toml:33: scale.tiny: unknown field `tiny`, expected one of `smoke`, `laptop`, `overnight`, `paper`");
    assert_snapshot!(broken("tolerance = 1.0", "tolerance ="), @"demo.toml:26: tolerance: string values must be quoted, expected literal string");
    assert_snapshot!(broken("tolerance = 1.0", "tolerance = -1.0"), @"demo.toml:26: expected[0].tolerance: expected a finite number above 0; got -1");
    assert_snapshot!(broken("label = \"ZO\"", ""), @"demo.toml:13: series[0].label: missing field `label`");
    assert_snapshot!(broken("id = \"demo\"", "id = \"demo\"\nextends = \"swap\""), @"demo.toml:2: extends: no experiment `swap`");
    // A text that looks like another value.
    assert_snapshot!(broken("epochs = 10", "augment = \"false\""), @r#"demo.toml:11: base.augment: expected true or false; got "false""#);
}

/// What would be judged wrongly, or never, or twice.
#[test]
fn checks_that_mean_nothing_are_refused() {
    const FIGURE: &str =
        "x = \"sparsity\"\nx-label = \"Sparsity\"\ny = \"test-accuracy\"\nvalues = [0.8, 0.9]";
    let above = "above = [\"dense\", \"zo\"]";
    for (from, to, expected) in [
        (
            above,
            "close = [\"dense\", \"zo\"]\nmargin = -50",
            "check[0].margin: expected a finite number above 0; got -50",
        ),
        (
            above,
            "close = [\"dense\", \"zo\"]\nmargin = nan",
            "check[0].margin: expected a finite number above 0; got NaN",
        ),
        (above, "flat = \"zo\"\nmargin = 0", "check[0].margin: expected a finite number above 0; got 0"),
        (
            above,
            "above = [\"dense\", \"zo\"]\nmargin = inf",
            "check[0].margin: expected a finite number; got inf",
        ),
        (above, "above = [\"zo\", \"zo\"]", "check[0].above: `zo` cannot be compared with itself"),
        (
            above,
            "above = [\"dense\", \"zo\"]\nmin-x = 90",
            "check[0].min-x: this range has 0 positions at most, and above takes 1",
        ),
        (
            above,
            "rises = \"zo\"\nmax-x = 0.8",
            "check[0].max-x: this range has 1 positions at most, and rises takes 2",
        ),
        ("[0.8, 0.9]", "[1e-1, 0.1]", "figure.values[1]: 0.1 occurs twice"),
        ("[0.8, 0.9]", "[0, 0.0]", "figure.values[1]: 0 occurs twice"),
        (
            "[[check]]",
            "[[expected]]\nseries = \"zo\"\nvalues = [1, 2]\ntolerance = 1\nsource = \"x\"\n\n[[check]]",
            "expected[1].series: `zo` has published values in the main figure already",
        ),
    ] {
        let error = broken(from, to);
        assert!(error.contains(expected), "{error}");
    }
    for (coordinates, expected) in [("1, nan", "expected a finite number"), ("1, 1.0", "1 occurs twice")] {
        let figure =
            "x = \"n-params\"\naxis = \"depth\"\nx-label = \"d\"\ny = \"test-accuracy\"\nvalues = [8, 14]";
        let text = SOUND.replacen(FIGURE, &format!("{figure}\ncoordinates = [{coordinates}]"), 1);
        let error = parse(&text.replacen("values = [0.9]\n", "", 1)).unwrap_err().to_string();
        assert!(error.contains(&format!("figure.coordinates[1]: {expected}")), "{error}");
    }
}

/// A value that nobody reads is refused where it stands: of a series, of a series at a scale, on the axis, of all
/// series, of all series at a scale.
#[test]
fn values_that_play_no_part_are_refused_where_they_stand() {
    assert_snapshot!(broken("label = \"ZO\"", "label = \"ZO\"\nset = { decay = 0.5 }"), @"demo.toml:16: series[0].set.decay: it plays no part with task = train, method = cge; it is read with method = cocd (series `zo` at sparsity = 0.8, scale smoke)");
    assert_snapshot!(broken("sparsity = 0.0 }", "sparsity = 0.0, q = 5 }"), @"demo.toml:21: series[1].set.q: queries: it plays no part with task = train, method = fo; it is read with method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge (series `dense`, scale smoke)");
    assert_snapshot!(broken("{ mu = 0.03 }", "{ mu = 0.03, directions = \"sphere\" }"), @"demo.toml:36: scale.smoke.series.zo.directions: it plays no part with task = train, method = cge; it is read with method = rge (series `zo` at sparsity = 0.8, scale smoke)");
    assert_snapshot!(broken("x = \"sparsity\"", "x = \"decay\""), @"demo.toml:8: figure.values[0]: decay: it plays no part with task = train, method = cge; it is read with method = cocd (series `zo` at decay = 0.8, scale smoke)");
    assert_snapshot!(broken("epochs = 10", "epochs = 10\nradius = 0.5"), @"demo.toml:12: base.radius: no series reads it: it plays no part with task = train, method = cge; it is read with method = pattern-search");
    assert_snapshot!(broken("epochs = 10", "epochs = 10\nq = 5"), @"demo.toml:12: base.q: no series reads it: it plays no part with task = train, method = cge; it is read with method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge");
    assert_snapshot!(broken("mu = 0.02 }", "mu = 0.02, workers = 2 }"), @"demo.toml:35: scale.smoke.set.workers: no series reads it: it plays no part with task = train, method = cge; it is read with task = workers, workers-model");
    assert_snapshot!(broken("values = [0.9]\n", "values = [0.9]\nset = { pretrain-epochs = 2 }\n"), @"demo.toml:41: scale.paper.set.pretrain-epochs: no series reads it: it plays no part with task = train, method = cge; it is read with task = quality");
    // Another method makes the values of its series play no part.
    assert_snapshot!(broken("label = \"ZO\"", "label = \"ZO\"\nset = { method = \"pattern-search\" }"), @"demo.toml:37: scale.smoke.series.zo.mu: it plays no part with task = train, method = pattern-search; it is read with method = cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model, output-cge, output-rge (series `zo` at sparsity = 0.8, scale smoke)");
    assert_snapshot!(broken("epochs = 10", "epochs = 10\ntask = \"stages\""), @"demo.toml:12: base.task: stages needs method = cge or rge; got fo (series `dense`, scale smoke)");
    assert_snapshot!(broken("epochs = 10", "epochs = 10\nmodeled = true"), @"demo.toml:12: base.modeled: no such setting; did you mean `model`?");
}

/// A series may have a part of the axis.
#[test]
fn a_series_can_have_a_range_of_its_own() {
    let demo = parse(&SOUND.replace("label = \"ZO\"", "label = \"ZO\"\nmin-x = 0.85")).unwrap();
    let xs: Vec<Option<f64>> = demo.scales[&Scale::Smoke].cells.iter().map(|cell| cell.x).collect();
    assert_eq!(xs, [Some(0.9), None]);
    assert_snapshot!(broken("label = \"ZO\"", "label = \"ZO\"\nmax-x = 0.85"), @"demo.toml:13: series[0]: scale paper has no x from -inf to 0.85; give it one, or leave min-x and max-x out");
    assert_snapshot!(broken("label = \"ZO\"", "label = \"ZO\"\nmax-x = 0.85\nmin-x = 0.9"), @"demo.toml:16: series[0].max-x: is below min-x");
    assert_snapshot!(broken("constant = true", "constant = true\nmin-x = 0.9"), @"demo.toml:21: series[1].min-x: has no meaning beside constant = true");
}

/// A value for all series is one for those that read it, be it a single one at a single scale; the others neither read
/// nor show it.
#[test]
fn values_for_all_need_one_reader() {
    let with_queries = SOUND.replace("epochs = 10", "epochs = 10\nqueries = 5");
    for rge in [
        with_queries.replace("label = \"ZO\"", "label = \"ZO\"\nset = { method = \"rge\" }"),
        with_queries.replace("{ mu = 0.03 }", "{ mu = 0.03, method = \"rge\" }"),
        SOUND
            .replace("{ mu = 0.03 }", "{ mu = 0.03, method = \"rge\" }")
            .replace("mu = 0.02 }", "mu = 0.02, queries = 5 }"),
    ] {
        let demo = parse(&rge).unwrap();
        let smoke = &demo.scales[&Scale::Smoke].cells;
        assert_eq!(read(&smoke[0].settings, ["method", "queries"]), ["rge", "5"]);
        let dense = &smoke[2].settings;
        assert_eq!(dense.get("queries"), None);
        assert!(dense.shown().all(|(name, _)| name != "queries"));
    }
    // At the one scale, nobody reads the value for all series there.
    let elsewhere = SOUND
        .replace("mu = 0.02 }", "mu = 0.02, queries = 5 }")
        .replace("seeds = 3\n", "seeds = 3\nseries.zo = { method = \"rge\" }\n");
    assert_snapshot!(parse(&elsewhere).unwrap_err(), @"demo.toml:35: scale.smoke.set.queries: no series reads it: it plays no part with task = train, method = cge; it is read with method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge");
    // Likewise for values of the command line.
    let demo = parse(SOUND).unwrap();
    let error = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        demo.trials(Scale::Smoke, None, &pairs).map(|trials| trials.len()).map_err(|error| error.to_string())
    };
    assert_eq!(error(&[("difference", "central")]), Ok(6));
    assert_snapshot!(error(&[("decay", "0.5")]).unwrap_err(), @"setting `decay`: it plays no part with task = train, method = cge; it is read with method = cocd");
    // The axis and the series must still read theirs.
    assert_snapshot!(error(&[("method", "pattern-search")]).unwrap_err(), @"setting `mu`: it plays no part with task = train, method = pattern-search; it is read with method = cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model, output-cge, output-rge");
    assert_snapshot!(demo.with_overrides(Scale::Smoke, &[("search".to_owned(), "best".to_owned())]).unwrap_err(), @"setting `search`: it plays no part with task = train, method = cge; it is read with method = pattern-search");
}

/// Sweeps may vary what only their overrides bring into play.
#[test]
fn sweeps_of_what_another_method_reads() {
    let values = ["0".to_owned(), "0.5".to_owned()];
    let sweep = Library::embedded().sweep("decay", Some(&values)).unwrap();
    let cocd = [("method".to_owned(), "cocd".to_owned())];
    let trials =
        sweep.with_overrides(Scale::Smoke, &cocd).unwrap().trials(Scale::Smoke, Some(1), &[]).unwrap();
    let decays: Vec<_> = trials.iter().map(|trial| read(&trial.settings, ["method", "decay"])).collect();
    assert_eq!(decays, [["cocd", "0"], ["cocd", "0.5"]]);
    assert_snapshot!(sweep.trials(Scale::Smoke, Some(1), &[]).unwrap_err(), @"setting `decay`: it plays no part with task = train, method = cge; it is read with method = cocd");
}

/// What the sound experiment can have beside its main figure.
const FURTHER: &str = r#"
[[panel]]
id = "time"
y = "wall-s"
relative-to = "dense"
log-y = true

[[trace]]
id = "queries"
x = "queries"
y = "test-accuracy"
at = 0.9

[[layers]]
id = "keep"
y = "keep"
at = "best"
series = ["zo"]

[[profile]]
id = "radii"
kind = "tensors"
x-label = "Radius"
y = "n-active"
at = 0.8
log-x = true

[[expected]]
panel = "time"
series = "zo"
values = [4.0, 3.0]
unit = "h"
tolerance = 0.5
source = "nowhere"

[[check]]
panel = "time"
text = "The ratio falls."
falls = "zo"
margin = 0.5
min-x = 0.8

[[check]]
text = "Close at the best."
close = ["zo", "dense"]
margin = 1.0
at = "best"
"#;

#[test]
fn further_figures() {
    let found =
        format!("{SOUND}{FURTHER}").replacen("seeds = 2", "finding = \"\\nSomething.\\n\"\nseeds = 2", 1);
    let demo = parse(&found).unwrap();
    assert_eq!(demo.scales.values().next().unwrap().finding, "Something.");
    let panel = &demo.panels[0];
    assert_eq!((panel.id.as_str(), panel.relative_to.as_deref(), panel.log_y), ("time", Some("dense"), true));
    assert_eq!((panel.y_label.as_str(), panel.series.len()), ("wall-s", 2));
    let trace = &demo.traces[0];
    assert_eq!(
        (trace.x, trace.x_label.as_str(), trace.at),
        (TraceAxis::Queries, "Queries", Some(At::X(0.9)))
    );
    let layers = &demo.layers[0];
    assert_eq!((layers.y, layers.at, layers.series.len()), (TensorMeasure::Keep, Some(At::Best), 1));
    let profile = &demo.profiles[0];
    assert_eq!((profile.y_label.as_str(), profile.at, profile.log_x), ("n-active", Some(At::X(0.8)), true));
    let time: Vec<_> = demo.expected.iter().filter(|expected| expected.panel == "time").collect();
    assert_eq!((time.len(), time[0].unit.as_str(), demo.expected[0].unit.as_str()), (2, "h", "%"));
    assert_eq!(demo.checks[1].panel, "time");
    assert_eq!(
        demo.checks[1].comparison,
        Comparison::Trend {
            series: "zo".into(),
            trend: Trend::Falls,
            margin: 0.5,
            min_x: 0.8,
            max_x: f64::INFINITY
        }
    );
    assert!(demo.checks[2].at_best);
    let named =
        SOUND.replace("x = \"sparsity\"", "x = \"method\"").replace("[0.8, 0.9]", "[\"cge\", \"rge\"]");
    let named = named.replace("values = [0.9]\n", "")
        + &FURTHER.replace("at = 0.9", "at = \"rge\"").replace("at = 0.8", "").replace("min-x = 0.8", "");
    assert_eq!(parse(&named).unwrap().traces[0].at, Some(At::X(1.0)));
}

#[test]
fn errors_of_further_figures() {
    let broken = |from: &str, to: &str| {
        assert!(FURTHER.contains(from), "{from} is not in the text");
        let text = format!("{SOUND}{}", FURTHER.replacen(from, to, 1));
        parse(&text).expect_err("it is broken").to_string()
    };
    assert_snapshot!(broken("series = [\"zo\"]", "series = [\"oz\"]"), @"demo.toml:58: layers[0].series[0]: no series `oz`; expected one of zo, dense");
    assert_snapshot!(broken("series = [\"zo\"]", "series = []"), @"demo.toml:58: layers[0].series: expected at least one");
    assert_snapshot!(broken("id = \"keep\"", "id = \"time\""), @"demo.toml:55: layers[0].id: `time` occurs twice among panels, traces, layers and profiles");
    assert_snapshot!(broken("id = \"radii\"", "id = \"keep\""), @"demo.toml:61: profile[0].id: `keep` occurs twice among panels, traces, layers and profiles");
    assert_snapshot!(broken("kind = \"tensors\"", "kind = \"diameters\""), @"demo.toml:62: profile[0].kind: no task makes such a profile; expected one of tensors, certificates, radii, reynolds, frames, wake; got `diameters`");
    assert_snapshot!(broken("y = \"n-active\"", "y = \"beauty\""), @"demo.toml:64: profile[0].y: expected one of n, n-active, cosine, relative-error; got `beauty`");
    assert_snapshot!(broken("id = \"queries\"", "id = \"Queries\""), @"demo.toml:49: trace[0].id: expected up to 100 lower-case letters, digits and hyphens; got `Queries`");
    assert_snapshot!(broken("y = \"wall-s\"", "y = \"wall\""), @"demo.toml:44: panel[0].y: expected one of train-loss, train-accuracy, val-loss, val-accuracy, test-loss, test-accuracy, mae, mae-variance, mae-std, learning-rate, n-active, queries, queries-non-finite, gradient-norm, norm-scale, norm-pull, wall-s, wall-h, epoch-s, cosine, relative-error, gradient-share, directions-s, perturbation-s, inference-s, arithmetic-s, radius, steps-per-hour, speed-up, exchange-s, exchange-bytes, cores, certified-0, certified-25, certified-50, certified-75, abstained, certification-s; got wall");
    assert_snapshot!(broken("x = \"queries\"", "x = \"steps\""), @"demo.toml:50: trace[0].x: unknown variant `steps`, expected one of `epoch`, `queries`, `wall-s`");
    assert_snapshot!(broken("at = 0.9", "at = 0.7"), @"demo.toml:52: trace[0].at: expected one of 0.8, 0.9, or best; got 0.7");
    assert_snapshot!(broken("at = 0.9", "at = \"worst\""), @"demo.toml:52: trace[0].at: expected one of 0.8, 0.9, or best; got worst");
    assert_snapshot!(broken("relative-to = \"dense\"", "relative-to = \"sparse\""), @"demo.toml:45: panel[0].relative-to: no series `sparse`; expected one of zo, dense");
    assert_snapshot!(broken("panel = \"time\"\nseries", "panel = \"cost\"\nseries"), @"demo.toml:69: expected[1].panel: no panel `cost`; expected one of those in [[panel]]: time");
    assert_snapshot!(broken("panel = \"time\"\nseries", "series"), @"demo.toml:71: expected[1].unit: only the published values of a relative figure may differ from `%`");
    assert_snapshot!(broken("falls = \"zo\"", "falls = \"dense\""), @"demo.toml:79: check[1].falls: the figure is relative to `dense`, which has no values in it");
    assert_snapshot!(broken("falls = \"zo\"", "within = \"zo\""), @"demo.toml:80: check[1].margin: has no meaning beside within");
    assert_snapshot!(broken("falls = \"zo\"\nmargin = 0.5", "within = \"zo\"\nlow = 0.9"), @"demo.toml:79: check[1].within: within needs low and high, low being no larger");
    assert_snapshot!(broken("falls = \"zo\"\nmargin = 0.5", "flat = \"zo\""), @"demo.toml:76: check[1]: flat needs a margin");
    assert_snapshot!(broken("falls = \"zo\"", "falls = \"zo\"\nrises = \"zo\""), @"demo.toml:76: check[1]: expected exactly one of above, close, widens, within, falls, rises, flat");
    assert_snapshot!(broken("margin = 1.0\nat = \"best\"", "margin = 1.0\nat = \"worst\""), @"demo.toml:87: check[2].at: expected best; got worst");
    assert_snapshot!(broken("margin = 1.0\n", "margin = 1.0\nmax-x = 0.9\n"), @"demo.toml:87: check[2].max-x: has no meaning beside at");
    let log_x =
        SOUND.replace("y = \"test-accuracy\"", "y = \"test-accuracy\"\nlog-x = true\ncategorical = true");
    assert_snapshot!(parse(&log_x).unwrap_err(), @"demo.toml:8: figure.log-x: an axis whose values stand at equal distances has no logarithm");
    let epochs = format!("{SOUND}\n[[panel]]\nid = \"epochs\"\ny = \"wall-s\"\n");
    assert_snapshot!(parse(&epochs).unwrap_err(), @"demo.toml:43: panel[0].id: `epochs` is the figure that there is without any [[trace]]");
}

/// A figure of points from elsewhere; tests replace parts of it.
const COMPILED: &str = r#"id = "demo"
title = "Demonstration"

[figure]
x = "n-params"
x-label = "Parameters"
y = "test-accuracy"
log-x = true

[[series]]
id = "deepzero"
label = "DeepZero"
trials = false

[[from]]
experiment = "fig4"
series = "deepzero"
at = 0.9

[[from]]
experiment = "fig5"
series = "search-queries"
at = "largest"
as = "deepzero"

[[quoted]]
series = "deepzero"
x = 269722
y = 86.46
source = "nowhere"

[scale.smoke]
deviations = ["Small."]
"#;

#[test]
fn points_of_other_experiments() {
    let experiment = parse(COMPILED).unwrap();
    assert!(experiment.is_compiled() && experiment.trials(Scale::Smoke, None, &[]).unwrap().is_empty());
    assert_eq!(experiment.lenders(), ["fig4", "fig5"]);
    let at: Vec<&BorrowedAt> = experiment.borrowed.iter().map(|borrowed| &borrowed.at).collect();
    assert_eq!(at, [&BorrowedAt::Named("0.9".into()), &BorrowedAt::Largest]);
    assert!(at[0].is_at(Some(0.9), "90 %") && at[0].is_at(None, "0.9") && !at[0].is_at(Some(0.95), "0.95"));
    assert_eq!(experiment.borrowed[1].series, "deepzero");
    assert_eq!(experiment.quoted[0].source, "nowhere");
    let overridden = experiment.trials(Scale::Smoke, None, &[("mu".into(), "0.1".into())]).unwrap_err();
    assert_snapshot!(overridden, @"setting `mu`: demo has no trials: its points are results of other experiments");
    // A series of its own stands beside them.
    let own = COMPILED
        .replace("x-label", "axis = \"depth\"\nvalues = [8]\ncoordinates = [1000]\nx-label")
        .replace(
            "[[from]]\nexperiment = \"fig4\"",
            "[[series]]\nid = \"own\"\nlabel = \"Own\"\n\n[[from]]\nexperiment = \"fig4\"",
        )
        .replace("[scale.smoke]", "[scale.smoke]\nseeds = 2\nset = { model = \"resnet\" }");
    let trials = parse(&own).unwrap().trials(Scale::Smoke, None, &[]).unwrap();
    assert_eq!(trials.iter().map(|trial| trial.series.as_str()).collect::<Vec<_>>(), ["own", "own"]);
}

#[test]
fn errors_of_points_of_other_experiments() {
    let broken = |from: &str, to: &str| {
        assert!(COMPILED.contains(from), "{from}");
        parse(&COMPILED.replacen(from, to, 1)).unwrap_err().to_string()
    };
    let of_a_file = broken("\"fig4\"", "\"fig44\"");
    assert!(
        of_a_file.starts_with("demo.toml:16: from[0].experiment: no experiment `fig44`; did you mean `fig4`"),
        "{of_a_file}"
    );
    assert_snapshot!(broken("series = \"deepzero\"\nat", "series = \"fo\"\nas = \"deepzero\"\nat"), @"demo.toml:17: from[0].series: fig4 has no series `fo`, but deepzero, fo-dense, fo-sparse-gradient, fo-sparse-weights");
    assert_snapshot!(broken("at = 0.9", "at = 0.5"), @"demo.toml:18: from[0].at: expected one of 0.8, 0.9, 0.95, 0.99, or largest; got 0.5");
    assert_snapshot!(broken("series = \"deepzero\"\nat = 0.9", "series = \"fo-dense\"\nas = \"deepzero\"\nat = 0.9"), @"demo.toml:19: from[0].at: fo-dense of fig4 does not depend on x");
    assert_snapshot!(broken("as = \"deepzero\"", "as = \"other\""), @"demo.toml:24: from[1].as: no series `other`; expected one of deepzero");
    assert_snapshot!(broken("as = \"deepzero\"", "is = \"deepzero\""), @"demo.toml:24: from[1].is: unknown field `is`, expected one of `experiment`, `series`, `at`, `as`");
    assert_snapshot!(broken("\"fig4\"", "\"fig1\""), @"demo.toml:16: from[0].experiment: `fig1` takes points from other experiments itself");
    assert_snapshot!(broken("x = \"n-params\"", "x = \"depth\""), @"demo.toml:5: figure.x: expected n-params, where the points of [[from]] stand");
    assert_snapshot!(broken("trials = false", "trials = false\nset = { mu = 0.1 }"), @"demo.toml:14: series[0].set: has no meaning beside trials = false");
    assert_snapshot!(broken("trials = false", "trials = false\nconstant = true"), @"demo.toml:14: series[0].constant: has no meaning beside trials = false");
    assert_snapshot!(broken("trials = false", "trials = false\n[[series]]\nid = \"two\"\nlabel = \"Two\"\ntrials = false"), @"demo.toml:17: series[1].trials: it has no trials, and no [[from]] or [[quoted]] gives it a point");
    assert_snapshot!(broken("log-x = true", "values = [1]"), @"demo.toml:8: figure.values: no series of this figure has trials, so that it plays no part");
    assert_snapshot!(broken("[scale.smoke]", "[base]\nmu = 0.1\n[scale.smoke]"), @"demo.toml:32: base: no series of this figure has trials, so that it plays no part");
    assert_snapshot!(broken("[scale.smoke]", "[scale.smoke]\nseeds = 3"), @"demo.toml:33: scale.smoke.seeds: no series of this figure has trials, so that it plays no part");
    assert_snapshot!(broken("[scale.smoke]", "[scale.smoke]\nseries.deepzero = { mu = 0.1 }"), @"demo.toml:33: scale.smoke.series.deepzero: has no meaning beside trials = false");
    assert_snapshot!(broken("y = 86.46", "y = inf"), @"demo.toml:29: quoted[0].y: expected a finite number; got inf");
    assert_snapshot!(broken("[scale.smoke]", "[[quoted]]\nseries = \"deepzero\"\nx = 269722\ny = 1\nsource = \"\"\n[scale.smoke]"), @"demo.toml:34: quoted[1].x: `deepzero` is quoted twice there");
    assert_snapshot!(broken("trials = false", ""), @r#"demo.toml:4: figure.axis: x = "n-params" needs the setting that varies, such as depth"#);
}

#[test]
fn named_values_stand_at_their_positions() {
    let text = SOUND
        .replace("x = \"sparsity\"", "x = \"estimator\"")
        .replace("[0.8, 0.9]", "[\"cge\", \"rge\"]")
        .replace("values = [0.9]", "values = [\"rge\"]");
    let demo = parse(&text).unwrap();
    assert!(demo.figure.categorical);
    assert_eq!(demo.figure.x, "method");
    let cell = &demo.scales[&Scale::Paper].cells[0];
    assert_eq!((cell.x, cell.x_text.as_str()), (Some(1.0), "rge"));
    assert_eq!(read(&cell.settings, ["method"]), ["rge"]);
}

/// Oracle: parameters of the depth-D CNN of width w with batch norm: (27 + 3)w for the first block,
/// (9w + 3)w for each other, 10w + 10 for the classifier.
#[test]
fn coordinates_of_fig2_count_parameters() {
    let fig2 = Library::embedded().get("fig2").unwrap();
    assert_eq!(fig2.figure.x, "n-params");
    for plan in fig2.scales.values() {
        for cell in &plan.cells {
            let [depth, width] =
                ["depth", "width"].map(|name| cell.settings.get(name).unwrap().as_integer().unwrap() as f64);
            let n_params = 30.0 * width + (depth - 1.0) * (9.0 * width + 3.0) * width + 10.0 * width + 10.0;
            assert_eq!(cell.x, Some(n_params));
        }
    }
    assert_eq!(fig2.expected.iter().filter(|expected| expected.series == "rge").count(), 5);
    assert_eq!(fig2.expected[4].x, Some(12610.0));
    let error = fig2.trials(Scale::Smoke, None, &[("width".into(), "4".into())]).unwrap_err();
    assert_snapshot!(error, @"setting `width`: it is what the x axis of fig2 varies, so it cannot be set for all trials");
}

#[test]
fn built_in_experiments_are_those_in_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let folder = Library::open(Some(&folder)).unwrap();
    let embedded = Library::embedded();
    assert_eq!(folder.ids().collect::<Vec<_>>(), embedded.ids().collect::<Vec<_>>());
    for (in_folder, built_in) in folder.all().unwrap().iter().zip(embedded.all().unwrap()) {
        assert!(*in_folder == built_in, "the file of {} has changed since the build", built_in.id);
    }
}

/// Every experiment of the registry at every scale: complete, checked, and no two trials alike.
#[test]
fn every_experiment_expands_at_every_scale() {
    for experiment in Library::open(None).unwrap().all().unwrap() {
        assert!(experiment.scales.contains_key(&Scale::Smoke), "{}", experiment.id);
        for &scale in experiment.scales.keys() {
            let trials = experiment.trials(scale, None, &[]).unwrap();
            assert_eq!(trials.is_empty(), experiment.series.iter().all(|series| !series.has_trials));
            let mut hashes: Vec<String> = trials.iter().map(|trial| trial.hash()).collect();
            hashes.sort();
            hashes.dedup();
            assert_eq!(hashes.len(), trials.len(), "{} {scale}", experiment.id);
            for trial in &trials {
                settings::check(&trial.settings).unwrap();
                // Jobs make images of their own.
                if !trial.settings.read::<task::Config>().unwrap().task.has_images() {
                    continue;
                }
                let n_train = trial.settings.read::<data::Config>().unwrap().n_train;
                assert!(scale == Scale::Paper || n_train > 0, "{}", trial.title());
                let expected = if scale == Scale::Smoke { "synthetic" } else { "cifar10" };
                assert_eq!(trial.settings.get("data").unwrap().as_str(), Some(expected), "{}", trial.title());
            }
            assert!(!experiment.scales[&scale].deviations.is_empty(), "{} {scale}", experiment.id);
        }
    }
}

#[test]
fn fig4_is_the_papers_recipe() {
    let fig4 = Library::embedded().get("fig4").unwrap();
    let trials = fig4.trials(Scale::Paper, None, &[]).unwrap();
    assert_eq!(trials.len(), 3 * (3 * 4 + 1));
    assert_eq!(trials[1].settings, settings::from_pairs([]).unwrap(), "DeepZero at 90 % is the default");
}

#[test]
fn library_lists_ids_when_asked_for_another() {
    let error = |id: &str| Library::embedded().get(id).unwrap_err().to_string();
    let ids: Vec<String> = Library::embedded().ids().map(str::to_owned).collect();
    assert_eq!(
        error("figA9"),
        format!(
            "setting `experiment`: no experiment `figA9`; did you mean `figA2` or `figA3` or `figA4`? the \
             experiments are {}",
            ids.join(", ")
        )
    );
    assert!(error("batch-size").contains("did you mean `sweep-batch-size`? the experiments are"));
    assert_snapshot!(Library::open(Some(Path::new("/no/such/folder"))).unwrap_err(), @"list /no/such/folder: No such file or directory (os error 2)");
}

#[test]
fn sweeps_come_from_files_values_or_both() {
    let library = Library::embedded();
    let xs = |experiment: &Experiment, scale| -> Vec<String> {
        experiment.scales[&scale].cells.iter().map(|cell| cell.x_text.clone()).collect()
    };
    let texts = |values: &[&str]| -> Vec<String> { values.iter().map(|v| (*v).to_owned()).collect() };
    for axis in ["sparsity", "batch-size", "mu", "queries", "width", "depth", "estimator", "learning-rate"] {
        assert_eq!(library.sweep(axis, None).unwrap().id, format!("sweep-{axis}"));
    }
    let file = library.sweep("batch_size", Some(&texts(&["16", "32"]))).unwrap();
    assert_eq!((file.id.as_str(), xs(&file, Scale::Smoke)), ("sweep-batch-size", texts(&["16", "32"])));
    let made = library.sweep("momentum", Some(&texts(&["0", "0.5"]))).unwrap();
    assert_eq!((made.id.as_str(), xs(&made, Scale::Laptop)), ("sweep-momentum", texts(&["0", "0.5"])));
    assert_eq!(made.scales[&Scale::Smoke].cells[1].settings.get("momentum").unwrap().as_float(), Some(0.5));
    assert_eq!(made.figure.y, "test-accuracy");
    let named = library.sweep("mask", Some(&texts(&["fixed", "redraw"]))).unwrap();
    assert!(named.figure.categorical);
    assert_snapshot!(library.sweep("momentum", None).unwrap_err(), @"setting `momentum`: a sweep over it needs values: a number in [0, 1)");
    assert_snapshot!(library.sweep("masks", None).unwrap_err(), @"setting `masks`: no such setting; did you mean `mask` or `task`?");
    assert_snapshot!(library.sweep("mask", Some(&texts(&["redrawn"]))).unwrap_err(), @"setting `mask`: expected one of redraw, fixed, rescore; got redrawn; did you mean `redraw`?");
    assert_snapshot!(library.sweep("depth", Some(&texts(&["9"]))).unwrap_err(), @"experiments/sweep-depth.toml:9: figure.values[0]: depth: a resnet has depth 6n+2 (8, 14, 20, 32, …); got 9 (series `deepzero` at depth = 9, scale smoke)");
    assert_snapshot!(library.sweep("queries", Some(&[])).unwrap_err(), @"setting `queries`: a sweep needs at least one value");
}

/// These never change: results are found again by them. A new setting or column raises
/// `SCHEMA_VERSION` and changes them on purpose.
#[test]
fn hashes_are_stable() {
    let trials = parse(SOUND).unwrap().trials(Scale::Smoke, Some(2), &[]).unwrap();
    let lines: Vec<String> =
        trials.iter().map(|trial| format!("{} {}", trial.hash(), trial.title())).collect();
    assert_snapshot!(lines.join("\n"), @r#"
9060eb193ef65b24 demo/smoke zo at 0.8, seed 0
a79b7b686f8ba131 demo/smoke zo at 0.9, seed 0
72c7b130dddca888 demo/smoke dense, seed 0
22e246d143b22144 demo/smoke zo at 0.8, seed 1
fb79021829f436f1 demo/smoke zo at 0.9, seed 1
2b9144a1e4b18a85 demo/smoke dense, seed 1
"#);
    assert_snapshot!(settings::canonical_json(&trials[0].settings), @r#"{"always-active":true,"augment":true,"batch-size":256,"data":"cifar10","depth":20,"difference":"forward","directions":"gaussian","epochs":5,"evaluator":"difference","grasp-images-per-class":25,"grasp-queries":192,"layer-ratios":"zo-grasp","learning-rate":0.1,"mask":"redraw","method":"cge","model":"resnet","momentum":0.9,"mu":0.03,"n-test":0,"n-train":0,"n-val":0,"optimizer":"sgd","precision":"f32","queries":0,"redraw-every":5,"schedule":"cosine","sparse-target":"gradient","sparsity":0.8,"warmup-epochs":3,"weight-decay":0.0005,"width":16}"#);
}

#[test]
fn every_setting_is_described() {
    let lines: Vec<String> = settings::describe()
        .iter()
        .map(|d| {
            let readers = if d.is_usual { String::new() } else { format!("; with {}", d.readers) };
            assert!(d.help.ends_with('.'), "{}: {}", d.name, d.help);
            format!("{} = {} ({}{readers})", d.name, d.default, d.allowed)
        })
        .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    task = train (one of train, stages, quality, workers, workers-model, defend, correct, solver-alone)
    method = cge (one of cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model, pattern-search, cma-es, output-cge, output-rge, fa, dfa, align-ada, align-zero, align-prop, last-layer, fg-w, fg-a, lg-fg-a, lg-bp)
    data = cifar10 (one of synthetic, cifar10, imagenette)
    n-train = 0 (an integer from 0 to 1000000)
    n-val = 0 (an integer from 0 to 1000000)
    n-test = 0 (an integer from 0 to 1000000)
    augment = true (true or false)
    pixels = standardized (one of standardized, unit)
    jpeg-quality = 0 (an integer from 0 to 100)
    model = resnet (one of resnet, resnet-b, cnn, lenet, wide-cnn, ntk-cnn, local-mixer, corrector)
    depth = 20 (an integer from 1 to 2000)
    width = 16 (an integer from 1 to 4096)
    precision = f32 (one of f32, f64, tf32, bf16)
    init = kaiming (one of kaiming, uniform, glorot)
    loss = cross-entropy (one of cross-entropy, squared-error)
    epochs = 50 (an integer from 1 to 1000000)
    batch-size = 256 (an integer from 1 to 1000000)
    query-budget = 0 (a number in [0, 1000000000))
    mu = 0.005 (a finite number above 0)
    difference = forward (one of forward, central)
    evaluator = difference (one of full, reuse, difference)
    sparsity = 0.9 (a number in [0, 1))
    layer-ratios = zo-grasp (one of uniform, zo-grasp, zo-grasp-released, fo-grasp, snip, magnitude, smart-ratio)
    mask = redraw (one of redraw, fixed, rescore)
    redraw-every = 5 (an integer from 1 to 1000000)
    sparse-target = gradient (one of gradient, weights)
    always-active = true (true or false)
    grasp-queries = 192 (an integer from 1 to 1000000)
    grasp-images-per-class = 25 (an integer from 1 to 100000)
    optimizer = sgd (one of sgd, adam, r-adazo)
    learning-rate = 0.1 (a finite number above 0)
    momentum = 0.9 (a number in [0, 1))
    weight-decay = 0.0005 (a finite number of at least 0)
    warmup-epochs = 3 (an integer from 0 to 1000000)
    schedule = cosine (one of cosine, constant, step)
    decay-epochs = 4 (an integer from 1 to 1000000)
    decay-factor = 0.1 (a number in (0, 1))
    queries = 0 (an integer from 0 to 16777216; with method = rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, rge-model, pattern-search, cma-es, output-rge)
    directions = gaussian (one of gaussian, sphere, per-tensor, rademacher; with method = rge)
    step-scale = estimate (one of estimate, loss-spread; with method = rge)
    deviation = sample (one of sample, population; with method = rge)
    decay = 0 (a number in [0, 1]; with method = cocd)
    order = shuffled (one of shuffled, parameters; with method = cocd)
    large-weights = 0.8 (a number in [0, 1); with method = sparse-mezo)
    rank = 0 (an integer from 0 to 4096; with method = lozo, subzero, zo-muon, eggroll)
    subspace-steps = 0 (an integer from 0 to 1000000; with method = lozo, subzero, zo-muon)
    vector-scale = 0.01 (a finite number of at least 0; with method = zo-muon)
    curvature-rate = 0.00000001 (a number in [0, 1); with method = hizoo)
    search = first (one of first, best; with method = pattern-search)
    radius = 1 (a finite number above 0; with method = pattern-search)
    population = 0 (an integer from 0 to 1000000; with method = pattern-search)
    search-steps = 1 (an integer from 1 to 1000000; with method = pattern-search)
    normalize-logits = false (true or false; with method = pattern-search)
    stop-when-fitted = false (true or false; with method = pattern-search)
    step-size = 0.3 (a finite number above 0; with method = cma-es)
    last-layer-rate = 0.1 (a finite number of at least 0; with method = fg-w, fg-a, lg-fg-a, lg-bp)
    bias-twice = false (true or false; with method = fg-w, fg-a, lg-fg-a, lg-bp)
    pretrain-epochs = 0 (an integer from 0 to 1000000; with task = quality)
    workers = 1 (an integer from 1 to 65536; with task = workers, workers-model)
    defense = denoiser (one of none, denoiser, autoencoder; with task = defend)
    tune = last (one of none, last, all; with task = defend)
    denoiser-depth = 17 (an integer from 2 to 2000; with task = defend)
    denoiser-width = 64 (an integer from 1 to 4096; with task = defend)
    classifier-epochs = 90 (an integer from 1 to 1000000; with task = defend)
    classifier-noise = false (true or false; with task = defend)
    denoiser-epochs = 90 (an integer from 1 to 1000000; with task = defend)
    autoencoder-epochs = 600 (an integer from 1 to 1000000; with task = defend)
    foundation-batch = 256 (an integer from 1 to 1000000; with task = defend)
    n-tune = 0 (an integer from 0 to 1000000; with task = defend)
    sigma = 0.25 (a finite number above 0; with task = defend)
    n0 = 100 (an integer from 1 to 1000000000; with task = defend)
    n = 10000 (an integer from 1 to 1000000000; with task = defend)
    alpha = 0.001 (a number in (0, 1); with task = defend)
    n-certified = 500 (an integer from 0 to 1000000; with task = defend)
    resolution = 32 (an integer from 4 to 128; with task = correct, solver-alone)
    refinement = 2 (an integer from 1 to 16; with task = correct, solver-alone)
    frames = 500 (an integer from 3 to 100000; with task = correct, solver-alone)
    warm-up-steps = 1000 (an integer from 0 to 1000000; with task = correct, solver-alone)
    projection = consistent (one of consistent, replicate; with task = correct, solver-alone)
    obstacle-radius = 10 (a number in [0, 100); with task = correct, solver-alone)
    unroll = 16 (an integer from 1 to 1000; with task = correct)
    start-frames = 0 (an integer from 0 to 1000000; with task = correct)
    simulations = 6 (an integer from 1 to 6; with task = correct)
    start-gain = 0.1 (a number in [0, 1000); with task = correct)
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Oracle: `get` is the inverse of `set`, and text loses no bit of a number.
    #[test]
    fn text_of_numbers_round_trips(
        rate in prop::num::f64::POSITIVE | prop::num::f64::SUBNORMAL,
        sparsity in 0.0..1.0f64,
        n_val in 0..50_000usize,
        augment: bool,
    ) {
        let rate = rate.abs();
        let settings = settings::from_pairs([
            ("learning-rate", rate.to_string().as_str()),
            ("sparsity", &format!("{sparsity:e}")),
            ("n_val", &n_val.to_string()),
            ("augment", &augment.to_string()),
        ]).unwrap();
        prop_assert_eq!(settings.read::<optimizer::Config>().unwrap().learning_rate.to_bits(), rate.to_bits());
        prop_assert_eq!(settings.read::<sparsity::Config>().unwrap().sparsity.to_bits(), sparsity.to_bits());
        let images: data::Config = settings.read().unwrap();
        prop_assert_eq!((images.n_val, images.augment), (n_val, augment));
        let mut values = settings.values().clone();
        for (name, value) in settings.shown() {
            settings::set(&mut values, name, &value).unwrap();
            prop_assert_eq!(&values, settings.values());
            settings::set(&mut values, name, &value_of(&text_of(&value))).unwrap();
            prop_assert_eq!(&values, settings.values());
        }
    }

    /// No text makes `set` panic or leave a setting outside its range.
    #[test]
    fn any_text_is_refused_or_sound(entry in prop::sample::select(settings::entries()), text in ".{0,12}") {
        let mut values = Values::new();
        match settings::set(&mut values, entry.name, &value_of(&text)) {
            Ok(_) => {
                let value = values.get(entry.name).cloned().unwrap_or_else(entry.default);
                prop_assert_eq!(entry.checked(entry.name, &value).unwrap(), value);
            }
            Err(_) => prop_assert!(values.is_empty()),
        }
    }

    /// No text makes the parser panic.
    #[test]
    fn any_file_is_refused_or_sound(at in 0..SOUND.len(), text in "[a-z0-9=\\[\\]\"., \n-]{0,6}") {
        let mut file = SOUND.to_owned();
        file.insert_str(at, &text);
        let _ = parse(&file);
    }
}

/// The id names files and folders, and labels stand on a line of a page.
#[test]
fn ids_and_labels_are_fit_for_files_and_pages() {
    let text = SMALL;
    Experiment::parse("demo.toml", text).unwrap();
    let refusal = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        Experiment::parse("demo.toml", &changed).unwrap_err().to_string()
    };
    for id in ["..", ".hidden", "a/b", "a\\\\b", "-x", "", "a b", "é", "a\\u0000", "<b>", &"x".repeat(101)] {
        let error = refusal("id = \"demo\"", &format!("id = \"{id}\""));
        assert!(error.starts_with("demo.toml:1: id: expected up to 100 letters"), "{error}");
    }
    for id in ["figA2", "sweep-mu", "a.b_c-1"] {
        Experiment::parse("demo.toml", &text.replacen("\"demo\"", &format!("\"{id}\""), 1)).unwrap();
    }
    for (from, path) in [("title = \"T\"", "2: title"), ("label = \"Only\"", "11: series[0].label")] {
        for bad in ["two\\nlines", "\\u001b[31m", &"x".repeat(201)] {
            let key = from.split(' ').next().unwrap();
            let error = refusal(from, &format!("{key} = \"{bad}\""));
            assert!(
                error.starts_with(&format!("demo.toml:{path}: expected one line of up to 200")),
                "{error}"
            );
            assert!(error.len() < 400 && !error.contains(char::is_control), "{error}");
        }
    }
}

#[test]
fn errors_repeat_little_and_say_the_key_once() {
    let refusal = |from: &str, to: String| {
        let changed = SMALL.replacen(from, &to, 1);
        Experiment::parse("demo.toml", &changed).unwrap_err().to_string()
    };
    let long = refusal("model = \"cnn\"", format!("model = \"{}\"", "x".repeat(100_000)));
    assert!(long.starts_with("demo.toml:17: base.model: expected one of") && long.len() < 1000, "{long}");
    let long = refusal("model = \"cnn\"", format!("{} = 1", "k".repeat(100_000)));
    assert!(long.starts_with("demo.toml:17: base.kkk") && long.len() < 2000, "{long}");
    let once = refusal("id = \"only\"\n", "id = \"only\"\nset = { decay = 0.5 }\n".to_owned());
    assert!(once.starts_with("demo.toml:11: series[0].set.decay: it plays no part"), "{once}");
    let seeds = refusal("seeds = 1", "seeds = 9223372036854775807".to_owned());
    assert_snapshot!(seeds, @"demo.toml:14: scale.smoke.seeds: expected an integer from 1 to 10000; got 9223372036854775807");
}

/// A small experiment.
const SMALL: &str = r#"id = "demo"
title = "T"
[figure]
x = "mu"
x-label = "mu"
y = "test-accuracy"
y-label = "Test accuracy"
values = [0.01]
[[series]]
id = "only"
label = "Only"
[scale.smoke]
deviations = ["Small."]
seeds = 1
[base]
data = "synthetic"
model = "cnn"
depth = 1
"#;

/// Every point of every series has a trial for each value of the tuned setting: those of the file, of the scale, of the
/// series.
#[test]
fn a_tuned_setting_gives_every_point_several_trials() {
    let tune = "[tune]\nsetting = \"learning-rate\"\nvalues = [0.1, 0.2]\n\n[base]\nn-val = 100\n";
    let text = SOUND.replacen("[base]\n", tune, 1);
    let cells = |text: &str, scale| {
        let cell = |cell: &deepzero::experiment::Cell| {
            let [rate] = read(&cell.settings, ["learning-rate"]);
            assert!(cell.tuned.is_empty() || cell.tuned == rate, "{cell:?}");
            format!("{} {} {}", cell.series_idx, cell.x_text, cell.tuned)
        };
        parse(text).unwrap().scales[&scale].cells.iter().map(cell).collect::<Vec<_>>().join(", ")
    };
    assert_snapshot!(cells(&text, Scale::Smoke), @"0 0.8 0.1, 0 0.8 0.2, 0 0.9 0.1, 0 0.9 0.2, 1  0.1, 1  0.2");
    let own = text.replacen("label = \"ZO\"", "label = \"ZO\"\ntune = [0.4]", 1);
    let own = own.replacen("[scale.smoke]", "[scale.smoke]\ntune = [0.3, 0.5]", 1);
    assert_snapshot!(cells(&own, Scale::Smoke), @"0 0.8 0.4, 0 0.9 0.4, 1  0.3, 1  0.5");
    assert_snapshot!(cells(&own, Scale::Paper), @"0 0.9 0.4, 1  0.1, 1  0.2");
    let none = text.replacen("label = \"ZO\"", "label = \"ZO\"\ntune = []", 1);
    assert_snapshot!(cells(&none, Scale::Paper), @"0 0.9 , 1  0.1, 1  0.2");
    let trials = parse(&text).unwrap().trials(Scale::Paper, None, &[]).unwrap();
    let hashes: std::collections::BTreeSet<String> = trials.iter().map(|trial| trial.hash()).collect();
    assert_eq!(hashes.len(), 3 * 4);
    assert_snapshot!(trials[1].title(), @"demo/paper zo at 0.9 with 0.2, seed 0");

    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in the text");
        parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    assert_snapshot!(refused("n-val = 100\n", ""), @"demo.toml:11: tune.setting: series `zo` has no validation images to choose by: set n-val");
    assert_snapshot!(refused("\"learning-rate\"", "\"sparsity\""), @"demo.toml:11: tune.setting: this is the x axis");

    assert_snapshot!(refused("[0.1, 0.2]", "[]"), @"demo.toml:12: tune.values: expected at least one value");
    assert_snapshot!(refused("values = [0.1, 0.2]\n\n[base]", "\n[base]"), @"demo.toml:10: tune.values: expected at least one value");
    // One scale alone: at the other, the setting is free.
    let one = text.replacen("values = [0.1, 0.2]\n\n[base]", "\n[base]", 1);
    let one = one.replacen("[scale.smoke]", "[scale.smoke]\ntune = [0.3, 0.5]", 1);
    assert_snapshot!(cells(&one, Scale::Paper), @"0 0.9 , 1");
    assert_snapshot!(cells(&one, Scale::Smoke), @"0 0.8 0.3, 0 0.8 0.5, 0 0.9 0.3, 0 0.9 0.5, 1  0.3, 1  0.5");
    let free = [("learning-rate".to_owned(), "0.1".to_owned())];
    assert_eq!(parse(&one).unwrap().trials(Scale::Paper, None, &free).unwrap().len(), 3 * 2);
    assert_snapshot!(refused("[0.1, 0.2]", "[0.1, -0.2]"), @"demo.toml:12: tune.values[1]: expected a finite number above 0; got -0.2");
    assert_snapshot!(refused("n-val = 100", "n-val = 100\nlearning-rate = 0.1"), @"demo.toml:16: base.learning-rate: [tune] gives it its values");
    assert_snapshot!(refused("\"learning-rate\"", "\"redraw-every\""), @"demo.toml:12: tune.values[0]: expected an integer from 1 to 1000000; got 0.1");
    assert_snapshot!(broken("label = \"ZO\"", "label = \"ZO\"\ntune = [0.1]"), @"demo.toml:16: series[0].tune: there is no [tune], which says what is tuned");
    let set = [("learning-rate".to_owned(), "0.1".to_owned())];
    assert_snapshot!(parse(&text).unwrap().trials(Scale::Smoke, None, &set).unwrap_err(), @"setting `learning-rate`: demo tunes it, so it cannot be set for all trials");
    let set = [("n-val".to_owned(), "0".to_owned())];
    assert_snapshot!(parse(&text).unwrap().trials(Scale::Smoke, None, &set).unwrap_err(), @"setting `n-val`: demo needs validation images to choose by");
}

/// A budget has to pay for a step, of a method that asks queries.
#[test]
fn a_budget_of_queries_is_in_place_of_epochs() {
    let of = |pairs: &[(&'static str, &'static str)]| {
        let all = [
            ("depth", "2"),
            ("width", "5"),
            ("n-train", "4000"),
            ("warmup-epochs", "0"),
            ("batch-size", "16"),
        ];
        settings::from_pairs(
            all.into_iter()
                .chain([("model", "cnn"), ("sparsity", "0"), ("data", "synthetic")])
                .chain(pairs.iter().copied()),
        )
    };
    let epochs = |pairs: &[(&'static str, &'static str)]| task::epochs(&of(pairs).unwrap()).unwrap();
    // 450 parameters: 4,500 queries are 264 steps of 17 in epochs of 250.
    assert_eq!(epochs(&[("method", "rge"), ("queries", "16"), ("query-budget", "10")]), 2);
    // 9 steps of 451.
    assert_eq!(epochs(&[("query-budget", "10")]), 1);
    // What stands for epochs is idle.
    let settings = of(&[("query-budget", "10"), ("epochs", "3")]).unwrap();
    assert!(settings::idle(&settings).contains(&"epochs"));
    assert_eq!(task::epochs(&of(&[("epochs", "3")]).unwrap()).unwrap(), 3);
    assert_snapshot!(of(&[("query-budget", "1")]).unwrap_err(), @"setting `query-budget`: 450 queries pay for no step, which takes about 451");
    let rescored =
        [("sparsity", "0.5"), ("mask", "rescore"), ("grasp-images-per-class", "2"), ("query-budget", "900")];
    assert_snapshot!(of(&rescored).unwrap_err(), @"setting `mask`: a query-budget does not count the queries of further scorings; use redraw or fixed");
    assert_snapshot!(of(&[("query-budget", "10"), ("warmup-epochs", "2")]).unwrap_err(), @"setting `warmup-epochs`: at most epochs = 1; got 2");
    assert_snapshot!(of(&[("method", "fo"), ("query-budget", "10")]).unwrap_err(), @"setting `query-budget`: it plays no part with task = train, method = fo; it is read with method = cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll");
}
