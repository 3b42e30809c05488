//! Draws a [`Chart`] as SVG and PNG.
//!
//! Layout is done here, in points, and drawn with plotters' backends: title of the y axis above the
//! plot, title of the x axis and legend below it, so that nothing ever covers the data. Where all values stand at one x,
//! each series has a row. Series differ
//! in color (Okabe and Ito's palette, "Color Universal Design", 2008, which color-blind readers can
//! tell apart), marker and dash pattern. The SVG has a transparent background and draws text and axes
//! in the current color: a mid-tone that can be read on light and dark, unless a page's style sheet
//! sets another for the class `deepzero-chart`.

mod axis;
mod canvas;
mod layout;
mod rows;

use std::io::Cursor;
use std::sync::OnceLock;

use image::{ImageFormat, RgbImage};
use plotters::prelude::*;
use plotters::style::{FontStyle, RGBColor, register_font};

use self::canvas::{Canvas, draw};
use self::layout::Layout;
use self::rows::Rows;
use super::chart::Chart;

/// The place of a drawing.
struct Frame {
    /// Its left edge in points.
    left: f64,
    /// Width in points.
    width: f64,
    /// Height of the plotting area in points.
    plot_height: f64,
    has_legend: bool,
}

/// Width of a figure of a report in points.
const WIDTH: f64 = 720.0;
/// Share of it that has our values, where published ones stand beside them.
const SHARE_OF_OURS: f64 = 0.6;
/// A figure of a report.
const WHOLE: Frame = Frame { left: 0.0, width: WIDTH, plot_height: 300.0, has_legend: true };
/// A figure of the contact sheet, where text as large as the page's must fit.
const THUMBNAIL: Frame = Frame { left: 0.0, width: 360.0, plot_height: 170.0, has_legend: false };
/// Free space around everything in points.
const MARGIN: f64 = 8.0;
/// Room for the title of the values above them in points.
const TITLE: f64 = 34.0;
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
/// plotters means the height of a line where it says font size.
const LINE: f64 = 1.24;
pub(super) const FAMILY: &str = "sans-serif";
const FONT: &[u8] = include_bytes!("../../../assets/Inter-Regular.otf");

/// How a chart is drawn.
enum Plan<'c> {
    /// Over an x axis.
    Axes(Box<Layout>),
    /// In rows.
    Rows(Rows<'c>),
}

impl<'c> Plan<'c> {
    fn of(chart: &'c Chart, frame: &Frame) -> Self {
        match Rows::of(chart, frame) {
            Some(rows) => Self::Rows(rows),
            None => Self::Axes(Box::new(Layout::of(chart, frame))),
        }
    }

    /// Width and height in points.
    fn size(&self) -> (f64, f64) {
        match self {
            Self::Axes(layout) => (layout.width, layout.height),
            Self::Rows(rows) => (rows.width, rows.height),
        }
    }

    fn draw<DB: DrawingBackend>(&self, chart: &Chart, canvas: &Canvas<DB>) {
        match self {
            Self::Axes(layout) => draw(chart, layout, canvas),
            Self::Rows(rows) => rows.draw(canvas),
        }
    }
}

/// The chart as an SVG document.
#[must_use]
pub fn svg(chart: &Chart) -> String {
    svg_in(chart, &WHOLE)
}

/// The chart as a small SVG document without a legend.
pub(super) fn thumbnail(chart: &Chart) -> String {
    svg_in(chart, &THUMBNAIL)
}

fn svg_in(chart: &Chart, frame: &Frame) -> String {
    load_font();
    let plan = Plan::of(chart, frame);
    let (width, height) = plan.size();
    let size = (width as u32 * SVG_ZOOM, height as u32 * SVG_ZOOM);
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        // plotters places SVG text of VPos::Top 0.76 em above its baseline.
        let canvas = Canvas { area, zoom: f64::from(SVG_ZOOM), ascent: 0.76 };
        plan.draw(chart, &canvas);
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
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"deepzero-chart\" width=\"{}\" height=\"{}\" \
         viewBox=\"0 0 {} {}\" color=\"{INK_ANYWHERE}\" role=\"img\" aria-label=\"{description}\" \
         stroke-linejoin=\"round\">\n<title>{description}</title>\n{body}",
        width, height, size.0, size.1,
    )
}

/// The chart as a PNG file on white, at two pixels per point.
#[must_use]
pub fn png(chart: &Chart) -> Vec<u8> {
    load_font();
    let plan = Plan::of(chart, &WHOLE);
    let zoom = PNG_ZOOM * SUPERSAMPLING;
    let (width, height) = (plan.size().0 as u32 * zoom, plan.size().1 as u32 * zoom);
    let mut pixels = vec![255; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        // plotters draws bitmap text of VPos::Top half its line height of 1.24 em above its baseline.
        let canvas = Canvas { area, zoom: f64::from(zoom), ascent: 0.62 };
        plan.draw(chart, &canvas);
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

pub(super) fn load_font() {
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

/// Width of a line of text in points.
fn text_width(text: &str) -> f64 {
    /// plotters rounds widths down to whole pixels, so measure large.
    const LARGE: f64 = 1000.0;
    let font = (FAMILY, LARGE * LINE).into_font();
    let (width, _) = font.box_size(text).expect("the font is loaded");
    f64::from(width) * TEXT / LARGE
}
