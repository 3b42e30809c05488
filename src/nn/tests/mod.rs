//! Tests of the ways through a network against each other.

mod forward_only;
mod stacked;
