//! **publish**: makes a result from a job's scores, or an error from its failure, and answers its source. Fails a job only
//! with a code from its source (`result_too_large`).

pub(crate) mod caption;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::concurrency::Estimator;
use super::context::JobContext;
use super::handoff::{Finished, Scored};
use super::stage::Ended;
use crate::delivery::{Answer, Delivery};
use crate::model::labels::Selected;
use crate::tags::{TagResult, Tags};
use crate::telemetry::labels::Outcome;
use crate::telemetry::metrics;

/// Settings of answers.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name of the worker.
    pub worker: Arc<str>,
    /// Format of tags.
    pub caption: caption::Settings,
}

/// Answers until `finished` closes and every answer has arrived.
///
/// # Errors
/// None of its own.
pub(crate) async fn run(
    settings: Settings,
    mut finished: Receiver<Finished>,
    estimator: Arc<Estimator>,
) -> Result<(), Ended> {
    let settings = Arc::new(settings);
    let mut answers = JoinSet::new();
    while let Some(finished) = finished.recv().await {
        let (settings, estimator) = (Arc::clone(&settings), Arc::clone(&estimator));
        // Answers wait for the broker's confirmation concurrently, bounded by the jobs in flight.
        answers.spawn(async move {
            let began = Instant::now();
            match finished {
                Finished::Tagged(scored) => {
                    let model = Arc::clone(&scored.model);
                    let span = scored.context.delivery.span();
                    let (delivery, result) = span.in_scope(|| result(*scored, &settings));
                    if delivery.answer(Answer::Tagged(Box::new(result))).await == Some(Outcome::Tagged) {
                        metrics::image_tagged(&model.id.name);
                    }
                }
                Finished::Failed(failed) => {
                    let (delivery, failure) = *failed;
                    delivery.answer(Answer::Failed(failure)).await;
                }
            }
            let took = began.elapsed();
            estimator.published(took);
            metrics::stage_seconds("publish", took);
        });
        while answers.try_join_next().is_some() {}
    }
    while answers.join_next().await.is_some() {}
    Ok(())
}

fn result(scored: Scored, settings: &Settings) -> (Delivery, TagResult) {
    let Scored { context, model, device, scores, batch } = scored;
    let JobContext { job, image, seconds, delivery } = context;
    let Selected { rating, mut tags } = model.labels.select(&scores, &job.thresholds.or(&model.thresholds));
    settings.caption.filter(&mut tags);
    let text = settings.caption.caption(&tags, &rating);
    let listed = job.scores_from.map(|least| model.labels.scores_from(&scores, least)).unwrap_or_default();
    let result = TagResult {
        id: delivery.id.clone(),
        image,
        model: model.id.clone(),
        tags: Tags { rating, tags, text },
        meta: job.meta,
        retry_of: None,
        worker: settings.worker.to_string(),
        device: device.to_string(),
        attempt: delivery.attempt(),
        batch,
        seconds,
        scores: listed,
    };
    (delivery, result)
}
