//! How progress looks on a terminal.

use std::fmt::Write;

use indicatif::{ProgressState, ProgressStyle};

/// A line of this template, whose `{rate}` is in so many of the unit a second.
pub(super) fn style(template: &str, unit: &'static str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    style.with_key("rate", move |state: &ProgressState, text: &mut dyn Write| {
        // Nothing to do where a terminal can't be written to.
        let _ = write!(text, "{:.1}{unit}/s", state.per_sec());
    })
}
