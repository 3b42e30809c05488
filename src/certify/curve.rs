//! Certified accuracy over the radius.

use super::{Certificate, Config, copies_needed, largest_radius, lower_bound};
use crate::profile::Profile;

/// The part of the images whose certified class is right and holds within `r` or more (Cohen et al. count R ≥ r);
/// abstentions are errors.
#[must_use]
pub fn certified_accuracy(certificates: &[Certificate], r: f64) -> f64 {
    let holds = |found: &&Certificate| found.is_right() && found.decision.radius >= r;
    certificates.iter().filter(holds).count() as f64 / certificates.len() as f64
}

/// The mean certified radius of the images, 0 where the class is wrong or missing.
#[must_use]
pub fn average_radius(certificates: &[Certificate]) -> f64 {
    let right = certificates.iter().filter(|found| found.is_right());
    // From 0.0: the sum of nothing is −0.
    right.map(|found| found.decision.radius).fold(0.0, |sum, radius| sum + radius) / certificates.len() as f64
}

/// Images for which the smoothed classifier abstains.
#[must_use]
pub fn n_abstained(certificates: &[Certificate]) -> usize {
    certificates.iter().filter(|found| found.decision.class.is_none()).count()
}

/// Whole hundredths from 0 up to the first radius that `config` cannot certify, or as many at a distance of a whole
/// number of hundredths where sigma is large.
#[must_use]
pub fn radii(sigma: f64, config: &Config) -> Vec<f64> {
    let largest = largest_radius(sigma, config.n as u64, config.alpha);
    let step = sigma.ceil().clamp(1.0, 1e12);
    let n = (100.0 * largest / step).floor() as usize + 1;
    (0..=n).map(|idx| idx as f64 * step / 100.0).collect()
}

/// Certified accuracy at each of these radii, as a profile on an axis.
#[must_use]
pub fn curve(certificates: &[Certificate], radii: &[f64]) -> Profile {
    let labels = radii.iter().map(f64::to_string).collect();
    let values = radii.iter().map(|&r| certified_accuracy(certificates, r)).collect();
    Profile::new(Profile::RADII, "radius", labels).on_axis(radii.to_vec()).with("certified_accuracy", values)
}

/// Image by image what was found, as a profile.
#[must_use]
pub fn profile(certificates: &[Certificate]) -> Profile {
    let of =
        |value: fn(&Certificate) -> usize| certificates.iter().map(|found| value(found) as u64).collect();
    let numbers = |value: fn(&Certificate) -> f64| certificates.iter().map(value).collect::<Vec<f64>>();
    let labels = certificates.iter().map(|found| found.image.to_string()).collect();
    let class = |found: &Certificate| found.decision.class.map_or(f64::NAN, |class| class as f64);
    Profile::new(Profile::CERTIFICATES, "image", labels)
        .with_counts("label", of(|found| found.label))
        .with_counts("selected", of(|found| found.decision.selected))
        .with_whole("class", numbers(class))
        .with_counts("n0_selected", of(|found| found.counts0[found.decision.selected] as usize))
        .with_counts("n_a", of(|found| found.decision.n_a as usize))
        .with_counts("n", of(|found| found.counts.iter().sum::<u64>() as usize))
        .with("p_lower", numbers(|found| found.decision.p_lower))
        .with("radius", numbers(|found| found.decision.radius))
}

/// What to say where `config` has too few copies for one of these radii, whatever the classifier.
#[must_use]
pub fn too_few(sigma: f64, config: &Config, radii: &[f64]) -> Option<String> {
    let Config { n, alpha, .. } = *config;
    if lower_bound(n as u64, n as u64, alpha) < 0.5 {
        let least = copies_needed(sigma, 0.0, alpha);
        return Some(format!(
            "n = {n} copies certify nothing at alpha = {alpha}, which takes n = {least} or more"
        ));
    }
    let largest = largest_radius(sigma, n as u64, alpha);
    let r = radii.iter().copied().filter(|&r| r > largest).reduce(f64::max)?;
    Some(format!(
        "n = {n} copies certify radii of at most {largest:.3} at sigma = {sigma} and alpha = {alpha}; \
         a radius of {r} takes n = {} or more",
        copies_needed(sigma, r, alpha)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Decision;
    use super::*;

    fn found(image: usize, class: Option<usize>, radius: f64) -> Certificate {
        let decision = Decision { selected: class.unwrap_or(0), n_a: 9, p_lower: 0.6, class, radius };
        Certificate { image, label: 1, counts0: vec![3, 2], counts: vec![1, 9], decision }
    }

    /// Oracle: counting by hand: a right one at 1/4, a wrong one, an abstention, a right one at 0.
    #[test]
    fn certified_accuracy_by_hand() {
        let all =
            [found(0, Some(1), 0.25), found(20, Some(0), 0.7), found(40, None, 0.0), found(60, Some(1), 0.0)];
        let curve = curve(&all, &[0.0, 0.1, 0.25, 0.26]);
        assert_eq!(curve.column("certified_accuracy").unwrap(), [0.5, 0.25, 0.25, 0.0]);
        assert_eq!(curve.labels, ["0", "0.1", "0.25", "0.26"]);
        assert_eq!((average_radius(&all), n_abstained(&all)), (0.0625, 1));
        assert!(average_radius(&all[1..2]).is_sign_positive());
        let rows = profile(&all);
        assert_eq!(rows.labels, ["0", "20", "40", "60"]);
        let class = rows.column("class").unwrap();
        assert!(class[2].is_nan() && class[..2] == [1.0, 0.0]);
        for (kind, columns) in [(&curve, &["certified_accuracy"][..])].into_iter().chain([(
            &rows,
            &["label", "selected", "class", "n0_selected", "n_a", "n", "p_lower", "radius"][..],
        )]) {
            assert!(Profile::KINDS.contains(&(kind.kind.as_str(), columns)));
            let names: Vec<&str> = kind.columns.iter().map(|column| column.name.as_str()).collect();
            assert_eq!(names, columns);
        }
    }

    #[test]
    fn radii_go_on_to_the_first_that_cannot_be_certified() {
        let config = Config { n: 1_000, ..Config::default() };
        let all = radii(0.25, &config);
        assert_eq!((all[0], all[25], all[all.len() - 1]), (0.0, 0.25, 0.62));
        assert_eq!(radii(2.5, &config).last(), Some(&6.18));
        assert_eq!(too_few(0.25, &config, &[0.0, 0.5]), None);
        let said = too_few(0.25, &config, &[0.0, 0.75, 0.7]).unwrap();
        let expected = "n = 1000 copies certify radii of at most 0.616 at sigma = 0.25 and alpha = 0.001; \
                        a radius of 0.75 takes n = 5114 or more";
        assert_eq!(said, expected);
        // Half to the power of ten is the first below a thousandth.
        let few = |n| too_few(0.25, &Config { n, ..Config::default() }, &[0.0]);
        assert!(few(9).unwrap().ends_with("which takes n = 10 or more"));
        assert_eq!(few(10), None);
    }
}
