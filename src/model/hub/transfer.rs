//! Download of one file: into a part file, in several attempts if necessary. A complete file gets its own name.

use std::path::{Path, PathBuf};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;

use super::client::{Client, Failure, Retries};
use super::error::Error;
use super::file::File;
use super::verify::{Verdict, verify};
use super::{Step, Watch};

/// Transfer of a file into a folder.
pub(super) struct Transfer<'a, W> {
    pub(super) client: &'a Client<'a>,
    pub(super) commit: &'a str,
    pub(super) file: &'a File,
    pub(super) folder: &'a Path,
    pub(super) watch: &'a mut W,
}

impl<W: Watch> Transfer<'_, W> {
    /// Downloads the missing part of the file, verifies the file and renames it.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let part = self.folder.join(format!("{}.part", self.file.name()));
        let continued = self.have(&part).await > 0;
        let mut result = self.whole(&part).await;
        if continued && matches!(result, Err(Error::Mismatch { .. })) {
            // The earlier part may have been of another version. This time the whole file is downloaded.
            result = self.whole(&part).await;
        }
        result?;
        let path = self.folder.join(self.file.name());
        // Not a `NamedTempFile`: the part file outlives the process, so that the next run resumes it.
        tokio::fs::rename(&part, &path).await.map_err(Error::io(&path))?;
        self.watch.see(self.file, Step::Done);
        Ok(())
    }

    /// Downloads until the part file is complete, verified and synced to disk.
    async fn whole(&mut self, part: &PathBuf) -> Result<(), Error> {
        let (mut retries, mut best) = (Retries::default(), self.have(part).await);
        while let Err(failure) = self.attempt(part).await {
            let have = self.have(part).await;
            if have > best {
                best = have;
                retries.renew();
            }
            retries.wait(failure).await?;
        }
        if let Verdict::Other(reason) = verify(self.file, part.clone()).await.map_err(Error::io(part))? {
            return Err(self.mismatch(part, reason).await);
        }
        let file = tokio::fs::File::open(part).await.map_err(Error::io(part))?;
        file.sync_all().await.map_err(Error::write(self.file, part))
    }

    /// Bytes of an earlier attempt. A part longer than the file belongs to another file and is ignored.
    async fn have(&self, part: &Path) -> u64 {
        let length = tokio::fs::metadata(part).await.map_or(0, |metadata| metadata.len());
        if length > self.file.size { 0 } else { length }
    }

    /// Makes one request and writes its response.
    async fn attempt(&mut self, part: &Path) -> Result<(), Failure> {
        let have = self.have(part).await;
        if have > 0 && have == self.file.size {
            return Ok(());
        }
        let response = self.client.open(self.commit, self.file, have).await?;
        // A server may send the whole file nevertheless.
        let have = if starts_at(&response, have) { have } else { 0 };
        let mut options = OpenOptions::new();
        let options = if have > 0 { options.append(true) } else { options.write(true).create(true).truncate(true) };
        let mut file = options.open(part).await.map_err(Error::write(self.file, part))?;
        self.watch.see(self.file, Step::Began { from: have });
        let received = self.receive(response, &mut file, part, have).await;
        // Flushed even after an error: the next attempt resumes from the size on disk.
        file.flush().await.map_err(Error::write(self.file, part))?;
        match received? {
            have if have < self.file.size => {
                Err(Failure::passing(format!("the connection ended after {have} of {} bytes", self.file.size)))
            }
            have if have > self.file.size => {
                let reason = format!("it does not end after {} bytes", self.file.size);
                Err(self.mismatch(part, reason).await.into())
            }
            _ => Ok(()),
        }
    }

    /// Writes the response up to its end, or until it exceeds the listed size. Returns the bytes present.
    async fn receive(
        &mut self,
        mut response: Response,
        file: &mut tokio::fs::File,
        part: &Path,
        mut have: u64,
    ) -> Result<u64, Failure> {
        let host = response.url().host_str().unwrap_or_default().to_owned();
        while have <= self.file.size {
            let Some(chunk) = response.chunk().await.map_err(|error| Failure::connection(&host, error))? else { break };
            file.write_all(&chunk).await.map_err(Error::write(self.file, part))?;
            have += chunk.len() as u64;
            self.watch.see(self.file, Step::Received { total: have });
        }
        Ok(have)
    }

    /// Removes the unusable part file.
    async fn mismatch(&self, part: &Path, reason: String) -> Error {
        match tokio::fs::remove_file(part).await {
            Ok(()) => Error::Mismatch { file: self.file.path.clone(), reason },
            Err(source) => Error::io(part)(source),
        }
    }
}

/// Returns `true` if the response continues from this byte.
fn starts_at(response: &Response, byte: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {byte}-"))
}
