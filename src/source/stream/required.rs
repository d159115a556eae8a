//! Settings of existing streams and consumers that tagmill needs. The operator chooses them, so none is changed. One that
//! would lose jobs or answers, or keep jobs for ever, is refused by name.

use std::fmt;

use async_nats::jetstream::consumer::{self, AckPolicy};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};

use super::filter::ConsumerFilter;
use super::unusable::Unusable;

/// Checks the stream of jobs.
///
/// # Errors
/// If it would drop jobs, or keep jobs that are done.
pub(super) fn jobs(config: &Config) -> Result<(), Unusable> {
    require(config, "retention", &config.retention, &RetentionPolicy::WorkQueue)?;
    if !config.max_age.is_zero() {
        let wanted = "unset, or jobs that wait longer are dropped";
        return Err(wrong(&config.name, "max_age", format!("{:?}", config.max_age), wanted));
    }
    keeps_messages(config, "jobs")
}

/// Checks a stream of answers: results or dead letters.
///
/// # Errors
/// If it would drop answers before their time, or not confirm them.
pub(super) fn answers(config: &Config) -> Result<(), Unusable> {
    require(config, "retention", &config.retention, &RetentionPolicy::Limits)?;
    keeps_messages(config, "answers")
}

/// Checks that a stream confirms its messages and does not drop them to make room.
fn keeps_messages(config: &Config, messages: &str) -> Result<(), Unusable> {
    if config.no_ack {
        return Err(wrong(&config.name, "no_ack", true, "unset: what is not confirmed may be lost"));
    }
    let is_bounded = config.max_bytes > 0 || config.max_messages > 0;
    if is_bounded && config.discard == DiscardPolicy::Old {
        let wanted = format!("new, since the stream has a maximum size: a full one would drop its oldest {messages}");
        return Err(wrong(&config.name, "discard", "old", &wanted));
    }
    let per_subject = config.max_messages_per_subject;
    if per_subject > 0 && !(config.discard == DiscardPolicy::New && config.discard_new_per_subject) {
        let wanted = format!("unset: older {messages} of a subject would be dropped");
        return Err(wrong(&config.name, "max_msgs_per_subject", per_subject, &wanted));
    }
    Ok(())
}

/// Checks the consumer of a filter.
///
/// # Errors
/// If it has other jobs, or delivers them in a way that would lose some.
pub(super) fn consumer(stream: &str, filter: &ConsumerFilter, config: &consumer::Config) -> Result<(), Unusable> {
    let name = format!("the consumer {} of {stream}", filter.consumer);
    if filter.subject != config.filter_subject {
        let found = if config.filter_subject.is_empty() { "(all)" } else { &config.filter_subject };
        return Err(wrong(&name, "filter", found, "that of --filter, and unset without one"));
    }
    if config.ack_policy != AckPolicy::Explicit {
        return Err(wrong(&name, "ack policy", shown(&config.ack_policy), "explicit"));
    }
    if config.max_deliver > 0 {
        return Err(wrong(&name, "max_deliver", config.max_deliver, "unset: workers count failures themselves"));
    }
    if config.headers_only {
        return Err(wrong(&name, "headers_only", true, "unset: jobs are in the payload"));
    }
    Ok(())
}

fn require<T: PartialEq + fmt::Debug>(
    config: &Config,
    setting: &'static str,
    found: &T,
    wanted: &T,
) -> Result<(), Unusable> {
    if found == wanted { Ok(()) } else { Err(wrong(&config.name, setting, shown(found), &shown(wanted))) }
}

/// A setting's value as NATS writes it.
fn shown(value: &impl fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn wrong(what: &str, setting: &'static str, found: impl fmt::Display, wanted: &str) -> Unusable {
    Unusable::Setting { what: what.to_owned(), setting, found: found.to_string(), wanted: wanted.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue() -> Config {
        Config { name: "JOBS".into(), retention: RetentionPolicy::WorkQueue, ..Config::default() }
    }

    fn setting(refused: Result<(), Unusable>) -> &'static str {
        match refused {
            Err(Unusable::Setting { setting, .. }) => setting,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_queue_that_drops_jobs_is_refused() {
        jobs(&queue()).expect("it drops none");
        jobs(&Config { max_bytes: 1000, discard: DiscardPolicy::New, ..queue() }).expect("publishers are told");
        let drops = [
            ("discard", Config { max_bytes: 1000, ..queue() }),
            ("discard", Config { max_messages: 1000, ..queue() }),
            ("max_age", Config { max_age: Duration::from_mins(1), ..queue() }),
            ("max_msgs_per_subject", Config { max_messages_per_subject: 1, ..queue() }),
            ("max_msgs_per_subject", Config { max_messages_per_subject: 1, discard: DiscardPolicy::New, ..queue() }),
            ("no_ack", Config { no_ack: true, ..queue() }),
            ("retention", Config { retention: RetentionPolicy::Limits, ..queue() }),
        ];
        for (name, config) in drops {
            assert_eq!(setting(jobs(&config)), name, "{config:?}");
        }
    }

    #[test]
    fn answers_may_expire_but_make_no_room_for_others() {
        let results = || Config { name: "RESULTS".into(), max_age: Duration::from_mins(1), ..Config::default() };
        answers(&results()).expect("they are there for a while");
        answers(&Config { max_bytes: 1000, discard: DiscardPolicy::New, ..results() }).expect("workers wait");
        assert_eq!(setting(answers(&Config { max_messages: 1000, ..results() })), "discard");
        assert_eq!(setting(answers(&Config { max_messages_per_subject: 1, ..results() })), "max_msgs_per_subject");
        assert_eq!(setting(answers(&Config { retention: RetentionPolicy::Interest, ..results() })), "retention");
    }

    #[test]
    fn a_consumer_that_leaves_out_payloads_is_refused() {
        let config = consumer::Config { ack_policy: AckPolicy::Explicit, ..consumer::Config::default() };
        let all = ConsumerFilter::of("tagmill.jobs", None);
        consumer("JOBS", &all, &config).expect("as tagmill makes it");
        let headers_only = consumer::Config { headers_only: true, ..config.clone() };
        assert_eq!(setting(consumer("JOBS", &all, &headers_only)), "headers_only");
        let limited = consumer::Config { max_deliver: 5, ..config };
        assert_eq!(setting(consumer("JOBS", &all, &limited)), "max_deliver");
    }
}
