//! Probe of a bucket: its existence, and access with our credentials.

use std::sync::atomic::Ordering;

use object_store::path::Path;
use reqwest::Method;

use super::Bucket;
use super::requests::Refused;
use crate::failure::{Code, Failure};

impl Bucket {
    /// Probes the bucket by its head, otherwise by its list below the prefix, because policies and servers differ in what
    /// they allow. If a policy forbids both from the start, objects may still be readable, which only reading them shows:
    /// the probe then succeeds with a warning.
    ///
    /// # Errors
    /// `image_not_found` if the bucket does not exist, `storage_denied` or `storage_unavailable`.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        match self.requests.send(Method::HEAD, &[], self).await {
            Ok(_) => {
                self.requests.is_probed.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Err(Refused { failure, .. }) if failure.code != Code::StorageDenied => return Err(failure),
            // The answer to a list has more details, because a head has no body.
            Err(_) => {}
        }
        let prefix = self.list_prefix();
        let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", &prefix)];
        match self.requests.send(Method::GET, &query, self).await {
            Ok(_) => {
                self.requests.is_probed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(Refused { by_policy: true, failure }) if !self.requests.is_probed.load(Ordering::Relaxed) => {
                if !self.requests.is_warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        bucket = %self,
                        error = %failure,
                        "the credentials may neither look at the bucket nor list it; reading objects will show whether that is enough"
                    );
                }
                Ok(())
            }
            Err(Refused { failure, .. }) => Err(failure),
        }
    }

    /// Prefix for a list, with a slash at its end, so that `a` does not list `ab/`.
    pub(super) fn list_prefix(&self) -> String {
        let prefix = Path::as_ref(&self.prefix);
        if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
    }
}
