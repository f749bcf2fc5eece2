//! The beginning of a command: the OCI runtime starts it, detached, and this side has the other ends of its streams.

use crate::api::ExecInPayloadStart;
use crate::payload::Payload;
use crate::streams::Pipe;
use crate::tool::{self, MAX_WORDS, reason, words_of};
use crate::{disks, oci, terminal, users};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::Value;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use tokio::net::UnixListener;
use tonic::Status;

const DIR: &str = "/run/exec";

/// What of a command's standard streams is on this side.
pub struct Ends {
    pub stdin: Option<Pipe>,
    pub stdout: Pipe,
    pub stderr: Option<Pipe>,
    /// Descriptor of the terminal, for its size.
    pub terminal: Option<i32>,
}

/// Starts the command; its pid and our ends of its streams.
pub async fn begin(payload: &Payload, id: u64, start: &ExecInPayloadStart) -> Result<(i32, Ends), Status> {
    let refused = |error: io::Error| Status::internal(error.to_string());
    let mut process: Value = serde_json::from_slice(&start.oci_process)
        .map_err(|error| Status::invalid_argument(format!("the OCI process is no JSON: {error}")))?;
    let name = if start.user.is_empty() {
        payload.user()
    } else {
        &start.user
    };
    let user = users::resolve(name, disks::ROOT).map_err(|error| Status::failed_precondition(error.to_string()))?;
    oci::set_user(&mut process, &user).map_err(Status::invalid_argument)?;
    let is_terminal = process["terminal"].as_bool().unwrap_or(false);
    fs::create_dir_all(DIR).map_err(refused)?;
    let path = |kind: &str| format!("{DIR}/{id}.{kind}");
    fs::write(path("json"), process.to_string()).map_err(refused)?;
    let mut command = oci::crun();
    command.args([
        "exec",
        "--detach",
        "--pid-file",
        &path("pid"),
        "--process",
        &path("json"),
    ]);
    let started = if is_terminal {
        with_terminal(payload, &mut command, &path("sock"), start).await
    } else {
        with_pipes(payload, &mut command, start.stdin).await
    };
    let pid = fs::read_to_string(path("pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    for kind in ["json", "pid", "sock"] {
        let _ = fs::remove_file(path(kind));
    }
    let ends = started?;
    let pid = pid.ok_or_else(|| Status::internal("the runtime tells no pid"))?;
    Ok((pid, ends))
}

async fn with_pipes(payload: &Payload, command: &mut std::process::Command, wants_stdin: bool) -> Result<Ends, Status> {
    let fault = |error: io::Error| Status::internal(error.to_string());
    let new_pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| fault(errno.into()));
    let (out, out_writer) = new_pipe()?;
    let (err, err_writer) = new_pipe()?;
    let mut stdin = None;
    if wants_stdin {
        let (reader, writer) = new_pipe()?;
        command.stdin(reader);
        stdin = Some(writer);
    } else {
        command.stdin(Stdio::null());
    }
    command.args([oci::ID]).stdout(out_writer).stderr(err_writer);
    let code = spawn_and_wait(payload, command).await?;
    if code != 0 {
        return Err(Status::failed_precondition(reason(&words_of(Some(err)).await)));
    }
    let own = |fd: OwnedFd| Pipe::new(fd).map_err(fault);
    Ok(Ends {
        stdin: stdin.map(own).transpose()?,
        stdout: own(out)?,
        stderr: Some(own(err)?),
        terminal: None,
    })
}

async fn with_terminal(
    payload: &Payload,
    command: &mut std::process::Command,
    socket: &str,
    start: &ExecInPayloadStart,
) -> Result<Ends, Status> {
    let fault = |error: io::Error| Status::internal(error.to_string());
    let listener = UnixListener::bind(socket).map_err(fault)?;
    let (err, err_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| fault(errno.into()))?;
    command.args(["--tty", "--console-socket", socket, oci::ID]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(err_writer);
    let running = tool::start(command, &payload.reaper).map_err(fault)?;
    close_inherited(command);
    let ended = running.end();
    tokio::pin!(ended);
    // A runtime that fails sends nothing.
    let master = tokio::select! {
        master = terminal::receive_master(&listener) => Some(master.map_err(fault)?),
        code = &mut ended => {
            if code != 0 {
                return Err(Status::failed_precondition(reason(&words_of(Some(err)).await)));
            }
            None
        }
    };
    let master = match master {
        Some(master) => {
            if ended.await != 0 {
                // From the moment when it has the terminal the runtime says there what is wrong.
                let words = words_of(Some(err)).await + &terminal_words(master).await;
                return Err(Status::failed_precondition(reason(&words)));
            }
            master
        }
        None => terminal::receive_master(&listener).await.map_err(fault)?,
    };
    let stdout = Pipe::new(master).map_err(fault)?;
    if let Some(size) = &start.size {
        let _ = terminal::resize(stdout.raw(), size.columns, size.rows);
    }
    let stdin = if start.stdin {
        Some(stdout.second().map_err(fault)?)
    } else {
        None
    };
    let terminal = Some(stdout.raw());
    Ok(Ends {
        stdin,
        stdout,
        stderr: None,
        terminal,
    })
}

/// What was last said on a terminal that nobody has open any more.
async fn terminal_words(master: OwnedFd) -> String {
    let mut buffer = vec![0; 1024];
    let mut words = Vec::new();
    if let Ok(mut pipe) = Pipe::new(master) {
        while (words.len() as u64) < MAX_WORDS {
            let Ok(count @ 1..) = pipe.read(&mut buffer).await else {
                break;
            };
            words.extend_from_slice(&buffer[..count]);
        }
    }
    String::from_utf8_lossy(&words).into_owned()
}

async fn spawn_and_wait(payload: &Payload, command: &mut std::process::Command) -> Result<i32, Status> {
    let running = tool::start(command, &payload.reaper).map_err(|error| Status::internal(error.to_string()))?;
    close_inherited(command);
    Ok(running.end().await)
}

/// A `Command` keeps its copies of the descriptors that it gave: with them the streams would never end.
fn close_inherited(command: &mut std::process::Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}
