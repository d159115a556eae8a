//! `tagmill bench`.

use serde_json::Value;

use crate::support::worker::tagmill;
use crate::support::{repository, samples};

fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tagmill(&["bench", "--time", "50ms", "--batch-sizes", "4,1"]);
    let ended = command.arg("--models").arg(repository("models")).args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn it_measures_every_part_and_recommends_flags() {
    let samples = repository("samples").display().to_string();
    let (code, out, log) = bench(&["--json", &samples]);
    assert_eq!(code, Some(0), "{log}");
    let steps = ["reading the images", "decoding alone, on ", "the model alone, ", "everything together, "];
    assert!(steps.iter().all(|step| log.lines().any(|line| line.starts_with(step))), "{log}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    let measured = |part: &str| report[part].as_array().expect("a list").clone();
    let (session, whole) = (measured("session"), measured("whole"));
    let sizes = |part: &[Value]| part.iter().map(|measured| measured["batch"].as_u64()).collect::<Vec<_>>();
    assert_eq!(sizes(&whole), [Some(1), Some(4)], "in order");
    // With one session, and on several cores also with one session per core.
    for split in session.chunk_by(|before, next| before["sessions"] == next["sessions"]) {
        assert_eq!(sizes(split), [Some(1), Some(4)], "in order");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(session.len(), if cores > 1 { 4 } else { 2 }, "{session:#?}");
    let positive = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
    for measured in session.iter().chain(&measured("decoding")).chain(&whole) {
        let Value::Object(seconds) = &measured["seconds"] else { panic!("{measured}") };
        assert!(positive(&measured["rate"]) && positive(&seconds["p50"]) && positive(&seconds["p99"]), "{measured}");
    }
    for whole in &whole {
        assert!(positive(&whole["parts"]["infer"]) && positive(&whole["resident"]), "{whole}");
    }
    assert_eq!(report["images"], 10);
    let advice = &report["advice"];
    assert!(sizes(&session).contains(&advice["batch_size"].as_u64()) && advice["bound"].is_string(), "{advice}");

    let (code, out, log) = bench(&[&samples]);
    assert_eq!(code, Some(0), "{log}");
    let flags = out.lines().find_map(|line| line.strip_prefix("recommended: ")).expect("flags");
    // The recommended flags are valid for a worker.
    let flags: Vec<&str> = flags.split(' ').collect();
    let worker = tagmill(&["worker", "--store", "s3://", "--models", "x"]).args(&flags).output().expect("it runs");
    let log = String::from_utf8_lossy(&worker.stderr);
    assert!(log.contains("s3://") && !log.contains("unexpected argument"), "{log}");
}

#[test]
fn without_an_image_to_measure_with_it_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let (code, _, log) = bench(&[&path]);
    assert!(code == Some(1) && log.contains("no image to measure with"), "{log}");
    let (code, _, log) = bench(&["/no/such/folder"]);
    assert!(code == Some(1) && log.contains("/no/such/folder"), "{log}");
    // An argument that is not a local path names an object of the store.
    let (code, out, log) = bench(&["--store", &samples(), "orange-sunset.jpg", "--json"]);
    assert!(code == Some(0) && out.contains(r#""images":1"#), "{log}");
    std::fs::write(folder.path().join("broken.png"), "no picture").expect("a file");
    let (code, _, log) = bench(&[&path]);
    assert!(code == Some(1) && log.contains("can be read; the first is") && log.contains("broken.png: "), "{log}");
}

#[test]
fn images_that_can_not_be_decoded_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("broken.png"), "no picture").expect("a file");
    let sample = repository("samples/orange-sunset.jpg");
    std::fs::copy(sample, folder.path().join("whole.jpg")).expect("a copy");
    let (code, out, log) = bench(&[&folder.path().display().to_string()]);
    assert!(code == Some(0) && out.contains("2 images, 1 of them unreadable"), "{out}{log}");
    let named: Vec<_> = log.lines().filter(|line| line.contains("broken.png: ")).collect();
    assert!(named.len() == 1 && !log.contains("whole.jpg"), "{log}");
}
