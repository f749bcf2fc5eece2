//! The network of a program that opens its TAP interface by its name. It can do so only in its own network namespace, where
//! the capsule's bridge is not: so the interface is there, and a veth pair leads from it to the capsule's namespace, where the
//! other end has the name that an interface given as a descriptor would have. A bridge of those two ends is the solder. Nothing
//! of it has an address, and all of it goes with the namespace.

use super::{JailError, tap};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const IP: &str = "/usr/bin/ip";
/// Interfaces that are made from now on say nothing by themselves: no addresses of the link, no discovery.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";

/// Leaves the network namespace of the capsule for a new one, which the program gets, and makes the interface in it. The caller
/// is in the process namespace of the capsule's first process.
pub fn leave_with_tap(name: &str, uid: u32) -> Result<(), JailError> {
    // The kernel takes a namespace down some time after its last process: what an earlier one had may be there still.
    let _ = ip(&format!("link delete dev {name}\n"), Stdio::null());
    leave()?;
    match fs::write(NO_IPV6, "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(JailError::File(PathBuf::from(NO_IPV6), error));
        }
        _ => {}
    }
    tap::make_tap(name, uid)?;
    let lines = [
        format!("link add name out type veth peer name {name} netns 1"),
        // Two ends: what comes in by one goes out by the other, and nothing has to be learnt.
        "link add name solder type bridge ageing_time 0 mcast_snooping 0".into(),
        "link set dev out master solder up".into(),
        format!("link set dev {name} master solder up"),
        "link set dev solder up\n".into(),
    ];
    ip(&lines.join("\n"), Stdio::inherit())
}

/// To a network namespace without an interface.
pub fn leave() -> Result<(), JailError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| JailError::System("unshare", errno))
}

fn ip(lines: &str, errors: Stdio) -> Result<(), JailError> {
    let fault = |error| JailError::File(PathBuf::from(IP), error);
    let mut child = Command::new(IP)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(fault)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).map_err(fault)?;
    }
    if child.wait().map_err(fault)?.success() {
        return Ok(());
    }
    Err(JailError::Network)
}
