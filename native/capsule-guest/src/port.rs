//! The way to capsuled: a virtio serial port, which has one caller at a time. What a caller has left unread is in it still
//! when the next one comes, so each says first which one it is: `CONNECT NONCE`, answered by `OK NONCE` (guest.proto).

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
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::sleep;

/// As guest.proto says.
const NAME: &str = "capsule.agent";
const PORTS: &str = "/sys/class/virtio-ports";
const GREETING: &[u8] = b"CONNECT ";
/// Hexadecimal digits.
const NONCE: usize = 32;
const LINE: usize = GREETING.len() + NONCE + 1;
/// Nothing tells when the device has appeared, or a caller.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Nobody is there for so long: the caller is gone, and what he had called for ends.
const GONE: Duration = Duration::from_millis(200);
/// Bytes that wait between the port and gRPC; the driver takes no more at once.
const BUFFER: usize = 256 * 1024;
const CHUNK: usize = 32 * 1024;

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
            greeting = match attend(&port, greeting, &connections).await {
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

/// One caller, whose nonce is `greeting` if he has said it already, until he is gone or another one has greeted, whose nonce is
/// returned. What the device tells of its other side comes late, and a caller who is gone and the next one in one: only a
/// greeting tells them apart.
async fn attend(
    port: &OwnedFd,
    greeting: Option<String>,
    connections: &Sender<io::Result<DuplexStream>>,
) -> io::Result<Option<String>> {
    let mut input = Way::new(port)?;
    let mut output = Way::new(port)?;
    let Some(nonce) = (match greeting {
        Some(nonce) => Some(nonce),
        None => greeted(&mut input).await?,
    }) else {
        return Ok(None);
    };
    let (ours, theirs) = duplex(BUFFER);
    let (from_agent, to_agent) = split(ours);
    let talk = async {
        output.write_all(format!("OK {nonce}\n").as_bytes()).await?;
        // There is always somebody who takes it.
        let _ = connections.send(Ok(theirs)).await;
        outwards(from_agent, &mut output).await
    };
    tokio::select! {
        next = inwards(&mut input, to_agent) => next,
        done = talk => done.map(|()| None),
    }
}

/// Reads past what is of an earlier caller. None: this one is gone.
async fn greeted(input: &mut Way<'_>) -> io::Result<Option<String>> {
    let mut unread = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match input.read(&mut chunk).await? {
            0 => return Ok(None),
            count => unread.extend_from_slice(&chunk[..count]),
        }
        if let Some(nonce) = greeting_in(&unread) {
            return Ok(Some(nonce));
        }
        unread.drain(..unread.len().saturating_sub(LINE - 1));
    }
}

/// Until the caller is gone, or another one has greeted: that comes on its own, as nobody says more before he is answered.
async fn inwards(input: &mut Way<'_>, mut to_agent: WriteHalf<DuplexStream>) -> io::Result<Option<String>> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = input.read(&mut chunk).await?;
        let said = &chunk[..count];
        let next = if count == LINE { greeting_in(said) } else { None };
        if next.is_some() {
            return Ok(next);
        }
        if count == 0 || to_agent.write_all(said).await.is_err() {
            return Ok(None);
        }
    }
}

async fn outwards(mut from_agent: ReadHalf<DuplexStream>, output: &mut Way<'_>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from_agent.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        output.write_all(&chunk[..count]).await?;
    }
}

/// One direction of the port, whoever is on its other side.
struct Way<'port> {
    port: &'port OwnedFd,
    pipe: Pipe,
}

impl<'port> Way<'port> {
    fn new(port: &'port OwnedFd) -> io::Result<Self> {
        let pipe = Pipe::new(port.try_clone()?)?;
        Ok(Self { port, pipe })
    }

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

/// The nonce of the last greeting in it: only its caller waits for an answer.
fn greeting_in(bytes: &[u8]) -> Option<String> {
    bytes.windows(LINE).rev().find_map(|line| {
        let nonce = line.strip_prefix(GREETING)?.strip_suffix(b"\n")?;
        nonce
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then(|| String::from_utf8_lossy(nonce).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_greeting_counts_wherever_it_is() {
        let line = |digit: &str| format!("CONNECT {}\n", digit.repeat(NONCE));
        let bytes = [
            line("a").as_bytes(),
            b"\0\xffCONNECT soon\nCONNECT ",
            line("b").as_bytes(),
            b"x",
        ]
        .concat();
        assert_eq!(greeting_in(&bytes), Some("b".repeat(NONCE)));
        assert_eq!(greeting_in(b"CONNECT 12\n"), None);
        assert_eq!(greeting_in(&bytes[1..LINE]), None);
    }
}
