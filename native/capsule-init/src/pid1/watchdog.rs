//! The hardware watchdog: if PID 1 stops feeding it, the machine starts again.
//! Source: the kernel's Documentation/watchdog/watchdog-api.rst.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

const TIMEOUT_SECONDS: i32 = 60;
const FEED_EVERY: Duration = Duration::from_secs(15);

nix::ioctl_readwrite!(set_timeout, b'W', 6, i32);

/// An armed watchdog.
pub struct Watchdog {
    device: File,
    feed_at: Instant,
}

impl Watchdog {
    /// Opens and thereby starts it. The second value is what its driver thought of our timeout.
    pub fn open(path: &Path, now: Instant) -> io::Result<(Self, nix::Result<i32>)> {
        let device = OpenOptions::new().write(true).open(path)?;
        let mut seconds = TIMEOUT_SECONDS;
        // SAFETY: the driver reads and writes the one integer that the pointer leads to.
        let accepted = unsafe { set_timeout(device.as_raw_fd(), &raw mut seconds) };
        Ok((Self { device, feed_at: now }, accepted))
    }

    pub fn feed_at(&self) -> Instant {
        self.feed_at
    }

    /// Feeds it when that is due.
    pub fn tick(&mut self, now: Instant) {
        if self.feed_at <= now {
            let _ = self.device.write_all(b"\0");
            self.feed_at = now + FEED_EVERY;
        }
    }

    /// Orderly end ("magic close"): the driver disarms. Not for a reboot: if that hangs, the watchdog must still bite.
    pub fn disarm(mut self) {
        let _ = self.device.write_all(b"V");
    }
}
