//! Names with control characters, escape sequences and marks of direction.

use async_nats::HeaderMap;
use serde_json::json;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::worker::{Worker, tagmill};

/// A name that forges a line, clears the screen and turns what follows it around.
const NAME: &str = "x\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{200f}\u{2028}.jpg";

/// Fails where a text has characters that a terminal obeys instead of showing.
#[track_caller]
pub(super) fn is_printable(text: &str) {
    let marks = ['\u{200e}', '\u{200f}', '\u{61c}', '\u{2028}', '\u{2029}', '\u{feff}'];
    let obeyed = |letter: &char| {
        (letter.is_control() && !"\n".contains(*letter))
            || marks.contains(letter)
            || ('\u{202a}'..='\u{202e}').contains(letter)
            || ('\u{2066}'..='\u{2069}').contains(letter)
    };
    assert_eq!(text.chars().find(obeyed), None, "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "a forged line:\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_forges_a_line_of_the_log() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, &crate::support::samples(), &[], &[("RUST_LOG", "debug".to_owned())]);
    for job in [
        json!({ "id": NAME, "image": NAME }),
        json!({ "id": "model", "image": "orange-sunset.jpg", "model": NAME }),
        json!({ "id": "threshold", "image": "orange-sunset.jpg", "thresholds": { NAME: 0.5 } }),
        json!({ "id": "field", "image": "orange-sunset.jpg", NAME: 1 }),
    ] {
        client.publish("tagmill.jobs", HeaderMap::new(), job.to_string()).await;
    }
    let letters = client.dead(4).await;
    assert!(letters.iter().any(|letter| letter.id() == NAME), "JSON stays as it was");
    worker.logged("a job becomes a dead letter");
    is_printable(&worker.log());
}

#[test]
fn no_name_reaches_a_terminal_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = NAME.replace('/', "_");
    std::fs::copy(repository("samples/orange-sunset.jpg"), folder.path().join(&name)).expect("a copy");
    std::fs::write(folder.path().join(format!("{name}.png")), "no image").expect("a file");
    let models = folder.path().join("models");
    let model = models.join("demo");
    std::fs::create_dir_all(&model).expect("a folder");
    for entry in std::fs::read_dir(repository("models/demo")).expect("the model").flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), model.join(entry.file_name())).expect("a copy");
        }
    }
    let manifest = model.join("tagmill.toml");
    let before = std::fs::read_to_string(&manifest).unwrap_or_default();
    let broken = models.join("broken\u{1b}[2J");
    std::fs::create_dir_all(&broken).expect("a folder");
    std::fs::write(broken.join("model.onnx"), "no model").expect("a file");
    std::fs::write(broken.join("tagmill.toml"), "\"a\u{202e}\\u001b[2J\" = 1\n").expect("a file");
    let run = |arguments: &[&str]| {
        let output = tagmill(arguments).output().expect("it runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let (folder, models) = (folder.path().display().to_string(), models.display().to_string());
    let list = run(&["models", "list", "--models", &models]);
    assert!(list.contains("broken"), "{list}");
    is_printable(&list);
    // A sidecar's path is shown, and the failure of the other file.
    let tagged = run(&["tag", "--models", &models, "--model", "demo", "--sidecar", "txt", &folder]);
    assert!(tagged.contains("orange") || tagged.contains("image_undecodable"), "{tagged}");
    is_printable(&tagged);
    is_printable(&run(&["tag", "--models", &models, "--model", NAME, &folder]));
    is_printable(&run(&["worker", "--models", &models, "--model", "demo", "--store", &format!("s3://{NAME}")]));
    assert!(!before.contains('\u{1b}'));
}
