//! The API, as its clients use it.

mod access;
mod description;
mod load;
mod models;

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderMap;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::support::worker::Worker;
use crate::support::{repository, samples};

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
pub fn client() -> Client {
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
    assert_eq!(server.metric("tagmill_jobs_total{source=\"http\",outcome=\"tagged\"}").await, Some(8.0));
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

/// The names of a caption's tags.
fn names(caption: &Value) -> Vec<&str> {
    let tags = caption["tags"].as_array().unwrap_or_else(|| panic!("no tags: {caption}"));
    tags.iter().map(|tag| tag["name"].as_str().expect("a name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_are_a_requests_or_an_images_own() {
    let server = Worker::serve(&[], &[]);
    let (caption, batch) = ("/v1/vision/caption", "/v1/vision/batch-caption");
    let image = base64("orange-sunset.jpg");
    let high = json!({ "general": 0.995 });
    let all = post(&server, caption, json!({ "image": image })).await.json;
    let few = post(&server, caption, json!({ "image": image, "thresholds": high })).await.json;
    assert!(names(&few) == ["orange", "warm_colors"] && names(&all).len() > 2, "{few} {all}");

    let images = json!([image, { "image": image, "thresholds": { "general": 0.999 } }, { "image_url": image }]);
    let answer = post(&server, batch, json!({ "images": images, "thresholds": high })).await.json;
    let slots: Vec<_> = answer["captions"].as_array().expect("captions").iter().map(names).collect();
    assert_eq!(slots, [names(&few), vec!["orange"], names(&few)]);
    let images = json!([{ "image": image, "threshold": 1 }, { "thresholds": {} }, { "image": image, "thresholds": { "genral": 1 } }]);
    let answer = post(&server, batch, json!({ "images": images })).await.json;
    for (slot, named) in answer["captions"].as_array().expect("captions").iter().zip([
        "`threshold` is unknown",
        "`image`",
        "`thresholds.genral`",
    ]) {
        assert_eq!(slot["error"]["code"], "bad_job", "{slot}");
        assert!(slot["error"]["message"].as_str().expect("text").contains(named), "{slot}");
    }

    let form = |name: &'static str, value: &'static str| {
        let form = Form::new().text(name, value).part("image", file("orange-sunset.jpg"));
        Answer::to(client().post(server.url(caption)).multipart(form))
    };
    for (name, value) in [("thresholds", r#"{"general":0.995}"#), ("thresholds.general", "0.995")] {
        assert_eq!(names(&form(name, value).await.json), names(&few), "{name}");
    }
    for (name, value, named) in [
        ("threshold", "0.5", "field `threshold` is unknown; did you mean `thresholds`?"),
        ("thresholds", "0.5", "field `thresholds`"),
        ("thresholds.general", "high", "field `thresholds.general`"),
        ("thresholds.genral", "0.5", "did you mean `general`?"),
    ] {
        let answer = form(name, value).await;
        assert_eq!(answer.error(), (400, "bad_job"), "{name}");
        assert!(answer.json["error"]["message"].as_str().expect("text").contains(named), "{}", answer.json);
    }
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
        (caption, json!({ "image": small, "threshold": 0.5 }), (400, "bad_job")),
        (caption, json!({ "image": small, "thresholds": { "genral": 0.5 } }), (400, "bad_job")),
        (caption, json!({ "image": small, "thresholds": { "general": 2 } }), (400, "bad_job")),
        ("/v1/classify", json!({ "image": small, "thresholds": { "general": 0.5 } }), (400, "bad_job")),
        ("/v1/vision/caption?model=demo", json!({ "image": small }), (400, "bad_job")),
        ("/v1/vision/batch-caption", json!({ "images": [small], "modell": "demo" }), (400, "bad_job")),
        ("/diagnostics/vram-test", json!({ "batch_sizes": [1], "sizes": [1] }), (400, "bad_job")),
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
async fn a_request_has_an_id_in_its_answer_and_in_the_log() {
    let server = Worker::serve(&[], &[("RUST_LOG", "debug".to_owned())]);
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_again_and_again_is_logged_once_for_each_code() {
    let server = Worker::serve(&[], &[]);
    for _ in 0..50 {
        assert_eq!(post(&server, "/v1/vision/caption", json!({})).await.status, 400);
        assert_eq!(get(&server, "/no/such/path").await.status, 404);
    }
    let other = client().post(server.url("/v1/classify")).header("Content-Type", "text/plain").body("x");
    assert_eq!(Answer::to(other).await.status, 415);
    server.logged("unsupported_media_type");
    let log = server.log();
    for code in ["bad_job", "not_found"] {
        let lines = log.lines().filter(|line| line.contains("refused a request") && line.contains(code)).count();
        assert_eq!(lines, 1, "{code}: {log}");
    }
}
