//! Starts the process of a service.

use super::config::ServiceSpec;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, setsid, write};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `spec` in a session of its own with stdout and stderr to `output`, and a clean environment: what the kernel or a
/// runner gave PID 1 must not change what a service does, except `container` and `CAPSULE_*`, which are meant for it.
pub fn spawn(spec: &ServiceSpec, output: OwnedFd) -> io::Result<Pid> {
    let Some((program, args)) = spec.argv.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let passed_on = std::env::vars_os()
        .filter(|(key, _)| key == "container" || key.to_str().is_some_and(|key| key.starts_with("CAPSULE_")));
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .envs(passed_on)
        .envs(&spec.env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let oom_score = spec.oom_score_adj.map(|score| score.to_string());
    let prepare = move || {
        setsid()?;
        // PID 1 blocks what it reads from its signalfd, Rust ignores SIGPIPE, and a runner may have been started with
        // more ignored: a program expects none of that.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        for any in Signal::iterator() {
            // SAFETY: SIG_DFL runs no code of ours. (SIGKILL and SIGSTOP refuse, rightly.)
            let _ = unsafe { signal(any, SigHandler::SigDfl) };
        }
        if let Some(score) = &oom_score {
            // Best effort: lowering it needs CAP_SYS_RESOURCE, and a service is worth more than its score.
            if let Ok(file) = open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY, Mode::empty()) {
                let _ = write(&file, score.as_bytes());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only: no allocation and no lock, so it is sound after fork although the log
    // thread runs.
    unsafe { command.pre_exec(prepare) };
    // The handle is dropped on purpose: PID 1 reaps every child in one place.
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}
