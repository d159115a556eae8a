//! Names of images in a file of results: the same for one image, whatever it is called on the command line and wherever the
//! command is run.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

/// A name for the lines of a file in `folder`: as given, but of a relative one what leads there from the folder, or all of its
/// path where the image is elsewhere.
pub(super) fn of_line<'a>(given: &'a str, folder: &Path) -> Cow<'a, str> {
    if given.contains("://") || Path::new(given).is_absolute() {
        return given.into();
    }
    let absolute = absolute(given, None);
    let below = absolute.strip_prefix(folder).unwrap_or(&absolute);
    below.to_str().map_or(given.into(), |name| name.to_owned().into())
}

/// The path of an image, from its name as seen from this folder or the working folder; a URL as it is.
pub(super) fn absolute(name: &str, folder: Option<&Path>) -> PathBuf {
    if name.contains("://") {
        return name.into();
    }
    let path = folder.map_or_else(|| name.into(), |folder| folder.join(name));
    let absolute = std::path::absolute(&path).unwrap_or(path);
    let leads_up = absolute.components().any(|part| part == Component::ParentDir);
    if !leads_up {
        return absolute;
    }
    // Up from a link is not up from its name.
    let real = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    match (real, absolute.file_name()) {
        (Some(real), Some(file)) => real.join(file),
        _ => absolute,
    }
}

/// The folder of a file.
pub(super) fn folder_of(file: &Path) -> Option<PathBuf> {
    absolute(file.to_str()?, None).parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_name_wherever_it_is_seen_from() {
        let here = std::env::current_dir().expect("a folder");
        let inner = here.join("src");
        for (given, folder, name) in [
            ("src/main.rs", &here, "src/main.rs"),
            ("./src/main.rs", &here, "src/main.rs"),
            ("src/../src/main.rs", &here, "src/main.rs"),
            ("src/main.rs", &inner, "main.rs"),
            ("s3://bucket/src/a.jpg", &inner, "s3://bucket/src/a.jpg"),
            ("/elsewhere/a.jpg", &inner, "/elsewhere/a.jpg"),
        ] {
            assert_eq!(of_line(given, folder), name, "{given} in {folder:?}");
            assert_eq!(absolute(&of_line(given, folder), Some(folder)), absolute(given, None), "{given} in {folder:?}");
        }
        let outside = of_line("Cargo.toml", &inner);
        assert_eq!(Path::new(&*outside), here.join("Cargo.toml"));
    }
}
