//! Splits a batch that fails as a whole until the culprit is alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::Span;

use super::Runtime;
use crate::failure::{Code, Failure};
use crate::pipeline::stage::panicked;
use crate::telemetry::rate_limited::warn_limited;

/// Result of a batch regarding the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// This many rows ran at once.
    Whole(usize),
    /// This many rows did not fit; the smallest such number.
    TooLarge(usize),
    /// The batch failed for another reason.
    Unknown,
}

/// Runs the rows together, or in halves after a failure, so that a bad row fails alone and in the span of its job. `spans`
/// has one span for each row.
pub(super) fn run_or_split(
    runtime: &mut dyn Runtime,
    rows: &[&[u8]],
    spans: &[Span],
    outcomes: &mut Vec<Result<Vec<f32>, Failure>>,
) -> Fit {
    let _span = if let [span] = spans { Some(span.enter()) } else { None };
    let run = catch_unwind(AssertUnwindSafe(|| runtime.run(rows)));
    let failure = match run.unwrap_or_else(|panic| Err(panicked(Code::InferenceFailed, "running a batch", &*panic))) {
        Ok(scores) => {
            outcomes.extend(scores.into_iter().map(Ok));
            return Fit::Whole(rows.len());
        }
        Err(failure) => failure,
    };
    let here = if failure.code == Code::OutOfMemory { Fit::TooLarge(rows.len()) } else { Fit::Unknown };
    if rows.len() == 1 || failure.code == Code::ShuttingDown {
        outcomes.extend(rows.iter().map(|_| Err(failure.clone())));
        return here;
    }
    warn_limited!("a batch failed; it is split", failure.code, error = %failure, rows = rows.len());
    let (left, right) = rows.split_at(rows.len() / 2);
    let (left_spans, right_spans) = spans.split_at(left.len());
    let halves =
        [run_or_split(runtime, left, left_spans, outcomes), run_or_split(runtime, right, right_spans, outcomes)];
    let too_large = halves.into_iter().chain([here]).filter_map(|fit| match fit {
        Fit::TooLarge(rows) => Some(rows),
        Fit::Whole(_) | Fit::Unknown => None,
    });
    too_large.min().map_or(Fit::Unknown, Fit::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Small;
    use super::*;
    use crate::telemetry::span::tests::{Log, span};

    /// Spans of `rows` jobs.
    fn spans(rows: usize) -> Vec<Span> {
        (0..rows).map(|row| span(&format!("row {row}"))).collect()
    }

    /// Scores a row by its first byte; fails or panics for any batch that contains a row of 13 or 99.
    struct Faulty;

    impl Runtime for Faulty {
        fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
            assert!(rows.iter().all(|row| row[0] != 99), "a row of 99");
            if rows.iter().any(|row| row[0] == 13) {
                return Err(Failure::new(Code::InferenceFailed, "a row of 13"));
            }
            Ok(rows.iter().map(|row| vec![f32::from(row[0])]).collect())
        }
    }

    #[test]
    fn one_bad_row_fails_alone_and_the_others_keep_their_place() {
        let log = Log::start();
        let bytes = [[1], [2], [13], [4], [99], [6], [7], [8]];
        let rows: Vec<&[u8]> = bytes.iter().map(<[u8; 1]>::as_slice).collect();
        let mut outcomes = Vec::new();
        assert_eq!(run_or_split(&mut Faulty, &rows, &spans(8), &mut outcomes), Fit::Unknown);
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map_err(|failure| failure.code)).collect();
        let ok = |score: f32| Ok(vec![score]);
        let failed = || Err(Code::InferenceFailed);
        assert_eq!(outcomes, [ok(1.0), ok(2.0), failed(), ok(4.0), failed(), ok(6.0), ok(7.0), ok(8.0)]);
        let lines = log.lines("a row of 99");
        let named: Vec<_> = lines.iter().filter(|line| line.contains("job{")).collect();
        assert!(lines.len() > 1 && named.len() == 1, "a batch of one is about its job: {lines:?}");
        assert!(named[0].contains(r#" job{id="row 4" attempt=1 source=stream}: panicked"#), "{named:?}");
    }

    #[test]
    fn a_batch_that_does_not_fit_is_split_until_it_does() {
        let rows: [&[u8]; 8] = [&[0]; 8];
        let mut outcomes = Vec::new();
        assert_eq!(run_or_split(&mut Small, &rows, &spans(8), &mut outcomes), Fit::TooLarge(4));
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 8, "nobody loses anything");
        assert_eq!(run_or_split(&mut Small, &rows[..2], &spans(2), &mut outcomes), Fit::Whole(2));
    }
}
