//! The ways jobs come in. All lead to the same pipeline.

pub mod admission;
pub mod http;
pub mod live;
pub mod local;
pub mod outbox;
pub mod stream;
