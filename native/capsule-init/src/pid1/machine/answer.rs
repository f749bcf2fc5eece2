//! Answers to requests of the control socket.

use super::Machine;
use super::phase::Ending;
use crate::pid1::control::Request;
use crate::pid1::status;
use crate::pid1::supervisor::Supervisor;
use std::time::Instant;

impl Machine {
    /// The reply to one request, newline included.
    pub(super) fn answer(&mut self, line: &[u8], now: Instant) -> String {
        let result = match Request::parse(line) {
            Err(message) => Err(message),
            Ok(Request::Status) => return self.status(now),
            Ok(Request::Reboot) => self.begin_shutdown(Ending::Reboot),
            Ok(Request::PowerOff) => self.begin_shutdown(Ending::PowerOff),
            Ok(Request::Confirmed) => {
                if self.trial.take().is_some() {
                    self.log("the version on trial was confirmed".into());
                }
                Ok(())
            }
            Ok(Request::Start(name)) => self.change(&name, |supervisor, index| supervisor.start(index, now)),
            Ok(Request::Stop(name)) => self.change(&name, Supervisor::stop),
            Ok(Request::Restart(name)) => self.change(&name, |supervisor, index| supervisor.restart(index, now)),
        };
        match result {
            Ok(()) => "ok\n".into(),
            Err(message) => format!("error: {message}\n"),
        }
    }

    /// What an operator wants of one service. Refused while going down: nothing starts any more.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Supervisor, usize)) -> Result<(), String> {
        if let Some(ending) = self.phase.ending() {
            return Err(format!("the machine goes down ({})", ending.word()));
        }
        let index = self
            .supervisor
            .find(name)
            .ok_or_else(|| format!("no service {name:?}"))?;
        change(&mut self.supervisor, index);
        Ok(())
    }

    fn status(&mut self, now: Instant) -> String {
        let uptime = now.duration_since(self.started).as_millis();
        let services = self.supervisor.services();
        for (service, history) in services.iter().zip(&mut self.histories) {
            history.update(service);
        }
        let shutdown = self.phase.ending().map(Ending::word);
        status::line(
            u64::try_from(uptime).unwrap_or(u64::MAX),
            shutdown,
            &self.faults,
            services,
            &self.histories,
        )
    }
}
