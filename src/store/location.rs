//! Resolves the `image` of a job to a location inside a configured store, or to the image that the job contains.

use std::path::PathBuf;

use bytes::Bytes;
use object_store::path::Path;
use url::Url;

use super::bucket::Bucket;
use super::inline::Inline;
use super::{Place, Store};
use crate::failure::{Code, Failure};

/// Location of an image.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// An object of a configured store.
    Stored {
        /// The store.
        store: Store,
        /// The object's key, or the file's path below the folder.
        path: Path,
    },
    /// The image itself, as text in the job.
    Inline(Inline),
    /// Bytes in memory.
    Here(Bytes),
    /// A file named to a source, outside the stores.
    File(PathBuf),
}

impl Location {
    /// Resolves `image` against the stores by name alone, without reading anything. Takes a data URI out of `image` instead
    /// of copying it, because no memory is reserved for a copy.
    ///
    /// # Errors
    /// `forbidden_location` if no store holds it, `bad_job` if a data URI is malformed or a key of a store can't be read.
    pub(crate) fn find(image: &mut String, stores: &[Store]) -> Result<Self, Failure> {
        if image.starts_with("data:") {
            return Inline::data_uri(std::mem::take(image)).map(Self::Inline);
        }
        let found = if let Some(rest) = image.strip_prefix("s3://") {
            stores.iter().find_map(|store| store.holds_object(rest))
        } else if image.starts_with("file:") {
            stores.iter().find_map(|store| store.holds_file(image))
        } else if image.contains("://") {
            None
        } else {
            stores.first().and_then(|store| store.holds_key(image))
        };
        let (store, path) =
            found.ok_or_else(|| unaddressable(image, stores).unwrap_or_else(|| forbidden(image, stores)))?;
        Ok(Self::Stored { store: store.clone(), path })
    }
}

impl Store {
    fn holds_object(&self, bucket_and_key: &str) -> Option<(&Self, Path)> {
        let Place::Bucket(Bucket { name, prefix, .. }) = &self.place else { return None };
        let key = bucket_and_key.strip_prefix(name.as_str())?.strip_prefix('/')?;
        let path = object_path(key)?;
        // Compares whole segments: the prefix `a/b` contains `a/b/c` but not `a/bc`.
        let inside = path.prefix_match(prefix)?.next().is_some();
        inside.then_some((self, path))
    }

    fn holds_file(&self, url: &str) -> Option<(&Self, Path)> {
        let Place::Folder { root, named } = &self.place else { return None };
        let file = Url::parse(url).ok()?.to_file_path().ok()?;
        // The folder itself may be a link, and both of its names are valid. The read checks the target again.
        let path = file.strip_prefix(root).or_else(|_| file.strip_prefix(named)).ok()?.to_str()?;
        Some((self, object_path(path)?))
    }

    fn holds_key(&self, key: &str) -> Option<(&Self, Path)> {
        let path = object_path(key)?;
        let path = match &self.place {
            Place::Bucket(Bucket { prefix, .. }) if !prefix.as_ref().is_empty() => {
                Path::parse(format!("{prefix}/{path}")).ok()?
            }
            _ => path,
        };
        Some((self, path))
    }
}

/// Parses a key as written. Empty, `.` and `..` segments are rejected, so that a key names one object and stays below its
/// root.
fn object_path(key: &str) -> Option<Path> {
    let plain = !key.is_empty() && !key.starts_with('/') && !key.ends_with('/');
    if plain { Path::parse(key).ok() } else { None }
}

/// Refuses a key of a configured bucket that may exist but that the client can't request, such as `a//b.jpg`.
fn unaddressable(image: &str, stores: &[Store]) -> Option<Failure> {
    let (bucket, key) = image.strip_prefix("s3://")?.split_once('/')?;
    let is_ours = |store: &Store| match &store.place {
        Place::Bucket(Bucket { name, prefix, .. }) => name == bucket && key.starts_with(prefix.as_ref()),
        Place::Folder { .. } => false,
    };
    if key.is_empty() || key.split('/').any(|part| part == "..") || !stores.iter().any(is_ours) {
        return None;
    }
    let shown: String = key.chars().take(200).collect();
    let message = format!(
        "field `image`: the key `{}` has empty or `.` parts, or control characters, and can't be read; copy the object to \
         another key",
        shown.escape_debug()
    );
    object_path(key).is_none().then(|| Failure::new(Code::BadJob, message))
}

fn forbidden(image: &str, stores: &[Store]) -> Failure {
    let allowed = stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let shown: String = image.chars().take(200).collect();
    if image.starts_with("http://") || image.starts_with("https://") {
        let message = format!(
            "`{shown}` is a web address, and none is ever fetched; bring the image itself, or name it as s3://bucket/key or \
             file:///path in a store ({allowed})"
        );
        return Failure::new(Code::ForbiddenLocation, message);
    }
    if stores.is_empty() {
        let message =
            format!("`{shown}` can't be read: there is no store; bring the image itself, or start with --store");
        return Failure::new(Code::ForbiddenLocation, message);
    }
    Failure::new(
        Code::ForbiddenLocation,
        format!(
            "`{shown}` is in none of the configured stores ({allowed}); start the worker with a --store that holds it"
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = format!("file://{}", folder.path().display()).parse().expect("a store");
        (folder, store)
    }

    fn bucket(url: &str) -> Store {
        let _ = rustls::crypto::ring::default_provider().install_default();
        url.parse().expect("a store")
    }

    fn found(image: &str, stores: &[Store]) -> Option<String> {
        match Location::find(&mut image.to_owned(), stores) {
            Ok(Location::Stored { path, .. }) => Some(path.to_string()),
            Ok(_) => panic!("not inline"),
            Err(failure) => {
                assert_eq!(failure.code, Code::ForbiddenLocation);
                None
            }
        }
    }

    #[test]
    fn a_url_of_a_web_server_is_in_no_store_that_there_could_be() {
        let failure = Location::find(&mut "https://example.com/a.jpg".to_owned(), &[bucket("s3://images")]);
        assert!(failure.is_err_and(|failure| failure.message.contains("is a web address")));
    }

    #[test]
    fn a_bucket_holds_its_prefix_by_whole_segments() {
        let stores = [bucket("s3://images/a/b")];
        assert_eq!(found("s3://images/a/b/c d%20é.png", &stores).as_deref(), Some("a/b/c d%20é.png"));
        assert_eq!(found("x/y.png", &stores).as_deref(), Some("a/b/x/y.png"));
        for outside in
            ["s3://images/a/bc", "s3://images/a/b", "s3://images2/a/b/c", "s3://images/a/b/../c", "s3://images"]
        {
            assert_eq!(found(outside, &stores), None, "{outside}");
        }
    }

    #[test]
    fn a_key_that_can_not_be_asked_for_is_told_so() {
        let stores = [bucket("s3://images/a")];
        for key in ["a//b.jpg", "a/./b.jpg", "a/b\t.jpg", "a/b/"] {
            let failure = Location::find(&mut format!("s3://images/{key}"), &stores).expect_err("it can't be read");
            assert_eq!(failure.code, Code::BadJob, "{key:?}");
            assert!(!failure.message.contains('\t'), "{}", failure.message);
        }
        for outside in ["s3://images/b//c.jpg", "s3://other/a//c.jpg", "s3://images/a/../c.jpg"] {
            assert_eq!(found(outside, &stores), None);
        }
    }

    #[test]
    fn a_folder_holds_files_below_it() {
        let (folder, store) = folder();
        let root = folder.path().canonicalize().expect("it exists");
        let stores = [store];
        assert_eq!(found(&format!("file://{}/a/b c.png", root.display()), &stores).as_deref(), Some("a/b c.png"));
        assert_eq!(found("a/b.png", &stores).as_deref(), Some("a/b.png"));
        for outside in
            ["file:///etc/passwd", "/etc/passwd", "../x", "a/../../x", "http://host/a.png", "file://host/a", "a//b"]
        {
            assert_eq!(found(outside, &stores), None, "{outside}");
        }
        assert_eq!(found(&format!("file://{}/../x", root.display()), &stores), None);
    }

    #[test]
    fn a_folder_that_is_a_link_holds_files_by_both_its_names() {
        let (folder, _) = folder();
        let root = folder.path().canonicalize().expect("it exists");
        std::fs::create_dir(root.join("real")).expect("a folder");
        std::os::unix::fs::symlink("real", root.join("link")).expect("a link");
        let stores = [format!("file://{}/link", root.display()).parse().expect("a store")];
        for name in ["real", "link"] {
            let image = format!("file://{}/{name}/a.png", root.display());
            assert_eq!(found(&image, &stores).as_deref(), Some("a.png"), "{name}");
        }
        assert_eq!(found(&format!("file://{}/other/a.png", root.display()), &stores), None);
        assert_eq!(found(&format!("file://{}/link/../a.png", root.display()), &stores), None);
    }

    #[test]
    fn a_data_uri_is_taken_out_of_its_job() {
        let mut image = "data:image/png;base64,aGVsbG8=".to_owned();
        assert!(matches!(Location::find(&mut image, &[]), Ok(Location::Inline(_))));
        assert_eq!(image, "");
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_a_folder(segments in proptest::collection::vec("(\\.|\\.\\.|[a-z%2e]{1,4}|)", 0..8), url: bool) {
            let (folder, store) = folder();
            let root = folder.path().canonicalize().expect("it exists");
            let name = segments.join("/");
            let image = if url { format!("file://{}/{name}", root.display()) } else { name };
            if let Ok(Location::Stored { path, .. }) = Location::find(&mut image.clone(), &[store]) {
                prop_assert!(path.as_ref().split('/').all(|segment| !segment.is_empty() && segment != "." && segment != ".."));
            }
        }
    }
}
