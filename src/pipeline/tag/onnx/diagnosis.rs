//! Why ONNX Runtime could not load a provider's library: the runtime itself tells that to its log alone.

use std::path::{Path, PathBuf};

use crate::pipeline::tag::device::Device;

/// NVIDIA's driver, which only its installer or the host of a container brings.
const DRIVER: &str = "libcuda.so.1";

/// What the dynamic linker says of the first library that can't be loaded: the driver's, then the provider's own beside
/// `library`, with all it needs. `None` where there is nothing wrong with any.
pub(super) fn of_libraries(device: Device, library: &Path) -> Option<String> {
    let kind = if matches!(device, Device::TensorRt(_)) { "tensorrt" } else { "cuda" };
    let provider = library.with_file_name(format!("libonnxruntime_providers_{kind}.so"));
    if library.is_absolute() && !provider.is_file() {
        return Some(format!("{}: cannot open shared object file: it is not there", provider.display()));
    }
    [PathBuf::from(DRIVER), provider].iter().find_map(|library| cannot_load(library))
}

#[expect(unsafe_code, reason = "the dynamic linker is asked; there is no other way to hear its reason")]
fn cannot_load(library: &Path) -> Option<String> {
    // SAFETY: loading runs the library's constructors, as the runtime would have a moment ago. These are libraries that it
    // loads itself, so nothing runs that would not have; and what fails for want of another library runs nothing.
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
    fn a_library_without_its_provider_is_named() {
        let said = of_libraries(Device::TensorRt(0), Path::new("/nowhere/libonnxruntime.so.1")).expect("a reason");
        assert!(said.starts_with("/nowhere/libonnxruntime_providers_tensorrt.so: cannot open"), "{said}");
    }

    #[test]
    fn the_linkers_own_words_are_passed_on() {
        let said = cannot_load(Path::new("libno-such-library.so.7")).expect("there is none");
        assert!(said.contains("libno-such-library.so.7: cannot open shared object file"), "{said}");
    }
}
