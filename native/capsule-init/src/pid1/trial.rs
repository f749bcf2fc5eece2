//! A version of the system that is on trial (docs/updates.md). The boot loader has taken the try already: any restart leads
//! back to the version before. capsuled judges whether it is healthy; this is for when capsuled cannot.

use nix::unistd::sync;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the initramfs found.
const BOOT_FILE: &str = "/run/capsule/boot.json";
/// Read by the version that is started next (packages/capsuled/src/update/state.ts).
const REASON_DIR: &str = "/perm/update";
/// The service without which nobody can confirm.
const JUDGE: &str = "capsuled";
/// More than capsuled ever waits for (packages/capsuled/src/server/update.ts): it has a reason to tell, and goes first.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Ends of capsuled. With the supervisor's pauses they take 3 s and the time of the starts.
const MAX_ENDS: u32 = 6;

/// What is watched until the version is confirmed.
#[derive(Debug)]
pub struct Trial {
    until: Instant,
    ends: u32,
}

#[derive(Deserialize)]
struct Boot {
    #[serde(default)]
    trial: bool,
}

impl Trial {
    /// None when this boot is none, which is also what a file that cannot be read says: it was never on trial in doubt.
    pub fn found(now: Instant) -> Option<Self> {
        Self::parse(&fs::read(BOOT_FILE).ok()?, now)
    }

    fn parse(boot: &[u8], now: Instant) -> Option<Self> {
        let boot: Boot = serde_json::from_slice(boot).ok()?;
        boot.trial.then_some(Self {
            until: now + LIMIT,
            ends: 0,
        })
    }

    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// A service has ended by itself. Returns why the version is given up, if it is.
    pub fn ended(&mut self, service: &str, exit: &str) -> Option<String> {
        if service != JUDGE {
            return None;
        }
        self.ends += 1;
        (self.ends >= MAX_ENDS).then(|| format!("{JUDGE} crashed {} times, at last with {exit}", self.ends))
    }

    /// Returns why the version is given up, if its time is.
    pub fn tick(&self, now: Instant) -> Option<String> {
        (self.until <= now).then(|| format!("it was not confirmed within {} min", LIMIT.as_secs() / 60))
    }
}

/// Writes the reason down for the version that is started next. A disk that hangs here keeps PID 1 from feeding the
/// watchdog, and that ends the trial too.
pub fn note(reason: &str) -> Result<(), String> {
    let path = Path::new(REASON_DIR).join("failed");
    fs::write(&path, format!("{reason}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    sync();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        Trial::parse(br#"{"disk":"/dev/vda","slot":"b","trial":true}"#, Instant::now()).unwrap()
    }

    #[test]
    fn is_one_only_if_the_boot_loader_says_so() {
        let now = Instant::now();
        for boot in [
            &br#"{"slot":"a","trial":false}"#[..],
            br#"{"slot":"a"}"#,
            b"",
            b"{",
            b"[]",
        ] {
            assert!(Trial::parse(boot, now).is_none(), "{boot:?}");
        }
        assert_eq!(trial().ends, 0);
    }

    #[test]
    fn is_given_up_when_capsuled_crashes_again_and_again_and_for_no_other_service() {
        let mut trial = trial();
        for _ in 0..100 {
            assert_eq!(trial.ended("containerd", "exit code 1"), None);
        }
        for _ in 1..MAX_ENDS {
            assert_eq!(trial.ended("capsuled", "exit code 1"), None);
        }
        let reason = trial.ended("capsuled", "killed by SIGSEGV").unwrap();
        assert_eq!(reason, "capsuled crashed 6 times, at last with killed by SIGSEGV");
    }

    #[test]
    fn is_given_up_when_its_time_is_over() {
        let trial = trial();
        let end = trial.deadline();
        assert_eq!(trial.tick(end - Duration::from_secs(1)), None);
        assert_eq!(trial.tick(end), Some("it was not confirmed within 30 min".into()));
    }
}
