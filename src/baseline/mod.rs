//! What the paper compares with.

pub mod pattern_search;
