//! The disks of the machine: the payload's root first, then its volumes.

use crate::api::GuestDisk;
use displaydoc::Display;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::sync;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

pub const ROOT: &str = "/run/payload/rootfs";
/// A device that is not there after this time is not coming.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(20);

#[derive(Debug, Error, Display)]
pub enum DiskError {
    /// disk {0} of the machine is not there
    Missing(usize),
    /// its {0} cannot be mounted: {1}
    Mount(String, Errno),
    /// {0:?} cannot be made: {1}
    Directory(PathBuf, io::Error),
    /// a volume that is read-only has no directory {0:?} (subPath)
    NoDirectory(String),
    /// a volume has something else than a directory on the way to {0:?} (subPath)
    NotDirectory(String),
}

pub fn volume_dir(index: usize) -> PathBuf {
    PathBuf::from(format!("/run/payload/volumes/{index}"))
}

/// Mounts all of them and makes the directories of volumes that are mounted into the payload.
pub async fn mount_all(disks: &[GuestDisk]) -> Result<(), DiskError> {
    for (index, disk) in disks.iter().enumerate() {
        let device = device(index).await?;
        let (what, target) = match index {
            0 => ("root disk".to_owned(), PathBuf::from(ROOT)),
            _ => (format!("volume {}", index - 1), volume_dir(index - 1)),
        };
        // After an error nothing more is written. A journal cannot be played back on a device that takes no writes.
        let options = if disk.read_only {
            "noload"
        } else {
            "discard,errors=remount-ro"
        };
        make_dir(&target)?;
        let mut flags = MsFlags::MS_NOATIME;
        if index > 0 {
            flags |= MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        }
        if disk.read_only {
            flags |= MsFlags::MS_RDONLY;
        }
        mount(Some(&device), &target, Some("ext4"), flags, Some(options))
            .map_err(|errno| DiskError::Mount(what, errno))?;
        if index > 0 && !disk.read_only {
            // Programs that want an empty directory would not take this one; e2fsck makes it again when it needs it.
            let _ = fs::remove_dir(target.join("lost+found"));
        }
        for path in &disk.sub_paths {
            make_below(&target, path)?;
        }
    }
    Ok(())
}

/// Flushes and unmounts everything; what could not be, in words.
pub fn unmount_all(count: usize) -> Vec<String> {
    sync();
    let volumes = (0..count.saturating_sub(1)).rev().map(volume_dir);
    let mut faults: Vec<String> = volumes
        .chain([PathBuf::from(ROOT)])
        .filter_map(|target| match umount2(&target, MntFlags::empty()) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => None,
            Err(errno) => {
                // In use until the end: what was written is on the disk, and nothing more goes there.
                let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                let _ = mount(None::<&str>, &target, None::<&str>, read_only, None::<&str>);
                Some(format!("{} cannot be unmounted: {errno}", target.display()))
            }
        })
        .collect();
    if faults.is_empty() {
        faults.extend((0..count).filter_map(release_fault));
    }
    sync();
    faults
}

/// The payload's own mounts of a disk end a little after its last process, and only then is the filesystem clean: until
/// then its device cannot be had alone.
fn release_fault(index: usize) -> Option<String> {
    let path = device_path(index)?;
    let alone = OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let started = Instant::now();
    loop {
        match open(&path, alone, Mode::empty()) {
            Err(Errno::EBUSY) if started.elapsed() < PATIENCE => std::thread::sleep(STEP),
            Err(Errno::EBUSY) => return Some(format!("{} is still in use", path.display())),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Devices may still be coming when the machine is asked for them.
async fn device(index: usize) -> Result<PathBuf, DiskError> {
    let path = device_path(index).ok_or(DiskError::Missing(index))?;
    let mut waited = Duration::ZERO;
    while !path.exists() {
        if waited > PATIENCE {
            return Err(DiskError::Missing(index));
        }
        tokio::time::sleep(STEP).await;
        waited += STEP;
    }
    Ok(path)
}

/// No machine has more disks than letters.
fn device_path(index: usize) -> Option<PathBuf> {
    let letter = u8::try_from(index).ok().filter(|index| *index < 26)?;
    Some(PathBuf::from(format!("/dev/vd{}", char::from(b'a' + letter))))
}

/// Makes the directories of a path in a volume. What is in a volume is the payload's: through a link of it nothing is made.
fn make_below(volume: &Path, path: &str) -> Result<(), DiskError> {
    let fault = |errno: Errno| DiskError::Directory(volume.join(path), errno.into());
    let directory = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(directory)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let mut dir = open(volume, directory, Mode::empty()).map_err(fault)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match mkdirat(&dir, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::EROFS) => return Err(DiskError::NoDirectory(path.into())),
            Err(errno) => return Err(fault(errno)),
        }
        dir = match openat2(&dir, name, how) {
            Ok(below) => below,
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(DiskError::NotDirectory(path.into())),
            Err(errno) => return Err(fault(errno)),
        };
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(path).map_err(|error| DiskError::Directory(path.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_through_a_link_of_a_volume() {
        let dir = std::env::temp_dir().join(format!("capsule-guest-disks-{}", std::process::id()));
        let volume = dir.join("volume");
        fs::create_dir_all(&volume).unwrap();
        std::os::unix::fs::symlink(&dir, volume.join("out")).unwrap();
        make_below(&volume, "/a//b").unwrap();
        make_below(&volume, "a/b").unwrap();
        assert!(volume.join("a/b").is_dir());
        assert!(make_below(&volume, "out/made").is_err());
        assert!(make_below(&volume, "../made").is_err());
        assert!(!dir.join("made").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
