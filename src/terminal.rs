//! Standard output: lines for people, in which nothing from outside is obeyed, and exact bytes for programs.
//!
//! No other file writes to it: `clippy.toml` has the rule.

use std::fmt;
use std::io::{self, Stdout, StdoutLock, Write, stdout};

use crate::text::plain;

/// Writes lines for people.
pub(crate) struct Lines(StdoutLock<'static>);

impl Lines {
    /// On standard output, of which they have the lock.
    #[expect(clippy::disallowed_methods, reason = "the one place for people")]
    pub(crate) fn open() -> Self {
        Self(stdout().lock())
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If nobody reads it.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        self.0.write_all(format!("{}\n", plain(&text.to_string())).as_bytes())
    }
}

/// Standard output for JSON, scripts and whatever else a program reads: as it is.
#[expect(clippy::disallowed_methods, reason = "the one place for programs")]
pub(crate) fn exact() -> Stdout {
    stdout()
}
