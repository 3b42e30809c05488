//! The sixteen tables and figures of the paper.

/// An exhibit of the paper.
pub(super) struct Exhibit {
    /// What a user types after `reproduce`.
    pub id: &'static str,
    /// Where in the paper.
    pub paper: &'static str,
    /// What it compares.
    pub title: &'static str,
}

const fn exhibit(id: &'static str, paper: &'static str, title: &'static str) -> Exhibit {
    Exhibit { id, paper, title }
}

/// All of them, in the paper's order: main text, then appendix.
pub(super) const EXHIBITS: [Exhibit; 16] = [
    exhibit("fig1", "Fig. 1D", "DeepZero against methods without back-propagation, over model size"),
    exhibit("fig2", "Fig. 2", "CGE, RGE and first-order training over the number of parameters"),
    exhibit("fig3", "Fig. 3", "Training time with and without feature reuse"),
    exhibit("fig4", "Fig. 4", "DeepZero and first-order training of ResNet-20 over sparsity"),
    exhibit("fig5", "Fig. 5", "DeepZero and Pattern Search over the number of training images"),
    exhibit("fig6", "Fig. 6", "Correction of a coarse flow solver that is a black box"),
    exhibit("tab1", "Tab. 1", "DeepZero and feedback alignment over network width"),
    exhibit("tab2", "Tab. 2", "Certified accuracy of black-box defenses over the radius"),
    exhibit("figA2", "Fig. A2", "Training time of CGE, RGE and first-order training"),
    exhibit("tabA1", "Tab. A1", "Seconds per iteration of RGE and CGE in four stages"),
    exhibit("tabA2", "Tab. A2", "Random, FO-GraSP and ZO-GraSP pruning of ResNet-20"),
    exhibit("tabA3", "Tab. A3", "Random, FO-GraSP and ZO-GraSP pruning of ResNet-18"),
    exhibit("figA3", "Fig. A3", "Re-drawn, re-scored and fixed masks over the pruning ratio"),
    exhibit("figA4", "Fig. A4", "Accuracy of DeepZero and first-order training over epochs"),
    exhibit("figA5", "Fig. A5", "Accuracy and time per epoch of DeepZero over the batch size"),
    exhibit("figA6", "Fig. A6", "Iterations per hour of DeepZero over the number of workers"),
];
