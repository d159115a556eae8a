//! How progress looks on a terminal.

use std::fmt::Write;

use indicatif::{HumanDuration, ProgressState, ProgressStyle};

/// A line of this template, whose `{rate}` is in so many of the unit a second; `{left}` is how long it still takes.
pub(super) fn style(template: &str, unit: &'static str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    // Nothing to do where a terminal can't be written to.
    style
        .with_key("rate", move |state: &ProgressState, text: &mut dyn Write| {
            let _ = write!(text, "{:.1}{unit}/s", state.per_sec());
        })
        .with_key("left", |state: &ProgressState, text: &mut dyn Write| {
            // Where all that is known of is done, more may be found.
            let _ = if state.pos() == 0 || state.len() == Some(state.pos()) {
                write!(text, "? left")
            } else {
                write!(text, "{} left", HumanDuration(state.eta()))
            };
        })
}
