//! From rows of RGB bytes to the numbers a model takes, and from what it gives to probabilities.

use crate::model::manifest::{Activation, Channels, Input, Layout};
use crate::pipeline::decode::fit::CHANNELS;

/// Writes rows as a model's input.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// What a value is multiplied by, and what is added then, by the model's channel.
    pub(super) scale: [f32; CHANNELS],
    pub(super) shift: [f32; CHANNELS],
    pub(super) channels: Channels,
    layout: Layout,
    side: usize,
}

impl Encoder {
    /// For an input of this layout and side.
    #[must_use]
    pub fn new(input: &Input, layout: Layout, side: u32) -> Self {
        let scale = input.std.map(|std| input.scale / std);
        let shift = std::array::from_fn(|channel| -input.mean[channel] / input.std[channel]);
        Self { scale, shift, channels: input.channels, layout, side: side as usize }
    }

    /// Replaces `tensor` by these rows, filled up with zeros to `batch` images; the tensor's shape.
    pub fn encode(&self, rows: &[&[u8]], batch: usize, tensor: &mut Vec<f32>) -> [usize; 4] {
        let image = self.side * self.side * CHANNELS;
        // What is there already is written over, not cleared first.
        tensor.resize(batch * image, 0.0);
        let (images, blanks) = tensor.split_at_mut(rows.len() * image);
        for (row, image) in rows.iter().zip(images.chunks_exact_mut(image)) {
            match (self.layout, self.channels) {
                (Layout::Nhwc, Channels::Bgr) => self.interleaved::<2, 1, 0>(row, image),
                (Layout::Nhwc, Channels::Rgb) => self.interleaved::<0, 1, 2>(row, image),
                (Layout::Nchw, Channels::Bgr) => self.planes([2, 1, 0], row, image),
                (Layout::Nchw, Channels::Rgb) => self.planes([0, 1, 2], row, image),
            }
        }
        blanks.fill(0.0);
        match self.layout {
            Layout::Nhwc => [batch, self.side, self.side, CHANNELS],
            Layout::Nchw => [batch, CHANNELS, self.side, self.side],
        }
    }

    /// The model's channels are these bytes of a pixel. They are constants, so that the loop is unrolled for them.
    fn interleaved<const FIRST: usize, const SECOND: usize, const THIRD: usize>(&self, row: &[u8], image: &mut [f32]) {
        let (scale, shift) = (self.scale, self.shift);
        for (rgb, pixel) in row.chunks_exact(CHANNELS).zip(image.chunks_exact_mut(CHANNELS)) {
            pixel[0] = f32::from(rgb[FIRST]) * scale[0] + shift[0];
            pixel[1] = f32::from(rgb[SECOND]) * scale[1] + shift[1];
            pixel[2] = f32::from(rgb[THIRD]) * scale[2] + shift[2];
        }
    }

    fn planes(&self, order: [usize; CHANNELS], row: &[u8], image: &mut [f32]) {
        let planes = image.chunks_exact_mut(self.side * self.side);
        for (((plane, byte), scale), shift) in planes.zip(order).zip(self.scale).zip(self.shift) {
            for (rgb, value) in row.chunks_exact(CHANNELS).zip(plane) {
                *value = f32::from(rgb[byte]) * scale + shift;
            }
        }
    }
}

impl Activation {
    /// The model's output as probabilities.
    pub fn apply(self, scores: &mut [f32]) {
        if self == Self::Sigmoid {
            for score in scores {
                *score = 1.0 / (1.0 + (-*score).exp());
            }
        }
    }
}

/// What is odd about an image's scores, if anything: what a wrong activation in the manifest looks like.
#[must_use]
pub fn oddity(scores: &[f32]) -> Option<&'static str> {
    // The logistic function of a number from 0 to 1.
    let twice = 0.499..=0.732;
    if scores.iter().any(|score| !(-0.001..=1.001).contains(score)) {
        return Some(
            "its scores are not between 0 and 1, as if they were logits: should its tagmill.toml say activation = \"sigmoid\"?",
        );
    }
    if scores.len() > 1 && scores.iter().all(|score| twice.contains(score)) {
        return Some(
            "all its scores are between 0.50 and 0.73, as if the logistic function ran twice: should its tagmill.toml say activation = \"none\"?",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Manifest;

    fn encoded(input: &str, layout: Layout) -> (Vec<f32>, [usize; 4]) {
        let manifest = Manifest::parse(&format!("[input]\n{input}")).expect("a manifest");
        let mut tensor = vec![9.0; 3];
        let rows: [&[u8]; 1] = [&[10, 20, 30, 0, 0, 255, 1, 2, 3, 4, 5, 6]];
        let shape = Encoder::new(&manifest.input, layout, 2).encode(&rows, 1, &mut tensor);
        (tensor, shape)
    }

    #[test]
    fn a_wd_tagger_takes_bgr_as_it_is() {
        let (tensor, shape) = encoded("", Layout::Nhwc);
        assert_eq!(shape, [1, 2, 2, 3]);
        assert_eq!(tensor, [30.0, 20.0, 10.0, 255.0, 0.0, 0.0, 3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
    }

    #[test]
    fn others_take_planes_of_normalised_rgb() {
        let input = "channels = \"rgb\"\nscale = 0.00392156862745098\nmean = [0.5, 0.0, 0.0]\nstd = [0.5, 1.0, 0.25]";
        let (tensor, shape) = encoded(input, Layout::Nchw);
        assert_eq!(shape, [1, 3, 2, 2]);
        let expected = [
            [10.0, 0.0, 1.0, 4.0].map(|red: f32| (red / 255.0 - 0.5) / 0.5),
            [20.0, 0.0, 2.0, 5.0].map(|green: f32| green / 255.0),
            [30.0, 255.0, 3.0, 6.0].map(|blue: f32| blue / 255.0 / 0.25),
        ];
        for (number, expected) in tensor.iter().zip(expected.concat()) {
            assert!((number - expected).abs() < 1e-5, "{tensor:?}");
        }
    }

    #[test]
    fn a_fixed_batch_is_filled_up() {
        let encoder = Encoder::new(&Manifest::default().input, Layout::Nhwc, 1);
        let mut tensor = Vec::new();
        assert_eq!(encoder.encode(&[&[1, 2, 3]], 2, &mut tensor), [2, 1, 1, 3]);
        assert_eq!(tensor, [3.0, 2.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_wrong_activation_shows() {
        assert!(oddity(&[0.0, 1.0, 0.3]).is_none());
        assert!(oddity(&[-4.0, 0.3]).is_some_and(|odd| odd.contains("\"sigmoid\"")));
        assert!(oddity(&[f32::NAN]).is_some());
        let mut twice = [0.0, 0.2, 1.0];
        Activation::Sigmoid.apply(&mut twice);
        assert!(oddity(&twice).is_some_and(|odd| odd.contains("\"none\"")));
    }
}
