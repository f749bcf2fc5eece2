//! Filesystems brought to rest (ioctl_fsfreeze: FIFREEZE and FITHAW of linux/fs.h).

use crate::console::say;
use crate::disks;
use nix::errno::Errno;
use nix::libc::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

nix::ioctl_readwrite!(fifreeze, b'X', 119, c_int);
nix::ioctl_readwrite!(fithaw, b'X', 120, c_int);

/// A volume at rest, as long as this lives. It holds no file of the volume, which could not be unmounted then.
pub struct Frozen(usize);

impl Frozen {
    /// Flushes and freezes the filesystem of a volume.
    pub fn freeze(volume: usize) -> io::Result<Self> {
        let dir = File::open(disks::volume_dir(volume))?;
        let mut unused = 0;
        // SAFETY: the kernel ignores the argument.
        unsafe { fifreeze(dir.as_raw_fd(), &raw mut unused) }?;
        Ok(Self(volume))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = thaw(self.0) {
            say(format_args!("volume {} does not thaw: {error}", self.0));
        }
    }
}

/// A frozen filesystem is not written out by unmounting it: whoever froze one has had the time for it.
pub fn thaw_all(disks: usize) {
    for volume in 0..disks.saturating_sub(1) {
        let _ = thaw(volume);
    }
}

fn thaw(volume: usize) -> io::Result<()> {
    let dir = File::open(disks::volume_dir(volume))?;
    let mut unused = 0;
    // SAFETY: the kernel ignores the argument.
    match unsafe { fithaw(dir.as_raw_fd(), &raw mut unused) } {
        // It is not frozen (any more).
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
