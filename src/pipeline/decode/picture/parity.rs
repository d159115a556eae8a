//! Pixels against Pillow's, over `tests/parity/pixels`: each input is decoded and fitted as a job's image is, and compared
//! with what Pillow made of it (`tests/parity/pixels.py`). With `--nocapture` it prints every case's differences.

use std::path::{Path, PathBuf};

use super::format::{self, Format};
use super::*;
use crate::model::frame::{Filter, Fit, Frame};
use crate::pipeline::decode::fit::Fitter;

/// How far from Pillow a picture may be: the largest difference of one sample, and the mean of all.
struct Tolerance {
    largest: u8,
    mean: f64,
}

/// What a case's decoder can be held to.
fn tolerance(stem: &str, format: Format) -> Tolerance {
    match format {
        // Pillow's colour management rounds to eight bits in between.
        _ if stem.ends_with("-lab") => Tolerance { largest: 8, mean: 0.3 },
        // Other decoders than Pillow's, or the same ones with another conversion to RGB, which round elsewhere.
        Format::Jxl | Format::Avif | Format::Heic => Tolerance { largest: 4, mean: 0.5 },
        // Coded without loss, or decoded alike: only resizing can differ.
        _ => Tolerance { largest: 2, mean: 0.05 },
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/pixels")
}

/// The inputs, by name.
pub(super) fn cases() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder()).expect("the folder is committed");
    let mut cases: Vec<_> = entries
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.file_name().into_string().expect("a plain name"), entry.path()))
        .filter(|(name, _)| !name.contains(".expected."))
        .map(|(name, path)| (name, std::fs::read(path).expect("a file")))
        .collect();
    cases.sort();
    cases
}

/// Whether a file is of a format that this build has no decoder for.
pub(super) fn is_left_out(bytes: &[u8]) -> bool {
    format::sniff(bytes).is_err_and(|failure| failure.message.contains("is not read by this build"))
}

struct Difference {
    largest: u8,
    mean: f64,
}

impl Difference {
    fn of(left: &[u8], right: &[u8]) -> Self {
        let differences = left.iter().zip(right).map(|(left, right)| left.abs_diff(*right));
        #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
        let mean = differences.clone().map(f64::from).sum::<f64>() / left.len() as f64;
        Self { largest: differences.max().unwrap_or(0), mean }
    }
}

fn compare(stem: &str, bytes: &[u8]) -> Difference {
    let expected = folder().join(format!("{stem}.expected.png"));
    difference(stem, bytes, &expected).unwrap_or_else(|failure| panic!("{stem}: {failure}"))
}

fn difference(stem: &str, bytes: &[u8], expected: &Path) -> Result<Difference, Failure> {
    let expected = image::open(expected).expect("every case has one").into_rgb8();
    let settings = Settings { max_pixels: 100_000_000, ignore_orientation: stem.ends_with("-as-stored") };
    let frame = Frame { side: expected.width(), fit: Fit::Pad([255; 3]), filter: Filter::Bicubic };
    // For a frame this large nothing is decoded at a reduced size.
    let whole = Frame { side: u32::MAX, ..frame };
    let pixels = decode(bytes, &settings, &whole, &mut Vec::new(), &mut |_| Ok(()))?;
    let row = Fitter::new(frame).fit(&pixels.as_picture());
    assert_eq!(row.len(), expected.len(), "{stem}");
    Ok(Difference::of(&row, expected.as_raw()))
}

#[test]
fn pixels_are_those_of_pillow() {
    let mut beyond = Vec::new();
    println!("| case | largest | mean |\n|---|---|---|");
    for (name, bytes) in cases() {
        if is_left_out(&bytes) {
            continue;
        }
        let stem = name.rsplit_once('.').expect("an extension").0;
        let Difference { largest, mean } = compare(stem, &bytes);
        println!("| {name} | {largest} | {mean:.4} |");
        let tolerance = tolerance(stem, format::sniff(&bytes).expect("a format"));
        if largest > tolerance.largest || mean > tolerance.mean {
            beyond.push(format!("{name}: largest {largest}, mean {mean:.4}"));
        }
    }
    assert!(beyond.is_empty(), "further from Pillow than they may be:\n{}", beyond.join("\n"));
}

/// Share of Pillow's own images that must be tagged as Pillow sees them, in hundredths.
const ALIKE: usize = 97;

#[test]
#[ignore = "make pillow-suite downloads the images"]
fn the_images_of_pillows_own_tests() {
    let folder = PathBuf::from(std::env::var("TAGMILL_TEST_PILLOW_SUITE").expect("make pillow-suite sets it"));
    let mut formats = std::collections::BTreeMap::<String, [usize; 3]>::new();
    let entries = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| !path.to_string_lossy().ends_with(".expected.png")).collect();
    files.sort();
    for path in &files {
        let name = path.file_name().expect("a name").to_string_lossy();
        let bytes = std::fs::read(path).expect("a file");
        let format = format::sniff(&bytes).map_or_else(|_| "none".to_owned(), |format| format.to_string());
        let counts = formats.entry(format).or_default();
        let expected = folder.join(format!("{name}.expected.png"));
        match difference(&name, &bytes, &expected) {
            Ok(Difference { largest, mean }) if largest <= 32 && mean <= 1.0 => counts[0] += 1,
            Ok(Difference { largest, mean }) => {
                counts[1] += 1;
                println!("other pixels: {name}: largest {largest}, mean {mean:.2}");
            }
            Err(failure) => {
                counts[2] += 1;
                println!("refused: {name}: {failure}");
            }
        }
    }
    println!("| format | as Pillow | other pixels | refused |\n|---|---|---|---|");
    for (format, [alike, other, refused]) in &formats {
        println!("| {format} | {alike} | {other} | {refused} |");
    }
    let alike: usize = formats.values().map(|counts| counts[0]).sum();
    println!("{alike} of {} as Pillow", files.len());
    assert!(alike * 100 >= files.len() * ALIKE, "fewer than {ALIKE} %");
}

#[test]
fn photographs_decoded_at_a_reduced_size_are_close() {
    let settings = Settings { max_pixels: 10_000_000, ignore_orientation: false };
    for name in ["photo-temple.jpg", "photo-flower.jpg"] {
        let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(name)).expect("a sample");
        for side in [64, 128, 200] {
            let frame = Frame { side, fit: Fit::Pad([255; 3]), filter: Filter::Bicubic };
            let row = |seen: Frame| {
                let pixels = decode(&bytes, &settings, &seen, &mut Vec::new(), &mut |_| Ok(())).expect("it is read");
                (pixels.0.width(), Fitter::new(frame).fit(&pixels.as_picture()))
            };
            let ((_, whole), (width, reduced)) = (row(Frame { side: u32::MAX, ..frame }), row(frame));
            let Difference { largest, mean } = Difference::of(&reduced, &whole);
            println!("| {name} at {side} from {width} | {largest} | {mean:.4} |");
            assert!(width >= 2 * side && largest <= 16 && mean <= 0.5, "{name} at {side}: {largest}, {mean}");
        }
    }
}
