//! What this machine has, as far as the system tells without asking for rights.

use std::num::NonZeroUsize;
use std::path::Path;

/// Cores that this process may use.
pub(crate) fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What the machine has, or what the container may take if that is less.
    pub(crate) total: u64,
    /// What can be taken without swapping.
    pub(crate) available: u64,
}

/// The memory of this machine; `None` where the system does not tell.
pub(crate) fn memory() -> Option<Memory> {
    let memory = parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX);
    Some(Memory { total: memory.total.min(limit), available: memory.available.min(limit) })
}

/// Free space in bytes on the disk that holds `path` or would hold it.
pub(crate) fn free_disk(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether a driver has made an NVIDIA GPU visible.
pub(crate) fn has_nvidia_gpu() -> bool {
    Path::new("/dev/nvidia0").exists()
}

/// Bytes for people, in GiB.
pub(crate) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       24000 kB\nMemFree:  1 kB\nMemAvailable:   20000 kB\n";
        let expected = Memory { total: 24_576_000, available: 20_480_000 };
        assert_eq!(parse_meminfo(text), Some(expected));
        assert_eq!(parse_meminfo("MemTotal: many kB\n"), None);
    }

    #[test]
    fn free_disk_is_found_for_paths_that_do_not_exist_yet() {
        assert!(free_disk(Path::new("/no/such/directory")).is_some());
    }
}
