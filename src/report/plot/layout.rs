//! Where everything in a figure goes.

use super::axis::{along, is_visible, log_ticks, nice_step, steps, x_range, y_axis};
use super::{Frame, MARGIN, SHARE_OF_OURS, Spot, TEXT, TITLE, text_width};
use crate::report::chart::{Chart, Curve, Mark, Shape};
use crate::report::text::position;

/// Length of a legend entry's sample in points.
pub(super) const LEGEND_SAMPLE: f64 = 30.0;
const LEGEND_ROW: f64 = 21.0;
/// Between a curve's end and its name.
pub(super) const NAME_GAP: f64 = 26.0;
/// Distance of names at the ends of curves.
const NAME_ROW: f64 = 17.0;
/// Farther than this from the end of its curve a name is not taken for it.
const FARTHEST_NAME: f64 = 40.0;
/// Names wider than this stand in the legend.
const WIDEST_NAME: f64 = 230.0;

/// Room for the names of curves at their ends: where there are several lines over the course of something, not too many
/// to stand below each other.
fn width_of_names(chart: &Chart) -> Option<f64> {
    let is_course = chart.curves.iter().all(|curve| curve.shape == Shape::Band);
    if !is_course || !(2..=12).contains(&chart.curves.len()) {
        return None;
    }
    let widest = chart.curves.iter().map(|curve| text_width(&curve.label)).fold(0.0, f64::max);
    (widest <= WIDEST_NAME).then_some(widest)
}

/// Where everything goes, in points.
pub(super) struct Layout {
    /// Left and right end of the drawing's own place.
    edges: (f64, f64),
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// Ends of the axes: logarithms on logarithmic ones.
    pub(super) x_range: (f64, f64),
    pub(super) y_range: (f64, f64),
    pub(super) log_x: bool,
    pub(super) log_y: bool,
    pub(super) x_ticks: Vec<Tick>,
    pub(super) y_ticks: Vec<(f64, String)>,
    pub(super) legend: Vec<Entry>,
    /// Names of curves at their ends, in place of the legend.
    pub(super) ends: Vec<End>,
    /// What stands to the right.
    pub(super) beside: Option<Box<Layout>>,
}

/// The name of a curve at its end.
pub(super) struct End {
    pub(super) curve_idx: usize,
    /// Where the curve ends.
    pub(super) from: Spot,
    /// Baseline of the name.
    pub(super) baseline: f64,
}

/// A label on the x axis.
pub(super) struct Tick {
    pub(super) x: f64,
    /// Middle of the label in points; off the tick only at the page's edge.
    pub(super) center: f64,
    pub(super) text: String,
    /// Rows below the first, for names that would touch others.
    pub(super) row: usize,
}

/// A line of the legend.
pub(super) struct Entry {
    pub(super) spot: Spot,
    pub(super) text: String,
    /// `None` for the entry that explains the paper's marks.
    pub(super) curve_idx: Option<usize>,
}

impl Layout {
    pub(super) fn of(chart: &Chart, frame: &Frame) -> Self {
        let (own, other) = match &chart.beside {
            Some(beside) if frame.has_legend => {
                let width = (frame.width * SHARE_OF_OURS).round();
                let right = Frame { left: frame.left + width, width: frame.width - width, ..*frame };
                (Frame { width, ..*frame }, Some(Box::new(Self::of_one(beside, &right))))
            }
            _ => (Frame { ..*frame }, None),
        };
        let mut layout = Self::of_one(chart, &own);
        let n_rows = other.iter().map(|other| other.n_tick_rows()).fold(layout.n_tick_rows(), f64::max);
        let legend_top = layout.x_label_baseline(n_rows) + 18.0;
        if frame.has_legend && layout.ends.is_empty() {
            layout.legend = layout.place_legend(chart, legend_top, frame.left + frame.width - MARGIN - 14.0);
        }
        let end = match layout.legend.last() {
            Some(entry) => entry.spot.1,
            None if layout.ends.is_empty() => legend_top - LEGEND_ROW,
            None => legend_top - LEGEND_ROW + 6.0,
        };
        layout.width = frame.width;
        layout.height = (end + 8.0 + MARGIN).ceil();
        layout.beside = other;
        layout
    }

    /// Axes and names at the ends of curves, without a legend. Names that would stand far from their ends are left out.
    fn of_one(chart: &Chart, frame: &Frame) -> Self {
        let names = if frame.has_legend { width_of_names(chart) } else { None };
        let layout = Self::with_names(chart, frame, names);
        let middle = |end: &End| end.baseline - 0.36 * TEXT;
        if layout.ends.iter().any(|end| (middle(end) - end.from.1).abs() > FARTHEST_NAME) {
            return Self::with_names(chart, frame, None);
        }
        layout
    }

    fn with_names(chart: &Chart, frame: &Frame, names: Option<f64>) -> Self {
        let (y_range, y_ticks) = y_axis(chart);
        let widest = y_ticks.iter().map(|(_, text)| text_width(text)).fold(0.0, f64::max);
        let left = frame.left + MARGIN + widest + 10.0;
        let right = frame.left + frame.width - MARGIN - names.map_or(14.0, |width| width + NAME_GAP);
        let top = MARGIN + TITLE;
        let mut layout = Self {
            edges: (frame.left, frame.left + frame.width),
            width: frame.width,
            height: 0.0,
            left,
            right,
            top,
            bottom: top + frame.plot_height,
            x_range: x_range(chart),
            y_range,
            log_x: chart.log_x,
            log_y: chart.log_y,
            x_ticks: Vec::new(),
            y_ticks,
            legend: Vec::new(),
            ends: Vec::new(),
            beside: None,
        };
        layout.x_ticks = layout.place_x_ticks(chart);
        if names.is_some() {
            layout.ends = layout.place_ends(chart);
        }
        layout
    }

    /// Names beside the ends of curves, moved apart where they would touch, in the order of the ends.
    fn place_ends(&self, chart: &Chart) -> Vec<End> {
        let end = |(curve_idx, curve): (usize, &Curve)| {
            let last = self.visible(&curve.points).into_iter().max_by(|a, b| a.x.total_cmp(&b.x))?;
            let from = (self.x(last.x), self.y(last.y));
            Some(End { curve_idx, from, baseline: from.1 + 0.36 * TEXT })
        };
        let mut ends: Vec<End> = chart.curves.iter().enumerate().filter_map(end).collect();
        ends.sort_by(|a, b| a.from.1.total_cmp(&b.from.1));
        let lowest = self.bottom + 0.36 * TEXT;
        for idx in 1..ends.len() {
            ends[idx].baseline = ends[idx].baseline.max(ends[idx - 1].baseline + NAME_ROW);
        }
        let mut limit = lowest;
        for end in ends.iter_mut().rev() {
            end.baseline = end.baseline.min(limit);
            limit = end.baseline - NAME_ROW;
        }
        ends
    }

    /// The left end of its place.
    pub(super) fn edge(&self) -> f64 {
        self.edges.0
    }

    pub(super) fn n_tick_rows(&self) -> f64 {
        self.x_ticks.iter().map(|t| t.row + 1).max().unwrap_or(1) as f64
    }

    pub(super) fn x_label_baseline(&self, n_tick_rows: f64) -> f64 {
        self.bottom + 20.0 + 16.0 * (n_tick_rows - 1.0) + 23.0
    }

    pub(super) fn x(&self, x: f64) -> f64 {
        let (low, high) = self.x_range;
        self.left + (along(x, self.log_x) - low) / (high - low) * (self.right - self.left)
    }

    pub(super) fn y(&self, y: f64) -> f64 {
        let (low, high) = self.y_range;
        self.bottom - (along(y, self.log_y) - low) / (high - low) * (self.bottom - self.top)
    }

    /// The marks of a curve that have a place on the axes.
    pub(super) fn visible(&self, marks: &[Mark]) -> Vec<Mark> {
        marks.iter().filter(|mark| is_visible(mark, self.log_x, self.log_y)).copied().collect()
    }

    /// Smallest distance between two positions that have points; 0 without such positions.
    pub(super) fn tick_spacing(&self, chart: &Chart) -> f64 {
        let xs: Vec<f64> = chart.x_ticks.iter().map(|(x, _)| self.x(*x)).filter(|x| x.is_finite()).collect();
        let distances = xs.windows(2).map(|ends| ends[1] - ends[0]);
        match xs.len() {
            0 => 0.0,
            1 => self.right - self.left,
            _ => distances.fold(f64::INFINITY, f64::min),
        }
    }

    /// Where a mark's interval ends, above (`side` = 1) or below (−1).
    pub(super) fn y_edge(&self, mark: &Mark, side: f64) -> f64 {
        let edge = if side > 0.0 { mark.high } else { mark.low };
        // What has no logarithm lies below every axis.
        if self.log_y && edge <= 0.0 { self.bottom } else { self.y(edge).clamp(self.top, self.bottom) }
    }

    fn place_x_ticks(&self, chart: &Chart) -> Vec<Tick> {
        const GAP: f64 = 8.0;
        /// Long names at neighboring ticks stand below each other.
        const N_ROWS_MAX: usize = 4;
        /// More labels than this are no longer read one by one.
        const N_LABELS_MAX: usize = 12;
        let given = !chart.x_ticks.is_empty() && (chart.categorical || chart.x_ticks.len() <= N_LABELS_MAX);
        /// More names than this stand in one row, only every so many of them.
        const N_NAMES_MAX: usize = 16;
        let candidates: Vec<(f64, String)> = if given {
            chart.x_ticks.iter().filter(|(x, _)| self.x(*x).is_finite()).cloned().collect()
        } else if chart.log_x {
            log_ticks(self.x_range)
        } else {
            let (low, high) = self.x_range;
            let step = nice_step((high - low) / 8.0).max(if chart.x_ticks.is_empty() { 1.0 } else { 0.0 });
            steps(low, high, step).map(|x| (x, position(x))).collect()
        };
        let is_thinned = chart.categorical && candidates.len() > N_NAMES_MAX;
        let n_rows = if chart.categorical && !is_thinned { N_ROWS_MAX } else { 1 };
        let stride = if is_thinned { self.stride(&candidates, GAP) } else { 1 };
        let mut row_ends = [f64::NEG_INFINITY; N_ROWS_MAX];
        let mut ticks = Vec::new();
        for (idx, (x, text)) in candidates.into_iter().enumerate() {
            if idx % stride != 0 {
                ticks.push(Tick { x, center: self.x(x), text: String::new(), row: 0 });
                continue;
            }
            let half = text_width(&text) / 2.0;
            let (first, last) = (self.edges.0 + MARGIN + half, self.edges.1 - MARGIN - half);
            let center = self.x(x).clamp(first, last.max(first));
            let start = center - half;
            if let Some(row) = (0..n_rows).find(|row| row_ends[*row] + GAP <= start) {
                row_ends[row] = start + 2.0 * half;
                ticks.push(Tick { x, center, text, row });
            } else {
                ticks.push(Tick { x, center, text: String::new(), row: 0 });
            }
        }
        ticks
    }

    /// The smallest step at which names at equal distances do not touch each other.
    fn stride(&self, names: &[(f64, String)], gap: f64) -> usize {
        let spacing = (self.right - self.left) / names.len().max(1) as f64;
        let fits = |stride: &usize| {
            let shown: Vec<f64> = names.iter().step_by(*stride).map(|(_, text)| text_width(text)).collect();
            shown.windows(2).all(|ends| f64::midpoint(ends[0], ends[1]) + gap <= spacing * *stride as f64)
        };
        (1..names.len()).find(fits).unwrap_or(names.len().max(1))
    }

    fn place_legend(&self, chart: &Chart, top: f64, right: f64) -> Vec<Entry> {
        let mut texts: Vec<(String, Option<usize>)> =
            chart.curves.iter().enumerate().map(|(idx, curve)| (curve.label.clone(), Some(idx))).collect();
        if chart.curves.iter().any(|curve| !curve.published.is_empty()) {
            texts.push((chart.published.into(), None));
        }
        let (mut x, mut y) = (self.left, top);
        let mut entries = Vec::new();
        for (text, curve_idx) in texts {
            let width = LEGEND_SAMPLE + 7.0 + text_width(&text) + 22.0;
            if x > self.left && x + width - 22.0 > right {
                (x, y) = (self.left, y + LEGEND_ROW);
            }
            entries.push(Entry { spot: (x, y), text, curve_idx });
            x += width;
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::{WHOLE, load_font, svg};

    /// Oracle: by hand. From 10 at one worker the line rises to 20 where the two cores end, and to 40 without an end.
    #[test]
    fn ideal_lines_end_at_the_cores() {
        let curve = Curve {
            label: "made up".into(),
            look: 0,
            shape: Shape::Markers,
            points: vec![Mark::bare(1.0, 10.0), Mark::bare(4.0, 15.0)],
            trials: Vec::new(),
            level: None,
            published: Vec::new(),
        };
        for (cap, bend, end) in [(2.0, 2.0, 20.0), (f64::INFINITY, 4.0, 40.0), (0.5, 1.0, 10.0)] {
            let chart = Chart { ideal: Some(cap), curves: vec![curve.clone()], ..Chart::empty() };
            let line = chart.ideal_line(&chart.curves[0]).unwrap().map(|mark| (mark.x, mark.y));
            assert_eq!(line, [(1.0, 10.0), (bend, end), (4.0, end)]);
            let ((low, high), _) = y_axis(&chart);
            assert!(low <= 0.0 && (end.max(15.0)..45.0).contains(&high), "{cap}: {low} to {high}");
        }
    }

    #[test]
    fn logarithmic_ranges_forget_what_is_not_positive() {
        let mark = |y, spread| Mark::spread(1.0, y, spread);
        let curve = Curve {
            label: "made up".into(),
            look: 0,
            shape: Shape::Markers,
            points: vec![mark(0.0, 0.0), mark(-3.0, 1.0), mark(10.0, 20.0), mark(1000.0, 0.0)],
            trials: Vec::new(),
            level: None,
            published: Vec::new(),
        };
        let chart =
            Chart { log_y: true, y_bounds: (0.0, f64::INFINITY), curves: vec![curve], ..Chart::empty() };
        // From 10, whose error bar ends below zero, to 1000: two decades and 6 % on either side.
        let ((low, high), ticks) = y_axis(&chart);
        assert!((low - 0.88).abs() < 1e-9 && (high - 3.12).abs() < 1e-9, "{low} to {high}");
        assert_eq!(ticks.len(), 3);
        load_font();
        let layout = Layout::of(&chart, &WHOLE);
        assert_eq!(layout.visible(&chart.curves[0].points).len(), 2);
        assert!((layout.y_edge(&chart.curves[0].points[2], -1.0) - layout.bottom).abs() < 1e-9);
        assert!(!svg(&chart).contains("NaN"));
    }
}
