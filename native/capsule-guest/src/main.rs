//! `capsule-guest`: PID 1 of a microVM. It readies the guest, runs one payload as an OCI container, and answers the capsule
//! over a virtio serial port or virtio-vsock (proto/capsule/v1/guest.proto). Nothing in the guest is worth more than the payload's data: whatever ends
//! this program flushes the disks if it can, and powers the machine off.

mod boot;
mod caller;
mod cgroup;
mod console;
mod copy;
mod disks;
mod exec;
mod freeze;
mod log_stream;
mod logs;
mod network;
mod oci;
mod payload;
mod port;
mod power;
mod pressure;
mod reaper;
mod service;
mod stats;
mod streams;
mod terminal;
mod tool;
mod users;
mod virtio;
mod vsock;

use std::ffi::OsString;
use std::process::ExitCode;

/// Messages and the service, compiled from the .proto files.
pub mod api {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("capsule.v1");
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|word| word == "archive") {
        return capsule_payload::archive::command(&args[1..], "capsule-guest archive");
    }
    if std::process::id() != 1 {
        eprintln!("capsule-guest is PID 1 of a microVM; `capsule-guest archive …` is its archiver");
        return ExitCode::from(2);
    }
    let fault = boot::ready()
        .map_err(|error| error.to_string())
        .and_then(|()| service::serve());
    if let Err(error) = fault {
        console::say(error);
    }
    power::off_now()
}
