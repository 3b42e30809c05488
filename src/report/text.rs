//! Numbers as text.

use crate::metric::Digits;

/// In place of a number that there is not.
pub(super) const ABSENT: &str = "—";

/// `value` in a precision, without a unit.
pub(super) fn number(value: f64, digits: Digits) -> String {
    match digits {
        Digits::Fixed(decimals) => fixed(value, decimals),
        Digits::Significant => significant(value),
    }
}

/// `value` with `decimals` decimals and a typographic minus.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().any(|c| c.is_ascii_digit() && c != '0') => format!("−{digits}"),
        Some(digits) if digits.chars().any(|c| c.is_ascii_digit()) => digits.to_owned(),
        Some(other) => format!("−{other}"),
        None => text,
    }
}

/// A difference: like its number, with an explicit plus.
pub(super) fn signed(text: &str) -> String {
    let is_zero = !text.chars().any(|c| c.is_ascii_digit() && c != '0');
    if text.starts_with('−') || is_zero { text.to_owned() } else { format!("+{text}") }
}

/// Four significant digits; from 1,000 on whole numbers in groups, from 10¹² on powers of ten.
pub(super) fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor();
    if !magnitude.is_finite() {
        fixed(value, 0)
    } else if !(-4.0..12.0).contains(&magnitude) {
        format!("{} × {}", fixed(value / 10f64.powf(magnitude), 2), power_of_ten(magnitude as i32))
    } else if magnitude >= 3.0 {
        let digits = count(value.abs().round() as u64);
        if value < 0.0 { format!("−{digits}") } else { digits }
    } else {
        fixed(value, (3.0 - magnitude) as usize)
    }
}

/// 10⁶ and its like.
pub(super) fn power_of_ten(power: i32) -> String {
    let power: String = power.to_string().chars().map(superscript).collect();
    format!("10{power}")
}

/// A count in groups of three digits.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An x value as a label: as short as it can be without losing digits that matter.
pub(super) fn position(x: f64) -> String {
    if x.fract().abs() < 1e-9 && x.abs() < 1e12 {
        return if x.abs() < 1000.0 { fixed(x, 0) } else { significant(x) };
    }
    let text = significant(x);
    let (digits, power) =
        text.split_once(" × ").map_or((&*text, None), |(digits, power)| (digits, Some(power)));
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    match (digits, power) {
        (digits, None) => digits.to_owned(),
        ("1", Some(power)) => power.to_owned(),
        ("−1", Some(power)) => format!("−{power}"),
        (digits, Some(power)) => format!("{digits} × {power}"),
    }
}

/// Seconds as a reader would say them.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "—".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{} s", fixed(seconds, 1)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", count(whole / 3600), whole % 3600 / 60),
    }
}

fn superscript(c: char) -> char {
    match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '0' | '4'..='9' => char::from_u32('⁰' as u32 + c as u32 - '0' as u32).expect("a superscript digit"),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(fixed(-0.004, 2), "0.00");
        assert_eq!(fixed(-1.5, 2), "−1.50");
        assert_eq!(signed(&fixed(0.21, 2)), "+0.21");
        assert_eq!(signed(&fixed(0.0, 2)), "0.00");
        assert_eq!(significant(0.02567), "0.02567");
        assert_eq!(significant(12_610.0), "12,610");
        assert_eq!(significant(3.14e13), "3.14 × 10¹³");
        assert_eq!(significant(-7.5e-6), "−7.50 × 10⁻⁶");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!([730.0, 0.95, 3700.0, 12_610.0].map(position), ["730", "0.95", "3,700", "12,610"]);
        assert_eq!([0.005, 1e-6, 2.5e-5, -1e-7].map(position), ["0.005", "10⁻⁶", "2.5 × 10⁻⁵", "−10⁻⁷"]);
        assert_eq!(
            [duration(12.34), duration(754.0), duration(11_530.0)],
            ["12.3 s", "12 min 34 s", "3 h 12 min"]
        );
    }
}
