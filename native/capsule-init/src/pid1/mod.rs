//! PID 1: early mounts, then one loop over signals, the control socket and timers, until the machine goes down.
//!
//! The order of going down: `/run/capsule/shutdown` appears; services end in reverse order (capsuled stops the workloads);
//! every other process gets SIGTERM, then SIGKILL; logs are closed; on a real machine everything is synced and unmounted
//! and the kernel is told; in a container PID 1 just exits with 0.

mod config;
mod control;
mod logger;
mod machine;
mod mounts;
mod spawn;
mod status;
mod supervisor;
mod trial;
mod watchdog;

use config::Config;
use nix::unistd::getpid;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Path of the control socket.
pub const CONTROL_SOCKET: &str = "/run/capsule/init.sock";
const SHUTDOWN_FILE: &str = "/run/capsule/shutdown";
const DEFAULT_CONFIG: &str = "/etc/capsule/init.json";

/// What PID 1 may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A machine of its own: mounts, watchdog, reboot(2).
    Machine,
    /// PID 1 of a container: mounts what its runner left out, and exits at the end.
    Container,
    /// Below another PID 1, for tests: no mounts, and signals reach its own descendants only.
    Child,
}

pub fn main(args: &[OsString]) -> ExitCode {
    let mut config = PathBuf::from(DEFAULT_CONFIG);
    let mut as_child = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match (arg.to_str(), args.len()) {
            (Some("--as-child"), _) => as_child = true,
            (Some("--config"), 1..) => config = args.next().map(PathBuf::from).unwrap_or(config),
            // The kernel passes words of its command line that it does not know; a PID 1 does not stop at them.
            _ if getpid().as_raw() == 1 => {}
            _ => {
                eprintln!("capsule-init: {}: unknown option", arg.to_string_lossy());
                return ExitCode::from(2);
            }
        }
    }
    let role = match (getpid().as_raw() == 1, as_child) {
        (true, _) if std::env::var_os("container").is_some() => Role::Container,
        (true, _) => Role::Machine,
        (false, true) => Role::Child,
        (false, false) => {
            eprintln!(
                "capsule-init: this is PID 1 of a capsule; to talk to a running one use `capsule-init ctl status`"
            );
            return ExitCode::from(2);
        }
    };
    machine::run(role, &config)
}

pub fn check_config(args: &[OsString]) -> ExitCode {
    let path = args.first().map_or(Path::new(DEFAULT_CONFIG), Path::new);
    let faults = Config::load(path).faults;
    for fault in &faults {
        eprintln!("capsule-init: {}: {fault}", path.display());
    }
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
