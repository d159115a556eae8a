//! Why a run failed, told apart by the runtime's words: it has codes for neither memory nor lost devices.

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{}", brief(.0.message()))]
    Runtime(#[from] ort::Error),
    #[error("{batch} images have {values} scores, with {labels} labels")]
    Width { batch: usize, values: usize, labels: usize },
}

/// CUDA's errors after which nothing runs in this process any more: the context is corrupt or the device is gone. The others
/// (an unsuitable argument, too little memory) leave it as it was.
/// See `cudaError_t` in <https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html>.
fn is_final(cuda: u32) -> bool {
    matches!(cuda, 46 | 100 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=720 | 802 | 999)
}

impl RunError {
    /// The batch did not fit the device's memory. Its allocators say so in words, which differ by device.
    pub(super) fn is_out_of_memory(&self) -> bool {
        let Self::Runtime(error) = self else { return false };
        is_out_of_memory(error.message())
    }

    /// The device is lost to this process.
    pub(super) fn is_lost(&self) -> bool {
        let Self::Runtime(error) = self else { return false };
        is_lost(error.message())
    }
}

/// What an arena says that has reached its own limit, whatever the device has left.
pub(super) const ARENA: &str = "is smaller than requested bytes";

/// What TensorRT's provider says where it takes a graph in parts, for only the whole one's input has a profile of its shapes.
pub(super) const IN_PARTS: &str = "dynamic shape inputs with associated profiles";

pub(super) fn is_out_of_memory(message: &str) -> bool {
    let words = [
        "bad_alloc",
        "Failed to allocate memory",
        ARENA,
        "out of memory",
        "OUT_OF_MEMORY",
        "OutOfMemory",
        // cuBLAS's before CUDA 13, and cuDNN 9's.
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
    ];
    // cuBLAS of CUDA 13 has a sentence for it, and the number it always had.
    number(message, "CUBLAS failure ") == Some(3) || words.iter().any(|words| message.contains(words))
}

/// Whether it is the device that fails, and no model.
pub(super) fn is_the_devices(message: &str) -> bool {
    is_out_of_memory(message) || cuda_failure(message).is_some() || message.contains(IN_PARTS)
}

fn is_lost(message: &str) -> bool {
    cuda_failure(message).is_some_and(is_final)
}

/// The number in `CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; ...`.
pub(super) fn cuda_failure(message: &str) -> Option<u32> {
    number(message, "CUDA failure ")
}

fn number(message: &str, words: &str) -> Option<u32> {
    let (_, after) = message.split_once(words)?;
    after.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// What the runtime says, on one line. Where a library of CUDA's or the arena fails: what ran, the failure, on which GPU and
/// in which call; without the runtime's source and the types of its functions around it, which help nobody.
pub(super) fn brief(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let failures = [
        "CUDA failure ",
        "CUBLAS failure ",
        "CUDNN failure ",
        "CUDNN_FE failure ",
        "Available memory of ",
        "Failed to allocate memory",
    ];
    let Some(at) = failures.iter().filter_map(|words| line.find(words)).min() else { return line };
    let source = line[..at].find(".cc:").map_or(at, |file| line[..file].rfind(' ').map_or(0, |space| space + 1));
    let mut parts = line[at..].split(" ; ");
    let failure = parts.next().unwrap_or_default();
    let where_from = parts.filter(|part| part.starts_with("GPU=") || part.starts_with("expr="));
    let failure: Vec<&str> = std::iter::once(failure).chain(where_from).collect();
    format!("{}{}", &line[..source], failure.join(" ; ").trim_end_matches([' ', ';']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_is_told_apart() {
        let full =
            "Non-zero status code returned while running Conv node. CUDA failure 2: out of memory ; GPU=0 ; expr=x";
        assert!(is_out_of_memory(full) && !is_lost(full));
        let limit = "Available memory of 1048576 is smaller than requested bytes of 77070336";
        assert!(is_out_of_memory(limit) && !is_lost(limit));
        assert!(is_out_of_memory("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"));
        assert!(is_out_of_memory("CUBLAS failure 3: the resource allocation failed ; GPU=0"));
        assert!(!is_out_of_memory("CUBLAS failure 13: the function failed to launch on the GPU ; GPU=0"));
        assert!(is_out_of_memory("CUDNN failure 1003: CUDNN_STATUS_SUBLIBRARY_ALLOCATION_FAILED ; GPU=0"));
        let gone = "CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=h ; file=f ; line=1 ; expr=x";
        assert!(is_lost(gone) && !is_out_of_memory(gone));
        for other in
            ["CUDA failure 9: invalid configuration argument ; GPU=0", "Got invalid dimensions", "CUDA failure x"]
        {
            assert!(!is_lost(other) && !is_out_of_memory(other), "{other}");
        }
    }

    #[test]
    fn what_a_device_says_is_told_without_the_runtimes_source() {
        let of_call = "/src/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE) [with \
                       THRW = true] /src/core/providers/cuda/cuda_call.cc:146 CudaCall(ERRTYPE) [with THRW = true] CUBLAS \
                       failure 3: the resource allocation failed ; GPU=0 ; hostname=h ; file=/src/x.cc ; line=79 ; \
                       expr=cublasCreate(&handle); \n\n";
        let brief_one = "CUBLAS failure 3: the resource allocation failed ; GPU=0 ; expr=cublasCreate(&handle)";
        assert_eq!(brief(of_call), brief_one);
        let of_node = "Non-zero status code returned while running Conv node. Name:'a' Status Message: /src/conv.cc:7 void f() \
                       CUDA failure 2: out of memory ; GPU=0 ; expr=x";
        let node = "Non-zero status code returned while running Conv node. Name:'a' Status Message: ";
        assert_eq!(brief(of_node), format!("{node}CUDA failure 2: out of memory ; GPU=0 ; expr=x"));
        let of_arena =
            format!("{node}/src/bfc_arena.cc:360 void* BFCArena::AllocateRawInternal(size_t, bool) Available memory");
        let limit = "Available memory of 1 is smaller than requested bytes of 2";
        assert_eq!(brief(&format!("{of_arena} of 1 is smaller than requested bytes of 2")), format!("{node}{limit}"));
        assert_eq!(brief("Got invalid\n dimensions "), "Got invalid dimensions");
    }
}
