//! Who may use the API: whoever has the token, where there is one; and pages of these origins, in browsers.

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::error::Refused;
use super::server::Peer;
use super::{Http, Origins, body, diagnostics, models, tagging, trace};
use crate::failure::{Code, Failure};
use crate::secret::Secret;

/// Lets a request through that brings the token, or none where none is asked for; the page asks for it itself.
pub(super) async fn guard(
    State(http): State<Http>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let is_test = request.uri().path() == diagnostics::PATH && peer.is_here();
    let refused = http.0.settings.token.as_ref().filter(|token| {
        let is_open = request.uri().path() == "/" || is_test || is_authorized(&request, token);
        !is_open
    });
    let message = "this needs `Authorization: Bearer` and the token";
    let refused = refused.map(|_| Refused::from(Failure::new(Code::Unauthorized, message)));
    let Some(refused) = refused else { return next.run(request).await };
    body::discard(request.into_body()).await;
    refused.into_response()
}

fn is_authorized(request: &Request, token: &Secret) -> bool {
    let Some(given) = request.headers().get(header::AUTHORIZATION) else { return false };
    // The scheme's name is written in any case; the token is compared in a time that tells nothing of it.
    match given.as_bytes().split_at_checked(7) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            given.trim_ascii().ct_eq(token.reveal().as_bytes()).into()
        }
        _ => false,
    }
}

/// What browsers are told of other origins.
pub(super) fn cors(origins: &Origins) -> CorsLayer {
    let origins = match origins {
        Origins::Any => AllowOrigin::from(Any),
        Origins::These(origins) => AllowOrigin::list(origins.iter().cloned()),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            HeaderName::from_static("x-vram-mode"),
            trace::REQUEST_ID,
        ])
        .expose_headers([
            models::VRAM_USED,
            models::VRAM_TOTAL,
            tagging::INFERENCE_TIME,
            trace::REQUEST_ID,
            header::RETRY_AFTER,
        ])
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn the_token_is_the_whole_token_after_its_scheme() {
        let token = Secret::from("hush".to_owned());
        let asked = |header: Option<&str>| {
            let request = axum::http::Request::builder();
            let request = header.into_iter().fold(request, |request, value| request.header("Authorization", value));
            is_authorized(&request.body(Body::empty()).expect("a request"), &token)
        };
        assert!(asked(Some("Bearer hush")) && asked(Some("bearer  hush")));
        for wrong in [
            None,
            Some(""),
            Some("hush"),
            Some("Bearer "),
            Some("Bearer hus"),
            Some("Bearer hushh"),
            Some("Basic hush"),
        ] {
            assert!(!asked(wrong), "{wrong:?}");
        }
    }
}
