//! Objects of a bucket, by their raw keys, and copies of them on disk.

use std::path::Path as FilePath;

use bytes::BytesMut;
use futures_util::{Stream, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use reqwest::Method;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::super::unavailable;
use super::requests::body;
use super::{Bucket, failure};
use crate::backoff::Backoff;
use crate::failure::{Code, Failure};

/// Attempts at a page of a list.
const ATTEMPTS: u64 = 3;

/// Maximum bytes of a page of a list, which has 1,000 keys of at most 1 KiB.
const LONGEST_PAGE: usize = 16 << 20;

/// Delays between attempts.
const RETRY: Backoff = Backoff::new(std::time::Duration::from_millis(100), std::time::Duration::from_secs(2));

/// Object of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Key, as the server returns it.
    pub key: String,
    /// Key as a path; `None` for a key that no job can name, such as `a//b.jpg`.
    pub path: Option<Path>,
    /// Key below the bucket's prefix.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Version, which changes with the content.
    pub version: String,
}

/// Page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    next_continuation_token: Option<String>,
    contents: Vec<Content>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Content {
    key: String,
    size: u64,
    #[serde(rename = "ETag")]
    e_tag: Option<String>,
    last_modified: String,
}

impl Bucket {
    /// Lists all objects below the bucket's prefix.
    ///
    /// # Errors
    /// `storage_denied` or `storage_unavailable`.
    pub(crate) async fn list(&self) -> Result<Vec<Listed>, Failure> {
        self.listing(None).try_collect().await
    }

    /// Lists the same objects a page at a time, in the server's order, which should be that of keys. Starts after the key
    /// `after`, if given. Skips markers of folders, which are empty objects whose key ends with a slash.
    ///
    /// # Errors
    /// `storage_denied` or `storage_unavailable`, once, as the last item.
    pub(crate) fn listing(&self, after: Option<&str>) -> impl Stream<Item = Result<Listed, Failure>> + Send + '_ {
        let first = Some((after.map(str::to_owned), None::<String>));
        let pages = stream::try_unfold(first, move |next| async move {
            let Some((after, token)) = next else { return Ok(None) };
            let page = self.page(after.as_deref(), token.as_deref()).await?;
            let next = page.next_continuation_token.clone().filter(|token| !token.is_empty());
            if next.is_some() && next == token {
                return Err(unavailable(&Path::default(), self, &"its list repeats itself"));
            }
            let objects = self.read_page(page);
            Ok::<_, Failure>(Some((stream::iter(objects.into_iter().map(Ok)), next.map(|token| (after, Some(token))))))
        });
        pages.try_flatten()
    }

    async fn page(&self, after: Option<&str>, token: Option<&str>) -> Result<Page, Failure> {
        let prefix = self.list_prefix();
        let mut query = vec![("list-type", "2"), ("prefix", &*prefix)];
        query.extend(after.map(|after| ("start-after", after)));
        query.extend(token.map(|token| ("continuation-token", token)));
        let mut tries = 0;
        loop {
            let failure = match self.page_bytes(&query).await {
                Ok(bytes) => {
                    let page = quick_xml::de::from_reader(&*bytes);
                    return page.map_err(|error| unavailable(&Path::default(), self, &format!("its list: {error}")));
                }
                Err(failure) => failure,
            };
            tries += 1;
            if failure.code != Code::StorageUnavailable || tries == ATTEMPTS {
                return Err(failure);
            }
            tokio::time::sleep(RETRY.after(tries)).await;
        }
    }

    async fn page_bytes(&self, query: &[(&str, &str)]) -> Result<BytesMut, Failure> {
        let answer = self.requests.send(Method::GET, query, self).await.map_err(|refused| refused.failure)?;
        body(answer, LONGEST_PAGE).await.map_err(|reason| unavailable(&Path::default(), self, &reason))
    }

    fn read_page(&self, page: Page) -> Vec<Listed> {
        let prefix = self.list_prefix();
        let mut objects = Vec::with_capacity(page.contents.len());
        for Content { key, size, e_tag, last_modified } in page.contents {
            if key.ends_with('/') && size == 0 {
                continue;
            }
            objects.push(Listed {
                path: Path::parse(&key).ok().filter(|path| path.as_ref() == key),
                name: key.strip_prefix(&prefix).unwrap_or_default().to_owned(),
                version: e_tag.unwrap_or(last_modified),
                key,
                size,
            });
        }
        objects
    }

    /// Location of an object as a job names it.
    #[must_use]
    pub(crate) fn location_of(&self, path: &Path) -> String {
        format!("s3://{}/{path}", self.name)
    }

    /// Writes an object to a file, which must not exist.
    ///
    /// # Errors
    /// As for reading; `storage_unavailable` also if the file can't be written or the object has another size than listed.
    pub(crate) async fn copy_to(&self, object: &Listed, file: &FilePath) -> Result<(), Failure> {
        let Listed { path: Some(path), size, .. } = object else {
            return Err(unavailable(&Path::default(), self, &format_args!("no path names the key `{}`", object.key)));
        };
        let size = *size;
        let not_written = |error: std::io::Error| unavailable(path, self, &format_args!("{}: {error}", file.display()));
        let mut copy = tokio::fs::File::create_new(file).await.map_err(not_written)?;
        let object = self.objects.get(path).await.map_err(|error| failure(path, self, &error))?;
        let mut bytes = object.into_stream();
        let mut written = 0;
        while let Some(chunk) = bytes.try_next().await.map_err(|error| failure(path, self, &error))? {
            written += chunk.len() as u64;
            if written > size {
                break;
            }
            copy.write_all(&chunk).await.map_err(not_written)?;
        }
        if written != size {
            return Err(unavailable(path, self, &format_args!("it has not the {size} bytes that were listed")));
        }
        copy.sync_all().await.map_err(not_written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_as_the_server_has_them() {
        let xml = "<ListBucketResult><IsTruncated>false</IsTruncated>\
                   <Contents><Key>a//2+%20&amp;x.jpg</Key><Size>7</Size><ETag>&quot;e&quot;</ETag></Contents>\
                   <Contents><Key>tab&#x9;&#x1;.jpg</Key><Size>1</Size><LastModified>yesterday</LastModified><Owner><ID>1</ID></Owner></Contents>\
                   </ListBucketResult>";
        let page: Page = quick_xml::de::from_str(xml).expect("a page");
        let keys: Vec<_> = page.contents.iter().map(|content| &*content.key).collect();
        assert_eq!(keys, ["a//2+%20&x.jpg", "tab\t\u{1}.jpg"]);
        assert_eq!((page.contents[0].e_tag.as_deref(), page.next_continuation_token), (Some("\"e\""), None));
    }
}
