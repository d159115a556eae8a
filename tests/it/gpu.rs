//! ONNX Runtime's build for NVIDIA devices on a machine without one: a requested device is refused with the reason, and
//! `auto` logs its choice. `make test-cuda-library` runs these tests. They need that build, 244 MB, and are listed as
//! ignored elsewhere.

use std::path::PathBuf;
use std::process::Output;

use crate::support::repository;
use crate::support::worker::tagmill;

/// The library under test. Without it the tests fail.
fn library() -> PathBuf {
    let library = std::env::var_os("TAGMILL_TEST_CUDA_LIBRARY").expect("TAGMILL_TEST_CUDA_LIBRARY names the library");
    assert!(std::fs::metadata("/dev/nvidiactl").is_err(), "this machine has a GPU: `make bench-gpu` is for it");
    library.into()
}

fn tag(device: &str) -> Output {
    let mut command = tagmill(&["tag", "--device", device]);
    command.env("ORT_DYLIB_PATH", library()).arg("--models").arg(repository("models"));
    command.arg(repository("samples/photo-flower.jpg")).output().expect("it runs")
}

fn refused(device: &str, named: &[&str]) {
    let ended = tag(device);
    let log = String::from_utf8_lossy(&ended.stderr);
    println!("--device {device}: {}", log.trim());
    assert_eq!(ended.status.code(), Some(1), "{log}");
    assert!(ended.stdout.is_empty(), "nothing was tagged instead");
    for named in named {
        assert!(log.contains(named), "{named}: {log}");
    }
}

#[test]
#[ignore = "needs ONNX Runtime's GPU build: make test-cuda-library"]
fn cuda_without_a_driver_is_refused_with_the_reason() {
    refused("cuda", &["cuda:0", "libcuda.so.1: cannot open shared object file", "docs/gpu.md"]);
    refused("cuda:3", &["cuda:3", "libcuda.so.1"]);
}

#[test]
#[ignore = "needs ONNX Runtime's GPU build: make test-cuda-library"]
fn tensorrt_without_a_driver_is_refused_with_the_reason() {
    refused("tensorrt", &["tensorrt:0", "libcuda.so.1", "docs/gpu.md"]);
}

#[test]
#[ignore = "needs ONNX Runtime's GPU build: make test-cuda-library"]
fn auto_takes_the_cpu_and_says_why() {
    let ended = tag("auto");
    let log = String::from_utf8_lossy(&ended.stderr);
    println!("--device auto: {}", log.trim());
    assert!(ended.status.success(), "{log}");
    assert!(log.contains("chose the CPU") && log.contains("libcuda.so.1"), "{log}");
    assert!(String::from_utf8_lossy(&ended.stdout).contains(r#""device":"cpu""#));
}
