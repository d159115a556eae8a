//! Cost of the parts of a job's path that use neither a clock nor the network.
//!
//! Reads the pictures of `benches/make_images.py`. `make bench` creates them and runs everything; after that,
//! `cargo bench --bench pure -- decode` runs a selection.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use tagmill::model::category::{CHARACTER, GENERAL, RATING};
use tagmill::model::frame::{Filter, Fit, Frame};
use tagmill::model::labels::{Label, Labels};
use tagmill::model::manifest::{Layout, Manifest};
use tagmill::model::threshold::{Threshold, Thresholds};
use tagmill::pipeline::batch::window::{Arrivals, Capacity, Decision, Window};
use tagmill::pipeline::decode::fit::Fitter;
use tagmill::pipeline::decode::picture;
use tagmill::pipeline::tag::onnx::tensor::Encoder;
use tagmill::priority::Priority;

/// Input of the WD taggers.
const FRAME: Frame = Frame { side: 448, fit: Fit::Pad([255; 3]), filter: Filter::Bicubic };

const SETTINGS: picture::Settings = picture::Settings { max_pixels: 100_000_000, ignore_orientation: false };

fn main() {
    divan::main();
}

/// Names of the pictures, one per format and size.
fn pictures() -> Vec<String> {
    let folder = folder();
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}; `make bench` makes the pictures first", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench/images/formats")
}

/// Decodes an image file to the pixels of its row.
#[divan::bench(args = pictures())]
fn decode(bencher: Bencher<'_, '_>, name: &str) {
    let bytes = std::fs::read(folder().join(name)).expect("it was listed");
    let mut spare = Vec::new();
    bencher.bench_local(|| {
        let pixels = picture::decode(black_box(&bytes), &SETTINGS, &FRAME, &mut spare, &mut |_| Ok(()));
        spare = pixels.expect("a good picture").into_buffer();
    });
}

/// Fits pixels to one row of the model's input.
#[divan::bench(args = pictures())]
fn fit(bencher: Bencher<'_, '_>, name: &str) {
    let bytes = std::fs::read(folder().join(name)).expect("it was listed");
    let pixels = picture::decode(&bytes, &SETTINGS, &FRAME, &mut Vec::new(), &mut |_| Ok(())).expect("a good picture");
    let mut fitter = Fitter::new(FRAME);
    bencher.bench_local(|| fitter.fit(black_box(&pixels.as_picture())));
}

/// Encodes rows of bytes as the numbers of a batch.
#[divan::bench(args = [Layout::Nhwc, Layout::Nchw])]
fn encode_8_rows(bencher: Bencher<'_, '_>, layout: Layout) {
    let row: Vec<u8> = (0..=255).cycle().take((FRAME.side * FRAME.side * 3) as usize).collect();
    let encoder = Encoder::new(&Manifest::default().input, layout, FRAME.side);
    let mut tensor = Vec::new();
    bencher
        .counter(ItemsCount::new(8usize))
        .bench_local(|| encoder.encode(black_box(&[row.as_slice(); 8]), 8, &mut tensor));
}

/// Pushes 8,000 rows through the window in batches, with a decision after each row.
#[divan::bench(args = [1, 8, 64])]
fn window_8000_rows(bencher: Bencher<'_, '_>, limit: usize) {
    let (now, arrivals) = (Instant::now(), Arrivals { interactive: 0, bulk: 1 });
    bencher.counter(ItemsCount::new(8000usize)).bench_local(|| {
        let mut window = Window::new(Duration::from_millis(25), limit);
        let mut batches = 0;
        for row in 0..8000u32 {
            window.push(now, Priority::Bulk, row);
            while let Decision::Flush(_) = window.decide(black_box(now), Capacity::Idle, arrivals) {
                batches += black_box(window.take()).len();
            }
        }
        batches
    });
}

/// Selects tags from the scores of one image, with the label count of the third WD taggers.
#[divan::bench(args = ["over", "mcut"])]
fn select(bencher: Bencher<'_, '_>, by: &str) {
    let labels = Labels::new((0..10_861).map(label).collect());
    // About thirty scores over the threshold, as for a typical picture. The rest falls towards zero.
    #[expect(clippy::cast_precision_loss, reason = "any number between 0 and 1 will do")]
    let scores: Vec<f32> =
        (0..10_861u32).map(|column| (column.wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32).powi(283)).collect();
    let thresholds = match by {
        "mcut" => Thresholds::default().with(GENERAL, Some(Threshold::MCut)).with(CHARACTER, Some(Threshold::MCut)),
        _ => Thresholds::default(),
    };
    bencher.bench_local(|| labels.select(black_box(&scores), &thresholds));
}

fn label(column: usize) -> Label {
    let category = match column {
        0..4 => RATING,
        4..8110 => GENERAL,
        _ => CHARACTER,
    };
    Label { name: format!("label_{column}"), category: category.into() }
}
