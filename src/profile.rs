//! What a trial knows of a list of places: of every parameter tensor, say, or of every radius.

/// Values at named places, which may stand on an axis.
///
/// A profile is kept beside its record, in a folder named after its kind: one row per place, first the column of
/// names, then `x` if the places stand on an axis, then the values. A column whose name ends in `_s` holds seconds,
/// which differ from run to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What it is about, and its folder: lower-case letters, digits and hyphens, such as `tensors`; not `masks`.
    pub kind: String,
    /// What one place is, and the column of names: `tensor`.
    pub place: String,
    /// Names of the places, in order, without repetition.
    pub labels: Vec<String>,
    /// Where the places stand on an axis, one number each; empty if they do not.
    pub xs: Vec<f64>,
    /// What is known of them.
    pub columns: Vec<ProfileColumn>,
}

/// One value per place.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileColumn {
    /// Name in files, such as `relative_error`.
    pub name: String,
    /// The values; NaN, in files null, where there is none.
    pub values: Vec<f64>,
    /// Whether they are whole numbers, which are exact up to 2^53.
    pub is_count: bool,
}

impl Profile {
    /// The kind over parameter tensors in declared order: `n` scalars each, of which `n_active` were in the last
    /// active set; `cosine` and `relative_error` as in [`crate::metric`], for the tensor alone, averaged over epochs.
    pub const TENSORS: &'static str = "tensors";

    /// The kind over certified images, by their rows in the data set: `label`; the `selected` class, given to
    /// `n0_selected` copies of those that choose and to `n_a` of `n` others; the lower bound `p_lower` of its probability;
    /// the certified `class`, none where the smoothed classifier abstains; its `radius`.
    pub const CERTIFICATES: &'static str = "certificates";

    /// The kind over radii: the part of the images with the right class certified within each, `certified_accuracy`.
    pub const RADII: &'static str = "radii";

    /// The kind over test simulations of a flow: `mae` of each, on the axis of published Reynolds numbers.
    pub const REYNOLDS: &'static str = "reynolds";

    /// The kind over the frames of test simulations: `mae` of each, the mean over the simulations, on the axis of time.
    pub const FRAMES: &'static str = "frames";

    /// The kind over the corners of cells at some frames of one test simulation, frame by frame and row by row:
    /// `vorticity` as computed, and `reference` of the fine simulation.
    pub const WAKE: &'static str = "wake";

    /// The kinds that tasks make, with their columns.
    pub const KINDS: [(&'static str, &'static [&'static str]); 6] = [
        (Self::TENSORS, &["n", "n_active", "cosine", "relative_error"]),
        (Self::CERTIFICATES, &["label", "selected", "class", "n0_selected", "n_a", "n", "p_lower", "radius"]),
        (Self::RADII, &["certified_accuracy"]),
        (Self::REYNOLDS, &["mae"]),
        (Self::FRAMES, &["mae"]),
        (Self::WAKE, &["vorticity", "reference"]),
    ];

    /// A profile over named places, without columns.
    #[must_use]
    pub fn new(kind: &str, place: &str, labels: Vec<String>) -> Self {
        Self { kind: kind.into(), place: place.into(), labels, xs: Vec::new(), columns: Vec::new() }
    }

    /// With the places' positions on an axis, one each.
    #[must_use]
    pub fn on_axis(mut self, xs: Vec<f64>) -> Self {
        self.xs = xs;
        self
    }

    /// With a column of numbers, one per place; one that is there is replaced.
    #[must_use]
    pub fn with(self, name: &str, values: Vec<f64>) -> Self {
        self.with_column(ProfileColumn { name: name.into(), values, is_count: false })
    }

    /// With a column of counts, likewise.
    #[must_use]
    pub fn with_counts(self, name: &str, counts: Vec<u64>) -> Self {
        let values = counts.into_iter().map(|count| count as f64).collect();
        self.with_column(ProfileColumn { name: name.into(), values, is_count: true })
    }

    /// With a column of whole numbers, likewise; NaN where there is none.
    #[must_use]
    pub fn with_whole(self, name: &str, values: Vec<f64>) -> Self {
        self.with_column(ProfileColumn { name: name.into(), values, is_count: true })
    }

    fn with_column(mut self, column: ProfileColumn) -> Self {
        match self.columns.iter_mut().find(|known| known.name == column.name) {
            Some(known) => *known = column,
            None => self.columns.push(column),
        }
        self
    }

    /// The values in a column, if there is such a one.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        let column = self.columns.iter().find(|column| column.name == name)?;
        Some(&column.values)
    }
}
