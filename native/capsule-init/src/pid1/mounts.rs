//! Early mounts, and at the end of a real machine the unmounts.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Type, target, flags, options; in the order of mounting.
const MOUNTS: [(&str, &str, MsFlags, &str); 8] = [
    ("proc", "/proc", NO_EXEC, ""),
    ("sysfs", "/sys", NO_EXEC, ""),
    ("devtmpfs", "/dev", DEVICES, "mode=0755"),
    ("devpts", "/dev/pts", DEVICES, "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", PLAIN, "mode=1777"),
    ("tmpfs", "/run", PLAIN, "mode=0755"),
    ("tmpfs", "/tmp", PLAIN, "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", NO_EXEC, "nsdelegate"),
];

/// Mounts what is missing and makes the directories that others rely on. Never fails: what did not work is returned, for
/// a PID 1 goes on with what it has.
pub fn early(log_dir: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for (kind, target, flags, options) in MOUNTS {
        // A runner has usually made these already, with its own idea of what belongs inside.
        if is_mount_point(target) {
            continue;
        }
        let _ = make_dir(target, 0o755);
        if let Err(error) = mount(Some(kind), target, Some(kind), flags, Some(options)) {
            faults.push(format!("cannot mount {kind} on {target}: {error}"));
        }
    }
    // What is mounted later comes to whoever has a copy of the tree, and what is unmounted leaves it (mount_namespaces(7)):
    // a debug session shows the capsule as it is, and keeps no device of a volume busy that the capsule has let go.
    if let Err(error) = mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None::<&str>,
    ) {
        faults.push(format!("cannot share mounts with debug sessions: {error}"));
    }
    for dir in [Path::new("/run/capsule"), log_dir] {
        if let Err(error) = make_dir(dir, 0o755) {
            faults.push(format!("cannot make {}: {error}", dir.display()));
        }
    }
    faults
}

/// Moves PID 1 into the cgroup `system` and hands every controller to the cgroups beside it. Only where the root of the
/// cgroup tree is version 2; with version 1 the runtime needs no help.
pub fn delegate_cgroups() -> Result<(), String> {
    const ROOT: &str = "/sys/fs/cgroup";
    if !statfs(ROOT).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Ok(());
    }
    let controllers = fs::read_to_string(format!("{ROOT}/cgroup.controllers")).unwrap_or_default();
    if controllers.trim().is_empty() {
        return Ok(());
    }
    // In a cgroup namespace the root is an ordinary cgroup, whose controllers cannot be handed on while processes live in it.
    let at = |what: &'static str| move |error: io::Error| format!("cgroups: {what}: {error}");
    make_dir(format!("{ROOT}/system"), 0o755).map_err(at("system"))?;
    for pid in fs::read_to_string(format!("{ROOT}/cgroup.procs"))
        .map_err(at("cgroup.procs"))?
        .lines()
    {
        // Kernel threads cannot be moved, and need not be.
        let _ = fs::write(format!("{ROOT}/system/cgroup.procs"), pid);
    }
    // One by one: a controller that cannot be enabled must not take the others with it.
    let mut failed = Vec::new();
    for name in controllers.split_whitespace() {
        if let Err(error) = fs::write(format!("{ROOT}/cgroup.subtree_control"), format!("+{name}")) {
            failed.push(format!("{name} ({error})"));
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("cgroups: not delegated: {}", failed.join(", ")))
    }
}

/// Unmounts `/perm` and everything below it, deepest first; what is busy becomes read-only. Returns what did not work.
/// Nothing else holds data of ours, and a read-only remount of a mount that we do not know could hit its other users.
pub fn release() -> Vec<String> {
    let mut faults = Vec::new();
    let ours = |point: &String| point == "/perm" || point.starts_with("/perm/");
    for target in mount_points().into_iter().filter(ours).rev() {
        if umount2(target.as_str(), MntFlags::empty()).is_ok() {
            continue;
        }
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(error) = mount(None::<&str>, target.as_str(), None::<&str>, read_only, None::<&str>) {
            faults.push(format!("cannot release {target}: {error}"));
        }
    }
    faults
}

fn make_dir(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn is_mount_point(target: &str) -> bool {
    mount_points().iter().any(|point| point == target)
}

/// All mount points, in the order of mounting; none when /proc is not there yet.
fn mount_points() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Field 5 of proc_pid_mountinfo(5), with blanks and the like as octal escapes.
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mount_points_with_blanks() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain\04"), r"/plain\04");
        assert!(is_mount_point("/proc"));
        assert!(!is_mount_point("/proc/self"));
    }
}
