//! Draws a [`Chart`] as SVG and PNG.
//!
//! Layout is done here, in points, and drawn with plotters' backends: title of the y axis above the
//! plot, title of the x axis and legend below it, so that nothing ever covers the data. Series differ
//! in color (Okabe and Ito's palette, "Color Universal Design", 2008, which color-blind readers can
//! tell apart), marker and dash pattern. The SVG has a transparent background and draws text and axes
//! in the current color: a mid-tone that can be read on light and dark, unless a page's style sheet
//! sets another for the class `deepzero-chart`.

use std::io::Cursor;
use std::sync::OnceLock;

use image::{ImageFormat, RgbImage};
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, RGBColor, register_font};

use super::chart::{Chart, Curve, Mark, Shape};
use super::text::{position, power_of_ten};

/// Width in points.
const WIDTH: f64 = 720.0;
/// Free space around everything in points.
const MARGIN: f64 = 8.0;
/// Height of the plotting area in points.
const PLOT_HEIGHT: f64 = 300.0;
/// Text size in points.
const TEXT: f64 = 13.0;
/// SVG coordinates per point: plotters only writes whole numbers.
const SVG_ZOOM: u32 = 20;
/// PNG pixels per point.
const PNG_ZOOM: u32 = 2;
/// Each PNG pixel is the mean of this many squared, which smooths edges.
const SUPERSAMPLING: u32 = 3;

/// Text and axes; stands for `currentColor` in SVG.
const INK: RGBColor = RGBColor(0x3c, 0x40, 0x43);
/// Ink of an SVG on a background we do not know: 4.3 times as light or dark as white or near-black.
const INK_ANYWHERE: &str = "#737a82";
/// Okabe and Ito's palette without black (which is our ink) and yellow (too pale on white), then an
/// olive and a purple that read on light and dark.
const PALETTE: [RGBColor; 8] = [
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

const FAMILY: &str = "sans-serif";
const FONT: &[u8] = include_bytes!("../../assets/Inter-Regular.otf");

/// The chart as an SVG document.
#[must_use]
pub fn svg(chart: &Chart) -> String {
    load_font();
    let layout = Layout::of(chart);
    let size = (WIDTH as u32 * SVG_ZOOM, layout.height as u32 * SVG_ZOOM);
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        // plotters places SVG text of VPos::Top 0.76 em above its baseline.
        let canvas = Canvas { area, zoom: f64::from(SVG_ZOOM), ascent: 0.76 };
        draw(chart, &layout, &canvas);
    }
    let body = drawn.split_once('\n').map_or("", |(_, body)| body);
    let font_size = TEXT * f64::from(SVG_ZOOM);
    let ink = format!("#{:02X}{:02X}{:02X}", INK.0, INK.1, INK.2);
    let body = body
        .replace(&format!("\"{ink}\""), "\"currentColor\"")
        .replace(" opacity=\"1\"", "")
        .replace("\"currentColor\">\n", "\"currentColor\">")
        .replace("\n</text>", "</text>")
        .replace(&format!("\"{}\"", TEXT * LINE * f64::from(SVG_ZOOM) / LINE), &format!("\"{font_size}\""))
        .replace(" \"/>", "\"/>");
    let description = escape(&chart.description);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"deepzero-chart\" width=\"{WIDTH}\" height=\"{}\" \
         viewBox=\"0 0 {} {}\" color=\"{INK_ANYWHERE}\" role=\"img\" aria-label=\"{description}\" \
         stroke-linejoin=\"round\">\n<title>{description}</title>\n{body}",
        layout.height, size.0, size.1,
    )
}

/// The chart as a PNG file on white, at two pixels per point.
#[must_use]
pub fn png(chart: &Chart) -> Vec<u8> {
    load_font();
    let layout = Layout::of(chart);
    let zoom = PNG_ZOOM * SUPERSAMPLING;
    let (width, height) = (WIDTH as u32 * zoom, layout.height as u32 * zoom);
    let mut pixels = vec![255; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        // plotters draws bitmap text of VPos::Top half its line height of 1.24 em above its baseline.
        let canvas = Canvas { area, zoom: f64::from(zoom), ascent: 0.62 };
        draw(chart, &layout, &canvas);
    }
    let small = shrink(&pixels, width as usize, height as usize);
    let mut file = Cursor::new(Vec::new());
    small.write_to(&mut file, ImageFormat::Png).expect("an RGB image in memory can be encoded");
    file.into_inner()
}

/// Means over squares of [`SUPERSAMPLING`] pixels.
fn shrink(pixels: &[u8], width: usize, height: usize) -> RgbImage {
    let n = SUPERSAMPLING as usize;
    let mut small = RgbImage::new((width / n) as u32, (height / n) as u32);
    for (x, y, pixel) in small.enumerate_pixels_mut() {
        for channel in 0..3 {
            let mut sum = 0;
            for row in y as usize * n..(y as usize + 1) * n {
                for column in x as usize * n..(x as usize + 1) * n {
                    sum += u32::from(pixels[(row * width + column) * 3 + channel]);
                }
            }
            pixel.0[channel] = (sum / (SUPERSAMPLING * SUPERSAMPLING)) as u8;
        }
    }
    small
}

fn load_font() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        assert!(register_font(FAMILY, FontStyle::Normal, FONT).is_ok(), "the embedded font is readable");
    });
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A position on the page, in points from the upper left corner.
type Spot = (f64, f64);

/// Where everything goes, in points.
struct Layout {
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Ends of the axes: logarithms on logarithmic ones.
    x_range: (f64, f64),
    y_range: (f64, f64),
    log_x: bool,
    log_y: bool,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<(f64, String)>,
    legend: Vec<Entry>,
}

/// A label on the x axis.
struct Tick {
    x: f64,
    /// Middle of the label in points; off the tick only at the page's edge.
    center: f64,
    text: String,
    /// Rows below the first, for names that would touch others.
    row: usize,
}

/// A line of the legend.
struct Entry {
    spot: Spot,
    text: String,
    /// `None` for the entry that explains the paper's marks.
    curve_idx: Option<usize>,
}

/// plotters means the height of a line where it says font size.
const LINE: f64 = 1.24;
const LEGEND_SAMPLE: f64 = 30.0;
const LEGEND_ROW: f64 = 21.0;

impl Layout {
    fn of(chart: &Chart) -> Self {
        let (y_range, y_ticks) = y_axis(chart);
        let widest = y_ticks.iter().map(|(_, text)| text_width(text)).fold(0.0, f64::max);
        let (left, right, top) = (MARGIN + widest + 10.0, WIDTH - MARGIN - 14.0, MARGIN + 34.0);
        let bottom = top + PLOT_HEIGHT;
        let x_range = x_range(chart);
        let mut layout = Self {
            height: 0.0,
            left,
            right,
            top,
            bottom,
            x_range,
            y_range,
            log_x: chart.log_x,
            log_y: chart.log_y,
            x_ticks: Vec::new(),
            y_ticks,
            legend: Vec::new(),
        };
        layout.x_ticks = layout.place_x_ticks(chart);
        let n_rows = layout.x_ticks.iter().map(|t| t.row + 1).max().unwrap_or(1) as f64;
        let legend_top = layout.x_label_baseline(n_rows) + 18.0;
        layout.legend = layout.place_legend(chart, legend_top);
        let end = layout.legend.last().map_or(legend_top, |entry| entry.spot.1 + LEGEND_ROW);
        layout.height = (end - LEGEND_ROW + 8.0 + MARGIN).ceil();
        layout
    }

    fn n_tick_rows(&self) -> f64 {
        self.x_ticks.iter().map(|t| t.row + 1).max().unwrap_or(1) as f64
    }

    fn x_label_baseline(&self, n_tick_rows: f64) -> f64 {
        self.bottom + 20.0 + 16.0 * (n_tick_rows - 1.0) + 23.0
    }

    fn x(&self, x: f64) -> f64 {
        let (low, high) = self.x_range;
        self.left + (along(x, self.log_x) - low) / (high - low) * (self.right - self.left)
    }

    fn y(&self, y: f64) -> f64 {
        let (low, high) = self.y_range;
        self.bottom - (along(y, self.log_y) - low) / (high - low) * (self.bottom - self.top)
    }

    /// The marks of a curve that have a place on the axes.
    fn visible(&self, marks: &[Mark]) -> Vec<Mark> {
        marks.iter().filter(|mark| is_visible(mark, self.log_x, self.log_y)).copied().collect()
    }

    /// Smallest distance between two positions that have points; 0 without such positions.
    fn tick_spacing(&self, chart: &Chart) -> f64 {
        let xs: Vec<f64> = chart.x_ticks.iter().map(|(x, _)| self.x(*x)).filter(|x| x.is_finite()).collect();
        let distances = xs.windows(2).map(|ends| ends[1] - ends[0]);
        match xs.len() {
            0 => 0.0,
            1 => self.right - self.left,
            _ => distances.fold(f64::INFINITY, f64::min),
        }
    }

    /// Where a mark's spread ends, above (`side` = 1) or below (−1).
    fn y_edge(&self, mark: &Mark, side: f64) -> f64 {
        let edge = mark.y + side * mark.spread;
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
            let center = self.x(x).clamp(MARGIN + half, (WIDTH - MARGIN - half).max(MARGIN + half));
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

    fn place_legend(&self, chart: &Chart, top: f64) -> Vec<Entry> {
        let mut texts: Vec<(String, Option<usize>)> =
            chart.curves.iter().enumerate().map(|(idx, curve)| (curve.label.clone(), Some(idx))).collect();
        if chart.curves.iter().any(|curve| !curve.published.is_empty()) {
            texts.push(("paper".into(), None));
        }
        let (mut x, mut y) = (self.left, top);
        let mut entries = Vec::new();
        for (text, curve_idx) in texts {
            let width = LEGEND_SAMPLE + 7.0 + text_width(&text) + 22.0;
            if x > self.left && x + width - 22.0 > self.right {
                (x, y) = (self.left, y + LEGEND_ROW);
            }
            entries.push(Entry { spot: (x, y), text, curve_idx });
            x += width;
        }
        entries
    }
}

/// Range of the y axis, around all that is drawn, and the round numbers in it.
fn y_axis(chart: &Chart) -> ((f64, f64), Vec<(f64, String)>) {
    let ours = chart.curves.iter().flat_map(|c| c.points.iter().chain(c.level.iter()));
    let published = chart.curves.iter().flat_map(|c| &c.published);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    if chart.log_y {
        for mark in ours.chain(published).filter(|m| m.y > 0.0 && m.y.is_finite()) {
            let foot = mark.y - mark.spread;
            low = low.min(if foot > 0.0 { foot } else { mark.y });
            high = high.max(mark.y + mark.spread);
        }
        let range = log_range(low, high, 0.06);
        return (range, log_ticks(range));
    }
    for mark in ours.chain(published).filter(|m| m.y.is_finite()) {
        low = low.min(mark.y - mark.spread);
        high = high.max(mark.y + mark.spread);
    }
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let pad = (0.06 * (high - low)).max(0.01 * high.abs()).max(1e-9);
    low = (low - pad).max(chart.y_bounds.0.min(low));
    high = (high + pad).min(chart.y_bounds.1.max(high));
    let step = nice_step((high - low) / 6.0);
    let decimals = decimals_of(step);
    let label = |y: f64| {
        if decimals == 0 { position(y.round()) } else { super::text::fixed(y, decimals) }
    };
    let ticks = steps(low, high, step).map(|y| (y, label(y))).collect();
    ((low, high), ticks)
}

fn x_range(chart: &Chart) -> (f64, f64) {
    if chart.categorical {
        return (-0.5, chart.x_ticks.len().max(1) as f64 - 0.5);
    }
    let marks = chart.curves.iter().flat_map(|c| c.points.iter().chain(&c.published));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for x in marks.map(|m| m.x).filter(|x| x.is_finite() && (*x > 0.0 || !chart.log_x)) {
        (low, high) = (low.min(x), high.max(x));
    }
    let is_trace = chart.curves.iter().any(|c| c.shape == Shape::Band);
    if chart.log_x {
        return log_range(low, high, if is_trace { 0.0 } else { 0.05 });
    }
    if low > high {
        return (0.0, 1.0);
    }
    let pad = match high - low {
        span if span > 0.0 => span * if is_trace { 0.0 } else { 0.05 },
        _ => 0.5 * high.abs().max(1.0),
    };
    (low - pad, high + pad)
}

/// How far along an axis a value stands; NaN if it has no logarithm.
fn along(value: f64, is_log: bool) -> f64 {
    match is_log {
        true if value > 0.0 => value.log10(),
        true => f64::NAN,
        false => value,
    }
}

/// Whether a mark has a place; a level, whose x is NaN, needs only its y.
fn is_visible(mark: &Mark, log_x: bool, log_y: bool) -> bool {
    along(mark.y, log_y).is_finite()
        && mark.spread.is_finite()
        && (mark.x.is_nan() || along(mark.x, log_x).is_finite())
}

/// Logarithms of the ends of an axis, a share of its length beyond `low` and `high`.
fn log_range(low: f64, high: f64, share: f64) -> (f64, f64) {
    /// Length in decades of an axis with a single value, on either side.
    const ALONE: f64 = 0.3;
    if low > high {
        return (0.0, 1.0);
    }
    let (low, high) = (low.log10(), high.log10());
    let pad = if high - low > 1e-9 { share * (high - low) } else { ALONE };
    (low - pad, high + pad)
}

/// Ticks of a logarithmic axis whose ends have the logarithms given: powers of ten; with less than two
/// decades also 2 and 5 times those; with less than two such values round numbers at equal distances.
fn log_ticks((low, high): (f64, f64)) -> Vec<(f64, String)> {
    const EPSILON: f64 = 1e-9;
    /// More powers of ten than this are not all shown.
    const N_DECADES_MAX: i32 = 8;
    let is_inside = |value: &f64| (low - EPSILON..=high + EPSILON).contains(&value.log10());
    let decades = (low - EPSILON).floor() as i32..=(high + EPSILON).ceil() as i32;
    if high - low >= 2.0 {
        let step = (((high - low) / f64::from(N_DECADES_MAX)).ceil() as i32).max(1);
        let powers: Vec<i32> =
            decades.filter(|power| power.rem_euclid(step) == 0 && is_inside(&10f64.powi(*power))).collect();
        let is_short = powers.iter().all(|power| (-3..=4).contains(power));
        let text = |power: i32| if is_short { position(10f64.powi(power)) } else { power_of_ten(power) };
        return powers.into_iter().map(|power| (10f64.powi(power), text(power))).collect();
    }
    let round = |power: i32| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power));
    let values: Vec<f64> = decades.flat_map(round).filter(is_inside).collect();
    if values.len() > 1 {
        return values.into_iter().map(|value| (value, position(value))).collect();
    }
    let (low, high) = (10f64.powf(low), 10f64.powf(high));
    steps(low, high, nice_step((high - low) / 6.0)).filter(|y| *y > 0.0).map(|y| (y, position(y))).collect()
}

/// Decimals that a positive number of few digits, such as a distance of ticks, needs.
fn decimals_of(step: f64) -> usize {
    const MAX: usize = 12;
    let is_whole = |value: f64| (value - value.round()).abs() < 1e-6 * value;
    (0..MAX).find(|&decimals| is_whole(step * 10f64.powi(decimals as i32))).unwrap_or(MAX)
}

/// The smallest of 1, 2, 2.5 or 5 times a power of ten that is not below `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    factors.iter().map(|f| f * power).find(|step| *step >= rough * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Multiples of `step` in `low..=high`.
fn steps(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(move |n| n as f64 * step)
}

/// Width of a line of text in points.
fn text_width(text: &str) -> f64 {
    /// plotters rounds widths down to whole pixels, so measure large.
    const LARGE: f64 = 1000.0;
    let font = (FAMILY, LARGE * LINE).into_font();
    let (width, _) = font.box_size(text).expect("the font is loaded");
    f64::from(width) * TEXT / LARGE
}

/// A plotters backend with coordinates in points.
struct Canvas<DB: DrawingBackend> {
    area: DrawingArea<DB, Shift>,
    /// Backend units per point.
    zoom: f64,
    /// Distance in em from where the backend is told to draw text down to its baseline.
    ascent: f64,
}

impl<DB: DrawingBackend> Canvas<DB> {
    fn at(&self, (x, y): Spot) -> (i32, i32) {
        ((x * self.zoom).round() as i32, (y * self.zoom).round() as i32)
    }

    fn stroke(&self, color: impl Color + Copy, width: f64) -> ShapeStyle {
        ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: (width * self.zoom).round() as u32 }
    }

    fn line(&self, spots: &[Spot], color: impl Color + Copy, width: f64) {
        let path: Vec<_> = spots.iter().map(|s| self.at(*s)).collect();
        self.draw(&PathElement::new(path, self.stroke(color, width)));
    }

    /// A line in strokes and gaps of the given lengths.
    fn dashed(&self, spots: &[Spot], pattern: &[f64], color: impl Color + Copy, width: f64) {
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

    fn disc(&self, center: Spot, radius: f64, color: impl Color + Copy) {
        let radius = (radius * self.zoom).round() as i32;
        self.draw(&Circle::new(self.at(center), radius, color.filled()));
    }

    /// One line of text whose baseline starts, centers or ends at the spot.
    fn text(&self, text: &str, baseline: Spot, anchor: HPos) {
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
            if length < left {
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

fn draw<DB: DrawingBackend>(chart: &Chart, layout: &Layout, canvas: &Canvas<DB>) {
    draw_axes(chart, layout, canvas);
    for curve in &chart.curves {
        draw_band(curve, layout, canvas);
    }
    // Error bars at the same x stand side by side where there is room.
    let n = chart.curves.len() as f64;
    let gap = (0.5 * layout.tick_spacing(chart) / n).min(if chart.categorical { 7.0 } else { 4.0 });
    let gap = if gap < 2.0 { 0.0 } else { gap };
    for (idx, curve) in chart.curves.iter().enumerate() {
        draw_curve(curve, layout, canvas, gap * (idx as f64 - (n - 1.0) / 2.0));
    }
    for entry in &layout.legend {
        draw_entry(chart, entry, canvas);
    }
    canvas.area.present().expect("drawing into memory cannot fail");
}

fn draw_axes<DB: DrawingBackend>(chart: &Chart, layout: &Layout, canvas: &Canvas<DB>) {
    let Layout { left, right, top, bottom, .. } = *layout;
    for (value, text) in &layout.y_ticks {
        let y = layout.y(*value);
        canvas.line(&[(left, y), (right, y)], INK.mix(0.16), 1.0);
        canvas.text(text, (left - 8.0, y + 0.36 * TEXT), HPos::Right);
    }
    canvas.line(&[(left, bottom), (right, bottom)], INK.mix(0.7), 1.2);
    for tick in &layout.x_ticks {
        let x = layout.x(tick.x);
        canvas.line(&[(x, bottom), (x, bottom + 5.0)], INK.mix(0.7), 1.2);
        canvas.text(&tick.text, (tick.center, bottom + 20.0 + 16.0 * tick.row as f64), HPos::Center);
    }
    canvas.text(&chart.y_label, (MARGIN, top - 20.0), HPos::Left);
    let middle = (left + right) / 2.0;
    canvas.text(&chart.x_label, (middle, layout.x_label_baseline(layout.n_tick_rows())), HPos::Center);
}

/// The spread around a level or a line without markers.
fn draw_band<DB: DrawingBackend>(curve: &Curve, layout: &Layout, canvas: &Canvas<DB>) {
    let color = PALETTE[curve.look % PALETTE.len()].mix(0.18);
    if let Some(level) = curve.level.filter(|m| m.spread > 0.0 && is_visible(m, false, layout.log_y)) {
        let edge = |side| layout.y_edge(&level, side);
        let Layout { left, right, .. } = *layout;
        canvas.fill(&[(left, edge(1.0)), (right, edge(1.0)), (right, edge(-1.0)), (left, edge(-1.0))], color);
    }
    let points = layout.visible(&curve.points);
    if curve.shape == Shape::Band && points.iter().any(|m| m.spread > 0.0) {
        let edge = |side: f64| move |m: &Mark| (layout.x(m.x), layout.y_edge(m, side));
        let upper = points.iter().map(edge(1.0));
        let lower = points.iter().rev().map(edge(-1.0));
        canvas.fill(&upper.chain(lower).collect::<Vec<_>>(), color);
    }
}

fn draw_curve<DB: DrawingBackend>(curve: &Curve, layout: &Layout, canvas: &Canvas<DB>, shift: f64) {
    let color = PALETTE[curve.look % PALETTE.len()];
    let dashes = DASHES[curve.look % DASHES.len()];
    let points = layout.visible(&curve.points);
    let Layout { left, right, .. } = *layout;
    if let Some(level) = curve.level.filter(|m| is_visible(m, false, layout.log_y)) {
        let y = layout.y(level.y);
        canvas.dashed(&[(left, y), (right, y)], dashes, color, 1.8);
        draw_marker(curve.look, (left + 14.0, y), canvas);
    }
    let x = |m: &Mark| layout.x(m.x) + shift;
    let line: Vec<Spot> = points.iter().map(|m| (x(m), layout.y(m.y))).collect();
    if line.len() > 1 && curve.shape != Shape::Dots {
        canvas.dashed(&line, dashes, color, 1.8);
    }
    for mark in points.iter().filter(|_| curve.shape != Shape::Band) {
        let x = x(mark);
        if mark.spread > 0.0 {
            let ends = [layout.y_edge(mark, 1.0), layout.y_edge(mark, -1.0)];
            canvas.line(&[(x, ends[0]), (x, ends[1])], color, 1.2);
            for y in ends {
                canvas.line(&[(x - 3.5, y), (x + 3.5, y)], color, 1.2);
            }
        }
        draw_marker(curve.look, (x, layout.y(mark.y)), canvas);
    }
    for mark in &layout.visible(&curve.published) {
        let x = if mark.x.is_nan() { right - 14.0 } else { x(mark) };
        draw_diamond((x, layout.y(mark.y)), color, canvas);
    }
}

/// The paper's value: large enough to frame the marker of an equal value of ours.
fn draw_diamond<DB: DrawingBackend>((x, y): Spot, color: RGBColor, canvas: &Canvas<DB>) {
    const R: f64 = 8.0;
    let corners = [(x, y - R), (x + R, y), (x, y + R), (x - R, y)];
    for idx in 0..corners.len() {
        canvas.line(&[corners[idx], corners[(idx + 1) % corners.len()]], color, 1.4);
    }
}

/// Our value.
fn draw_marker<DB: DrawingBackend>(look: usize, (x, y): Spot, canvas: &Canvas<DB>) {
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
            let dashes = DASHES[curve.look % DASHES.len()];
            if curve.shape != Shape::Dots {
                canvas.dashed(&[(x, middle), (x + LEGEND_SAMPLE, middle)], dashes, color, 1.8);
            }
            if curve.shape != Shape::Band {
                draw_marker(curve.look, (x + LEGEND_SAMPLE / 2.0, middle), canvas);
            }
        }
    }
    canvas.text(&entry.text, (x + LEGEND_SAMPLE + 7.0, baseline), HPos::Left);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(low: f64, high: f64) -> Vec<String> {
        log_ticks((low.log10(), high.log10())).into_iter().map(|(_, text)| text).collect()
    }

    /// Oracle: by hand; a step of 2.5 and of 0.25 has one decimal more than its size suggests.
    #[test]
    fn labels_have_the_decimals_of_the_step() {
        let steps = [10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.2, 0.1, 0.025, 2e-5];
        assert_eq!(steps.map(decimals_of), [0, 0, 1, 0, 1, 2, 1, 1, 3, 5]);
    }

    #[test]
    fn logarithmic_ticks_are_decades_or_round_numbers() {
        assert_eq!(texts(1.0, 1000.0), ["1", "10", "100", "1000"]);
        assert_eq!(texts(0.5, 200.0), ["1", "10", "100"]);
        assert_eq!(texts(0.02, 0.6), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(texts(3e4, 2e7), ["10⁵", "10⁶", "10⁷"]);
        assert_eq!(texts(2.1, 4.3), ["2.5", "3", "3.5", "4"]);
        assert_eq!(texts(1e-9, 1e7).len(), 8, "every second decade, from 10⁻⁸ to 10⁶");
    }

    #[test]
    fn logarithmic_ranges_forget_what_is_not_positive() {
        let mark = |y, spread| Mark { x: 1.0, y, spread };
        let curve = Curve {
            label: "made up".into(),
            look: 0,
            shape: Shape::Markers,
            points: vec![mark(0.0, 0.0), mark(-3.0, 1.0), mark(10.0, 20.0), mark(1000.0, 0.0)],
            level: None,
            published: Vec::new(),
        };
        let chart = Chart {
            description: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            x_ticks: Vec::new(),
            categorical: false,
            log_x: false,
            log_y: true,
            y_bounds: (0.0, f64::INFINITY),
            curves: vec![curve],
        };
        // From 10, whose error bar ends below zero, to 1000: two decades and 6 % on either side.
        let ((low, high), ticks) = y_axis(&chart);
        assert!((low - 0.88).abs() < 1e-9 && (high - 3.12).abs() < 1e-9, "{low} to {high}");
        assert_eq!(ticks.len(), 3);
        load_font();
        let layout = Layout::of(&chart);
        assert_eq!(layout.visible(&chart.curves[0].points).len(), 2);
        assert!((layout.y_edge(&chart.curves[0].points[2], -1.0) - layout.bottom).abs() < 1e-9);
        assert!(!svg(&chart).contains("NaN"));
    }
}
