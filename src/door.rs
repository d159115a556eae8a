//! The ways jobs come in. All lead to the same pipeline.

pub(crate) mod admission;
pub(crate) mod http;
pub(crate) mod live;
pub(crate) mod local;
pub(crate) mod outbox;
pub(crate) mod stream;
