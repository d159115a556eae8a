//! Decoders alone: images in memory become rows, on a number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::spread::Spread;
use crate::model::frame::Frame;
use crate::pipeline::decode::decoder::Decoder;
use crate::pipeline::decode::picture;

/// Measurement of decoding.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// Number of decoding threads.
    pub(super) threads: usize,
    /// Images a second.
    pub(super) rate: f64,
    /// Time per image.
    pub(super) seconds: Spread,
}

/// Decodes the images again and again, for so long.
pub(super) fn measure(
    images: &[Bytes],
    settings: &picture::Settings,
    frame: Frame,
    threads: usize,
    time: Duration,
) -> Measured {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let thread = || {
        let (mut decoder, mut each) = (Decoder::new(settings.clone(), frame), Vec::new());
        while began.elapsed() < time || each.is_empty() {
            let image = &images[next.fetch_add(1, Ordering::Relaxed) % images.len()];
            let began = Instant::now();
            // Failures count as well, with their time.
            let _ = decoder.row(image, &mut |_| Ok(()));
            each.push(began.elapsed());
        }
        each
    };
    let each: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    #[expect(clippy::cast_precision_loss, reason = "a few thousand images")]
    let rate = each.len() as f64 / began.elapsed().as_secs_f64();
    Measured { threads, rate, seconds: Spread::of(each) }
}
