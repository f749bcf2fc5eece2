//! The payload's control group.

use std::fs;
use std::time::Duration;

/// Of `oci::CGROUP`.
const GROUP: &str = "/sys/fs/cgroup/payload";

/// A number in one of its files, or behind a name in it; 0 when there is none.
pub fn number(file: &str, key: Option<&str>) -> u64 {
    let text = fs::read_to_string(format!("{GROUP}/{file}")).unwrap_or_default();
    let value = match key {
        None => text.trim(),
        Some(key) => text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
            .unwrap_or_default(),
    };
    value.parse().unwrap_or(0)
}

pub fn was_out_of_memory() -> bool {
    number("memory.events", Some("oom_kill")) > 0
}

/// The process in it that takes most memory.
pub fn largest_process() -> Option<i32> {
    let pids = fs::read_to_string(format!("{GROUP}/cgroup.procs")).ok()?;
    // Its second number is pages in memory (proc_pid_statm(5)).
    let pages = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let largest = pids.lines().max_by_key(|pid| pages(pid).unwrap_or(0))?;
    largest.parse().ok()
}

/// Ends everything in it, and waits until it is empty, for a while.
pub async fn kill() {
    let _ = fs::write(format!("{GROUP}/cgroup.kill"), "1");
    for _ in 0..500 {
        if number("cgroup.events", Some("populated")) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
