//! S3's `HeadBucket`: is the bucket there, and does it let us in? The object store crate asks for objects only, and hides
//! the status of what it lists; so the request is signed there and sent from here.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::signer::Signer;
use reqwest::{Method, StatusCode};

use super::{denied, not_found, unavailable};
use crate::failure::Failure;

/// Asks one bucket.
#[derive(Clone)]
pub(super) struct HeadBucket {
    signer: Arc<AmazonS3>,
    http: reqwest::Client,
}

impl HeadBucket {
    pub(super) fn new(signer: Arc<AmazonS3>) -> reqwest::Result<Self> {
        let patience = Duration::from_secs(5);
        let http = reqwest::Client::builder().connect_timeout(patience).timeout(2 * patience).build()?;
        Ok(Self { signer, http })
    }

    /// Asks; `bucket` is the name in errors.
    pub(super) async fn ask(&self, bucket: &impl std::fmt::Display) -> Result<(), Failure> {
        let itself = Path::default();
        let signed = self.signer.signed_url(Method::HEAD, &itself, Duration::from_mins(1)).await;
        let url = signed.map_err(|error| unavailable(&itself, bucket, &no_credentials(&error)))?;
        // Not the whole URL, which holds the signature.
        let server = url.origin().ascii_serialization();
        let answer = self.http.head(url).send().await.map_err(|error| {
            unavailable(&itself, bucket, &format!("{server}: {:#}", anyhow::Error::new(error.without_url())))
        })?;
        let status = answer.status();
        let said = format!("{server} answers {status}");
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(not_found(&itself, bucket)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(unavailable(&itself, bucket, &said)),
            // Moved permanently and bad request are what a wrong region looks like.
            status if status.is_redirection() || status.is_client_error() => Err(denied(&itself, bucket, &said)),
            _ => Err(unavailable(&itself, bucket, &said)),
        }
    }
}

/// Signing fails where there is nothing to sign with: then the machine's own credentials are asked for, which few have.
fn no_credentials(error: &object_store::Error) -> String {
    format!("no credentials can be had (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the machine's own): {error}")
}
