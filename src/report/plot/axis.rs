//! Ranges and ticks of axes, linear and logarithmic.

use crate::report::chart::{Chart, Mark, Shape};
use crate::report::text::{fixed, position, power_of_ten};

/// Range of the y axis, around all that is drawn, and the round numbers in it.
pub(super) fn y_axis(chart: &Chart) -> ((f64, f64), Vec<(f64, String)>) {
    let ours = chart.curves.iter().flat_map(|c| c.points.iter().chain(c.level.iter()));
    let published = chart.curves.iter().flat_map(|c| &c.published);
    let trials = chart.curves.iter().flat_map(|curve| &curve.trials).map(|(_, y)| *y);
    let ideal = chart.curves.iter().filter_map(|curve| Some([0.0, chart.ideal_line(curve)?[2].y]));
    let others = trials.chain(chart.rules.iter().copied()).chain(ideal.flatten());
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    if chart.log_y {
        for mark in ours.chain(published).filter(|m| m.y > 0.0 && has_size(m)) {
            low = low.min(if mark.low > 0.0 { mark.low } else { mark.y });
            high = high.max(mark.high);
        }
        for y in others.filter(|y| *y > 0.0 && is_drawn(*y)) {
            (low, high) = (low.min(y), high.max(y));
        }
        let range = log_range(low, high, 0.06);
        return (range, log_ticks(range));
    }
    for mark in ours.chain(published).filter(|m| has_size(m)) {
        (low, high) = (low.min(mark.low), high.max(mark.high));
    }
    for y in others.filter(|y| is_drawn(*y)) {
        (low, high) = (low.min(y), high.max(y));
    }
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let pad = (0.06 * (high - low)).max(0.01 * high.abs()).max(1e-9);
    low = (low - pad).max(chart.y_bounds.0.min(low));
    high = (high + pad).min(chart.y_bounds.1.max(high));
    let step = nice_step((high - low) / 7.0);
    let decimals = decimals_of(step);
    let label = |y: f64| {
        if decimals == 0 { position(y.round()) } else { fixed(y, decimals) }
    };
    let ticks = steps(low, high, step).map(|y| (y, label(y))).collect();
    ((low, high), ticks)
}

pub(super) fn x_range(chart: &Chart) -> (f64, f64) {
    if chart.categorical {
        return (-0.5, chart.x_ticks.len().max(1) as f64 - 0.5);
    }
    let marks = chart.curves.iter().flat_map(|c| c.points.iter().chain(&c.published));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for x in marks.map(|m| m.x).filter(|x| is_drawn(*x) && (*x > 0.0 || !chart.log_x)) {
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
pub(super) fn along(value: f64, is_log: bool) -> f64 {
    match is_log {
        true if value > 0.0 => value.log10(),
        true => f64::NAN,
        false => value,
    }
}

/// Whether a value is one that differences and ratios of such values stay finite with.
fn is_drawn(value: f64) -> bool {
    value.abs() <= 1e100
}

fn has_size(mark: &Mark) -> bool {
    is_drawn(mark.y) && is_drawn(mark.low) && is_drawn(mark.high)
}

/// Whether a mark has a place; a level, whose x is NaN, needs only its y.
pub(super) fn is_visible(mark: &Mark, log_x: bool, log_y: bool) -> bool {
    has_size(mark)
        && along(mark.y, log_y).is_finite()
        && (mark.x.is_nan() || is_drawn(mark.x) && along(mark.x, log_x).is_finite())
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
pub(super) fn log_ticks((low, high): (f64, f64)) -> Vec<(f64, String)> {
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
pub(super) fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    factors.iter().map(|f| f * power).find(|step| *step >= rough * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Multiples of `step` in `low..=high`; none of a step that is too small for a number.
pub(super) fn steps(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let is_normal = step.is_normal();
    let first = if is_normal { (low / step - 1e-9).ceil() as i64 } else { 0 };
    let last = if is_normal { (high / step + 1e-9).floor() as i64 } else { -1 };
    (first..=last).map(move |n| n as f64 * step)
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
        assert_eq!(texts(1.0, 1000.0), ["1", "10", "100", "1,000"]);
        assert_eq!(texts(0.5, 200.0), ["1", "10", "100"]);
        assert_eq!(texts(0.02, 0.6), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(texts(3e4, 2e7), ["10⁵", "10⁶", "10⁷"]);
        assert_eq!(texts(2.1, 4.3), ["2.5", "3", "3.5", "4"]);
        assert_eq!(texts(1e-9, 1e7).len(), 8, "every second decade, from 10⁻⁸ to 10⁶");
    }
}
