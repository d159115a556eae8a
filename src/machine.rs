//! The machine that this process runs on: its memory and its GPUs.

#[cfg(target_os = "linux")]
mod cgroup;
pub(crate) mod gpu;

/// Memory available to this process in bytes: the machine's memory, or a lower limit of its control groups.
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

/// Resident memory of this process in bytes.
#[must_use]
pub(crate) fn resident_memory() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Field of one of the kernel's files in bytes. procfs's `Meminfo` fails if any field is missing, even an unused one.
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
