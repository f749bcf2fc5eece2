//! The process of a container that only others are started in, such as a debug session: it needs nothing of the image.

use nix::sys::signal::{SigSet, Signal};
use std::process::ExitCode;

pub fn main() -> ExitCode {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    match ends.thread_block().and_then(|()| ends.wait()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsule-init hold: {error}");
            ExitCode::FAILURE
        }
    }
}
