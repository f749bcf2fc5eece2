//! The root of the program: nothing in it but what the configuration names.

use super::JailError;
use super::config::Config;
use super::node;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;
/// Since /usr was merged, these are links.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Enters it for good. The caller is in a mount namespace of its own.
pub fn enter(config: &Config) -> Result<(), JailError> {
    let root = &config.root;
    let system = |what| move |errno| JailError::System(what, errno);
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(system("making mounts private"))?;
    mount(Some(root), root, NONE, MsFlags::MS_BIND, NONE).map_err(system("binding the root"))?;
    for dir in &config.read_only {
        let target = place_in(root, dir);
        fs::create_dir_all(&target).map_err(|error| JailError::File(target.clone(), error))?;
        bind(dir, &target)?;
        make_read_only(&target)?;
    }
    for name in MERGED {
        // There from an earlier start of the same machine.
        let _ = symlink(format!("usr/{name}"), root.join(name));
    }
    // The capsule's /run, in which the root is, has no device nodes.
    let dev = root.join("dev");
    fs::create_dir_all(&dev).map_err(|error| JailError::File(dev.clone(), error))?;
    let options = Some("mode=0755,size=64k");
    let no_programs = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &dev, Some("tmpfs"), no_programs, options).map_err(system("mounting its /dev"))?;
    for device in &config.devices {
        let target = place_in(root, device);
        empty_file(&target)?;
        bind(device, &target)?;
    }
    for node in &config.nodes {
        node::make(node, &place_in(root, &node.at), config)?;
    }
    // What is mounted below stays as it is: `run` is a part of the capsule's /run and can be written to by its owner.
    chdir(root).map_err(system("entering the root"))?;
    // The old root is stacked upon the new one, and taken off (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".").map_err(system("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(system("leaving the old root"))?;
    chdir("/").map_err(system("chdir"))
}

/// With the directories that lead to it.
pub fn empty_file(path: &Path) -> Result<(), JailError> {
    let file = |error| JailError::File(path.to_path_buf(), error);
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(file)?;
    File::create(path).map(drop).map_err(file)
}

pub fn bind(from: &Path, to: &Path) -> Result<(), JailError> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE)
        .map_err(|errno| JailError::File(from.to_path_buf(), errno.into()))
}

/// Of something that is bound there.
pub fn make_read_only(target: &Path) -> Result<(), JailError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, target, NONE, flags, NONE).map_err(|errno| JailError::System("making it read-only", errno))
}

fn place_in(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
