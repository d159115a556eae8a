//! Access to the API: with the token, where there is one; else under a name of this server; and from pages of the allowed
//! origins, in browsers.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::error::Refused;
use super::{OWN_PATHS, Origins, Settings, body, models, tagging, trace};
use crate::failure::{Code, Failure};

/// Rules for requests.
#[derive(Clone, Debug)]
pub(super) struct Access {
    token: Option<SecretString>,
    origins: Origins,
    /// Further names of this server, in lower case.
    hosts: Vec<String>,
}

impl From<&Settings> for Access {
    fn from(Settings { token, origins, hosts, .. }: &Settings) -> Self {
        Self { token: token.clone(), origins: origins.clone(), hosts: hosts.clone() }
    }
}

/// Admits a request that brings the token. Where none is asked for, and at the paths of operators' machines, admits one that
/// comes under a name of this server; the page itself asks for the token.
pub(super) async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let Some(refused) = access.refusal(&request) else { return next.run(request).await };
    body::discard(request.into_body()).await;
    refused.into_response()
}

impl Access {
    fn refusal(&self, request: &Request) -> Option<Refused> {
        let path = request.uri().path();
        if let Some(token) = &self.token {
            if path == "/" || is_authorized(request, token) {
                return None;
            }
            if !OWN_PATHS.contains(&path) {
                let message = "this needs `Authorization: Bearer` and the token";
                return Some(Failure::new(Code::Unauthorized, message).into());
            }
        }
        let name = self.stranger(request.headers())?;
        let message = format!(
            "`{name}` is no name of this server: --allowed-host adds one, --cors-origin an origin whose pages may come, and \
             --http-token lets in whoever has the token"
        );
        Some(Refused::new(StatusCode::FORBIDDEN, "forbidden", message))
    }

    /// Name under which a page of elsewhere asks, where it is one. It can send forms to any address unasked, and a name of its
    /// own can be made to lead here (DNS rebinding), which an address can't.
    fn stranger(&self, headers: &HeaderMap) -> Option<String> {
        let is_origin = |name: &str| match &self.origins {
            Origins::Any => true,
            Origins::These(origins) => origins
                .iter()
                .any(|origin| origin.to_str().is_ok_and(|origin| authority(origin).eq_ignore_ascii_case(name))),
        };
        let [host, origin] = [header::HOST, header::ORIGIN].map(|name| {
            let value = headers.get(name)?;
            Some(authority(&String::from_utf8_lossy(value.as_bytes())).to_ascii_lowercase())
        });
        let foreign = origin.filter(|origin| Some(origin) != host.as_ref() && !is_origin(origin));
        let is_known = |host: &str| self.is_own(name_in(host)) || is_origin(host);
        let stranger = host.filter(|host| !is_known(host)).or(foreign);
        stranger.map(|name| name.chars().take(200).collect())
    }

    /// Returns `true` for names and addresses of this server.
    fn is_own(&self, name: &str) -> bool {
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        is_address || name == "localhost" || name.ends_with(".localhost") || self.hosts.iter().any(|host| host == name)
    }
}

/// An origin without its scheme, which is what `Host` says.
fn authority(text: &str) -> &str {
    text.split_once("://").map_or(text, |(_, authority)| authority)
}

/// Name in `Host`, without the port.
fn name_in(host: &str) -> &str {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    name.map_or(host, |(name, _)| name)
}

fn is_authorized(request: &Request, token: &SecretString) -> bool {
    let Some(given) = request.headers().get(header::AUTHORIZATION) else { return false };
    // The scheme's name is written in any case; the token is compared in a time that tells nothing of it.
    match given.as_bytes().split_at_checked(7) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            given.trim_ascii().ct_eq(token.expose_secret().as_bytes()).into()
        }
        _ => false,
    }
}

/// Headers that tell browsers which other origins are allowed.
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
    use axum::http::HeaderValue;

    use super::*;

    fn access(origins: Origins) -> Access {
        Access { token: None, origins, hosts: vec!["tagmill.internal".to_owned()] }
    }

    #[test]
    fn a_page_of_elsewhere_is_told_by_its_name() {
        let asked = |host: &'static str, origin: Option<&'static str>, origins: &[&'static str]| {
            let named = [(header::HOST, Some(host)), (header::ORIGIN, origin)];
            let headers = named.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_static(value?))));
            let origins = origins.iter().map(|origin| HeaderValue::from_static(origin)).collect();
            access(Origins::These(origins)).stranger(&headers.collect())
        };
        for host in [
            "127.0.0.1:8080",
            "localhost",
            "LOCALHOST:8080",
            "tagmill.localhost:1",
            "[::1]:8080",
            "10.0.0.5",
            "tagmill.internal:80",
        ] {
            assert_eq!(asked(host, None, &[]), None, "{host}");
        }
        assert_eq!(asked("localhost:8080", Some("http://localhost:8080"), &[]), None, "the server's own page");
        let listed = ["http://localhost:3000", "https://gallery.example"];
        assert_eq!(asked("localhost:8080", Some("http://localhost:3000"), &listed), None);
        assert_eq!(asked("Gallery.example", Some("https://gallery.example"), &listed), None, "behind a proxy");
        for (host, origin, stranger) in [
            ("evil.example:8080", None, "evil.example:8080"),
            ("evil.example", Some("http://evil.example"), "evil.example"),
            ("localhost.evil.example", None, "localhost.evil.example"),
            ("tagmill.internal.evil.example", None, "tagmill.internal.evil.example"),
            ("127.0.0.1:8080", Some("http://evil.example"), "evil.example"),
            ("127.0.0.1:8080", Some("null"), "null"),
        ] {
            assert_eq!(asked(host, origin, &listed).as_deref(), Some(stranger), "{host} {origin:?}");
        }
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("evil.example"))]);
        assert_eq!(access(Origins::Any).stranger(&headers), None);
    }

    #[test]
    fn the_token_is_the_whole_token_after_its_scheme() {
        let token = SecretString::from("hush".to_owned());
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
