//! What the paper compares with.

pub mod backprop;
