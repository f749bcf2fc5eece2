//! The way to capsuled of a machine that has it: a virtio serial port, which has one caller at a time. What a caller has left
//! unread is in it still when the next one comes.

use crate::caller::{Way, attend};
use crate::console::say;
use crate::streams::Pipe;
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::sleep;

/// As guest.proto says.
const NAME: &str = "capsule.agent";
const PORTS: &str = "/sys/class/virtio-ports";
/// Nothing tells when the device has appeared, or a caller.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Nobody is there for so long: the caller is gone, and what he had called for ends.
const GONE: Duration = Duration::from_millis(200);

/// One connection for each caller, each over before the next. Resolves when the port is there.
pub async fn listen() -> io::Result<Receiver<io::Result<DuplexStream>>> {
    let device = loop {
        match find() {
            Some(path) => break path,
            None => sleep(LOOK_AGAIN).await,
        }
    };
    let port: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(device)?
        .into();
    let (connections, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut greeting = None;
        loop {
            let attended = match (PortWay::new(&port), PortWay::new(&port)) {
                (Ok(mut input), Ok(mut output)) => attend(&mut input, &mut output, greeting, &connections).await,
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            greeting = match attended {
                Ok(next) => next,
                Err(error) => {
                    say(format_args!("the way to the capsule: {error}"));
                    sleep(GONE).await;
                    None
                }
            };
        }
    });
    Ok(incoming)
}

/// The device of the port with our name.
fn find() -> Option<PathBuf> {
    let entry = fs::read_dir(PORTS)
        .ok()?
        .flatten()
        .find(|entry| fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == NAME))?;
    Some(Path::new("/dev").join(entry.file_name())).filter(|path| path.exists())
}

/// One direction of the port, whoever is on its other side.
struct PortWay<'port> {
    port: &'port OwnedFd,
    pipe: Pipe,
}

impl<'port> PortWay<'port> {
    fn new(port: &'port OwnedFd) -> io::Result<Self> {
        let pipe = Pipe::new(port.try_clone()?)?;
        Ok(Self { port, pipe })
    }
}

impl Way for PortWay<'_> {
    /// 0 when nobody has been there for a while.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.pipe.read(buffer).await?;
            if count > 0 {
                return Ok(count);
            }
            let gone_since = Instant::now();
            while !has_caller(self.port) {
                if gone_since.elapsed() > GONE {
                    return Ok(0);
                }
                sleep(LOOK_AGAIN).await;
            }
            // One that has seen an end says so for ever.
            *self = Self::new(self.port)?;
        }
    }

    /// Waits while nobody is there.
    async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match self.pipe.write(data).await {
                Ok(count) => data = &data[count..],
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    sleep(LOOK_AGAIN).await;
                    *self = Self::new(self.port)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn has_caller(port: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok()
        && !asked[0]
            .revents()
            .is_some_and(|found| found.contains(PollFlags::POLLHUP))
}
