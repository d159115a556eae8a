//! Requests over NATS, as anyone could make one.

mod held;

use std::collections::HashSet;
use std::io::Cursor;
use std::time::Duration;

use async_nats::{HeaderMap, Message, RequestErrorKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::future::join_all;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, repository, samples, until};

const SUBJECT: &str = "tagmill.tag";

/// Asks, again where no worker listens yet; nothing else is ever asked twice.
pub async fn request(client: &Client, headers: HeaderMap, payload: &str) -> Message {
    let nats = client.jetstream.client();
    until("an answer", || async {
        let request = async_nats::Request::new().headers(headers.clone()).payload(payload.to_owned().into());
        match nats.send_request(SUBJECT, request.timeout(Some(PATIENCE))).await {
            Ok(answer) => Some(answer),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

async fn tag(client: &Client, image: &str) -> Message {
    request(client, HeaderMap::new(), &json!({ "image": image }).to_string()).await
}

fn read(answer: &Message) -> Value {
    serde_json::from_slice(&answer.payload).expect("answers are JSON")
}

fn code(answer: &Message) -> String {
    read(answer)["error"]["code"].as_str().unwrap_or("no error").to_owned()
}

fn header(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}

/// What every instance says to a question of the service protocol.
async fn ask(client: &Client, question: &str, count: usize) -> Vec<Value> {
    let nats = client.jetstream.client();
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(inbox.clone()).await.expect("an inbox");
    nats.publish_with_reply(question.to_owned(), inbox, "".into()).await.expect("it is sent");
    let mut said = Vec::new();
    while said.len() < count {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer in time");
        said.push(read(&answer.expect("an endless subscription")));
    }
    said
}

async fn result_then_error(nats: NatsServer) {
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    let mut headers = header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    headers.insert("Nats-Expected-Stream", "elsewhere");
    let answer =
        request(&client, headers.clone(), r#"{"id":"one","image":"orange-sunset.jpg","meta":{"n":1.50}}"#).await;
    let result = read(&answer);
    assert_eq!((&result["id"], &result["attempt"]), (&json!("one"), &json!(1)), "{result}");
    assert_eq!(result["tags"][0]["name"], "orange");
    assert!(std::str::from_utf8(&answer.payload).expect("text").contains(r#""meta":{"n":1.50}"#));
    let carried = answer.headers.expect("the request's");
    assert!(carried.get("traceparent").is_some() && carried.get("Nats-Expected-Stream").is_none(), "{carried:?}");

    for (payload, wanted) in [
        (r#"{"id":"two","image":"missing.png"}"#, "image_not_found"),
        (r#"{"id":"two","image":"s3://elsewhere/a.png"}"#, "forbidden_location"),
        (r#"{"id":"two","image":"orange-sunset.jpg","model":"none"}"#, "unknown_model"),
        (r#"{"id":"two","image":7}"#, "bad_job"),
    ] {
        let answer = request(&client, headers.clone(), payload).await;
        let error = read(&answer);
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!("two"), &json!(wanted)), "{error}");
        let headers = answer.headers.expect("a service's error has headers");
        assert_eq!(headers.get("Nats-Service-Error-Code").expect("a code").as_str(), wanted);
        assert_eq!(headers.get("Nats-Service-Error").expect("a text").as_str(), error["error"]["message"]);
        assert!(headers.get("traceparent").is_some());
    }
    let nameless = read(&request(&client, HeaderMap::new(), "no job").await);
    assert_eq!((&nameless["error"]["code"], nameless["id"].as_str().map(str::len)), (&json!("bad_job"), Some(32)));
    let named = request(&client, header("Tagmill-Id", "mine"), r#"{"image":"night-sky.png"}"#).await;
    assert_eq!(read(&named)["id"], "mine");
    let counts = [("TAGMILL_RESULTS", 0), ("TAGMILL_DEAD", 0)];
    for (stream, count) in counts {
        assert_eq!(client.count(stream).await, count, "a caller was told, and nobody else: {stream}");
    }
    assert_eq!(worker.metric(r#"tagmill_jobs_total{source="nats",outcome="tagged"}"#).await, Some(2.0));
    assert_eq!(worker.metric(r#"tagmill_jobs_total{source="nats",outcome="rejected"}"#).await, Some(5.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_with_its_result_or_its_error() {
    result_then_error(NatsServer::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_a_current_server() {
    result_then_error(NatsServer::start_current()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_becomes_a_result_or_a_dead_letter_that_can_be_retried() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    tag(&client, "night-sky.png").await;
    let sender = client.jetstream.client();
    for payload in [r#"{"id":"good","image":"orange-sunset.jpg"}"#, r#"{"id":"bad","image":"missing.png"}"#] {
        sender.publish_with_headers(SUBJECT, header("trace", "7"), payload.into()).await.expect("it is sent");
    }
    let (results, letters) = (client.results(1).await, client.dead(1).await);
    assert_eq!((results[0].id(), results[0].subject.as_str()), ("good", "tagmill.results"));
    assert_eq!((letters[0].id(), letters[0].code()), ("bad", "image_not_found"));
    assert_eq!((letters[0].subject.as_str(), &letters[0].json["subject"]), ("tagmill.dead", &json!(SUBJECT)));
    assert!(results[0].headers.get("trace").is_some() && results[0].message_id() != letters[0].message_id());

    // The queue keeps what no caller will ask for again.
    let retry = crate::support::worker::tagmill(&["dead", "retry", "bad", "--yes", "--nats-url", &nats.url()]).output();
    assert!(retry.expect("it runs").status.success());
    until("a second letter", || async {
        let letters = client.dead(1).await;
        (letters[0].json["subject"] == "tagmill.jobs").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_requests_and_say_so() {
    let nats = NatsServer::start();
    let workers = [Worker::start(&nats), Worker::start(&nats)];
    let client = Client::connect(&nats).await;
    until("both workers", || async {
        let mut seen = HashSet::new();
        for answer in join_all((0..20).map(|_| tag(&client, "night-sky.png"))).await {
            seen.insert(read(&answer)["worker"].as_str().expect("a result").to_owned());
        }
        (seen.len() == 2).then_some(())
    })
    .await;
    tag(&client, "missing.png").await;

    for question in ["$SRV.PING", "$SRV.PING.tagmill"] {
        for pong in ask(&client, question, 2).await {
            assert_eq!((&pong["type"], &pong["name"]), (&json!("io.nats.micro.v1.ping_response"), &json!("tagmill")));
            assert_eq!(pong["version"], env!("CARGO_PKG_VERSION"));
        }
    }
    let infos = ask(&client, "$SRV.INFO.tagmill", 2).await;
    let ids: HashSet<_> = infos.iter().map(|info| info["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), 2);
    for info in &infos {
        let endpoint = &info["endpoints"][0];
        assert_eq!((&endpoint["subject"], &endpoint["queue_group"]), (&json!(SUBJECT), &json!("workers")), "{info}");
        let worker = info["metadata"]["worker"].as_str().expect("its name");
        assert!(workers.iter().any(|one| one.log().contains(worker)));
    }
    let id = infos[0]["id"].as_str().expect("an id");
    assert_eq!(ask(&client, &format!("$SRV.INFO.tagmill.{id}"), 1).await[0]["id"], id);
    let stats = ask(&client, "$SRV.STATS.tagmill", 2).await;
    let sum = |field: &str| -> u64 {
        stats.iter().map(|stats| stats["endpoints"][0][field].as_u64().expect("a number")).sum()
    };
    assert!(sum("num_requests") >= 21 && sum("processing_time") > sum("average_processing_time"), "{stats:?}");
    assert_eq!(sum("num_errors"), 1);
    let failed = stats.iter().find(|stats| stats["endpoints"][0]["num_errors"] == 1).expect("one of them");
    assert_eq!(failed["endpoints"][0]["last_error"], "image_not_found", "without the caller's image");
    assert!(humantime::parse_rfc3339(failed["started"].as_str().expect("a time")).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_before_the_backlog() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    client.submit_samples(1500).await;
    let _worker = Worker::start(&nats);
    tag(&client, "orange-sunset.jpg").await;
    let before = client.count("TAGMILL_RESULTS").await;
    for answer in join_all((0..20).map(|_| tag(&client, "orange-sunset.jpg"))).await {
        assert_eq!(code(&answer), "no error");
    }
    let meanwhile = client.count("TAGMILL_RESULTS").await - before;
    assert!(client.count("TAGMILL_JOBS").await > 0, "there was a backlog all the time");
    assert!(meanwhile < 300, "twenty requests waited for {meanwhile} of the queue's jobs");
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_says_so_and_a_large_request_is_fine() {
    let nats = NatsServer::start_configured("max_payload: 3000");
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    tag(&client, "night-sky.png").await;
    let meta = "x".repeat(2500);
    let job = json!({ "id": "large", "image": "night-sky.png", "meta": meta, "thresholds": { "general": 0.0 } });
    let answer = request(&client, HeaderMap::new(), &job.to_string()).await;
    assert_eq!((code(&answer), &read(&answer)["id"]), ("result_too_large".to_owned(), &json!("large")));
    let failures = r#"tagmill_failures_total{stage="publish",code="result_too_large"}"#;
    assert_eq!(worker.metric(failures).await, Some(1.0));
    assert_eq!(worker.metric(r#"tagmill_images_tagged_total{model="demo"}"#).await, Some(1.0), "the first");
    drop(client);

    let nats = NatsServer::start_configured("max_payload: 8MB");
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    let bytes = std::fs::read(repository("samples/orange-sunset.jpg")).expect("a sample");
    let mut padded = bytes.clone();
    padded.resize(3 << 20, 0);
    let answer = tag(&client, &format!("data:image/jpeg;base64,{}", STANDARD.encode(padded))).await;
    assert_eq!(read(&answer)["tags"][0]["name"], "orange");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_must_wait_keep_no_caller_waiting() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    tag(&client, "night-sky.png").await;
    client.take_dead(&["elsewhere"]).await;
    let mut headers = header("Tagmill-Timeout", "soon");
    headers.insert("large", "x".repeat(70_000).as_str());
    for _ in 0..100 {
        client
            .jetstream
            .client()
            .publish_with_headers(SUBJECT, headers.clone(), "{}".into())
            .await
            .expect("it is sent");
    }
    worker.logged("no stream takes this subject");
    assert_eq!(code(&tag(&client, "night-sky.png").await), "no error");
    client.take_dead(&["tagmill.dead", "tagmill.dead.>"]).await;
    assert!(client.dead(100).await.iter().all(|letter| letter.code() == "bad_job"));
}

/// Noise, which nothing makes smaller, in a data URI of nearly what the server takes.
fn noise() -> String {
    let mut png = Cursor::new(Vec::new());
    let mut random = 1_u32;
    let picture = RgbImage::from_fn(480, 480, |_, _| {
        Rgb([(); 3].map(|()| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        }))
    });
    picture.write_to(&mut png, ImageFormat::Png).expect("it fits");
    format!("data:image/png;base64,{}", STANDARD.encode(png.into_inner()))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_take_no_more_memory_than_there_is_room_for() {
    let nats = NatsServer::start();
    let worker = Worker::start_with(&nats, &samples(), &["--memory-budget", "64MiB"], &[]);
    let client = Client::connect(&nats).await;
    let payload = json!({ "image": noise() }).to_string();
    assert!((900_000..1_000_000).contains(&payload.len()), "{}", payload.len());
    let first = read(&request(&client, HeaderMap::new(), &payload).await);
    assert!(first["image"].as_str().is_some_and(|image| image.starts_with("data:image/png;sha256,")), "{first}");
    let before = worker.resident_memory();
    let answers = join_all((0..250).map(|_| request(&client, HeaderMap::new(), &payload))).await;
    let refused = answers.iter().filter(|answer| code(answer) == "overloaded").count();
    let tagged = answers.iter().filter(|answer| read(answer)["tags"].is_array()).count();
    assert!(refused + tagged == 250 && tagged > 0, "{tagged} tagged, {refused} refused");
    let grown = worker.resident_memory().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB, {tagged} tagged, {refused} refused", grown >> 20);
}
