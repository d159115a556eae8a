//! Pictures of a test format that affect their decoder as hostile ones would. Not in release builds.

use std::time::Duration;

/// Variable that enables the format.
pub(super) const SWITCH: &str = "TAGMILL_TEST_PICTURES";

/// Executes the order in a picture of the test format.
pub(super) fn obey(bytes: &[u8]) {
    let Some(order) = bytes.strip_prefix(b"tagmill-test:") else { return };
    if std::env::var_os(SWITCH).is_none() {
        return;
    }
    match order {
        b"abort" => std::process::abort(),
        b"hang" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        b"memory" => drop(std::hint::black_box(vec![1_u8; 1 << 30])),
        _ => {}
    }
}
