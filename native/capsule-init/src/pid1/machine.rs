//! The loop of PID 1. One thread decides; it waits in one place, with the next deadline as timeout, and never for a disk.

use super::config::Config;
use super::control::{Control, Request};
use super::logger::Logger;
use super::status::{self, History};
use super::supervisor::{State, Step, Supervisor};
use super::watchdog::Watchdog;
use super::{CONTROL_SOCKET, Role, SHUTDOWN_FILE, mounts, spawn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, sync};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SIGNALS: u64 = 0;
const FIRST_CONTROL: u64 = 1;
/// From SIGTERM to SIGKILL for every process that is not a service.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(5);
/// How long killed processes may take to vanish; one that hangs in the kernel never does.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
const LOG_PATIENCE: Duration = Duration::from_secs(3);

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Reboot,
    PowerOff,
}

impl Ending {
    fn word(self) -> &'static str {
        match self {
            Ending::Reboot => "reboot",
            Ending::PowerOff => "poweroff",
        }
    }
}

/// How far down it is. Only ever advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    StoppingServices(Ending),
    /// Services are gone; everything else was asked to end.
    Terminating(Ending, Instant),
    /// Everything was killed.
    Killing(Ending, Instant),
    Down(Ending),
}

impl Phase {
    fn ending(self) -> Option<Ending> {
        match self {
            Phase::Up => None,
            Phase::StoppingServices(ending)
            | Phase::Terminating(ending, _)
            | Phase::Killing(ending, _)
            | Phase::Down(ending) => Some(ending),
        }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Phase::Terminating(_, until) | Phase::Killing(_, until) => Some(until),
            Phase::Up | Phase::StoppingServices(_) | Phase::Down(_) => None,
        }
    }
}

struct Machine {
    role: Role,
    started: Instant,
    faults: Vec<String>,
    supervisor: Supervisor,
    histories: Vec<History>,
    logger: Logger,
    watchdog: Option<Watchdog>,
    phase: Phase,
    /// The last waitpid found no child at all.
    childless: bool,
}

pub fn run(role: Role, config_path: &Path) -> ExitCode {
    let mut notes = Vec::new();
    let mut config = Config::load(config_path);
    if role != Role::Machine {
        config.services.retain(|service| !service.machine_only);
    }
    if role != Role::Child {
        notes.extend(mounts::early(&config.log_dir));
        notes.extend(mounts::delegate_cgroups().err());
    } else if let Err(error) = set_child_subreaper(true) {
        notes.push(format!("cannot adopt orphans: {error}"));
    }
    match start(role, &config, &notes) {
        Ok((mut machine, signals, epoll)) => {
            machine.main_loop(&signals, &epoll);
            machine.end()
        }
        Err(error) => {
            // Not even a signalfd: nothing can be supervised. On a machine the kernel's panic (and then a reboot, where
            // `panic=` is set) is the only honest way out.
            eprintln!("capsule-init: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(role: Role, config: &Config, notes: &[String]) -> nix::Result<(Machine, SignalFd, Epoll)> {
    // Before the log thread starts, which inherits the mask: all signals are for the signalfd.
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
    let now = Instant::now();
    let mut machine = Machine {
        role,
        started: now,
        faults: config.faults.clone(),
        supervisor: Supervisor::new(config.services.clone(), now),
        histories: vec![History::default(); config.services.len()],
        logger: Logger::start(config)?,
        watchdog: None,
        phase: Phase::Up,
        childless: false,
    };
    machine.log(format!("version {} as {role:?}", env!("CARGO_PKG_VERSION")));
    for fault in notes {
        machine.log(fault.clone());
    }
    for fault in &config.faults {
        machine.log(format!("service table: {fault}"));
    }
    if role == Role::Machine {
        machine.take_the_machine(config.watchdog.as_deref(), now);
    }
    let _ = fs::remove_file(SHUTDOWN_FILE);
    Ok((machine, signals, epoll))
}

impl Machine {
    fn log(&self, text: String) {
        self.logger.line(text);
    }

    /// What only the owner of a real machine does.
    fn take_the_machine(&mut self, watchdog: Option<&Path>, now: Instant) {
        // Ctrl-Alt-Del then sends SIGINT here instead of resetting the machine.
        if let Err(error) = set_cad_enabled(false) {
            self.log(format!("Ctrl-Alt-Del stays with the kernel: {error}"));
        }
        if let Some(path) = watchdog.filter(|path| path.exists()) {
            match Watchdog::open(path, now) {
                Ok((watchdog, accepted)) => {
                    if let Err(error) = accepted {
                        self.log(format!("{}: keeps its own timeout: {error}", path.display()));
                    }
                    self.watchdog = Some(watchdog);
                }
                Err(error) => self.log(format!("{}: no watchdog: {error}", path.display())),
            }
        }
    }

    fn main_loop(&mut self, signals: &SignalFd, epoll: &Epoll) {
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
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.tick(now);
            }
            if let Some(control) = &mut control {
                control.tick(now);
            }
            let deadlines = [
                self.supervisor.deadline(),
                self.phase.deadline(),
                self.watchdog.as_ref().map(Watchdog::feed_at),
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

    /// Does everything that the supervisor wants done now.
    fn carry_out(&mut self, now: Instant) {
        loop {
            let mut steps = self.supervisor.steps(now);
            if steps.is_empty() {
                break;
            }
            while let Some(step) = steps.pop() {
                let next = self.carry_out_step(step, now);
                steps.extend(next);
            }
        }
        for (service, history) in self.supervisor.services().iter().zip(&mut self.histories) {
            history.update(service);
        }
    }

    fn carry_out_step(&mut self, step: Step, now: Instant) -> Option<Step> {
        match step {
            Step::Spawn(index) => self.spawn(index, now),
            Step::CheckFile(index) => {
                let required = &self.supervisor.services()[index].spec.requires;
                let exists = required.as_ref().is_none_or(|path| path.exists());
                return self.supervisor.checked(index, exists, now);
            }
            Step::Probe(index) => {
                let socket = &self.supervisor.services()[index].spec.ready_socket;
                let accepts = socket.as_ref().is_none_or(|path| accepts(path));
                self.supervisor.probed(index, accepts, now);
            }
            Step::Terminate { index, pid } => {
                self.log(format!("{}: stopping (pid {pid})", self.name(index)));
                let _ = kill(pid, Signal::SIGTERM);
            }
            Step::Kill { index, pid } => {
                self.log(format!(
                    "{}: did not stop in time, killed (pid {pid})",
                    self.name(index)
                ));
                // Its whole group: it is its own session, so this reaches its helpers, but neither containerd's shims
                // nor microVMs, which have groups of their own.
                let _ = killpg(pid, Signal::SIGKILL);
            }
        }
        None
    }

    fn spawn(&mut self, index: usize, now: Instant) {
        let spec = &self.supervisor.services()[index].spec;
        match self.logger.input(index).and_then(|output| spawn::spawn(spec, output)) {
            Ok(pid) => {
                self.log(format!("{}: started (pid {pid})", spec.name));
                self.supervisor.spawned(index, pid, now);
            }
            Err(error) => {
                self.log(format!("{}: cannot start {}: {error}", spec.name, spec.argv[0]));
                self.supervisor.spawn_failed(index, now);
            }
        }
    }

    fn name(&self, index: usize) -> &str {
        &self.supervisor.services()[index].spec.name
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

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) => self.reaped(status),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    self.childless = error == Errno::ECHILD;
                    break;
                }
            }
        }
    }

    fn reaped(&mut self, status: WaitStatus) {
        // An orphan needs no more than to be reaped.
        let Some(index) = status.pid().and_then(|pid| self.supervisor.owner(pid)) else {
            return;
        };
        let exit = status::describe_exit(status);
        let asked = matches!(self.supervisor.services()[index].state, State::Stopping { .. });
        let wait = self.supervisor.exited(index, Instant::now());
        self.logger.end_line(index);
        self.log(match wait {
            Some(wait) => format!(
                "{}: ended ({exit}), starts again in {} ms",
                self.name(index),
                wait.as_millis()
            ),
            None if asked => format!("{}: stopped ({exit})", self.name(index)),
            None => format!("{}: ended ({exit})", self.name(index)),
        });
        self.histories[index].last_exit = Some(exit);
    }

    fn answer(&mut self, line: &[u8], now: Instant) -> String {
        let result = match Request::parse(line) {
            Err(message) => Err(message),
            Ok(Request::Status) => return self.status(now),
            Ok(Request::Reboot) => self.begin_shutdown(Ending::Reboot),
            Ok(Request::PowerOff) => self.begin_shutdown(Ending::PowerOff),
            Ok(Request::Start(name)) => self.change(&name, |supervisor, index| supervisor.start(index, now)),
            Ok(Request::Stop(name)) => self.change(&name, Supervisor::stop),
            Ok(Request::Restart(name)) => self.change(&name, |supervisor, index| supervisor.restart(index, now)),
        };
        match result {
            Ok(()) => "ok\n".into(),
            Err(message) => format!("error: {message}\n"),
        }
    }

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

    fn begin_shutdown(&mut self, ending: Ending) -> Result<(), String> {
        if let Some(under_way) = self.phase.ending() {
            return if under_way == ending {
                Ok(())
            } else {
                Err(format!("the machine goes down already ({})", under_way.word()))
            };
        }
        self.log(format!("going down ({})", ending.word()));
        // Before any service hears of it: the file tells capsuled to stop the workloads, not only itself.
        if let Err(error) = fs::write(SHUTDOWN_FILE, ending.word()) {
            self.log(format!(
                "{SHUTDOWN_FILE}: {error}: workloads will be ended without order"
            ));
        }
        self.supervisor.begin_shutdown();
        self.phase = Phase::StoppingServices(ending);
        Ok(())
    }

    /// Goes to the next phase of going down when this one is over.
    fn advance(&mut self, now: Instant) {
        if let Phase::StoppingServices(ending) = self.phase {
            if !self.supervisor.all_stopped() {
                return;
            }
            self.signal_everything(Signal::SIGTERM);
            self.phase = Phase::Terminating(ending, now + TERMINATE_PATIENCE);
            self.reap();
        }
        if let Phase::Terminating(ending, until) = self.phase {
            if !self.childless && now < until {
                return;
            }
            // Also when no child is left: processes that entered from outside are not our children.
            self.signal_everything(Signal::SIGKILL);
            self.phase = Phase::Killing(ending, now + KILL_PATIENCE);
            self.reap();
        }
        if let Phase::Killing(ending, until) = self.phase {
            if self.childless || now >= until {
                if !self.childless {
                    self.log("some processes did not end".into());
                }
                self.phase = Phase::Down(ending);
            }
        }
    }

    fn signal_everything(&self, signal: Signal) {
        match self.role {
            // As PID 1: every process of the machine or namespace but this one.
            Role::Machine | Role::Container => drop(kill(Pid::from_raw(-1), signal)),
            Role::Child => {
                let me = getpid();
                let children = fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
                for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }

    fn end(self) -> ExitCode {
        let Phase::Down(ending) = self.phase else {
            return ExitCode::FAILURE;
        };
        self.log(format!("down ({})", ending.word()));
        self.logger.close(LOG_PATIENCE);
        if self.role != Role::Machine {
            return ExitCode::SUCCESS;
        }
        sync();
        for fault in mounts::release() {
            eprintln!("capsule-init: {fault}");
        }
        sync();
        let mode = match ending {
            Ending::Reboot => RebootMode::RB_AUTOBOOT,
            Ending::PowerOff => {
                if let Some(watchdog) = self.watchdog {
                    watchdog.disarm();
                }
                RebootMode::RB_POWER_OFF
            }
        };
        let Err(error) = reboot(mode);
        eprintln!("capsule-init: the kernel refuses to {}: {error}", ending.word());
        ExitCode::FAILURE
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

/// Whether somebody accepts on the socket. Never waits: a full backlog counts as ready.
fn accepts(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(probe) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return false;
    };
    let Ok(address) = UnixAddr::new(path) else {
        return false;
    };
    matches!(connect(probe.as_raw_fd(), &address), Ok(()) | Err(Errno::EAGAIN))
}
