//! What is served over HTTP: from arguments to settings.

use axum::http::HeaderValue;
use url::Url;

use super::Invalid;
use crate::cli::http::HttpArgs;
use crate::memory::Budget;
use crate::pipeline::fetch;
use crate::source::http::{Origins, Settings};
use secrecy::ExposeSecret;

/// Images of the largest size that one request body has room for.
const LARGEST_AT_ONCE: u64 = 4;

/// Checks the arguments of HTTP. A body has room for a few images of the largest size, as base64, if the budget has, and never takes
/// all the room from other clients.
///
/// # Errors
/// Where the token or an origin can't be one.
pub(super) fn settings(args: HttpArgs, fetch: &fetch::Settings, budget: &Budget) -> Result<Settings, Invalid> {
    let HttpArgs { listen, http_token: token, allowed_hosts, cors_origins, http_timeout: timeout } = args;
    super::more_than_nothing("http-timeout", timeout.is_zero())?;
    let usable = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.as_ref().is_some_and(|token| !usable(token.expose_secret())) {
        return Err(Invalid::Token);
    }
    let as_base64 = fetch.max_image_bytes.saturating_mul(4) / 3;
    let max_body = as_base64.saturating_mul(LARGEST_AT_ONCE).min(budget.bodies.total() / 4 * 3);
    let origins = origins(&cors_origins)?;
    let hosts =
        allowed_hosts.into_iter().map(|name| host(&name).ok_or(Invalid::Host(name))).collect::<Result<_, _>>()?;
    Ok(Settings { listen, token, origins, hosts, timeout, max_body, bodies: budget.bodies.clone() })
}

/// A name alone, as `Host` has it before the port.
fn host(name: &str) -> Option<String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    (!name.is_empty() && name.chars().all(is_plain)).then(|| name.to_ascii_lowercase())
}

fn origins(given: &[String]) -> Result<Origins, Invalid> {
    if given.iter().any(|origin| origin == "*") {
        return Ok(Origins::Any);
    }
    given
        .iter()
        .map(|text| origin(text).ok_or_else(|| Invalid::Origin(text.clone())))
        .collect::<Result<_, _>>()
        .map(Origins::These)
}

/// As a browser writes it, which is what it is compared with.
fn origin(text: &str) -> Option<HeaderValue> {
    let url = Url::parse(text).ok()?;
    let origin = url.origin();
    let whole = origin.is_tuple() && url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    whole.then(|| origin.ascii_serialization().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_alone() {
        assert_eq!(host("Tagmill.example").as_deref(), Some("tagmill.example"));
        for text in ["", "http://host", "host:8080", "*", "a b", "host/"] {
            assert!(host(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (text, written) in [
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://Gallery.example:443/", "https://gallery.example"),
            ("http://[::1]:3000", "http://[::1]:3000"),
        ] {
            assert_eq!(origin(text).expect("an origin"), written);
        }
        for text in ["", "localhost:3000", "http://host/path", "http://host/?q", "null", "file:///x"] {
            assert!(origin(text).is_none(), "{text}");
        }
        assert!(matches!(origins(&["http://a".into(), "*".into()]), Ok(Origins::Any)));
    }
}
