//! Images of the user's that something is measured or compared with.

use bytes::Bytes;

use super::Failed;
use super::images::{Found, Sources};
use crate::failure::Failure;
use crate::memory::Budget;
use crate::model::frame::Frame;
use crate::pipeline::decode::decoder::Decoder;
use crate::pipeline::decode::picture;
use crate::source::local::Image;
use crate::store::location::Location;
use crate::store::{Store, file};
use crate::telemetry::say;

/// Maximum number of images, and of their bytes in memory.
const MOST: (usize, u64) = (256, 512 << 20);

/// Images in memory.
pub(super) struct Samples {
    /// Their names and places.
    pub(super) images: Vec<Image>,
    /// Their bytes, as they are stored.
    pub(super) encoded: Vec<Bytes>,
}

impl Samples {
    /// Reads the first images of the sources, each of at most `limit` bytes.
    ///
    /// # Errors
    /// If one can't be read, or there is none.
    pub(super) async fn read(sources: &Sources, limit: u64) -> Result<Self, Failed> {
        let stores = sources.stores();
        let mut found = sources.found(Found::Image);
        let (mut images, mut encoded, mut total) = (Vec::new(), Vec::new(), 0);
        while let Some(found) = found.recv().await {
            let image = match found {
                Found::Image(image) => image,
                Found::Skipped => continue,
                Found::Broken { name, failure } => {
                    return Err(Failed::running(anyhow::anyhow!("{name}: {failure}")));
                }
            };
            let bytes = read(&image, stores, limit).await.map_err(Failed::running)?;
            total += bytes.len() as u64;
            images.push(image);
            encoded.push(bytes);
            if images.len() == MOST.0 || total >= MOST.1 {
                break;
            }
        }
        sources.selection().passed().summary().into_iter().for_each(say);
        if images.is_empty() {
            return Err(Failed::running(anyhow::anyhow!("there is no image to measure with in what was named")));
        }
        Ok(Self { images, encoded })
    }
}

async fn read(image: &Image, stores: &[Store], limit: u64) -> Result<Bytes, Failure> {
    let room = Budget::new(4 * limit).encoded;
    match &image.path {
        Some(path) => file::read(path.clone(), limit, &room).await.map(|read| read.bytes),
        None => match Location::find(&mut image.name.clone(), stores)? {
            Location::Stored { store, path } => store.read(&path, limit, &room).await.map(|read| read.bytes),
            Location::Inline(uri) => uri.decode(limit),
            other => unreachable!("{other:?} is no object"),
        },
    }
}

/// The place of an image among those to measure with, and why it can't be decoded.
pub(super) type Broken = (usize, Failure);

/// One row of the model's input from each image that can be decoded; and the others.
pub(super) fn rows(images: &[Bytes], settings: &picture::Settings, frame: Frame) -> (Vec<Box<[u8]>>, Vec<Broken>) {
    let mut decoder = Decoder::new(settings.clone(), frame);
    let (mut rows, mut broken) = (Vec::new(), Vec::new());
    for (place, image) in images.iter().enumerate() {
        match decoder.row(image, &mut |_| Ok(())) {
            Ok(row) => rows.push(row),
            Err(failure) => broken.push((place, failure)),
        }
    }
    (rows, broken)
}
