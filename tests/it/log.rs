//! Logs: their content and sources.

mod job;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::worker::tagmill;
use crate::support::{repository, samples};

fn tag(image: &Path) -> Command {
    let mut command = tagmill(&["tag", "--models"]);
    command.arg(repository("models")).arg(image);
    command
}

#[test]
fn a_log_that_nobody_reads_ends_and_the_run_does_not() {
    let mut tagging = tag(&repository("samples"));
    tagging.arg("missing.jpg").env("RUST_LOG", "debug");
    let mut tagging = tagging.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(tagging.stderr.take());
    let output = tagging.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 11);
}

#[test]
fn the_runtime_keeps_no_notes_of_the_machine() {
    let home = tempfile::tempdir().expect("a folder");
    let sunset = repository("samples/orange-sunset.jpg");
    assert!(tag(&sunset).env("HOME", home.path()).status().expect("it runs").success());
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("a folder").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn libraries_are_quiet_unless_they_are_named() {
    let log = |levels: &str| {
        let sunset = repository("samples/orange-sunset.jpg");
        let ended = tag(&sunset).env("RUST_LOG", levels).output().expect("it runs");
        String::from_utf8(ended.stderr).expect("UTF-8")
    };
    let plain = log("");
    assert!(plain.contains("the model is ready"), "an empty level is none: {plain}");
    assert_eq!(log("info").lines().count(), plain.lines().count());
    assert!(log("nonsense").contains("the model is ready"));
    assert!(log("tagmill=debug").lines().count() >= plain.lines().count());
    assert!(!log("warn").contains("the model is ready") && log("ort=info").lines().count() > plain.lines().count());
}

#[test]
fn the_last_line_of_a_log_of_json_is_json() {
    let (models, samples) = (repository("models").display().to_string(), samples());
    let arguments = ["worker", "--log-format", "json", "--models", &models, "--store", &samples, "--model", "nameless"];
    let ended = tagmill(&arguments).output().expect("it runs");
    let log = String::from_utf8(ended.stderr).expect("UTF-8");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["level"], &last["exit_code"]), (&"ERROR".into(), &2.into()));
    assert!(last["message"].as_str().is_some_and(|message| message.contains("nameless")), "{last}");
}
