//! The routes that tag: one image, many images, one image with its scores.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderName;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::Http;
use super::MOST_IMAGES;
use super::ask::Question;
use super::body::{self, Asked, Form, Given, Item, Kind, ONE_IMAGE, Received, Room};
use super::error::Refused;
use super::trace::RequestId;
use crate::failure::{ErrorBody, Failure};
use crate::job::null_as_default;
use crate::json::AtMost;
use crate::model::threshold::Thresholds;
use crate::tags::{ModelId, Tag, TagResult, Tags};

/// Milliseconds from when the images were there to the last answer.
pub(super) const INFERENCE_TIME: HeaderName = HeaderName::from_static("x-inference-time");

/// The least score that is listed by itself.
const LEAST_SCORE: f32 = 0.01;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    image: Option<String>,
    image_url: Option<String>,
    model: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    thresholds: Thresholds,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Many {
    images: AtMost<Item, MOST_IMAGES>,
    model: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    thresholds: Thresholds,
}

/// What is said of one image.
#[derive(Serialize)]
struct TaggedOne {
    #[serde(flatten)]
    tags: Tags,
    caption: String,
    model: ModelId,
}

/// A slot of many: what is said of its image, or why nothing is.
#[derive(Serialize)]
#[serde(untagged)]
enum Slot {
    Tagged(Tags),
    Failed { text: &'static str, error: ErrorBody },
}

#[derive(Serialize)]
struct TaggedMany {
    captions: Vec<Slot>,
    count: usize,
    duration: f64,
    model: Option<ModelId>,
}

#[derive(Serialize)]
struct Classes {
    label: Option<String>,
    score: Option<f64>,
    #[serde(serialize_with = "by_label")]
    scores: Vec<Tag>,
    predictions: Vec<Prediction>,
    model: ModelId,
}

#[derive(Serialize)]
struct Prediction {
    label: String,
    score: f64,
    category: String,
}

/// `POST /v1/vision/caption`
pub(super) async fn caption(
    State(http): State<Http>,
    Extension(RequestId(id)): Extension<RequestId>,
    request: Request,
) -> Result<Response, Refused> {
    let (given, Asked { model, thresholds }, room) = http.one(request).await?;
    let began = Instant::now();
    let question = Question { id: id.clone(), request_id: id, model, thresholds, scores_from: None, room };
    let TagResult { tags, model, .. } = http.ask_one(given, question).await?;
    Ok(answer(began, TaggedOne { caption: tags.text.clone(), tags, model }))
}

/// `POST /v1/classify`
pub(super) async fn classify(
    State(http): State<Http>,
    Extension(RequestId(id)): Extension<RequestId>,
    request: Request,
) -> Result<Response, Refused> {
    let (given, Asked { model, thresholds }, room) = http.one(request).await?;
    if !thresholds.is_empty() {
        let message = "field `thresholds`: scores are listed whatever they are; /v1/vision/caption has thresholds";
        return Err(Refused::bad(message));
    }
    let began = Instant::now();
    let question = Question { id: id.clone(), request_id: id, model, thresholds, scores_from: Some(LEAST_SCORE), room };
    let TagResult { scores, model, .. } = http.ask_one(given, question).await?;
    let prediction =
        |tag: &Tag| Prediction { label: tag.name.clone(), score: tag.score, category: tag.category.clone() };
    let predictions: Vec<_> = scores.iter().map(prediction).collect();
    let (label, score) = scores.first().map(|tag| (tag.name.clone(), tag.score)).unzip();
    Ok(answer(began, Classes { label, score, scores, predictions, model }))
}

/// `POST /v1/vision/batch-caption`
pub(super) async fn batch_caption(
    State(http): State<Http>,
    Extension(RequestId(id)): Extension<RequestId>,
    request: Request,
) -> Result<Response, Refused> {
    let (images, Asked { model, thresholds }, room) = http.many(request).await?;
    let to_accept = http.to_accept()?;
    // Of a request with an unknown model nothing is answered by another.
    let own_name = http.0.pool.own_name(model.as_deref())?;
    let began = Instant::now();
    // A full server says so at once. Once in, a request goes on in as many places as there are, up to half of all: it may
    // have more images than that, and others come too.
    let mut first = Some(http.place()?);
    let count = images.len();
    let at_once = (http.0.in_flight_limit.size() / 2).max(1);
    let answers = stream::iter(images.into_iter().enumerate()).map(|(number, Item { given, thresholds: own })| {
        let (request_id, model, room) = (id.clone(), model.clone(), Arc::clone(&room));
        let (id, thresholds) = (format!("{id}.{number}"), own.or(&thresholds));
        let question = Question { id, request_id, model, thresholds, scores_from: None, room };
        let span = question.span(&own_name);
        let (first, http, to_accept) = (first.take(), http.clone(), to_accept.clone());
        async move {
            let place = match first {
                Some(place) => place,
                None => http.next_place().await?,
            };
            http.tag(&to_accept, place, given, question, span).await
        }
    });
    let answers: Vec<Result<TagResult, Failure>> = answers.buffered(at_once).collect().await;
    let model = answers.iter().flatten().map(|result| result.model.clone()).next();
    let captions = answers.into_iter().map(slot).collect();
    Ok(answer(began, TaggedMany { captions, count, duration: began.elapsed().as_secs_f64(), model }))
}

fn slot(answer: Result<TagResult, Failure>) -> Slot {
    match answer {
        Ok(result) => Slot::Tagged(result.tags),
        Err(failure) => Slot::Failed { text: "", error: (&failure).into() },
    }
}

fn answer(began: Instant, body: impl Serialize) -> Response {
    let milliseconds = began.elapsed().as_millis().to_string();
    ([(INFERENCE_TIME, milliseconds)], Json(body)).into_response()
}

impl Http {
    async fn ask_one(&self, given: Given, question: Question) -> Result<TagResult, Refused> {
        let to_accept = self.to_accept()?;
        // Before it takes a place.
        let own_name = self.0.pool.own_name(question.model.as_deref())?;
        let span = question.span(&own_name);
        let refused = |failure| Refused::of_job(failure, span.clone());
        let place = self.place().map_err(refused)?;
        self.tag(&to_accept, place, given, question, span.clone()).await.map_err(refused)
    }

    /// The one image a request is about, and what is asked of it.
    async fn one(&self, request: Request) -> Result<(Given, Asked, Room), Refused> {
        let (kind, Received { bytes, room }) = self.receive(request).await?;
        let (given, asked) = match kind {
            Kind::Json => {
                let One { image, image_url, model, thresholds } = body::json(bytes, Arc::clone(&room)).await?;
                let text = image.xor(image_url).ok_or_else(|| Refused::bad(ONE_IMAGE))?;
                (Given::Text(text), Asked { model, thresholds })
            }
            Kind::Form(boundary) => {
                let Form { images, asked } = body::form(bytes, boundary, Arc::clone(&room)).await?;
                let mut images = images.into_iter();
                let (Some(given), None) = (images.next(), images.next()) else { return Err(Refused::bad(ONE_IMAGE)) };
                (given, asked)
            }
        };
        Ok((given, asked, room))
    }

    /// The images a request is about, in order, and what is asked of them.
    async fn many(&self, request: Request) -> Result<(Vec<Item>, Asked, Room), Refused> {
        let (kind, Received { bytes, room }) = self.receive(request).await?;
        let (images, asked) = match kind {
            Kind::Json => {
                let read = body::json(bytes, Arc::clone(&room)).await?;
                let Many { images: AtMost { items, more }, model, thresholds } = read;
                if more {
                    return Err(body::too_many());
                }
                (items, Asked { model, thresholds })
            }
            Kind::Form(boundary) => {
                let Form { images, asked } = body::form(bytes, boundary, Arc::clone(&room)).await?;
                (images.into_iter().map(Item::from).collect(), asked)
            }
        };
        Ok((images, asked, room))
    }
}

/// As an object, highest first; of labels that share a name the highest.
fn by_label<S: Serializer>(tags: &[Tag], serializer: S) -> Result<S::Ok, S::Error> {
    let mut seen = HashSet::new();
    let mut map = serializer.serialize_map(None)?;
    for tag in tags.iter().filter(|tag| seen.insert(&*tag.name)) {
        map.serialize_entry(&tag.name, &tag.score)?;
    }
    map.end()
}
