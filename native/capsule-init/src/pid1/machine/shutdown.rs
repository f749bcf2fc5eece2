//! Going down, phase by phase, to the last call of the kernel.

use super::Machine;
use super::phase::{Ending, Phase};
use crate::pid1::{Role, SHUTDOWN_FILE, mounts, trial};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, sync};
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From SIGTERM to SIGKILL for every process that is not a service.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(5);
/// How long killed processes may take to vanish; one that hangs in the kernel never does.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
const LOG_PATIENCE: Duration = Duration::from_secs(3);

impl Machine {
    /// Asked twice for the same it is content; the other ending is refused.
    pub(super) fn begin_shutdown(&mut self, ending: Ending) -> Result<(), String> {
        if let Some(under_way) = self.phase.ending() {
            return if under_way == ending {
                Ok(())
            } else {
                Err(format!("the machine goes down already ({})", under_way.word()))
            };
        }
        self.log(format!("going down ({})", ending.word()));
        // Before any service hears of it: the file tells capsuled to stop the workloads, not only itself.
        if let Err(error) = fs::write(SHUTDOWN_FILE, ending.word()) {
            self.log(format!(
                "{SHUTDOWN_FILE}: {error}: workloads will be ended without order"
            ));
        }
        self.supervisor.begin_shutdown();
        self.phase = Phase::StoppingServices(ending);
        Ok(())
    }

    /// Ends the trial of the version that runs, if there is a reason: the next boot is one of the version before.
    pub(super) fn give_up(&mut self, reason: Option<String>) {
        let Some(reason) = reason else { return };
        self.trial = None;
        self.log(format!("the version on trial is given up: {reason}"));
        if let Err(error) = trial::note(&reason) {
            self.log(format!("the reason could not be kept: {error}"));
        }
        // Going down already leads there too.
        let _ = self.begin_shutdown(Ending::Reboot);
    }

    /// Goes to the next phase of going down when this one is over.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Phase::StoppingServices(ending) = self.phase {
            if !self.supervisor.all_stopped() {
                return;
            }
            self.signal_everything(Signal::SIGTERM);
            self.phase = Phase::Terminating(ending, now + TERMINATE_PATIENCE);
            self.reap();
        }
        if let Phase::Terminating(ending, until) = self.phase {
            if !self.childless && now < until {
                return;
            }
            // Also when no child is left: processes that entered from outside are not our children.
            self.signal_everything(Signal::SIGKILL);
            self.phase = Phase::Killing(ending, now + KILL_PATIENCE);
            self.reap();
        }
        if let Phase::Killing(ending, until) = self.phase {
            if self.childless || now >= until {
                if !self.childless {
                    self.log("some processes did not end".into());
                }
                self.phase = Phase::Down(ending);
            }
        }
    }

    fn signal_everything(&self, signal: Signal) {
        match self.role {
            // As PID 1: every process of the machine or namespace but this one.
            Role::Machine | Role::Container => drop(kill(Pid::from_raw(-1), signal)),
            Role::Child => {
                let me = getpid();
                let children = fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
                for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }

    /// The last that runs. On a machine it returns only if the kernel refuses.
    pub(super) fn end(self) -> ExitCode {
        let Phase::Down(ending) = self.phase else {
            return ExitCode::FAILURE;
        };
        self.log(format!("down ({})", ending.word()));
        self.logger.close(LOG_PATIENCE);
        if self.role != Role::Machine {
            return ExitCode::SUCCESS;
        }
        sync();
        for fault in mounts::release() {
            eprintln!("capsule-init: {fault}");
        }
        sync();
        let mode = match ending {
            Ending::Reboot => RebootMode::RB_AUTOBOOT,
            Ending::PowerOff => {
                self.watchdog.disarm();
                RebootMode::RB_POWER_OFF
            }
        };
        let Err(error) = reboot(mode);
        eprintln!("capsule-init: the kernel refuses to {}: {error}", ending.word());
        ExitCode::FAILURE
    }
}
