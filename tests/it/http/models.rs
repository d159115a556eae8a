//! What a server says of its models.

use futures_util::future::join_all;
use serde_json::json;

use super::{Answer, base64, client, get, post};
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, until};

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
