//! Pipes, terminals and ports, read and written without a thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// One end of a pipe, a terminal or a virtio serial port.
pub struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    /// The descriptor must belong to nobody else who relies on it to block.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = nix::fcntl::OFlag::from_bits_truncate(nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL)?);
        let open = flags | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(open))?;
        // SAFETY: the descriptor is owned, and closed only with its registration.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// 0 at the end. A terminal whose other side is closed says EIO: that is its end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let tried = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), buffer)));
            match tried {
                Ok(Ok(Ok(count))) => return Ok(count),
                // The caller of a port was gone, and there is one again.
                Ok(Ok(Err(nix::errno::Errno::EAGAIN))) if ready.ready().is_read_closed() => return Ok(0),
                Ok(Ok(Err(nix::errno::Errno::EAGAIN))) => ready.clear_ready(),
                Ok(Ok(Err(nix::errno::Errno::EINTR))) | Err(_) => {}
                Ok(Ok(Err(nix::errno::Errno::EIO))) => return Ok(0),
                Ok(Ok(Err(errno))) => return Err(errno.into()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    pub async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = self.write(data).await?;
            data = &data[count..];
        }
        Ok(())
    }

    /// Writes some of it.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            let tried = ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)));
            match tried {
                Ok(Ok(Ok(count))) => return Ok(count),
                // A port without a caller.
                Ok(Ok(Err(nix::errno::Errno::EAGAIN))) if ready.ready().is_write_closed() => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(Ok(Err(nix::errno::Errno::EAGAIN))) => ready.clear_ready(),
                Ok(Ok(Err(nix::errno::Errno::EINTR))) | Err(_) => {}
                Ok(Ok(Err(errno))) => return Err(errno.into()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    pub fn raw(&self) -> i32 {
        self.0.get_ref().as_raw_fd()
    }

    /// The same terminal again, to write to while another reads.
    pub fn second(&self) -> io::Result<Self> {
        Self::new(self.0.get_ref().try_clone()?)
    }
}
