//! `tagmill models`.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::{LogArgs, ModelSourceArgs};
use crate::model::hub;
use crate::optimize::Precision;
use crate::pipeline::tag::device::Device;

/// What is shown below the commands.
const EXAMPLES: &str = "\
Examples:
  tagmill models pull SmilingWolf/wd-vit-tagger-v3
  tagmill models check --models models --device cuda
  tagmill models optimize wd-vit-tagger-v3 --images photos --device cuda";

/// `tagmill models`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ModelsCommand {
    /// Show them: names, labels, sizes and hashes.
    List(Box<ModelsArgs>),
    /// Load each and run it, as a worker would; exit code 1 if any is broken.
    Check(Box<ModelsCheckArgs>),
    /// Download a model from the Hugging Face hub. What is there already stays, and what was cut off goes on.
    ///
    /// Takes the ONNX file, its weights, label files (*.csv, *.json, *.txt) and tagmill.toml. The hub is where the variable
    /// HF_ENDPOINT says; HF_TOKEN lets in where a login is needed; with HF_HUB_OFFLINE=1 it only looks whether all is there.
    Pull(Box<ModelsPullArgs>),
    /// Make a faster model of one there is, in a folder of its own, if it gives the same tags for your images.
    ///
    /// Attention, normalizations and activations become one operator each, preprocessing goes into the first weights, and with
    /// fp16 everything is computed in half precision. Both models tag the images; the new one is kept if no score differs by
    /// more than --tolerance and the share of equal tags is at least --agreement. The report is kept beside it as
    /// optimized.json.
    Optimize(Box<ModelsOptimizeArgs>),
}

/// `tagmill models list`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Where models come from.
    #[command(flatten)]
    pub(crate) source: ModelSourceArgs,
    /// JSON instead of a table.
    #[arg(long, env = "TAGMILL_JSON")]
    pub(crate) json: bool,
    /// Format of the log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `tagmill models check`.
#[derive(Debug, Args)]
pub struct ModelsCheckArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) models: ModelsArgs,
    /// What to run them on: auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N.
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto, env = "TAGMILL_DEVICE")]
    pub(crate) device: Device,
    /// Images to run at once.
    #[arg(long, value_name = "N", value_parser = super::whole::<usize>, default_value_t = 8, env = "TAGMILL_BATCH_SIZE")]
    pub(crate) batch_size: usize,
}

/// `tagmill models pull`.
#[derive(Debug, Args)]
pub struct ModelsPullArgs {
    /// The repository, such as SmilingWolf/wd-vit-tagger-v3.
    #[arg(value_name = "OWNER/NAME")]
    pub(crate) repository: hub::Repository,
    /// The folder with the models.
    #[arg(long, value_name = "DIR", default_value = "models", env = "TAGMILL_MODELS")]
    pub(crate) models: String,
    /// Name of the model here [default: the repository's last part].
    #[arg(long = "as", value_name = "NAME", alias = "name", env = "TAGMILL_AS")]
    pub(crate) name: Option<hub::FolderName>,
    /// A branch, tag or commit.
    #[arg(long, default_value = "main", env = "TAGMILL_REVISION")]
    pub(crate) revision: hub::Revision,
    /// The ONNX file to take, as the repository names it [default: model.onnx, else the only one there is].
    #[arg(long, env = "TAGMILL_FILE")]
    pub(crate) file: Option<String>,
    /// Format of the log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `tagmill models optimize`.
#[derive(Debug, Args)]
pub struct ModelsOptimizeArgs {
    /// The model's folder name.
    pub(crate) model: hub::FolderName,
    /// The folder with the models.
    #[arg(long, value_name = "DIR", default_value = "models", env = "TAGMILL_MODELS")]
    pub(crate) models: String,
    /// Images to compare with: files, folders, s3://bucket or s3://bucket/prefix, of the kind that is tagged at work; the first
    /// 256 are used. Repeatable.
    #[arg(long, value_name = "PATH|LOCATION", required = true, num_args = 1.., env = "TAGMILL_IMAGES")]
    pub(crate) images: Vec<OsString>,
    /// Precision of the new model. fp16 is for GPUs; int8 is for CPUs with VNNI, and costs tags.
    #[arg(long, value_enum, default_value = "fp16", env = "TAGMILL_PRECISION")]
    pub(crate) precision: Precision,
    /// Device to compare on: auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N. The CPU computes fp16 in single precision: it shows
    /// what rounded weights do, and only the device shows all.
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto, env = "TAGMILL_DEVICE")]
    pub(crate) device: Device,
    /// Name of the new model [default: the model's with the precision after it].
    #[arg(long = "as", value_name = "NAME", alias = "name", env = "TAGMILL_AS")]
    pub(crate) name: Option<hub::FolderName>,
    /// Largest difference of a score [default: 0.02; for int8 0.2].
    #[arg(long, value_name = "SCORE", env = "TAGMILL_TOLERANCE")]
    pub(crate) tolerance: Option<f32>,
    /// Smallest share of equal tags [default: 0.98; for int8 0.9].
    #[arg(long, value_name = "SHARE", env = "TAGMILL_AGREEMENT")]
    pub(crate) agreement: Option<f32>,
    /// Images to run at once.
    #[arg(long, value_name = "N", value_parser = super::whole::<usize>, default_value_t = 8, env = "TAGMILL_BATCH_SIZE")]
    pub(crate) batch_size: usize,
    /// JSON instead of a table.
    #[arg(long, env = "TAGMILL_JSON")]
    pub(crate) json: bool,
    /// Format of the log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}
