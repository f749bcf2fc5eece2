//! How far down the machine is, and which way it goes.

use std::time::Instant;

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Reboot,
    PowerOff,
}

impl Ending {
    pub fn word(self) -> &'static str {
        match self {
            Ending::Reboot => "reboot",
            Ending::PowerOff => "poweroff",
        }
    }
}

/// How far down it is. Only ever advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Up,
    StoppingServices(Ending),
    /// Services are gone; everything else was asked to end.
    Terminating(Ending, Instant),
    /// Everything was killed.
    Killing(Ending, Instant),
    Down(Ending),
}

impl Phase {
    pub fn ending(self) -> Option<Ending> {
        match self {
            Phase::Up => None,
            Phase::StoppingServices(ending)
            | Phase::Terminating(ending, _)
            | Phase::Killing(ending, _)
            | Phase::Down(ending) => Some(ending),
        }
    }

    pub fn deadline(self) -> Option<Instant> {
        match self {
            Phase::Terminating(_, until) | Phase::Killing(_, until) => Some(until),
            Phase::Up | Phase::StoppingServices(_) | Phase::Down(_) => None,
        }
    }
}
