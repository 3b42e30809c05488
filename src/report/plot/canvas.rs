//! Draws curves, axes and legend with a plotters backend.

use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::is_visible;
use super::layout::{Entry, LEGEND_SAMPLE, Layout, NAME_GAP};
use super::{FAMILY, INK, LINE, MARGIN, Spot, TEXT};
use crate::report::chart::{Chart, Curve, Mark, N_COLORS, Shape};
use crate::report::text::position;

/// Okabe and Ito's palette without black (which is our ink) and yellow (too pale on white), then an
/// olive and a purple that read on light and dark.
pub(super) const PALETTE: [RGBColor; N_COLORS] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x8a, 0x8a, 0x2c),
    RGBColor(0x8c, 0x5c, 0xc4),
];
/// Lengths of strokes and gaps in points.
const DASHES: [&[f64]; 8] = [
    &[],
    &[7.0, 4.0],
    &[2.0, 3.0],
    &[9.0, 3.0, 2.0, 3.0],
    &[14.0, 5.0],
    &[9.0, 3.0, 2.0, 3.0, 2.0, 3.0],
    &[4.0, 2.5],
    &[14.0, 3.0, 5.0, 3.0],
];
/// Shapes of markers. Eight colors and dash patterns against seven shapes: 56 combinations before one
/// comes back.
const N_MARKERS: usize = 7;

/// The pattern of a look: with every return of the colors they are one further.
fn dashes_of(look: usize) -> &'static [f64] {
    DASHES[(look + look / PALETTE.len()) % DASHES.len()]
}

/// A plotters backend with coordinates in points.
pub(super) struct Canvas<DB: DrawingBackend> {
    pub(super) area: DrawingArea<DB, Shift>,
    /// Backend units per point.
    pub(super) zoom: f64,
    /// Distance in em from where the backend is told to draw text down to its baseline.
    pub(super) ascent: f64,
}

impl<DB: DrawingBackend> Canvas<DB> {
    fn at(&self, (x, y): Spot) -> (i32, i32) {
        ((x * self.zoom).round() as i32, (y * self.zoom).round() as i32)
    }

    fn stroke(&self, color: impl Color + Copy, width: f64) -> ShapeStyle {
        ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: (width * self.zoom).round() as u32 }
    }

    pub(super) fn line(&self, spots: &[Spot], color: impl Color + Copy, width: f64) {
        let path: Vec<_> = spots.iter().map(|s| self.at(*s)).collect();
        self.draw(&PathElement::new(path, self.stroke(color, width)));
    }

    /// A line in strokes and gaps of the given lengths.
    pub(super) fn dashed(&self, spots: &[Spot], pattern: &[f64], color: impl Color + Copy, width: f64) {
        if pattern.is_empty() {
            return self.line(spots, color, width);
        }
        for stroke in dashes(spots, pattern) {
            self.line(&stroke, color, width);
        }
    }

    fn fill(&self, spots: &[Spot], color: impl Color + Copy) {
        let corners: Vec<_> = spots.iter().map(|s| self.at(*s)).collect();
        self.draw(&Polygon::new(corners, color.filled()));
    }

    pub(super) fn disc(&self, center: Spot, radius: f64, color: impl Color + Copy) {
        let radius = (radius * self.zoom).round() as i32;
        self.draw(&Circle::new(self.at(center), radius, color.filled()));
    }

    /// One line of text whose baseline starts, centers or ends at the spot.
    pub(super) fn text(&self, text: &str, baseline: Spot, anchor: HPos) {
        let size = TEXT * LINE * self.zoom;
        let style = TextStyle::from((FAMILY, size).into_font()).color(&INK).pos(Pos::new(anchor, VPos::Top));
        let spot = (baseline.0, baseline.1 - self.ascent * TEXT);
        self.draw(&Text::new(text.to_owned(), self.at(spot), style));
    }

    fn draw<E>(&self, element: &E)
    where
        for<'e> &'e E: PointCollection<'e, (i32, i32)>,
        E: Drawable<DB>,
    {
        self.area.draw(element).expect("drawing into memory with a loaded font cannot fail");
    }
}

/// Cuts a line into strokes.
fn dashes(spots: &[Spot], pattern: &[f64]) -> Vec<Vec<Spot>> {
    let mut strokes = Vec::new();
    let mut current = vec![spots[0]];
    let (mut idx, mut left) = (0, pattern[0]);
    for ends in spots.windows(2) {
        let (mut from, to) = (ends[0], ends[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if length.is_nan() || length < left {
                left -= length;
                current.push(to);
                break;
            }
            let share = left / length;
            from = (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
            current.push(from);
            if idx % 2 == 0 {
                strokes.push(std::mem::take(&mut current));
            }
            current = vec![from];
            idx += 1;
            left = pattern[idx % pattern.len()];
        }
    }
    if idx % 2 == 0 && current.len() > 1 {
        strokes.push(current);
    }
    strokes
}

/// Draws the chart.
pub(super) fn draw<DB: DrawingBackend>(chart: &Chart, layout: &Layout, canvas: &Canvas<DB>) {
    draw_one(chart, layout, canvas);
    if let (Some(chart), Some(layout)) = (&chart.beside, &layout.beside) {
        draw_one(chart, layout, canvas);
    }
    for entry in &layout.legend {
        draw_entry(chart, entry, canvas);
    }
    canvas.area.present().expect("drawing into memory cannot fail");
}

/// Axes and what stands on them.
fn draw_one<DB: DrawingBackend>(chart: &Chart, layout: &Layout, canvas: &Canvas<DB>) {
    draw_axes(chart, layout, canvas);
    for curve in &chart.curves {
        if !chart.is_crowded() {
            draw_band(curve, layout, canvas);
        }
    }
    // Error bars at the same x stand side by side where there is room; on a logarithmic axis, that would change x.
    let has_mark = |curve: &Curve, x: f64| {
        curve.points.iter().chain(&curve.published).any(|mark| mark.x.total_cmp(&x).is_eq())
    };
    let n_at = |x: f64, curves: &[Curve]| curves.iter().filter(|curve| has_mark(curve, x)).count();
    let xs = chart.curves.iter().flat_map(|curve| &curve.points).map(|mark| mark.x);
    let n = xs.map(|x| n_at(x, &chart.curves)).max().unwrap_or(1) as f64;
    // Without lines through them they may stand well apart.
    let is_line = |curve: &Curve| curve.shape != Shape::Dots && curve.points.len() > 1;
    let has_lines = chart.curves.iter().any(is_line);
    let most = match chart.categorical {
        true if has_lines => 7.0,
        true => 26.0,
        false => 4.0,
    };
    let gap = (0.5 * layout.tick_spacing(chart) / n).min(most);
    let gap = if gap < 2.0 || chart.log_x { 0.0 } else { gap };
    for (idx, curve) in chart.curves.iter().enumerate() {
        let shift = |x: f64| {
            let (before, all) = (n_at(x, &chart.curves[..idx]), n_at(x, &chart.curves));
            gap * (before as f64 - (all as f64 - 1.0) / 2.0)
        };
        draw_curve(chart, curve, layout, canvas, &shift);
    }
    for end in &layout.ends {
        let curve = &chart.curves[end.curve_idx];
        let color = PALETTE[curve.look % PALETTE.len()];
        let start = layout.right + NAME_GAP - 6.0;
        let middle = end.baseline - 0.36 * TEXT;
        let bend = (layout.right + 6.0).max(end.from.0 + 4.0);
        canvas.line(&[(end.from.0 + 2.0, end.from.1), (bend, end.from.1), (start - 4.0, middle)], color, 0.9);
        canvas.text(&curve.label, (start, end.baseline), HPos::Left);
    }
}

/// Strokes and gaps of the line that values are compared with.
pub(super) const RULE: [f64; 2] = [3.0, 3.0];
/// Strokes and gaps of a limit around it.
pub(super) const LIMIT: [f64; 2] = [1.5, 5.0];

fn draw_axes<DB: DrawingBackend>(chart: &Chart, layout: &Layout, canvas: &Canvas<DB>) {
    let Layout { left, right, top, bottom, .. } = *layout;
    for (value, text) in &layout.y_ticks {
        let y = layout.y(*value);
        canvas.line(&[(left, y), (right, y)], INK.mix(0.16), 1.0);
        canvas.text(text, (left - 8.0, y + 0.36 * TEXT), HPos::Right);
    }
    for (idx, y) in chart.rules.iter().map(|y| layout.y(*y)).enumerate().filter(|(_, y)| y.is_finite()) {
        match idx {
            0 => canvas.dashed(&[(left, y), (right, y)], &RULE, INK.mix(0.85), 1.4),
            _ => canvas.dashed(&[(left, y), (right, y)], &LIMIT, INK.mix(0.5), 1.0),
        }
    }
    canvas.line(&[(left, bottom), (right, bottom)], INK.mix(0.7), 1.2);
    for tick in &layout.x_ticks {
        let x = layout.x(tick.x);
        canvas.line(&[(x, bottom), (x, bottom + 5.0)], INK.mix(0.7), 1.2);
        canvas.text(&tick.text, (tick.center, bottom + 20.0 + 16.0 * tick.row as f64), HPos::Center);
    }
    canvas.text(&chart.y_label, (layout.edge() + MARGIN, top - 20.0), HPos::Left);
    let middle = (left + right) / 2.0;
    canvas.text(&chart.x_label, (middle, layout.x_label_baseline(layout.n_tick_rows())), HPos::Center);
}

/// The spread around a level or a line without markers.
fn draw_band<DB: DrawingBackend>(curve: &Curve, layout: &Layout, canvas: &Canvas<DB>) {
    let color = PALETTE[curve.look % PALETTE.len()].mix(0.18);
    if let Some(level) = curve.level.filter(|m| m.has_interval() && is_visible(m, false, layout.log_y)) {
        let edge = |side| layout.y_edge(&level, side);
        let Layout { left, right, .. } = *layout;
        canvas.fill(&[(left, edge(1.0)), (right, edge(1.0)), (right, edge(-1.0)), (left, edge(-1.0))], color);
    }
    let points = layout.visible(&curve.points);
    if curve.shape == Shape::Band && points.iter().any(Mark::has_interval) {
        let edge = |side: f64| move |m: &Mark| (layout.x(m.x), layout.y_edge(m, side));
        let upper = points.iter().map(edge(1.0));
        let lower = points.iter().rev().map(edge(-1.0));
        canvas.fill(&upper.chain(lower).collect::<Vec<_>>(), color);
    }
}

fn draw_curve<DB: DrawingBackend>(
    chart: &Chart,
    curve: &Curve,
    layout: &Layout,
    canvas: &Canvas<DB>,
    shift: &dyn Fn(f64) -> f64,
) {
    let color = PALETTE[curve.look % PALETTE.len()];
    let dashes = dashes_of(curve.look);
    let points = layout.visible(&curve.points);
    let Layout { left, right, .. } = *layout;
    let is_hollow = curve.shape == Shape::Hollow;
    if let Some(level) = curve.level.filter(|m| is_visible(m, false, layout.log_y)) {
        let y = layout.y(level.y);
        if is_hollow {
            draw_published_level(&format!("{} {}", curve.label, position(level.y)), y, color, layout, canvas);
        } else {
            canvas.dashed(&[(left, y), (right, y)], dashes, color, 1.8);
            draw_marker(curve.look, (left + 14.0, y), canvas);
        }
    }
    // A line that leaves the axes, as that of a number beyond all sizes does, would take as many strokes as it is long.
    let is_on_axes = |line: &[Mark; 3]| line.iter().all(|mark| is_visible(mark, layout.log_x, layout.log_y));
    if let Some(line) = chart.ideal_line(curve).filter(is_on_axes) {
        canvas.dashed(&line.map(|mark| (layout.x(mark.x), layout.y(mark.y))), &RULE, color, 1.0);
    }
    let x = |m: &Mark| layout.x(m.x) + shift(m.x);
    let line: Vec<Spot> = points.iter().map(|m| (x(m), layout.y(m.y))).collect();
    if line.len() > 1 && curve.shape != Shape::Dots {
        let dashes = if curve.shape == Shape::Model { &RULE } else { dashes };
        canvas.dashed(&line, dashes, color, if is_hollow { 0.9 } else { 1.8 });
    }
    for (at, value) in &curve.trials {
        let trial = Mark::bare(*at, *value);
        if is_visible(&trial, layout.log_x, layout.log_y) {
            // Those of a level stand at its marker.
            let x = if at.is_nan() { left + 14.0 } else { x(&trial) };
            canvas.disc((x + 6.5, layout.y(*value)), 1.7, color.mix(0.75));
        }
    }
    if let Some(end) = points.last().filter(|_| curve.shape == Shape::Band && chart.is_crowded()) {
        draw_marker(curve.look, (x(end), layout.y(end.y)), canvas);
    }
    for mark in points.iter().filter(|_| curve.shape != Shape::Band) {
        let x = x(mark);
        if mark.has_interval() {
            let ends = [layout.y_edge(mark, 1.0), layout.y_edge(mark, -1.0)];
            canvas.line(&[(x, ends[0]), (x, ends[1])], color, 1.2);
            for y in ends {
                canvas.line(&[(x - 3.5, y), (x + 3.5, y)], color, 1.2);
            }
        }
        match curve.shape {
            Shape::Hollow => draw_diamond((x, layout.y(mark.y)), color, canvas),
            Shape::Model => draw_ring((x, layout.y(mark.y)), color, canvas),
            _ => draw_marker(curve.look, (x, layout.y(mark.y)), canvas),
        }
    }
    for mark in &layout.visible(&curve.published) {
        let y = layout.y(mark.y);
        if mark.x.is_nan() {
            draw_published_level(
                &format!("{} {}", chart.published, position(mark.y)),
                y,
                color,
                layout,
                canvas,
            );
        } else {
            draw_diamond((x(mark), y), color, canvas);
        }
    }
}

/// A published value that does not depend on x, and what it is.
fn draw_published_level<DB: DrawingBackend>(
    text: &str,
    y: f64,
    color: RGBColor,
    layout: &Layout,
    canvas: &Canvas<DB>,
) {
    canvas.dashed(&[(layout.left, y), (layout.right, y)], &[6.0, 4.0], color, 0.9);
    let below = y - layout.top < TEXT + 6.0;
    canvas.text(text, (layout.right, if below { y + TEXT + 2.0 } else { y - 5.0 }), HPos::Right);
}

/// The paper's value: large enough to frame the marker of an equal value of ours.
pub(super) fn draw_diamond<DB: DrawingBackend>((x, y): Spot, color: RGBColor, canvas: &Canvas<DB>) {
    const R: f64 = 8.0;
    let corners = [(x, y - R), (x + R, y), (x, y + R), (x - R, y)];
    for idx in 0..corners.len() {
        canvas.line(&[corners[idx], corners[(idx + 1) % corners.len()]], color, 1.4);
    }
}

/// What a model says.
pub(super) fn draw_ring<DB: DrawingBackend>((x, y): Spot, color: RGBColor, canvas: &Canvas<DB>) {
    const CORNERS: i32 = 20;
    const R: f64 = 4.2;
    let corner = |idx: i32| {
        let (sin, cos) = (std::f64::consts::TAU * f64::from(idx) / f64::from(CORNERS)).sin_cos();
        (x + R * cos, y + R * sin)
    };
    canvas.line(&(0..=CORNERS).map(corner).collect::<Vec<_>>(), color, 1.6);
}

/// Our value.
pub(super) fn draw_marker<DB: DrawingBackend>(look: usize, (x, y): Spot, canvas: &Canvas<DB>) {
    let color = PALETTE[look % PALETTE.len()];
    let polygon = |corners: &[Spot]| {
        let spots: Vec<Spot> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        canvas.fill(&spots, color);
    };
    match look % N_MARKERS {
        0 => canvas.disc((x, y), 4.2, color),
        1 => polygon(&[(-3.9, -3.9), (3.9, -3.9), (3.9, 3.9), (-3.9, 3.9)]),
        2 => polygon(&[(0.0, -5.0), (4.9, 3.6), (-4.9, 3.6)]),
        3 => polygon(&[(0.0, 5.0), (4.9, -3.6), (-4.9, -3.6)]),
        4 => {
            canvas.line(&[(x - 4.0, y - 4.0), (x + 4.0, y + 4.0)], color, 2.4);
            canvas.line(&[(x - 4.0, y + 4.0), (x + 4.0, y - 4.0)], color, 2.4);
        }
        5 => {
            canvas.line(&[(x - 5.0, y), (x + 5.0, y)], color, 2.4);
            canvas.line(&[(x, y - 5.0), (x, y + 5.0)], color, 2.4);
        }
        _ => polygon(&[(-2.4, -5.2), (2.4, -5.2), (2.4, 5.2), (-2.4, 5.2)]),
    }
}

fn draw_entry<DB: DrawingBackend>(chart: &Chart, entry: &Entry, canvas: &Canvas<DB>) {
    let (x, y) = entry.spot;
    let middle = y - 0.36 * TEXT + 4.0;
    let baseline = y + 4.0;
    match entry.curve_idx {
        None => draw_diamond((x + LEGEND_SAMPLE / 2.0, middle), INK, canvas),
        Some(idx) => {
            let curve = &chart.curves[idx];
            let color = PALETTE[curve.look % PALETTE.len()];
            let is_model = curve.shape == Shape::Model;
            let dashes = if is_model { &RULE } else { dashes_of(curve.look) };
            if curve.shape != Shape::Dots {
                canvas.dashed(&[(x, middle), (x + LEGEND_SAMPLE, middle)], dashes, color, 1.8);
            }
            if curve.points.is_empty() && curve.level.is_none() {
                draw_diamond((x + LEGEND_SAMPLE / 2.0, middle), color, canvas);
            } else if is_model {
                draw_ring((x + LEGEND_SAMPLE / 2.0, middle), color, canvas);
            } else if curve.shape != Shape::Band || chart.is_crowded() {
                draw_marker(curve.look, (x + LEGEND_SAMPLE / 2.0, middle), canvas);
            }
        }
    }
    canvas.text(&entry.text, (x + LEGEND_SAMPLE + 7.0, baseline), HPos::Left);
}
