//! Programs that are run to their end: the OCI runtime and the archiver.

use crate::reaper::Reaper;
use std::io;
use std::process::{Command, Stdio};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// More than a tool says in words for people.
pub const MAX_WORDS: u64 = 16 * 1024;

pub struct Done {
    pub code: i32,
    pub stderr: String,
}

/// A program that runs, and its exit code later. The standard library's own waiting would race with the reaper.
pub fn start(command: &mut Command, reaper: &Reaper) -> io::Result<Running> {
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let end = reaper.end_of(pid);
    Ok(Running { child, pid, end })
}

pub struct Running {
    pub child: std::process::Child,
    pub pid: i32,
    end: tokio::sync::oneshot::Receiver<i32>,
}

impl Running {
    pub async fn end(self) -> i32 {
        self.end.await.unwrap_or(255)
    }
}

/// Runs it with nothing as its input and keeps what it says on its standard error.
pub async fn run(command: &mut Command, reaper: &Reaper) -> io::Result<Done> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut running = start(command, reaper)?;
    let stderr = words_of(running.child.stderr.take()).await;
    Ok(Done {
        code: running.end().await,
        stderr,
    })
}

/// All that comes from a pipe, as text.
pub async fn words_of(stream: Option<impl Into<std::os::fd::OwnedFd>>) -> String {
    let Some(stream) = stream else { return String::new() };
    let Ok(reader) = pipe::Receiver::from_owned_fd(stream.into()) else {
        return String::new();
    };
    let mut words = Vec::new();
    let _ = reader.take(MAX_WORDS).read_to_end(&mut words).await;
    String::from_utf8_lossy(&words).into_owned()
}

/// The line that says what went wrong, of what an OCI runtime has written: the last.
pub fn reason(stderr: &str) -> String {
    let line = stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it says nothing");
    line.trim().trim_start_matches("crun: ").to_owned()
}
