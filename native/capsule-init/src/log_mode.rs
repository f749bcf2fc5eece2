//! The log writer of one container: containerd's shim starts it (`binary:///sbin/capsule-init?log=DIR&…`) with the
//! container's stdout as fd 3, its stderr as fd 4, and fd 5 to say that it is ready. It lives as long as the container,
//! there may be hundreds of it, and nothing that happens to capsuled or the disk may make the container wait.

use capsule_payload::cri::{CriLog, Stream};
use capsule_payload::rotating::Rotation;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd};
use std::path::PathBuf;
use std::process::ExitCode;

const DEFAULT_MAX_BYTES: u64 = 10 * 1024 * 1024;
const DEFAULT_FILES: u32 = 3;

pub fn main(args: &[OsString]) -> ExitCode {
    match rotation(args) {
        Ok(rotation) => {
            run(rotation);
            ExitCode::SUCCESS
        }
        Err(message) => {
            // The shim reports a logger that exits before it is ready; this reaches the shim's own log.
            eprintln!("capsule-init log: {message}");
            ExitCode::from(2)
        }
    }
}

/// Pairs of `log DIR`, `max-bytes N` and `files N` in any order (the shim walks a Go map).
fn rotation(args: &[OsString]) -> Result<Rotation, String> {
    let mut rotation = Rotation {
        dir: PathBuf::new(),
        name: "current.log".into(),
        max_bytes: DEFAULT_MAX_BYTES,
        files: DEFAULT_FILES,
    };
    for pair in args.chunks(2) {
        let [key, value] = pair else {
            return Err(format!("{}: a value is missing", pair[0].to_string_lossy()));
        };
        let number = || value.to_str().and_then(|text| text.parse::<u64>().ok());
        let bad = || {
            format!(
                "{} {}: not a usable value",
                key.to_string_lossy(),
                value.to_string_lossy()
            )
        };
        match key.to_str() {
            Some("log") => rotation.dir = PathBuf::from(value),
            Some("max-bytes") => {
                rotation.max_bytes = number().filter(|bytes| *bytes > 0).ok_or_else(bad)?;
            }
            Some("files") => {
                rotation.files = number()
                    .and_then(|files| u32::try_from(files).ok())
                    .filter(|files| (1..=1000).contains(files))
                    .ok_or_else(bad)?;
            }
            _ => return Err(format!("{}: unknown key", key.to_string_lossy())),
        }
    }
    if !rotation.dir.is_absolute() {
        return Err("log: an absolute directory is needed".into());
    }
    Ok(rotation)
}

fn run(rotation: Rotation) {
    // The shim may signal us when the container is gone while there is still output to drain: only both ends' EOF ends us.
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: SIG_IGN runs no code of ours.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    // SAFETY: containerd's binary logging protocol hands these three descriptors over, and nothing else here uses them.
    let (stdout, stderr, ready) = unsafe { (File::from_raw_fd(3), File::from_raw_fd(4), File::from_raw_fd(5)) };
    let mut inputs = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    let mut log = CriLog::new(rotation);
    let mut buffer = vec![0; 16 * 1024];
    drop(ready);
    while !inputs.is_empty() {
        let mut ended = Vec::new();
        for index in readable(&inputs) {
            let (stream, input) = &mut inputs[index];
            match input.read(&mut buffer) {
                Ok(count) if count > 0 => log.push(*stream, &buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A read error on a pipe is as final as its end.
                _ => {
                    log.finish(*stream);
                    ended.push(index);
                }
            }
        }
        for index in ended.into_iter().rev() {
            inputs.remove(index);
        }
    }
}

/// Waits until an input has data or has ended.
fn readable(inputs: &[(Stream, File)]) -> Vec<usize> {
    let mut fds: Vec<PollFd> = inputs
        .iter()
        .map(|(_, input)| PollFd::new(input.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => (0..fds.len())
            .filter(|index| fds[*index].any().unwrap_or(true))
            .collect(),
        Err(Errno::EINTR) => Vec::new(),
        Err(_) => (0..inputs.len()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Rotation, String> {
        rotation(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn takes_the_pairs_in_any_order() {
        let orders: [&[&str]; 3] = [
            &["log", "/l", "max-bytes", "100", "files", "2"],
            &["files", "2", "log", "/l", "max-bytes", "100"],
            &["max-bytes", "100", "files", "2", "log", "/l"],
        ];
        for words in orders {
            let found = parse(words).unwrap();
            assert_eq!((found.dir, found.max_bytes, found.files), ("/l".into(), 100, 2));
        }
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for words in [
            &["log"][..],
            &["log", "relative"],
            &["log", "/l", "files", "0"],
            &["log", "/l", "max-bytes", "x"],
            &["log", "/l", "color", "red"],
            &["files", "2"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
