//! Decides what to do with the services; does nothing itself. Time and what happened come in, [`Step`]s come out, so that
//! every decision can be tested without a process.
//!
//! Invariants: a service has at most one process; none is started while the machine goes down; a service that runs is
//! never touched because another one failed.
//!
//! What concerns one service alone is in `service`; here is what needs a view of all: their order, and going down.

mod service;
mod state;
mod step;

#[cfg(test)]
mod supervisor_test;

pub use service::Service;
pub use state::State;
pub use step::Step;

use super::config::ServiceSpec;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Supervisor {
    services: Vec<Service>,
    stopping: bool,
}

impl Supervisor {
    /// `specs` in start order.
    pub fn new(specs: Vec<ServiceSpec>, now: Instant) -> Self {
        Self {
            services: specs.into_iter().map(|spec| Service::new(spec, now)).collect(),
            stopping: false,
        }
    }

    pub fn services(&self) -> &[Service] {
        &self.services
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|service| service.spec.name == name)
    }

    /// The service whose process `pid` is.
    pub fn owner(&self, pid: Pid) -> Option<usize> {
        self.services
            .iter()
            .position(|service| service.state.pid() == Some(pid))
    }

    /// Everything that is due. Carry the steps out, answer them, and call again until it returns none.
    pub fn steps(&mut self, now: Instant) -> Vec<Step> {
        if self.stopping {
            self.stop_last_running();
        }
        (0..self.services.len())
            .filter_map(|index| {
                let ready = self.dependencies_ready(index);
                self.services[index].step(index, ready, now)
            })
            .collect()
    }

    /// When [`Self::steps`] has work next, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        // A service that waits for others is woken by their becoming ready, not by the clock.
        (0..self.services.len())
            .filter(|index| {
                !matches!(self.services[*index].state, State::Waiting { .. }) || self.dependencies_ready(*index)
            })
            .filter_map(|index| self.services[index].state.deadline())
            .min()
    }

    fn dependencies_ready(&self, index: usize) -> bool {
        let ready = |name: &String| {
            self.services
                .iter()
                .any(|other| other.spec.name == *name && other.is_ready())
        };
        self.services[index].spec.after.iter().all(ready)
    }

    /// Going down: one at a time, in reverse start order, each only when everything that started later is gone.
    fn stop_last_running(&mut self) {
        if let Some(service) = self
            .services
            .iter_mut()
            .rev()
            .find(|service| service.state.pid().is_some())
        {
            service.ask_to_stop();
        }
    }

    pub fn spawned(&mut self, index: usize, pid: Pid, now: Instant) {
        self.services[index].spawned(pid, now);
    }

    pub fn spawn_failed(&mut self, index: usize, now: Instant) {
        self.services[index].back_off(now);
    }

    pub fn checked(&mut self, index: usize, exists: bool, now: Instant) -> Option<Step> {
        self.services[index].checked(exists, now).then_some(Step::Spawn(index))
    }

    pub fn probed(&mut self, index: usize, accepts: bool, now: Instant) {
        self.services[index].probed(accepts, now);
    }

    /// The process of `index` has ended. Returns how long the service now waits, if it starts again by itself.
    pub fn exited(&mut self, index: usize, now: Instant) -> Option<Duration> {
        self.services[index].exited(self.stopping, now)
    }

    /// Operator's `start`; nothing happens to a service that runs.
    pub fn start(&mut self, index: usize, now: Instant) {
        self.services[index].start(now);
    }

    /// Operator's `stop`.
    pub fn stop(&mut self, index: usize) {
        self.services[index].stop();
    }

    /// Operator's `restart`.
    pub fn restart(&mut self, index: usize, now: Instant) {
        self.services[index].restart(now);
    }

    /// From now on everything only goes down.
    pub fn begin_shutdown(&mut self) {
        self.stopping = true;
        for service in &mut self.services {
            service.give_up();
        }
    }

    pub fn all_stopped(&self) -> bool {
        self.services.iter().all(|service| service.state.pid().is_none())
    }
}
