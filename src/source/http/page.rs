//! What the server says of itself: a page to try it, and its description for programs.

use axum::Json;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use super::error::Refused;

/// The page may speak to this server, and to nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; \
                      connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /`
pub(super) async fn show() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(include_str!("page.html"))).into_response()
}

/// `GET /openapi.json`
pub(super) async fn openapi() -> Result<Json<Value>, Refused> {
    let broken = |error: serde_json::Error| Refused::bad(error.to_string());
    let mut document: Value = serde_json::from_str(include_str!("openapi.json")).map_err(broken)?;
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    Ok(Json(document))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn the_description_has_every_path_and_no_other() {
        let Json(document) = openapi().await.expect("valid JSON");
        let described: BTreeSet<_> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
        let mut served: BTreeSet<_> = super::super::routes().iter().map(|(path, _)| *path).collect();
        served.extend(super::super::OWN_PATHS);
        assert_eq!(described, served);
    }
}
