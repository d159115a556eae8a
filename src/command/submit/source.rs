//! Where jobs come from: folders, files, locations, or lines on standard input.

use std::io::{BufRead, stdin};
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use serde_json::json;
use url::Url;
use walkdir::WalkDir;

/// Names that images have.
const EXTENSIONS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// Job payloads, made as they are asked for.
pub(super) type Jobs = Box<dyn Iterator<Item = anyhow::Result<Bytes>> + Send>;

/// The jobs of all sources, one after another.
pub(super) fn jobs(sources: &[String]) -> anyhow::Result<Jobs> {
    let parts = sources.iter().map(|source| of(source)).collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(parts.into_iter().flatten()))
}

fn of(source: &str) -> anyhow::Result<Jobs> {
    if source == "-" {
        let lines = stdin().lock().lines().map(|line| line.context("standard input can't be read"));
        let lines: Vec<_> = lines.filter(|line| !matches!(line, Ok(line) if line.trim().is_empty())).collect();
        return Ok(Box::new(lines.into_iter().map(|line| line.map(|line| from_line(line.trim())))));
    }
    if source.contains("://") {
        return Ok(Box::new(std::iter::once(Ok(payload(source, source)))));
    }
    let root = Path::new(source).canonicalize().with_context(|| format!("`{source}` can't be read"))?;
    let base = if root.is_dir() { root.clone() } else { root.parent().unwrap_or(&root).to_owned() };
    let explicit = root.clone();
    let files = WalkDir::new(root).sort_by_file_name().into_iter().filter(move |entry| match entry {
        Ok(entry) => entry.file_type().is_file() && (entry.path() == explicit || is_image(entry.path())),
        Err(_) => true,
    });
    Ok(Box::new(files.map(move |entry| from_file(entry?.path(), &base))))
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// A line is a job where it is a JSON object, else a location.
fn from_line(line: &str) -> Bytes {
    if line.starts_with('{') { Bytes::copy_from_slice(line.as_bytes()) } else { payload(line, line) }
}

fn from_file(path: &Path, base: &Path) -> anyhow::Result<Bytes> {
    let url = Url::from_file_path(path).map_err(|()| anyhow::anyhow!("`{}` has no absolute path", path.display()))?;
    let name = path.strip_prefix(base).unwrap_or(path).to_string_lossy();
    Ok(payload(&name, url.as_str()))
}

fn payload(id: &str, image: &str) -> Bytes {
    json!({ "id": id, "image": image }).to_string().into()
}
