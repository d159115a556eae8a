//! What tests run on.

pub mod browser;
pub mod client;
pub mod hub;
pub mod nats;
pub mod prometheus;
pub mod s3;
pub mod worker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a slow and busy machine: what takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The sample images' folder, as a store.
pub fn samples() -> String {
    format!("file://{}", repository("samples").display())
}

/// Asks again and again until there is an answer.
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
