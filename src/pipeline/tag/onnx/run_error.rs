//! Errors of a run. The runtime has codes for neither memory nor lost devices, so they are recognised by its messages.

/// Cause of a failed run.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{}", summary(.0.message()))]
    Runtime(#[from] ort::Error),
    #[error("{batch} images have {values} scores, with {labels} labels")]
    Width { batch: usize, values: usize, labels: usize },
}

impl RunError {
    /// Returns `true` if the batch did not fit the device's memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Runtime(error) if is_out_of_memory(error.message()))
    }

    /// Returns `true` if nothing runs on the device any more in this process.
    pub(super) fn is_device_lost(&self) -> bool {
        matches!(self, Self::Runtime(error) if is_device_lost(error.message()))
    }
}

/// Messages of the allocators: the CPU's, the arena's at its own limit, CUDA's, cuBLAS's before CUDA 13 and cuDNN 9's.
const OUT_OF_MEMORY: [&str; 8] = [
    "bad_alloc",
    "Failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "OUT_OF_MEMORY",
    "OutOfMemory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
];

/// TensorRT's message for a graph that it takes only in parts: only the whole one's input has a profile of its shapes.
const TENSORRT_IN_PARTS: &str = "dynamic shape inputs with associated profiles";

fn is_out_of_memory(message: &str) -> bool {
    // cuBLAS of CUDA 13 has another message for it, with the same number as before.
    number(message, "CUBLAS failure ") == Some(3) || OUT_OF_MEMORY.iter().any(|words| message.contains(words))
}

/// Returns `true` if the device fails a model, rather than the model itself.
pub(super) fn is_device_error(message: &str) -> bool {
    is_out_of_memory(message) || cuda_failure(message).is_some() || message.contains(TENSORRT_IN_PARTS)
}

/// Returns `true` if CUDA's error leaves a corrupt context or a missing device. After others, such as too little memory,
/// runs continue. See `cudaError_t` in <https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html>.
fn is_device_lost(message: &str) -> bool {
    let lost = |code| matches!(code, 46 | 100 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=720 | 802 | 999);
    cuda_failure(message).is_some_and(lost)
}

/// The number in `CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; ...`.
fn cuda_failure(message: &str) -> Option<u32> {
    number(message, "CUDA failure ")
}

fn number(message: &str, before: &str) -> Option<u32> {
    let (_, after) = message.split_once(before)?;
    after.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The runtime's message on one line. If a library of CUDA's failed, only that failure, without the runtime's own source.
pub(super) fn summary(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = " failure ";
    let Some(at) = line.find(words).filter(|_| number(&line, words).is_some()) else { return line };
    let start = line[..at].rfind(' ').map_or(0, |space| space + 1);
    line[start..].split(" ; ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_lost_devices_are_recognised() {
        let full =
            "Non-zero status code returned while running Conv node. CUDA failure 2: out of memory ; GPU=0 ; expr=x";
        assert!(is_out_of_memory(full) && !is_device_lost(full));
        let limit = "Available memory of 1048576 is smaller than requested bytes of 77070336";
        assert!(is_out_of_memory(limit) && !is_device_lost(limit));
        assert!(is_out_of_memory("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"));
        assert!(is_out_of_memory("CUBLAS failure 3: the resource allocation failed ; GPU=0"));
        assert!(!is_out_of_memory("CUBLAS failure 13: the function failed to launch on the GPU ; GPU=0"));
        assert!(is_out_of_memory("CUDNN failure 1003: CUDNN_STATUS_SUBLIBRARY_ALLOCATION_FAILED ; GPU=0"));
        let gone = "CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=h ; file=f ; line=1 ; expr=x";
        assert!(is_device_lost(gone) && !is_out_of_memory(gone));
        for other in
            ["CUDA failure 9: invalid configuration argument ; GPU=0", "Got invalid dimensions", "CUDA failure x"]
        {
            assert!(!is_device_lost(other) && !is_out_of_memory(other), "{other}");
        }
        let in_parts = "User needs to provide all the dynamic shape inputs with associated profiles";
        assert!(is_device_error(full) && is_device_error(gone) && is_device_error(in_parts));
        assert!(!is_device_error("Got invalid dimensions"));
    }

    #[test]
    fn a_message_is_one_line_without_the_runtimes_source() {
        let of_call = "/src/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE) [with \
                       THRW = true] /src/core/providers/cuda/cuda_call.cc:146 CudaCall(ERRTYPE) [with THRW = true] CUBLAS \
                       failure 3: the resource allocation failed ; GPU=0 ; hostname=h ; file=/src/x.cc ; line=79 ; \
                       expr=cublasCreate(&handle); \n\n";
        assert_eq!(summary(of_call), "CUBLAS failure 3: the resource allocation failed");
        let lost = "CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=h ; expr=x";
        assert_eq!(summary(lost), "CUDA failure 719: unspecified launch failure");
        assert_eq!(
            summary("Got invalid\n dimensions after a failure of x "),
            "Got invalid dimensions after a failure of x"
        );
    }
}
