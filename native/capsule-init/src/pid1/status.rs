//! The answer to `status`: one line of JSON.

use super::supervisor::Service;
use capsule_payload::time::Timestamp;
use nix::sys::wait::WaitStatus;
use serde::Serialize;

/// What is kept about a service for `status` only.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Since when it is in its state, RFC 3339.
    pub since: String,
    /// The state that `since` is about.
    pub state: &'static str,
    /// How its last process ended.
    pub last_exit: Option<String>,
}

impl History {
    /// Notes the time when the state has changed.
    pub fn update(&mut self, service: &Service) {
        if self.state != service.state.name() {
            self.state = service.state.name();
            self.since = String::from_utf8_lossy(&Timestamp::now().rfc3339()).into_owned();
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    version: &'static str,
    uptime_ms: u64,
    /// `null`, or `reboot` or `poweroff` while going down.
    shutdown: Option<&'a str>,
    config_faults: &'a [String],
    services: Vec<ServiceStatus<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceStatus<'a> {
    name: &'a str,
    state: &'static str,
    pid: Option<i32>,
    restarts: u64,
    since: &'a str,
    last_exit: Option<&'a str>,
}

/// One line, newline included.
pub fn line(
    uptime_ms: u64,
    shutdown: Option<&str>,
    config_faults: &[String],
    services: &[Service],
    histories: &[History],
) -> String {
    let services = services
        .iter()
        .zip(histories)
        .map(|(service, history)| ServiceStatus {
            name: &service.spec.name,
            state: service.state.name(),
            pid: service.state.pid().map(|pid| pid.as_raw()),
            restarts: service.restarts,
            since: &history.since,
            last_exit: history.last_exit.as_deref(),
        })
        .collect();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms,
        shutdown,
        config_faults,
        services,
    };
    match serde_json::to_string(&status) {
        Ok(text) => text + "\n",
        Err(error) => format!("error: {error}\n"),
    }
}

/// How a process ended, for people.
pub fn describe_exit(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit code {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        other => format!("{other:?}"),
    }
}
