//! What a person sees of a run, on standard error: a bar where that is a terminal, what fails at once, and a summary.

use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::sync::mpsc;

use super::super::Failed;
use crate::command::images::Found;
use crate::failure::{Code, Failure};
use crate::store::suffix::Suffixes;
use crate::telemetry::say;

/// Failed images that are listed at the end; all were named when they failed.
const LISTED: usize = 100;

pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
    tagged: u64,
    skipped: u64,
    failed: u64,
    failures: Vec<(String, Code)>,
    stopping: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        // Draws nothing where there is no terminal.
        let bar = ProgressBar::new(0);
        let template = "{bar:30} {human_pos} of {human_len}, {rate}, {eta} left {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
        bar.set_style(style.with_key("rate", |state: &ProgressState, text: &mut dyn Write| {
            // Nothing to do where a terminal can't be written to.
            let _ = write!(text, "{:.1} images/s", state.per_sec());
        }));
        bar.enable_steady_tick(Duration::from_millis(200));
        let (began, failures) = (Instant::now(), Vec::new());
        Self { bar, began, tagged: 0, skipped: 0, failed: 0, failures, stopping: false }
    }

    /// Whether there is anybody to see the bar.
    pub(super) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Counts what there is, beside the work on it, so that the bar knows how much is left.
    pub(super) fn count(&self, mut found: mpsc::Receiver<Found>) -> impl Future<Output = ()> + use<> {
        let bar = self.bar.clone();
        async move {
            while let Some(found) = found.recv().await {
                if let Found::Image(_) = found {
                    bar.inc_length(1);
                }
            }
        }
    }

    /// An image is through.
    pub(super) fn tagged(&mut self, name: &str, result: Result<(), Failure>) {
        self.bar.inc(1);
        let Err(failure) = result else {
            self.tagged += 1;
            return;
        };
        self.failed += 1;
        self.bar.suspend(|| say(format_args!("tagmill: {name}: {}: {failure}", failure.code)));
        if self.failures.len() < LISTED {
            self.failures.push((name.to_owned(), failure.code));
        }
    }

    /// An image was done before.
    pub(super) const fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// No more images are begun.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
        self.bar.set_message("(stopping: once more to stop at once)");
    }

    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Says what came of it all.
    pub(super) fn end(self, interrupted: bool) -> Result<(), Failed> {
        self.bar.finish_and_clear();
        let Self { tagged, skipped, failed, failures, .. } = &self;
        let took = self.began.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
        let rate = *tagged as f64 / took.as_secs_f64().max(0.001);
        let mut parts = vec![format!("{tagged} tagged")];
        if *skipped > 0 {
            parts.push(format!("{skipped} skipped"));
        }
        parts.push(format!("{failed} failed"));
        say(format_args!("{}, in {:.1} s ({rate:.1} images/s)", parts.join(", "), took.as_secs_f64()));
        if tagged + skipped + failed == 0 && !interrupted {
            say(format_args!(
                "there is no image: files and objects are taken whose names end in {}",
                Suffixes::of_images()
            ));
        }
        if !failures.is_empty() {
            say("failed:");
            for (name, code) in failures {
                say(format_args!("  {name}  {code}"));
            }
            if *failed > LISTED as u64 {
                say(format_args!("  and {} more", failed - LISTED as u64));
            }
        }
        if interrupted {
            return Err(Failed::running(anyhow::anyhow!(
                "interrupted; run the same again with --skip-existing to go on"
            )));
        }
        if *failed > 0 {
            let images = if *failed == 1 { "image" } else { "images" };
            return Err(Failed::running(anyhow::anyhow!("{failed} {images} failed")));
        }
        Ok(())
    }
}
