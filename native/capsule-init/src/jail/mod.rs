//! `capsule-init jail CONFIG.json`: runs a virtual machine monitor so that it can do nothing but its work, and outlives
//! capsuled. The program gets namespaces and a root of its own, another user, no capabilities, and the descriptors that it
//! needs; this process stays outside, as small as it is, writes down what the program says, and notes how it ended.
//!
//! It writes `ready` to its standard output when all is prepared and waits for a line `go` on its standard input: until
//! then the program runs no instruction. If the input ends before, nothing runs. Files: `PREFIX.pid` has the program's pid and
//! start time (field 22 of /proc/PID/stat) from before `ready` on; `PREFIX.exit` has `exit N` or `signal N` at the end.

mod child;
mod config;
mod node;
mod root;
mod tap;
mod wire;

use capsule_payload::cri::{CriLog, Stream};
use capsule_payload::rotating::Rotation;
use child::Given;
use config::{Config, Output};
use displaydoc::Display;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stdin, dup2_stdout, fork, pipe2, setsid};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thiserror::Error;

/// Lowest number of a descriptor that is only kept until it gets its place in the program.
const PARKED: RawFd = 100;

#[derive(Debug, Error, Display)]
pub enum JailError {
    /// the configuration {0:?} cannot be read: {1}
    Config(PathBuf, String),
    /// {0:?}: {1}
    File(PathBuf, io::Error),
    /// {0}: {1}
    System(&'static str, Errno),
    /// the wire to its interface could not be laid (ip has said why)
    Network,
    /// capsuled ended before it said go
    Abandoned,
}

pub fn main(args: &[OsString]) -> ExitCode {
    let [path] = args else {
        eprintln!("usage: capsule-init jail CONFIG.json");
        return ExitCode::from(2);
    };
    match run(Path::new(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsule-init jail: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<(), JailError> {
    let config = read_config(path)?;
    // Whatever ends capsuled with its group must not end this.
    let _ = setsid();
    join_cgroups(&config)?;
    let descriptors = open_all(&config)?;
    match &config.tap {
        Some(name) if config.opens_tap => wire::leave_with_tap(name, config.uid)?,
        _ => wire::leave()?,
    }
    let (wait_go, say_go) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| JailError::System("pipe", errno))?;
    let (said, output) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| JailError::System("pipe", errno))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| JailError::System("unshare", errno))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(|errno| JailError::System("fork", errno))? {
        ForkResult::Child => {
            drop((say_go, said));
            let given = Given {
                descriptors,
                output,
                wait_go,
            };
            child::become_program(&config, given)
        }
        ForkResult::Parent { child } => {
            drop((wait_go, output, descriptors));
            watch(&config, child, say_go, said)
        }
    }
}

/// The outer process: says when all is ready, lets the program go, writes its log, and notes its end.
fn watch(config: &Config, child: Pid, say_go: OwnedFd, said: OwnedFd) -> Result<(), JailError> {
    write_whole(config, "pid", &format!("{child} {}\n", start_time(child)?))?;
    // SAFETY: the default action of SIGTERM and SIGINT would end the watcher before the program.
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let gone = println_flushed("ready").is_err() || !hears_go();
    if gone {
        drop(say_go);
        let _ = waitpid(child, None);
        return Err(JailError::Abandoned);
    }
    let mut say_go = fs::File::from(say_go);
    let _ = say_go.write_all(b"g");
    drop(say_go);
    detach();
    write_log(&config.output, fs::File::from(said));
    let end = loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => break format!("exit {code}\n"),
            Ok(WaitStatus::Signaled(_, signal, _)) => break format!("signal {}\n", signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(JailError::System("waitpid", errno)),
        }
    };
    write_whole(config, "exit", &end)
}

/// Until the program has ended: it is the first of its processes, so none is left then that could write.
fn write_log(output: &Output, mut said: fs::File) {
    let mut log = CriLog::new(Rotation {
        dir: output.dir.clone(),
        name: output.name.clone(),
        max_bytes: output.max_bytes,
        files: output.max_files,
    });
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match said.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                // A console ends its lines as a terminal wants it.
                let text: Vec<u8> = buffer[..count].iter().copied().filter(|byte| *byte != b'\r').collect();
                log.push(Stream::Stdout, &text);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    log.finish(Stream::Stdout);
}

fn println_flushed(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn hears_go() -> bool {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).is_ok() && line.trim() == "go"
}

/// Whoever waits for the end of the pipes must not wait for the end of the program.
fn detach() {
    if let Ok(null) = open("/dev/null", OFlag::O_RDWR, Mode::empty()) {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

fn read_config(path: &Path) -> Result<Config, JailError> {
    let text = fs::read(path).map_err(|error| JailError::File(path.into(), error))?;
    serde_json::from_slice(&text).map_err(|error| JailError::Config(path.into(), error.to_string()))
}

fn join_cgroups(config: &Config) -> Result<(), JailError> {
    for group in &config.cgroups {
        let file = group.join("cgroup.procs");
        fs::write(&file, "0").map_err(|error| JailError::File(file, error))?;
    }
    Ok(())
}

/// The program's descriptors in order, from 3 on; `None` where there is nothing.
fn open_all(config: &Config) -> Result<Vec<Option<OwnedFd>>, JailError> {
    let mut all = Vec::new();
    all.push(match &config.tap {
        Some(name) if !config.opens_tap => Some(park(tap::open_tap(name)?)?),
        _ => None,
    });
    for file in &config.open {
        let access = if file.read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        let opened = open(&file.path, access | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| JailError::File(file.path.clone(), errno.into()))?;
        all.push(Some(park(opened)?));
    }
    Ok(all)
}

/// Out of the way of the numbers that the program expects.
fn park(fd: OwnedFd) -> Result<OwnedFd, JailError> {
    let parked = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(PARKED)).map_err(|errno| JailError::System("fcntl", errno))?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(parked) })
}

/// The 22nd field of /proc/PID/stat (proc_pid_stat(5)): with the pid it names a process for ever.
fn start_time(pid: Pid) -> Result<String, JailError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(&path).map_err(|error| JailError::File(path.clone(), error))?;
    // The second field is the name in parentheses, which may hold anything.
    let after_name = text.rfind(')').map(|at| &text[at + 1..]);
    after_name
        .and_then(|rest| rest.split_whitespace().nth(19))
        .map(str::to_owned)
        .ok_or_else(|| JailError::Config(path, "no start time in it".into()))
}

/// Whoever sees the file sees all of it.
fn write_whole(config: &Config, extension: &str, text: &str) -> Result<(), JailError> {
    let path = config.files_prefix.with_extension(extension);
    let fresh = config.files_prefix.with_extension(format!("{extension}.new"));
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| JailError::File(path, error))
}
