//! Copies in and out of the payload: `capsule-guest archive`, a process of its own that enters the payload's root for good.

use crate::api::copy_in_request::Input;
use crate::api::{CopyInRequest, CopyInResponse, CopyOutResponse, FileType, StatPathResponse};
use crate::payload::Payload;
use crate::streams::Pipe;
use crate::tool::{self, words_of};
use bytes::Bytes;
use serde_json::Value;
use std::io;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

const CHUNK: usize = 256 * 1024;
/// Exit code when the path does not exist.
const NOT_FOUND: i32 = 3;

fn archiver(payload: &Payload, verb: &str, path: &str) -> Result<Command, Status> {
    let mut command = Command::new("/proc/self/exe");
    let root = format!("/proc/{}/root", payload.pid()?);
    command
        .args(["archive", verb, "--root", &root, path])
        .stderr(Stdio::piped());
    Ok(command)
}

pub async fn stat(payload: &Payload, path: &str) -> Result<StatPathResponse, Status> {
    let mut command = archiver(payload, "stat", path)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = tool::start(&mut command, &payload.reaper).map_err(internal)?;
    let (text, words) = tokio::join!(
        words_of(running.child.stdout.take()),
        words_of(running.child.stderr.take())
    );
    check(running.end().await, &words)?;
    let found: Value = serde_json::from_str(&text).map_err(internal)?;
    let kind = match found["type"].as_str() {
        Some("file") => FileType::Regular,
        Some("directory") => FileType::Directory,
        Some("symlink") => FileType::Symlink,
        _ => FileType::Other,
    };
    Ok(StatPathResponse {
        r#type: kind.into(),
        mode: found["mode"]
            .as_u64()
            .and_then(|mode| u32::try_from(mode).ok())
            .unwrap_or(0),
        size: found["size"].as_u64().unwrap_or(0),
        link_target: found["linkTarget"].as_str().unwrap_or_default().to_owned(),
    })
}

/// Sends the archive of a path, then the error if there was one.
pub async fn out(payload: Arc<Payload>, path: String, answers: Sender<Result<CopyOutResponse, Status>>) {
    if let Err(status) = try_out(&payload, &path, &answers).await {
        let _ = answers.send(Err(status)).await;
    }
}

async fn try_out(
    payload: &Payload,
    path: &str,
    answers: &Sender<Result<CopyOutResponse, Status>>,
) -> Result<(), Status> {
    let mut command = archiver(payload, "pack", path)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = tool::start(&mut command, &payload.reaper).map_err(internal)?;
    let stdout = running
        .child
        .stdout
        .take()
        .ok_or_else(|| Status::internal("no output"))?;
    let stderr = running.child.stderr.take();
    let send = async {
        let mut pipe = Pipe::new(stdout.into())?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = pipe.read(&mut buffer).await?;
            let data = Bytes::copy_from_slice(&buffer[..count]);
            // When nobody listens the pipe closes with this, and the archiver ends.
            if count == 0 || answers.send(Ok(CopyOutResponse { data })).await.is_err() {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let (sent, words) = tokio::join!(send, words_of(stderr));
    sent.map_err(internal)?;
    check(running.end().await, &words)
}

/// Writes the archive that comes into a directory.
pub async fn into(payload: &Payload, mut requests: Streaming<CopyInRequest>) -> Result<CopyInResponse, Status> {
    let first = requests.message().await?.and_then(|request| request.input);
    let Some(Input::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message of the stream must be `start`",
        ));
    };
    let mut command = archiver(payload, "unpack", &start.path)?;
    if !start.rename.is_empty() {
        command.args(["--rename", &start.rename]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = tool::start(&mut command, &payload.reaper).map_err(internal)?;
    let stdin = running.child.stdin.take().ok_or_else(|| Status::internal("no input"))?;
    let stderr = running.child.stderr.take();
    let pid = running.pid;
    let feed = async move {
        let mut pipe = Pipe::new(stdin.into()).map_err(internal)?;
        let mut bytes = 0;
        loop {
            match requests.message().await {
                Ok(Some(CopyInRequest {
                    input: Some(Input::Data(data)),
                })) => {
                    bytes += data.len() as u64;
                    // The archiver ended before its input: its exit code tells more.
                    if pipe.write_all(&data).await.is_err() {
                        return Ok(bytes);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(bytes),
                Err(status) => {
                    // Cut in the middle: the file at hand is removed.
                    let _ = crate::payload::send_signal(pid, 15);
                    return Err(status);
                }
            }
        }
    };
    let stdout = running.child.stdout.take();
    let (fed, words, told) = tokio::join!(feed, words_of(stderr), words_of(stdout));
    let code = running.end().await;
    let bytes = fed?;
    check(code, &words)?;
    let entries = told.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    Ok(CopyInResponse { bytes, entries })
}

fn check(code: i32, stderr: &str) -> Result<(), Status> {
    const PREFIX: &str = "capsule-guest archive: ";
    if code == 0 {
        return Ok(());
    }
    let said = stderr
        .lines()
        .filter_map(|line| line.strip_prefix(PREFIX))
        .find(|line| !line.starts_with("notice: "))
        .map_or_else(|| format!("the archiver ended with code {code}"), str::to_owned);
    Err(if code == NOT_FOUND {
        Status::not_found(said)
    } else if said.to_ascii_lowercase().contains("no space left") {
        Status::resource_exhausted(said)
    } else {
        Status::invalid_argument(said)
    })
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
