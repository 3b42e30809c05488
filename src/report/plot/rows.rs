//! A figure whose values all stand at one x: a row for each series with its name, and the values from left to right.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::axis::{along, is_visible, y_axis};
use super::canvas::{Canvas, LIMIT, PALETTE, RULE, draw_diamond, draw_marker, draw_ring};
use super::{Frame, INK, MARGIN, SHARE_OF_OURS, TEXT, TITLE, text_width};
use crate::report::chart::{Chart, Curve, Mark, Shape};
use crate::report::text::position;

/// Height of a row in points.
const ROW: f64 = 27.0;
/// The same where there is little room.
const NARROW_ROW: f64 = 17.0;
/// Between names and values, and between two panels.
const GAP: f64 = 16.0;
/// Height of the labels of the axis, and of a legend below them.
const LINE_BELOW: f64 = 24.0;
/// Names that take more than this share of the width leave too little to the values.
const WIDEST_NAMES: f64 = 0.55;

/// Where everything goes, in points.
pub(super) struct Rows<'c> {
    pub(super) width: f64,
    pub(super) height: f64,
    /// Left end of the names.
    start: f64,
    top: f64,
    row: f64,
    /// Whether a line below explains published values among ours.
    has_legend: bool,
    /// The series by row, by what they look like.
    looks: Vec<usize>,
    panels: Vec<Panel<'c>>,
}

/// Values with an axis.
struct Panel<'c> {
    chart: &'c Chart,
    left: f64,
    right: f64,
    range: (f64, f64),
    ticks: Vec<(f64, String)>,
}

/// What is seen of a curve at its only place.
fn mark(curve: &Curve) -> Option<Mark> {
    curve.points.first().copied().or(curve.level)
}

impl<'c> Rows<'c> {
    /// `None` if values stand at several places, or names are too long.
    pub(super) fn of(chart: &'c Chart, frame: &Frame) -> Option<Self> {
        if !chart.is_at_one_place() {
            return None;
        }
        let widest = chart.curves.iter().map(|curve| text_width(&curve.label)).fold(0.0, f64::max);
        if widest > WIDEST_NAMES * frame.width {
            return None;
        }
        let beside = chart.beside.as_deref().filter(|_| frame.has_legend);
        let start = frame.left + MARGIN;
        let (left, right) = (start + widest + GAP, frame.left + frame.width - MARGIN - GAP);
        let end = if beside.is_some() { left + (right - left) * SHARE_OF_OURS - GAP } else { right };
        let mut panels = vec![Panel::of(chart, left, end)];
        panels.extend(beside.map(|beside| Panel::of(beside, end + 3.0 * GAP, right)));
        let looks: Vec<usize> = chart.curves.iter().map(|curve| curve.look).collect();
        let row = if frame.has_legend { ROW } else { NARROW_ROW };
        let top = MARGIN + TITLE;
        let has_legend = frame.has_legend && chart.curves.iter().any(|curve| !curve.published.is_empty());
        let n_lines = if has_legend { 2.0 } else { 1.0 };
        let height = (top + row * looks.len() as f64 + LINE_BELOW * n_lines + MARGIN).ceil();
        Some(Self { width: frame.width, height, start, top, row, has_legend, looks, panels })
    }

    fn bottom(&self) -> f64 {
        self.top + self.row * self.looks.len() as f64
    }

    /// The middle of a series' row.
    fn middle(&self, look: usize) -> Option<f64> {
        let idx = self.looks.iter().position(|known| *known == look)?;
        Some(self.top + self.row * (idx as f64 + 0.5))
    }

    pub(super) fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) {
        let [panel, ..] = self.panels.as_slice() else { return };
        for curve in &panel.chart.curves {
            if let Some(y) = self.middle(curve.look) {
                canvas.text(&curve.label, (panel.left - GAP, y + 0.36 * TEXT), HPos::Right);
            }
        }
        let (own, baseline) = (title(panel.chart), self.top - 20.0);
        canvas.text(&own, (self.start, baseline), HPos::Left);
        for other in &self.panels[1..] {
            // Where the place has no room, it is left out.
            let (from, to) = (self.start + text_width(&own) + GAP, self.width - MARGIN);
            let texts = [title(other.chart), other.chart.y_label.clone()];
            let text = texts.iter().find(|text| text_width(text) <= to - from).unwrap_or(&texts[1]);
            canvas.text(text, (other.left.min(to - text_width(text)), baseline), HPos::Left);
        }
        for panel in &self.panels {
            self.draw_axis(panel, canvas);
            for curve in &panel.chart.curves {
                if let Some(y) = self.middle(curve.look) {
                    panel.draw_curve(curve, y, self.row, canvas);
                }
            }
        }
        if self.has_legend {
            let (x, y) = (panel.left + 8.0, self.bottom() + LINE_BELOW + 18.0);
            draw_diamond((x, y - 0.36 * TEXT), INK, canvas);
            canvas.text(panel.chart.published, (x + 16.0, y), HPos::Left);
        }
        canvas.area.present().expect("drawing into memory cannot fail");
    }

    fn draw_axis<DB: DrawingBackend>(&self, panel: &Panel, canvas: &Canvas<DB>) {
        let (top, bottom) = (self.top, self.bottom());
        for (idx, look) in self.looks.iter().enumerate() {
            // A faint guide from the name to its values.
            if panel.chart.curves.iter().any(|curve| curve.look == *look) {
                let y = top + self.row * (idx as f64 + 0.5);
                canvas.dashed(&[(panel.left, y), (panel.right, y)], &[1.0, 4.0], INK.mix(0.3), 1.0);
            }
        }
        let mut free_from = f64::NEG_INFINITY;
        for (value, text) in &panel.ticks {
            let x = panel.x(*value);
            canvas.line(&[(x, top), (x, bottom)], INK.mix(0.16), 1.0);
            let half = text_width(text) / 2.0;
            if x - half >= free_from {
                canvas.text(text, (x, bottom + 20.0), HPos::Center);
                free_from = x + half + 10.0;
            }
        }
        for (idx, x) in panel.chart.rules.iter().map(|rule| panel.x(*rule)).enumerate() {
            if !x.is_finite() {
                continue;
            }
            match idx {
                0 => canvas.dashed(&[(x, top), (x, bottom)], &RULE, INK.mix(0.85), 1.4),
                _ => canvas.dashed(&[(x, top), (x, bottom)], &LIMIT, INK.mix(0.5), 1.0),
            }
        }
        canvas.line(&[(panel.left, bottom), (panel.right, bottom)], INK.mix(0.7), 1.2);
    }
}

/// The values, and where they stand.
fn title(chart: &Chart) -> String {
    let mut marks = chart.curves.iter().flat_map(|curve| curve.points.iter().chain(&curve.published));
    let Some(x) = marks.find(|mark| !mark.x.is_nan()).map(|mark| mark.x) else {
        return chart.y_label.clone();
    };
    let tick = chart.x_ticks.iter().find(|(at, _)| at.total_cmp(&x).is_eq());
    match tick.map(|(_, text)| text.clone()).or((!chart.categorical).then(|| position(x))) {
        Some(text) => format!("{} · {} {text}", chart.y_label, chart.x_label),
        None => chart.y_label.clone(),
    }
}

impl<'c> Panel<'c> {
    fn of(chart: &'c Chart, left: f64, right: f64) -> Self {
        let (range, ticks) = y_axis(chart);
        Self { chart, left, right, range, ticks }
    }

    fn x(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        self.left + (along(value, self.chart.log_y) - low) / (high - low) * (self.right - self.left)
    }

    /// Where an end of an interval stands.
    fn edge(&self, value: f64) -> f64 {
        // What has no logarithm lies below every axis.
        let is_below = self.chart.log_y && value <= 0.0;
        if is_below { self.left } else { self.x(value).clamp(self.left, self.right) }
    }

    fn draw_curve<DB: DrawingBackend>(&self, curve: &Curve, y: f64, row: f64, canvas: &Canvas<DB>) {
        let color = PALETTE[curve.look % PALETTE.len()];
        let is_seen = |mark: &Mark| is_visible(&Mark { x: 0.0, ..*mark }, false, self.chart.log_y);
        for (_, value) in &curve.trials {
            if is_seen(&Mark::bare(0.0, *value)) {
                canvas.disc((self.x(*value), y + 0.36 * row), 1.7, color.mix(0.75));
            }
        }
        if let Some(mark) = mark(curve).filter(is_seen) {
            if mark.has_interval() {
                let ends = [self.edge(mark.low), self.edge(mark.high)];
                canvas.line(&[(ends[0], y), (ends[1], y)], color, 1.2);
                for x in ends {
                    canvas.line(&[(x, y - 3.5), (x, y + 3.5)], color, 1.2);
                }
            }
            let spot = (self.x(mark.y), y);
            match curve.shape {
                Shape::Hollow => draw_diamond(spot, color, canvas),
                Shape::Model => draw_ring(spot, color, canvas),
                _ => draw_marker(curve.look, spot, canvas),
            }
        }
        for published in curve.published.iter().filter(|mark| is_seen(mark)) {
            draw_diamond((self.x(published.y), y), color, canvas);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::{THUMBNAIL, WHOLE, load_font};

    fn curve(look: usize, marks: &[Mark], level: Option<Mark>) -> Curve {
        let (label, shape) = (format!("series {look}"), Shape::Markers);
        Curve { label, look, shape, points: marks.to_vec(), trials: Vec::new(), level, published: Vec::new() }
    }

    /// By hand: a row for each series in their order, also for a level and in a thumbnail; two places, or a line over the
    /// course of something, are no rows.
    #[test]
    fn one_place_makes_rows() {
        load_font();
        let at = |x, y| Mark::bare(x, y);
        let curves = vec![
            curve(0, &[at(3.0, 1.0)], None),
            curve(2, &[at(3.0, 5.0)], None),
            curve(1, &[], Some(at(f64::NAN, 3.0))),
        ];
        let chart = Chart {
            y_label: "Value".into(),
            x_label: "Place".into(),
            curves: curves.clone(),
            ..Chart::empty()
        };
        for frame in [&WHOLE, &THUMBNAIL] {
            let rows = Rows::of(&chart, frame).expect("one place");
            let middles: Vec<f64> = [0, 2, 1].iter().map(|look| rows.middle(*look).unwrap()).collect();
            assert!(middles.windows(2).all(|pair| (pair[1] - pair[0] - rows.row).abs() < 1e-9));
            assert_eq!(rows.middle(7), None);
            let [panel] = rows.panels.as_slice() else { panic!("one panel") };
            assert!(panel.x(1.0) >= panel.left && panel.x(1.0) < panel.x(3.0) && panel.x(5.0) <= panel.right);
            assert!(rows.bottom() < rows.height && panel.right < frame.width);
        }
        assert_eq!(title(&chart), "Value · Place 3");
        let with = |other: Curve| Chart { curves: [curves.clone(), vec![other]].concat(), ..chart.clone() };
        let two_places = with(curve(3, &[at(4.0, 1.0)], None));
        let two_points = with(curve(3, &[at(3.0, 1.0), at(3.0, 2.0)], None));
        let course = with(Curve { shape: Shape::Band, ..curve(3, &[at(3.0, 1.0)], None) });
        let long = with(Curve { label: "a name ".repeat(20), ..curve(3, &[at(3.0, 1.0)], None) });
        let levels = Chart { curves: curves[2..].to_vec(), ..chart.clone() };
        for other in [&two_places, &two_points, &course, &long, &levels, &Chart::empty()] {
            assert!(Rows::of(other, &WHOLE).is_none(), "{other:?}");
        }
    }
}
