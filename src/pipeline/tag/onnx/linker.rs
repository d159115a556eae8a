//! The dynamic linker's reason for a provider's library that cannot be loaded. ONNX Runtime writes it to its own log alone.

use std::path::{Path, PathBuf};

use crate::pipeline::tag::device::Device;

/// NVIDIA's driver, checked first: a provider without it lacks libraries that are of no use without it either.
const DRIVER: &str = "libcuda.so.1";

/// Returns the linker's message about the driver, or else about the device's provider beside `library` and all that it
/// needs. Returns `None` if both can be loaded.
pub(super) fn load_error(device: Device, library: &Path) -> Option<String> {
    let kind = if matches!(device, Device::TensorRt(_)) { "tensorrt" } else { "cuda" };
    let provider = library.with_file_name(format!("libonnxruntime_providers_{kind}.so"));
    [PathBuf::from(DRIVER), provider].iter().find_map(|library| cannot_load(library))
}

#[expect(unsafe_code, reason = "only loading a library makes the linker give its reason")]
fn cannot_load(library: &Path) -> Option<String> {
    // SAFETY: loading runs the library's constructors, as the runtime would have a moment ago. These are libraries that it
    // loads itself, so nothing runs that would not have; and a library that lacks another runs nothing.
    let loaded = unsafe { libloading::Library::new(library) };
    loaded.err().map(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        source.unwrap_or_else(|| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_or_provider_is_named() {
        let reason = load_error(Device::TensorRt(0), Path::new("/nowhere/libonnxruntime.so.1")).expect("a reason");
        let names = [DRIVER, "/nowhere/libonnxruntime_providers_tensorrt.so"];
        assert!(names.iter().any(|name| reason.starts_with(&format!("{name}: cannot open"))), "{reason}");
    }

    #[test]
    fn the_linkers_own_words_are_passed_on() {
        let reason = cannot_load(Path::new("libno-such-library.so.7")).expect("there is none");
        assert!(reason.contains("libno-such-library.so.7: cannot open shared object file"), "{reason}");
    }
}
