//! Tests of the ways through a network against each other.

mod batched;
mod forward_only;
mod lengths;
