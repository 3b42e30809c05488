//! Progress of training, certification and downloads: bars on a terminal, plain lines elsewhere, on stderr.

use std::io::IsTerminal;
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

use deepzero::certify::Progress;
use deepzero::data;
use deepzero::metric::{MAE, QUERIES, Row, TEST_ACCURACY, TRAIN_LOSS};
use deepzero::minimize::pool;
use deepzero::train::Observer;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::tell;

/// The bars of trials that run side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Progress of one trial.
pub(super) struct TrialProgress {
    title: String,
    bar: Option<ProgressBar>,
    epochs: usize,
    started: Instant,
    /// Epochs that a run which goes on had behind it.
    epochs_before: OnceLock<usize>,
    /// When the last plain line was written.
    last_line: Mutex<Instant>,
}

/// Plain lines come at most this often, besides one for the end of the trial.
const LINE_EVERY: Duration = Duration::from_secs(20);

impl TrialProgress {
    pub(super) fn new(title: String, epochs: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{prefix} {wide_bar} {pos}/{len} steps, {per_sec}, {eta} left, {msg}";
            let style = ProgressStyle::with_template(style).expect("the template is constant");
            let bar = BARS.add(ProgressBar::new(0).with_style(style).with_prefix(title.clone()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        if bar.is_none() {
            tell!("{title}: started");
        }
        let now = Instant::now();
        Self { title, bar, epochs, started: now, epochs_before: OnceLock::new(), last_line: Mutex::new(now) }
    }

    /// Takes the bar away and leaves one line.
    pub(super) fn finish(&self, line: &str) {
        let tell_it = || tell!("{}: {line} ({:.1} s)", self.title, self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                BARS.suspend(tell_it);
            }
            None => tell_it(),
        }
    }
}

impl Observer for TrialProgress {
    fn step(&self, step: usize, n_steps: usize, loss: f64, accuracy: f64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(n_steps as u64) {
            bar.set_length(n_steps as u64);
            // A resumed run starts in the middle; the rate counts from here.
            bar.reset_eta();
        }
        bar.set_position(step as u64);
        bar.set_message(format!("loss {loss:.3}, accuracy {:.1} %", 100.0 * accuracy));
    }

    fn epoch(&self, row: &Row) {
        // What only measures has no loss to tell of.
        if self.bar.is_some() || row.get(&TRAIN_LOSS).is_nan() {
            return;
        }
        let done = row.epoch as usize;
        let before = *self.epochs_before.get_or_init(|| done.saturating_sub(1));
        let mut last = self.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        let remaining = seconds_left(self.started.elapsed(), before, done, self.epochs);
        let mae = row.get(&MAE);
        let measured = match mae.is_nan() {
            true => format!("test accuracy {:.1} %", 100.0 * row.get(&TEST_ACCURACY)),
            false => format!("error {mae:.4}"),
        };
        tell!(
            "{}: epoch {done}/{}, loss {:.3}, {measured}, {} queries, about {remaining:.0} s left",
            self.title,
            self.epochs,
            row.get(&TRAIN_LOSS),
            row.get(&QUERIES),
        );
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("{}: {text}", self.title)),
            None => tell!("{}: {text}", self.title),
        }
    }
}

/// Seconds that the rest of `n_epochs` takes at the speed of those since the start, at which `before` were done.
fn seconds_left(since_start: Duration, before: usize, done: usize, n_epochs: usize) -> f64 {
    let epoch_s = since_start.as_secs_f64() / done.saturating_sub(before).max(1) as f64;
    epoch_s * n_epochs.saturating_sub(done) as f64
}

/// Progress of a certification.
pub(super) struct CertifyProgress {
    bar: Option<ProgressBar>,
    n_images: usize,
    started: Instant,
    /// What was classified, and when, behind the first batch; when the last plain line was written.
    state: Mutex<(Option<(u64, Instant)>, Instant)>,
}

impl CertifyProgress {
    /// Of `n_images`, of which `n_done` are done.
    pub(super) fn new(n_images: usize, n_done: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "certify {wide_bar} {pos}/{len} images, {eta} left, {msg}";
            let style = ProgressStyle::with_template(style).expect("the template is constant");
            let bar = ProgressBar::new(n_images as u64).with_style(style).with_position(n_done as u64);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let before = if n_done > 0 { format!(", {n_done} done before") } else { String::new() };
        if bar.is_none() || n_done > 0 {
            tell!("certify: {n_images} images{before}");
        }
        let now = Instant::now();
        Self { bar, n_images, started: now, state: Mutex::new((None, now)) }
    }

    /// Hears of a batch.
    pub(super) fn advanced(&self, now: &Progress) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((first, since)) = state.0 else {
            // The first batch warms up.
            state.0 = Some((now.copies, Instant::now()));
            return;
        };
        let rate = (now.copies - first) as f64 / since.elapsed().as_secs_f64();
        let n_done = now.certificates.len();
        if let Some(bar) = &self.bar {
            bar.set_position(n_done as u64);
            bar.set_message(format!("{rate:.0} copies a second"));
        } else if state.1.elapsed() >= LINE_EVERY && rate > 0.0 {
            state.1 = Instant::now();
            let remaining = (now.n_copies - now.copies) as f64 / rate;
            let n_images = self.n_images;
            tell!(
                "certify: {n_done}/{n_images} images, {rate:.0} copies a second, about {remaining:.0} s left"
            );
        }
    }

    /// Takes the bar away and leaves one line.
    pub(super) fn finish(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        tell!("certify: {line} ({:.1} s)", self.started.elapsed().as_secs_f64());
    }
}

/// Progress of a black box that is minimized.
pub(super) struct MinimizeProgress {
    bar: Option<ProgressBar>,
    budget: u64,
    n_before: u64,
    started: Instant,
    /// When the last plain line was written, and how many failures have been told.
    state: Mutex<(Instant, u64)>,
}

/// Failures that are told one by one; the log has all.
const MOST_TOLD: u64 = 20;

impl MinimizeProgress {
    /// Of `budget` evaluations, of which `n_before` are done.
    pub(super) fn new(budget: u64, n_before: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "minimize {wide_bar} {pos}/{len}, {per_sec}, {eta} left, {msg}";
            let style = ProgressStyle::with_template(style).expect("the template is constant");
            let bar = ProgressBar::new(budget).with_style(style).with_position(n_before);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let before = if n_before > 0 { format!(", {n_before} done before") } else { String::new() };
        if bar.is_none() || n_before > 0 {
            tell!("minimize: {budget} evaluations{before}");
        }
        let now = Instant::now();
        Self { bar, budget, n_before, started: now, state: Mutex::new((now, 0)) }
    }

    /// Takes the bar away and leaves one line.
    pub(super) fn finish(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        tell!("minimize: {line} ({:.1} s)", self.started.elapsed().as_secs_f64());
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("minimize: {line}")),
            None => tell!("minimize: {line}"),
        }
    }
}

impl pool::Observer for MinimizeProgress {
    fn told(&self, run: &deepzero::minimize::Run) {
        let minimizer = run.minimizer();
        let (n_done, n_failed) = (minimizer.n_evaluations(), minimizer.n_failed());
        let best = || minimizer.best().map_or("none".to_owned(), |best| format!("{:.6e}", best.value));
        if let Some(bar) = &self.bar {
            bar.set_position(n_done);
            bar.set_message(format!("best {}, {n_failed} failed", best()));
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.0.elapsed() < LINE_EVERY {
            return;
        }
        state.0 = Instant::now();
        let rate = n_done.saturating_sub(self.n_before) as f64 / self.started.elapsed().as_secs_f64();
        let remaining = self.budget.saturating_sub(n_done) as f64 / rate;
        self.say(&format!(
            "{n_done}/{} evaluations, {rate:.1} a second, best {}, {n_failed} failed, about {remaining:.0} s left",
            self.budget,
            best()
        ));
    }

    fn failed(&self, id: u64, reason: &str) {
        let n_told = {
            let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.1 += 1;
            state.1
        };
        if n_told <= MOST_TOLD {
            self.say(&format!("evaluation {id}: {reason}"));
        }
        if n_told == MOST_TOLD {
            self.say("further failures are not told here; the log has them");
        }
    }
}

/// Progress of downloads.
#[derive(Default)]
pub(super) struct DownloadProgress {
    bar: Mutex<Option<ProgressBar>>,
}

impl data::Progress for DownloadProgress {
    fn started(&self, what: &str, total_bytes: u64) {
        tell!("fetching {what} ({} MB)", total_bytes / 1_000_000);
        if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left")
                    .expect("the template is constant");
            let bar = ProgressBar::new(total_bytes).with_style(style);
            *self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(bar);
        }
    }

    fn advanced(&self, done_bytes: u64) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            bar.set_position(done_bytes);
        }
    }

    fn finished(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        tell!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::seconds_left;

    /// Ten seconds an epoch, whether the run began at the start or goes on after epoch 26.
    #[test]
    fn a_run_that_goes_on_counts_its_own_epochs_alone() {
        for (before, done, expected) in [(0, 3, 470.0), (26, 29, 210.0)] {
            let left = seconds_left(Duration::from_secs(30), before, done, 50);
            assert!((left - expected).abs() < 1e-9, "{left} s after epoch {done}");
        }
    }
}
