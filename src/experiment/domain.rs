//! What each setting may hold, and its one line of help: the table behind `--help`, error messages
//! and the checks.

use super::settings::Settings;

/// The values a setting may take on its own; rules between settings are in [`Settings::check`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Domain {
    /// true or false.
    Bool,
    /// One of the names of an enum.
    Name,
    /// An integer of at least this.
    Int(i64),
    /// A number in `low..high`; `low` itself is excluded.
    Above(f64, f64),
    /// A number in `low..high`; `low` itself is included.
    From(f64, f64),
    /// A number in `low..=high`; both are included.
    Within(f64, f64),
}

/// A setting's entry in the table.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) domain: Domain,
    pub(super) help: &'static str,
}

/// What a user can read about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Kebab-case name, as in files and `--set`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// The allowed values in words.
    pub allowed: String,
    /// The default as text.
    pub default: String,
}

const fn entry(name: &'static str, domain: Domain, help: &'static str) -> Entry {
    Entry { name, domain, help }
}

use Domain::{Above, Bool, From, Int, Name, Within};
const INF: f64 = f64::INFINITY;

/// One entry per field of [`Settings`], in declared order; the help is the field's doc comment.
pub(super) const ENTRIES: [Entry; 44] = [
    entry("data", Name, "Training images."),
    entry(
        "n-train",
        Int(0),
        "Training images used, class-balanced; 0 for all (after the validation images are set aside).",
    ),
    entry("n-val", Int(0), "Images set aside from the training set to choose the best epoch; 0 for none."),
    entry("n-test", Int(0), "Test images used, class-balanced; 0 for all."),
    entry("augment", Bool, "Crop-4 and flip augmentation."),
    entry("model", Name, "Network family."),
    entry("depth", Int(1), "Depth: blocks of the CNN, 6n+2 of the ResNet, 8n+2 of ResNet-B."),
    entry("width", Int(1), "Channels of the CNN, or of a ResNet's first stage."),
    entry("method", Name, "Gradient source."),
    entry("difference", Name, "Finite-difference scheme (ZO)."),
    entry("mu", Above(0.0, INF), "Smoothing parameter μ (ZO)."),
    entry(
        "queries",
        Int(0),
        "Directions (RGE), coordinates (CoCD) or moves (Pattern Search) per step; 0 for all, a search: one step.",
    ),
    entry("directions", Name, "Law of RGE's directions."),
    entry("evaluator", Name, "How loss differences are computed (ZO)."),
    entry(
        "sparsity",
        From(0.0, 1.0),
        "Fraction of conv and linear weights left out of the active set, in [0, 1).",
    ),
    entry("layer-ratios", Name, "Source of the layer-wise ratios."),
    entry("mask", Name, "How the active set follows from the ratios."),
    entry("redraw-every", Int(1), "Epochs between re-draws of the active set (K_sparse)."),
    entry("sparse-target", Name, "Sparse gradient or sparse weights."),
    entry(
        "always-active",
        Bool,
        "Whether batch-norm parameters and biases are always active, outside the ratio.",
    ),
    entry("grasp-queries", Int(1), "Random directions of ZO-GraSP."),
    entry("grasp-images-per-class", Int(1), "Images per class in the batch that GraSP scores."),
    entry("epochs", Int(1), "Passes over the training images."),
    entry("batch-size", Int(1), "Images per step; all if there are fewer."),
    entry("optimizer", Name, "Update rule."),
    entry("learning-rate", Above(0.0, INF), "Peak learning rate."),
    entry("momentum", From(0.0, 1.0), "Momentum of SGD, β₁ of Adam."),
    entry("weight-decay", From(0.0, INF), "Weight decay on all parameters."),
    entry("warmup-epochs", Int(0), "Epochs of linear warm-up."),
    entry("schedule", Name, "Schedule after the warm-up."),
    entry("precision", Name, "Arithmetic of the forward pass."),
    entry("task", Name, "What the trial does."),
    entry("init", Name, "How parameters start."),
    entry(
        "pretrain-epochs",
        Int(0),
        "Epochs of first-order training before an estimate's quality is measured (task = quality).",
    ),
    entry(
        "decay",
        Within(0.0, 1.0),
        "Factor on stale estimates per step, in [0, 1]; 0 is block-cyclic coordinate descent (CoCD).",
    ),
    entry("step-scale", Name, "What the learning rate multiplies (ZO)."),
    entry("search", Name, "Which moves are kept (Pattern Search)."),
    entry("radius", Above(0.0, INF), "Initial size of a move (Pattern Search)."),
    entry(
        "population",
        Int(0),
        "Points compared at a time with search = best, the present one included; 0 for 50,000 / n-train.",
    ),
    entry("search-steps", Int(1), "Moves kept, or halvings of the radius, per batch (Pattern Search)."),
    entry(
        "normalize-logits",
        Bool,
        "Whether the loss sees logits over the product of all weights' norms / 3 (Pattern Search).",
    ),
    entry(
        "stop-when-fitted",
        Bool,
        "Whether training ends once all training images are classified rightly (Pattern Search).",
    ),
    entry(
        "workers",
        Int(1),
        "Processes, with one thread each, that share the probes of a step (task = workers).",
    ),
    entry(
        "modeled",
        Bool,
        "Whether the times are those of a model, made of measured parts, instead of a job's (task = workers).",
    ),
];

/// The first setting that came after results had been published. From here on, a setting at its default
/// is no part of a trial's name, and a result file without its column has the default: results keep
/// their names when a setting is added. New settings go to the end, with a default that changes nothing.
pub(super) const FIRST_LATER: &str = "task";

/// Other names that users know a setting by.
pub(super) const ALIASES: [(&str, &str); 3] =
    [("estimator", "method"), ("lr", "learning-rate"), ("q", "queries")];

/// Whether a setting came after results had been published.
pub(super) fn is_later(name: &str) -> bool {
    let position = |name: &str| ENTRIES.iter().position(|entry| entry.name == name);
    position(name) >= position(FIRST_LATER)
}

impl Entry {
    /// The allowed values in words, such as `an integer of at least 1`.
    pub(super) fn allowed(&self) -> String {
        match self.domain {
            Bool => "true or false".into(),
            Name => format!("one of {}", self.names().join(", ")),
            Int(low) => format!("an integer of at least {low}"),
            Above(low, high) if high.is_infinite() => format!("a finite number above {low}"),
            From(low, high) if high.is_infinite() => format!("a finite number of at least {low}"),
            Above(low, high) => format!("a number in ({low}, {high})"),
            From(low, high) => format!("a number in [{low}, {high})"),
            Within(low, high) => format!("a number in [{low}, {high}]"),
        }
    }

    /// Whether `value` (integers already widened where a float is wanted) lies in the domain.
    pub(super) fn admits(&self, value: &toml::Value) -> bool {
        use toml::Value as V;
        match (self.domain, value) {
            (Bool, V::Boolean(_)) => true,
            (Name, V::String(name)) => self.names().contains(name),
            (Int(low), V::Integer(value)) => *value >= low,
            (Above(low, high), V::Float(value)) => *value > low && *value < high,
            (From(low, high), V::Float(value)) => *value >= low && *value < high,
            (Within(low, high), V::Float(value)) => (low..=high).contains(value),
            _ => false,
        }
    }

    /// The names an enum setting accepts, asked of serde: it lists them when given a wrong one.
    pub(super) fn names(&self) -> Vec<String> {
        let mut table = Settings::default().table();
        table.insert(self.name.into(), toml::Value::String(String::new()));
        let message =
            table.try_into::<Settings>().err().map(|error| error.message().to_owned()).unwrap_or_default();
        let list = message.split_once("expected").map_or("", |(_, list)| list);
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }
}

/// The entries of `names` nearest to `word`, best first, at most three and none too far.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let reach = 1 + word.chars().count() / 3;
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let distance = edit_distance(word, name);
            let part = word.len() >= 3 && name.contains(word);
            (distance <= reach || part).then_some((if part { 0 } else { distance }, name))
        })
        .collect();
    found.sort();
    found.into_iter().take(3).map(|(_, name)| name).collect()
}

/// `did you mean …? ` for the nearest names, or nothing.
pub(super) fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, names).as_slice() {
        [] => String::new(),
        near => format!("did you mean `{}`? ", near.join("` or `")),
    }
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the source of `Settings`; help and documentation are one text.
    #[test]
    fn help_is_the_doc_comment() {
        let source = include_str!("settings.rs");
        for entry in &ENTRIES {
            let field = format!("    /// {}\n    pub {}: ", entry.help, entry.name.replace('-', "_"));
            assert!(source.contains(&field), "{}: help differs from the doc comment", entry.name);
        }
    }

    /// Oracle: the fields as serde sees them.
    #[test]
    fn entries_are_the_fields() {
        let table = Settings::default().table();
        assert_eq!(ENTRIES.len(), table.len());
        for entry in &ENTRIES {
            let value = table.get(entry.name).unwrap_or_else(|| panic!("no field {}", entry.name));
            assert!(entry.admits(value), "{} does not admit its default {value}", entry.name);
        }
    }

    /// Oracle: distances counted by hand.
    #[test]
    fn edit_distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("mu", "mu"), 0);
    }
}
