//! Ends of processes: of services, and of the orphans that every PID 1 inherits.

use super::Machine;
use crate::pid1::status;
use crate::pid1::supervisor::State;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::time::Instant;

impl Machine {
    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    self.childless = false;
                    break;
                }
                Ok(status) => self.reaped(status),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    self.childless = error == Errno::ECHILD;
                    break;
                }
            }
        }
    }

    fn reaped(&mut self, status: WaitStatus) {
        // An orphan needs no more than to be reaped.
        let Some(index) = status.pid().and_then(|pid| self.supervisor.owner(pid)) else {
            return;
        };
        let exit = status::describe_exit(status);
        let asked = matches!(self.supervisor.services()[index].state, State::Stopping { .. });
        let wait = self.supervisor.exited(index, Instant::now());
        self.logger.end_line(index);
        self.log(match wait {
            Some(wait) => format!(
                "{}: ended ({exit}), starts again in {} ms",
                self.name(index),
                wait.as_millis()
            ),
            None if asked => format!("{}: stopped ({exit})", self.name(index)),
            None => format!("{}: ended ({exit})", self.name(index)),
        });
        if !asked && self.phase.ending().is_none() {
            if let Some(trial) = &mut self.trial {
                let name = &self.supervisor.services()[index].spec.name;
                trial.ended(name, &exit, Instant::now());
            }
        }
        self.histories[index].last_exit = Some(exit);
    }
}
