//! Display of a run on standard error: a bar if that is a terminal, every failure at once, and a summary.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;

use super::super::bar::Bar;
use super::super::{Failed, how_many};
use super::beside::Change;
use crate::command::images::Found;
use crate::failure::Failure;
use crate::store::suffix::Suffixes;
use crate::telemetry::say;

pub(super) struct Progress {
    bar: Bar,
    began: Instant,
    tagged: u64,
    skipped: u64,
    /// Sidecars of earlier runs, or of people: those left as they were, and those replaced.
    kept: u64,
    replaced: u64,
    /// How many failed, by code; each was named when it failed.
    failures: BTreeMap<&'static str, u64>,
    stopping: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = Bar::new("{bar:30} {human_pos} of {human_len}, {rate}, {left} {msg}", " images");
        let (began, failures) = (Instant::now(), BTreeMap::new());
        Self { bar, began, tagged: 0, skipped: 0, kept: 0, replaced: 0, failures, stopping: false }
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
                    bar.extend(1);
                }
            }
        }
    }

    /// An image is through.
    pub(super) fn tagged(&mut self, name: &str, result: Result<Change, Failure>) {
        self.bar.advance(1);
        let failure = match result {
            Ok(change) => {
                self.tagged += 1;
                self.changed(change);
                return;
            }
            Err(failure) => failure,
        };
        *self.failures.entry(failure.code.as_str()).or_default() += 1;
        self.bar.suspend(|| say(format_args!("tagmill: {name}: {}: {failure}", failure.code)));
    }

    /// An image was done before.
    pub(super) const fn skipped(&mut self, change: Change) {
        self.skipped += 1;
        self.changed(change);
    }

    const fn changed(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Kept => self.kept += 1,
            Change::Replaced => self.replaced += 1,
        }
    }

    /// No more images are begun.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
        self.bar.set_message("(stopping: once more to stop at once)");
    }

    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// How far it is, for those who see no bar.
    pub(super) fn log(&self) {
        let (tagged, skipped, failed) = (self.tagged, self.skipped, self.failures.values().sum::<u64>());
        tracing::info!(tagged, skipped, failed, images_per_second = format!("{:.1}", self.rate()), "tagging");
    }

    /// Images tagged a second.
    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
        let tagged = self.tagged as f64;
        tagged / self.began.elapsed().as_secs_f64().max(0.001)
    }

    /// Says what came of it all; of what was interrupted, also whether what it has done is kept where it can be gone on with.
    pub(super) fn end(self, interrupted: Option<bool>, passed: Option<String>) -> Result<(), Failed> {
        self.bar.clear();
        let Self { tagged, skipped, failures, .. } = &self;
        let failed: u64 = failures.values().sum();
        let (took, rate) = (self.began.elapsed(), self.rate());
        let mut parts = vec![format!("{tagged} tagged")];
        if *skipped > 0 {
            parts.push(format!("{skipped} skipped"));
        }
        parts.push(format!("{failed} failed"));
        say(format_args!("{}, in {:.1} s ({rate:.1} images/s)", parts.join(", "), took.as_secs_f64()));
        if self.kept > 0 {
            say(format_args!(
                "{} existed and kept (--overwrite replaces, --append adds)",
                how_many(self.kept, "sidecar")
            ));
        }
        if self.replaced > 0 {
            say(format_args!("{} replaced (--overwrite)", how_many(self.replaced, "sidecar")));
        }
        passed.into_iter().for_each(say);
        if tagged + skipped + failed == 0 && interrupted.is_none() {
            say(format_args!(
                "there is no image: files are taken by suffix or content, and objects whose names end in {}",
                Suffixes::of_images()
            ));
        }
        if let Some(is_kept) = interrupted {
            let then = if is_kept {
                "the same with --skip-existing goes on"
            } else {
                "with --output FILE and --skip-existing, the next run could go on"
            };
            return Err(Failed::running(anyhow::anyhow!("interrupted; {then}")));
        }
        if failures.is_empty() {
            return Ok(());
        }
        let codes = failures.iter().map(|(code, count)| format!("{count} {code}")).collect::<Vec<_>>().join(", ");
        Err(Failed::running(anyhow::anyhow!("{} failed: {codes}", how_many(failed, "image"))))
    }
}
