//! Models of several families side by side.

use std::io::Cursor;
use std::path::Path;

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::s3::S3Server;
use crate::support::worker::{Worker, tagmill};
use crate::support::{repository, samples, until};

type Padding = Option<[u8; 3]>;
type Categories = [&'static str; 3];

/// Each family, its padding colour (`None` if it stretches), and the categories of red, green and blue.
const FAMILIES: [(&str, Padding, Categories); 8] = [
    ("wd-v3", Some([255; 3]), ["general", "character", "general"]),
    ("wd-v2", Some([255; 3]), ["general", "character", "general"]),
    ("cl-tagger", Some([255; 3]), ["general"; 3]),
    ("pixai", None, ["general", "character", "general"]),
    ("camie-v2", Some([124, 116, 104]), ["general", "character", "year"]),
    ("joytag", Some([255; 3]), ["general"; 3]),
    ("deepdanbooru", Some([255; 3]), ["general"; 3]),
    ("e621", Some([255; 3]), ["general", "species", "meta"]),
];

const COLOUR: [u8; 3] = [51, 102, 204];

/// Creates a folder with a small model of every family and the manifest that is shipped for it.
fn families() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (family, ..) in FAMILIES {
        copy(&repository("tests/models/families").join(family), &folder.path().join(family));
        let manifest = repository("models/families").join(family).join("tagmill.toml");
        if manifest.is_file() {
            std::fs::copy(manifest, folder.path().join(family).join("tagmill.toml")).expect("a copy");
        }
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("a model").flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

fn start(nats: &NatsServer, models: &TempDir, arguments: &[&str]) -> Worker {
    let models = models.path().display().to_string();
    let arguments = [&["--models", &models, "--model", "wd-v3"], arguments].concat();
    Worker::start_with(nats, &samples(), &arguments, &[])
}

/// A picture in base64, of one colour and twice as wide as high.
fn picture() -> String {
    let mut png = Cursor::new(Vec::new());
    RgbImage::from_pixel(64, 32, Rgb(COLOUR)).write_to(&mut png, ImageFormat::Png).expect("it fits");
    STANDARD.encode(png.into_inner())
}

/// Publishes a job for that picture.
async fn submit(client: &Client, id: &str, model: &str) {
    let image = format!("data:image/png;base64,{}", picture());
    let thresholds = json!({ "general": 0.0, "character": 0.0 });
    let job = json!({ "id": id, "image": image, "model": model, "thresholds": thresholds });
    client.publish("tagmill.jobs", HeaderMap::new(), job.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_described_by_its_manifest() {
    let (nats, models) = (NatsServer::start(), families());
    let worker = start(&nats, &models, &["--max-models", "3"]);
    let client = Client::connect(&nats).await;
    for (family, ..) in FAMILIES {
        submit(&client, family, family).await;
    }
    let results = client.results(FAMILIES.len()).await;
    for (family, padding, categories) in FAMILIES {
        let result = results.iter().find(|result| result.id() == family).expect("each has a result");
        assert_eq!(result.json["model"]["name"], family);
        for (colour, name) in ["red", "green", "blue"].into_iter().enumerate() {
            // Padding fills half of the square.
            let [value, padding] = [COLOUR, padding.unwrap_or(COLOUR)].map(|rgb| f64::from(rgb[colour]));
            let (score, expected) = (result.score(name), f64::midpoint(value, padding) / 255.0);
            assert!((score - expected).abs() < 0.01, "{family} {name}: {score}, not {expected}");
            let tags = result.json["tags"].as_array().expect("tags");
            let tag = tags.iter().find(|tag| tag["name"] == name).expect("it is over zero");
            assert_eq!(tag["category"], categories[colour], "{family} {name}");
        }
    }
    let rating = |family: &str| {
        let result = results.iter().find(|result| result.id() == family).expect("each has a result");
        result.json["rating"].clone()
    };
    assert_eq!(rating("wd-v3"), json!({ "general": 0.9 }));
    assert_eq!(rating("deepdanbooru"), json!({ "rating:safe": 0.9 }));
    assert_eq!(rating("pixai"), json!({}));
    assert!(!worker.log().contains("should its tagmill.toml say"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_gets_the_model_it_names_or_none() {
    let (nats, models) = (NatsServer::start(), families());
    std::fs::write(models.path().join("wd-v2/tagmill.toml"), "aliases = [\"old\"]").expect("a file");
    let worker = start(&nats, &models, &["--max-models", "1", "--alias", "new=wd-v3"]);
    let client = Client::connect(&nats).await;
    for (id, model) in [("1", "new"), ("2", "old"), ("3", "wd-v3"), ("4", "wd-v2"), ("5", "gpt")] {
        submit(&client, id, model).await;
    }
    let results = client.results(4).await;
    let model =
        |id: &str| results.iter().find(|result| result.id() == id).expect("a result").json["model"]["name"].clone();
    assert_eq!(["1", "2", "3", "4"].map(model), ["wd-v3", "wd-v2", "wd-v3", "wd-v2"], "the real name, not the alias");
    let letters = client.dead(1).await;
    assert_eq!((letters[0].id(), letters[0].code()), ("5", "unknown_model"));
    let message = letters[0].json["error"]["message"].as_str().expect("text");
    assert!(message.contains("wd-v3") && message.contains("joytag") && message.contains("old"), "{message}");
    assert_eq!(loaded(&worker).await.len(), 1, "one at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_says_which_tags_are_reported_and_how() {
    let (nats, models) = (NatsServer::start(), families());
    std::fs::write(models.path().join("wd-v3/tagmill.toml"), "[thresholds]\ngeneral = \"mcut\"\ncharacter = 0.9")
        .expect("a file");
    let csv = "name,category\ngeneral,9\nred_(paint),0\ngreen,0\nblue,0\n";
    std::fs::write(models.path().join("wd-v3/selected_tags.csv"), csv).expect("a file");
    let flags = ["--exclude-tag", "green", "--replace-tag", "blue=the (blue) sky", "--escape-parentheses"];
    let _worker = start(&nats, &models, &flags);
    let client = Client::connect(&nats).await;
    submit(&client, "all", "wd-v3").await;
    let all = client.results(1).await.remove(0);
    assert_eq!(all.json["text"], "the (blue) sky, red \\(paint\\)", "the job's thresholds win");
    assert_eq!(all.json["tags"].as_array().map(Vec::len), Some(2));
    assert_eq!(all.json["tags"][0]["name"], "blue", "tags keep the names of the label file");

    // With half of the square white, the scores are 0.60, 0.70 and 0.90; the largest gap is below the highest.
    let image = format!("data:image/png;base64,{}", picture());
    client.publish("tagmill.jobs", HeaderMap::new(), json!({ "id": "mcut", "image": image }).to_string()).await;
    let mcut = client.results(2).await.remove(1);
    assert_eq!(mcut.json["text"], "the (blue) sky");
}

/// Names of the loaded models.
async fn loaded(worker: &Worker) -> Vec<String> {
    let (_, metrics) = worker.get("/metrics").await;
    let models = metrics.lines().filter(|line| line.starts_with("tagmill_model_info") && line.ends_with(" 1"));
    models.filter_map(|line| Some(line.split("model=\"").nth(1)?.split('"').next()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_changes_is_taken_up_when_told_and_a_broken_one_is_not() {
    let (nats, models) = (NatsServer::start(), families());
    let worker = start(&nats, &models, &[]);
    let client = Client::connect(&nats).await;
    let folder = models.path().join("wd-v3");
    let hash = |result: &Answer| result.json["model"]["sha256"].clone();
    submit(&client, "1", "wd-v3").await;
    let first = hash(&client.results(1).await[0]);

    std::fs::write(folder.join("model.onnx"), "broken").expect("a file");
    worker.signal("HUP");
    worker.logged("the old one stays");
    submit(&client, "2", "wd-v3").await;
    assert_eq!(hash(&client.results(2).await[1]), first);

    std::fs::copy(models.path().join("wd-v2/model.onnx"), folder.join("model.onnx")).expect("a copy");
    copy(&models.path().join("joytag"), &models.path().join("added"));
    worker.signal("HUP");
    let second = until("the new model to be used", || async {
        submit(&client, "3", "wd-v3").await;
        let count = client.count("TAGMILL_RESULTS").await;
        let results = client.results(usize::try_from(count).expect("a few")).await;
        results.last().map(hash).filter(|hash| *hash != first)
    })
    .await;
    assert_ne!(second, Value::Null);
    submit(&client, "added", "added").await;
    until("the added model's answer", || async {
        let count = client.count("TAGMILL_RESULTS").await;
        let results = client.results(usize::try_from(count).expect("a few")).await;
        results.iter().any(|result| result.id() == "added" && result.json["model"]["name"] == "added").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_model_that_is_gone_or_has_a_wrong_manifest_stays() {
    let (nats, models) = (NatsServer::start(), families());
    let worker = start(&nats, &models, &[]);
    let client = Client::connect(&nats).await;
    std::fs::write(models.path().join("wd-v3/tagmill.toml"), "[input]\nside = 7\n").expect("a file");
    worker.signal("HUP");
    worker.logged("a model that has changed is broken; the old one stays");
    submit(&client, "1", "wd-v3").await;
    client.results(1).await;
    std::fs::remove_dir_all(models.path().join("wd-v3")).expect("it is there");
    worker.signal("HUP");
    worker.logged("the default model is gone from its folder; the loaded one stays");
    client.submit("2", "night-sky.png").await;
    assert_eq!(client.results(2).await[1].json["model"]["name"], "wd-v3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_can_not_be_loaded_fails_its_requests_alone() {
    let (nats, models) = (NatsServer::start(), families());
    std::fs::write(models.path().join("joytag/model.onnx"), "broken").expect("a file");
    let mut worker = start(&nats, &models, &[]);
    let client = Client::connect(&nats).await;
    let ask = async |model: &str| -> Value {
        let job = json!({ "image": "night-sky.png", "model": model }).to_string();
        let answer = client.jetstream.client().request("tagmill.tag", job.into()).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    };
    let first = ask("joytag").await;
    assert_eq!(first["error"]["code"], "inference_failed");
    assert!(first["error"]["message"].as_str().is_some_and(|text| text.contains("models check")), "{first}");
    assert_eq!(ask("joytag").await["error"]["message"], first["error"]["message"]);
    assert_eq!(ask("wd-v3").await["model"]["name"], "wd-v3");
    // Then its log is complete.
    worker.signal("TERM");
    assert!(worker.ended().success(), "{}", worker.log());
    let said = worker.log().matches("a model that a job names can't be loaded").count();
    assert_eq!(said, 1, "it is not tried for every request");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_can_come_from_a_bucket() {
    let (nats, s3, models) = (NatsServer::start(), S3Server::start("models").await, families());
    for family in ["wd-v3", "joytag"] {
        copy(&models.path().join(family), &s3.bucket("models").join("taggers").join(family));
    }
    let cache = tempfile::tempdir().expect("a folder");
    let path = cache.path().display().to_string();
    let arguments = ["--models", "s3://models/taggers", "--models-cache", &path, "--model", "wd-v3"];
    // Other files in the bucket and in the cache are ignored.
    std::fs::create_dir_all(s3.bucket("models").join("taggers/wd-v3/samples")).expect("a folder");
    std::fs::write(s3.bucket("models").join("taggers/wd-v3/samples/a.txt"), "").expect("a file");
    std::fs::write(cache.path().join("other"), "").expect("a file");
    let mut worker = Worker::start_with(&nats, &samples(), &arguments, &s3.environment());
    let client = Client::connect(&nats).await;
    submit(&client, "1", "joytag").await;
    client.results(1).await;

    // Only changed files are copied again.
    std::fs::remove_dir_all(s3.bucket("models").join("taggers/joytag")).expect("it is there");
    copy(&models.path().join("pixai"), &s3.bucket("models").join("taggers/pixai"));
    worker.signal("HUP");
    worker.logged("read the models again");
    assert_eq!(worker.log().matches("file=\"taggers/wd-v3/model.onnx\"").count(), 1, "{}", worker.log());
    submit(&client, "2", "pixai").await;
    client.results(2).await;
    submit(&client, "3", "joytag").await;
    assert_eq!(client.dead(1).await[0].code(), "unknown_model", "it is gone from the bucket");
    assert!(cache.path().join("other").is_file(), "what is no copy is left alone");

    worker.signal("TERM");
    assert!(worker.ended().success());
    let mut again = Worker::start_with(&nats, &samples(), &arguments, &s3.environment());
    assert!(!again.log().contains("copying"), "the copy is kept: {}", again.log());
    again.signal("TERM");
    again.ended();
}

/// Exit code and standard output of `tagmill models`.
fn models(arguments: &[&str], folder: &Path) -> (i32, String) {
    let mut command = tagmill(&["models"]);
    let output = command.args(arguments).arg("--models").arg(folder).output().expect("it runs");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn check_tells_what_is_wrong_with_each_model() {
    let folder = families();
    let (code, table) = models(&["check"], folder.path());
    assert_eq!(code, 0, "{table}");
    for expected in [
        "nhwc 448 batch 1 on cpu",
        "nchw 512 on cpu",
        "3: 1 general, 1 meta, 1 species",
        "character 0.85, general 0.3",
        "ONNX Runtime 1.",
    ] {
        assert!(table.contains(expected), "{expected}: {table}");
    }

    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).expect("a file");
    write("wd-v3/selected_tags.csv", "name,category\nonly_one,0\n");
    write("wd-v2/tagmill.toml", "[input]\nsize = 512\n");
    write("joytag/tagmill.toml", "[input]\nchannel = \"rgb\"\n");
    let onnx = |name: &str| folder.path().join("deepdanbooru").join(name);
    std::fs::rename(onnx("model.onnx"), onnx("a.onnx")).expect("it is there");
    std::fs::copy(onnx("a.onnx"), onnx("b.onnx")).expect("a copy");
    let pixai = std::fs::read_to_string(folder.path().join("pixai/tagmill.toml")).expect("it is there");
    write("pixai/tagmill.toml", &pixai.replace("[output]", "[output]\nactivation = \"sigmoid\""));
    let cl = std::fs::read_to_string(folder.path().join("cl-tagger/tagmill.toml")).expect("it is there");
    write("cl-tagger/tagmill.toml", &cl.replace("activation = \"sigmoid\"", ""));
    let (code, json) = models(&["check", "--json"], folder.path());
    assert_eq!(code, 1);
    let reports: Vec<Value> = serde_json::from_str(&json).expect("JSON");
    let report = |name: &str| reports.iter().find(|report| report["name"] == name).expect("each has one").clone();
    let says = |name: &str, field: &str, text: &str| {
        let report = report(name);
        assert!(report[field].as_str().is_some_and(|said| said.contains(text)), "{name}: {report}");
    };
    says("wd-v3", "error", "1 labels");
    says("wd-v2", "error", "512");
    says("joytag", "error", "channel");
    says("deepdanbooru", "error", "a.onnx and b.onnx; name one under [files]");
    says("cl-tagger", "warning", "\"sigmoid\"");
    says("pixai", "warning", "\"none\"");
    assert_eq!(report("e621")["ok"], true);
    assert_eq!(report("e621")["thresholds"]["species"], json!(0.35));
    assert_eq!(report("e621")["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(models(&["list"], folder.path()).0, 0, "list only shows");
}

#[test]
fn a_pipe_that_nobody_reads_is_an_error_and_no_panic() {
    let models = families();
    for json in [&["--json"][..], &[]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = tagmill(&["models", "list", "--models"]);
        let ended = command.arg(models.path()).args(json).stdout(writer).output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains("standard output"), "{:?} {said}", ended.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_share_the_work_of_one_model() {
    let nats = NatsServer::start();
    let worker = Worker::start_with(&nats, &samples(), &["--device", "cpu,cpu", "--batch-size", "2"], &[]);
    let client = Client::connect(&nats).await;
    client.submit_samples(200).await;
    let results = client.results(200).await;
    for result in &results {
        assert!(result.json["batch"].as_u64().is_some_and(|rows| rows <= 2), "{}", result.json);
    }
    let (_, text) = worker.get("/metrics").await;
    assert!(text.lines().any(|line| line.starts_with("tagmill_model_info") && line.ends_with(" 1")), "{text}");
    // Each device's session has a thread of its own, and both received batches.
    let threads = worker.threads("tag-demo");
    let busy = threads.iter().filter(|waits| **waits > 5).count();
    assert_eq!(busy, 2, "{threads:?}");
}
