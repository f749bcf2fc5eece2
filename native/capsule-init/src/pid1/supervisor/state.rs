//! The lifecycle of a service: its states, and what each one holds.

use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// First pause between two looks at a socket or a file; doubled each time up to [`PROBE_MAX`].
pub(super) const PROBE_FIRST: Duration = Duration::from_millis(10);
pub(super) const PROBE_MAX: Duration = Duration::from_millis(500);

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
    /// Looks at once.
    pub(super) fn waiting(now: Instant) -> Self {
        State::Waiting {
            check_at: now,
            delay: PROBE_FIRST,
        }
    }

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

    /// When the clock changes something in this state, if it does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            State::Waiting { check_at, .. } => Some(*check_at),
            State::Starting { probe_at, .. } => Some(*probe_at),
            State::Stopping { kill_at, .. } => *kill_at,
            State::Backoff { until } => Some(*until),
            State::Stopped | State::Running { .. } => None,
        }
    }
}
