//! `tagmill.toml` beside a model: its differences from the WD taggers. Properties of the graph (names, layout, size, batch)
//! need not be written; everything else defaults to the WD taggers' value.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::model::frame::{Filter, Fit};
use crate::model::threshold::Thresholds;

/// Name of the file.
pub const FILE: &str = "tagmill.toml";

/// Manifest of a model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// Aliases for use in jobs.
    pub aliases: Vec<String>,
    /// Names of the model's files.
    pub files: Files,
    /// The model's input.
    pub input: Input,
    /// The model's output.
    pub output: Output,
    /// Meaning of the output's columns.
    pub labels: LabelRules,
    /// Thresholds of tags by category.
    pub thresholds: Thresholds,
    /// Precision of computation. TensorRT heeds it; elsewhere the graph itself decides.
    pub precision: Precision,
    /// SHA-256 of the ONNX file that this one was made of.
    pub optimized_from: Option<String>,
}

/// What a model may be computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Precision of the graph.
    #[default]
    Fp32,
    /// Half precision, for models shown to give the same tags with it.
    Fp16,
}

impl Precision {
    /// Name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
        }
    }
}

/// Names of the model's files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// Graph [default: `model.onnx`, else the only `.onnx` file].
    pub onnx: Option<String>,
    /// Label file [default: `selected_tags.csv`, else the only label file of another known name].
    pub labels: Option<String>,
}

/// Input of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    /// Name of the input [default: the only one].
    pub name: Option<String>,
    /// Order of its dimensions [default: read from the graph].
    pub layout: Option<Layout>,
    /// Width and height in pixels [default: read from the graph].
    pub size: Option<u32>,
    /// Exact number of images per run [default: read from the graph].
    pub batch: Option<usize>,
    /// Order of colours.
    pub channels: Channels,
    /// Factor for each value of 0..=255, before mean and std.
    pub scale: f32,
    /// Values then subtracted, in the order of `channels`.
    pub mean: [f32; 3],
    /// Values then divided by, in the order of `channels`.
    pub std: [f32; 3],
    /// Conversion of a picture to a square.
    pub fit: Shape,
    /// Colour of padding, as red, green, blue.
    pub background: [u8; 3],
    /// Filter for resizing pictures.
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
    /// Conversion of pictures to a square.
    #[must_use]
    pub const fn fit(&self) -> Fit {
        match self.fit {
            Shape::Pad => Fit::Pad(self.background),
            Shape::Stretch => Fit::Stretch,
        }
    }

    /// Factors for values of 0..=255 and the summands added then, in the order of `channels`.
    #[must_use]
    pub fn normalisation(&self) -> ([f32; 3], [f32; 3]) {
        let scale = self.std.map(|std| self.scale / std);
        (scale, std::array::from_fn(|channel| -self.mean[channel] / self.std[channel]))
    }
}

/// Order of an input's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, height, width, channels.
    Nhwc,
    /// Batch, channels, height, width.
    Nchw,
}

impl Layout {
    /// Name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nhwc => "nhwc",
            Self::Nchw => "nchw",
        }
    }
}

/// Order of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Blue, green, red.
    Bgr,
    /// Red, green, blue.
    Rgb,
}

/// Conversion of a picture to a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Centres it on a square of the background.
    Pad,
    /// Stretches it to the square.
    Stretch,
}

/// Output of a model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Name of the output [default: the first output with a column per label].
    pub name: Option<String>,
    /// Number of the output, from 0, instead of its name.
    pub index: Option<usize>,
    /// Function that turns the output into probabilities.
    pub activation: Activation,
}

/// Function that turns a model's output into probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing: the outputs are probabilities.
    #[default]
    None,
    /// The logistic function: the outputs are logits.
    Sigmoid,
}

/// Rules for reading the label file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelRules {
    /// Format [default: from the file's extension].
    pub format: Option<Format>,
    /// Names of the file's categories (numbers or names), where they differ from 0 general, 1 artist, 3 copyright, 4
    /// character, 5 meta, 9 rating.
    pub categories: BTreeMap<String, String>,
    /// Prefix that marks names as ratings, in files without categories.
    pub rating_prefix: Option<String>,
}

/// Format of a label file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Columns `name` and `category`, with a header.
    Csv,
    /// Names by index, with their categories, in one of the shapes in use.
    Json,
    /// One name per line.
    Lines,
}

impl Manifest {
    /// The text of a manifest for a model that was made of this one's: without the other names, which stay the other's.
    ///
    /// # Errors
    /// If the text is not a manifest.
    pub(crate) fn derived(toml: &str, is_half: bool, optimized_from: &str) -> Result<String, String> {
        let mut table: toml::Table = toml::from_str(toml).map_err(|error| on_one_line(toml, &error))?;
        table.remove("aliases");
        if is_half {
            table.insert("precision".into(), Precision::Fp16.as_str().into());
        }
        table.insert("optimized_from".into(), optimized_from.into());
        toml::to_string(&table).map_err(|error| error.to_string())
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// If it is invalid, with the line and the cause.
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

/// Formats an error on one line. Its own text marks the position on lines of their own.
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

/// Maximum side of an input in pixels.
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
    fn a_derived_manifest_differs_in_what_it_says_of_itself() {
        let toml = "aliases = [\n  \"short\",\n]\nprecision = \"fp32\"\n[input]\nsize = 224 # pixels\n";
        let derived = Manifest::derived(toml, true, "abc").expect("a manifest");
        let manifest = Manifest::parse(&derived).expect("a manifest");
        assert_eq!((manifest.aliases, manifest.input.size), (vec![], Some(224)));
        assert_eq!((manifest.precision, manifest.optimized_from.as_deref()), (Precision::Fp16, Some("abc")));
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
