//! The end of the machine.

use crate::console::say;
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;
use std::process::ExitCode;
use std::time::Duration;

/// For the last answer to leave.
const GRACE: Duration = Duration::from_millis(100);

/// Both monitors end with a reset (QEMU by `-no-reboot`), and the machine has nothing that could switch its power off.
/// Should the reset fail, the end of PID 1 is a panic of the kernel, which resets too (`panic=-1`).
pub fn off_now() -> ExitCode {
    sync();
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
    say(format_args!("the machine cannot be reset: {errno}"));
    ExitCode::FAILURE
}

/// Ends the machine when the answer has left.
pub fn off_soon() {
    tokio::spawn(async {
        tokio::time::sleep(GRACE).await;
        std::process::exit(i32::from(off_now() == ExitCode::FAILURE));
    });
}
