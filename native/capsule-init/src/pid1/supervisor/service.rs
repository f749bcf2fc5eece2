//! One service: where it is, where it should get to, and how one leads to the other. Knows no other service; what needs
//! a view of all of them comes in as an argument.

use super::state::{PROBE_FIRST, PROBE_MAX, State};
use super::step::Step;
use crate::pid1::config::ServiceSpec;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A service that ran this long is healthy again: the next failure starts at the first backoff.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Service {
    pub spec: ServiceSpec,
    pub state: State,
    /// Starts after the first one.
    pub restarts: u64,
    starts: u64,
    wanted: bool,
    failures: u32,
}

impl Service {
    pub fn new(spec: ServiceSpec, now: Instant) -> Self {
        Self {
            spec,
            state: State::waiting(now),
            restarts: 0,
            starts: 0,
            wanted: true,
            failures: 0,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// What is due. `index` is its own place; `ready` says that everything it comes after is ready.
    pub fn step(&mut self, index: usize, ready: bool, now: Instant) -> Option<Step> {
        match &mut self.state {
            State::Waiting { check_at, .. } if ready && *check_at <= now => Some(match self.spec.requires {
                Some(_) => Step::CheckFile(index),
                None => Step::Spawn(index),
            }),
            State::Backoff { until } if *until <= now => {
                self.state = State::waiting(now);
                self.step(index, ready, now)
            }
            State::Starting { probe_at, .. } if *probe_at <= now => Some(Step::Probe(index)),
            State::Stopping { pid, asked, kill_at } => {
                if !*asked {
                    *asked = true;
                    *kill_at = Some(now + self.spec.stop_timeout());
                    return Some(Step::Terminate { index, pid: *pid });
                }
                if kill_at.is_some_and(|at| at <= now) {
                    *kill_at = None;
                    return Some(Step::Kill { index, pid: *pid });
                }
                None
            }
            State::Stopped
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Backoff { .. } => None,
        }
    }

    pub fn spawned(&mut self, pid: Pid, now: Instant) {
        self.restarts = self.starts;
        self.starts += 1;
        self.state = match self.spec.ready_socket {
            Some(_) => State::Starting {
                pid,
                since: now,
                probe_at: now + PROBE_FIRST,
                delay: PROBE_FIRST,
            },
            None => State::Running { pid, since: now },
        };
    }

    /// Whether its file exists; `true` if it may start now.
    pub fn checked(&mut self, exists: bool, now: Instant) -> bool {
        let State::Waiting { check_at, delay } = &mut self.state else {
            return false;
        };
        if !exists {
            *delay = (*delay * 2).min(PROBE_MAX);
            *check_at = now + *delay;
        }
        exists
    }

    pub fn probed(&mut self, accepts: bool, now: Instant) {
        if let State::Starting {
            pid,
            since,
            probe_at,
            delay,
        } = &mut self.state
        {
            if accepts {
                self.state = State::Running {
                    pid: *pid,
                    since: *since,
                };
            } else {
                *delay = (*delay * 2).min(PROBE_MAX);
                *probe_at = now + *delay;
            }
        }
    }

    /// Its process has ended. Returns how long it now waits, if it starts again by itself.
    pub fn exited(&mut self, going_down: bool, now: Instant) -> Option<Duration> {
        match self.state {
            _ if going_down || !self.wanted => self.state = State::Stopped,
            // Asked for by the operator: no backoff.
            State::Stopping { .. } => self.state = State::waiting(now),
            State::Starting { since, .. } | State::Running { since, .. } => {
                if now.duration_since(since) >= HEALTHY_AFTER {
                    self.failures = 0;
                }
                return Some(self.back_off(now));
            }
            State::Stopped | State::Waiting { .. } | State::Backoff { .. } => {}
        }
        None
    }

    /// It failed: waits, twice as long each time.
    pub fn back_off(&mut self, now: Instant) -> Duration {
        let wait = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures += 1;
        self.state = State::Backoff { until: now + wait };
        wait
    }

    pub fn start(&mut self, now: Instant) {
        self.wanted = true;
        if matches!(self.state, State::Stopped | State::Backoff { .. }) {
            self.failures = 0;
            self.state = State::waiting(now);
        }
    }

    pub fn stop(&mut self) {
        self.wanted = false;
        self.ask_to_stop();
    }

    pub fn restart(&mut self, now: Instant) {
        self.start(now);
        self.ask_to_stop_if_running();
    }

    /// Never starts again; a process that it has goes on until [`Self::ask_to_stop`].
    pub fn give_up(&mut self) {
        self.wanted = false;
        if self.state.pid().is_none() {
            self.state = State::Stopped;
        }
    }

    pub fn ask_to_stop(&mut self) {
        match self.state.pid() {
            Some(_) => self.ask_to_stop_if_running(),
            None => self.state = State::Stopped,
        }
    }

    fn ask_to_stop_if_running(&mut self) {
        if let State::Starting { pid, .. } | State::Running { pid, .. } = self.state {
            self.state = State::Stopping {
                pid,
                asked: false,
                kill_at: None,
            };
        }
    }
}
