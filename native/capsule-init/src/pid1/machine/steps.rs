//! Does what the supervisor wants done, and tells it how that went.

use super::Machine;
use crate::pid1::spawn;
use crate::pid1::supervisor::Step;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

impl Machine {
    /// Does everything that the supervisor wants done now.
    pub(super) fn carry_out(&mut self, now: Instant) {
        loop {
            let mut steps = self.supervisor.steps(now);
            if steps.is_empty() {
                break;
            }
            while let Some(step) = steps.pop() {
                let next = self.carry_out_step(step, now);
                steps.extend(next);
            }
        }
        for (service, history) in self.supervisor.services().iter().zip(&mut self.histories) {
            history.update(service);
        }
    }

    fn carry_out_step(&mut self, step: Step, now: Instant) -> Option<Step> {
        match step {
            Step::Spawn(index) => self.spawn(index, now),
            Step::CheckFile(index) => {
                let required = &self.supervisor.services()[index].spec.requires;
                let exists = required.as_ref().is_none_or(|path| path.exists());
                return self.supervisor.checked(index, exists, now);
            }
            Step::Probe(index) => {
                let socket = &self.supervisor.services()[index].spec.ready_socket;
                let accepts = socket.as_ref().is_none_or(|path| accepts(path));
                self.supervisor.probed(index, accepts, now);
            }
            Step::Terminate { index, pid } => {
                self.log(format!("{}: stopping (pid {pid})", self.name(index)));
                let _ = kill(pid, Signal::SIGTERM);
            }
            Step::Kill { index, pid } => {
                self.log(format!(
                    "{}: did not stop in time, killed (pid {pid})",
                    self.name(index)
                ));
                // Its whole group: it is its own session, so this reaches its helpers, but neither containerd's shims
                // nor microVMs, which have groups of their own.
                let _ = killpg(pid, Signal::SIGKILL);
            }
        }
        None
    }

    fn spawn(&mut self, index: usize, now: Instant) {
        let spec = &self.supervisor.services()[index].spec;
        match self.logger.input(index).and_then(|output| spawn::spawn(spec, output)) {
            Ok(pid) => {
                self.log(format!("{}: started (pid {pid})", spec.name));
                self.supervisor.spawned(index, pid, now);
            }
            Err(error) => {
                self.log(format!("{}: cannot start {}: {error}", spec.name, spec.argv[0]));
                self.supervisor.spawn_failed(index, now);
            }
        }
    }
}

/// Whether somebody accepts on the socket. Never waits: a full backlog counts as ready.
fn accepts(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(probe) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return false;
    };
    let Ok(address) = UnixAddr::new(path) else {
        return false;
    };
    matches!(connect(probe.as_raw_fd(), &address), Ok(()) | Err(Errno::EAGAIN))
}
