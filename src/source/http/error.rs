//! How requests are refused: `{"error":{"code","message"}}` under a status that fits the code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::Span;

use crate::failure::{Code, Failure};

/// Why a request is not answered as it wished.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    status: StatusCode,
    /// One of [`Code`]'s names, or one that only HTTP has.
    pub(super) code: &'static str,
    pub(super) message: String,
    /// The span of the job that failed, where the request was one job.
    pub(super) job: Option<Span>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), job: None }
    }

    /// A body that is not what it should be.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Failure::new(Code::BadJob, message).into()
    }

    /// Refuses a request for the failure of its one job, whose span this is.
    pub(super) fn of_job(failure: Failure, span: Span) -> Self {
        Self { job: Some(span), ..Self::from(failure) }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { status: status(failure.code), code: failure.code.as_str(), message: failure.message, job: None }
    }
}

const fn status(code: Code) -> StatusCode {
    match code {
        Code::BadJob | Code::ForbiddenLocation => StatusCode::BAD_REQUEST,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::UnknownModel | Code::ImageNotFound => StatusCode::NOT_FOUND,
        Code::ImageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::ImageUndecodable => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Code::ResultTooLarge
        | Code::StorageUnavailable
        | Code::StorageDenied
        | Code::OutOfMemory
        | Code::InferenceFailed
        | Code::AttemptsExhausted
        | Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        match self.status {
            // A batch or two, on a GPU; who comes too early is told again.
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1_u16));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        // For the log.
        response.extensions_mut().insert(self);
        response
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(200).collect();
    Refused::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is nothing at {path}; /openapi.json says what there is"),
    )
}

pub(super) async fn no_such_method() -> Refused {
    let message = "this path has other methods; /openapi.json says which";
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
