//! From the fork to the program: each right is given up when it has been used for the last time.

use super::config::Config;
use super::{JailError, root};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, execv, read, setgroups, setresgid, setresuid};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::process;

/// Of the first descriptor that the program gets beside the usual three.
const FIRST: RawFd = 3;
/// Sockets, event descriptors and disks of a machine are some dozens.
const MAX_OPEN_FILES: u64 = 1024;
/// As a shell says that a program could not be started.
const CANNOT_START: i32 = 127;

/// What the program gets, beside its configuration.
pub struct Given {
    /// From descriptor 3 on; `None` where there is nothing.
    pub descriptors: Vec<Option<OwnedFd>>,
    /// In the place of its standard output and error.
    pub output: OwnedFd,
    /// Has one byte when it may start.
    pub wait_go: OwnedFd,
}

/// Never returns: the program takes the place of this process, or it ends.
pub fn become_program(config: &Config, given: Given) -> ! {
    match prepare(config, given) {
        Ok(never) => match never {},
        Err(error) => {
            // To the program's output if that has its place already, else to capsuled.
            eprintln!("capsule-init jail: {error}");
            process::exit(CANNOT_START)
        }
    }
}

fn prepare(
    config: &Config,
    Given {
        descriptors,
        output,
        wait_go,
    }: Given,
) -> Result<std::convert::Infallible, JailError> {
    let system = |what| move |errno| JailError::System(what, errno);
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(system("/dev/null"))?;
    // Of processes and network it has namespaces of its own already.
    let apart = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(apart).map_err(system("unshare"))?;
    root::enter(config)?;
    // Nothing runs before its network is linked; when capsuled has gone meanwhile, nothing runs at all.
    let mut byte = [0];
    if read(wait_go.as_fd(), &mut byte) != Ok(1) {
        return Err(JailError::Abandoned);
    }
    drop(wait_go);
    place(null.as_raw_fd(), 0)?;
    place(output.as_raw_fd(), 1)?;
    place(output.as_raw_fd(), 2)?;
    drop(output);
    give_up_rights(config)?;
    place_all(descriptors)?;
    let words: Vec<CString> = config
        .argv
        .iter()
        .map(|word| CString::new(word.as_str()).map_err(|_| JailError::System("argv", Errno::EINVAL)))
        .collect::<Result<_, _>>()?;
    let Some(program) = words.first() else {
        return Err(JailError::System("argv", Errno::EINVAL));
    };
    execv(program, &words).map_err(system("starting the program"))
}

fn give_up_rights(config: &Config) -> Result<(), JailError> {
    let system = |what| move |errno| JailError::System(what, errno);
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(system("RLIMIT_CORE"))?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES).map_err(system("RLIMIT_NOFILE"))?;
    for capability in 0..64 {
        // SAFETY: no pointers. Beyond the last capability of this kernel it fails, as it should.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let (uid, gid) = (Uid::from_raw(config.uid), Gid::from_raw(config.gid));
    setgroups(&[]).map_err(system("setgroups"))?;
    setresgid(gid, gid, gid).map_err(system("setresgid"))?;
    // Takes every capability away, for the former user was root (capabilities(7)).
    setresuid(uid, uid, uid).map_err(system("setresuid"))?;
    set_no_new_privs().map_err(system("no_new_privs"))?;
    // After the change of user, which clears it: the program must not outlive the one that notes its end.
    set_pdeathsig(Signal::SIGKILL).map_err(system("PR_SET_PDEATHSIG"))
}

/// Gives each its number and closes everything else.
fn place_all(descriptors: Vec<Option<OwnedFd>>) -> Result<(), JailError> {
    let mut next = FIRST;
    for descriptor in descriptors {
        if let Some(fd) = descriptor {
            // The copy stays open beyond this process; the original is closed below.
            place(fd.into_raw_fd(), next)?;
        } else {
            // SAFETY: whatever it is, nobody here uses it any more.
            unsafe { libc::close(next) };
        }
        next += 1;
    }
    // SAFETY: nothing of this program uses a descriptor above those.
    unsafe { libc::close_range(u32::try_from(next).unwrap_or(u32::MAX), u32::MAX, 0) };
    Ok(())
}

fn place(fd: RawFd, number: RawFd) -> Result<(), JailError> {
    // SAFETY: nobody here holds `number` as an owned descriptor that is used afterwards.
    let placed = unsafe { libc::dup2(fd, number) };
    Errno::result(placed)
        .map(|_| ())
        .map_err(|errno| JailError::System("dup2", errno))
}
