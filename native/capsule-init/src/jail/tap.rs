//! A TAP interface (Documentation/networking/tuntap.rst in the kernel's sources).

use super::JailError;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd};

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);
nix::ioctl_write_int_bad!(set_owner, libc::TUNSETOWNER);

/// Makes the interface in the network namespace of this process, for programs of this user that open it by its name.
pub fn make_tap(name: &str, uid: u32) -> Result<(), JailError> {
    let fault = |errno| JailError::System("giving the TAP interface away", errno);
    let tap = open_tap(name)?;
    let owner = libc::c_int::try_from(uid).map_err(|_| fault(Errno::EINVAL))?;
    // SAFETY: no pointers.
    unsafe { set_owner(tap.as_raw_fd(), owner) }.map_err(fault)?;
    // SAFETY: no pointers.
    unsafe { set_persistent(tap.as_raw_fd(), 1) }.map_err(fault)?;
    Ok(())
}

/// Makes the interface, which lasts as long as somebody has the descriptor. Frames carry the header of virtio-net, so that
/// checksums and segments are left to whoever is last.
pub fn open_tap(name: &str) -> Result<OwnedFd, JailError> {
    let fault = |errno| JailError::System("making the TAP interface", errno);
    let tun = open(
        "/dev/net/tun",
        OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    )
    .map_err(fault)?;
    // SAFETY: a structure of numbers, of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero, which ends the name.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::try_from(from).unwrap_or_default();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: the kernel reads and writes one `ifreq`.
    unsafe { set_interface(tun.as_raw_fd(), &raw const request) }.map_err(fault)?;
    Ok(tun)
}
