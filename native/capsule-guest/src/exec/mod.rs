//! Commands in the payload: their streams, and their end.

mod begin;

use crate::api::exec_in_payload_request::Input;
use crate::api::exec_response::Output;
use crate::api::{ExecInPayloadRequest, ExecResponse};
use crate::payload::{Payload, send_signal};
use crate::streams::Pipe;
use crate::terminal;
use begin::{Ends, begin};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tonic::{Status, Streaming};

type Answers = Sender<Result<ExecResponse, Status>>;

const CHUNK: usize = 32 * 1024;
/// Others that a command has started may hold its output open for ever: once it has ended, and nothing came for so long,
/// they are not waited for.
const SILENCE: Duration = Duration::from_millis(200);
/// Nor is more than this taken from them: what the command itself wrote is in the pipe, and no pipe is larger.
const MAX_AFTER_END: usize = 1024 * 1024;
const SIGKILL: i32 = 9;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Carries one call out, to its last answer.
pub async fn run(payload: Arc<Payload>, mut requests: Streaming<ExecInPayloadRequest>, answers: Answers) {
    if let Err(status) = try_run(&payload, &mut requests, &answers).await {
        let _ = answers.send(Err(status)).await;
    }
}

async fn try_run(
    payload: &Payload,
    requests: &mut Streaming<ExecInPayloadRequest>,
    answers: &Answers,
) -> Result<(), Status> {
    let first = requests.message().await?.and_then(|request| request.input);
    let Some(Input::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message of the stream must be `start`",
        ));
    };
    payload.pid()?;
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (pid, ends) = begin(payload, id, &start).await?;
    let end = payload.reaper.end_of(pid);
    send(answers, Output::Started(true)).await;
    let Ends {
        stdin,
        mut stdout,
        stderr,
        terminal,
    } = ends;
    let input = feed(requests, stdin, terminal, pid);
    let (tell_end, ended) = watch::channel(false);
    let errors = async {
        if let Some(mut stderr) = stderr {
            drain(&mut stderr, answers, Output::Stderr, ended.clone()).await;
        }
    };
    let exit = async {
        let code = end.await.unwrap_or(255);
        let _ = tell_end.send(true);
        code
    };
    // Over when the command has ended, and both streams are at their end, or say nothing more.
    let output = drain(&mut stdout, answers, Output::Stdout, ended.clone());
    let work = async { tokio::join!(exit, output, errors).0 };
    let code = tokio::select! {
        code = work => code,
        // Nobody listens any more: a command must not run on without its caller.
        () = answers.closed() => {
            let _ = send_signal(pid, SIGKILL);
            return Ok(());
        }
        () = input => {
            let _ = send_signal(pid, SIGKILL);
            return Err(Status::cancelled("the caller went away"));
        }
    };
    send(answers, Output::ExitCode(code)).await;
    Ok(())
}

/// Passes the caller's input on. Ends only when the caller is gone.
async fn feed(
    requests: &mut Streaming<ExecInPayloadRequest>,
    mut stdin: Option<Pipe>,
    terminal: Option<i32>,
    pid: i32,
) {
    loop {
        match requests.message().await {
            Ok(Some(ExecInPayloadRequest { input: Some(input) })) => match input {
                Input::Stdin(data) => {
                    let written = match &mut stdin {
                        Some(pipe) => pipe.write_all(&data).await,
                        None => Ok(()),
                    };
                    if written.is_err() {
                        // The command reads no more.
                        stdin = None;
                    }
                }
                // A terminal stays open: its other side still speaks.
                Input::StdinClosed(_) => stdin = stdin.filter(|_| terminal.is_some()),
                Input::Resize(size) => {
                    if let Some(terminal) = terminal {
                        let _ = terminal::resize(terminal, size.columns, size.rows);
                    }
                }
                Input::Signal(number) => drop(send_signal(pid, number)),
                Input::Start(_) => {}
            },
            Ok(Some(_)) => {}
            // The caller says nothing more, and still listens.
            Ok(None) => {
                stdin = stdin.filter(|_| terminal.is_some());
                std::future::pending::<()>().await;
            }
            Err(_) => return,
        }
    }
}

async fn drain(pipe: &mut Pipe, answers: &Answers, output: fn(Bytes) -> Output, mut ended: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    let mut after_end = 0;
    while after_end < MAX_AFTER_END {
        let silence = async {
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(SILENCE).await;
        };
        let read = tokio::select! {
            biased;
            read = pipe.read(&mut buffer) => read,
            () = silence => return,
        };
        let Ok(count @ 1..) = read else { return };
        if *ended.borrow() {
            after_end += count;
        }
        if !send(answers, output(Bytes::copy_from_slice(&buffer[..count]))).await {
            return;
        }
    }
}

/// False when nobody listens.
async fn send(answers: &Answers, output: Output) -> bool {
    answers.send(Ok(ExecResponse { output: Some(output) })).await.is_ok()
}
