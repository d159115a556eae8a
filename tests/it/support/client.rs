//! Client of the wire contract, as anyone could write one.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, Context};
use async_nats::{ConnectOptions, HeaderMap, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::PATIENCE;
use super::nats::NatsServer;

pub struct Client {
    pub jetstream: Context,
}

/// Result or dead letter.
#[derive(Debug)]
pub struct Answer {
    pub subject: String,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Client {
    pub async fn connect(server: &NatsServer) -> Self {
        Self::connect_with(server, ConnectOptions::new()).await
    }

    /// Connects with credentials.
    pub async fn connect_with(server: &NatsServer, options: ConnectOptions) -> Self {
        let nats = options.connect(format!("127.0.0.1:{}", server.port)).await.expect("it runs");
        Self { jetstream: jetstream::new(nats) }
    }

    /// The connection itself.
    pub fn nats(&self) -> async_nats::Client {
        self.jetstream.client()
    }

    /// Publishes a payload to the queue and checks that it is stored.
    pub async fn publish(&self, subject: &str, headers: HeaderMap, payload: impl Into<bytes::Bytes>) {
        let sent = self.jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
        sent.expect("it is sent").await.expect("it is stored");
    }

    /// Publishes a payload. Returns `true` if the server stored it.
    pub async fn try_publish(&self, subject: &str, headers: HeaderMap, payload: String) -> bool {
        let publish = async {
            let sent = self.jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await.ok()?;
            sent.await.ok()
        };
        matches!(tokio::time::timeout(Duration::from_secs(2), publish).await, Ok(Some(_)))
    }

    /// Publishes a job with this id for this image.
    pub async fn submit(&self, id: &str, image: &str) {
        self.publish("tagmill.jobs", HeaderMap::new(), json!({ "id": id, "image": image }).to_string()).await;
    }

    /// Publishes `count` jobs for the sample images, named by number.
    pub async fn submit_samples(&self, count: usize) {
        self.submit_samples_from(0, count).await;
    }

    /// Publishes jobs for the sample images, with these numbers as ids.
    pub async fn submit_samples_from(&self, first: usize, end: usize) {
        for number in first..end {
            let image = ["orange-sunset.jpg", "blue-ocean.webp", "red-strawberry.png", "night-sky.png"][number % 4];
            self.submit(&number.to_string(), image).await;
        }
    }

    /// Waits until a stream contains `count` answers, and reads them.
    async fn answers(&self, stream: &str, count: usize) -> Vec<Answer> {
        // A cluster that has just lost a server takes a while to answer.
        let mut messages = super::until("a consumer of answers", || async {
            let stream = self.jetstream.get_stream(stream).await.ok()?;
            let consumer = stream.create_consumer(OrderedConfig::default()).await.ok()?;
            consumer.messages().await.ok()
        })
        .await;
        let mut answers = Vec::new();
        while answers.len() < count {
            let next = tokio::time::timeout(PATIENCE, messages.next()).await;
            let next = next.unwrap_or_else(|_| panic!("only {} of {count} answers: {answers:#?}", answers.len()));
            answers.push(Answer::from(next.expect("an endless stream").expect("a message").message));
        }
        answers
    }

    /// Waits for `count` results.
    pub async fn results(&self, count: usize) -> Vec<Answer> {
        self.answers("TAGMILL_RESULTS", count).await
    }

    /// Waits for `count` dead letters.
    pub async fn dead(&self, count: usize) -> Vec<Answer> {
        self.answers("TAGMILL_DEAD", count).await
    }

    /// Restricts the stream of results to these subjects, once it exists.
    pub async fn take_results(&self, subjects: &[&str]) {
        self.take("TAGMILL_RESULTS", subjects).await;
    }

    /// Restricts the stream of dead letters to these subjects, once it exists.
    pub async fn take_dead(&self, subjects: &[&str]) {
        self.take("TAGMILL_DEAD", subjects).await;
    }

    async fn take(&self, stream: &str, subjects: &[&str]) {
        let subjects: Vec<_> = subjects.iter().map(ToString::to_string).collect();
        self.change(stream, |config| config.subjects.clone_from(&subjects)).await;
    }

    /// Limits the stream of results to `messages` messages; -1 is no limit.
    pub async fn limit_results(&self, messages: i64) {
        self.change("TAGMILL_RESULTS", |config| {
            config.max_messages = messages;
            config.discard = jetstream::stream::DiscardPolicy::New;
        })
        .await;
    }

    async fn change(&self, stream: &str, change: impl Fn(&mut jetstream::stream::Config)) {
        super::until("the stream to be changed", || async {
            let stream = self.jetstream.get_stream(stream).await.ok()?;
            let mut config = stream.cached_info().config.clone();
            change(&mut config);
            self.jetstream.update_stream(config).await.ok()
        })
        .await;
    }

    /// Number of messages in a stream.
    pub async fn count(&self, stream: &str) -> u64 {
        super::until("the stream", || async {
            let stream = self.jetstream.get_stream(stream).await.ok()?;
            Some(stream.cached_info().state.messages)
        })
        .await
    }

    /// Jobs in the queue, oldest first: their subjects, headers and payloads.
    pub async fn queued(&self) -> Vec<Answer> {
        let stream = self.jetstream.get_stream("TAGMILL_JOBS").await.expect("the stream");
        let state = &stream.cached_info().state;
        let mut jobs = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("nobody has taken it");
            jobs.push(Answer {
                subject: message.subject.to_string(),
                headers: message.headers,
                json: serde_json::from_slice(&message.payload).expect("jobs are JSON"),
            });
        }
        jobs
    }

    /// Limits the queue to `jobs` jobs; -1 is no limit.
    pub async fn limit_queue(&self, jobs: i64) {
        let stream = self.jetstream.get_stream("TAGMILL_JOBS").await.expect("the stream");
        let mut config = stream.cached_info().config.clone();
        config.max_messages = jobs;
        config.discard = jetstream::stream::DiscardPolicy::New;
        self.jetstream.update_stream(config).await.expect("it is changed");
    }

    /// Waits until the queue contains at least `jobs` jobs.
    pub async fn queue_holds(&self, jobs: u64) {
        super::until("jobs in the queue", || async { (self.count("TAGMILL_JOBS").await >= jobs).then_some(()) }).await;
    }

    /// State of the workers' consumer.
    pub async fn consumer(&self) -> jetstream::consumer::Info {
        let consumer: jetstream::consumer::PullConsumer =
            self.jetstream.get_consumer_from_stream("workers", "TAGMILL_JOBS").await.expect("a worker made it");
        consumer.cached_info().clone()
    }

    /// Waits until no job is left in the queue.
    pub async fn queue_is_empty(&self) {
        super::until("an empty queue", || async { (self.count("TAGMILL_JOBS").await == 0).then_some(()) }).await;
    }

    /// Takes every waiting job `times` times and returns it without an answer, like a killed worker.
    pub async fn take_without_answer(&self, times: usize) {
        let consumer: jetstream::consumer::PullConsumer =
            self.jetstream.get_consumer_from_stream("workers", "TAGMILL_JOBS").await.expect("it was made");
        let jobs = usize::try_from(self.count("TAGMILL_JOBS").await).expect("a few");
        for _ in 0..times {
            let batch = consumer.batch().max_messages(jobs).expires(Duration::from_secs(10)).messages().await;
            let taken: Vec<_> = batch.expect("a request").collect().await;
            assert_eq!(taken.len(), jobs);
            for job in taken {
                job.expect("a job").double_ack_with(jetstream::AckKind::Nak(None)).await.expect("it is given back");
            }
        }
    }

    /// Creates the queue, with jobs that were delivered as often as quarantined ones.
    pub async fn submit_quarantined(&self, count: usize) {
        self.make_queue(Duration::from_secs(30), 1).await;
        for number in 0..count {
            self.submit(&format!("quarantined-{number}"), "orange-sunset.jpg").await;
        }
        self.take_without_answer(2).await;
    }

    /// Creates the queue and its consumer before any worker does, with another ack wait.
    pub async fn make_queue(&self, ack_wait: Duration, replicas: usize) {
        let queue = jetstream::stream::Config {
            name: "TAGMILL_JOBS".into(),
            subjects: vec!["tagmill.jobs".into(), "tagmill.jobs.>".into()],
            retention: jetstream::stream::RetentionPolicy::WorkQueue,
            num_replicas: replicas,
            ..Default::default()
        };
        // A cluster with a leader may not have registered all members for streams yet.
        let stream =
            super::until("servers for the stream", || async { self.jetstream.create_stream(queue.clone()).await.ok() })
                .await;
        let config =
            jetstream::consumer::pull::Config { durable_name: Some("workers".into()), ack_wait, ..Default::default() };
        stream.create_consumer(config).await.expect("a consumer");
    }
}

impl Answer {
    pub fn id(&self) -> &str {
        self.json["id"].as_str().expect("every answer has an id")
    }

    /// Message id, by which the server detects two answers to one job.
    pub fn message_id(&self) -> &str {
        self.headers.get("Nats-Msg-Id").expect("every answer has one").as_str()
    }

    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().expect("every dead letter has a code")
    }

    /// Score of a tag or rating; zero if it is not reported.
    pub fn score(&self, name: &str) -> f64 {
        let tags = self.json["tags"].as_array().expect("every result has tags");
        let tag = tags.iter().find(|tag| tag["name"] == name).map(|tag| &tag["score"]);
        tag.unwrap_or(&self.json["rating"][name]).as_f64().unwrap_or_default()
    }
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        Self {
            subject: message.subject.to_string(),
            headers: message.headers.unwrap_or_default(),
            json: serde_json::from_slice(&message.payload).expect("answers are JSON"),
        }
    }
}
