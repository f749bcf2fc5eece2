//! `capsule-init`: PID 1 of a capsule, and with a subcommand the small tools that must not depend on anything else.

mod ctl;
mod hold;
mod jail;
mod log_mode;
mod pid1;
mod power_button;

use std::ffi::OsString;
use std::process::ExitCode;

const USAGE: &str = "usage:
  capsule-init [--config FILE]               run as PID 1 (--as-child: run below another PID 1, for tests)
  capsule-init check-config FILE             check a service table, print every fault
  capsule-init ctl status|reboot|poweroff|start NAME|stop NAME|restart NAME
  capsule-init power-button                  power the machine off when its button is pressed
  capsule-init hold                          wait for SIGTERM: what a container runs that has nothing of its own to run
  capsule-init log DIR max-bytes N files N   log writer of a container, started by containerd's shim
  capsule-init archive pack|unpack|stat --root R PATH
  capsule-init jail CONFIG.json              run a virtual machine monitor apart from everything";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let first = args.first().and_then(|word| word.to_str());
    match first {
        None | Some("--config" | "--as-child") => pid1::main(&args),
        // The shim passes the query of the logger's URI as arguments, in any order: each of its keys may come first.
        Some("log" | "max-bytes" | "files") => log_mode::main(&args),
        Some("archive") => capsule_payload::archive::command(&args[1..], "capsule-init archive"),
        Some("jail") => jail::main(&args[1..]),
        Some("ctl") => ctl::main(&args[1..]),
        Some("power-button") => power_button::main(),
        Some("hold") => hold::main(),
        Some("check-config") => pid1::check_config(&args[1..]),
        Some("version") => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
