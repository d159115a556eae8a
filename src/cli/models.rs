//! `tagmill models`.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use clap::{Args, Subcommand};

use super::{LogArgs, ModelSourceArgs};
use crate::model::hub;
use crate::pipeline::tag::device::Device;

/// What is shown below the commands.
const EXAMPLES: &str = "\
Examples:
  tagmill models pull SmilingWolf/wd-vit-tagger-v3
  tagmill models check --models models --device cuda";

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
    /// How to log.
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
    /// What the model is called here [default: the repository's last part].
    #[arg(long, env = "TAGMILL_NAME")]
    pub(crate) name: Option<hub::FolderName>,
    /// A branch, tag or commit.
    #[arg(long, default_value = "main", env = "TAGMILL_REVISION")]
    pub(crate) revision: hub::Revision,
    /// The ONNX file to take, as the repository names it [default: model.onnx, else the only one there is].
    #[arg(long, env = "TAGMILL_FILE")]
    pub(crate) file: Option<String>,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}
