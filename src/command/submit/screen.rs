//! Display of a run on standard error: progress if that is a terminal, and lines of text.

use super::checkpoint::Count;
use crate::command::bar::Bar;
use crate::telemetry::say;

/// Display of a run.
#[derive(Clone)]
pub(super) struct Screen {
    bar: Bar,
    answers: bool,
}

impl Screen {
    /// Shows answers, or else jobs.
    pub(super) fn new(answers: bool) -> Self {
        let template = if answers {
            "{spinner} {human_pos} of {human_len} answered, {rate}, {left}"
        } else {
            "{spinner} {human_pos} published, {rate}, {elapsed}"
        };
        Self { bar: Bar::new(template, ""), answers }
    }

    pub(super) fn published(&self, count: Count) {
        if self.answers {
            self.bar.set_length(count.published);
        } else {
            self.bar.set_position(count.jobs);
        }
    }

    pub(super) fn answered(&self) {
        self.bar.advance(1);
    }

    pub(super) fn say(&self, text: &str) {
        self.aside(|| say(format_args!("tagmill: {text}")));
    }

    /// Runs something that writes to the terminal.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    pub(super) fn clear(&self) {
        self.bar.clear();
    }
}
