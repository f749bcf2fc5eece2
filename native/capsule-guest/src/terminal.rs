//! A terminal for a command: the OCI runtime makes it and sends its master side over a socket (runc's "console socket").

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use tokio::net::UnixListener;

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, nix::libc::winsize);

/// Takes the descriptor that the runtime sends.
pub async fn receive_master(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    loop {
        stream.readable().await?;
        let received = stream.try_io(tokio::io::Interest::READABLE, || {
            let mut name = [0; 4096];
            let mut parts = [IoSliceMut::new(&mut name)];
            let mut space = cmsg_space!([RawFd; 1]);
            let message = recvmsg::<()>(
                stream.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )?;
            for control in message.cmsgs()? {
                let ControlMessageOwned::ScmRights(fds) = control else {
                    continue;
                };
                if let Some(fd) = fds.first() {
                    // SAFETY: the kernel has just made it for us.
                    return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
                }
            }
            Err(io::Error::other("the runtime sent no terminal"))
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// In character cells.
pub fn resize(terminal: RawFd, columns: u32, rows: u32) -> io::Result<()> {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    let size = nix::libc::winsize {
        ws_row: cells(rows),
        ws_col: cells(columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one `winsize`.
    unsafe { set_size(terminal, &raw const size) }?;
    Ok(())
}
