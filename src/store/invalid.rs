//! Reasons that make a store or location unusable.

/// A URL as errors show it: without the user and password that it may hold.
pub(crate) fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) if !scheme.is_empty() => format!("{scheme}://…@{host}{path}"),
        _ => url.to_owned(),
    }
}

/// Reason that makes a `--store` URL unusable.
#[derive(Debug, thiserror::Error)]
pub enum InvalidStore {
    /// Neither an S3 nor a file URL.
    #[error("`{0}` is not a store (--store): use s3://bucket, s3://bucket/prefix or file:///folder")]
    Url(String),
    /// An argument that names neither a path nor a location to read images from.
    #[error(
        "`{0}` is neither a path here nor a location that images are read from: s3://bucket, s3://bucket/prefix or \
         s3://bucket/image.jpg"
    )]
    Location(String),
    /// The folder is missing or can't be read.
    #[error("the folder of store `{url}` can't be used: {source}")]
    Folder {
        /// The store.
        url: String,
        /// The cause.
        source: std::io::Error,
    },
    /// An `AWS_*` variable is wrong.
    #[error("the S3 settings for `{url}` (AWS_* variables) are wrong: {source}")]
    S3 {
        /// The store.
        url: String,
        /// The cause.
        source: object_store::Error,
    },
    /// The endpoint is not a URL of a server.
    #[error(
        "AWS_ENDPOINT_URL (or AWS_ENDPOINT_URL_S3) is no URL of a server; expected https://host or https://host:port"
    )]
    Endpoint,
    /// An endpoint that has no room for the name of a bucket.
    #[error(
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST is set, but the endpoint is an IP address, in front of which no bucket's name fits: unset it, or name the endpoint by a domain"
    )]
    VirtualHosted,
    /// A plain HTTP endpoint that was not allowed by name.
    #[error(
        "AWS_ENDPOINT_URL is plain http, which sends images unencrypted: set AWS_ALLOW_HTTP=true to allow it, or use https"
    )]
    PlainHttp,
}

#[cfg(test)]
mod tests {
    use super::without_login;

    #[test]
    fn a_url_is_shown_without_its_login() {
        for (url, shown) in [
            ("s3://user:hunter2@images", "s3://…@images"),
            ("https://user:hunter2@host:9000/a@b", "https://…@host:9000/a@b"),
            ("s3://images/a@b", "s3://images/a@b"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }
}
