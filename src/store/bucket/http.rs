//! The HTTP client of buckets: it speaks to the endpoint and to nobody else. An answer that leads elsewhere is an error:
//! followed, it would have another host's bytes tagged, and take the session's token there.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LAST_MODIFIED};
use reqwest::redirect::Policy;

/// Time limit for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Makes clients that follow no redirect.
#[derive(Debug)]
pub(super) struct OneHost {
    /// Time limit for silence within an answer.
    pub(super) silence: Duration,
}

impl HttpConnector for OneHost {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // The machine's own service for credentials has plain HTTP, whatever the endpoint has.
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allowed| allowed == "true");
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .https_only(!plain)
            .http1_only()
            .connect_timeout(CONNECT)
            .read_timeout(self.silence)
            .build();
        let client = client.map_err(|error| object_store::Error::Generic { store: "S3", source: error.into() })?;
        Ok(HttpClient::new(Client(client)))
    }
}

#[derive(Debug)]
struct Client(reqwest::Client);

/// The endpoint sends its callers elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint redirects ({status}), which is not followed; check AWS_ENDPOINT_URL and AWS_REGION")]
struct Redirected {
    status: StatusCode,
}

impl HttpService for Client {
    // As the crate `async-trait` writes it.
    fn call<'a, 'f>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let mut response = self.0.call(request).await?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                return Err(HttpError::new(HttpErrorKind::Unknown, Redirected { status }));
            }
            make_readable(response.headers_mut());
            Ok(response)
        })
    }
}

/// Leaves out headers that the object store crate would refuse an answer for, though nobody uses them: values that are not
/// ASCII, such as a file's name, and dates in other formats than its own.
fn make_readable(headers: &mut HeaderMap) {
    let unreadable: Vec<_> =
        headers.iter().filter(|(_, value)| value.to_str().is_err()).map(|(name, _)| name.clone()).collect();
    for name in unreadable {
        headers.remove(name);
    }
    let modified = headers.get(LAST_MODIFIED).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    let modified = httpdate::fmt_http_date(modified.unwrap_or(SystemTime::UNIX_EPOCH));
    if let Ok(modified) = modified.parse() {
        headers.insert(LAST_MODIFIED, modified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_nobody_uses_refuse_no_object() {
        let mut headers = HeaderMap::new();
        headers.insert("etag", "\"1\"".parse().expect("a value"));
        headers.insert("content-disposition", "attachment; filename=ä.jpg".parse().expect("a value"));
        headers.insert(LAST_MODIFIED, "2026-11-28T20:00:00Z".parse().expect("a value"));
        make_readable(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!(headers[LAST_MODIFIED], "Thu, 01 Jan 1970 00:00:00 GMT");
        headers.insert(LAST_MODIFIED, "Saturday, 28-Nov-26 20:00:00 GMT".parse().expect("a value"));
        make_readable(&mut headers);
        assert_eq!(headers[LAST_MODIFIED], "Sat, 28 Nov 2026 20:00:00 GMT");
    }
}
