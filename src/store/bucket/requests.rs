//! Requests on a bucket itself. They are sent from here, because the object store crate normalises keys and hides statuses;
//! it only signs them. No redirect is followed, so that no credential goes to another server.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::BytesMut;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key, AwsAuthorizer};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::path::Path;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::super::{denied, not_found, unavailable};
use crate::failure::Failure;

/// Time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Difference of clocks, in seconds, above which servers refuse signatures: 15 minutes, by S3's own rule.
const SKEW: i64 = 15 * 60;

/// Maximum bytes of an error's body.
const LONGEST_ERROR: usize = 64 << 10;

/// Sends signed requests on one bucket.
pub(super) struct Requests {
    http: reqwest::Client,
    /// URL of the bucket.
    url: Url,
    region: String,
    /// `None` for a bucket that is read without credentials.
    signer: Option<Arc<AmazonS3>>,
    /// `true` once a probe was answered.
    pub(super) is_probed: AtomicBool,
    /// `true` once the log has that probes are refused.
    pub(super) is_warned: AtomicBool,
}

/// Refusal of a bucket.
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// `true` if the server accepts the credentials, and their policy forbids the request.
    pub(super) by_policy: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, by_policy: false }
    }
}

/// Body of an S3 error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorBody {
    code: String,
}

impl Requests {
    /// Creates requests on the bucket that the builder names. `signer` must be built from it.
    pub(super) fn new(builder: &AmazonS3Builder, signer: Arc<AmazonS3>) -> Result<Self, String> {
        let value = |key: Key| builder.get_config_value(&key).unwrap_or_default();
        let region = Some(value(Key::Region)).filter(|region| !region.is_empty());
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let url = url(builder, &region)?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        let signer = (value(Key::SkipSignature) != "true").then_some(signer);
        let (is_probed, is_warned) = Default::default();
        Ok(Self { http, url, region, signer, is_probed, is_warned })
    }

    /// Sends a request on the bucket; `bucket` is its name in errors.
    ///
    /// # Errors
    /// `image_not_found` if the bucket does not exist, `storage_denied` or `storage_unavailable`.
    pub(super) async fn send(
        &self,
        method: Method,
        query: &[(&str, &str)],
        bucket: &impl Display,
    ) -> Result<Response, Refused> {
        let itself = Path::default();
        let mut url = self.url.clone();
        if !query.is_empty() {
            let encoded = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
            // Not every server reads a plus in a query as a space.
            url.set_query(Some(&encoded.replace('+', "%20")));
        }
        let server = url.origin().ascii_serialization();
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse().map_err(|error| unavailable(&itself, bucket, &error))?;
        if let Some(signer) = &self.signer {
            let credential = signer.credentials().get_credential().await;
            let credential = credential.map_err(|error| unavailable(&itself, bucket, &no_credentials(&error)))?;
            let signed = AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None);
            signed.map_err(|error| unavailable(&itself, bucket, &error))?;
        }
        let request = self.http.request(method, url).headers(std::mem::take(request.headers_mut()));
        let answer = request.send().await.map_err(|error| {
            unavailable(&itself, bucket, &format!("{server}: {:#}", anyhow::Error::new(error.without_url())))
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(answer, &server, bucket).await) }
    }

    async fn refused(&self, answer: Response, server: &str, bucket: &impl Display) -> Refused {
        let (itself, status) = (Path::default(), answer.status());
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let region = header("x-amz-bucket-region").filter(|region| *region != self.region);
        let skew = header("date").and_then(|date| skew(&date)).filter(|skew| skew.abs() > SKEW);
        let body = body(answer, LONGEST_ERROR).await.unwrap_or_default();
        let ErrorBody { code } = quick_xml::de::from_reader(&*body).unwrap_or_default();
        let mut said = format!("{server} answers {status}");
        if !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let _ = write!(said, " {code}");
        }
        if let Some(region) = region {
            let _ = write!(said, ", the bucket is in the region {region} (AWS_REGION)");
        }
        if let Some(skew) = skew {
            let _ = write!(said, ", the clock here is {} min off the server's", skew.abs() / 60);
        }
        let failure = match status {
            StatusCode::NOT_FOUND => not_found(&itself, bucket),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => unavailable(&itself, bucket, &said),
            // A wrong region is answered with moved permanently or bad request.
            status if status.is_redirection() || status.is_client_error() => denied(&itself, bucket, &said),
            _ => unavailable(&itself, bucket, &said),
        };
        Refused { failure, by_policy: status == StatusCode::FORBIDDEN && code == "AccessDenied" }
    }
}

/// Reads a body of at most `most` bytes.
///
/// # Errors
/// If it breaks off or is longer.
pub(super) async fn body(mut answer: Response, most: usize) -> Result<BytesMut, String> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        if bytes.len() + chunk.len() > most {
            return Err(format!("an answer of more than {most} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// URL of the bucket.
fn url(builder: &AmazonS3Builder, region: &str) -> Result<Url, String> {
    let value = |key: Key| builder.get_config_value(&key).filter(|value| !value.is_empty());
    let bucket = value(Key::Bucket).unwrap_or_default();
    let is_virtual = value(Key::VirtualHostedStyleRequest).is_some_and(|value| value == "true");
    let endpoint = value(Key::S3Endpoint).or_else(|| value(Key::Endpoint));
    let text = match (endpoint, is_virtual) {
        (Some(endpoint), true) => endpoint,
        (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    Url::parse(&text).map_err(|error| error.to_string())
}

/// Seconds by which the clock here is ahead of a server that sent this `Date`.
fn skew(date: &str) -> Option<i64> {
    let server = httpdate::parse_http_date(date).ok()?;
    let seconds = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok())
    };
    Some(seconds(std::time::SystemTime::now())? - seconds(server)?)
}

/// Error of signing without configured credentials. The machine's own are requested then, which few have.
fn no_credentials(error: &object_store::Error) -> String {
    format!("no credentials can be had (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the machine's own): {error}")
}
