//! Progress on a terminal; the only use of `indicatif`.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use crate::text::plain;

/// Time between two redraws of a spinner and of the elapsed time.
const TICK: Duration = Duration::from_millis(100);

/// Line on standard error that is redrawn as work proceeds. Draws only on a terminal. Clones share the line.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Line of an `indicatif` template. Additional keys: `{rate}`, in `unit` per second, and `{left}`, the time until the
    /// length is reached.
    pub(super) fn new(template: &str, unit: &'static str) -> Self {
        let bar = ProgressBar::new(0).with_style(style(template, unit));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Line of a file of `size` bytes, of which the first `from` are present.
    pub(super) fn of_file(name: &str, size: u64, from: u64) -> Self {
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        let bar = ProgressBar::new(size).with_style(style(template, "")).with_message(plain(name).into_owned());
        let bar = bar.with_position(from);
        // Rate and remaining time count new bytes only.
        bar.reset_eta();
        Self(bar)
    }

    /// Line that is never drawn.
    pub(super) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    pub(super) fn set_length(&self, length: u64) {
        self.0.set_length(length);
    }

    pub(super) fn extend(&self, by: u64) {
        self.0.inc_length(by);
    }

    pub(super) fn set_position(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(super) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    pub(super) fn set_message(&self, message: impl Into<String>) {
        self.0.set_message(plain(&message.into()).into_owned());
    }

    /// Runs something that writes to the terminal while the line is hidden.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str, unit: &'static str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    // Write errors of the terminal are ignored.
    style
        .with_key("rate", move |state: &ProgressState, text: &mut dyn Write| {
            let _ = write!(text, "{:.1}{unit}/s", state.per_sec());
        })
        .with_key("left", |state: &ProgressState, text: &mut dyn Write| {
            // More files may be found after all known ones are done.
            let _ = if state.pos() == 0 || state.len() == Some(state.pos()) {
                write!(text, "? left")
            } else {
                write!(text, "{} left", HumanDuration(state.eta()))
            };
        })
}
