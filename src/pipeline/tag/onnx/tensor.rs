//! From rows of RGB bytes to the numbers a model takes, and from what it gives to probabilities.

use crate::model::frame::CHANNELS;
use crate::model::manifest::{Activation, Channels, Input, Layout};

/// Writes rows as a model's input.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// What each byte becomes, by the model's channel.
    tables: Box<[[f32; 256]; CHANNELS]>,
    /// Which byte of a pixel (red, green, blue) is the model's channel.
    order: [usize; CHANNELS],
    layout: Layout,
    side: usize,
}

impl Encoder {
    /// For an input of this layout and side.
    #[must_use]
    pub fn new(input: &Input, layout: Layout, side: u32) -> Self {
        let (scale, shift) = input.normalisation();
        let order = match input.channels {
            Channels::Rgb => [0, 1, 2],
            Channels::Bgr => [2, 1, 0],
        };
        let bytes = std::array::from_fn(|byte| f32::from(u8::try_from(byte).unwrap_or(u8::MAX)));
        let mut this = Self { tables: Box::new([bytes; CHANNELS]), order, layout, side: side as usize };
        this.map(|channel, value| value * scale[channel] + shift[channel]);
        this
    }

    /// Has this done to every value, of which the channel is known.
    fn map(&mut self, apply: impl Fn(usize, f32) -> f32) {
        for (channel, table) in self.tables.iter_mut().enumerate() {
            for value in table {
                *value = apply(channel, *value);
            }
        }
    }

    /// Replaces `tensor` by these rows, filled up with zeros to `batch` images; the tensor's shape.
    pub fn encode(&self, rows: &[&[u8]], batch: usize, tensor: &mut Vec<f32>) -> [usize; 4] {
        let image = self.side * self.side * CHANNELS;
        // What is there already is written over, not cleared first.
        tensor.resize(batch * image, 0.0);
        let (images, blanks) = tensor.split_at_mut(rows.len() * image);
        for (row, image) in rows.iter().zip(images.chunks_exact_mut(image)) {
            match self.layout {
                Layout::Nhwc => self.interleaved(row, image),
                Layout::Nchw => self.planes(row, image),
            }
        }
        blanks.fill(0.0);
        match self.layout {
            Layout::Nhwc => [batch, self.side, self.side, CHANNELS],
            Layout::Nchw => [batch, CHANNELS, self.side, self.side],
        }
    }

    fn interleaved(&self, row: &[u8], image: &mut [f32]) {
        let ([first, second, third], [a, b, c]) = (&*self.tables, self.order);
        let (rgb, pixels) = (row.as_chunks::<CHANNELS>().0, image.as_chunks_mut::<CHANNELS>().0);
        for (rgb, pixel) in rgb.iter().zip(pixels) {
            *pixel = [first[usize::from(rgb[a])], second[usize::from(rgb[b])], third[usize::from(rgb[c])]];
        }
    }

    fn planes(&self, row: &[u8], image: &mut [f32]) {
        let rgb = row.as_chunks::<CHANNELS>().0;
        for ((plane, byte), table) in image.chunks_exact_mut(self.side * self.side).zip(self.order).zip(&*self.tables) {
            for (rgb, value) in rgb.iter().zip(plane) {
                *value = table[usize::from(rgb[byte])];
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
pub fn suspicion(scores: &[f32]) -> Option<&'static str> {
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
        assert!(suspicion(&[0.0, 1.0, 0.3]).is_none());
        assert!(suspicion(&[-4.0, 0.3]).is_some_and(|odd| odd.contains("\"sigmoid\"")));
        assert!(suspicion(&[f32::NAN]).is_some());
        let mut twice = [0.0, 0.2, 1.0];
        Activation::Sigmoid.apply(&mut twice);
        assert!(suspicion(&twice).is_some_and(|odd| odd.contains("\"none\"")));
    }
}
