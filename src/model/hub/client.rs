//! HTTP protocol of the hub: a listing, and files, which may redirect to storage on other hosts.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode};
use url::Url;

use super::error::Error;
use super::file::File;
use super::listing::Listing;
use super::repository::{Repository, Revision};
use super::settings::Settings;
use crate::backoff::Backoff;

/// Time limit for a connection, and for silence of a host.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum consecutive failed attempts.
const ATTEMPTS: u64 = 5;

/// Delays between attempts.
const RETRY: Backoff = Backoff::new(Duration::from_millis(300), Duration::from_mins(1));

/// Maximum delay that a host may request.
const LONGEST_DELAY: Duration = Duration::from_mins(1);

/// Redirects that are followed, one after another.
const REDIRECTS: usize = 5;

/// Maximum size of a listing in bytes.
const LONGEST_LISTING: usize = 32 << 20;

/// Client for one repository.
pub(super) struct Client<'a> {
    http: reqwest::Client,
    settings: &'a Settings,
    repository: &'a Repository,
}

/// Failure of an attempt.
pub(super) enum Failure {
    /// A retry may succeed.
    Passing {
        /// The cause.
        reason: String,
        /// Delay requested by the host.
        wait: Option<Duration>,
    },
    /// A retry cannot succeed.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self::Passing { reason: reason.into(), wait: None }
    }

    /// Failure of a connection. Omits the URL, which may contain a signature of a storage host.
    pub(super) fn connection(host: &str, error: reqwest::Error) -> Self {
        Self::passing(format!("{host}: {:#}", anyhow::Error::new(error.without_url())))
    }
}

/// Counter of consecutive failed attempts.
#[derive(Default)]
pub(super) struct Retries {
    failed: u64,
    /// Last reason that was logged, so that it is logged once.
    reported: Option<String>,
}

impl Retries {
    /// Resets the counter after progress.
    pub(super) fn renew(&mut self) {
        *self = Self::default();
    }

    /// Waits until the next attempt is due.
    ///
    /// # Errors
    /// If no attempt is left.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<(), Error> {
        let (reason, wait) = match failure {
            Failure::Passing { reason, wait } => (reason, wait),
            Failure::Final(error) => return Err(error),
        };
        self.failed += 1;
        if self.failed >= ATTEMPTS {
            return Err(Error::Unreachable { reason, attempts: self.failed });
        }
        let delay = wait.unwrap_or_default().min(LONGEST_DELAY).max(RETRY.after(self.failed));
        if self.reported.as_ref() != Some(&reason) {
            tracing::warn!(reason, attempts = ATTEMPTS, "the hub did not answer as it should; trying again");
            self.reported = Some(reason);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, repository: &'a Repository) -> Result<Self, Error> {
        let agent = concat!("tagmill/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder().user_agent(agent).connect_timeout(TIMEOUT).read_timeout(TIMEOUT);
        // The hub keeps large files with others; what is encrypted up to the hub is so up to them.
        let secure = settings.endpoint.scheme() == "https";
        let redirect = Policy::custom(move |attempt| {
            if secure && attempt.url().scheme() != "https" {
                attempt.error("it redirects to an address without encryption")
            } else if attempt.previous().len() > REDIRECTS {
                attempt.error("it redirects again and again")
            } else {
                attempt.follow()
            }
        });
        Ok(Self { http: http.referer(false).redirect(redirect).build()?, settings, repository })
    }

    /// Lists the repository's files at this revision.
    pub(super) async fn list(&self, revision: &Revision) -> Result<Listing, Failure> {
        let Repository { owner, name } = self.repository;
        let mut url = self.url(["api", "models", owner, name, "revision", revision.as_str()]);
        url.set_query(Some("blobs=true"));
        let mut response = self.send(self.http.get(url), "the listing", revision.as_str()).await?;
        let endpoint = self.settings.endpoint_name();
        let unusable = |reason: String| Error::Listing { endpoint: endpoint.clone(), reason };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::connection(&endpoint, error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_LISTING {
                return Err(unusable("it does not end".into()).into());
            }
        }
        serde_json::from_slice(&body).map_err(|error| unusable(error.to_string()).into())
    }

    /// Requests a file from byte `from` on. The server may answer with the whole file nevertheless.
    pub(super) async fn open(&self, commit: &str, file: &File, from: u64) -> Result<Response, Failure> {
        let Repository { owner, name } = self.repository;
        let path = [owner, name, "resolve", commit].into_iter().chain(file.path.split('/'));
        let url = self.url(path);
        if from > 0 {
            let request = self.http.get(url.clone()).header(RANGE, format!("bytes={from}-"));
            match self.send(request, &file.path, commit).await {
                // The server's file is shorter, so the bytes on disk are of another one.
                Err(Failure::Final(Error::Refused { status: 416, .. })) => {}
                answer => return answer,
            }
        }
        self.send(self.http.get(url), &file.path, commit).await
    }

    /// URL of the hub. Each part is escaped, so that `refs/pr/1` is one part.
    fn url<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Url {
        let mut url = self.settings.endpoint.clone();
        // Fails only for URLs without a host, which the settings refuse.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Sends a request with the token. The HTTP client removes it on a redirect to another host or port.
    async fn send(&self, request: RequestBuilder, what: &str, revision: &str) -> Result<Response, Failure> {
        let request = match &self.settings.token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        };
        let endpoint = self.settings.endpoint_name();
        let response = request.send().await.map_err(|error| Failure::connection(&endpoint, error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let own = response.url().origin() == self.settings.endpoint.origin();
        let host = response.url().host_str().unwrap_or_default().to_owned();
        let (status, headers) = (response.status(), response.headers());
        let passing = || Failure::Passing { reason: format!("{host} answers {status}"), wait: retry_after(headers) };
        let token = self.settings.token.is_some();
        Err(match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => passing(),
            // A signed URL has expired: the hub signs another.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !own => passing(),
            StatusCode::UNAUTHORIZED => Error::Unauthorized { endpoint, token }.into(),
            StatusCode::FORBIDDEN => Error::Forbidden { endpoint, token }.into(),
            StatusCode::NOT_FOUND if own => match headers.get("x-error-code").and_then(|code| code.to_str().ok()) {
                Some("RevisionNotFound") => Error::NoRevision(revision.to_owned()).into(),
                Some("EntryNotFound") => refused(host, status, what),
                _ => Error::NoRepository { endpoint }.into(),
            },
            status if status.is_server_error() => passing(),
            status => refused(host, status, what),
        })
    }
}

fn refused(host: String, status: StatusCode, what: &str) -> Failure {
    Error::Refused { host, status: status.as_u16(), what: what.to_owned() }.into()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
