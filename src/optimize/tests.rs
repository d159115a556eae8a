//! Graphs in the patterns of `PyTorch`'s exporter, as they are and rewritten, on ONNX Runtime. They are in `tests/models/exports`,
//! made by `benches/make_models.py tests/models/exports tests`.

use std::path::PathBuf;

use super::*;
use crate::model::frame::CHANNELS;
use crate::model::threshold::Thresholds;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::onnx::{self, Settings};

fn model(name: &str) -> ModelFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/exports").join(name);
    ModelFiles::open(&folder).expect("a model").expect("one that can be used")
}

fn scores(files: &ModelFiles) -> Vec<Vec<f32>> {
    let settings = Settings {
        devices: vec![Device::Cpu],
        threads: 1,
        batch: 1,
        thresholds: Thresholds::default(),
        device_memory: None,
        engines: None,
    };
    let mut loaded = onnx::load(files, &settings).expect("a model that can be loaded");
    let values = (loaded.model.frame.side as usize).pow(2) * CHANNELS;
    let row = |seed: usize| -> Vec<u8> {
        (0..values).map(|at| u8::try_from((at * (seed + 3) + (at / 97) * 31 * seed) % 256).unwrap_or(0)).collect()
    };
    let rows: Vec<Vec<u8>> = (0..3).map(row).collect();
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    loaded.runners[0].runtime.run(&rows).expect("scores")
}

fn largest_difference(one: &[Vec<f32>], other: &[Vec<f32>]) -> f32 {
    one.iter().flatten().zip(other.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

struct Done {
    _folder: tempfile::TempDir,
    files: ModelFiles,
    rewritten: Rewritten,
}

fn rewritten(files: &ModelFiles, precision: Precision) -> Done {
    let folder = tempfile::tempdir().expect("a folder");
    let onnx: PathBuf = folder.path().join("model.onnx");
    let rewritten = rewrite(files, precision, &onnx).expect("it is rewritten");
    std::fs::copy(&files.labels, folder.path().join("selected_tags.csv")).expect("labels");
    let files = ModelFiles::open(folder.path()).expect("a model").expect("one that can be used");
    Done { _folder: folder, files, rewritten }
}

/// Attentions, activations, normalizations with a sum; and whether preprocessing is removed.
fn found(rewritten: &Rewritten) -> ([(usize, usize); 3], bool) {
    let of = |name: &str| {
        let tally = rewritten.fused.iter().find(|(what, _)| what.starts_with(name)).map(|(_, tally)| tally);
        tally.map_or((0, 0), |tally| (tally.fused, tally.found()))
    };
    ([of("attention"), of("activation"), of("normalization with")], rewritten.preprocessing.is_ok())
}

fn check(name: &str, expected: ([(usize, usize); 3], bool)) {
    let files = model(name);
    let before = scores(&files);
    let single = rewritten(&files, Precision::Fp32);
    assert_eq!(found(&single.rewritten), expected, "{name}: {:?}", single.rewritten);
    let difference = largest_difference(&before, &scores(&single.files));
    assert!(difference < 1e-5, "{name}: {difference}");
    let half = rewritten(&files, Precision::Fp16);
    assert_eq!((half.rewritten.casts, single.rewritten.casts), (2, 0), "{name}: {:?}", half.rewritten.operators);
    let difference = largest_difference(&before, &scores(&half.files));
    assert!(difference > 0.0 && difference < 0.02, "{name}: {difference}");
}

#[test]
fn a_vit_with_scaled_queries_and_keys() {
    check("vit-sdpa-17", ([(2, 2), (2, 2), (4, 5)], true));
}

#[test]
fn a_vit_of_an_old_opset() {
    check("vit-eager-14", ([(2, 2), (2, 2), (4, 5)], true));
}

#[test]
fn an_eva02_with_its_rotations() {
    for name in ["eva02-eager-17", "eva02-sdpa-14"] {
        check(name, ([(2, 2), (2, 2), (3, 5)], true));
        let operators = rewritten(&model(name), Precision::Fp32).rewritten.operators;
        assert_eq!(operators.get("RotaryEmbedding"), Some(&4), "{operators:?}");
    }
}

#[test]
fn products_in_eight_bits_are_near() {
    let files = model("vit-sdpa-17");
    let done = rewritten(&files, Precision::Int8);
    // Patches; then queries, keys, values, projection and two of the perceptron in each of two blocks.
    assert_eq!(done.rewritten.operators.get("DynamicQuantizeMatMul"), Some(&13), "{:?}", done.rewritten);
    let difference = largest_difference(&scores(&files), &scores(&done.files));
    assert!(difference > 0.0 && difference < 0.1, "{difference}");
}

#[test]
fn a_wrong_factor_would_show() {
    let files = model("vit-sdpa-17");
    let done = rewritten(&files, Precision::Fp32);
    let (model, mut graph) = file::read(std::fs::read(&done.files.onnx).expect("a file").into()).expect("a model");
    let attentions = graph.nodes.iter_mut().filter(|node| node.operator == "MultiHeadAttention");
    for attribute in attentions.flat_map(|node| &mut node.attributes).filter(|each| each.name == "scale") {
        attribute.number *= 2.0;
    }
    probe::write(&done.files.onnx, &model, &graph).expect("it is written");
    let difference = largest_difference(&scores(&files), &scores(&done.files));
    // A thousand times what is allowed.
    assert!(difference > 0.01, "attention decides too little: {difference}");
}

#[test]
fn cosine_attention_stays() {
    check("swinv2-sdpa-17", ([(0, 2), (2, 2), (0, 6)], true));
}

#[test]
fn a_convnext_has_no_attention() {
    check("convnext-17", ([(0, 0), (2, 2), (0, 4)], true));
}

#[test]
fn a_model_of_one_batch_keeps_it() {
    let files = model("v2-tensorflow");
    let before = scores(&files);
    let single = rewritten(&files, Precision::Fp32);
    assert_eq!(found(&single.rewritten), ([(2, 2), (2, 2), (4, 5)], true), "{:?}", single.rewritten);
    assert!(largest_difference(&before, &scores(&single.files)) < 1e-5);
}
