//! Span of a job: its identity on every log line about it.

use tracing::Span;

use super::labels::Source;

/// Identity of a job, as log lines show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobIdentity<'a> {
    /// The job's own id, or the one from its source.
    pub(crate) id: &'a str,
    /// Number of the delivery, starting with 1.
    pub(crate) attempt: u64,
    /// The model, if it is known.
    pub(crate) model: Option<&'a str>,
    /// The source.
    pub(crate) source: Source,
    /// Id of the HTTP request that the job is part of.
    pub(crate) request_id: Option<&'a str>,
}

impl JobIdentity<'_> {
    /// Creates the job's span.
    ///
    /// Sets all fields at once: a field recorded later would be written twice in text and parse the first ones again in
    /// JSON. The level is `ERROR`, so that the span exists at every level with a line. The span has no parent, so that one
    /// JSON object has all of its fields.
    #[must_use]
    pub(crate) fn span(self) -> Span {
        let Self { id, attempt, model, source, request_id } = self;
        tracing::error_span!(parent: None, "job", id, attempt, model, source = %source.as_str(), request_id)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, OnceLock};

    use parking_lot::Mutex;
    use tracing::level_filters::LevelFilter;

    use super::*;

    /// Log of all unit tests, on every thread.
    #[derive(Clone, Default)]
    pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// Starts the log, once.
        pub(crate) fn start() -> Self {
            static LOG: OnceLock<Log> = OnceLock::new();
            let start = || {
                let log = Self::default();
                let written = log.clone();
                tracing_subscriber::fmt()
                    .with_ansi(false)
                    .with_target(false)
                    .with_max_level(LevelFilter::WARN)
                    .with_writer(move || written.clone())
                    .init();
                log
            };
            LOG.get_or_init(start).clone()
        }

        /// Lines that contain `text`.
        pub(crate) fn lines(&self, text: &str) -> Vec<String> {
            let log = String::from_utf8_lossy(&self.0.lock()).into_owned();
            log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
        }
    }

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Span of a job of the stream with this id.
    pub(crate) fn span(id: &str) -> Span {
        JobIdentity { id, attempt: 1, model: None, source: Source::Stream, request_id: None }.span()
    }

    #[test]
    fn a_line_shows_the_fields_that_have_a_value() {
        let log = Log::start();
        span("some of \"them\"").in_scope(|| tracing::warn!("said"));
        let all = JobIdentity {
            id: "all of them",
            attempt: 2,
            model: Some("m"),
            source: Source::Http,
            request_id: Some("r"),
        };
        all.span().in_scope(|| tracing::warn!("said"));
        for (id, expected) in [
            ("some of \\", r#" WARN job{id="some of \"them\"" attempt=1 source=stream}: said"#),
            ("all of them", r#" WARN job{id="all of them" attempt=2 model="m" source=http request_id="r"}: said"#),
        ] {
            let lines = log.lines(id);
            assert!(lines.len() == 1 && lines[0].ends_with(expected), "{lines:?}");
        }
    }
}
