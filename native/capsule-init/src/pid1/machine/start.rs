//! The life of the machine from its start: takes what its role may touch, runs the loop, ends.

use super::Machine;
use super::event_loop::Sources;
use super::phase::Phase;
use crate::pid1::config::Config;
use crate::pid1::logger::Logger;
use crate::pid1::status::History;
use crate::pid1::supervisor::Supervisor;
use crate::pid1::trial::Trial;
use crate::pid1::watchdog::WatchdogSlot;
use crate::pid1::{Role, SHUTDOWN_FILE, mounts};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::reboot::set_cad_enabled;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

pub fn run(role: Role, config_path: &Path) -> ExitCode {
    let mut notes = Vec::new();
    let mut config = Config::load(config_path);
    if role != Role::Machine {
        config.services.retain(|service| !service.machine_only);
    }
    if role != Role::Child {
        notes.extend(mounts::early(&config.log_dir));
        notes.extend(mounts::delegate_cgroups().err());
    } else if let Err(error) = set_child_subreaper(true) {
        notes.push(format!("cannot adopt orphans: {error}"));
    }
    match start(role, &config, &notes) {
        Ok((mut machine, sources)) => {
            machine.main_loop(&sources);
            machine.end()
        }
        Err(error) => {
            // Not even a signalfd: nothing can be supervised. On a machine the kernel's panic (and then a reboot, where
            // `panic=` is set) is the only honest way out.
            eprintln!("capsule-init: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(role: Role, config: &Config, notes: &[String]) -> nix::Result<(Machine, Sources)> {
    // Before the log thread starts, which inherits the mask: all signals are for the signalfd.
    let sources = Sources::open()?;
    let now = Instant::now();
    let mut machine = Machine {
        role,
        started: now,
        faults: config.faults.clone(),
        supervisor: Supervisor::new(config.services.clone(), now),
        histories: vec![History::default(); config.services.len()],
        logger: Logger::start(config)?,
        watchdog: WatchdogSlot::none(),
        trial: None,
        phase: Phase::Up,
        childless: false,
    };
    machine.log(format!("version {} as {role:?}", env!("CARGO_PKG_VERSION")));
    for fault in notes {
        machine.log(fault.clone());
    }
    for fault in &config.faults {
        machine.log(format!("service table: {fault}"));
    }
    if role == Role::Machine {
        machine.take_the_machine(config.watchdog.as_deref(), now);
    }
    let _ = fs::remove_file(SHUTDOWN_FILE);
    Ok((machine, sources))
}

impl Machine {
    /// What only the owner of a real machine does.
    fn take_the_machine(&mut self, watchdog: Option<&Path>, now: Instant) {
        // Ctrl-Alt-Del then sends SIGINT here instead of resetting the machine.
        if let Err(error) = set_cad_enabled(false) {
            self.log(format!("Ctrl-Alt-Del stays with the kernel: {error}"));
        }
        self.watchdog = WatchdogSlot::awaiting(watchdog, now);
        self.trial = Trial::found(now);
        if self.trial.is_some() {
            self.log("the version that runs is on trial".into());
        }
    }
}
