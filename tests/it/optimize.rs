//! `tagmill models optimize`, as a user runs it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::repository;
use crate::support::worker::tagmill;

/// A folder of models with a copy of one as `PyTorch` exports it.
fn models() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (repository("tests/models/exports/vit-sdpa-17"), folder.path().join("vit"));
    fs::create_dir(&to).expect("a folder");
    for file in ["model.onnx", "selected_tags.csv"] {
        fs::copy(from.join(file), to.join(file)).expect("a copy");
    }
    fs::write(to.join("tagmill.toml"), "aliases = [\"best\"]\n[thresholds]\ngeneral = 0.05\n").expect("a manifest");
    folder
}

fn optimize(models: &Path, arguments: &[&str]) -> Output {
    let mut command = tagmill(&["models", "optimize", "vit", "--device", "cpu"]);
    command
        .args(arguments)
        .arg("--models")
        .arg(models)
        .arg("--images")
        .arg(repository("samples"))
        .output()
        .expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_model_is_made_beside_the_other_with_its_report() {
    let models = models();
    let done = optimize(models.path(), &[]);
    let shown = text(&done.stdout);
    assert!(done.status.success(), "{shown}{}", text(&done.stderr));
    assert!(shown.contains("attention") && shown.contains("2 of 2"), "{shown}");
    let folder = models.path().join("vit-fp16");
    let report: Value =
        serde_json::from_slice(&fs::read(folder.join("optimized.json")).expect("a report")).expect("JSON");
    let list = tagmill(&["models", "list", "--json", "--models"]).arg(models.path()).output().expect("it runs");
    let listed: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let [old, new] = [0, 1].map(|place| listed[place]["sha256"].as_str().unwrap_or_default().to_owned());
    assert_eq!(report["optimized_from"], *old, "{report}");
    assert!(!new.is_empty() && old != new, "{listed}");
    assert_eq!((&listed[0]["aliases"][0], &listed[1]["aliases"]), (&"best".into(), &Value::Array(vec![])), "{listed}");
    let manifest = fs::read_to_string(folder.join("tagmill.toml")).expect("a manifest");
    for line in ["precision = \"fp16\"", &format!("optimized_from = \"{old}\""), "general = 0.05"] {
        assert!(manifest.contains(line), "{line}: {manifest}");
    }
    let again = optimize(models.path(), &[]);
    assert_eq!(again.status.code(), Some(2), "it is there already");
    assert!(text(&again.stderr).contains("--as"), "{}", text(&again.stderr));
}

#[test]
fn a_model_that_differs_too_much_is_not_kept() {
    let models = models();
    let done = optimize(models.path(), &["--tolerance", "0", "--name", "half", "--json"]);
    let (report, said) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(1), "{report}{said}");
    assert!(said.contains("half is not kept") && said.contains("--tolerance"), "{said}");
    let report: Value = serde_json::from_str(&report).expect("JSON, though refused");
    assert!(report["agreement"]["largest_difference"].as_f64().is_some_and(|largest| largest > 0.0), "{report}");
    let left: Vec<_> =
        fs::read_dir(models.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["vit"], "nothing is left behind");
}

#[test]
fn single_precision_is_equal_but_for_rounding() {
    let models = models();
    let done = optimize(models.path(), &["--precision", "fp32", "--tolerance", "0.00001", "--agreement", "1"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(models.path().join("vit-fp32/model.onnx").is_file());
}
