//! Pictures of flows: vorticity of the fine simulation and of every series side by side, still and moving.
//!
//! Drawn from the profile that trials keep of one test simulation: one picture a frame, of which the last is the still
//! one. The moving one is an APNG, which browsers show like any other picture.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::pde::{Disc, LENGTH, WIDTH};
use crate::profile::Profile;
use crate::results::TrialRecord;

use super::measured::Measured;
use super::plot::{FAMILY, load_font};

/// Vorticity over time, of several flows that go along.
#[derive(Debug, Clone)]
pub(super) struct Film {
    /// Frame numbers.
    frames: Vec<usize>,
    /// Rows and columns of a picture's numbers: along the flow, across it.
    shape: [usize; 2],
    panels: Vec<Panel>,
    /// Radius of the obstacle.
    radius: f64,
    /// The vorticity of the deepest color.
    most: f64,
}

#[derive(Debug, Clone)]
struct Panel {
    label: String,
    /// By frame: numbers, row by row; NaN where a flow was lost.
    pictures: Vec<Vec<f64>>,
}

/// What the first panel shows.
const REFERENCE: &str = "fine simulation";
/// Pixels of a panel along the flow, half as many across.
const LONG: usize = 300;
const SHORT: usize = LONG / 2;
/// Pixels around panels, and of the line above one.
const GAP: usize = 12;
const HEADING: usize = 26;
const TEXT: f64 = 15.0;
/// Panels in a row.
const COLUMNS: usize = 2;
/// Milliseconds of a frame, and of the last.
const FRAME_MS: u16 = 150;
const LAST_MS: u16 = 1200;

/// Colors of a palette: so many shades of vorticity, then grays up to white.
const SHADES: usize = 201;
const GRAYS: usize = 32;
const OBSTACLE: usize = SHADES + 16;
const WHITE: usize = SHADES + GRAYS - 1;

impl Film {
    /// What the records of a figure keep of the flow: of every series the first seed's at the largest x.
    pub(super) fn of(measured: &Measured) -> Option<Self> {
        let mut panels: Vec<Panel> = Vec::new();
        let mut first: Option<(Vec<usize>, [usize; 2])> = None;
        let mut radius = Disc::default().radius;
        for (idx, series) in measured.experiment.series.iter().enumerate() {
            let of_series = measured
                .records
                .iter()
                .filter(|record| record.trial.series == series.id && record.profile(Profile::WAKE).is_some());
            let Some(record) = of_series.min_by(|a, b| {
                let key = |r: &TrialRecord| (r.trial.x.map_or(0.0, |x| -x), r.trial.seed as f64);
                key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
            }) else {
                continue;
            };
            let Some((frames, shape, [found, reference])) = record.profile(Profile::WAKE).and_then(pictures)
            else {
                continue;
            };
            match &first {
                None => {
                    panels.push(Panel { label: REFERENCE.to_owned(), pictures: reference });
                    first = Some((frames, shape));
                }
                // Of another grid, or of other frames.
                Some(known) if *known != (frames, shape) => continue,
                Some(_) => {}
            }
            if let Some(value) =
                record.trial.settings.get("obstacle-radius").and_then(|value| value.as_float())
            {
                radius = value;
            }
            panels.push(Panel { label: measured.label(idx).to_owned(), pictures: found });
        }
        let (frames, shape) = first?;
        let mut sizes: Vec<f64> = panels[0].pictures.iter().flatten().map(|value| value.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        // A few corners of the obstacle would leave the wake pale.
        let most = sizes.get(sizes.len().saturating_sub(1) * 98 / 100).copied().unwrap_or(0.0).max(1e-9);
        Some(Self { frames, shape, panels, radius, most })
    }

    /// What is to be seen, in words.
    pub(super) fn description(&self) -> String {
        let labels: Vec<&str> = self.panels.iter().map(|panel| panel.label.as_str()).collect();
        format!("Vorticity of {}", labels.join("; "))
    }

    /// Frame number of the still picture.
    pub(super) fn last_frame(&self) -> usize {
        self.frames.last().copied().unwrap_or(0)
    }

    /// The last frame as a PNG file.
    pub(super) fn still(&self) -> Vec<u8> {
        self.encode(self.frames.len() - 1..self.frames.len())
    }

    /// All frames as an APNG file.
    pub(super) fn moving(&self) -> Vec<u8> {
        self.encode(0..self.frames.len())
    }

    fn size(&self) -> [usize; 2] {
        let rows = self.panels.len().div_ceil(COLUMNS);
        let columns = self.panels.len().min(COLUMNS);
        [columns * (LONG + GAP) + GAP, rows * (SHORT + HEADING) + GAP]
    }

    fn encode(&self, frames: std::ops::Range<usize>) -> Vec<u8> {
        let [width, height] = self.size();
        let mut file = Vec::new();
        {
            let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.set_palette(palette());
            encoder.set_compression(png::Compression::Balanced);
            encoder.set_filter(png::Filter::Adaptive);
            let n = frames.len() as u32;
            let is_moving = n > 1;
            let sound = "an indexed picture in memory can be encoded";
            if is_moving {
                encoder.set_animated(n, 0).expect(sound);
                encoder.set_frame_delay(FRAME_MS, 1000).expect(sound);
            }
            let mut writer = encoder.write_header().expect(sound);
            for frame in frames.clone() {
                if is_moving && frame + 1 == frames.end {
                    writer.set_frame_delay(LAST_MS, 1000).expect(sound);
                }
                writer.write_image_data(&self.picture(frame)).expect(sound);
            }
            writer.finish().expect(sound);
        }
        file
    }

    /// One frame: a palette index a pixel.
    fn picture(&self, frame: usize) -> Vec<u8> {
        let [width, height] = self.size();
        let mut pixels = self.headings(frame);
        for (idx, panel) in self.panels.iter().enumerate() {
            let (left, top) = place(idx);
            for y in 0..SHORT {
                for x in 0..LONG {
                    pixels[(top + y) * width + left + x] = self.color(&panel.pictures[frame], x, y) as u8;
                }
            }
        }
        debug_assert_eq!(pixels.len(), width * height);
        pixels
    }

    /// The palette index of a pixel of a panel: the flow goes to the right.
    fn color(&self, values: &[f64], x: usize, y: usize) -> usize {
        let along = (x as f64 + 0.5) / LONG as f64;
        let across = (y as f64 + 0.5) / SHORT as f64;
        let [cy, cx] = Disc::default().center;
        if (along * LENGTH - cy).hypot(across * WIDTH - cx) <= self.radius {
            return OBSTACLE;
        }
        let [rows, columns] = self.shape;
        // Corner k of a row of n stands at (k + 1) / (n + 1).
        let between = |share: f64, n: usize| {
            let at = (share * (n + 1) as f64 - 1.0).clamp(0.0, (n - 1) as f64);
            let low = (at as usize).min(n.saturating_sub(2));
            (low, at - low as f64)
        };
        let ((row, down), (column, right)) = (between(along, rows), between(across, columns));
        let at = |row: usize, column: usize| values[row.min(rows - 1) * columns + column.min(columns - 1)];
        let on_row = |row: usize| (1.0 - right) * at(row, column) + right * at(row, column + 1);
        let value = (1.0 - down) * on_row(row) + down * on_row(row + 1);
        if value.is_nan() {
            return SHADES + GRAYS / 2;
        }
        let middle = (SHADES / 2) as f64;
        (middle + (value / self.most).clamp(-1.0, 1.0) * middle).round() as usize
    }

    /// White, with what stands above the panels.
    fn headings(&self, frame: usize) -> Vec<u8> {
        load_font();
        let [width, height] = self.size();
        let mut pixels = vec![255; width * height * 3];
        {
            let size = (width as u32, height as u32);
            let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
            let style = (FAMILY, TEXT).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Top));
            for (idx, panel) in self.panels.iter().enumerate() {
                let (left, top) = place(idx);
                let text = match idx {
                    0 => format!("{}, time {}", panel.label, self.frames[frame]),
                    _ => panel.label.clone(),
                };
                let spot = (left as i32, (top - HEADING + 5) as i32);
                area.draw(&Text::new(text, spot, style.clone())).expect("drawing into memory cannot fail");
            }
            area.present().expect("drawing into memory cannot fail");
        }
        let gray = |pixel: &[u8]| (SHADES + usize::from(pixel[0]) * (GRAYS - 1) / 255) as u8;
        pixels.chunks_exact(3).map(gray).collect()
    }
}

/// Upper left corner of a panel.
fn place(idx: usize) -> (usize, usize) {
    (GAP + idx % COLUMNS * (LONG + GAP), HEADING + idx / COLUMNS * (SHORT + HEADING))
}

/// From blue over white to red, then from black to white.
fn palette() -> Vec<u8> {
    const BLUE: [f64; 3] = [5.0, 70.0, 150.0];
    const RED: [f64; 3] = [180.0, 30.0, 20.0];
    let shade = |idx: usize| {
        let share = idx as f64 / (SHADES / 2) as f64 - 1.0;
        let end = if share < 0.0 { BLUE } else { RED };
        // A root lets faint vortices be seen.
        let share = share.abs().powf(0.7);
        end.map(|end| (255.0 + share * (end - 255.0)).round() as u8)
    };
    let gray = |idx: usize| [(idx * 255 / (GRAYS - 1)) as u8; 3];
    debug_assert_eq!(SHADES + GRAYS, WHITE + 1);
    (0..SHADES).flat_map(shade).chain((0..GRAYS).flat_map(gray)).collect()
}

/// Frames, shape, and the pictures found and of the reference, if the profile is whole.
#[expect(clippy::type_complexity, reason = "one caller takes it apart")]
fn pictures(profile: &Profile) -> Option<(Vec<usize>, [usize; 2], [Vec<Vec<f64>>; 2])> {
    let mut frames: Vec<usize> = Vec::new();
    for &x in &profile.xs {
        if frames.last() != Some(&(x as usize)) {
            frames.push(x as usize);
        }
    }
    let n = profile.labels.len().checked_div(frames.len())?;
    // The last label of a frame is that of its last corner.
    let mut last = profile.labels.get(n.checked_sub(1)?)?.split(':').skip(1);
    let mut side = || Some(last.next()?.parse::<usize>().ok()? + 1);
    let shape = [side()?, side()?];
    if shape[0] * shape[1] != n || n * frames.len() != profile.labels.len() || frames.is_empty() {
        return None;
    }
    let cut =
        |name: &str| Some(profile.column(name)?.chunks_exact(n).map(<[f64]>::to_vec).collect::<Vec<_>>());
    Some((frames, shape, [cut("vorticity")?, cut("reference")?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two frames of 3 x 2 corners, of which the second panel is lost in the second.
    fn film() -> Film {
        let frames = |last: f64| vec![vec![0.0; 6], vec![last; 6]];
        let panel = |label: &str, last| Panel { label: label.to_owned(), pictures: frames(last) };
        let panels = vec![panel("a", 2.0), panel("b", f64::NAN), panel("c", -2.0)];
        Film { frames: vec![4, 8], shape: [3, 2], panels, radius: 10.0, most: 2.0 }
    }

    /// Oracle: another decoder (`image`), and the palette by hand.
    #[test]
    fn pictures_show_what_there_is() {
        let film = film();
        let still = image::load_from_memory(&film.still()).unwrap().to_rgb8();
        let [width, height] = film.size();
        assert_eq!(still.dimensions(), (width as u32, height as u32));
        let pixel = |panel: usize, x: usize, y: usize| {
            let (left, top) = place(panel);
            still.get_pixel((left + x) as u32, (top + y) as u32).0
        };
        let colors = palette();
        let color = |idx: usize| -> [u8; 3] { colors[3 * idx..][..3].try_into().unwrap() };
        assert_eq!(pixel(0, 200, 40), color(SHADES - 1));
        assert_eq!(pixel(2, 200, 40), color(0));
        assert_eq!(pixel(1, 200, 40), color(SHADES + GRAYS / 2));
        assert_eq!(pixel(0, LONG / 4, SHORT / 2), color(OBSTACLE));
        assert_eq!(color(SHADES / 2), [255; 3]);
        assert_eq!(color(WHITE), [255; 3]);
        let moving = film.moving();
        let reader = png::Decoder::new(std::io::Cursor::new(&moving[..])).read_info().unwrap();
        assert_eq!(reader.info().animation_control().map(|control| control.num_frames), Some(2));
    }

    /// Oracle: what was put in.
    #[test]
    fn a_profile_is_cut_into_pictures() {
        let labels: Vec<String> = [3, 6]
            .iter()
            .flat_map(|frame| (0..6).map(move |at| format!("{frame}:{}:{}", at / 2, at % 2)))
            .collect();
        let xs = [3.0; 6].into_iter().chain([6.0; 6]).collect();
        let numbers: Vec<f64> = (0..12).map(f64::from).collect();
        let profile = Profile::new(Profile::WAKE, "corner", labels)
            .on_axis(xs)
            .with("vorticity", numbers.clone())
            .with("reference", numbers);
        let (frames, shape, [found, reference]) = pictures(&profile).unwrap();
        assert_eq!((frames, shape), (vec![3, 6], [3, 2]));
        assert_eq!(found[1], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(found, reference);
        let mut torn = profile;
        torn.labels.pop();
        assert!(pictures(&torn).is_none());
    }
}
