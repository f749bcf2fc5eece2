//! The loop of PID 1. One thread decides; it waits in one place, with the next deadline as timeout, and never for a disk.

use super::Machine;
use super::phase::{Ending, Phase};
use crate::pid1::CONTROL_SOCKET;
use crate::pid1::control::Control;
use crate::pid1::trial::Trial;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::path::Path;
use std::time::{Duration, Instant};

const SIGNALS: u64 = 0;
const FIRST_CONTROL: u64 = 1;

/// What the loop waits for.
pub(super) struct Sources {
    signals: SignalFd,
    epoll: Epoll,
}

impl Sources {
    /// Blocks signals in this thread, and so in every thread that it starts later.
    pub fn open() -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(Self { signals, epoll })
    }
}

impl Machine {
    /// Until the machine is down.
    pub(super) fn main_loop(&mut self, Sources { signals, epoll }: &Sources) {
        let mut control = match Control::listen(Path::new(CONTROL_SOCKET), epoll, FIRST_CONTROL) {
            Ok(control) => Some(control),
            Err(error) => {
                self.log(format!("{CONTROL_SOCKET}: no control socket: {error}"));
                None
            }
        };
        let mut events = [EpollEvent::empty(); 16];
        loop {
            let now = Instant::now();
            self.carry_out(now);
            self.advance(now);
            if let Phase::Down(_) = self.phase {
                return;
            }
            if let Some(text) = self.watchdog.tick(now) {
                self.log(text);
            }
            let reason = self.trial.as_mut().and_then(|trial| trial.tick(now));
            self.give_up(reason);
            if let Some(control) = &mut control {
                control.tick(now);
            }
            let deadlines = [
                self.supervisor.deadline(),
                self.phase.deadline(),
                self.watchdog.deadline(),
                self.trial.as_ref().map(Trial::deadline),
                control.as_ref().and_then(Control::deadline),
            ];
            let count = match epoll.wait(&mut events, timeout(deadlines.into_iter().flatten().min())) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    self.log(format!("epoll: {error}"));
                    std::thread::sleep(Duration::from_secs(1));
                    0
                }
            };
            let now = Instant::now();
            for event in &events[..count] {
                match event.data() {
                    SIGNALS => self.take_signals(signals),
                    token => {
                        if let Some(control) = &mut control {
                            control.ready(token, epoll, now, &mut |line| self.answer(line, now));
                        }
                    }
                }
            }
        }
    }

    fn take_signals(&mut self, signals: &SignalFd) {
        while let Ok(Some(info)) = signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGTERM) => drop(self.begin_shutdown(Ending::PowerOff)),
                Ok(Signal::SIGINT) => drop(self.begin_shutdown(Ending::Reboot)),
                _ => {}
            }
        }
        // Whatever the signal was: signals merge, so the only safe answer is to look at all children.
        self.reap();
    }
}

/// Rounded up, so that the deadline has passed when the wait ends.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else {
        return EpollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    EpollTimeout::try_from(left.min(Duration::from_secs(3600)) + Duration::from_micros(999))
        .unwrap_or(EpollTimeout::ZERO)
}
