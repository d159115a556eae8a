use proptest::prelude::*;

use super::*;

fn fit(width: u32, height: u32, rgb: &[u8], side: u32) -> Box<[u8]> {
    fit_with(Filter::Bicubic, width, height, rgb, side)
}

fn fit_with(filter: Filter, width: u32, height: u32, rgb: &[u8], side: u32) -> Box<[u8]> {
    let frame = Frame { side, fit: Fit::Pad([255; 3]), filter };
    Fitter::new(frame).fit(&Picture::new(width, height, rgb).expect("a picture"))
}

/// Pads first, then fits the square.
fn padded(filter: Filter, width: u32, height: u32, picture: &[u8], side: u32) -> Box<[u8]> {
    let square = width.max(height);
    let mut rgb = vec![255; (square * square) as usize * CHANNELS];
    let (left, top) = ((square - width) / 2, (square - height) / 2);
    for (y, line) in picture.chunks_exact(width as usize * CHANNELS).enumerate() {
        let at = ((top as usize + y) * square as usize + left as usize) * CHANNELS;
        rgb[at..at + line.len()].copy_from_slice(line);
    }
    fit_with(filter, square, square, &rgb, side)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

proptest! {
    /// The short cut around the padded square changes only the rounding of fixed-point weights.
    #[test]
    fn equals_resizing_the_padded_square(width in 1u32..90, height in 1u32..90, side in 1u32..60, seed: u64) {
        let rgb = noise((width * height) as usize * CHANNELS, seed);
        for filter in [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos] {
            let fitted = fit_with(filter, width, height, &rgb, side);
            let reference = padded(filter, width, height, &rgb, side);
            let worst = fitted.iter().zip(&reference).map(|(a, b)| a.abs_diff(*b)).max();
            prop_assert!(worst <= Some(2), "{filter:?}: {worst:?}");
        }
    }
}

#[test]
fn a_picture_of_the_models_size_is_left_alone() {
    let rgb = noise(32 * 32 * CHANNELS, 1);
    assert_eq!(&*fit(32, 32, &rgb, 32), rgb.as_slice());
}

#[test]
fn a_stretched_picture_fills_the_frame() {
    let frame = Frame { side: 8, fit: Fit::Stretch, filter: Filter::Bilinear };
    let rgb = [7; 30 * 5 * CHANNELS];
    let fitted = Fitter::new(frame).fit(&Picture::new(30, 5, &rgb).expect("a picture"));
    assert_eq!(&*fitted, &[7; 8 * 8 * CHANNELS]);
}

proptest! {
    /// The reserved memory is enough for the allocations of fitting.
    #[test]
    fn takes_the_memory_it_says(width in 1u32..3000, height in 1u32..3000, side in 1u32..600, pad: bool) {
        let fit = if pad { Fit::Pad([255; 3]) } else { Fit::Stretch };
        let frame = Frame { side, fit, filter: Filter::Lanczos };
        let (across, down) = axes(&frame, width, height);
        let columns = u64::from(across.count()) * u64::from(down.before + height + down.after) * CHANNELS as u64;
        prop_assert!(columns <= frame.work_bytes(width, height), "{columns}");
    }
}

#[test]
fn what_is_kept_between_pictures_is_bounded() {
    let frame = Frame { side: 448, fit: Fit::Stretch, filter: Filter::Bicubic };
    let mut fitter = Fitter::new(frame);
    fitter.fit(&Picture::new(1, 65_535, &vec![7; 65_535 * CHANNELS]).expect("a picture"));
    assert!(fitter.columns.capacity() <= KEPT);
}

#[test]
fn extreme_shapes_fit() {
    for (width, height) in [(1, 1), (1, 5000), (5000, 1), (2, 3)] {
        let rgb = vec![7; (width * height) as usize * CHANNELS];
        assert_eq!(fit(width, height, &rgb, 48).len(), 48 * 48 * CHANNELS);
    }
}
