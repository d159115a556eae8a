//! Request ids: the client's or a new one, in the log and in the answer.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, Level};

use super::error::Refused;
use crate::job::random_id;
use crate::telemetry::rate_limited::is_new_at;

/// Carries it, both ways.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes a client's id has at most.
const LONGEST: usize = 128;

/// The id of a request.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// Names a request, and says in the log how it went: the first of those that are refused with a code, then once a minute
/// how many more; each of them, and all others, where `RUST_LOG` asks for it.
pub(super) async fn trace(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = own_id(request.headers()).unwrap_or_else(random_id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // There at every level that has a line.
    let span = tracing::error_span!("http", request_id = id);
    let mut response = next.run(request).instrument(span.clone()).await;
    let job = response.extensions().get::<Refused>().and_then(|refused| refused.job.clone());
    job.unwrap_or(span).in_scope(|| said(&response, method.as_str(), &path, began.elapsed().as_secs_f64()));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn own_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = (1..=LONGEST).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| id.to_owned())
}

fn said(response: &Response, method: &str, path: &str, seconds: f64) {
    let status = response.status().as_u16();
    let Some(Refused { code, message, .. }) = response.extensions().get() else {
        return tracing::debug!(method, path, status, seconds, "answered a request");
    };
    let failed = response.status() == StatusCode::SERVICE_UNAVAILABLE;
    let (level, what) = if failed { (Level::WARN, "a request failed") } else { (Level::INFO, "refused a request") };
    match (is_new_at(level, what, Some(code)), failed) {
        (false, _) => tracing::debug!(method, path, status, seconds, code, error = message, "{what}"),
        (true, true) => tracing::warn!(method, path, status, seconds, code, error = message, "{what}"),
        (true, false) => tracing::info!(method, path, status, seconds, code, error = message, "{what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_be_something_else_in_a_log_is_not_taken() {
        let id = |value: &'static [u8]| {
            own_id(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(value).expect("a value"))]))
        };
        assert_eq!(id(b"a-1/b:2").as_deref(), Some("a-1/b:2"));
        for wrong in [&b""[..], b"a b", b"\xc3\xa4", &[b'a'; 129]] {
            assert_eq!(id(wrong), None);
        }
    }
}
