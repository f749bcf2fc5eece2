//! What the supervisor decides, told as stories of a few services: no process, no real clock.

use super::service::{BACKOFF_FIRST, HEALTHY_AFTER};
use super::state::PROBE_FIRST;
use super::{State, Step, Supervisor};
use crate::pid1::config::ServiceSpec;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

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
