//! Environment variables of the hub.

use std::env;

use reqwest::header::HeaderValue;
use url::Url;

/// Endpoint and credentials of the hub. The token is marked as sensitive, so that `Debug` hides it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `HF_ENDPOINT`.
    pub(super) endpoint: Url,
    /// `HF_TOKEN`, as the header that contains it.
    pub(super) token: Option<HeaderValue>,
    /// `HF_HUB_OFFLINE`.
    pub(super) offline: bool,
}

/// Reasons that make a variable unusable. Values are not shown: they may contain secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidSettings {
    /// The endpoint is not a URL.
    #[error("the variable HF_ENDPOINT is not an address such as https://huggingface.co")]
    Endpoint,
    /// The endpoint contains a password, which messages would show.
    #[error("the variable HF_ENDPOINT holds a user name or password; give a token with HF_TOKEN instead")]
    Password,
    /// The token contains invalid characters.
    #[error("the variable HF_TOKEN holds characters that no token has")]
    Token,
}

impl Settings {
    /// Reads `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`. An empty variable counts as unset.
    ///
    /// # Errors
    /// If a value is invalid.
    pub(crate) fn from_environment() -> Result<Self, InvalidSettings> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let endpoint = match variable("HF_ENDPOINT") {
            Some(text) => text.into_string().map_err(|_| InvalidSettings::Endpoint)?,
            None => "https://huggingface.co".into(),
        };
        let token = match variable("HF_TOKEN") {
            Some(text) => Some(header(&text.into_string().map_err(|_| InvalidSettings::Token)?)?),
            None => None,
        };
        // The values that the hub's own client treats as true.
        let yes = |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let offline = env::var("HF_HUB_OFFLINE").is_ok_and(yes);
        Ok(Self { endpoint: address(&endpoint)?, token, offline })
    }

    /// Endpoint as shown in messages.
    pub(super) fn endpoint_name(&self) -> String {
        self.endpoint.as_str().trim_end_matches('/').to_owned()
    }
}

fn address(text: &str) -> Result<Url, InvalidSettings> {
    let mut url = Url::parse(text).map_err(|_| InvalidSettings::Endpoint)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(InvalidSettings::Endpoint);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidSettings::Password);
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn header(token: &str) -> Result<HeaderValue, InvalidSettings> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| InvalidSettings::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_have_a_path_but_no_password() {
        assert_eq!(address("https://mirror.example/hf/").expect("an address").as_str(), "https://mirror.example/hf/");
        for text in ["", "huggingface.co", "ftp://host", "file:///models", "http://"] {
            assert!(matches!(address(text), Err(InvalidSettings::Endpoint)), "{text}");
        }
        assert!(matches!(address("https://user:hush@host"), Err(InvalidSettings::Password)));
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token = Some(header(" hf_hush\n").expect("a token"));
        let settings = Settings { endpoint: address("https://host").expect("an address"), token, offline: false };
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(header("a\nb").is_err());
    }
}
