//! The NATS service protocol, as `nats micro ls`, `info` and `stats` speak it. The client library has a service of its own,
//! but that counts a failed request only where its answer is empty, and unsubscribes in a way that loses requests which are
//! on their way; so this is written on plain subscriptions.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use async_nats::{Client, Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::GROUP;
use crate::failure::Failure;
use crate::nats::subjects::{SERVICE, Subjects};

/// Its one endpoint.
const ENDPOINT: &str = "tag";

/// One instance of the service.
pub(crate) struct Service {
    identity: Identity,
    subjects: Subjects,
    started: SystemTime,
    counts: Mutex<Counts>,
}

#[derive(Serialize)]
struct Identity {
    name: &'static str,
    id: String,
    version: &'static str,
    metadata: HashMap<&'static str, String>,
}

/// What was asked so far.
#[derive(Clone, Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    last_error: &'static str,
    time: Duration,
}

/// What can be asked of an instance.
#[derive(Clone, Copy)]
enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }
}

/// Listens for what is asked of every service, of this one, and of this instance.
///
/// # Errors
/// Where the client is closed.
pub(super) async fn subscribe(client: &Client, id: &str) -> Result<SelectAll<Subscriber>, SubscribeError> {
    let mut questions = Vec::new();
    for verb in Verb::ALL.map(Verb::as_str) {
        for subject in [format!("$SRV.{verb}"), format!("$SRV.{verb}.{SERVICE}"), format!("$SRV.{verb}.{SERVICE}.{id}")]
        {
            questions.push(client.subscribe(subject).await?);
        }
    }
    Ok(select_all(questions))
}

impl Service {
    /// An instance that has just started.
    pub(super) fn new(subjects: &Subjects, worker: &str) -> Self {
        let metadata = HashMap::from([("worker", worker.to_owned()), ("prefix", subjects.to_string())]);
        let id = format!("{:016x}", rand::random::<u64>());
        let identity = Identity { name: SERVICE, id, version: env!("CARGO_PKG_VERSION"), metadata };
        Self { identity, subjects: subjects.clone(), started: SystemTime::now(), counts: Mutex::default() }
    }

    /// What tells it from the others.
    pub(super) fn id(&self) -> &str {
        &self.identity.id
    }

    /// A request was answered.
    pub(super) fn count(&self, took: Duration, failure: Option<&Failure>) {
        let mut counts = self.counts.lock();
        counts.requests += 1;
        counts.time += took;
        if let Some(failure) = failure {
            counts.errors += 1;
            // Without the message: anybody may ask for statistics, and it names the caller's image.
            counts.last_error = failure.code.as_str();
        }
    }

    /// Answers what is asked, until the connection closes.
    pub(super) async fn answer(self: std::sync::Arc<Self>, client: Client, mut questions: SelectAll<Subscriber>) {
        while let Some(Message { subject, reply, .. }) = questions.next().await {
            let asked = subject.split('.').nth(1).unwrap_or_default();
            let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == asked);
            if let (Some(verb), Some(reply)) = (verb, reply) {
                if !self.subjects.is_inbox(&reply) {
                    super::refuse_reply(&reply);
                    continue;
                }
                // Who asked may be gone already.
                let _ = client.publish(reply, self.says(verb).to_string().into()).await;
            }
        }
    }

    fn says(&self, verb: Verb) -> Value {
        let kind = format!("io.nats.micro.v1.{}_response", verb.as_str().to_lowercase());
        let mut answer = json!({ "type": kind });
        let more = match verb {
            Verb::Ping => json!({}),
            Verb::Info => json!({
                "description": "Tags images.",
                "endpoints": [{ "name": ENDPOINT, "subject": self.subjects.requests(), "queue_group": GROUP, "metadata": {} }],
            }),
            Verb::Stats => json!({
                "started": humantime::format_rfc3339_millis(self.started).to_string(),
                "endpoints": [self.statistics()],
            }),
        };
        for part in [serde_json::to_value(&self.identity).unwrap_or_default(), more] {
            if let (Value::Object(answer), Value::Object(part)) = (&mut answer, part) {
                answer.extend(part);
            }
        }
        answer
    }

    fn statistics(&self) -> Value {
        let counts = self.counts.lock().clone();
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let time = nanoseconds(counts.time);
        json!({
            "name": ENDPOINT,
            "subject": self.subjects.requests(),
            "queue_group": GROUP,
            "num_requests": counts.requests,
            "num_errors": counts.errors,
            "last_error": counts.last_error,
            "processing_time": time,
            "average_processing_time": time.checked_div(counts.requests).unwrap_or_default(),
        })
    }
}
