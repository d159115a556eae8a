//! `tagmill models`: looks after the folder of models.

mod pull;
mod report;
mod table;

use std::num::NonZero;

use super::Failed;
use crate::cli::models::{ModelsCheckArgs, ModelsCommand};
use crate::model::threshold::Thresholds;
use crate::pipeline::tag::onnx;
use crate::settings;

pub(super) async fn run(command: ModelsCommand) -> Result<(), Failed> {
    match command {
        ModelsCommand::List(args) => report::look(*args, None).await,
        ModelsCommand::Check(args) => {
            let ModelsCheckArgs { models, device, batch_size } = *args;
            let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
            let batch = settings::at_least_one("batch-size", batch_size)?;
            let engines = settings::engines(models.source.models_cache.as_deref());
            report::look(
                models,
                Some(onnx::Settings {
                    devices: vec![device],
                    threads,
                    batch,
                    thresholds: Thresholds::default(),
                    device_memory: None,
                    engines,
                }),
            )
            .await
        }
        ModelsCommand::Pull(args) => pull::run(*args).await,
    }
}
