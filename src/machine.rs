//! Machine that this process runs on: its memory and its GPUs.

#[cfg(target_os = "linux")]
mod cgroup;
pub(crate) mod gpu;

/// Bytes this process may use: the machine's memory, or the limit of a control group that the process is in.
#[must_use]
pub(crate) fn available_memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    #[cfg(target_os = "linux")]
    let limit = cgroup::memory_limit(std::path::Path::new("/"));
    #[cfg(not(target_os = "linux"))]
    let limit = None;
    [machine, limit].into_iter().flatten().min().unwrap_or(4 << 30)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "MemTotal:")
}

/// Bytes this process has resident now.
#[must_use]
pub(crate) fn resident_memory() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Field of a file of the kernel's, in bytes. Not procfs's `Meminfo`, which fails if a field is missing that is not used here.
fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine_and_of_this_process_is_read() {
        assert_eq!(mem_total("MemTotal:       24000000 kB\nMemFree: 1 kB\n"), Some(24_576_000_000));
        assert!(available_memory() > 1 << 20);
        assert!(resident_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
