//! The way to capsuled of a machine that has virtio-vsock and no port (Firecracker): a connection for each caller, of whom the
//! newest counts, as with a port. The host's side is closed with its caller, so that nothing of an earlier one is left here.

use crate::caller::{Connections, Way, attend};
use crate::console::say;
use crate::streams::Pipe;
use nix::libc::VMADDR_CID_ANY;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, getpeername, listen as hear, socket,
};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::sleep;

/// As guest.proto says.
const PORT: u32 = 52;
/// Callers that wait: there is one at a time.
const WAITING: i32 = 4;
/// The address of the capsule (vsock(7)).
const HOST: u32 = nix::libc::VMADDR_CID_HOST;
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// One connection for each caller, each over when the next one comes.
pub fn listen() -> io::Result<Receiver<io::Result<DuplexStream>>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ours = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    bind(ours.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, PORT))?;
    hear(&ours, Backlog::new(WAITING)?)?;
    // SAFETY: it owns its descriptor, which stays open and the same as long as it is registered.
    let ours = unsafe { AsyncFd::register(ours) }?;
    let (connections, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut current = None;
        loop {
            match accepted(&ours).await {
                Ok(Some(caller)) => {
                    if let Some(former) = current.replace(tokio::spawn(serve(caller, connections.clone()))) {
                        former.abort();
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    say(format_args!("the way to the capsule: {error}"));
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    });
    Ok(incoming)
}

/// None: whoever connected is not the capsule.
async fn accepted(ours: &AsyncFd<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    loop {
        let mut ready = ours.readable().await?;
        let tried = ready.try_io(|fd| {
            let fd = accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
            // SAFETY: the kernel has just made it for us.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        });
        match tried {
            Ok(caller) => {
                let caller = caller?;
                let from = getpeername::<VsockAddr>(caller.as_raw_fd());
                return Ok(Some(caller).filter(|_| from.is_ok_and(|address| address.cid() == HOST)));
            }
            Err(_) => continue,
        }
    }
}

async fn serve(caller: OwnedFd, connections: Connections) {
    let ways = caller
        .try_clone()
        .and_then(|second| Ok((Pipe::new(caller)?, Pipe::new(second)?)));
    // Whatever is wrong with a connection: its caller comes again.
    if let Ok((mut input, mut output)) = ways {
        let _ = attend(&mut input, &mut output, None, &connections).await;
    }
}

impl Way for Pipe {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match Pipe::read(self, buffer).await {
            // By a caller who was killed, or when the machine's state was saved (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET).
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
            other => other,
        }
    }

    async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        Pipe::write_all(self, data).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_caller_is_answered_and_connected_until_he_is_gone() {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let nonce = "0123456789abcdef".repeat(2);
        let calling = thread::spawn(move || {
            host.write_all(format!("CONNECT {nonce}\n").as_bytes()).unwrap();
            let mut answer = vec![0; 3 + nonce.len() + 1];
            host.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("OK {nonce}\n").as_bytes());
            host.write_all(b"ping").unwrap();
            let mut pong = [0; 4];
            host.read_exact(&mut pong).unwrap();
            pong
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (connections, mut incoming) = mpsc::channel(1);
            let serving = tokio::spawn(serve(guest.into(), connections));
            let mut connection = incoming.recv().await.unwrap().unwrap();
            let mut ping = [0; 4];
            connection.read_exact(&mut ping).await.unwrap();
            connection.write_all(b"pong").await.unwrap();
            serving.await.unwrap();
            assert_eq!(&ping, b"ping");
            assert_eq!(connection.read(&mut ping).await.unwrap(), 0);
        });
        assert_eq!(&calling.join().unwrap(), b"pong");
    }
}
