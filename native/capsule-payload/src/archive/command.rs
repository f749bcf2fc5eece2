//! `archive …`, of the programs that use this crate: a process of its own for each copy, so that entering the payload's root
//! is for good.

use super::{ArchiveError, Stat, UnpackOptions, enter_root, pack, stat, unpack};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::{Mode, umask};
use serde_json::json;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

const NOT_FOUND: u8 = 3;
const BUFFER_BYTES: usize = 32 * 1024;
const PIPE_BYTES: i32 = 512 * 1024;
const USAGE: &str = "usage: archive pack|stat --root R PATH
       archive unpack --root R PATH [--rename NAME] [--max-bytes N] [--max-entries N]";

/// Set by SIGTERM, SIGINT and SIGHUP: the file at hand is removed before the process ends.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// The command line of one call.
#[derive(Debug, Default)]
struct Call {
    root: PathBuf,
    path: PathBuf,
    options: UnpackOptions,
}

/// Carries out one command line. `program` stands before what is said on standard error.
pub fn command(args: &[OsString], program: &str) -> ExitCode {
    let parsed = args
        .split_first()
        .and_then(|(verb, rest)| Some((verb.to_str()?, parse(rest)?)));
    let Some((verb, call)) = parsed else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = enter_root(&call.root).and_then(|()| {
        prepare();
        match verb {
            "pack" => {
                let output = BufWriter::with_capacity(BUFFER_BYTES, unbuffered(io::stdout())?);
                pack(&call.path, output, &mut |text| eprintln!("{program}: notice: {text}")).map(|()| true)
            }
            "unpack" => {
                let input = BufReader::with_capacity(BUFFER_BYTES, unbuffered(io::stdin())?);
                unpack(input, &call.path, &call.options, &CANCELLED).map(|done| {
                    // All is unpacked, whoever wants to know how much.
                    let _ = writeln!(io::stdout(), "{} entries", done.entries);
                    true
                })
            }
            "stat" => stat(&call.path)
                .and_then(|found| print(&found).map_err(ArchiveError::Write))
                .map(|()| true),
            _ => Ok(false),
        }
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(match error {
                ArchiveError::NotFound { .. } => NOT_FOUND,
                _ => 1,
            })
        }
    }
}

/// `None` for anything that is not understood whole.
fn parse(args: &[OsString]) -> Option<Call> {
    let mut call = Call::default();
    let mut path = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next()?.to_str()?.parse::<u64>().ok();
        match arg.to_str() {
            Some("--max-bytes") => call.options.max_bytes = Some(number()?),
            Some("--max-entries") => call.options.max_entries = Some(number()?),
            Some("--root") => call.root = PathBuf::from(args.next()?),
            Some("--rename") => call.options.rename = Some(args.next()?.as_bytes().to_vec()),
            Some(option) if option.starts_with("--") => return None,
            _ if path.is_none() => path = Some(PathBuf::from(arg)),
            _ => return None,
        }
    }
    call.path = path.filter(|path| !path.as_os_str().is_empty())?;
    (!call.root.as_os_str().is_empty()).then_some(call)
}

/// The stream without Rust's own buffers, which look for newlines in everything that is written. A pipe gets room for
/// several writes: with its usual 64 KiB both ends wait for each other at every chunk, which halves the throughput.
fn unbuffered(stream: impl AsFd) -> Result<File, ArchiveError> {
    let _ = fcntl(stream.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    stream
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .map_err(ArchiveError::Write)
}

fn prepare() {
    umask(Mode::empty());
    // One descriptor per level of nesting.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    // Without SA_RESTART: a read that waits must return, so that the flag is seen.
    let action = SigAction::new(SigHandler::Handler(cancel), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store into an atomic.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

extern "C" fn cancel(_: i32) {
    CANCELLED.store(true, Ordering::Relaxed);
}

fn print(found: &Stat) -> io::Result<()> {
    let target = found.link_target.as_ref().map(|target| String::from_utf8_lossy(target));
    let line = json!({
        "type": found.kind.name(),
        "mode": found.mode,
        "size": found.size,
        "linkTarget": target,
        "targetType": found.target_kind.map(|kind| kind.name()),
    });
    writeln!(io::stdout(), "{line}")
}
