//! What the paper compares with.

pub mod backprop;
pub mod pattern_search;
