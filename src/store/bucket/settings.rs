//! S3 settings from the standard `AWS_*` variables.

use std::env;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use url::{Host, Url};

use super::body::SILENCE;
use super::http::OneHost;
use crate::store::InvalidStore;

/// Settings for a bucket whose client retries for up to `retry_timeout` after an error.
///
/// # Errors
/// If a variable is wrong.
pub(super) fn builder(bucket: &str, retry_timeout: Duration) -> Result<AmazonS3Builder, InvalidStore> {
    let builder = environment().with_bucket_name(bucket);
    let endpoint = [Key::S3Endpoint, Key::Endpoint].iter().find_map(|key| Some((*key, builder.get_config_value(key)?)));
    let allowed = env::var("AWS_ALLOW_HTTP").is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on"));
    let builder = match endpoint {
        Some((key, endpoint)) => {
            let url =
                Url::parse(&endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            let url = url.ok_or(InvalidStore::Endpoint)?;
            if url.scheme() == "http" && !allowed {
                return Err(InvalidStore::PlainHttp);
            }
            let is_virtual =
                builder.get_config_value(&Key::VirtualHostedStyleRequest).is_some_and(|value| value == "true");
            if is_virtual { builder.with_config(key, of_bucket(url, bucket)?) } else { builder }
        }
        None => builder,
    };
    let retry = RetryConfig {
        max_retries: 2,
        retry_timeout,
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
    };
    let options = ClientOptions::new().with_allow_http(allowed);
    // A read that stands still is given up; one that moves has time.
    let client = OneHost { silence: SILENCE };
    Ok(builder.with_retry(retry).with_client_options(options).with_http_connector(client))
}

/// Reads the environment. The builder's own reading takes an empty variable for a value; here it is unset, as in AWS's own
/// tools.
fn environment() -> AmazonS3Builder {
    env::vars_os().fold(AmazonS3Builder::new(), |builder, (name, value)| {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { return builder };
        match name.to_ascii_lowercase().parse() {
            Ok(key) if name.starts_with("AWS_") && !value.is_empty() => builder.with_config(key, value),
            _ => builder,
        }
    })
}

/// Endpoint of a bucket in the virtual-hosted style, with the bucket's name in front. Without it, the first part of a key
/// would name another bucket.
fn of_bucket(mut endpoint: Url, bucket: &str) -> Result<String, InvalidStore> {
    let Some(Host::Domain(host)) = endpoint.host() else { return Err(InvalidStore::VirtualHosted) };
    let in_front = format!("{bucket}.");
    if !host.starts_with(&in_front) {
        let host = format!("{in_front}{host}");
        endpoint.set_host(Some(&host)).map_err(|_| InvalidStore::VirtualHosted)?;
    }
    Ok(endpoint.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_hosted_endpoint_names_its_bucket() {
        let of = |endpoint: &str| of_bucket(endpoint.parse().expect("a URL"), "images").ok();
        assert_eq!(of("https://s3.example:9000/").as_deref(), Some("https://images.s3.example:9000"));
        assert_eq!(of("https://images.s3.example").as_deref(), Some("https://images.s3.example"));
        assert_eq!(of("https://images2.s3.example").as_deref(), Some("https://images.images2.s3.example"));
        assert_eq!(of("http://127.0.0.1:9000"), None);
    }
}
