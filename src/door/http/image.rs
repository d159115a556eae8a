//! What an image of a request is: a file, base64, a data URI, or a place in a store.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::body::Given;
use crate::failure::{Code, Failure};

/// Characters a location has at most: longer than an object's key can be.
const LONGEST_LOCATION: usize = 4096;

/// With or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An image as the pipeline takes it: where it is, or its bytes as well.
pub(super) struct Image {
    pub(super) location: String,
    pub(super) bytes: Option<Bytes>,
}

/// Tells what was given. Text that is base64 is an image; a key that could be base64 too is written with its store.
pub(super) async fn image(given: Given) -> Result<Image, Failure> {
    let here = |bytes: Bytes| Image { location: "inline".to_owned(), bytes: Some(bytes) };
    let text = match given {
        Given::File(bytes) => return Ok(here(bytes)),
        Given::Text(text) => text,
    };
    if text.trim().is_empty() {
        return Err(Failure::new(Code::BadJob, "the image is empty"));
    }
    if text.starts_with("data:") || text.contains("://") {
        return Ok(Image { location: text, bytes: None });
    }
    let read = tokio::task::spawn_blocking(move || match decode(&text) {
        Ok(bytes) => Ok(here(bytes)),
        Err(_) if text.len() <= LONGEST_LOCATION => Ok(Image { location: text, bytes: None }),
        Err(error) => {
            Err(Failure::new(Code::BadJob, format!("the image is no data URI, and broken as base64: {error}")))
        }
    });
    read.await.unwrap_or_else(|error| Err(Failure::new(Code::InferenceFailed, error.to_string())))
}

fn decode(text: &str) -> Result<Bytes, base64::DecodeError> {
    // Tools break lines.
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        let joined: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        return BASE64.decode(joined).map(Bytes::from);
    }
    BASE64.decode(text).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Result<(String, Option<Bytes>), Code> {
        image(Given::Text(text.into())).await.map(|image| (image.location, image.bytes)).map_err(|failure| failure.code)
    }

    #[tokio::test]
    async fn base64_is_an_image_and_anything_else_a_location() {
        for text in ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8=\n"] {
            assert_eq!(read(text).await, Ok(("inline".into(), Some("hello".into()))), "{text}");
        }
        for text in ["cats/a.png", "s3://b/aGVsbG8=", "data:image/png;base64,aGVsbG8=", "http://host/a", "a b.png"] {
            assert_eq!(read(text).await, Ok((text.into(), None)), "{text}");
        }
        for text in ["", " \n", &"*".repeat(5000)] {
            assert_eq!(read(text).await, Err(Code::BadJob));
        }
    }
}
