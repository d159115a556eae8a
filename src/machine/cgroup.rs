//! Memory limit of the process's control groups.
//!
//! A walk of our own over the output of `procfs-core`: `sysinfo` 0.40, the only crate that also reads the parent groups,
//! needs Rust 1.95 and reports no limit at all if one file of one group is missing.

use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};

use procfs_core::prelude::*;
use procfs_core::process::MountInfo;
use procfs_core::{ProcessCGroup, ProcessCGroups};

/// Smallest memory limit in bytes from the process's own group up to the root of each hierarchy, v1 and v2. `root` is `/`.
pub(super) fn memory_limit(root: &Path) -> Option<u64> {
    let groups = ProcessCGroups::from_file(root.join("proc/self/cgroup")).ok()?;
    let mounts = BufReader::new(std::fs::File::open(root.join("proc/self/mountinfo")).ok()?);
    let mounts: Vec<_> =
        mounts.lines().map_while(Result::ok).filter_map(|line| MountInfo::from_line(&line).ok()).collect();
    groups.into_iter().filter_map(|group| limit_of(root, &group, &mounts)).min()
}

fn limit_of(root: &Path, group: &ProcessCGroup, mounts: &[MountInfo]) -> Option<u64> {
    let is_memory = |name: &str| name == "memory";
    let is_v2 = group.controllers.is_empty();
    if !is_v2 && !group.controllers.iter().any(|name| is_memory(name)) {
        return None;
    }
    let (file, mounts): (_, Vec<_>) = if is_v2 {
        ("memory.max", mounts.iter().filter(|mount| mount.fs_type == "cgroup2").collect())
    } else {
        let has_memory = |mount: &&MountInfo| mount.super_options.keys().any(|name| is_memory(name));
        ("memory.limit_in_bytes", mounts.iter().filter(|mount| mount.fs_type == "cgroup").filter(has_memory).collect())
    };
    // In a container, the path may be the host's, while the root of the mount is the container's own group.
    let top = |mount: &&MountInfo| root.join(mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point));
    let found = mounts.iter().find_map(|mount| Some((top(mount), below(mount, &group.pathname)?)));
    let (top, inside) = found.or_else(|| Some((top(mounts.first()?), PathBuf::new())))?;
    let own = top.join(inside);
    let number = |folder: &Path| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok();
    own.ancestors().take_while(|folder| folder.starts_with(&top)).filter_map(number).min()
}

/// Path of a group below the root of a mount; `None` if the group is outside it.
fn below(mount: &MountInfo, group: &str) -> Option<PathBuf> {
    // The kernel escapes backslashes there, and systemd uses them in names.
    let inside = Path::new(group).strip_prefix(mount.root.replace(r"\134", r"\")).ok()?;
    // Groups above the root of the namespace are not readable.
    inside.components().all(|part| matches!(part, Component::Normal(_))).then(|| inside.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Returns the limit for a root folder with these lines of `/proc/self/cgroup` and `mountinfo` and these limits by file.
    fn limit(cgroup: &str, mountinfo: &str, limits: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a folder");
        let limits = limits.iter().map(|(file, text)| (format!("sys/fs/cgroup/{file}"), *text));
        let files = [("proc/self/cgroup".to_owned(), cgroup), ("proc/self/mountinfo".to_owned(), mountinfo)];
        for (file, text) in files.into_iter().chain(limits) {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, text).expect("a file");
        }
        memory_limit(root.path())
    }

    const V2: &str = "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      35 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_slice_above_the_process_limits_it() {
        let group = "0::/system.slice/system-tagmill.slice/tagmill.service\n";
        let slice = "system.slice/system-tagmill.slice";
        let service = format!("{slice}/tagmill.service/memory.max");
        let limits = |own: &'static str, of_slice: &'static str| {
            let of_slice = (format!("{slice}/memory.max"), of_slice);
            let all = [(service.clone(), own), of_slice, ("system.slice/memory.max".to_owned(), "max\n")];
            limit(group, V2, &all.iter().map(|(file, text)| (file.as_str(), *text)).collect::<Vec<_>>())
        };
        assert_eq!(limits("max\n", "536870912\n"), Some(512 * MIB));
        assert_eq!(limits("104857600\n", "536870912\n"), Some(100 * MIB));
        assert_eq!(limits("max\n", "max\n"), None);
        assert_eq!(limit(group, V2, &[("user.slice/memory.max", "1\n"), ("memory.max", "1048576\n")]), Some(MIB));
    }

    #[test]
    fn a_container_of_its_own_namespace_is_the_root() {
        assert_eq!(limit("0::/\n", V2, &[("memory.max", "1048576\n")]), Some(MIB));
        // The process was moved there from outside.
        assert_eq!(
            limit("0::/../other\n", V2, &[("memory.max", "1048576\n"), ("../other/memory.max", "1\n")]),
            Some(MIB)
        );
    }

    #[test]
    fn a_container_of_the_hosts_namespace_finds_its_own_group() {
        let pod = "kubepods.slice/kubepods-pod1.slice";
        let group = format!("0::/{pod}/cri-1.scope\n");
        let of_pod = format!("{pod}/memory.max");
        let of_container = format!("{pod}/cri-1.scope/memory.max");
        let limits = [(of_pod.as_str(), "1048576"), (of_container.as_str(), "max")];
        assert_eq!(limit(&group, V2, &limits), Some(MIB));
        // Mounted from the container's own group on. systemd's names contain backslashes, which mountinfo escapes.
        let mount = r"35 24 0:26 /a\134x2db.slice /sys/fs/cgroup ro - cgroup2 cgroup2 rw";
        let limits = [("memory.max", "2097152"), ("job/memory.max", "1048576")];
        assert_eq!(limit("0::/a\\x2db.slice/job\n", mount, &limits), Some(MIB));
        assert_eq!(limit("0::/elsewhere\n", mount, &limits), Some(2 * MIB), "the mount's root");
    }

    #[test]
    fn the_older_hierarchies_are_read_too() {
        let groups = "9:name=systemd:/\n5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/docker/1\n";
        let mounts = "40 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = ("memory/docker/1/memory.limit_in_bytes", "9223372036854771712\n");
        let limits = [own, ("memory/docker/memory.limit_in_bytes", "1048576\n")];
        assert_eq!(limit(groups, mounts, &limits), Some(MIB));
        let inside = "35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n";
        assert_eq!(limit(groups, inside, &[("memory/memory.limit_in_bytes", "1048576\n")]), Some(MIB));
    }

    #[test]
    fn nothing_readable_is_no_limit() {
        assert_eq!(limit("", "", &[]), None);
        assert_eq!(limit("0::/\n", "not a mount\n", &[("memory.max", "1")]), None);
    }
}
