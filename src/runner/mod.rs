//! Runs trials.
