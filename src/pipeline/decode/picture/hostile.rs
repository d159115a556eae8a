//! Files made to hurt: cut short, mutated, lying about their size, or small and meant to unpack to gigabytes. Each must be
//! a picture or one of the two refusals, without a panic, in good time and little memory.
//!
//! Mutations are seeded. `TAGMILL_TEST_MUTATIONS` is how many are made of every file of `tests/parity/pixels` (default
//! 1000, about ten seconds in all). A failure names the file and the number of the mutation; of a decoder that panics the
//! trace is seen with `--nocapture`.

use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::parity::{cases, is_left_out};
use super::*;
use crate::model::frame::{Filter, Fit};

const SETTINGS: Settings = Settings { max_pixels: 1_000_000, ignore_orientation: false };

/// A frame that shows more detail than any input has, and one for which JPEG is decoded at a reduced size.
const FRAMES: [Frame; 2] = [frame(1000), frame(10)];

const fn frame(side: u32) -> Frame {
    Frame { side, fit: Fit::Pad([255; 3]), filter: Filter::Bicubic }
}

/// What no file of these sizes may take, in a debug build on a busy machine.
const GOOD_TIME: Duration = Duration::from_secs(5);

/// The inputs whose format this build reads.
fn inputs() -> impl Iterator<Item = (String, Vec<u8>)> {
    cases().into_iter().filter(|(_, bytes)| !is_left_out(bytes))
}

fn input(name: &str) -> Vec<u8> {
    inputs().find(|(case, _)| case == name).unwrap_or_else(|| panic!("{name} is an input")).1
}

/// A picture, or why it is refused.
fn outcome(name: &str, bytes: &[u8]) -> Result<Pixels, Failure> {
    let began = Instant::now();
    let outcome = decode(bytes, &SETTINGS, &FRAMES[0], &mut Vec::new(), &mut |_| Ok(()));
    if bytes.starts_with(b"\xff\xd8") {
        let reduced = decode(bytes, &SETTINGS, &FRAMES[1], &mut Vec::new(), &mut |_| Ok(()));
        assert_eq!(outcome.is_ok(), reduced.is_ok(), "{name}, at a reduced size");
    }
    assert!(began.elapsed() < GOOD_TIME, "{name} took {:?}", began.elapsed());
    if let Err(failure) = &outcome {
        assert!(matches!(failure.code, Code::ImageUndecodable | Code::ImageTooLarge), "{name}: {failure}");
    }
    outcome
}

fn refusal(name: &str, bytes: &[u8]) -> Failure {
    outcome(name, bytes).err().unwrap_or_else(|| panic!("{name} is read"))
}

#[test]
fn files_cut_short_are_refused_wherever_they_are_cut() {
    // One input of every kind of coding, and every cut of it.
    for (name, whole) in inputs().filter(|(_, bytes)| bytes.len() < 3500) {
        let pixels = decode(&whole, &SETTINGS, &FRAMES[0], &mut Vec::new(), &mut |_| Ok(()))
            .unwrap_or_else(|failure| panic!("{name}: {failure}"))
            .0;
        for cut in 0..whole.len() {
            // What follows the last pixel may be missing.
            if let Ok(decoded) = outcome(&name, &whole[..cut]) {
                assert!(decoded.0 == pixels, "{name} cut at {cut} of {} has other pixels", whole.len());
            }
        }
    }
}

#[test]
fn mutated_files_are_pictures_or_refusals() {
    let count = std::env::var("TAGMILL_TEST_MUTATIONS").map_or(1000, |count| count.parse().expect("a number"));
    let before = peak_memory();
    for (name, whole) in inputs() {
        for number in 0..count {
            let mutant = mutated(&whole, &mut StdRng::seed_from_u64(number));
            let _ = outcome(&format!("{name}, mutation {number}"), &mutant);
        }
    }
    assert_little_memory(before);
}

/// A few changes of the kinds that files suffer, and that attackers make.
fn mutated(whole: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..random.random_range(1..5) {
        // Half of the changes hit the first part, where headers are.
        let end = if random.random() { bytes.len() } else { bytes.len().min(200) };
        let at = random.random_range(0..end);
        let length = random.random_range(1..40).min(bytes.len() - at);
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes[at..at + length.min(4)].fill(0xff),
            3 => bytes[at..at + length.min(4)].fill(0),
            4 => bytes.truncate(at.max(8)),
            5 => bytes.extend_from_within(at..at + length),
            _ => drop(bytes.drain(at..at + length.min(bytes.len() - 8))),
        }
    }
    if bytes.starts_with(b"\x89PNG") && random.random_ratio(7, 8) {
        reseal(&mut bytes);
    }
    bytes
}

/// Makes the checksums of a PNG right again, so that what is wrong is met further in.
fn reseal(png: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = png.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(chunk) = png.get(at + 4..(at + 8).saturating_add(length)) else { return };
        let sum = crc(chunk).to_be_bytes();
        let Some(seal) = png.get_mut(at + 8 + length..at + 12 + length) else { return };
        seal.copy_from_slice(&sum);
        at += 12 + length;
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("a small chunk").to_be_bytes();
    let body = [&kind, data].concat();
    [&length[..], &body, &crc(&body).to_be_bytes()].concat()
}

fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let size = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(*b"IHDR", &size), chunks.concat(), chunk(*b"IEND", &[])].concat()
}

/// A megabyte that unpacks to a thousand times as much.
fn zeros() -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 1 << 30), &mut encoder).expect("into memory");
    encoder.finish().expect("into memory")
}

/// With the bytes `from` overwritten, where they first occur, by `to`, `skip` bytes later.
fn patched(name: &str, from: &[u8], skip: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = input(name);
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it occurs") + skip;
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// The most memory this process ever held. Other tests run in it, and none of them needs much.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("a number") << 10
}

fn assert_little_memory(before: u64) {
    let spent = peak_memory() - before;
    assert!(spent < 256 << 20, "{} MiB", spent >> 20);
}

#[test]
fn bombs_are_refused_before_they_unpack() {
    let zeros = zeros();
    let before = peak_memory();
    let profile = [b"p\0\0", &zeros[..]].concat();
    let text = [b"t\0\0", &zeros[..]].concat();
    let pixel = chunk(*b"IDAT", &[0x78, 1, 1, 4, 0, 0xfb, 0xff, 0, 1, 2, 3, 0, 0x0e, 0, 7]);
    for (name, bytes) in [
        ("pixels", png(10, 10, &[chunk(*b"IDAT", &zeros)])),
        ("profile", png(1, 1, &[chunk(*b"iCCP", &profile), pixel.clone()])),
        ("text", png(1, 1, &[chunk(*b"zTXt", &text), pixel.clone()])),
        ("XMP", png(1, 1, &[chunk(*b"iTXt", &[b"XML:com.adobe.xmp\0\x01\0\0\0", &zeros[..]].concat()), pixel])),
    ] {
        let _ = outcome(name, &bytes);
    }
    assert_little_memory(before);
}

#[test]
fn sizes_that_headers_claim_are_refused_before_they_are_allocated() {
    // From its header on alone: what is refused by size is refused though there are no pixels at all.
    let mut claims = vec![
        ("PNG", png(40_000, 40_000, &[chunk(*b"IDAT", &[])])[..45].to_vec()),
        ("JPEG", patched("jpeg-444.jpg", b"\xff\xc0\0\x11\x08", 5, &[0xff, 0xdc, 0xff, 0xdc])),
        ("progressive JPEG", patched("jpeg-progressive.jpg", b"\xff\xc2\0\x11\x08", 5, &[0xff, 0xdc, 0xff, 0xdc])),
        ("GIF", patched("gif.gif", b"GIF8", 6, &[0xff; 4])),
        ("BMP", patched("bmp-24.bmp", b"BM", 18, &[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0])),
        ("WebP", patched("animated-webp.webp", b"VP8X", 12, &[0xff, 0x3f, 0, 0xff, 0x3f, 0])),
        ("TIFF", patched("tiff-rgb.tiff", &[0, 1, 4, 0, 1, 0, 0, 0, 41], 8, &[0xff, 0xff])),
    ];
    if cfg!(feature = "jxl") {
        // Not a small size; 30 bits of height; as wide as high; all else as usual.
        claims.push(("JPEG XL", vec![0xff, 0x0a, 0xfe, 0xff, 0xff, 0xff, 0x33]));
    }
    if cfg!(feature = "avif") {
        claims.push(("AVIF", patched("avif-420.avif", b"ispe", 8, &[0, 0, 0x3f, 0xff, 0, 0, 0x3f, 0xff])));
    }
    if cfg!(feature = "heic") {
        claims.push(("HEIC", patched("heic-420.heic", b"ispe", 8, &[0, 0, 0x3f, 0xff, 0, 0, 0x3f, 0xff])));
    }
    let before = peak_memory();
    for (name, bytes) in claims {
        let failure = refusal(name, &bytes);
        assert_eq!(failure.code, Code::ImageTooLarge, "{name}: {failure}");
    }
    assert_little_memory(before);
}

#[test]
fn parts_that_claim_to_be_larger_than_their_picture_are_refused() {
    for (name, bytes) in [
        ("a GIF frame", patched("gif.gif", &[0x2c, 0, 0, 0, 0], 5, &[0xff; 4])),
        ("a TIFF tile", patched("tiff-tiled.tiff", &[0x42, 1], 8, &[0xf0, 0xff])),
        ("a TIFF strip", patched("tiff-rgb.tiff", &[0x17, 1], 8, &[0xff; 4])),
    ] {
        let _ = outcome(name, &bytes);
    }
}

#[test]
fn scans_without_end_are_refused() {
    let whole = input("jpeg-progressive.jpg");
    let last = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]).expect("a scan");
    let (head, scan) = whole[..whole.len() - 2].split_at(last);
    let bytes = [head, &scan.repeat(200)].concat();
    assert!(refusal("200 scans", &bytes).message.contains("scans"));
}

#[test]
fn a_jpeg_with_damage_in_its_middle_is_refused_and_not_tagged_on_grey() {
    for name in ["jpeg-420.jpg", "jpeg-444.jpg", "jpeg-grey.jpg", "jpeg-restarts.jpg", "jpeg-progressive.jpg"] {
        let mut bytes = input(name);
        let middle = bytes.len() * 2 / 3;
        bytes[middle..middle + 64].fill(0);
        assert_eq!(refusal(name, &bytes).code, Code::ImageUndecodable);
        let missing = [&bytes[..middle], &bytes[bytes.len() - 2..]].concat();
        assert_eq!(refusal(name, &missing).code, Code::ImageUndecodable);
    }
}

#[test]
fn a_jpeg_without_its_end_is_refused_where_a_scan_is_missing() {
    let whole = input("jpeg-progressive.jpg");
    let last = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]).expect("a scan");
    let tables = whole[..last].windows(2).rposition(|pair| pair == [0xff, 0xc4]).expect("its tables");
    for cut in [tables, last] {
        assert!(refusal("a scan less", &whole[..cut]).message.contains("ends before"));
    }
}

#[test]
fn a_jpeg_that_is_complete_too_early_is_refused() {
    let mut bytes = input("jpeg-444.jpg");
    let end = bytes.len() - 2;
    // As many as a decoder leaves that lost its place.
    bytes.splice(end..end, [0x5a; 60]);
    assert!(refusal("60 bytes more", &bytes).message.contains("bytes of them are left"));
    let mut bytes = input("jpeg-restarts.jpg");
    let restart = bytes.windows(2).position(|pair| pair == [0xff, 0xd0]).expect("a restart marker");
    bytes.splice(restart..restart, [0x5a, 0x5a]);
    assert!(refusal("bytes inside the scan", &bytes).message.contains("extraneous"));
}

#[test]
fn kinds_of_tiff_that_are_not_read_are_named() {
    let field = |tag: u16, value: u16| {
        let mut bytes = input("kind-tiff-no-rows.tiff");
        let entry = [tag.to_le_bytes(), 3_u16.to_le_bytes()].concat();
        let at = bytes.windows(4).rposition(|window| window == entry).expect("the field") + 8;
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        refusal("a TIFF", &bytes).message
    };
    for (tag, value, name) in [
        (259, 3, "fax group 3"),
        (259, 6, "old-style JPEG"),
        (259, 34925, "LZMA"),
        (259, 50000, "zstd"),
        (262, 9, "ICC Lab"),
        (262, 32803, "camera's raw"),
        (262, 6, "YCbCr"),
    ] {
        assert!(field(tag, value).contains(name), "{name}: {}", field(tag, value));
    }
}

#[test]
fn a_raw_file_is_not_tagged_on_its_thumbnail() {
    let mut bytes = input("kind-tiff-no-rows.tiff");
    // Another of its fields is made the version of DNG.
    let samples = [277_u16.to_le_bytes(), 3_u16.to_le_bytes()].concat();
    let at = bytes.windows(4).rposition(|window| window == samples).expect("the field");
    bytes[at..at + 2].copy_from_slice(&50706_u16.to_le_bytes());
    assert!(refusal("a DNG", &bytes).message.contains("raw file (DNG)"));
}

#[test]
fn a_page_with_the_name_of_a_picture_is_no_picture() {
    for bytes in
        [&b"<!doctype html><html>"[..], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", b"\x89PNG\r\n\x1a\n"]
    {
        assert_eq!(refusal("a page", bytes).code, Code::ImageUndecodable);
    }
}
