//! A guest whose memory is used up reads the pages of every program again and again, and answers nobody for minutes: the kernel
//! ends none of them as long as it still frees something. So the largest process of the payload is ended here, as systemd-oomd(8) does it on
//! larger machines. The agent is not slowed down itself: it is in the initramfs, whose pages stay in memory.

use crate::cgroup;
use crate::console::say;
use crate::stats::find_kib;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(500);
/// In a row: three seconds. A payload that is only slow for a moment is left alone.
const LOOKS: u32 = 6;
/// Of the time, in which all that run wait for memory.
const STALLED_PERCENT: u64 = 20;
/// One so-manieth of all memory: when no more can be had, pages of files that a payload reads are not what fills it.
const LEAST_AVAILABLE: u64 = 32;

#[derive(Clone, Copy)]
struct Look {
    total_kib: u64,
    available_kib: u64,
    stalled_micros: u64,
}

/// Looks while `runs` says so; calls `on_kill` after each process that it has ended.
pub async fn watch(runs: impl Fn() -> bool, on_kill: impl Fn()) {
    // A kernel without pressure stall information.
    let Some(mut before) = look() else { return };
    let mut thrashing = 0;
    while runs() {
        tokio::time::sleep(INTERVAL).await;
        let Some(now) = look() else { return };
        thrashing = if is_thrashing(before, now) { thrashing + 1 } else { 0 };
        before = now;
        if thrashing < LOOKS {
            continue;
        }
        thrashing = 0;
        if let Some(pid) = cgroup::largest_process() {
            say(format_args!("no memory is left: ending process {pid} of the payload"));
            on_kill();
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn is_thrashing(before: Look, now: Look) -> bool {
    let stalled = now.stalled_micros.saturating_sub(before.stalled_micros);
    let interval = u64::try_from(INTERVAL.as_micros()).unwrap_or(u64::MAX);
    now.available_kib < now.total_kib / LEAST_AVAILABLE && stalled * 100 >= interval * STALLED_PERCENT
}

fn look() -> Option<Look> {
    parse(
        &fs::read_to_string("/proc/meminfo").ok()?,
        &fs::read_to_string("/proc/pressure/memory").ok()?,
    )
}

/// proc_meminfo(5), and Documentation/accounting/psi.rst.
fn parse(memory: &str, pressure: &str) -> Option<Look> {
    let full = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    Some(Look {
        total_kib: find_kib(memory, "MemTotal:")?,
        available_kib: find_kib(memory, "MemAvailable:")?,
        stalled_micros: full.split_once("total=")?.1.trim().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(available: u64, stalled: u64) -> Look {
        parse(
            &format!("MemTotal:  100000 kB\nMemAvailable: {available} kB\n"),
            &format!("some avg10=0.00 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={stalled}\n"),
        )
        .unwrap()
    }

    #[test]
    fn memory_is_used_up_when_none_can_be_had_and_all_wait_for_it() {
        assert!(is_thrashing(at(90_000, 0), at(2_000, 100_000)));
        // A payload that reads more than fits waits too, but for pages that it could do without.
        assert!(!is_thrashing(at(90_000, 0), at(20_000, 400_000)));
        // Full, and nobody minds.
        assert!(!is_thrashing(at(2_000, 7), at(2_000, 50_000)));
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_not_watched() {
        assert!(parse("MemTotal: 1 kB\nMemAvailable: 1 kB\n", "").is_none());
        assert!(parse("", "full avg10=0.00 total=1").is_none());
    }
}
