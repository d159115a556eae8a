//! Publishers, requesters, stores and neighbours that mean harm.

mod http;
mod names;
mod permissions;
mod promises;
mod store;
mod tls;

use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::raw::Raw;
use crate::support::until;
use crate::support::worker::Worker;

/// Headers that no client library writes, and that end the connection of one that reads them.
const MALFORMED: [&[u8]; 6] = [
    b"NATS/1.0\r\nA: b\rc\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n\xc3\xa4: b\r\n\r\n",
    b"HTTP/1.1\r\nA: b\r\n\r\n",
    b"\r\n\r\n",
];

/// Status lines, the first as the server has it when there are no jobs. Current servers remove them from what they store.
const STATUS: [&[u8]; 2] = [b"NATS/1.0 404 No Messages\r\n\r\n", b"NATS/1.0 soon\r\n\r\n"];

/// Subjects that no client library reads, or can answer under.
fn malformed_subjects() -> [Vec<u8>; 4] {
    let long = [b"tagmill.jobs.".as_slice(), &[b'x'; 4000]].concat();
    [b"tagmill.jobs.\xff".to_vec(), "tagmill.jobs.a\u{2003}b".into(), "tagmill.jobs.\u{1b}[2J".into(), long]
}

const SUNSET: &[u8] = br#"{"id":"bad","image":"orange-sunset.jpg"}"#;

async fn publish_malformed_jobs(nats: NatsServer, removes_status: bool) {
    let client = Client::connect(&nats).await;
    let mut worker = Worker::start(&nats);
    let mut raw = Raw::connect(&nats).await;
    let subjects = malformed_subjects();
    for (number, headers) in MALFORMED.iter().chain(&STATUS).enumerate() {
        client.submit(&format!("before-{number}"), "orange-sunset.jpg").await;
        raw.publish(b"tagmill.jobs.shop", b"", Some(headers), SUNSET).await;
        assert!(raw.flush().await, "the server takes them");
    }
    for subject in &subjects {
        // On each the server's answer to the worker has another form.
        raw.publish(subject, b"", Some(b"NATS/1.0\r\nA: b\r\n\r\n"), SUNSET).await;
        raw.publish(subject, b"", None, SUNSET).await;
        assert!(raw.flush().await, "the server takes them");
    }
    client.submit("last", "orange-sunset.jpg").await;
    let removed = if removes_status { STATUS.len() } else { 0 };
    let with_headers = MALFORMED.len() + STATUS.len() - removed;

    let letters = client.dead(with_headers + 2 * subjects.len()).await;
    let shown = |letter: &Answer| format!("{} {}", letter.subject, letter.json);
    assert!(letters.iter().all(|letter| letter.code() == "bad_job" && letter.id() == "bad"), "{letters:#?}");
    let (by_headers, by_subject): (Vec<_>, Vec<_>) =
        letters.iter().partition(|letter| letter.json["subject"] == "tagmill.jobs.shop");
    assert_eq!(by_headers.len(), with_headers);
    for letter in by_headers {
        assert_eq!(letter.subject, "tagmill.dead.shop", "{}", shown(letter));
        assert_eq!(letter.json["job"], json!({ "id": "bad", "image": "orange-sunset.jpg" }));
        assert!(letter.json["error"]["message"].as_str().expect("a message").contains("header"), "{}", shown(letter));
    }
    for letter in by_subject {
        assert_eq!(letter.subject, "tagmill.dead", "{}", shown(letter));
        assert!(letter.json["error"]["message"].as_str().expect("a message").contains("subject"), "{}", shown(letter));
    }
    let results = client.results(MALFORMED.len() + STATUS.len() + removed + 1).await;
    assert!(results.iter().any(|result| result.id() == "last"));
    client.queue_is_empty().await;
    assert!(worker.is_running());
    assert!(!worker.log().contains("NATS is gone"), "the connection stays");
    let again = worker.metric("tagmill_redeliveries_total").await;
    assert!(again.is_none_or(|again| again < 1.0), "the neighbours are taken at the first delivery");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_ends_a_worker_or_lives_for_ever() {
    publish_malformed_jobs(NatsServer::start(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_a_current_server() {
    publish_malformed_jobs(NatsServer::start_current(), true).await;
}

async fn is_answered(client: &Client) -> Value {
    let payload = json!({ "image": "orange-sunset.jpg" }).to_string();
    let nats = client.nats();
    let request = nats.request("tagmill.tag", payload.into());
    let answer = tokio::time::timeout(Duration::from_secs(20), request).await.expect("in time").expect("an answer");
    serde_json::from_slice(&answer.payload).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_ends_a_worker() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let mut worker = Worker::start(&nats);
    let mut raw = Raw::connect(&nats).await;
    for subject in ["tagmill.tag", "$SRV.PING", "$SRV.STATS.tagmill", "$SRV.INFO.tagmill"] {
        for headers in MALFORMED.into_iter().chain(STATUS) {
            raw.publish(subject.as_bytes(), b"_INBOX.somebody", Some(headers), SUNSET).await;
        }
        raw.publish(subject.as_bytes(), b"_INBOX.\xff", None, SUNSET).await;
        raw.publish(subject.as_bytes(), b"", None, b"\xff").await;
    }
    assert!(raw.flush().await);
    assert_eq!(is_answered(&client).await["model"]["name"], "demo");
    assert!(worker.is_running() && !worker.log().contains("NATS is gone"));
    let pong = client.nats().request("$SRV.PING.tagmill", "".into()).await.expect("it is still there");
    assert!(!pong.payload.is_empty());
}

/// The worker's answer must not be an order to the server, or an entry in a stream that others trust.
async fn reply_elsewhere(nats: NatsServer) {
    let client = Client::connect(&nats).await;
    let worker = Worker::start(&nats);
    client.submit("good", "orange-sunset.jpg").await;
    client.submit("gone", "missing.jpg").await;
    client.results(1).await;
    client.dead(1).await;
    let mut raw = Raw::connect(&nats).await;
    let elsewhere = [
        "$JS.API.STREAM.PURGE.TAGMILL_RESULTS",
        "$JS.API.STREAM.DELETE.TAGMILL_DEAD",
        "$SYS.REQ.SERVER.PING",
        "tagmill.results.forged",
        "tagmill.dead.forged",
        "tagmill.jobs.forged",
        "tagmill.tag",
        "_INBOX.*",
        "_INBOX.>",
    ];
    for reply in elsewhere {
        for subject in ["tagmill.tag", "$SRV.PING", "$SRV.STATS.tagmill"] {
            raw.publish(subject.as_bytes(), reply.as_bytes(), None, SUNSET).await;
        }
    }
    assert!(raw.flush().await);
    is_answered(&client).await;
    for stream in ["TAGMILL_RESULTS", "TAGMILL_DEAD"] {
        assert_eq!(client.count(stream).await, 1, "{stream}");
    }
    assert_eq!(client.count("TAGMILL_JOBS").await, 0);
    let refused = worker.metric(r#"tagmill_failures_total{stage="accept",code="bad_job"}"#).await;
    assert_eq!(refused, Some(3.0 * 9.0), "each is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_inboxes_only() {
    reply_elsewhere(NatsServer::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_inboxes_only_on_a_current_server() {
    reply_elsewhere(NatsServer::start_current()).await;
}

/// A worker's inbox belongs to nobody else, but a server without permissions lets everybody publish there.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_keep_the_names_of_others_images() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let _worker = Worker::start(&nats);
    let payload = json!({ "image": "private-of-somebody.jpg" }).to_string();
    let answer = client.nats().request("tagmill.tag", payload.into()).await.expect("an answer");
    assert!(String::from_utf8_lossy(&answer.payload).contains("private-of-somebody.jpg"), "the caller is told");
    let statistics = until("the request to be counted", || async {
        let answer = client.nats().request("$SRV.STATS.tagmill", "".into()).await.ok()?;
        let statistics: Value = serde_json::from_slice(&answer.payload).ok()?;
        (statistics["endpoints"][0]["num_errors"] == 1).then_some(statistics)
    })
    .await;
    assert_eq!(statistics["endpoints"][0]["last_error"], "image_not_found", "{statistics}");
}

/// Random protocol, in CI for seconds: whatever is published, the worker goes on, and nothing of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn random_messages_do_no_harm() {
    let seconds = std::env::var("TAGMILL_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    let nats = NatsServer::start_current();
    let client = Client::connect(&nats).await;
    let mut worker = Worker::start(&nats);
    let mut random = Random(std::env::var("TAGMILL_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7));
    let (began, mut number) = (std::time::Instant::now(), 0_usize);
    while began.elapsed() < Duration::from_secs(seconds) {
        let mut raw = Raw::connect(&nats).await;
        for _ in 0..50 {
            let subject = random.subject();
            let (headers, reply) = (random.headers(), random.reply());
            raw.publish(&subject, &reply, headers.as_deref(), &random.payload()).await;
        }
        // One that the server itself refuses ends the publisher's connection.
        raw.flush().await;
        client.submit(&number.to_string(), "orange-sunset.jpg").await;
        number += 1;
        if number.is_multiple_of(10) {
            // A message that stays is noticed, and the queue never grows beyond what a slow machine tags in time.
            client.queue_is_empty().await;
        }
        assert!(worker.is_running(), "seed of {number}");
    }
    client.queue_is_empty().await;
    let count = usize::try_from(client.count("TAGMILL_RESULTS").await).expect("it fits");
    let results = client.results(count).await;
    for job in 0..number {
        assert!(results.iter().any(|result| result.id() == job.to_string()), "job {job} of {number} has no result");
    }
    is_answered(&client).await;
    assert!(!worker.log().contains("NATS is gone"), "seed 7 after {number} rounds");
}

/// A small generator: its numbers are the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % below as u64).expect("it fits")
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.next(of.len())].clone()
    }

    /// Bytes that no framing ends at.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.next(most);
        (0..count).map(|_| u8::try_from(self.next(256)).expect("a byte")).collect()
    }

    fn token(&mut self) -> Vec<u8> {
        let bytes = self.bytes(40);
        bytes.into_iter().filter(|byte| !b" \t\r\n".contains(byte)).collect()
    }

    fn subject(&mut self) -> Vec<u8> {
        let begin: &[u8] = self.pick(&[b"tagmill.jobs.".as_slice(), b"tagmill.jobs", b"tagmill.tag", b"$SRV.PING"]);
        if begin.ends_with(b".") { [begin, b"x", &self.token()].concat() } else { begin.to_vec() }
    }

    fn reply(&mut self) -> Vec<u8> {
        match self.next(3) {
            0 => Vec::new(),
            1 => b"_INBOX.fuzz".to_vec(),
            _ => [b"_INBOX.".as_slice(), &self.token()].concat(),
        }
    }

    fn headers(&mut self) -> Option<Vec<u8>> {
        if self.next(4) == 0 {
            return None;
        }
        let version: &[u8] = self.pick(&[b"NATS/1.0".as_slice(), b"NATS/1.0 100 x", b"NATS/1.0 409", b"NATS", b""]);
        let mut block = [version, b"\r\n"].concat();
        for _ in 0..self.next(4) {
            let end: &[u8] = self.pick(&[b"\r\n".as_slice(), b"\r", b"\n", b""]);
            let colon: &[u8] = self.pick(&[b": ".as_slice(), b":", b"", b" "]);
            let name: &[u8] = self.pick(&[b"Tagmill-Id".as_slice(), b"Tagmill-Timeout", b"A", b" folded", b"\xff"]);
            block.extend([name, colon, &self.bytes(30), end].concat());
        }
        block.extend(b"\r\n");
        Some(block)
    }

    fn payload(&mut self) -> Vec<u8> {
        match self.next(3) {
            0 => SUNSET.to_vec(),
            1 => br#"{"image":"\u001b[2J\n.jpg","model":"\u202e"}"#.to_vec(),
            _ => self.bytes(200),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_letter_is_not_published_elsewhere_and_an_odd_id_stops_nobody() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let worker = Worker::start(&nats);
    drop(worker);
    let letter = |id: &str, subject: &str| {
        json!({ "id": id, "subject": subject, "job": { "id": id, "image": "orange-sunset.jpg" },
                "error": { "code": "bad_job", "message": "m\u{1b}[2J\r\n\u{202e}" }, "attempts": 1, "worker": "w", "at": "now" })
        .to_string()
    };
    let forged = ["$JS.API.STREAM.PURGE.TAGMILL_RESULTS", "tagmill.results.x", "tagmill.jobs.*", "tagmill.jobs.a b"];
    client.publish("tagmill.results", HeaderMap::new(), "{}").await;
    for subject in forged {
        client.publish("tagmill.dead", HeaderMap::new(), letter("forged", subject)).await;
    }
    client.publish("tagmill.dead", HeaderMap::new(), letter("a\r\nb\u{1b}[2J", "tagmill.jobs")).await;
    client.publish("tagmill.dead", HeaderMap::new(), letter("plain", "tagmill.jobs.größe")).await;
    let url = nats.url();
    let run = |arguments: &[&str]| {
        let arguments = [&["dead"], arguments, &["--nats-url", &url]].concat();
        let output = crate::support::worker::tagmill(&arguments).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, table, _) = run(&["list"]);
    assert_eq!((code, table.lines().count()), (Some(0), 1 + forged.len() + 2), "{table}");
    names::is_printable(&table);
    let (code, _, log) = run(&["retry", "--all", "--yes"]);
    assert_eq!(code, Some(1), "{log}");
    names::is_printable(&log);
    assert_eq!(log.matches("forged").count(), forged.len(), "{log}");
    assert!(log.contains(&format!("retried 2 of {}", forged.len() + 2)), "{log}");
    assert_eq!((client.count("TAGMILL_RESULTS").await, client.count("TAGMILL_JOBS").await), (1, 2));
    let jobs = client.queued().await;
    assert_eq!(jobs[0].json["id"], "a\r\nb\u{1b}[2J", "as it was");
    assert_eq!(jobs[1].headers.get("Tagmill-Id").map(HeaderValue::as_str), Some("plain"));
}
