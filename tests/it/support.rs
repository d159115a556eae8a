//! Real servers, clients and programs for the tests.

pub mod browser;
pub mod client;
pub mod hub;
pub mod nats;
pub mod prometheus;
pub mod raw;
pub mod s3;
pub mod worker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a slow and busy machine. Anything slower counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Path in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Folder of sample images, as a store.
pub fn samples() -> String {
    format!("file://{}", repository("samples").display())
}

/// Repeats `ask` until it returns an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() <= PATIENCE + Duration::from_secs(1), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
