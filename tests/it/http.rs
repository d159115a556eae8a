//! The API, as its clients use it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

/// A status, headers and JSON.
struct Answer {
    status: u16,
    headers: HeaderMap,
    json: Value,
}

impl Answer {
    async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("text");
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        assert!(headers.contains_key("x-request-id"), "{status} {json}");
        Self { status, headers, json }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    #[track_caller]
    fn error(&self) -> (u16, &str) {
        assert!(self.json["error"]["message"].is_string(), "{} {}", self.status, self.json);
        (self.status, self.json["error"]["code"].as_str().expect("a code"))
    }
}

/// A client; it wants a TLS provider, even where it uses none.
fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn post(server: &Worker, path: &str, body: Value) -> Answer {
    Answer::to(client().post(server.url(path)).json(&body)).await
}

async fn get(server: &Worker, path: &str) -> Answer {
    Answer::to(client().get(server.url(path))).await
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(repository("samples").join(name)).expect("a sample")
}

fn base64(name: &str) -> String {
    STANDARD.encode(sample(name))
}

/// What Python says of a sample image (`tests/parity/reference.py`).
fn reference(name: &str) -> HashMap<String, f64> {
    let json = std::fs::read(repository("tests/parity/reference.json")).expect("it is committed");
    let mut all: HashMap<String, HashMap<String, f64>> = serde_json::from_slice(&json).expect("it is JSON");
    all.remove(name).expect("it has all samples")
}

const IMAGES: [(&str, &str); 3] =
    [("orange-sunset.jpg", "orange"), ("blue-ocean.webp", "blue"), ("green-forest.jpg", "green")];

#[track_caller]
fn is_tagged(caption: &Value, tag: &str) {
    let tags = caption["tags"].as_array().unwrap_or_else(|| panic!("no tags: {caption}"));
    let found = tags.iter().find(|found| found["name"] == tag).unwrap_or_else(|| panic!("not {tag}: {caption}"));
    assert!(found["score"].as_f64() > Some(0.35) && found["category"] == "general", "{found}");
    assert!(caption["text"].as_str().expect("text").split(", ").any(|name| name == tag), "{caption}");
    assert!(caption["rating"]["general"].as_f64() > Some(0.5), "{caption}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_can_be_brought_in_every_way() {
    let server = Worker::serve(&["--store", &samples()], &[]);
    let encoded = base64("orange-sunset.jpg");
    for body in [
        json!({ "image": encoded }),
        json!({ "image": format!("data:image/jpeg;base64,{encoded}"), "model": "demo" }),
        json!({ "image_url": format!("data:image/jpeg;base64,{encoded}"), "model": null }),
        json!({ "image_url": "orange-sunset.jpg" }),
        json!({ "image": encoded.trim_end_matches('=') }),
        json!({ "image": format!("data:image/jpeg;base64,{}", encoded.trim_end_matches('=')) }),
        json!({ "image": format!("{}/orange-sunset.jpg", samples()) }),
    ] {
        let answer = post(&server, "/v1/vision/caption", body).await;
        assert_eq!(answer.status, 200, "{}", answer.json);
        is_tagged(&answer.json, "orange");
        assert_eq!(answer.json["caption"], answer.json["text"]);
        assert_eq!(answer.json["model"]["name"], "demo");
        assert!(answer.header("x-inference-time").expect("it is there").parse::<u64>().is_ok());
    }
    let form = Form::new().text("model", "demo").part("image", file("orange-sunset.jpg"));
    let answer = Answer::to(client().post(server.url("/v1/vision/caption")).multipart(form)).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    is_tagged(&answer.json, "orange");
    assert_eq!(server.metric("tagmill_jobs_total{door=\"http\",outcome=\"tagged\"}").await, Some(8.0));
}

fn file(name: &'static str) -> Part {
    Part::bytes(sample(name)).file_name(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_slot_has_its_own_image_and_a_bad_one_spoils_no_other() {
    let server = Worker::serve(&["--alias", "wd14-vit-v2=demo", "--max-image-bytes", "200kB"], &[]);
    let mut images = Vec::new();
    for _ in 0..10 {
        images.extend(IMAGES.map(|(name, _)| base64(name)));
        images.push(STANDARD.encode("no image"));
    }
    images.push("http://192.0.2.1/cat.jpg".into());
    images.push("%".repeat(5000));
    images.push(STANDARD.encode(vec![0; 300_000]));
    let body = json!({ "images": images, "model": "wd14-vit-v2" });
    let answer = post(&server, "/v1/vision/batch-caption", body).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    let captions = answer.json["captions"].as_array().expect("captions");
    assert_eq!((captions.len(), answer.json["count"].as_u64()), (43, Some(43)));
    assert_eq!(answer.json["model"]["name"], "demo", "what it really is");
    for (number, slot) in captions[..40].iter().enumerate() {
        match IMAGES.get(number % 4) {
            Some((_, tag)) => is_tagged(slot, tag),
            None => assert_eq!((&slot["text"], &slot["error"]["code"]), (&json!(""), &json!("image_undecodable"))),
        }
    }
    let codes: Vec<_> = captions[40..].iter().map(|slot| slot["error"]["code"].as_str().expect("a code")).collect();
    assert_eq!(codes, ["forbidden_location", "bad_job", "image_too_large"]);
    assert!(answer.json["duration"].as_f64() > Some(0.0));

    let body = json!({ "images": [null, base64("orange-sunset.jpg"), 7, {}, [base64("blue-ocean.webp")], true] });
    let answer = post(&server, "/v1/vision/batch-caption", body).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    for (number, slot) in answer.json["captions"].as_array().expect("captions").iter().enumerate() {
        match number {
            1 => is_tagged(slot, "orange"),
            _ => assert_eq!((&slot["text"], &slot["error"]["code"]), (&json!(""), &json!("bad_job")), "{number}"),
        }
    }

    let form = IMAGES.iter().fold(Form::new(), |form, (name, _)| form.part("images", file(name)));
    let answer = Answer::to(client().post(server.url("/v1/vision/batch-caption")).multipart(form)).await;
    for ((_, tag), slot) in IMAGES.iter().zip(answer.json["captions"].as_array().expect("captions")) {
        is_tagged(slot, tag);
    }
    let empty = post(&server, "/v1/vision/batch-caption", json!({ "images": [] })).await;
    assert_eq!((empty.status, &empty.json["captions"]), (200, &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn classify_lists_the_scores_that_python_gives() {
    let server = Worker::serve(&[], &[]);
    for (name, _) in IMAGES {
        let answer = post(&server, "/v1/classify", json!({ "image": base64(name) })).await;
        assert_eq!(answer.status, 200, "{}", answer.json);
        let scores = answer.json["scores"].as_object().expect("scores");
        for (label, expected) in reference(name) {
            match scores.get(&label).map(|score| score.as_f64().expect("a number")) {
                Some(score) => assert!((score - expected).abs() <= 0.02 && score >= 0.01, "{name}: {label} {score}"),
                None => assert!(expected < 0.03, "{name}: {label} is missing, {expected}"),
            }
        }
        let predictions = answer.json["predictions"].as_array().expect("predictions");
        assert_eq!(predictions.len(), scores.len());
        assert!(predictions.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
        assert_eq!(
            (&answer.json["label"], &answer.json["score"]),
            (&predictions[0]["label"], &predictions[0]["score"])
        );
        assert!(answer.json.get("text").is_none());
        assert!(predictions.iter().any(|prediction| prediction["category"] == "rating"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_says_why_in_the_same_form() {
    let server = Worker::serve(&["--store", &samples(), "--max-image-bytes", "100kB"], &[]);
    let caption = "/v1/vision/caption";
    let small = base64("photo-flower.jpg");
    for (path, body, expected) in [
        (caption, json!({ "image": small, "model": "nameless" }), (404, "unknown_model")),
        ("/v1/classify", json!({ "image": small, "model": "nameless" }), (404, "unknown_model")),
        ("/v1/vision/batch-caption", json!({ "images": [small], "model": "nameless" }), (404, "unknown_model")),
        (caption, json!({}), (400, "bad_job")),
        (caption, json!({ "image": "a", "image_url": "b" }), (400, "bad_job")),
        (caption, json!({ "image": 7 }), (400, "bad_job")),
        (caption, json!({ "image": "" }), (400, "bad_job")),
        ("/v1/vision/batch-caption", json!({ "images": "a" }), (400, "bad_job")),
        ("/v1/vision/batch-caption", json!({ "images": vec![""; 1025] }), (400, "bad_job")),
        (caption, json!({ "image_url": "https://example.com/cat.jpg" }), (400, "forbidden_location")),
        (caption, json!({ "image_url": "file:///etc/passwd" }), (400, "forbidden_location")),
        (caption, json!({ "image": "missing.jpg" }), (404, "image_not_found")),
        (caption, json!({ "image": STANDARD.encode("no image") }), (422, "image_undecodable")),
        (caption, json!({ "image": STANDARD.encode(vec![0; 150_000]) }), (413, "image_too_large")),
        (caption, json!({ "image": "A".repeat(2_000_000) }), (413, "image_too_large")),
        ("/diagnostics/vram-test", json!({ "batch_sizes": [0] }), (400, "bad_job")),
        ("/no/such/path", json!({}), (404, "not_found")),
        ("/v1/models", json!({}), (405, "method_not_allowed")),
        ("/metrics", json!({}), (405, "method_not_allowed")),
    ] {
        let answer = post(&server, path, body.clone()).await;
        assert_eq!(answer.error(), expected, "{path} {}", answer.json);
    }
    let send = |kind: &'static str, body: &'static str| {
        Answer::to(client().post(server.url(caption)).header("Content-Type", kind).body(body))
    };
    assert_eq!(send("application/json", "{").await.error(), (400, "bad_job"));
    assert_eq!(send("text/plain", "{}").await.error(), (415, "unsupported_media_type"));
    assert_eq!(send("multipart/form-data; boundary=x", "nonsense").await.error(), (400, "bad_job"));
    assert_eq!(send("multipart/form-data", "nonsense").await.error(), (400, "bad_job"));
    // One whose length is not announced.
    let parts = (0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100_000]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    let request = client().post(server.url(caption)).header("Content-Type", "application/json").body(body);
    assert_eq!(Answer::to(request).await.error(), (413, "image_too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_all_but_health_metrics_and_the_page() {
    let environment = [("TAGMILL_HTTP_TOKEN", "open-sesame".to_owned())];
    let server = Worker::serve(&[], &environment);
    for path in ["/healthz", "/health", "/readyz", "/metrics", "/"] {
        assert_eq!(get(&server, path).await.status, 200, "{path}");
    }
    for path in ["/v1/models", "/openapi.json", "/no/such/path"] {
        let refused = get(&server, path).await;
        assert_eq!(refused.error(), (401, "unauthorized"), "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let image = json!({ "image": base64("orange-sunset.jpg") });
    for (token, status) in [("open-sesame", 200), ("open-sesam", 401), ("", 401)] {
        let request = client().post(server.url("/v1/vision/caption")).bearer_auth(token).json(&image);
        assert_eq!(Answer::to(request).await.status, status, "{token}");
    }
    let trial = post(&server, "/diagnostics/vram-test", json!({ "batch_sizes": [1] })).await;
    assert_eq!(trial.status, 200, "from this machine: {}", trial.json);
    assert!(!server.log().contains("open-sesame"));
}

/// A browser sends forms to any address unasked, and a page's own name can be made to lead to this machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_this_machine_alone_is_none_for_pages_of_elsewhere() {
    let server = Worker::serve(&["--store", &samples(), "--cors-origin", "https://gallery.example"], &[]);
    let ask = async |name: &'static str, value: &str| {
        let form = Form::new().text("image", "orange-sunset.jpg");
        Answer::to(client().post(server.url("/v1/vision/caption")).header(name, value).multipart(form)).await
    };
    for (name, value) in [("Host", "evil.example"), ("Origin", "http://evil.example"), ("Origin", "null")] {
        let refused = ask(name, value).await;
        assert_eq!(refused.error(), (403, "forbidden"), "{name}: {value}");
        assert!(refused.json["error"]["message"].as_str().expect("a message").contains("--cors-origin"));
    }
    let (own, page) = (server.address(), server.url(""));
    for (name, value) in [
        ("Host", "localhost:8080"),
        ("Host", "gallery.example"),
        ("Host", own.as_str()),
        ("Origin", page.as_str()),
        ("Origin", "https://gallery.example"),
    ] {
        let answer = ask(name, value).await;
        assert_eq!(answer.status, 200, "{name}: {value} {}", answer.json);
    }
    let probe = client().get(server.url("/readyz")).header("Host", "10-0-0-5.pods.example");
    assert_eq!(Answer::to(probe).await.status, 200);
}

/// A container listens on all addresses and is asked by names of its network's.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_a_network_is_asked_by_any_name() {
    let server = Worker::serve(&["--listen", "0.0.0.0:0"], &[]);
    let line = server.logged("address");
    let port: String =
        line.split("0.0.0.0:").nth(1).expect("the port").chars().take_while(char::is_ascii_digit).collect();
    let request =
        client().get(format!("http://127.0.0.1:{port}/v1/models")).header("Host", "tagmill.svc.cluster.local");
    assert_eq!(Answer::to(request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_brings_is_not_of_the_budget() {
    let s3 = S3Server::start("images").await;
    s3.put("images", "stuck.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("stuck.jpg", Fault::Stalled);
    let server = Worker::serve(&["--store", "s3://images"], &s3.environment());
    let body = json!({ "image": "stuck.jpg", "padding": " ".repeat(1 << 20) });
    let asked = tokio::spawn(client().post(server.url("/v1/vision/caption")).json(&body).send());
    until("it to be in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 1.0).then_some(()) })
        .await;
    assert_eq!(server.metric("tagmill_memory_reserved_bytes").await, Some(0.0));
    s3.heal("stuck.jpg");
    assert_eq!(asked.await.expect("no panic").expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_an_id_in_its_answer_and_in_the_log() {
    let server = Worker::serve(&[], &[]);
    let ask = |id: &'static str| {
        Answer::to(client().post(server.url("/v1/vision/caption")).header("X-Request-Id", id).json(&json!({})))
    };
    assert_eq!(ask("shop-42").await.header("x-request-id"), Some("shop-42"));
    server.logged("shop-42");
    let refused = ask("two words").await;
    let own = refused.header("x-request-id").expect("one of its own").to_owned();
    assert!(own.len() == 32 && own != "two words");
    assert!(server.logged(&own).contains("bad_job"));
}

/// A browser gallery that speaks this API: on another origin, with a model's name of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_gallery_on_another_origin_works_unchanged() {
    let origin = "http://localhost:3000";
    let server = Worker::serve(&["--cors-origin", origin, "--alias", "wd14-vit-v2=demo"], &[]);
    let preflight = async |origin: &'static str| {
        let request = client().request(Method::OPTIONS, server.url("/v1/vision/batch-caption"));
        let request = request.header("Origin", origin).header("Access-Control-Request-Method", "POST");
        Answer::to(request.header("Access-Control-Request-Headers", "content-type,x-vram-mode,authorization")).await
    };
    let allowed = preflight(origin).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some(origin)));
    let headers = allowed.header("access-control-allow-headers").expect("headers").to_lowercase();
    assert!(["content-type", "authorization", "x-vram-mode"].iter().all(|name| headers.contains(name)), "{headers}");
    assert_eq!(preflight("http://evil.example").await.header("access-control-allow-origin"), None);

    let from = |request: RequestBuilder| request.header("Origin", origin).header("X-VRAM-Mode", "auto");
    let models = Answer::to(from(client().get(server.url("/v1/models")))).await;
    assert_eq!(models.header("access-control-allow-origin"), Some(origin));
    let exposed = models.header("access-control-expose-headers").expect("headers").to_lowercase();
    assert!(["x-vram-used", "x-vram-total", "x-inference-time"].iter().all(|name| exposed.contains(name)), "{exposed}");
    let model = &models.json["data"][0];
    assert_eq!(models.json["object"], "list");
    assert_eq!((&model["id"], &model["type"], &model["loaded"]), (&json!("demo"), &json!("tagging"), &json!(true)));
    assert_eq!((&model["aliases"], &model["device"]), (&json!(["wd14-vit-v2"]), &json!("cpu")));
    assert_eq!(model["sha256"].as_str().map(str::len), Some(64));

    let body = json!({ "images": IMAGES.map(|(name, _)| base64(name)), "model": "wd14-vit-v2" });
    let answer = Answer::to(from(client().post(server.url("/v1/vision/batch-caption"))).json(&body)).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    for (number, (_, tag)) in IMAGES.iter().enumerate() {
        is_tagged(&answer.json["captions"][number], tag);
    }
    let body =
        json!({ "image": format!("data:image/webp;base64,{}", base64("blue-ocean.webp")), "model": "wd14-vit-v2" });
    let answer = Answer::to(from(client().post(server.url("/v1/classify"))).json(&body)).await;
    assert!(answer.json["scores"]["blue"].as_f64() > Some(0.9), "{}", answer.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_are_all_answered() {
    let server = Worker::serve(&["--store", &samples()], &[]);
    let (client, url) = (client(), server.url("/v1/vision/caption"));
    let bodies = IMAGES.map(|(name, tag)| (json!({ "image": base64(name) }), tag));
    let ask = |number: usize| {
        let (body, tag) = &bodies[number % bodies.len()];
        let request = client.post(&url).json(body);
        async move { (Answer::to(request).await, *tag) }
    };
    for (answer, tag) in join_all((0..200).map(ask)).await {
        assert_eq!(answer.status, 200, "{}", answer.json);
        is_tagged(&answer.json, tag);
    }
    assert_eq!(server.metric("tagmill_inflight_jobs").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_so_at_once_and_a_large_request_takes_turns() {
    let s3 = S3Server::start("images").await;
    for name in ["stuck.jpg", "good.jpg"] {
        s3.put("images", name, &repository("samples/orange-sunset.jpg"));
    }
    // One batch of one: 32 places.
    let server = Worker::serve(&["--store", "s3://images", "--batch-size", "1"], &s3.environment());
    let many = json!({ "images": vec!["good.jpg"; 100] });
    let answer = post(&server, "/v1/vision/batch-caption", many).await;
    assert_eq!((answer.status, answer.json["count"].as_u64()), (200, Some(100)));
    answer.json["captions"].as_array().expect("captions").iter().for_each(|slot| is_tagged(slot, "orange"));

    s3.fault("stuck.jpg", Fault::Stalled);
    let (client, url) = (client(), server.url("/v1/vision/caption"));
    let stuck: Vec<_> =
        (0..32).map(|_| tokio::spawn(client.post(&url).json(&json!({ "image": "stuck.jpg" })).send())).collect();
    until("32 in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 32.0).then_some(()) }).await;
    let began = Instant::now();
    let refused = post(&server, "/v1/vision/caption", json!({ "image": "good.jpg" })).await;
    assert_eq!(refused.error(), (429, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(began.elapsed() < Duration::from_secs(5), "at once");
    assert_eq!(get(&server, "/v1/models").await.status, 200, "what takes no place is answered");
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_not_tagged() {
    let s3 = S3Server::start("images").await;
    s3.put("images", "slow.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("slow.jpg", Fault::Stalled);
    let server = Worker::serve(&["--store", "s3://images", "--http-timeout", "500ms"], &s3.environment());
    let late = post(&server, "/v1/vision/caption", json!({ "image": "slow.jpg" })).await;
    assert_eq!(late.error(), (429, "overloaded"));
    assert!(late.json["error"]["message"].as_str().expect("a message").contains("--http-timeout"));
    let left = client().post(server.url("/v1/vision/caption")).json(&json!({ "image": "slow.jpg" }));
    assert!(left.timeout(Duration::from_millis(100)).send().await.is_err());
    until("the read to be given up", || async {
        (server.metric("tagmill_jobs_total{door=\"http\",outcome=\"rejected\"}").await? >= 2.0).then_some(())
    })
    .await;
    let batches = server.metric("tagmill_batch_size_count{model=\"demo\"}").await;
    assert!(batches.is_none_or(|batches| batches < 1.0), "{batches:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_requests_in_hand_and_takes_no_more() {
    let s3 = S3Server::start("images").await;
    for name in ["slow.jpg", "good.jpg"] {
        s3.put("images", name, &repository("samples/orange-sunset.jpg"));
    }
    s3.fault("slow.jpg", Fault::Stalled);
    // Sixteen places for one request: the others of its images wait when the stop comes.
    let arguments = ["--store", "s3://images", "--batch-size", "1"];
    let mut server = Worker::serve(&arguments, &s3.environment());
    assert!(get(&server, "/readyz").await.json.get("nats").is_none(), "there is no broker");
    let images = [vec!["slow.jpg"; 20], vec!["good.jpg"; 20]].concat();
    let request = client().post(server.url("/v1/vision/batch-caption")).json(&json!({ "images": images }));
    let answer = tokio::spawn(Answer::to(request));
    until("it to be in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 16.0).then_some(()) })
        .await;
    server.signal("TERM");
    server.logged("finishing what is in hand");
    let late = post(&server, "/v1/vision/caption", json!({ "image": base64("orange-sunset.jpg") })).await;
    assert_eq!(late.error(), (503, "shutting_down"));
    assert_eq!(get(&server, "/readyz").await.status, 503);
    // The reads that stand still go on.
    s3.heal("slow.jpg");
    let answer = answer.await.expect("no panic");
    assert_eq!(answer.status, 200);
    let captions = answer.json["captions"].as_array().expect("captions");
    assert_eq!(captions.len(), 40);
    for slot in captions {
        is_tagged(slot, "orange");
    }
    assert!(server.ended().success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_may_not_wait_answers_what_it_leaves() {
    let s3 = S3Server::start("images").await;
    s3.put("images", "stuck.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("stuck.jpg", Fault::Stalled);
    let mut server = Worker::serve(&["--store", "s3://images", "--drain-timeout", "200ms"], &s3.environment());
    let request = client().post(server.url("/v1/vision/caption")).json(&json!({ "image": "stuck.jpg" }));
    let answer = tokio::spawn(Answer::to(request));
    until("it to be in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 1.0).then_some(()) })
        .await;
    server.signal("TERM");
    assert_eq!(answer.await.expect("no panic").error(), (503, "shutting_down"));
    assert!(server.ended().success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_fails_is_told_and_not_waited_for() {
    let mut s3 = S3Server::start("images").await;
    s3.put("images", "a.jpg", &repository("samples/orange-sunset.jpg"));
    let server = Worker::serve(&["--store", "s3://images"], &s3.environment());
    s3.stop();
    let answer = post(&server, "/v1/vision/caption", json!({ "image": "a.jpg" })).await;
    assert_eq!(answer.error(), (503, "storage_unavailable"));
    assert_eq!(get(&server, "/readyz").await.status, 503);
    s3.resume().await;
    until("the store", || async { (get(&server, "/readyz").await.status == 200).then_some(()) }).await;
    let answer = post(&server, "/v1/vision/caption", json!({ "image": "a.jpg" })).await;
    is_tagged(&answer.json, "orange");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_the_same_beside_its_queue() {
    let nats = NatsServer::start();
    let mut worker = Worker::start(&nats);
    let answer = post(&worker, "/v1/vision/caption", json!({ "image": "orange-sunset.jpg" })).await;
    is_tagged(&answer.json, "orange");
    assert_eq!(get(&worker, "/readyz").await.json["nats"], true);
    assert_eq!(worker.metric("tagmill_jobs_total{door=\"http\",outcome=\"tagged\"}").await, Some(1.0));
    worker.signal("TERM");
    assert!(worker.ended().success(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_from_memory_until_told_to_look_again() {
    let models = tempfile::tempdir().expect("a folder");
    let add = |name: &str| {
        std::fs::create_dir(models.path().join(name)).expect("a folder");
        for file in ["model.onnx", "selected_tags.csv"] {
            let from = repository("models/demo").join(file);
            std::fs::copy(from, models.path().join(name).join(file)).expect("a copy");
        }
    };
    add("first");
    let server = Worker::serve(&["--models", models.path().to_str().expect("UTF-8"), "--model", "first"], &[]);
    add("second");
    let names = |answer: &Answer| -> Vec<(String, bool)> {
        let data = answer.json["data"].as_array().expect("a list");
        data.iter().map(|model| (model["id"].as_str().expect("an id").into(), model["loaded"] == true)).collect()
    };
    assert_eq!(names(&get(&server, "/v1/models").await), [("first".into(), true)]);
    let refreshed = post(&server, "/v1/models/refresh", json!({})).await;
    assert_eq!(names(&refreshed), [("first".into(), true), ("second".into(), false)]);
    let body = json!({ "image": base64("blue-ocean.webp"), "model": "second" });
    let answer = post(&server, "/v1/vision/caption", body).await;
    assert_eq!(answer.json["model"]["name"], "second");
    assert_eq!(names(&get(&server, "/v1/models").await), [("first".into(), true), ("second".into(), true)]);
    assert!(get(&server, "/v1/models").await.header("x-vram-total").is_none(), "it runs on the CPU");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_the_models_ends_whoever_waits_for_it() {
    let (s3, cache) = (S3Server::start("models").await, tempfile::tempdir().expect("a folder"));
    let add = |model: &str| {
        for file in ["model.onnx", "selected_tags.csv"] {
            s3.put("models", &format!("{model}/{file}"), &repository("models/demo").join(file));
        }
    };
    add("first");
    let cache = cache.path().to_str().expect("UTF-8");
    let arguments = ["--models", "s3://models", "--models-cache", cache, "--model", "first"];
    let server = Worker::serve(&arguments, &s3.environment());
    add("second");
    s3.fault("selected_tags.csv", Fault::Stalled);
    let look = tokio::spawn(client().post(server.url("/v1/models/refresh")).send());
    s3.stalled("selected_tags.csv").await;
    look.abort();
    let gone = look.await.expect_err("it was cut off");
    assert!(gone.is_cancelled());
    // By the time of another answer the server has seen, as a rule, that the client is gone.
    assert_eq!(get(&server, "/v1/models").await.status, 200);
    s3.heal("selected_tags.csv");
    until("the second model", || async {
        let models = get(&server, "/v1/models").await.json;
        (models["data"].as_array().expect("a list").len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_runs_real_batches_one_test_at_a_time() {
    let server = Worker::serve(&[], &[]);
    let path = "/diagnostics/vram-test";
    let answer = post(&server, path, json!({ "batch_sizes": [4, 8] })).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    let results = answer.json["results"].as_array().expect("results");
    let sizes: Vec<_> = results.iter().map(|result| result["batchSize"].as_u64().expect("a size")).collect();
    assert_eq!(sizes, [4, 8]);
    for result in results {
        assert!(result["success"] == true && result["seconds"].as_f64() > Some(0.0), "{result}");
        assert!(result["vramPercent"].is_null(), "there is no GPU");
    }
    let sizes = json!({ "batch_sizes": vec![64; 16] });
    let answers = join_all((0..8).map(|_| post(&server, path, sizes.clone()))).await;
    assert!(answers.iter().any(|answer| answer.status == 200));
    let busy = answers.iter().find(|answer| answer.status != 200).expect("one that came while another ran");
    assert_eq!(busy.error(), (409, "busy"));
}

/// The commands in `docs/http.md` are run as they stand there, against the server that it starts.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_in_the_documentation_work() {
    let server = Worker::serve(&["--store", &samples()], &[]);
    let text = std::fs::read_to_string(repository("docs/http.md")).expect("it is there");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let examples: Vec<_> = blocks.filter(|block| block.contains("curl")).collect();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let script = example.replace("http://127.0.0.1:8080", &server.url(""));
        let mut bash = std::process::Command::new("bash");
        let run = bash.args(["-euo", "pipefail", "-c", &script]).current_dir(repository("")).output().expect("it runs");
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && !out.contains("\"error\""), "{example}\n{out}\n{err}");
        let expected = example.lines().filter_map(|line| line.strip_prefix("# → "));
        for part in expected {
            assert!(out.contains(part), "{example}\nshould show {part}, but:\n{out}");
        }
    }
}

/// Every answer has the shape that the server's own description gives it.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_described() {
    let server = Worker::serve(&[], &[]);
    let document = get(&server, "/openapi.json").await.json;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let image = base64("orange-sunset.jpg");
    let exchanges = [
        (Method::GET, "/v1/models", json!(null)),
        (Method::GET, "/healthz", json!(null)),
        (Method::GET, "/readyz", json!(null)),
        (Method::POST, "/v1/models/refresh", json!(null)),
        (Method::POST, "/v1/vision/caption", json!({ "image": image })),
        (Method::POST, "/v1/vision/caption", json!({ "image": "" })),
        (Method::POST, "/v1/vision/batch-caption", json!({ "images": [image, "?"] })),
        (Method::POST, "/v1/classify", json!({ "image": image })),
        (Method::POST, "/v1/classify", json!({ "image": image, "model": "x" })),
        (Method::POST, "/diagnostics/vram-test", json!({ "batch_sizes": [1] })),
    ];
    for (method, path, body) in exchanges {
        let request = client().request(method.clone(), server.url(path));
        let json = (HeaderName::from_static("content-type"), HeaderValue::from_static("application/json"));
        let request = request.header(json.0, json.1).body(body.to_string());
        let answer = Answer::to(request).await;
        let operation = &document["paths"][path][method.as_str().to_lowercase()];
        let described = resolve(&document, &operation["responses"][answer.status.to_string()]);
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path} {} is not described", answer.status);
        fits(&document, schema, &answer.json).unwrap_or_else(|wrong| panic!("{path}: {wrong} in {}", answer.json));
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => resolve(document, document.pointer(&reference[1..]).expect("what is referred to")),
        None => schema,
    }
}

/// Whether JSON is what a schema says, as far as this document's schemas go.
fn fits(document: &Value, schema: &Value, json: &Value) -> Result<(), String> {
    let schema = resolve(document, schema);
    let wrong = |what: &str| Err(format!("{json} is not {what}"));
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| fits(document, choice, json).is_ok()).count();
        return if fitting == 1 { Ok(()) } else { wrong("one of its kinds") };
    }
    if schema.get("const").is_some_and(|constant| constant != json) {
        return wrong("the constant");
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(json)) {
        return wrong("one of its values");
    }
    let kind = match json {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |name: &Value| name == kind || (name == "integer" && json.is_u64());
    match &schema["type"] {
        Value::Null => {}
        Value::Array(kinds) if kinds.iter().any(is) => {}
        name if is(name) => {}
        name => return wrong(&name.to_string()),
    }
    for item in json.as_array().into_iter().flatten() {
        fits(document, &schema["items"], item)?;
    }
    let Some(object) = json.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().expect("a name")) {
            return wrong(&format!("complete: {name} is missing"));
        }
    }
    for (name, value) in object {
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Object(_)) => fits(document, &schema["additionalProperties"], value)?,
            (Value::Null, Value::Bool(false)) => return wrong(&format!("without the undescribed {name}")),
            (Value::Null, _) => {}
            (described, _) => fits(document, described, value)?,
        }
    }
    Ok(())
}
