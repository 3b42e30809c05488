//! The page of a black box that was minimized.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};

use super::chart::{Chart, Curve, Mark, Shape};
use super::html::inline_svg;
use super::plot;
use super::text::{count, duration, significant};

/// What the page tells.
#[derive(Debug, Clone, Default)]
pub struct Minimized {
    /// Name of the method.
    pub method: String,
    /// The command that evaluates; empty if there is none.
    pub command: String,
    /// How the run ended, a sentence.
    pub message: String,
    /// Dimension d.
    pub n_coords: u64,
    /// Evaluations, failures included.
    pub n_evaluations: u64,
    /// Failures.
    pub n_failed: u64,
    /// Steps.
    pub n_steps: u64,
    /// Number and value of the best evaluation.
    pub best: Option<(u64, f64)>,
    /// Seconds of the evaluations that were timed.
    pub seconds: f64,
    /// How many those are.
    pub n_timed: u64,
    /// Settings with their values.
    pub settings: Vec<(String, String)>,
    /// Numbers of evaluations that failed, and why; the first ones.
    pub failures: Vec<(u64, String)>,
    /// Evaluations so far, the lowest value since the one before, the lowest so far.
    pub values: Vec<(f64, f64, f64)>,
}

/// The page as self-contained HTML.
#[must_use]
pub fn minimized(run: &Minimized) -> String {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    for (name, source) in [
        ("minimized.html", include_str!("templates/minimized.html")),
        ("style.css", include_str!("templates/style.css")),
    ] {
        environment.add_template(name, source).expect("the embedded templates are correct");
    }
    let figure = chart(run).map_or(Value::from(""), |chart| inline_svg(&plot::svg(&chart)));
    let mean = if run.n_timed > 0 { run.seconds / run.n_timed as f64 } else { f64::NAN };
    let mut facts = vec![
        ("Best value", run.best.map_or("none".to_owned(), |(_, value)| significant(value))),
        ("at evaluation", run.best.map_or("none".to_owned(), |(id, _)| count(id))),
        ("Evaluations", count(run.n_evaluations)),
        ("of which failed", count(run.n_failed)),
        ("Steps", count(run.n_steps)),
        ("Coordinates", count(run.n_coords)),
    ];
    if run.n_timed > 0 {
        facts.push(("Time of evaluations", duration(run.seconds)));
        facts.push(("Mean of one", format!("{} s", significant(mean))));
    }
    let page = environment.get_template("minimized.html").expect("it was added above").render(context! {
        method => &run.method,
        command => &run.command,
        message => &run.message,
        facts => facts,
        figure => figure,
        settings => &run.settings,
        failures => &run.failures,
        n_failed => run.n_failed,
    });
    page.expect("the embedded templates use only what they are given")
}

/// Values over evaluations; `None` without a value.
fn chart(run: &Minimized) -> Option<Chart> {
    let last = run.values.last()?;
    let (least, most) = run.values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(value.1), most.max(value.1))
    });
    let curve = |label: &str, look: usize, shape: Shape, y: &dyn Fn(&(f64, f64, f64)) -> f64| Curve {
        label: label.to_owned(),
        look,
        shape,
        points: run.values.iter().map(|value| Mark::bare(value.0, y(value))).collect(),
        trials: Vec::new(),
        level: None,
        published: Vec::new(),
    };
    Some(Chart {
        description: format!("Value over evaluations; the lowest of {} is {}", last.0, significant(last.2)),
        x_label: "Evaluations".to_owned(),
        y_label: "Value".to_owned(),
        x_ticks: Vec::new(),
        categorical: false,
        log_x: false,
        log_y: least > 0.0 && most > 100.0 * least,
        y_bounds: (f64::NEG_INFINITY, f64::INFINITY),
        rules: Vec::new(),
        ideal: None,
        published: "",
        beside: None,
        curves: vec![
            curve("lowest so far", 0, Shape::Band, &|value| value.2),
            curve("lowest of a stretch", 1, Shape::Band, &|value| value.1),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_complete_and_escaped() {
        let empty = minimized(&Minimized::default());
        assert!(empty.contains("</html>") && !empty.contains("<svg"));
        let run = Minimized {
            command: "<script>alert(1)</script>".to_owned(),
            best: Some((3, 1e-300)),
            failures: vec![(1, "<b>it fell</b>".to_owned())],
            n_failed: 1,
            values: vec![(1.0, 1e300, 1e300), (2.0, -1.0, -1.0), (3.0, 1e-300, -1.0)],
            ..Minimized::default()
        };
        let page = minimized(&run);
        assert!(page.contains("<svg") && page.contains("it fell"));
        assert!(!page.contains("<script>") && !page.contains("<b>it"));
    }
}
