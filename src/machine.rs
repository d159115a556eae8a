//! The machine this process runs on: its memory, and its GPUs.

pub(crate) mod gpu;

/// Bytes this process may use: the machine's memory, or less where its cgroup (v2 or v1) says so.
#[must_use]
pub(crate) fn available_memory() -> u64 {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.into_iter().filter_map(number).min();
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

/// A field of a file of the kernel's, in bytes.
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
