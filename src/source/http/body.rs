//! What a request brings: JSON or a form with files, read whole within its limits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use futures_util::stream;
use multer::Multipart;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::runtime::Handle;

use super::error::Refused;
use super::{Http, MOST_IMAGES};
use crate::failure::{Code, Failure};
use crate::job::null_as_default;
use crate::json;
use crate::memory::Reservation;
use crate::model::threshold::{InvalidThreshold, Threshold, Thresholds};

/// How long a client may be silent in the middle of its body.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a whole body may take: slow clients must not keep the room for bodies from others.
const WHOLE: Duration = Duration::from_mins(2);

/// How long the rest of a body is read that is refused: a client that still sends would not see why.
const REST: Duration = Duration::from_secs(5);

/// What room is taken by, as a body comes in.
const STEP: u64 = 64 << 10;

/// Room for a body: taken until the last image of it has left the pipeline.
pub(super) type Room = Arc<Vec<Reservation>>;

/// A body, and room for it.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    pub(super) room: Room,
}

/// An image as it was brought.
#[derive(Debug)]
pub(super) enum Given {
    /// Base64, a data URI or a location.
    Text(String),
    /// A file.
    File(Bytes),
    /// Neither, and why. It is no image, and spoils no other.
    Nothing(String),
}

/// An image, and what is asked of it apart from the others.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) given: Given,
    pub(super) thresholds: Thresholds,
}

/// Options of a request that apply to all its images.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) model: Option<String>,
    pub(super) thresholds: Thresholds,
}

impl From<Given> for Item {
    fn from(given: Given) -> Self {
        Self { given, thresholds: Thresholds::default() }
    }
}

/// As a slot among others: the image, or an object with the image and its own thresholds.
impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let slot = <&RawValue>::deserialize(json)?.get();
        if !slot.starts_with('{') {
            let nothing = |_| Given::Nothing("the image is no text".to_owned());
            return Ok(serde_json::from_str(slot).map_or_else(nothing, Given::Text).into());
        }
        Ok(match json::read(slot.as_bytes()).map(Slot::image) {
            Ok((Some(image), thresholds)) => Self { given: Given::Text(image), thresholds },
            Ok((None, _)) => Given::Nothing(ONE_IMAGE.to_owned()).into(),
            Err(reason) => Given::Nothing(reason).into(),
        })
    }
}

/// Error that concerns more than one image.
pub(super) const ONE_IMAGE: &str = "bring one image, as `image` or `image_url`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    image: Option<String>,
    image_url: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    thresholds: Thresholds,
}

impl Slot {
    fn image(self) -> (Option<String>, Thresholds) {
        let Self { image, image_url, thresholds } = self;
        (image.xor(image_url), thresholds)
    }
}

/// What a form brings.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) images: Vec<Given>,
    pub(super) asked: Asked,
}

/// The fields a form may have, besides files of any name.
const FIELDS: [&str; 5] = ["image", "images", "image_url", "model", "thresholds"];

/// What the body is written as.
pub(super) enum Kind {
    /// `application/json`.
    Json,
    /// `multipart/form-data`, with this boundary.
    Form(String),
}

impl Kind {
    /// As the request says it.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = given.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            return Ok(Self::Json);
        }
        if essence.eq_ignore_ascii_case("multipart/form-data") {
            return multer::parse_boundary(given).map(Self::Form).map_err(|error| Refused::bad(error.to_string()));
        }
        let message = format!("`Content-Type` is `{given}`; send application/json or multipart/form-data");
        Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
    }
}

impl Http {
    /// Reads a request's body whole, in a form it may have.
    pub(super) async fn receive(&self, request: Request) -> Result<(Kind, Received), Refused> {
        let (head, mut body) = request.into_parts();
        let received = match Kind::of(&head.headers).and_then(|kind| no_query(&head.uri).map(|()| kind)) {
            Ok(kind) => {
                let read = tokio::time::timeout(WHOLE, self.read(&mut body)).await;
                read.unwrap_or_else(|_| Err(timed_out())).map(|received| (kind, received))
            }
            Err(refused) => Err(refused),
        };
        if received.is_err() {
            discard(body).await;
        }
        received
    }

    async fn read(&self, body: &mut Body) -> Result<Received, Refused> {
        let limit = self.0.settings.max_body;
        let too_large = || {
            let message = format!("the request has more than the {limit} bytes that one may have");
            Refused::from(Failure::new(Code::ImageTooLarge, message))
        };
        let full = || Refused::from(Failure::new(Code::Overloaded, "there is no room for the request now; try again"));
        let hint = body.size_hint();
        if hint.lower() > limit {
            return Err(too_large());
        }
        let (mut reserved, mut room) = (Vec::new(), 0);
        let mut bytes = Vec::new();
        while let Some(data) = next(body).await? {
            let length = (bytes.len() + data.len()) as u64;
            if length > limit {
                return Err(too_large());
            }
            if length > room {
                // Doubling, as the buffer does; but no more than is announced.
                let wanted = (2 * length).max(STEP).min(hint.exact().unwrap_or(limit)).max(length);
                reserved.push(self.0.settings.bodies.try_reserve(wanted - room).ok_or_else(full)?);
                room = wanted;
                bytes.reserve_exact(usize::try_from(room).unwrap_or(usize::MAX) - bytes.len());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Received { bytes: bytes.into(), room: reserved.into() })
    }
}

fn timed_out() -> Refused {
    Refused::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the rest of the request did not come in time")
}

/// The next part of a body.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Refused> {
    loop {
        let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
        let frame = tokio::time::timeout(SILENCE, frame).await.map_err(|_| timed_out())?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Refused::bad(format!("the request's body broke off: {error}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads the rest of a body and keeps nothing of it.
pub(super) async fn discard(mut body: Body) {
    let _ = tokio::time::timeout(REST, async { while let Ok(Some(_)) = next(&mut body).await {} }).await;
}

/// JSON of this shape, read off the threads that answer: a body may be large. It keeps its room meanwhile, for whoever asked
/// may be gone before it is read.
pub(super) async fn json<T: DeserializeOwned + Send + 'static>(bytes: Bytes, room: Room) -> Result<T, Refused> {
    let parsed = tokio::task::spawn_blocking(move || {
        let _room = room;
        json::read(&bytes)
    });
    let parsed = parsed.await;
    let parsed = parsed.unwrap_or_else(|error| Err(error.to_string()));
    parsed.map_err(|reason| Refused::bad(format!("the request's JSON can't be read: {reason}")))
}

/// The images in a form, and what is asked of them. As JSON it is read elsewhere: all of it is here, so nothing in it waits.
pub(super) async fn form(bytes: Bytes, boundary: String, room: Room) -> Result<Form, Refused> {
    let runtime = Handle::current();
    let read = tokio::task::spawn_blocking(move || {
        let _room = room;
        runtime.block_on(parts(bytes, boundary))
    });
    let read = read.await;
    read.unwrap_or_else(|error| Err(Refused::bad(error.to_string())))
}

/// Refuses parameters in the address: they would be ignored.
fn no_query(uri: &Uri) -> Result<(), Refused> {
    let Some(query) = uri.query().filter(|query| !query.is_empty()) else { return Ok(()) };
    let name: String = query.split(['=', '&']).next().unwrap_or_default().chars().take(64).collect();
    Err(Refused::bad(format!("`{name}` stands in the address, where nothing is read from: send it in the body")))
}

/// Whatever has a file's name is an image.
async fn parts(bytes: Bytes, boundary: String) -> Result<Form, Refused> {
    let broken = |error: multer::Error| Refused::bad(format!("the form can't be read: {error}"));
    let mut parts = Multipart::new(stream::iter([Ok::<_, std::convert::Infallible>(bytes)]), boundary);
    let mut form = Form::default();
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or_default().to_owned();
        if part.file_name().is_some() {
            form.images.push(Given::File(part.bytes().await.map_err(broken)?));
        } else if ["image", "images", "image_url"].contains(&name.as_str()) {
            form.images.push(Given::Text(part.text().await.map_err(broken)?));
        } else {
            let text = part.text().await.map_err(broken)?;
            form.asked.set(&name, text).map_err(|reason| Refused::bad(format!("the form can't be read: {reason}")))?;
        }
        if form.images.len() > MOST_IMAGES {
            return Err(too_many());
        }
    }
    Ok(form)
}

impl Asked {
    /// Takes a field of a form that is no image: `model`, `thresholds` as JSON, or one of them, as `thresholds.general`.
    fn set(&mut self, name: &str, text: String) -> Result<(), String> {
        let wrong = |reason: String| format!("field `{name}`: {reason}");
        if name == "model" {
            self.model = Some(text).filter(|model| !model.is_empty());
        } else if name == "thresholds" && !text.is_empty() {
            let set: Thresholds = json::read(text.as_bytes()).map_err(wrong)?;
            self.thresholds = set.or(&self.thresholds);
        } else if let Some(category) = name.strip_prefix("thresholds.") {
            let threshold: Threshold =
                text.trim().parse().map_err(|error: InvalidThreshold| wrong(error.to_string()))?;
            self.thresholds = Thresholds::default().with(category, Some(threshold)).or(&self.thresholds);
        } else if name != "thresholds" {
            return Err(json::unknown_field(name, &FIELDS));
        }
        Ok(())
    }
}

pub(super) fn too_many() -> Refused {
    let message = format!("a request may bring {MOST_IMAGES} images; send the others in requests of their own");
    Refused::bad(message)
}
