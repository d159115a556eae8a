//! The sources of jobs: the stream, requests over NATS and HTTP, local files. All feed the same pipeline.

pub(crate) mod http;
pub(crate) mod limit;
pub(crate) mod local;
pub(crate) mod nats;
pub(crate) mod stream;
