//! From the initramfs to a guest in which containers can be made: mounts, modules, control groups.

use crate::console::say;
use crate::virtio::has_device;
use displaydoc::Display;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use std::fs::{self, File};
use std::io;
use thiserror::Error;

const NONE: Option<&str> = None;
const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
/// Paths in the initramfs, in the order of loading; made with the image. Behind the path of one that is for a virtio device
/// alone is its type.
const MODULE_LIST: &str = "/lib/modules/order";

/// Type, target, flags, options; in the order of mounting.
const MOUNTS: [(&str, &str, MsFlags, &str); 7] = [
    ("proc", "/proc", NO_EXEC, ""),
    ("sysfs", "/sys", NO_EXEC, ""),
    ("devtmpfs", "/dev", DEVICES, "mode=0755"),
    ("devpts", "/dev/pts", DEVICES, "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/run", PLAIN, "mode=0755"),
    ("tmpfs", "/tmp", PLAIN, "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", NO_EXEC, "nsdelegate"),
];

#[derive(Debug, Error, Display)]
pub enum BootError {
    /// {0} failed: {1}
    Step(&'static str, Errno),
    /// {0}: {1}
    File(String, io::Error),
}

/// Readies the guest. Called once, before anything else.
pub fn ready() -> Result<(), BootError> {
    leave_initramfs()?;
    for (kind, target, flags, options) in MOUNTS {
        fs::create_dir_all(target).map_err(|error| BootError::File(target.into(), error))?;
        match mount(Some(kind), target, Some(kind), flags, Some(options)) {
            // The kernel has mounted it itself.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => return Err(BootError::Step(kind, errno)),
        }
    }
    load_modules()?;
    pass_controllers_on();
    Ok(())
}

/// The OCI runtime gives the payload its root by pivot_root(2), which the kernel refuses while the root is the initramfs
/// itself. A bind mount of it in its place is an ordinary mount, and takes no memory.
fn leave_initramfs() -> Result<(), BootError> {
    let step = |what| move |errno| BootError::Step(what, errno);
    fs::create_dir_all("/root").map_err(|error| BootError::File("/root".into(), error))?;
    mount(Some("/"), "/root", NONE, MsFlags::MS_BIND, NONE).map_err(step("binding the root"))?;
    chdir("/root").map_err(step("entering the root"))?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(step("moving the root"))?;
    chroot(".").map_err(step("chroot"))?;
    chdir("/").map_err(step("chdir"))?;
    // What the payload's namespace does with its mounts is no concern of this one.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(step("making mounts private"))
}

fn load_modules() -> Result<(), BootError> {
    let list = fs::read_to_string(MODULE_LIST).map_err(|error| BootError::File(MODULE_LIST.into(), error))?;
    for line in list.lines().filter(|line| !line.is_empty()) {
        let (path, device) = line.split_once(' ').unwrap_or((line, ""));
        if !device.is_empty() && !has_device(device) {
            continue;
        }
        let file = File::open(path).map_err(|error| BootError::File(path.into(), error))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // One for a device that this machine does not have says so.
            Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => {}
            Err(errno) => say(format_args!("module {path}: {errno}")),
        }
    }
    Ok(())
}

/// The payload's group gets its limits from these.
fn pass_controllers_on() {
    for controller in ["cpu", "memory", "pids", "io"] {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
}
