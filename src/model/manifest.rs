//! `tagmill.toml` beside a model: what differs from the WD taggers. What the graph itself says (names, layout, size, batch)
//! need not be written; everything else has the WD taggers' value where it is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::model::frame::{Filter, Fit};
use crate::model::threshold::Thresholds;

/// The file's name.
pub const FILE: &str = "tagmill.toml";

/// A model's manifest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// Further names jobs may use.
    pub aliases: Vec<String>,
    /// What the model's files are called.
    pub files: Files,
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// What the columns of the output mean.
    pub labels: LabelRules,
    /// What counts as a tag, by category.
    pub thresholds: Thresholds,
    /// What it may be computed in: TensorRT heeds it; elsewhere the graph itself decides.
    pub precision: Precision,
}

/// What a model may be computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As it is written.
    #[default]
    Fp32,
    /// In half of the bits: for models that were seen to give the same tags so.
    Fp16,
}

impl Precision {
    /// The name it is known by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
        }
    }
}

/// What the model's files are called.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// The graph [default: `model.onnx`, else the only `.onnx` file].
    pub onnx: Option<String>,
    /// The labels [default: `selected_tags.csv`, else the only label file of another known name].
    pub labels: Option<String>,
}

/// What goes in.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    /// The input's name [default: the only one there is].
    pub name: Option<String>,
    /// The order of its dimensions [default: read from the graph].
    pub layout: Option<Layout>,
    /// Width and height in pixels [default: read from the graph].
    pub size: Option<u32>,
    /// Images a run takes, neither more nor fewer [default: read from the graph].
    pub batch: Option<usize>,
    /// The order of colours.
    pub channels: Channels,
    /// What each value of 0..=255 is multiplied with, before mean and std.
    pub scale: f32,
    /// What is then subtracted, in the order of `channels`.
    pub mean: [f32; 3],
    /// What is then divided by, in the order of `channels`.
    pub std: [f32; 3],
    /// How a picture that is no square becomes one.
    pub fit: Shape,
    /// The colour of padding, as red, green, blue.
    pub background: [u8; 3],
    /// How pictures are resized.
    pub filter: Filter,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            name: None,
            layout: None,
            size: None,
            batch: None,
            channels: Channels::Bgr,
            scale: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
            fit: Shape::Pad,
            background: [255; 3],
            filter: Filter::default(),
        }
    }
}

impl Input {
    /// How pictures are made to fit.
    #[must_use]
    pub const fn fit(&self) -> Fit {
        match self.fit {
            Shape::Pad => Fit::Pad(self.background),
            Shape::Stretch => Fit::Stretch,
        }
    }

    /// What a value of 0..=255 is multiplied by, and what is added then, in the order of `channels`.
    #[must_use]
    pub fn normalisation(&self) -> ([f32; 3], [f32; 3]) {
        let scale = self.std.map(|std| self.scale / std);
        (scale, std::array::from_fn(|channel| -self.mean[channel] / self.std[channel]))
    }
}

/// The order of an input's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, height, width, channels.
    Nhwc,
    /// Batch, channels, height, width.
    Nchw,
}

impl Layout {
    /// The name it is known by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nhwc => "nhwc",
            Self::Nchw => "nchw",
        }
    }
}

/// The order of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Blue, green, red.
    Bgr,
    /// Red, green, blue.
    Rgb,
}

/// How a picture that is no square becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Centred on a square of the background.
    Pad,
    /// Stretched.
    Stretch,
}

/// What comes out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// The output's name [default: the first output with a column per label].
    pub name: Option<String>,
    /// The output's number, from 0, instead of its name.
    pub index: Option<usize>,
    /// What makes probabilities of it.
    pub activation: Activation,
}

/// What makes probabilities of a model's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing: they are.
    #[default]
    None,
    /// The logistic function: they are logits.
    Sigmoid,
}

/// How the label file is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelRules {
    /// How it is written [default: told by the file's extension].
    pub format: Option<Format>,
    /// What the file's categories (numbers or names) are called, where that differs from 0 general, 1 artist, 3 copyright,
    /// 4 character, 5 meta, 9 rating.
    pub categories: BTreeMap<String, String>,
    /// What names of ratings start with, in files without categories.
    pub rating_prefix: Option<String>,
}

/// How a label file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Columns `name` and `category`, with a header.
    Csv,
    /// Names by index, with their categories, in one of the shapes taggers come with.
    Json,
    /// One name per line.
    Lines,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Where it is not one, saying where and why.
    pub fn parse(toml: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(toml).map_err(|error| on_one_line(toml, &error))?;
        let Input { scale, mean, std, size, batch, .. } = &manifest.input;
        if !std::iter::once(scale).chain(mean).chain(std).all(|value| value.is_finite()) {
            return Err("input: scale, mean and std must be finite".into());
        }
        if std.contains(&0.0) || *scale == 0.0 {
            return Err("input: scale and std must not be 0".into());
        }
        if *size == Some(0) || size.is_some_and(|size| size > MAX_SIZE) || *batch == Some(0) {
            return Err(format!("input: size must be from 1 to {MAX_SIZE}, batch at least 1"));
        }
        if manifest.output.name.is_some() && manifest.output.index.is_some() {
            return Err("output: name and index exclude each other".into());
        }
        Ok(manifest)
    }
}

/// What is wrong and where: the error's own text draws the place, on lines of their own.
fn on_one_line(toml: &str, error: &toml::de::Error) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let before = error.span().and_then(|span| toml.get(..span.start));
    let place = before.map(|before| before.matches('\n').count());
    let line = place.and_then(|place| toml.lines().nth(place));
    match (place, line) {
        (Some(place), Some(line)) => format!("line {}, `{}`: {message}", place + 1, line.trim()),
        _ => message,
    }
}

/// The largest side of an input.
pub const MAX_SIZE: u32 = 4096;

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            serde::de::Error::custom(format!("unknown filter `{name}`, expected bicubic, bilinear or lanczos"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_written_is_a_wd_tagger() {
        let manifest = Manifest::parse("").expect("a manifest");
        let Input { channels, scale, mean, std, .. } = manifest.input;
        assert_eq!((channels, scale, mean, std), (Channels::Bgr, 1.0, [0.0; 3], [1.0; 3]));
        assert_eq!(manifest.input.fit(), Fit::Pad([255; 3]));
        assert_eq!(manifest.output.activation, Activation::None);
    }

    #[test]
    fn the_line_that_is_wrong_is_shown() {
        let error = Manifest::parse("[input]\nsize = 448\n  fit = \"crop\"\n").expect_err("no such fit");
        assert!(error.starts_with("line 3, `fit = \"crop\"`: unknown variant `crop`, expected"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, named) in [
            ("[input]\nsise = 448", "sise"),
            ("[input]\nlayout = \"chw\"", "chw"),
            ("[input]\nfilter = \"area\"", "bicubic, bilinear or lanczos"),
            ("[input]\nstd = [0.5, 0.0, 0.5]", "std"),
            ("[input]\nscale = nan", "finite"),
            ("[input]\nsize = 100000", "4096"),
            ("[output]\nname = \"a\"\nindex = 1", "exclude"),
            ("[thresholds]\ngeneral = 1.5", "1.5"),
            ("aliases = 3", "aliases"),
            ("precision = \"int8\"", "fp16"),
        ] {
            let error = Manifest::parse(toml).expect_err(toml);
            assert!(error.contains(named) && error.lines().count() == 1, "{toml}: {error}");
        }
    }
}
