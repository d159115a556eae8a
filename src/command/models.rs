//! `tagmill models`: looks after the folder of models.

mod agreement;
mod optimize;
mod pull;
mod report;
mod table;

use std::io::Write;
use std::num::NonZero;

use anyhow::Context;

use super::Failed;
use crate::cli::models::{ModelsArgs, ModelsCheckArgs, ModelsCommand};
use crate::model::threshold::Thresholds;
use crate::pipeline::tag::onnx;
use crate::settings;
use crate::terminal::{self, Lines};
use report::report;

pub(super) async fn run(command: ModelsCommand) -> Result<(), Failed> {
    match command {
        ModelsCommand::List(args) => look(*args, None).await,
        ModelsCommand::Check(args) => {
            let ModelsCheckArgs { models, device, batch_size } = *args;
            let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
            let batch = settings::at_least_one("batch-size", batch_size)?;
            let engines = settings::engines(models.source.models_cache.as_deref());
            look(
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
        ModelsCommand::Optimize(args) => optimize::run(*args).await,
    }
}

/// Reports on every model; with settings to load them, also on what they do.
async fn look(args: ModelsArgs, onnx: Option<onnx::Settings>) -> Result<(), Failed> {
    let strict = onnx.is_some();
    let repository = settings::models(&args.source.models, args.source.models_cache.as_deref())?;
    let catalog = repository.catalog(&args.source.aliases).await?;
    let reporting = tokio::task::spawn_blocking(move || {
        let models = catalog.models();
        models.map(|(name, model)| report(&catalog, name, model, onnx.as_ref())).collect::<Result<Vec<_>, _>>()
    });
    let reports = reporting.await.map_err(Failed::running)?.map_err(Failed::running)?;
    let written = if args.json {
        writeln!(terminal::exact(), "{}", serde_json::to_string_pretty(&reports).map_err(Failed::running)?)
    } else {
        let mut out = Lines::open();
        table::of(&reports).iter().try_for_each(|line| out.line(line))
    };
    written.context("standard output can't be written").map_err(Failed::Running)?;
    let broken: Vec<&str> = reports.iter().filter(|report| !report.ok).map(|report| report.name.as_str()).collect();
    if strict && !broken.is_empty() {
        return Err(Failed::running(anyhow::anyhow!("broken: {}", broken.join(", "))));
    }
    Ok(())
}
