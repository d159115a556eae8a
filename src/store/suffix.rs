//! Detection of images by the suffix of their names.

use std::fmt;

/// Suffixes of names, compared without case.
#[derive(Clone, Debug)]
pub(crate) struct Suffixes(Vec<String>);

/// Suffixes of the formats this build reads, including those that browsers, cameras and downloads write.
const READ: &[&str] = &[
    "apng",
    #[cfg(feature = "avif")]
    "avif",
    "bmp",
    "dib",
    "gif",
    #[cfg(feature = "heic")]
    "heic",
    #[cfg(feature = "heic")]
    "heif",
    #[cfg(feature = "heic")]
    "hif",
    "jfif",
    "jif",
    "jpe",
    "jpeg",
    "jpg",
    "jpg:large",
    "jpg_large",
    #[cfg(feature = "jxl")]
    "jxl",
    "png",
    "tif",
    "tiff",
    "webp",
];

/// Suffixes of files that often lie beside images.
const OTHER: &str = "7z aae avi caption csv css db doc docx exe gz htm html ini js json jsonl log m4v md mkv mov mp3 mp4 npz \
                     onnx pdf py rar rs safetensors sh sqlite srt tar toml ts txt url wav webm xls xlsx xml xmp yaml yml zip";

/// Returns `true` if a name has the suffix of a file that is not an image.
pub(crate) fn is_other(name: &str) -> bool {
    let end = name.rsplit_once('.').map(|(_, end)| end);
    end.is_some_and(|end| OTHER.split(' ').any(|suffix| suffix.eq_ignore_ascii_case(end)))
}

impl Suffixes {
    /// Suffixes of images.
    #[must_use]
    pub(crate) fn of_images() -> Self {
        Self(READ.iter().map(|&suffix| suffix.to_owned()).collect())
    }

    /// Suffixes that match every name.
    #[must_use]
    pub(crate) fn all() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Creates suffixes from these, with or without their dots; `*` matches every name.
    #[must_use]
    pub(crate) fn new(suffixes: Vec<String>) -> Self {
        Self(suffixes.into_iter().map(|suffix| suffix.trim().trim_start_matches('.').to_owned()).collect())
    }

    /// Returns `true` if a file or key of this name has one of the suffixes.
    #[must_use]
    pub(crate) fn has(&self, name: &str) -> bool {
        if self.0.iter().any(|suffix| suffix == "*") {
            return true;
        }
        let name = name.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').is_some_and(|(_, end)| self.0.iter().any(|suffix| suffix.eq_ignore_ascii_case(end)))
    }
}

impl fmt::Display for Suffixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_suffix_counts_in_any_case() {
        let suffixes = Suffixes::of_images();
        for image in ["a.jpg", "a/b.PNG", "a.txt.webp", ".jpg"] {
            assert!(suffixes.has(image), "{image}");
        }
        for other in ["", "jpg", "a.jpg/", "a.jpg/b", "a.jpg.txt", "a.", "jpg.a/b"] {
            assert!(!suffixes.has(other), "{other}");
        }
        let own = Suffixes::new(vec![".heic".to_owned(), " JPG".to_owned()]);
        assert!(own.has("a.HEIC") && own.has("a.jpg") && !own.has("a.png"));
        assert!(Suffixes::new(vec!["*".to_owned()]).has("no suffix") && Suffixes::all().has("a.b/c"));
    }
}
