//! In the place of a virtual machine monitor that was taken over (test/namespace/jail-probe.test.ts): tries what its arguments
//! say, one after the other, and prints a line `ARGUMENT: RESULT` for each; a result is `done`, the name of an error, or what
//! a program printed. It knows nothing of jails. Each argument is one of these:
//!
//! | words | tries to |
//! | --- | --- |
//! | `read PATH`, `write PATH`, `create PATH` | open a file, and read or write one byte; make a file |
//! | `read-fd N`, `write-fd N` | the same with what it was given |
//! | `chmod PATH` | let everybody read and write it |
//! | `mknod PATH c\|b MAJOR MINOR` | make a device node |
//! | `remount PATH` | make a read-only mount writable |
//! | `kill PID` | reach a process; -1 is every process |
//! | `user-namespace` | become root of a user namespace, with mounts of its own; the rest is tried as that |
//! | `tap NAME` | open a TAP interface by its name |
//! | `run PROGRAM ARGUMENT…` | run a program |
//! | `echo` | be a machine: send every UDP packet back, by the interface that was opened, or by descriptor 3; never ends |

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{read, write};
use std::fs::{File, OpenOptions, Permissions, set_permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);

const NONE: Option<&str> = None;
/// Of the interface, when it was given as a descriptor.
const TAP: i32 = 3;
/// Before each frame: `struct virtio_net_hdr`.
const HEADER: usize = 10;

fn main() {
    let mut tap = None;
    for attempt in std::env::args().skip(1) {
        let result = match try_it(&attempt, &mut tap) {
            Ok(said) => said,
            Err(error) => error
                .raw_os_error()
                .map_or_else(|| error.to_string(), |number| format!("{:?}", Errno::from_raw(number))),
        };
        println!("{attempt}: {result}");
    }
}

fn try_it(attempt: &str, tap: &mut Option<OwnedFd>) -> io::Result<String> {
    let words: Vec<&str> = attempt.split(' ').collect();
    match words.as_slice() {
        ["read", path] => read_byte(&mut File::open(path)?)?,
        ["write", path] => write_byte(&mut OpenOptions::new().write(true).open(path)?)?,
        ["create", path] => drop(File::create_new(path)?),
        ["read-fd", number] => read_byte(&mut *given(number)?)?,
        ["write-fd", number] => write_byte(&mut *given(number)?)?,
        ["chmod", path] => set_permissions(path, Permissions::from_mode(0o666))?,
        ["mknod", path, kind, major, minor] => {
            let kind = if *kind == "b" { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            mknod(*path, kind, Mode::S_IRUSR, makedev(number(major)?, number(minor)?))?;
        }
        ["remount", path] => mount(NONE, *path, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT, NONE)?,
        ["kill", pid] => {
            // SAFETY: no pointers; signal 0 does nothing.
            Errno::result(unsafe { libc::kill(number(pid)?, 0) })?;
        }
        ["user-namespace"] => unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?,
        ["tap", name] => *tap = Some(open_tap(name)?),
        ["run", program, arguments @ ..] => {
            let output = Command::new(program).args(arguments).output()?;
            let said = [output.stdout, output.stderr].concat();
            return Ok(String::from_utf8_lossy(&said).trim_end().replace('\n', " / "));
        }
        ["echo"] => match tap {
            Some(tap) => echo(tap.as_fd())?,
            // SAFETY: nobody closes it.
            None => echo(unsafe { BorrowedFd::borrow_raw(TAP) })?,
        },
        _ => return Err(io::Error::other("no such attempt")),
    }
    Ok("done".into())
}

fn number<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| io::Error::other("no number"))
}

fn given(word: &str) -> io::Result<ManuallyDrop<File>> {
    // SAFETY: an error tells when nothing is open there, and nobody closes it.
    Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(number(word)?) }))
}

fn read_byte(file: &mut File) -> io::Result<()> {
    file.read(&mut [0]).map(drop)
}

fn write_byte(file: &mut File) -> io::Result<()> {
    // Not every device has a place.
    let _ = file.seek(SeekFrom::Start(0));
    file.write(b"!").map(drop)
}

fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let tun = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    // SAFETY: a structure of numbers, of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero, which ends the name.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::try_from(from).unwrap_or_default();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: the kernel reads and writes one `ifreq`.
    unsafe { set_interface(tun.as_raw_fd(), &raw const request) }?;
    Ok(tun)
}

fn echo(tap: BorrowedFd) -> io::Result<()> {
    let mut buffer = [0; 65_536];
    loop {
        poll(&mut [PollFd::new(tap, PollFlags::POLLIN)], PollTimeout::NONE)?;
        let count = read(tap, &mut buffer)?;
        let frame = &mut buffer[..count];
        if turn_back(frame.get_mut(HEADER..).unwrap_or_default()) {
            write(tap, frame)?;
        }
    }
}

/// Swaps both ends of a UDP packet over IPv4 (RFC 791, without options): its checksums stay what they are.
fn turn_back(frame: &mut [u8]) -> bool {
    let is_udp = frame.len() > 42 && frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == 17;
    if is_udp {
        for (from, to, count) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
            for i in 0..count {
                frame.swap(from + i, to + i);
            }
        }
    }
    is_udp
}
