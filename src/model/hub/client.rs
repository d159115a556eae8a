//! The hub's HTTP protocol: a listing, and files that it may redirect to storage on other hosts.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, RANGE, RETRY_AFTER};
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

/// Attempts in a row that may fail.
const ATTEMPTS: u64 = 5;

/// Delays between two of them.
const RETRY: Backoff = Backoff::new(Duration::from_millis(300), Duration::from_mins(1));

/// The longest delay a host may ask for.
const LONGEST_DELAY: Duration = Duration::from_mins(1);

/// Bytes a listing may have.
const LONGEST_LISTING: usize = 32 << 20;

/// Asks the hub about one revision of one repository.
pub(super) struct Client<'a> {
    http: reqwest::Client,
    settings: &'a Settings,
    repository: &'a Repository,
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// Another may succeed.
    Passing {
        /// Why.
        reason: String,
        /// How long the host wants us to wait.
        wait: Option<Duration>,
    },
    /// No other would.
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

    /// Of a connection. Without its URL, which on a storage host holds a signature.
    pub(super) fn connection(host: &str, error: reqwest::Error) -> Self {
        Self::passing(format!("{host}: {:#}", anyhow::Error::new(error.without_url())))
    }
}

/// Counts attempts that failed in a row.
#[derive(Default)]
pub(super) struct Retries {
    failed: u64,
    /// The reason that was logged last; it is logged once.
    reported: Option<String>,
}

impl Retries {
    /// Something was achieved: what failed before does not count.
    pub(super) fn renew(&mut self) {
        *self = Self::default();
    }

    /// Waits until it is time for the next attempt.
    ///
    /// # Errors
    /// Where there is none.
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
        Ok(Self { http: http.referer(false).build()?, settings, repository })
    }

    /// Asks what the repository holds at this revision.
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

    /// Asks for a file from this byte on; the answer may be of all of it nevertheless.
    pub(super) async fn open(&self, commit: &str, file: &File, from: u64) -> Result<Response, Failure> {
        let Repository { owner, name } = self.repository;
        let path = [owner, name, "resolve", commit].into_iter().chain(file.path.split('/'));
        let url = self.url(path);
        if from > 0 {
            let request = self.http.get(url.clone()).header(RANGE, format!("bytes={from}-"));
            match self.send(request, &file.path, commit).await {
                // The server has no such part of it, so what we have is of something else.
                Err(Failure::Final(Error::Refused { status: 416, .. })) => {}
                answer => return answer,
            }
        }
        self.send(self.http.get(url), &file.path, commit).await
    }

    /// An address of the hub. Each part is escaped, so that `refs/pr/1` is one.
    fn url<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Url {
        let mut url = self.settings.endpoint.clone();
        // It fails for addresses without a host only, which the settings refuse.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Sends a request with the token. The HTTP client takes it off where it is redirected to another host or port.
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
            // A signed address that is no longer good: the hub signs another.
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
