//! Decides what to do with the services; does nothing itself. Time and what happened come in, [`Step`]s come out, so that
//! every decision can be tested without a process.
//!
//! Invariants: a service has at most one process; none is started while the machine goes down; a service that runs is
//! never touched because another one failed.

use super::config::ServiceSpec;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A service that ran this long is healthy again: the next failure starts at the first backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
const PROBE_FIRST: Duration = Duration::from_millis(10);
const PROBE_MAX: Duration = Duration::from_millis(500);

/// What the caller must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start it; answer with [`Supervisor::spawned`] or [`Supervisor::spawn_failed`].
    Spawn(usize),
    /// See whether its `requires` exists; answer with [`Supervisor::checked`].
    CheckFile(usize),
    /// See whether its socket accepts; answer with [`Supervisor::probed`].
    Probe(usize),
    /// Ask its process to end.
    Terminate { index: usize, pid: Pid },
    /// Its process did not end in time: kill its whole process group.
    Kill { index: usize, pid: Pid },
}

/// Lifecycle of one service. `wanted` of the service says where it should get to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running, not wanted.
    Stopped,
    /// Wanted; waits for its dependencies, or for its file at the next check.
    Waiting { check_at: Instant, delay: Duration },
    /// Runs, its socket does not accept yet.
    Starting {
        pid: Pid,
        since: Instant,
        probe_at: Instant,
        delay: Duration,
    },
    /// Runs and is ready.
    Running { pid: Pid, since: Instant },
    /// Was asked to end. `kill_at` is `None` once SIGKILL was sent.
    Stopping {
        pid: Pid,
        asked: bool,
        kill_at: Option<Instant>,
    },
    /// Ended by itself; starts again at `until`.
    Backoff { until: Instant },
}

impl State {
    /// The name in `status`.
    pub fn name(&self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Waiting { .. } => "waiting",
            State::Starting { .. } => "starting",
            State::Running { .. } => "running",
            State::Stopping { .. } => "stopping",
            State::Backoff { .. } => "backoff",
        }
    }

    pub fn pid(&self) -> Option<Pid> {
        match self {
            State::Starting { pid, .. } | State::Running { pid, .. } | State::Stopping { pid, .. } => Some(*pid),
            State::Stopped | State::Waiting { .. } | State::Backoff { .. } => None,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            State::Waiting { check_at, .. } => Some(*check_at),
            State::Starting { probe_at, .. } => Some(*probe_at),
            State::Stopping { kill_at, .. } => *kill_at,
            State::Backoff { until } => Some(*until),
            State::Stopped | State::Running { .. } => None,
        }
    }
}

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

#[derive(Debug)]
pub struct Supervisor {
    services: Vec<Service>,
    stopping: bool,
}

impl Supervisor {
    /// `specs` in start order.
    pub fn new(specs: Vec<ServiceSpec>, now: Instant) -> Self {
        let services = specs
            .into_iter()
            .map(|spec| Service {
                spec,
                state: waiting(now),
                restarts: 0,
                starts: 0,
                wanted: true,
                failures: 0,
            })
            .collect();
        Self {
            services,
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
            .filter_map(|index| self.step(index, now))
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

    fn step(&mut self, index: usize, now: Instant) -> Option<Step> {
        let ready = self.dependencies_ready(index);
        let service = &mut self.services[index];
        match &mut service.state {
            State::Waiting { check_at, .. } if ready && *check_at <= now => Some(match service.spec.requires {
                Some(_) => Step::CheckFile(index),
                None => Step::Spawn(index),
            }),
            State::Backoff { until } if *until <= now => {
                service.state = waiting(now);
                self.step(index, now)
            }
            State::Starting { probe_at, .. } if *probe_at <= now => Some(Step::Probe(index)),
            State::Stopping { pid, asked, kill_at } => {
                if !*asked {
                    *asked = true;
                    *kill_at = Some(now + service.spec.stop_timeout());
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

    fn dependencies_ready(&self, index: usize) -> bool {
        let ready = |name: &String| {
            self.services
                .iter()
                .any(|other| other.spec.name == *name && matches!(other.state, State::Running { .. }))
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
        let service = &mut self.services[index];
        service.restarts = service.starts;
        service.starts += 1;
        service.state = match service.spec.ready_socket {
            Some(_) => State::Starting {
                pid,
                since: now,
                probe_at: now + PROBE_FIRST,
                delay: PROBE_FIRST,
            },
            None => State::Running { pid, since: now },
        };
    }

    pub fn spawn_failed(&mut self, index: usize, now: Instant) {
        self.services[index].back_off(now);
    }

    pub fn checked(&mut self, index: usize, exists: bool, now: Instant) -> Option<Step> {
        let State::Waiting { check_at, delay } = &mut self.services[index].state else {
            return None;
        };
        if exists {
            return Some(Step::Spawn(index));
        }
        *delay = (*delay * 2).min(PROBE_MAX);
        *check_at = now + *delay;
        None
    }

    pub fn probed(&mut self, index: usize, accepts: bool, now: Instant) {
        let service = &mut self.services[index];
        if let State::Starting {
            pid,
            since,
            probe_at,
            delay,
        } = &mut service.state
        {
            if accepts {
                service.state = State::Running {
                    pid: *pid,
                    since: *since,
                };
            } else {
                *delay = (*delay * 2).min(PROBE_MAX);
                *probe_at = now + *delay;
            }
        }
    }

    /// The process of `index` has ended. Returns how long the service now waits, if it starts again by itself.
    pub fn exited(&mut self, index: usize, now: Instant) -> Option<Duration> {
        let stopping = self.stopping;
        let service = &mut self.services[index];
        match service.state {
            _ if stopping || !service.wanted => service.state = State::Stopped,
            // Asked for by the operator: no backoff.
            State::Stopping { .. } => service.state = waiting(now),
            State::Starting { since, .. } | State::Running { since, .. } => {
                if now.duration_since(since) >= HEALTHY_AFTER {
                    service.failures = 0;
                }
                return Some(service.back_off(now));
            }
            State::Stopped | State::Waiting { .. } | State::Backoff { .. } => {}
        }
        None
    }

    /// Operator's `start`; nothing happens to a service that runs.
    pub fn start(&mut self, index: usize, now: Instant) {
        let service = &mut self.services[index];
        service.wanted = true;
        if matches!(service.state, State::Stopped | State::Backoff { .. }) {
            service.failures = 0;
            service.state = waiting(now);
        }
    }

    /// Operator's `stop`.
    pub fn stop(&mut self, index: usize) {
        let service = &mut self.services[index];
        service.wanted = false;
        service.ask_to_stop();
    }

    /// Operator's `restart`.
    pub fn restart(&mut self, index: usize, now: Instant) {
        self.start(index, now);
        self.services[index].ask_to_stop_if_running();
    }

    /// From now on everything only goes down.
    pub fn begin_shutdown(&mut self) {
        self.stopping = true;
        for service in &mut self.services {
            service.wanted = false;
            if service.state.pid().is_none() {
                service.state = State::Stopped;
            }
        }
    }

    pub fn all_stopped(&self) -> bool {
        self.services.iter().all(|service| service.state.pid().is_none())
    }
}

impl Service {
    fn ask_to_stop(&mut self) {
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

    fn back_off(&mut self, now: Instant) -> Duration {
        let wait = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures += 1;
        self.state = State::Backoff { until: now + wait };
        wait
    }
}

fn waiting(now: Instant) -> State {
    State::Waiting {
        check_at: now,
        delay: PROBE_FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, after: &[&str]) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            argv: vec!["/bin/true".into()],
            env: Default::default(),
            after: after.iter().map(|name| name.to_string()).collect(),
            ready_socket: None,
            requires: None,
            stop_timeout_ms: 1000,
            oom_score_adj: None,
            machine_only: false,
        }
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    const A: Pid = Pid::from_raw(100);
    const B: Pid = Pid::from_raw(101);

    #[test]
    fn starts_a_dependent_when_the_socket_accepts() {
        let now = Instant::now();
        let first = ServiceSpec {
            ready_socket: Some("/s".into()),
            ..spec("a", &[])
        };
        let mut supervisor = Supervisor::new(vec![first, spec("b", &["a"])], now);
        assert_eq!(supervisor.steps(now), [Step::Spawn(0)]);
        supervisor.spawned(0, A, now);
        assert_eq!(supervisor.steps(now), []);
        assert_eq!(supervisor.deadline(), Some(now + PROBE_FIRST));
        let later = now + PROBE_FIRST;
        assert_eq!(supervisor.steps(later), [Step::Probe(0)]);
        supervisor.probed(0, false, later);
        assert_eq!(supervisor.deadline(), Some(later + PROBE_FIRST * 2));
        supervisor.probed(0, true, later);
        assert_eq!(supervisor.steps(later), [Step::Spawn(1)]);
        supervisor.spawned(1, B, later);
        assert_eq!(supervisor.steps(later), []);
        assert_eq!(supervisor.deadline(), None, "a quiet machine sets no timer");
    }

    #[test]
    fn waits_for_a_required_file() {
        let now = Instant::now();
        let spec = ServiceSpec {
            requires: Some("/f".into()),
            ..spec("a", &[])
        };
        let mut supervisor = Supervisor::new(vec![spec], now);
        assert_eq!(supervisor.steps(now), [Step::CheckFile(0)]);
        assert_eq!(supervisor.checked(0, false, now), None);
        assert_eq!(supervisor.steps(now), []);
        assert_eq!(supervisor.checked(0, true, now), Some(Step::Spawn(0)));
    }

    #[test]
    fn backs_off_twice_as_long_each_time_and_forgets_after_health() {
        let mut now = Instant::now();
        let mut supervisor = Supervisor::new(vec![spec("a", &[])], now);
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(supervisor.steps(now), [Step::Spawn(0)]);
            supervisor.spawned(0, A, now);
            assert_eq!(supervisor.exited(0, now + ms(1)), Some(ms(expected)));
            assert_eq!(supervisor.steps(now + ms(expected)), []);
            now += ms(1 + expected);
        }
        assert_eq!(supervisor.services()[0].restarts, 8);
        assert_eq!(supervisor.steps(now), [Step::Spawn(0)]);
        supervisor.spawned(0, A, now);
        assert_eq!(supervisor.exited(0, now + HEALTHY_AFTER), Some(BACKOFF_FIRST));
    }

    #[test]
    fn a_failed_dependency_touches_no_dependent() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(vec![spec("a", &[]), spec("b", &["a"])], now);
        supervisor.spawned(0, A, now);
        supervisor.spawned(1, B, now);
        supervisor.exited(0, now);
        assert_eq!(supervisor.steps(now), []);
        assert_eq!(supervisor.services()[1].state, State::Running { pid: B, since: now });
    }

    #[test]
    fn restart_is_immediate_and_a_stopped_service_stays_stopped() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(vec![spec("a", &[])], now);
        supervisor.spawned(0, A, now);
        supervisor.restart(0, now);
        assert_eq!(supervisor.steps(now), [Step::Terminate { index: 0, pid: A }]);
        assert_eq!(supervisor.steps(now), []);
        assert_eq!(supervisor.steps(now + ms(1000)), [Step::Kill { index: 0, pid: A }]);
        assert_eq!(supervisor.exited(0, now), None);
        assert_eq!(supervisor.steps(now), [Step::Spawn(0)]);
        supervisor.spawned(0, B, now);
        supervisor.stop(0);
        assert_eq!(supervisor.steps(now), [Step::Terminate { index: 0, pid: B }]);
        supervisor.exited(0, now);
        assert_eq!(supervisor.steps(now + ms(60_000)), []);
        supervisor.start(0, now);
        assert_eq!(supervisor.steps(now), [Step::Spawn(0)]);
    }

    #[test]
    fn goes_down_one_by_one_in_reverse_order() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(vec![spec("a", &[]), spec("b", &[]), spec("c", &["b"])], now);
        supervisor.spawned(0, A, now);
        supervisor.spawned(1, B, now);
        supervisor.begin_shutdown();
        assert_eq!(supervisor.steps(now), [Step::Terminate { index: 1, pid: B }]);
        assert_eq!(supervisor.steps(now), []);
        assert_eq!(supervisor.steps(now + ms(1000)), [Step::Kill { index: 1, pid: B }]);
        assert_eq!(supervisor.exited(1, now), None);
        assert!(!supervisor.all_stopped());
        assert_eq!(supervisor.steps(now), [Step::Terminate { index: 0, pid: A }]);
        supervisor.exited(0, now);
        assert!(supervisor.all_stopped());
        assert_eq!(supervisor.steps(now), []);
        assert_eq!(supervisor.deadline(), None);
    }
}
