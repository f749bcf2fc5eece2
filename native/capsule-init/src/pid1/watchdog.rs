//! The hardware watchdog: if PID 1 stops feeding it, the machine starts again.
//! Source: the kernel's Documentation/watchdog/watchdog-api.rst.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TIMEOUT_SECONDS: i32 = 60;
const FEED_EVERY: Duration = Duration::from_secs(15);

nix::ioctl_readwrite!(set_timeout, b'W', 6, i32);

/// A service loads its driver (`devices`), so it comes when PID 1 has long been running.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_FOR: Duration = Duration::from_secs(5 * 60);

/// Where the watchdog is, or will be.
pub enum WatchdogSlot {
    None,
    Awaited {
        path: PathBuf,
        look_at: Instant,
        until: Instant,
    },
    Armed(Watchdog),
}

impl WatchdogSlot {
    pub fn none() -> Self {
        Self::None
    }

    pub fn awaiting(path: Option<&Path>, now: Instant) -> Self {
        match path {
            None => Self::None,
            Some(path) => Self::Awaited {
                path: path.into(),
                look_at: now,
                until: now + LOOK_FOR,
            },
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Awaited { look_at, .. } => Some(*look_at),
            Self::Armed(watchdog) => Some(watchdog.feed_at),
        }
    }

    /// Feeds it when that is due, or takes it when it has come. Returns what there is to log.
    pub fn tick(&mut self, now: Instant) -> Option<String> {
        match self {
            Self::None => None,
            Self::Armed(watchdog) => {
                watchdog.tick(now);
                None
            }
            Self::Awaited { look_at, .. } if *look_at > now => None,
            Self::Awaited { path, look_at, until } => {
                let shown = path.display().to_string();
                if !path.exists() {
                    *look_at = now + LOOK_EVERY;
                    if *until > now {
                        return None;
                    }
                    *self = Self::None;
                    return Some(format!("{shown}: no watchdog came"));
                }
                match Watchdog::open(path, now) {
                    Ok((watchdog, accepted)) => {
                        *self = Self::Armed(watchdog);
                        Some(match accepted {
                            Ok(_) => format!("{shown}: armed, {TIMEOUT_SECONDS} s"),
                            Err(error) => format!("{shown}: armed, keeps its own timeout: {error}"),
                        })
                    }
                    Err(error) => {
                        *self = Self::None;
                        Some(format!("{shown}: no watchdog: {error}"))
                    }
                }
            }
        }
    }

    pub fn disarm(self) {
        if let Self::Armed(watchdog) = self {
            watchdog.disarm();
        }
    }
}

/// An armed watchdog.
pub struct Watchdog {
    device: File,
    feed_at: Instant,
}

impl Watchdog {
    /// Opens and thereby starts it. The second value is what its driver thought of our timeout.
    fn open(path: &Path, now: Instant) -> io::Result<(Self, nix::Result<i32>)> {
        let device = OpenOptions::new().write(true).open(path)?;
        let mut seconds = TIMEOUT_SECONDS;
        // SAFETY: the driver reads and writes the one integer that the pointer leads to.
        let accepted = unsafe { set_timeout(device.as_raw_fd(), &raw mut seconds) };
        Ok((Self { device, feed_at: now }, accepted))
    }

    /// Feeds it when that is due.
    fn tick(&mut self, now: Instant) {
        if self.feed_at <= now {
            let _ = self.device.write_all(b"\0");
            self.feed_at = now + FEED_EVERY;
        }
    }

    /// Orderly end ("magic close"): the driver disarms. Not for a reboot: if that hangs, the watchdog must still bite.
    fn disarm(mut self) {
        let _ = self.device.write_all(b"V");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_its_device_and_is_fed_from_then_on() {
        let path = std::env::temp_dir().join(format!("capsule-watchdog-{}", std::process::id()));
        let start = Instant::now();
        let mut slot = WatchdogSlot::awaiting(Some(&path), start);
        assert_eq!(slot.tick(start), None);
        assert_eq!(slot.deadline(), Some(start + LOOK_EVERY));
        std::fs::write(&path, "").unwrap();
        assert_eq!(slot.tick(start), None, "not before it is time to look");
        // A file has no timeout to set.
        assert!(slot.tick(start + LOOK_EVERY).unwrap().contains("armed"));
        assert_eq!(slot.tick(start + LOOK_EVERY), None);
        assert_eq!(std::fs::read(&path).unwrap(), b"\0");
        slot.disarm();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0V");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn gives_up_where_there_is_none() {
        let start = Instant::now();
        let mut slot = WatchdogSlot::awaiting(Some(Path::new("/does/not/exist")), start);
        assert!(slot.tick(start + LOOK_FOR).is_some());
        assert_eq!(slot.deadline(), None);
        assert_eq!(WatchdogSlot::awaiting(None, start).deadline(), None);
    }
}
