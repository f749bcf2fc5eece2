//! What the payload and the guest use, as the kernel counts it.

use crate::api::PayloadStatsResponse;
use crate::cgroup;
use std::fs;

pub fn read() -> PayloadStatsResponse {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    PayloadStatsResponse {
        cpu_nanos: cgroup::number("cpu.stat", Some("usage_usec")) * 1000,
        memory_bytes: cgroup::number("memory.current", None),
        pids: u32::try_from(cgroup::number("pids.current", None)).unwrap_or(u32::MAX),
        guest_memory_bytes: kib(&memory, "MemTotal:"),
        guest_available_bytes: kib(&memory, "MemAvailable:"),
        agent_resident_bytes: kib(&status, "VmRSS:"),
    }
}

fn kib(text: &str, key: &str) -> u64 {
    find_kib(text, key).unwrap_or(0) * 1024
}

/// A number of a line `KEY NUMBER kB`, as the kernel tells of memory.
pub fn find_kib(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_their_names() {
        let text = "MemTotal:  475988 kB\nMemAvailable:     12 kB\n";
        assert_eq!(kib(text, "MemAvailable:"), 12 * 1024);
        assert_eq!(kib(text, "VmRSS:"), 0);
    }
}
