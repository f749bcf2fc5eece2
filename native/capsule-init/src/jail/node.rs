//! Disks and devices that a program opens by a path, as its own user or group. A device gets a node of its own in the root;
//! the capsule's, and whoever may open that, stay as they are.

use super::JailError;
use super::config::{Config, Node};
use super::root::{bind, empty_file, make_read_only};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mknod};
use nix::unistd::{Gid, Uid, chown};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// `target` is `node.at` as it is seen from outside.
pub fn make(node: &Node, target: &Path, config: &Config) -> Result<(), JailError> {
    let fault = |error: io::Error| JailError::File(node.path.clone(), error);
    let found = fs::metadata(&node.path).map_err(fault)?;
    let kind = found.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        let kind = if kind.is_block_device() {
            SFlag::S_IFBLK
        } else {
            SFlag::S_IFCHR
        };
        // Whoever owns a node may let himself write to it: one that stays read-only is root's, and its reader is of the group.
        let (owner, access) = if node.read_only {
            (0, Mode::S_IRGRP)
        } else {
            (config.uid, Mode::S_IRUSR | Mode::S_IWUSR)
        };
        // For the directories above it.
        empty_file(target)?;
        fs::remove_file(target).map_err(fault)?;
        mknod(target, kind, access, found.rdev()).map_err(|errno| fault(errno.into()))?;
        // Whatever the mask of this process is.
        fchmodat(AT_FDCWD, target, access, FchmodatFlags::FollowSymlink).map_err(|errno| fault(errno.into()))?;
        return give(target, owner, config.gid).map_err(fault);
    }
    empty_file(target)?;
    bind(&node.path, target)?;
    if node.read_only {
        make_read_only(target)?;
    }
    // The file of a pool is root's, and for root alone. Its next user takes it over, and root needs no leave. Several machines
    // that only read may have one: each has it open when the next one comes.
    give(&node.path, config.uid, config.gid).map_err(fault)
}

fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    Ok(chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}
