//! Loads a model on a blocking thread within a time limit: a large model takes a while, and a hung device never returns.

use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

use crate::model::ModelFiles;
use crate::pipeline::stage::panic_message;
use crate::pipeline::tag::Loaded;
use crate::pipeline::tag::onnx::{CannotLoad, Settings};

/// Function that loads a model. Blocks the thread.
pub(super) type Load = fn(&ModelFiles, &Settings) -> Result<Loaded, CannotLoad>;

/// Checks that a model's labels can be read.
///
/// # Errors
/// If they can't.
pub(super) async fn check(files: &ModelFiles) -> Result<(), CannotLoad> {
    let own = files.clone();
    let read = tokio::task::spawn_blocking(move || own.labels().map(drop)).await;
    read.unwrap_or_else(|error| Err(files.unusable(error))).map_err(Into::into)
}

/// Loads a model within the time limits of its devices. A hung load keeps its thread, so that the process must end.
///
/// # Errors
/// If it can't be loaded; `Hung` after the time limit.
pub(super) async fn load(load: Load, files: &ModelFiles, settings: &Settings) -> Result<Loaded, CannotLoad> {
    let (own, with) = (files.clone(), settings.clone());
    let loading = tokio::task::spawn_blocking(move || {
        let loaded = load(&own, &with)?;
        if own.are_unchanged() {
            return Ok(loaded);
        }
        Err(own.unusable("its files changed while it was loaded; look again (SIGHUP)").into())
    });
    let gpus = settings.devices.iter().any(|device| device.load_timeout().is_some());
    // Devices are opened one after the other.
    let timeout = settings.devices.iter().filter_map(|device| device.load_timeout()).sum();
    let Some(ended) = within(gpus.then_some(timeout), loading).await else {
        return Err(hung(files, settings, timeout));
    };
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => Err(files.unusable(format_args!("loading it panicked: {}", panic_message(&*panic))).into()),
        Err(cancelled) => Err(files.unusable(cancelled).into()),
    })
}

/// Waits for a load up to the time limit, and then for a little longer: a process that was suspended finds the time over,
/// but a healthy load completes in a moment.
async fn within<T>(timeout: Option<Duration>, mut loading: JoinHandle<T>) -> Option<Result<T, JoinError>> {
    let Some(timeout) = timeout else { return Some(loading.await) };
    match tokio::time::timeout(timeout, &mut loading).await {
        Ok(ended) => Some(ended),
        Err(_) => tokio::time::timeout(timeout / 10, loading).await.ok(),
    }
}

fn hung(files: &ModelFiles, settings: &Settings, waited: Duration) -> CannotLoad {
    let devices: Vec<String> = settings.devices.iter().map(ToString::to_string).collect();
    CannotLoad::Hung { model: files.name.clone(), devices: devices.join(","), waited }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::failure::Code;
    use crate::pipeline::pool::{ModelPool, tests};
    use crate::pipeline::stage::Ended;
    use crate::pipeline::tag::device::Device;

    /// Stands for a driver that never answers.
    fn forever(_: &ModelFiles, _: &Settings) -> Result<Loaded, CannotLoad> {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn a_device_that_hangs_while_a_model_is_loaded_ends_the_pipeline() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let (mut settings, catalog) = tests::demo();
            settings.onnx.devices = vec![Device::Cuda(0)];
            let (finished, _finished) = tokio::sync::mpsc::channel(1);
            let (pool, reasons) = ModelPool::with_loader(forever, settings, catalog, "demo", finished);
            let broken = tokio::spawn(Arc::clone(&pool).run(reasons));
            let loading = tokio::spawn(async move { pool.load(&"demo".into(), || Ok(())).await.map(drop) });
            let timeout = Device::Cuda(0).load_timeout().expect("a GPU may hang");
            while !broken.is_finished() {
                tokio::task::yield_now().await;
                tokio::time::advance(timeout).await;
            }
            let failure = loading.await.expect("no panic").expect_err("it hangs");
            assert_eq!(failure.code, Code::ShuttingDown, "the job is the next worker's");
            let Err(Ended::Broken(reason)) = broken.await.expect("no panic") else { panic!("it goes on") };
            assert!(reason.contains("demo") && reason.contains("cuda:0") && reason.contains("10m"), "{reason}");
        });
        // Does not wait for the hung thread.
        runtime.shutdown_background();
    }
}
