//! The drawing of one procedural image: background, clutter, object, noise.
//!
//! Coordinates are in pixels, x to the right and y down; colours are in [0, 1]. A shape is a signed
//! distance to its edge, negative inside, and covers a pixel by 1/2 − distance, which smooths edges.

use crate::rng::Stream;

/// Height and width in pixels.
pub(super) const SIZE: usize = 32;
/// Where the noise begins in an image's stream; the draws before it are far fewer.
const NOISE_BLOCK: u64 = 1 << 20;

type Color = [f64; 3];

/// Colours of all pixels, row by row.
pub(super) type Canvas = Vec<Color>;

/// The random choices of one image, in the order they are made.
pub(super) struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, next: 0 }
    }

    fn position(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Uniform in [`low`, `high`).
    fn between(&mut self, low: f64, high: f64) -> f64 {
        let position = self.position();
        low + (high - low) * self.stream.uniform_at(position)
    }

    /// Uniform in `0..bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let position = self.position();
        self.stream.below_at(position, bound)
    }

    fn sign(&mut self) -> f64 {
        if self.below(2) == 0 { -1.0 } else { 1.0 }
    }

    fn color(&mut self, low: f64, high: f64) -> Color {
        std::array::from_fn(|_| self.between(low, high))
    }
}

/// A colour that changes linearly over the image.
pub(super) fn background(draws: &mut Draws) -> Canvas {
    let base = draws.color(0.2, 0.8);
    let slopes: [Color; 2] = std::array::from_fn(|_| draws.color(-0.2, 0.2));
    let at = |row: usize, column: usize| {
        let (y, x) = (row as f64 / SIZE as f64 - 0.5, column as f64 / SIZE as f64 - 0.5);
        std::array::from_fn(|channel| base[channel] + slopes[0][channel] * y + slopes[1][channel] * x)
    };
    (0..SIZE * SIZE).map(|i| at(i / SIZE, i % SIZE)).collect()
}

/// Short bars and blobs of weak contrast that every class has alike.
pub(super) fn clutter(draws: &mut Draws, canvas: &mut Canvas) {
    for _ in 0..3 + draws.below(4) {
        let center = [draws.between(0.0, SIZE as f64), draws.between(0.0, SIZE as f64)];
        let axis = direction(draws.between(-1.0, 1.0), draws.below(2) == 0);
        let (length, width) = (draws.between(0.0, 5.0), draws.between(0.7, 1.8));
        let change = draws.color(-0.3, 0.3);
        paint(canvas, |x, y| {
            let [u, v] = rotate([x - center[0], y - center[1]], axis);
            let outside = (u.abs() - length).max(0.0);
            (coverage((outside * outside + v * v).sqrt() - width), change)
        });
    }
}

/// One object of `class` at a random place.
pub(super) fn object(draws: &mut Draws, class: usize, canvas: &mut Canvas) {
    let radius = draws.between(6.5, 11.0);
    let reach = radius.min(SIZE as f64 / 2.0 - 4.0);
    let center = [draws.between(reach, SIZE as f64 - reach), draws.between(reach, SIZE as f64 - reach)];
    let contrast = draws.sign() * draws.between(0.22, 0.5);
    let tint = draws.color(-0.15, 0.15);
    let change = tint.map(|channel| channel + contrast);
    // A small random turn, so that edges do not lie on the pixel grid.
    let turn = direction(draws.between(-0.2, 0.2), false);
    if class < 5 {
        let texture = Grating::new(draws, class);
        let is_round = draws.below(2) == 0;
        paint(canvas, |x, y| {
            let point = rotate([x - center[0], y - center[1]], turn);
            let window = if is_round { disc(point, radius) } else { square(point, 0.9 * radius) };
            // Between −1 and 1, so that the window as a whole is no brighter than its surroundings.
            let wave = texture.at(point);
            (coverage(window), change.map(|channel| channel * wave))
        });
    } else {
        paint(canvas, |x, y| {
            let point = rotate([x - center[0], y - center[1]], turn);
            let distance = match class {
                5 => disc(point, 0.9 * radius),
                6 => (disc(point, 0.75 * radius)).abs() - 0.22 * radius,
                7 => square(point, 0.8 * radius),
                8 => cross(point, radius),
                _ => triangle(point, 0.62 * radius),
            };
            (coverage(distance), change)
        });
    }
}

/// Adds noise and rounds to bytes: `pixels` (3, 32, 32).
pub(super) fn finish(draws: &mut Draws, stream: Stream, canvas: &Canvas, pixels: &mut [u8]) {
    // Standard deviation in units of one byte.
    let noise = draws.between(8.0, 26.0);
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let (channel, position) = (i / (SIZE * SIZE), i % (SIZE * SIZE));
        let word = stream.block(NOISE_BLOCK + i as u64 / 4)[i % 4];
        let value = 255.0 * canvas[position][channel] + noise * nearly_normal(word);
        // The cast rounds towards zero and saturates.
        *pixel = (value + 0.5).max(0.0) as u8;
    }
}

/// The sum of four bytes, centred and scaled to variance 1 (a byte has mean 127.5 and variance
/// (256² − 1) / 12).
fn nearly_normal(word: u32) -> f64 {
    let sum: u32 = word.to_le_bytes().into_iter().map(u32::from).sum();
    (f64::from(sum) - 510.0) / (4.0 * 65535.0 / 12.0f64).sqrt()
}

/// Adds `colour` times `coverage`, as `layer` gives them at a point (x, y), to every pixel.
fn paint(canvas: &mut Canvas, layer: impl Fn(f64, f64) -> (f64, Color)) {
    for (i, color) in canvas.iter_mut().enumerate() {
        let (covered, change) = layer((i % SIZE) as f64 + 0.5, (i / SIZE) as f64 + 0.5);
        if covered > 0.0 {
            color.iter_mut().zip(change).for_each(|(value, change)| *value += covered * change);
        }
    }
}

fn coverage(distance: f64) -> f64 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// The unit vector along (1, `slope`), or along (−`slope`, 1) if `steep`.
fn direction(slope: f64, steep: bool) -> [f64; 2] {
    let norm = (1.0 + slope * slope).sqrt();
    if steep { [-slope / norm, 1.0 / norm] } else { [1.0 / norm, slope / norm] }
}

/// Coordinates of `point` along `axis` and across it.
fn rotate(point: [f64; 2], axis: [f64; 2]) -> [f64; 2] {
    [point[0] * axis[0] + point[1] * axis[1], point[1] * axis[0] - point[0] * axis[1]]
}

fn disc([u, v]: [f64; 2], radius: f64) -> f64 {
    (u * u + v * v).sqrt() - radius
}

fn square([u, v]: [f64; 2], half: f64) -> f64 {
    u.abs().max(v.abs()) - half
}

fn cross([u, v]: [f64; 2], radius: f64) -> f64 {
    let half_width = 0.3 * radius;
    let (u, v) = (u.abs(), v.abs());
    (u - radius).max(v - half_width).min((u - half_width).max(v - radius))
}

/// Equilateral, one corner up; `inner` is the radius of the inscribed circle.
fn triangle([u, v]: [f64; 2], inner: f64) -> f64 {
    const HALF_ROOT_3: f64 = 0.866_025_403_784_438_6;
    let side = HALF_ROOT_3 * u.abs() - 0.5 * v;
    side.max(v) - inner
}

/// A triangle wave, or the product of two: classes 0 to 3 differ in direction, 4 is a checkerboard.
struct Grating {
    axis: [f64; 2],
    period: f64,
    phases: [f64; 2],
    is_checkerboard: bool,
}

impl Grating {
    fn new(draws: &mut Draws, class: usize) -> Self {
        const DIAGONAL: f64 = std::f64::consts::FRAC_1_SQRT_2;
        let axes = [[0.0, 1.0], [1.0, 0.0], [DIAGONAL, DIAGONAL], [DIAGONAL, -DIAGONAL], [1.0, 0.0]];
        let period = draws.between(4.0, 7.5);
        let phases = [draws.between(0.0, 1.0), draws.between(0.0, 1.0)];
        Self { axis: axes[class], period, phases, is_checkerboard: class == 4 }
    }

    /// Between −1 and 1.
    fn at(&self, point: [f64; 2]) -> f64 {
        let [along, across] = rotate(point, self.axis);
        let wave = |distance: f64, phase: f64| {
            let turns = distance / self.period + phase;
            // A triangle wave, steepened and cut off so that stripes have flat tops.
            (2.0 * (4.0 * (turns - turns.floor() - 0.5).abs() - 1.0)).clamp(-1.0, 1.0)
        };
        let first = wave(along, self.phases[0]);
        if self.is_checkerboard { first * wave(across, self.phases[1]) } else { first }
    }
}
