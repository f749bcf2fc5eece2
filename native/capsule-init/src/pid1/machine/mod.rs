//! The machine: everything that PID 1 holds, and what it does with it, a file per subject. Calls go one way:
//! `start` → `event_loop` → `steps`, `answer` → `shutdown` → `children`.

mod answer;
mod children;
mod event_loop;
mod phase;
mod shutdown;
mod start;
mod steps;

pub use start::run;

use super::Role;
use super::logger::Logger;
use super::status::History;
use super::supervisor::Supervisor;
use super::trial::Trial;
use super::watchdog::WatchdogSlot;
use phase::Phase;
use std::time::Instant;

struct Machine {
    role: Role,
    started: Instant,
    faults: Vec<String>,
    supervisor: Supervisor,
    histories: Vec<History>,
    logger: Logger,
    watchdog: WatchdogSlot,
    /// Until the version that runs is confirmed.
    trial: Option<Trial>,
    phase: Phase,
    /// The last waitpid found no child at all.
    childless: bool,
}

impl Machine {
    fn log(&self, text: String) {
        self.logger.line(text);
    }

    fn name(&self, index: usize) -> &str {
        &self.supervisor.services()[index].spec.name
    }
}
