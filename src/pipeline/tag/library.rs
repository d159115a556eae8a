//! Search for ONNX Runtime's shared library, which is loaded once per process.
//!
//! The path is `ORT_DYLIB_PATH`, else beside the program, else in `../lib` from there, else the system's library path; never
//! the working directory.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;

/// Loaded runtime.
#[derive(Debug)]
pub(crate) struct Library {
    /// Environment of sessions.
    pub environment: Environment,
    /// Version, such as `1.31.1`.
    pub version: String,
    /// Path of the library.
    pub path: PathBuf,
}

/// Error for an unusable ONNX Runtime.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "ONNX Runtime can't be loaded: {reason}. Install it (`pip download --no-deps onnxruntime` and unzip \
     onnxruntime/capi/libonnxruntime.so.* from the wheel) and set ORT_DYLIB_PATH to the file, or put it beside tagmill"
)]
pub(crate) struct NoLibrary {
    reason: String,
}

static LIBRARY: OnceLock<Result<Library, NoLibrary>> = OnceLock::new();

/// Runtime, loaded on the first call.
///
/// # Errors
/// If none is found, or it is older than this program requires.
pub(crate) fn load() -> Result<&'static Library, NoLibrary> {
    LIBRARY.get_or_init(|| load_from(&find())).as_ref().map_err(Clone::clone)
}

fn load_from(path: &Path) -> Result<Library, NoLibrary> {
    let failed = |error: anyhow::Error| NoLibrary { reason: format!("{}: {error:#}", path.display()) };
    let version = version(path).map_err(|error| failed(error.into()))?;
    let environment = ort::init_from(path)
        .map_err(|error| failed(error.into()))?
        .with_name("tagmill")
        .with_telemetry(false)
        .build()
        .map_err(|error| failed(error.into()))?;
    Ok(Library { environment, version, path: path.to_owned() })
}

fn find() -> PathBuf {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        // Absolute, so that the dynamic linker does not search its own folders for a bare name.
        return std::path::absolute(&path).unwrap_or_else(|_| path.into());
    }
    let name = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let program = std::env::current_exe().and_then(|program| program.canonicalize()).unwrap_or_default();
    let beside = program.parent().map(Path::to_owned).unwrap_or_default();
    let folders = [beside.join("../lib"), beside];
    folders.iter().rev().find_map(|folder| in_folder(folder, &name)).unwrap_or_else(|| name.into())
}

/// Finds `libonnxruntime.so`, or the name with a version suffix as in wheels.
fn in_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let exact = folder.join(name);
    if exact.is_file() {
        return Some(exact);
    }
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let versioned = |path: &PathBuf| {
        path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file.starts_with(&format!("{name}.")))
    };
    entries.filter(versioned).max()
}

/// Version reported by the library itself, which the bindings do not expose.
#[expect(unsafe_code, reason = "two entry points of a C library, whose signatures are fixed by its ABI")]
fn version(path: &Path) -> Result<String, libloading::Error> {
    /// `OrtApiBase` of `onnxruntime_c_api.h`.
    #[repr(C)]
    struct ApiBase {
        get_api: extern "C" fn(u32) -> *const std::ffi::c_void,
        version: extern "C" fn() -> *const c_char,
    }
    // SAFETY: loading runs the library's constructors, as loading it for use does a moment later; `OrtGetApiBase` takes
    // nothing and returns a pointer to a static, whose version function returns a static NUL-terminated string.
    unsafe {
        let library = libloading::Library::new(path)?;
        let base = library.get::<extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase\0")?();
        Ok(CStr::from_ptr(((*base).version)()).to_string_lossy().into_owned())
    }
}
