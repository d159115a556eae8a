//! Selection of a worker's jobs by subject: all jobs of the queue, or those of a consumer of its own.

use std::fmt;
use std::str::FromStr;

/// Durable consumer of workers without a filter.
const CONSUMER: &str = "workers";

/// Part of job subjects after the queue's own: tokens, `*` for any one, and at the end `>` for all that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter(String);

/// Error of a text that is not a filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "a filter is letters, digits, `-` and `_`, or *, in parts joined by dots, the last of which may be >, such as shop.>"
)]
pub(crate) struct InvalidFilter;

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        let parts: Vec<&str> = text.split('.').collect();
        let last = parts.len() - 1;
        let fine =
            parts.iter().enumerate().all(|(at, part)| plain(part) || *part == "*" || (at == last && *part == ">"));
        if fine { Ok(Self(text.to_owned())) } else { Err(InvalidFilter) }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Consumer and subject of the jobs that a worker takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerFilter {
    /// Durable consumer that its workers share.
    pub consumer: String,
    /// Subject of its jobs; empty for all.
    pub subject: String,
}

impl ConsumerFilter {
    /// Consumer and subject of a filter, for jobs on `jobs` and below.
    #[must_use]
    pub(crate) fn of(jobs: &str, filter: Option<&Filter>) -> Self {
        let Some(Filter(filter)) = filter else {
            return Self { consumer: CONSUMER.to_owned(), subject: String::new() };
        };
        Self { consumer: format!("{CONSUMER}-{}", name(filter)), subject: format!("{jobs}.{filter}") }
    }

    /// Its subject for display.
    #[must_use]
    pub(crate) fn shown(&self) -> String {
        if self.subject.is_empty() { "every subject".to_owned() } else { self.subject.clone() }
    }
}

/// Name of a filter's consumer, unique for each filter. Names may not contain dots or wildcards. Filters of plain words
/// that end with `>` have plain names. `=` and `~`, which no filter contains, mark the others that would have the same
/// name.
fn name(filter: &str) -> String {
    let token = |token: &str| match token {
        "*" => "any".to_owned(),
        ">" => "all".to_owned(),
        "any" | "all" => format!("={token}"),
        plain => plain.replace('-', "~"),
    };
    let (tokens, exact) = match filter.strip_suffix(".>") {
        Some(tokens) => (tokens, ""),
        None if filter == ">" => (filter, ""),
        None => (filter, "="),
    };
    tokens.split('.').map(token).collect::<Vec<_>>().join("-") + exact
}

/// Returns `true` if a subject can match both filters. An empty filter matches every subject.
#[must_use]
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    if one.is_empty() || other.is_empty() {
        return true;
    }
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Similar filters.
    const FILTER: &str = "((a|-|b-|any|all|\\*)\\.){0,2}(a|-|any|all|\\*|>)";

    #[test]
    fn a_part_has_a_consumer_named_after_it() {
        for (filter, consumer) in [
            ("shop.>", "workers-shop"),
            ("shop.eu.>", "workers-shop-eu"),
            ("shop", "workers-shop="),
            ("*.eu", "workers-any-eu="),
            ("*.>", "workers-any"),
            (">", "workers-all"),
            ("all.>", "workers-=all"),
            ("tenant-a.>", "workers-tenant~a"),
        ] {
            let part = ConsumerFilter::of("tagmill.jobs", Some(&filter.parse().expect(filter)));
            assert_eq!((part.consumer.as_str(), part.subject), (consumer, format!("tagmill.jobs.{filter}")));
        }
        assert_eq!(
            ConsumerFilter::of("tagmill.jobs", None),
            ConsumerFilter { consumer: "workers".into(), subject: String::new() }
        );
        for text in ["", ".", "a.", "a b", ">.a", "a>", "a*", "ä"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_two_filters_share_a_consumer(one in FILTER, other in FILTER) {
            let part = |filter: &str| ConsumerFilter::of("tagmill.jobs", Some(&filter.parse().expect("a filter")));
            prop_assert_eq!(part(&one).consumer == part(&other).consumer, one == other, "{} {}", one, other);
        }
    }

    #[test]
    fn filters_overlap_where_one_subject_is_let_through_by_both() {
        for (one, other, both) in [
            ("a.>", "a.b", true),
            ("a.>", "a", false),
            ("a.>", "b.>", false),
            ("a.*", "*.b", true),
            ("a.*.c", "a.b", false),
            ("a.b", "a.b", true),
            ("", "a", true),
        ] {
            assert_eq!((overlap(one, other), overlap(other, one)), (both, both), "{one} {other}");
        }
    }
}
