//! The payload: one OCI container, started once. Its state is watched by whoever asks.

use crate::api::{GuestState, StartPayloadRequest, WatchStateResponse};
use crate::logs::{Logs, time_of};
use crate::reaper::Reaper;
use crate::streams::Pipe;
use crate::tool::{self, reason};
use crate::{cgroup, disks, freeze, network, oci, pressure, users};
use capsule_payload::cri::Stream;
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::{Pid, pipe2};
use prost_types::Timestamp;
use serde_json::Value;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::SystemTime;
use tokio::sync::watch;
use tonic::Status;

const BUNDLE: &str = "/run/payload/bundle";
const FILES: &str = "/run/payload/files";
const PID_FILE: &str = "/run/payload/pid";

pub struct Payload {
    pub reaper: Reaper,
    pub logs: Logs,
    state: watch::Sender<WatchStateResponse>,
    begun: AtomicBool,
    disks: AtomicUsize,
    pid: AtomicI32,
    was_starved: AtomicBool,
    user: std::sync::OnceLock<String>,
}

impl Payload {
    pub fn new(reaper: Reaper) -> Self {
        let idle = WatchStateResponse {
            state: GuestState::Idle.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..WatchStateResponse::default()
        };
        Self {
            reaper,
            logs: Logs::default(),
            state: watch::Sender::new(idle),
            begun: AtomicBool::new(false),
            disks: AtomicUsize::new(0),
            pid: AtomicI32::new(0),
            was_starved: AtomicBool::new(false),
            user: std::sync::OnceLock::new(),
        }
    }

    pub fn watch(&self) -> watch::Receiver<WatchStateResponse> {
        self.state.subscribe()
    }

    /// Of its first process, while it runs.
    pub fn pid(&self) -> Result<i32, Status> {
        match self.pid.load(Ordering::Relaxed) {
            0 => Err(Status::failed_precondition("the payload is not running")),
            pid => Ok(pid),
        }
    }

    pub fn user(&self) -> &str {
        self.user.get().map_or("", String::as_str)
    }

    /// Readies the guest and starts the payload. Whatever fails is said in words for people.
    pub async fn start(self: &std::sync::Arc<Self>, request: StartPayloadRequest) -> Result<Timestamp, Status> {
        if self.begun.swap(true, Ordering::Relaxed) {
            return Err(Status::failed_precondition(
                "a payload was started in this guest before",
            ));
        }
        if let Some(now) = &request.now {
            set_time(now)?;
        }
        ready_guest(&request)?;
        self.disks.store(request.disks.len(), Ordering::Relaxed);
        disks::mount_all(&request.disks).await.map_err(refused)?;
        let user = users::resolve(&request.user, disks::ROOT).map_err(refused)?;
        let _ = self.user.set(request.user.clone());
        let mut config: Value = serde_json::from_slice(&request.oci_config)
            .map_err(|error| Status::invalid_argument(format!("the OCI configuration is no JSON: {error}")))?;
        oci::prepare(&mut config, &user).map_err(Status::invalid_argument)?;
        write_bundle(&config, &request.files).map_err(refused)?;
        if let Some(time) = &request.log_after {
            self.logs.begin_after(time_of(time));
        }
        self.create_and_start().await
    }

    async fn create_and_start(self: &std::sync::Arc<Self>) -> Result<Timestamp, Status> {
        let (out, out_writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(refused)?;
        let (err, err_writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(refused)?;
        let mut create = oci::crun();
        create.args(["create", "--bundle", BUNDLE, "--pid-file", PID_FILE, oci::ID]);
        create.stdin(Stdio::null()).stdout(out_writer).stderr(err_writer);
        let running = tool::start(&mut create, &self.reaper).map_err(refused)?;
        // Its copies of the writing ends: with them the streams would never end.
        drop(create);
        if running.end().await != 0 {
            return Err(Status::failed_precondition(reason(&tool::words_of(Some(err)).await)));
        }
        let pid = read_pid().map_err(refused)?;
        let end = self.reaper.end_of(pid);
        let done = tool::run(oci::crun().args(["start", oci::ID]), &self.reaper)
            .await
            .map_err(refused)?;
        if done.code != 0 {
            return Err(Status::failed_precondition(reason(&done.stderr)));
        }
        self.follow(out, err).map_err(refused)?;
        let started_at = Timestamp::from(SystemTime::now());
        self.pid.store(pid, Ordering::Relaxed);
        self.state.send_modify(|state| {
            state.state = GuestState::Running.into();
            state.started_at = Some(started_at);
        });
        let watched = std::sync::Arc::clone(self);
        tokio::spawn(async move {
            let on_kill = || watched.was_starved.store(true, Ordering::Relaxed);
            pressure::watch(|| watched.pid().is_ok(), on_kill).await;
        });
        let own = std::sync::Arc::clone(self);
        tokio::spawn(async move {
            let code = end.await.unwrap_or(255);
            own.note_end(code);
        });
        Ok(started_at)
    }

    fn follow(&self, out: OwnedFd, err: OwnedFd) -> std::io::Result<()> {
        self.logs.take(Stream::Stdout, Pipe::new(out)?);
        self.logs.take(Stream::Stderr, Pipe::new(err)?);
        Ok(())
    }

    fn note_end(&self, code: i32) {
        self.pid.store(0, Ordering::Relaxed);
        let was_starved = self.was_starved.load(Ordering::Relaxed);
        let killed_for_memory = code == 137 && (was_starved || cgroup::was_out_of_memory());
        self.state.send_modify(|state| {
            state.state = GuestState::Exited.into();
            state.exit_code = code;
            state.out_of_memory = killed_for_memory;
            state.finished_at = Some(Timestamp::from(SystemTime::now()));
        });
        self.logs.payload_ended();
    }

    pub fn signal(&self, number: i32) -> Result<(), Status> {
        let pid = self.pid()?;
        send_signal(pid, number)
    }

    /// Ends what is left and unmounts everything; what could not be, in words.
    pub async fn end(&self) -> Vec<String> {
        // Nothing starts any more.
        self.begun.store(true, Ordering::Relaxed);
        cgroup::kill().await;
        // Archivers are in no group of their own, and hold the payload's disks too.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        let mut state = self.state.subscribe();
        let exited = state.wait_for(|state| state.state != i32::from(GuestState::Running));
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), exited).await;
        let count = self.disks.load(Ordering::Relaxed);
        let unmounted = tokio::task::spawn_blocking(move || {
            freeze::thaw_all(count);
            disks::unmount_all(count)
        });
        unmounted.await.unwrap_or_else(|error| vec![error.to_string()])
    }
}

/// To one process. Real-time signals have numbers only.
pub fn send_signal(pid: i32, number: i32) -> Result<(), Status> {
    let sent = match Signal::try_from(number) {
        Ok(signal) => kill(Pid::from_raw(pid), signal),
        Err(_) if (32..=64).contains(&number) => {
            // SAFETY: no pointers.
            nix::errno::Errno::result(unsafe { nix::libc::kill(pid, number) }).map(drop)
        }
        Err(_) => return Err(Status::invalid_argument(format!("{number} is no signal"))),
    };
    match sent {
        // It has ended in this moment.
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(Status::internal(format!("signal {number}: {errno}"))),
    }
}

pub fn set_time(now: &Timestamp) -> Result<(), Status> {
    let time = TimeSpec::new(now.seconds, i64::from(now.nanos));
    clock_settime(ClockId::CLOCK_REALTIME, time)
        .map_err(|errno| Status::internal(format!("setting the clock: {errno}")))
}

fn ready_guest(request: &StartPayloadRequest) -> Result<(), Status> {
    nix::unistd::sethostname(&request.hostname).map_err(refused)?;
    network::set_up(request.network.as_ref()).map_err(refused)?;
    for (name, value) in &request.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(&path, value).map_err(|error| Status::failed_precondition(format!("{name} = {value}: {error}")))?;
    }
    Ok(())
}

fn write_bundle(config: &Value, files: &[bytes::Bytes]) -> std::io::Result<()> {
    fs::create_dir_all(BUNDLE)?;
    fs::create_dir_all(FILES)?;
    for (index, content) in files.iter().enumerate() {
        fs::write(format!("{FILES}/{index}"), content)?;
    }
    fs::write(format!("{BUNDLE}/config.json"), config.to_string())
}

fn read_pid() -> std::io::Result<i32> {
    fs::read_to_string(PID_FILE)?
        .trim()
        .parse()
        .map_err(std::io::Error::other)
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::failed_precondition(error.to_string())
}
