//! A client of the control socket, for people, scripts and tests.

use crate::pid1::CONTROL_SOCKET;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

pub fn main(args: &[OsString]) -> ExitCode {
    let words: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
    match ask(&words.join(" ")) {
        Ok(reply) if reply.starts_with("error:") => {
            eprint!("capsule-init ctl: {reply}");
            ExitCode::FAILURE
        }
        Ok(reply) => {
            print!("{reply}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("capsule-init ctl: {CONTROL_SOCKET}: {error}");
            ExitCode::FAILURE
        }
    }
}

pub fn ask(request: &str) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(CONTROL_SOCKET)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(format!("{request}\n").as_bytes())?;
    let mut reply = String::new();
    socket.read_to_string(&mut reply)?;
    Ok(reply)
}
