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
/// Exists when /perm is the disk's: a capsuled that crashes at once does so before that, and the reason is for the disk.
const PERM_READY: &str = "/run/capsule/perm-ready";
/// How long the disk is waited for. Without it, there is only no reason to read.
const PERM_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is watched until the version is confirmed.
#[derive(Debug)]
pub struct Trial {
    until: Instant,
    ends: u32,
    lost: Option<Lost>,
}

/// Given up, as soon as that can be written down.
#[derive(Debug)]
struct Lost {
    reason: String,
    look_at: Instant,
    until: Instant,
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
            lost: None,
        })
    }

    pub fn deadline(&self) -> Instant {
        self.lost.as_ref().map_or(self.until, |lost| lost.look_at)
    }

    /// A service has ended by itself.
    pub fn ended(&mut self, service: &str, exit: &str, now: Instant) {
        if service != JUDGE {
            return;
        }
        self.ends += 1;
        if self.ends >= MAX_ENDS && self.lost.is_none() {
            self.lost = Some(Lost {
                reason: format!("{JUDGE} crashed {} times, at last with {exit}", self.ends),
                look_at: now,
                until: now + PERM_PATIENCE,
            });
        }
    }

    /// Returns why the version is given up, if it is and that can be kept.
    pub fn tick(&mut self, now: Instant) -> Option<String> {
        self.tick_with(now, Path::new(PERM_READY).exists())
    }

    fn tick_with(&mut self, now: Instant, perm_is_ready: bool) -> Option<String> {
        if let Some(lost) = &mut self.lost {
            lost.look_at = now + LOOK_EVERY;
            return (perm_is_ready || lost.until <= now).then(|| lost.reason.clone());
        }
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
        let (mut trial, now) = (trial(), Instant::now());
        for _ in 0..100 {
            trial.ended("containerd", "exit code 1", now);
        }
        for _ in 1..MAX_ENDS {
            trial.ended("capsuled", "exit code 1", now);
        }
        assert_eq!(trial.tick_with(now, true), None);
        trial.ended("capsuled", "killed by SIGSEGV", now);
        assert_eq!(trial.deadline(), now, "at once");
        let reason = "capsuled crashed 6 times, at last with killed by SIGSEGV";
        assert_eq!(trial.tick_with(now, true).as_deref(), Some(reason));
    }

    #[test]
    fn waits_for_the_disk_that_keeps_the_reason_but_not_for_ever() {
        let (mut trial, now) = (trial(), Instant::now());
        for _ in 0..MAX_ENDS {
            trial.ended("capsuled", "exit code 1", now);
        }
        assert_eq!(trial.tick_with(now, false), None);
        assert_eq!(trial.deadline(), now + LOOK_EVERY);
        // What comes meanwhile does not put it off.
        trial.ended("capsuled", "exit code 2", now + PERM_PATIENCE / 2);
        assert_eq!(trial.tick_with(now + PERM_PATIENCE - LOOK_EVERY, false), None);
        let reason = "capsuled crashed 6 times, at last with exit code 1";
        assert_eq!(trial.tick_with(now + PERM_PATIENCE, false).as_deref(), Some(reason));
    }

    #[test]
    fn is_given_up_when_its_time_is_over() {
        let mut trial = trial();
        let end = trial.deadline();
        assert_eq!(trial.tick_with(end - Duration::from_secs(1), true), None);
        assert_eq!(
            trial.tick_with(end, true),
            Some("it was not confirmed within 30 min".into())
        );
    }
}
