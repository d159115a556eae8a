//! What a person sees of a run, on standard error: progress where that is a terminal, and a line where something is to be said.

use std::time::Duration;

use indicatif::ProgressBar;

use super::checkpoint::Count;
use crate::command::bar;
use crate::telemetry::say;

/// One line that is written again and again.
#[derive(Clone)]
pub(super) struct Screen {
    bar: ProgressBar,
    answers: bool,
}

impl Screen {
    /// Shows answers, or else jobs.
    pub(super) fn new(answers: bool) -> Self {
        let style = if answers {
            "{spinner} {human_pos} of {human_len} answered, {rate}, {left}"
        } else {
            "{spinner} {human_pos} published, {rate}, {elapsed}"
        };
        // Draws nothing where there is no terminal.
        let bar = if answers { ProgressBar::new(0) } else { ProgressBar::new_spinner() };
        let bar = bar.with_style(bar::style(style, ""));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, answers }
    }

    pub(super) fn published(&self, count: Count) {
        if self.answers {
            self.bar.set_length(count.published);
        } else {
            self.bar.set_position(count.jobs);
        }
    }

    pub(super) fn answered(&self) {
        self.bar.inc(1);
    }

    pub(super) fn say(&self, text: &str) {
        self.aside(|| say(format_args!("tagmill: {text}")));
    }

    /// Does something that writes to the terminal.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
