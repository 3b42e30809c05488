//! Signals that end a run after the current step.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use deepzero::minimize::worker;

use super::tell;

/// Set by Ctrl-C, SIGTERM or a hang-up; a second one ends the program at once.
pub(super) static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// Has signals set [`INTERRUPT`] from now on.
pub(super) fn watch_interrupts() -> Result<()> {
    watch().context("watch for Ctrl-C")
}

fn on_signal() {
    if INTERRUPT.swap(true, Ordering::Relaxed) {
        worker::kill_all();
        std::process::exit(130);
    }
    tell!("\nstopping after the current step; press again to stop at once");
}

/// What was ignored when the program began stays so: `nohup` and shells that start a job in the background mean it.
#[cfg(unix)]
fn watch() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|_| on_signal()))?;
    Ok(())
}

/// The signals that this process ignores: bit n − 1 for signal n, as the kernel of Linux tells it. Elsewhere there is
/// no safe way to ask, and a hang-up is left to what it does by itself, which is to end the program unless it is
/// ignored.
#[cfg(unix)]
fn ignored() -> u64 {
    let mask = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    mask.unwrap_or(1 << (signal_hook::consts::SIGHUP - 1))
}

#[cfg(not(unix))]
fn watch() -> std::io::Result<()> {
    ctrlc::set_handler(on_signal).map_err(std::io::Error::other)
}
