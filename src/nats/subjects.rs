//! The subjects of a prefix, and the names of its streams.

use std::fmt;
use std::str::FromStr;

/// Bytes of a job's subject, at most: its answers' subjects must fit a line of the protocol, which is 4 kB unless the server
/// is set up for less.
const LONGEST: usize = 1024;

/// The name of the NATS service that all workers are instances of.
pub(crate) const SERVICE: &str = "tagmill";

/// The subjects and stream names of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subjects {
    prefix: String,
}

/// Not a prefix.
#[derive(Debug, thiserror::Error)]
#[error("a prefix is letters, digits, `-` and `_`, in parts joined by dots, such as tagmill or shop.tagger")]
pub struct InvalidPrefix;

impl FromStr for Subjects {
    type Err = InvalidPrefix;

    fn from_str(prefix: &str) -> Result<Self, InvalidPrefix> {
        if is_plain(prefix) { Ok(Self { prefix: prefix.to_owned() }) } else { Err(InvalidPrefix) }
    }
}

/// Returns `true` if messages can be published on a subject: words without blanks, control characters or wildcards, joined by
/// dots, not too long.
fn is_publishable(subject: &str) -> bool {
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || letter == char::REPLACEMENT_CHARACTER;
    let is_word = |word: &str| !matches!(word, "" | "*" | ">");
    subject.len() <= LONGEST && !subject.contains(odd) && subject.split('.').all(is_word)
}

/// Whether a subject is plain words joined by dots.
fn is_plain(subject: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    subject.split('.').all(plain)
}

impl fmt::Display for Subjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

impl Subjects {
    /// Where jobs are published.
    #[must_use]
    pub(crate) fn jobs(&self) -> String {
        format!("{}.jobs", self.prefix)
    }

    /// Whether this is where jobs are published, or below it.
    #[must_use]
    pub(crate) fn is_of_jobs(&self, subject: &str) -> bool {
        let below = subject.strip_prefix(&self.jobs());
        below.is_some_and(|below| below.is_empty() || below.strip_prefix('.').is_some_and(is_plain))
    }

    /// Returns `true` if this is where jobs are published, or below it, and the answers to them can have a subject like it.
    #[must_use]
    pub(crate) fn is_answerable(&self, subject: &str) -> bool {
        let below = subject.strip_prefix(&self.jobs());
        below.is_some_and(|below| below.is_empty() || below.starts_with('.')) && is_publishable(subject)
    }

    /// Returns `true` if an answer may be sent to this reply subject: not to the server, to the streams and subjects of this
    /// prefix, or to several subjects. Whoever asks must not have the worker publish there with its own rights.
    #[must_use]
    pub(crate) fn is_inbox(&self, reply: &str) -> bool {
        let below = reply.strip_prefix(&self.prefix);
        let is_own = below.is_some_and(|below| below.is_empty() || below.starts_with('.'));
        is_publishable(reply) && !reply.starts_with('$') && !is_own
    }

    /// Destination of requests.
    #[must_use]
    pub(crate) fn requests(&self) -> String {
        format!("{}.tag", self.prefix)
    }

    /// Where the result of a job published on `job_subject` goes.
    #[must_use]
    pub(crate) fn result_for(&self, job_subject: &str) -> String {
        self.carried("results", job_subject)
    }

    /// Where the dead letter of a job published on `job_subject` goes.
    #[must_use]
    pub(crate) fn dead_for(&self, job_subject: &str) -> String {
        self.carried("dead", job_subject)
    }

    /// Pattern of the dead letters of jobs whose subjects match a pattern.
    #[must_use]
    pub(crate) fn dead_filter(&self, jobs: &str) -> String {
        format!("{}.dead{}", self.prefix, jobs.strip_prefix(&self.jobs()).unwrap_or_default())
    }

    /// The tokens after `jobs` are kept if an answer can have them.
    fn carried(&self, kind: &str, job_subject: &str) -> String {
        let rest = job_subject.strip_prefix(&self.jobs()).filter(|_| is_publishable(job_subject)).unwrap_or_default();
        format!("{}.{kind}{rest}", self.prefix)
    }

    /// The stream of jobs.
    #[must_use]
    pub(crate) fn jobs_stream(&self) -> String {
        self.stream("JOBS")
    }

    /// The stream of results.
    #[must_use]
    pub(crate) fn results_stream(&self) -> String {
        self.stream("RESULTS")
    }

    /// The stream of dead letters.
    #[must_use]
    pub(crate) fn dead_stream(&self) -> String {
        self.stream("DEAD")
    }

    pub(crate) fn stream(&self, kind: &str) -> String {
        format!("{}_{kind}", self.prefix.replace('.', "_").to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_jobs_is_carried_over() {
        let subjects: Subjects = "shop.tagger".parse().expect("a prefix");
        assert_eq!(subjects.jobs(), "shop.tagger.jobs");
        assert_eq!(subjects.result_for("shop.tagger.jobs"), "shop.tagger.results");
        assert_eq!(subjects.result_for("shop.tagger.jobs.a.b"), "shop.tagger.results.a.b");
        assert_eq!(subjects.dead_for("shop.tagger.jobs.a"), "shop.tagger.dead.a");
        assert_eq!(subjects.stream("JOBS"), "SHOP_TAGGER_JOBS");
    }

    #[test]
    fn jobs_are_published_on_their_subject_and_below_it() {
        let subjects: Subjects = "tagmill".parse().expect("a prefix");
        for (subject, is) in [
            ("tagmill.jobs", true),
            ("tagmill.jobs.shop.eu", true),
            ("tagmill.jobs.", false),
            ("tagmill.jobs.shop.>", false),
            ("tagmill.jobs2", false),
            ("shop", false),
            ("tagmill.results", false),
        ] {
            assert_eq!(subjects.is_of_jobs(subject), is, "{subject}");
        }
    }

    #[test]
    fn answers_go_to_subjects_that_can_be_published_on() {
        let subjects: Subjects = "tagmill".parse().expect("a prefix");
        let long = format!("tagmill.jobs.{}", "x".repeat(LONGEST));
        for (subject, dead) in [
            ("tagmill.jobs.größe.cat@home", "tagmill.dead.größe.cat@home"),
            ("tagmill.jobs.a*b", "tagmill.dead.a*b"),
            ("tagmill.jobs.a\u{fffd}", "tagmill.dead"),
            ("tagmill.jobs.a b", "tagmill.dead"),
            ("tagmill.jobs.\u{1b}", "tagmill.dead"),
            ("tagmill.jobs.*", "tagmill.dead"),
            ("tagmill.jobs..a", "tagmill.dead"),
            (&long, "tagmill.dead"),
        ] {
            assert_eq!(
                (subjects.dead_for(subject).as_str(), subjects.is_answerable(subject)),
                (dead, dead.contains("dead."))
            );
        }
        for other in ["tagmill.results.a", "$JS.API.INFO", "tagmill.jobsx", "shop"] {
            assert!(!subjects.is_answerable(other), "{other}");
        }
    }

    #[test]
    fn replies_go_to_inboxes() {
        let subjects: Subjects = "shop.tagger".parse().expect("a prefix");
        for reply in ["_INBOX.a.b", "_INBOX_alice.x", "shop.replies", "shop.taggers.x"] {
            assert!(subjects.is_inbox(reply), "{reply}");
        }
        for reply in [
            "$JS.API.STREAM.PURGE.A",
            "$SRV.PING",
            "shop.tagger",
            "shop.tagger.results.x",
            "_INBOX.>",
            "a.*",
            "",
            "a b",
            "a\u{fffd}",
        ] {
            assert!(!subjects.is_inbox(reply), "{reply}");
        }
    }

    #[test]
    fn a_prefix_is_a_plain_subject() {
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a.>", "*", "ä"] {
            assert!(text.parse::<Subjects>().is_err(), "{text}");
        }
    }
}
